"""Monitors: measures of embeddings that need no labels.

Pure functions of one batch or table of vectors, in float32 or wider, that return plain floats. Without an
answer (values that are not finite, too few vectors) they return NaN; they never raise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

#: Similarities in memory at a time (16 MiB of float32).
_TILE = 1 << 22

#: What LiDAR adds to the scatter within images, and what LiDAR and RankMe add to every share of a rank.
_RIDGE, _SHIFT = 1e-4, 1e-7

#: Below this share of the healthy spread the embeddings have collapsed to one point.
FULL_COLLAPSE = 0.05
#: Below this share of their largest rank the features hardly vary.
DIMENSIONAL_COLLAPSE = 0.01
#: Embeddings whose length is outside this range lose digits in half precision, or are about to.
LENGTHS = (1e-4, 1e4)


def alignment(a: Tensor, b: Tensor) -> float:
    """Mean squared distance of the two views of an image on the unit sphere: 0 (equal) to 4.

    Source: Wang and Isola 2020, "Understanding contrastive representation learning through alignment
    and uniformity on the hypersphere", L_align with exponent 2; equal to 2 - 2 * mean cosine.

    Args:
        a: embeddings [n, D] of one view; scaled to unit length here.
        b: embeddings [n, D] of the other view, in the same order.
    """
    if len(a) == 0 or not _finite(a, b):
        return math.nan
    return (_unit(a) - _unit(b)).square().sum(1).double().mean().item()


def uniformity(z: Tensor) -> float:
    """How evenly one view covers the unit sphere: 0 for one point, lower if more even, down to -4 for
    uniform vectors in many dimensions.

    log of the mean over pairs i < j of exp(-2 * ||z_i - z_j||^2). Source: Wang and Isola 2020 (as in
    :func:`alignment`), L_uniform with t = 2. Runs in tiles: the n x n distances are never stored.

    Args:
        z: embeddings [n, D] of one view of each of n different images; scaled to unit length here.
    """
    n = len(z)
    if n < 2 or not _finite(z):
        return math.nan
    u, total = _unit(z), 0.0
    rows = max(1, _TILE // n)
    for first in range(0, n, rows):
        squared_distances = 2 - 2 * (u[first : first + rows] @ u[first:].T)  # [rows, n - first]
        total += torch.exp(-2 * squared_distances).triu(diagonal=1).sum(dtype=torch.float64).item()
    return math.log(total / (n * (n - 1) / 2))


def effective_rank(h: Tensor) -> float:
    """RankMe: how many directions the features actually use, between 1 and min(n, F); 0 if all are zero.

    exp of the entropy of p_k = s_k / sum(s) + 1e-7, where s are the singular values of the features as
    they are (not centred). Source: Garrido et al. 2023, "RankMe: assessing the downstream performance
    of pretrained self-supervised representations by their rank". The singular values are the roots of
    the eigenvalues of the Gram matrix of the smaller side, in float64: exact to about 1e-8 of the
    largest, a tenth of the 1e-7 that the definition adds.

    Args:
        h: features [n, F]; use n of at least F, because the rank cannot exceed n.
    """
    if h.numel() == 0 or not _finite(h):
        return math.nan
    h = _with_float64(h)
    tall = h if h.shape[0] >= h.shape[1] else h.T  # [max(n, F), min(n, F)]
    gram = torch.zeros(tall.shape[1], tall.shape[1], dtype=torch.float64, device=h.device)
    for chunk in tall.split(8192):  # avoids a float64 copy of all features
        gram += chunk.T.double() @ chunk.double()
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    if (total := singular.sum()) == 0:
        return 0.0
    p = singular / total + _SHIFT
    return torch.exp(-(p * p.log()).sum()).item()


def lidar(views: Tensor) -> float:
    """LiDAR: how many directions tell images apart from the spread of their own views, between 1 and the
    smaller of n - 1 and F; 0 if no image differs from another.

    exp of the entropy of p_k = l_k / sum(l) + 1e-7, where l are the eigenvalues of S^(-1/2) B S^(-1/2). B is
    the covariance of the images' mean vectors; S is the covariance of views around the mean of their image,
    plus 1e-4 on the diagonal. Source: Thilak et al. 2024, "LiDAR: Sensing linear probing performance in
    joint embedding SSL architectures", section 4; the paper gives no value for either constant, so they are
    those of later work on it and of RankMe. The eigenvalues are those of the Gram matrix of the mean vectors
    divided by the Cholesky factor of S, in float64: the same ones but for zeros.

    Args:
        views: features [n, q, F] of q views of each of n images. Compare values at equal n, q and F.
    """
    n, q, width = views.shape
    if n < 2 or q < 2 or width == 0 or not _finite(views):
        return math.nan
    views = _with_float64(views).double()
    means = views.mean(1)  # [n, F]
    scatter = _RIDGE * torch.eye(width, dtype=torch.float64, device=views.device)  # [F, F]
    for chunk, mean in zip(views.split(64), means.split(64), strict=True):
        spread = (chunk - mean[:, None]).flatten(0, 1)  # [64 q, F]
        scatter += spread.T @ spread / (n * q)
    between = (means - means.mean(0)) / math.sqrt(n)  # [n, F]
    factor, failure = torch.linalg.cholesky_ex(scatter)
    if failure:  # vectors so long that the ridge is less than their rounding
        return math.nan
    ratios = torch.linalg.solve_triangular(factor, between.T, upper=False)  # [F, n]
    gram = ratios @ ratios.T if width <= n else ratios.T @ ratios
    eigenvalues = torch.linalg.eigvalsh(gram).clamp(min=0)
    if (total := eigenvalues.sum()) == 0:
        return 0.0
    p = torch.zeros(width, dtype=torch.float64, device=views.device)
    p[: len(eigenvalues)] = eigenvalues / total
    p += _SHIFT
    return torch.exp(-(p * p.log()).sum()).item()


def recognition(views: Tensor, images: Tensor) -> tuple[float, float]:
    """Whether a view finds its image among all images: recall at 1, a fraction, and the median rank, from 1.

    Images are ranked by the cosine similarity of their vectors to the view's. Of images that are equally
    similar any may come first, so a collapsed encoder has a recall of 1 / n: recall is the expected one, and
    the rank the mean one. (nan, nan) without an answer.

    Args:
        views: vectors [n, F] of a view of each image.
        images: vectors [n, F] of the images, in the same order; both are scaled to unit length here.
    """
    n = len(views)
    if n < 2 or not _finite(views, images):
        return math.nan, math.nan
    queries, candidates = _unit(views), _unit(images)
    recalls, ranks = [], []
    for rows in torch.arange(n, device=queries.device).split(max(1, _TILE // n)):
        similarity = queries[rows] @ candidates.T  # [c, n]
        own = similarity.gather(1, rows[:, None])  # [c, 1]
        above, equal = (similarity > own).sum(1), (similarity == own).sum(1)  # [c]; an image equals itself
        recalls.append(torch.where(above == 0, 1 / equal.double(), 0.0))
        ranks.append(above.double() + (equal.double() + 1) / 2)
    return torch.cat(recalls).mean().item(), torch.cat(ranks).quantile(0.5).item()


def embedding_std(z: Tensor) -> float:
    """Spread of embeddings on the unit sphere: about 1 / sqrt(D) is healthy, 0 is collapse.

    The standard deviation over the n vectors of each channel, averaged over channels. Source: Chen and
    He 2021, "Exploring simple Siamese representation learning", section 4.1 and figure 2.

    Args:
        z: embeddings [n, D] of one view of each of n different images; scaled to unit length here.
    """
    if len(z) < 2 or not _finite(z):
        return math.nan
    return _unit(z).std(dim=0, correction=0).double().mean().item()


def std_within_images(z: Tensor) -> float:
    """Spread of the patches of an image on the unit sphere: 0 if they all get the same vector.

    :func:`embedding_std` over the patches of each image, averaged over images.

    Args:
        z: embeddings [n, k, D] of k patches of each of n images; scaled to unit length here.
    """
    if z.numel() == 0 or z.shape[1] < 2 or not _finite(z):
        return math.nan
    return _spread_within(z).mean().item()


def std_across_images(z: Tensor) -> float:
    """Spread on the unit sphere of the patches at one position of all images: 0 if a patch shows only where
    it is.

    :func:`embedding_std` over images at each position, averaged over positions.

    Args:
        z: as for :func:`std_within_images`.
    """
    if z.numel() == 0 or len(z) < 2 or not _finite(z):
        return math.nan
    return _unit_patches(z).std(dim=0, correction=0).double().mean().item()


def dead_patches(z: Tensor) -> float:
    """Share of the patches that get the same vector as all others of their image, 0 to 1.

    An image's patches count as the same below a twentieth of the healthy spread 1 / sqrt(D).

    Args:
        z: as for :func:`std_within_images`.
    """
    if z.numel() == 0 or z.shape[1] < 2 or not _finite(z):
        return math.nan
    return (_spread_within(z) < FULL_COLLAPSE / math.sqrt(z.shape[2])).double().mean().item()


def embedding_norm(z: Tensor) -> float:
    """Mean length of embeddings before normalisation.

    Args:
        z: embeddings [n, D].
    """
    if len(z) == 0 or not _finite(z):
        return math.nan
    return _with_float64(z).double().norm(dim=1).mean().item()


def length_warning(norm: float) -> str | None:
    """What is wrong with the length of embeddings, in plain words, or None; None for NaN.

    Losses that normalise do not see the length, so only weight decay limits it.

    Args:
        norm: :func:`embedding_norm` of z.
    """
    if norm < LENGTHS[0]:
        what, remedy = "vanishing", "Lower the weight decay"
    elif norm > LENGTHS[1]:
        what, remedy = "exploding", "Lower the learning rate, or raise the weight decay"
    else:
        return None
    return (
        f"the embeddings are {what}: their mean length is {norm:.2g}. {remedy}, "
        "or end the head in batch norm."
    )


def collapse_warning(std: float, rank: float, width: int, features: int) -> str | None:
    """What is wrong, in plain words, or None. NaN is never reported as a collapse.

    Full collapse: the spread of z is under a twentieth of the healthy 1 / sqrt(width). Dimensional
    collapse (Jing et al. 2022, "Understanding dimensional collapse in contrastive self-supervised
    learning"): the effective rank of h is under 2, or under a hundredth of the largest possible.

    Args:
        std: :func:`embedding_std` of z.
        rank: :func:`effective_rank` of h.
        width: D, the width of z.
        features: the largest possible rank of h: F, or the number of images if that is smaller.
    """
    healthy = 1 / math.sqrt(width)
    if std < FULL_COLLAPSE * healthy:
        return (
            f"the embeddings have collapsed: nearly every image gets the same vector (spread {std:.2g}, "
            f"healthy is about {healthy:.2g}). Check that negatives or a predictor keep them apart, "
            "and lower the learning rate."
        )
    if features > 1 and rank < max(2.0, DIMENSIONAL_COLLAPSE * features):
        return (
            f"the features have collapsed to few directions: they use about {rank:.1f} of {features}. Check "
            "the augmentation and the temperature, and lower the learning rate or the weight decay."
        )
    return None


def patch_collapse_warning(
    within: float, across: float, rank: float, width: int, features: int
) -> str | None:
    """What is wrong with embeddings of patches, in plain words, or None; thresholds as in
    :func:`collapse_warning`.

    Args:
        within: :func:`std_within_images`.
        across: :func:`std_across_images`.
        rank: :func:`effective_rank` of the tokens of patches.
        width: D, the width of the embeddings.
        features: the largest possible rank: width of the tokens, or the number of patches if that is smaller.
    """
    least = FULL_COLLAPSE / math.sqrt(width)
    remedy = "Check that negatives, a predictor or the target keep them apart, and lower the learning rate."
    if within < least and across < least:
        return (
            f"the patches have collapsed: nearly every one gets the same vector (spread {within:.2g}). "
            f"{remedy}"
        )
    if within < least:
        return (
            f"the patches of an image have collapsed: nearly all of them get the same vector (spread "
            f"{within:.2g}). {remedy}"
        )
    if across < least:
        return (
            "the patches have collapsed to their positions: nearly every image gets the same vectors (spread "
            f"{across:.2g}). {remedy}"
        )
    if features > 1 and rank < max(2.0, DIMENSIONAL_COLLAPSE * features):
        return (
            f"the patches have collapsed to few directions: they use about {rank:.1f} of {features}. {remedy}"
        )
    return None


def memory_warning(z: Tensor, valid: Tensor, before: Tensor | None) -> str | None:
    """What is wrong with a memory of keys, in plain words, or None.

    Args:
        z: its S entries [S, D].
        valid: bool [S], the entries that have been written.
        before: z at the previous evaluation, with steps in between; None at the first.
    """
    valid_entries = z[valid]
    if len(valid_entries) == 0:
        return "nothing has been written to it, so it offers no candidates. Check its after_batch."
    if before is not None and torch.equal(before, z):
        return "its keys have not changed since the last evaluation. Check its after_batch."
    if len(valid_entries) > 1 and embedding_std(valid_entries) < FULL_COLLAPSE / math.sqrt(z.shape[1]):
        return (
            "its keys are all alike, so no query can tell them apart. Check that the target has not "
            "collapsed, and lower the learning rate."
        )
    return None


def _unit_patches(z: Tensor) -> Tensor:
    """[n, k, D] at unit length."""
    return _unit(z.flatten(0, 1)).unflatten(0, z.shape[:2])


def _spread_within(z: Tensor) -> Tensor:
    """The spread of the patches of each image, from [n, k, D]: [n]."""
    return _unit_patches(z).std(dim=1, correction=0).double().mean(1)


def _unit(z: Tensor) -> Tensor:
    z = _with_float64(z if z.dtype == torch.float64 else z.float())
    largest = z.abs().amax(1, keepdim=True)  # [n, 1]: its square may overflow float32
    return F.normalize(z / largest.where(largest > 0, 1), dim=1)


def _with_float64(z: Tensor) -> Tensor:
    """On the CPU if the device has no float64 (Apple's)."""
    return z.cpu() if z.device.type == "mps" else z


def _finite(*tensors: Tensor) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors)
