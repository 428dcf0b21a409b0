"""Maps of features: points in a plane, by principal components, UMAP or t-SNE."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from contrastive.errors import UsageError
from contrastive.text import quantity

MapKind = Literal["pca", "umap", "tsne"]
MAP_KINDS: tuple[MapKind, ...] = get_args(MapKind)
#: The fewest images, and the narrowest features, of which a map shows anything; neighbours need more images.
_FEWEST_IMAGES, _FEWEST_FEATURES, _FEWEST_FOR_NEIGHBOURS = 3, 2, 20
#: Features that t-SNE and UMAP read: principal components, as both their authors do with wide data.
_COMPONENTS = 50
_NEIGHBOURS, _PERPLEXITY = 15, 30


def obstacle_to_map(features: Tensor, kind: MapKind = "pca") -> str:
    """Why there is no map of features [n, F]: too few images, or a single feature; empty if there is one."""
    count, width = features.shape
    fewest = _FEWEST_IMAGES if kind == "pca" else _FEWEST_FOR_NEIGHBOURS
    if count < fewest:
        return f"a map needs {quantity(fewest, 'image')}, and there {'is' if count == 1 else 'are'} {count}"
    return f"a map needs {_FEWEST_FEATURES} features, and there is one" if width < _FEWEST_FEATURES else ""


def principal_plane(features: Tensor) -> tuple[Tensor, float]:
    """The first two principal components of features [n, F] on the unit sphere, [n, 2], and their share of
    the variance. Each axis points towards the image farthest along it, so that the map of a run never flips.
    """
    points, variances = _components(features, 2)
    share = float(variances[:2].sum() / variances.sum().clamp_min(torch.finfo(torch.float64).tiny))
    return points, share


def neighbour_plane(features: Tensor, kind: Literal["umap", "tsne"]) -> Tensor:
    """Features [n, F] in a plane that keeps neighbours together, [n, 2]; the same at every call.

    Sources: van der Maaten and Hinton 2008 (t-SNE); McInnes, Healy and Melville 2018 (UMAP). Both read the
    first 50 principal components of features at unit length.

    Raises UsageError if the package that computes it is not installed.
    """
    components = _components(features, _COMPONENTS)[0].float().cpu().numpy()  # [n, at most 50]
    count = len(components)
    if kind == "umap":
        try:
            from umap import UMAP
        except ImportError:
            raise _missing("umap", "umap-learn") from None
        mapping = UMAP(n_neighbors=min(_NEIGHBOURS, count - 1), random_state=0, n_jobs=1)
    else:
        try:
            from sklearn.manifold import TSNE
        except ImportError:
            raise _missing("tsne", "scikit-learn") from None
        mapping = TSNE(perplexity=min(_PERPLEXITY, (count - 1) / 3), init="pca", random_state=0)
    return torch.from_numpy(mapping.fit_transform(components))


def _components(features: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The first principal components of features at unit length, [n, at most ``most``], and all variances, in
    float64. Of more images than features they come from the covariance, in a tenth of the time."""
    unit = F.normalize(features.double(), dim=1)
    deviations = unit - unit.mean(0)
    if len(unit) < unit.shape[1]:
        _, singular, rows = torch.linalg.svd(deviations, full_matrices=False)
        variances, axes = singular.square(), rows.T
    else:
        ascending, columns = torch.linalg.eigh(deviations.T @ deviations)
        variances, axes = ascending.flip(0), columns.flip(1)
    points = deviations @ axes[:, :most]
    farthest = points.gather(0, points.abs().argmax(0, keepdim=True))
    return points * torch.where(farthest < 0, -1.0, 1.0), variances.clamp_min(0)


def _missing(kind: str, package: str) -> UsageError:
    return UsageError(
        f"--map {kind} needs the package {package}; install it: pip install 'contrastive-framework[report]'."
    )
