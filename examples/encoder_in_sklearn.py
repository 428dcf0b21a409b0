"""A trained encoder as a transformer of a scikit-learn pipeline. Some seconds on a CPU.

python examples/encoder_in_sklearn.py
"""

import sys
import tempfile

import numpy as np

import contrastive
from contrastive.datasets import FashionMNISTSample

try:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from contrastive.sklearn import Encoder
except ImportError:
    sys.exit("This example needs scikit-learn: pip install scikit-learn")


def split(name, count):
    """Images uint8 [count, 28, 28] and labels int64 [count] of a split. Paths of image files work, too."""
    table = FashionMNISTSample().table(name)
    return np.stack([table.decode(row)[0] for row in range(count)]), table.labels[:count]


SHORT_RUN = {  # a narrow encoder, one epoch; `contrastive run simclr` is the real one
    "backbone.options.width": 0.25,
    "train.epochs": 1,
    "train.batch_size": 128,
    "evaluate": {"every": 0, "knn": "none", "linear": "none"},
}

with tempfile.TemporaryDirectory() as folder:
    run = contrastive.run("simclr", SHORT_RUN, out=f"{folder}/run")
    pipeline = make_pipeline(Encoder(run.folder), StandardScaler(), LogisticRegression(max_iter=1000))
    pipeline.fit(*split("train", 1000))
    print(f"accuracy on 1,000 test images: {pipeline.score(*split('test', 1000)):.1%}")
