"""A trained encoder as a transformer of a scikit-learn pipeline. Some seconds on a CPU.

python examples/encoder_in_sklearn.py
"""

import sys
import tempfile

import numpy as np
import torch

import contrastive
from contrastive.data import read
from contrastive.datasets import FashionMNISTSample

try:
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
except ImportError:
    sys.exit("This example needs scikit-learn: pip install scikit-learn")


class Encoder(TransformerMixin, BaseEstimator):
    """Features of images by an exported backbone.

    Args:
        folder: the ``backbone`` folder of a run, or one that ``contrastive export`` wrote.
    """

    def __init__(self, folder):
        self.folder = folder

    def fit(self, images, labels=None):
        """Nothing is fitted: the encoder is trained already."""
        return self

    def transform(self, images):
        """float32 [n, C, H, W] in [0, 1] -> features, float32 [n, F]."""
        encoder = contrastive.load_backbone(self.folder)
        with torch.no_grad():
            return torch.cat([encoder(batch) for batch in torch.from_numpy(images).split(256)]).numpy()


def split(name, count):
    """Images float32 [count, 1, 28, 28] in [0, 1] and labels int64 [count] of a split."""
    table = FashionMNISTSample().table(name)
    batches = [images.numpy() for _, images in read(table, np.arange(count), size=28)]
    return np.concatenate(batches), table.labels[:count]


SHORT_RUN = {  # a narrow encoder, one epoch; `contrastive run simclr` is the real one
    "backbone.options.width": 0.25,
    "train.epochs": 1,
    "train.batch_size": 128,
    "evaluate": {"every": 0, "knn": "none", "linear": "none"},
}

with tempfile.TemporaryDirectory() as folder:
    run = contrastive.run("simclr", SHORT_RUN, out=f"{folder}/run")
    pipeline = make_pipeline(
        Encoder(run.folder / "backbone"), StandardScaler(), LogisticRegression(max_iter=1000)
    )
    pipeline.fit(*split("train", 1000))
    print(f"accuracy on 1,000 test images: {pipeline.score(*split('test', 1000)):.1%}")
