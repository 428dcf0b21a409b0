"""DenseCL, VICReg and VICRegL as plain scripts on a small ResNet, in float64, for tests.

Written from the papers and their authors' code; they share no code with the package, and views, boxes and
the groups of batch norm are given. Weights have the names of the method's ``state_dict``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]


# -- the network --------------------------------------------------------------------------------------


def norm(x: Tensor, s: State, name: str) -> Tensor:
    """Batch norm of a map [b, C, h, w] or of rows [r, C]."""
    dims = (0, 2, 3) if x.ndim == 4 else (0,)
    centred = x - x.mean(dims, keepdim=True)
    variance = centred.square().mean(dims, keepdim=True)
    weight, bias = (s[f"{name}.{key}"].reshape(variance.shape) for key in ("weight", "bias"))
    return centred / (variance + 1e-5).sqrt() * weight + bias


def conv(x: Tensor, s: State, name: str, stride: int = 1, dilation: int = 1) -> Tensor:
    kernel = s[f"{name}.weight"]
    padding = dilation * (kernel.shape[2] - 1) // 2
    return F.conv2d(x, kernel, stride=stride, padding=padding, dilation=dilation)


def resnet10(x: Tensor, s: State, name: str, dilate: bool) -> Tensor:
    """The last map of a ResNet with one block per stage, whose stem has stride 2 and no pooling.

    Args:
        dilate: whether the last stage has dilation instead of a stride.
    """
    x = torch.relu(norm(conv(x, s, f"{name}.conv1", 2), s, f"{name}.bn1"))
    last = (1, 2) if dilate else (2, 1)
    for stage, (stride, dilation) in enumerate([(1, 1), (2, 1), (2, 1), last], 1):
        block = f"{name}.layer{stage}.0"
        y = torch.relu(norm(conv(x, s, f"{block}.conv1", stride), s, f"{block}.bn1"))
        y = norm(conv(y, s, f"{block}.conv2", 1, dilation), s, f"{block}.bn2")
        if f"{block}.downsample.0.weight" in s:
            x = norm(conv(x, s, f"{block}.downsample.0", stride), s, f"{block}.downsample.1")
        x = torch.relu(x + y)
    return x


def perceptron(x: Tensor, s: State, name: str, layers: int) -> Tensor:
    """Linear layers with batch norm and ReLU between them: rows [r, F] -> [r, D]."""
    for index in range(0, 3 * (layers - 1), 3):
        x = torch.relu(norm(x @ s[f"{name}.layers.{index}.weight"].T, s, f"{name}.layers.{index + 1}"))
    last = f"{name}.layers.{3 * (layers - 1)}"
    x = x @ s[f"{last}.weight"].T
    return x + s[f"{last}.bias"] if f"{last}.bias" in s else x


def places(x: Tensor) -> Tensor:
    """A map [b, C, h, w] as vectors row by row, [b, h w, C]."""
    return x.flatten(2).transpose(1, 2)


def of_places(x: Tensor, s: State, name: str, layers: int) -> Tensor:
    """:func:`perceptron` of every place: [b, N, C] -> [b, N, D]."""
    return perceptron(x.flatten(0, 1), s, name, layers).unflatten(0, x.shape[:2])


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


# -- DenseCL ------------------------------------------------------------------------------------------

WHOLE, DENSE = "objectives.whole", "objectives.dense"


def queries_and_keys(x: Tensor, s: State, net: str, heads: tuple[str, str]) -> tuple[Tensor, Tensor, Tensor]:
    """Features of the places, and what the two heads make of the image and of its places."""
    final = resnet10(x, s, net, dilate=True)
    features = places(final)
    whole = perceptron(final.mean((2, 3)), s, heads[0], 2)
    return features, whole, of_places(features, s, heads[1], 2)


def cross_entropy(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Of picking the key [r, D] of each query [r, D] among it and the queue [K, D]; all are unit vectors."""
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1) / temperature
    return (logits.logsumexp(1) - logits[:, 0]).mean()


def enqueue(s: State, name: str, keys: Tensor, images: Tensor) -> None:
    """Overwrite the oldest entries."""
    size = len(s[f"{name}.valid"])
    for key, image in zip(keys, images, strict=True):
        place = int(s[f"{name}.pointer"])
        s[f"{name}.z"][place] = key
        s[f"{name}.image"][place] = image
        s[f"{name}.valid"][place] = True
        s[f"{name}.pointer"] = torch.tensor((place + 1) % size)


