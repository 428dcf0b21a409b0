"""Make the sample of Fashion-MNIST that ships with the package, byte for byte the same every time.

    python scripts/make_fashion_mnist_sample.py FOLDER

FOLDER holds the four files of https://github.com/zalandoresearch/fashion-mnist:
{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz. The sample has the first 800 train and 200 test images
of each class in a seeded permutation, in their original order.
"""

from __future__ import annotations

import argparse
import gzip
import io
import zipfile
from pathlib import Path

import numpy as np

SAMPLE = Path(__file__).parents[1] / "contrastive" / "datasets" / "fashion_mnist_sample.npz"
SPLITS = {"train": ("train", 800), "test": ("t10k", 200)}  # split -> prefix of its files, images per class


def read_idx(path: Path) -> np.ndarray:
    """An array in the idx format: uint8 of 1 to 3 dimensions."""
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\0\0\x08":
        raise SystemExit(f"{path}: not an idx file of bytes")
    shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def balanced_rows(labels: np.ndarray, per_class: int) -> np.ndarray:
    """The sorted rows of the sample: ``per_class`` of each label."""
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(labels))
    return np.sort(np.concatenate([order[labels[order] == c][:per_class] for c in np.unique(labels)]))


def sample(folder: Path) -> dict[str, np.ndarray]:
    """Arrays of the sample by name: ``<split>_images`` [n, 28, 28] and ``<split>_labels`` [n], uint8."""
    arrays = {}
    for split, (prefix, per_class) in SPLITS.items():
        labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
        rows = balanced_rows(labels, per_class)
        arrays[f"{split}_images"] = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")[rows]
        arrays[f"{split}_labels"] = labels[rows]
    return arrays


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """``np.savez_compressed`` at the highest level and without the time of writing."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # the same on every system
            archive.writestr(entry, buffer.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=SAMPLE)
    arguments = parser.parse_args()
    write_npz(arguments.out, sample(arguments.folder))
    print(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes")