def densecl(
    s: State, pixels: list[Tensor], images: Tensor, groups: list[Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of DenseCL (Wang et al. 2021, section 3), and what its two queues take in.

    As in the authors' code, the second queue takes the mean of an image's keys before they are normalised,
    and features of the backbone choose the match. Queues start empty; theirs start with random vectors.

    Args:
        pixels: the query's view and the key's.
        images: ids.
        groups: of images whose keys have batch statistics of their own (shuffling batch norm).
    """
    features, q, q_dense = queries_and_keys(pixels[0], s, "backbone.net", (f"{WHOLE}.head", f"{DENSE}.head"))
    copy = "target.of.encoder"
    with torch.no_grad():
        parts = [
            queries_and_keys(pixels[1][group], s, f"{copy}.0.net", (f"{copy}.1", f"{copy}.2"))
            for group in groups
        ]
        back = torch.cat(groups).argsort()
        k_features, k, k_dense = (torch.cat(part)[back] for part in zip(*parts, strict=True))
        match = (unit(features) @ unit(k_features).transpose(1, 2)).max(2).indices  # [b, N]
        entering = {WHOLE: unit(k), DENSE: unit(k_dense.mean(1))}
    queue = {name: s[f"{name}.negatives.0.z"][s[f"{name}.negatives.0.valid"]] for name in entering}
    whole = cross_entropy(unit(q), unit(k), queue[WHOLE], 0.2)
    own = torch.stack([each[index] for each, index in zip(unit(k_dense), match, strict=True)])
    dense = cross_entropy(unit(q_dense).flatten(0, 1), own.flatten(0, 1), queue[DENSE], 0.2)
    return 0.5 * whole + 0.5 * dense, entering


# -- VICReg and VICRegL -------------------------------------------------------------------------------


def vicreg(x: Tensor, y: Tensor, covariance: float) -> Tensor:
    """The loss of two views [B, D], as in the authors' code (Bardes et al. 2022, equation 6).

    Args:
        x, y: the views.
        covariance: weight of the sum of both covariance terms: 1, and 0.5 in VICRegL's code.
    """
    loss = 25 * (x - y).square().mean()
    b, d = x.shape
    for z in (x, y):
        z = z - z.mean(0)
        table = z.T @ z / (b - 1)
        loss = loss + 25 * torch.relu(1 - (table.diagonal() + 1e-4).sqrt()).mean() / 2
        off_diagonal = table[~torch.eye(d, dtype=torch.bool)]
        loss = loss + covariance * off_diagonal.square().sum() / d
    return loss


def vicreg_of_images(s: State, pixels: list[Tensor]) -> Tensor:
    """The loss of VICReg. Both views pass together, so that batch norm sees them as one batch."""
    h = resnet10(torch.cat(pixels), s, "backbone.net", dilate=False).mean((2, 3))
    return vicreg(*perceptron(h, s, "head", 3).chunk(2), covariance=1.0)


def grid(box: Tensor, mirrored: bool, side: int) -> Tensor:
    """Centres of the places of one view in its image, as the authors' ``_location_to_NxN_grid``."""
    top, left, height, width = box.tolist()
    rows = [top + height / side / 2 + k * height / side for k in range(side)]
    columns = [left + width / side / 2 + k * width / side for k in range(side)]
    if mirrored:
        columns = columns[::-1]
    return torch.tensor([[y, x] for y in rows for x in columns], dtype=torch.float64)


def matches(distances: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """``neirest_neighbores`` for one image: places [keep] in order, and the place of the other view of each.

    Args:
        distances: [N, N].
        keep: how many of the closest.
    """
    nearest = distances.min(1)
    closest = sorted(range(len(distances)), key=lambda place: float(nearest.values[place]))[:keep]
    kept = torch.tensor(sorted(closest))
    return kept, nearest.indices[kept]


def local_loss(z: list[Tensor], distances: dict[tuple[int, int], Tensor], keep: int) -> Tensor:
    """VICReg of matched places, each match over the images, both views in turn (VICRegL, section 3)."""
    losses = []
    for (here, there), own in distances.items():
        queries, keys = [], []
        for i, table in enumerate(own):
            kept, match = matches(table, keep)
            queries.append(z[here][i, kept])
            keys.append(z[there][i, match])
        pairs = zip(torch.stack(queries, 1), torch.stack(keys, 1), strict=True)  # [keep, b, D]
        losses.append(torch.stack([vicreg(q, k, 0.5) for q, k in pairs]).mean())
    return torch.stack(losses).mean()


def vicregl(s: State, pixels: list[Tensor], boxes: list[Tensor], mirrored: list[Tensor], keep: int) -> Tensor:
    """The loss of VICRegL (Bardes et al. 2022b, section 3), with the weights of the authors' code.

    All pairs of views count, as in the paper; the published ``local_loss`` overwrites all but the last.
    """
    final = resnet10(torch.cat(pixels), s, "backbone.net", dilate=True)
    whole = perceptron(final.mean((2, 3)), s, "objectives.whole.head", 3)
    z = list(of_places(places(final), s, "head", 3).chunk(2))
    side = final.shape[2]
    centres = [
        torch.stack([grid(box, bool(flip), side) for box, flip in zip(*own, strict=True)])
        for own in zip(boxes, mirrored, strict=True)
    ]
    pairs = [(0, 1), (1, 0)]

    def apart(x: list[Tensor]) -> dict[tuple[int, int], Tensor]:
        return {(a, b): (x[a][:, :, None] - x[b][:, None]).square().sum(3).sqrt() for a, b in pairs}

    by_place = local_loss(z, apart(centres), keep)
    by_feature = local_loss(z, apart([each.detach() for each in z]), keep)
    return 0.75 * vicreg(*whole.chunk(2), covariance=0.5) + 0.25 * (by_place + by_feature)
