"""Whether two small pictures show the same image: as it is, mirrored, or one as a crop of the other.

Shape letters: P pairs, C channels, s side of a picture, g side of a coarse picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

#: The least agreement of a pair: recompressed images of 16 pixels still have 0.8, and the most similar images
#: of different things about 0.7. Of a crop it is higher, as the best of many is taken.
NEAR, CROP = 0.8, 0.88
#: Of pictures that hardly differ: their difference as a share of their deviation, and of the range.
_SHARE_OF_DEVIATION, _SHARE_OF_RANGE = 0.1, 0.01
#: Edges run in one direction if squared gradients along them are at most this share of those across them.
_ALONG = 0.1
#: The largest difference of such pictures, as a share of their deviation.
_SHARE_OF_EDGES = 0.2
#: Details are compared up to this many levels of 0..255, so that a frame or a caption does not decide alone.
_LARGEST = 20.0
#: Deviation that details have at least when they are compared: what recompression adds to a blank picture.
_NOISE = 3.0
#: Pixels at the border that are left out of a second comparison.
_BORDER = 4

#: Side of coarse pictures, on which a crop is searched for, and of the windows that are compared then.
_COARSE, _WINDOW = 16, 24
#: The longer side of a crop as a share of the image's, from large to small.
_SHARES = tuple(side / _COARSE for side in range(_COARSE, _COARSE // 2 - 1, -1))
#: The least correlation on coarse pictures of a crop that is looked at more closely.
_PROMISING = 0.85
#: The least agreement of a crop near its best place, at which all fine steps are taken.
_HOPEFUL = 0.5
#: Steps around a coarse crop: factors of its sides, and coarse pixels by which its corner moves.
_FACTORS, _STEPS = (0.97, 1.0, 1.03), (-1.0, -0.5, 0.0, 0.5, 1.0)


@dataclass(frozen=True)
class DetailedPictures:
    """Pictures with their :func:`details`, both [P, C, s, s]."""

    pixels: Tensor
    details: Tensor

    @classmethod
    def of(cls, pixels: Tensor) -> DetailedPictures:
        """Those of pictures in 0..255."""
        return cls(pixels, details(pixels))

    def take(self, index: Tensor) -> DetailedPictures:
        """Some of the pictures."""
        return DetailedPictures(self.pixels[index], self.details[index])

    def mirrored(self) -> DetailedPictures:
        """The pictures, left and right exchanged."""
        return DetailedPictures(self.pixels.flip(3), self.details.flip(3))


def agreement(a: DetailedPictures, b: DetailedPictures) -> Tensor:
    """How well pictures agree: [P], at most 1.

    The correlation of the details of whole pictures or of their interior, whichever is smaller. Nearly blank
    pictures agree in nothing. Nor do pictures with edges in one direction alone, such as two horizons, unless
    they differ little as they are: one edge looks like another.
    """
    inner = slice(_BORDER, -_BORDER)
    interior = _correlation(a.details[..., inner, inner], b.details[..., inner, inner])
    values = torch.minimum(_correlation(a.details, b.details), interior)
    index = (values >= NEAR).nonzero()[:, 0]
    if len(index):
        a, b = a.take(index), b.take(index)
        is_one_edge = _run_one_way(a.details) | _run_one_way(b.details)
        values[index] *= ~is_one_edge | _differ_little(a.pixels, b.pixels, _SHARE_OF_EDGES)
    return values


def hardly_differ(a: Tensor, b: Tensor) -> Tensor:
    """Whether pictures [P, C, s, s] in 0..255 hardly differ: [P] bool.

    Their root mean square difference is then at most a tenth of the larger standard deviation of the two, or
    1 % of the range.
    """
    return _differ_little(a, b, _SHARE_OF_DEVIATION)


def _differ_little(a: Tensor, b: Tensor, share: float) -> Tensor:
    """As :func:`hardly_differ`, with another share of the deviation."""
    a, b = a.flatten(1), b.flatten(1)
    difference = (a - b).square().mean(1).sqrt()
    deviation = torch.maximum(a.std(1, correction=0), b.std(1, correction=0))
    return difference <= (share * deviation).clamp_min(255 * _SHARE_OF_RANGE)


def _run_one_way(own: Tensor) -> Tensor:
    """Whether all edges of details [P, C, s, s] run in one direction: [P] bool.

    Source: Bigun and Granlund 1987, the eigenvalues of the structure tensor, here of the whole picture.
    """
    down = (own[..., 2:, 1:-1] - own[..., :-2, 1:-1]).flatten(1)
    right = (own[..., 1:-1, 2:] - own[..., 1:-1, :-2]).flatten(1)
    trace = down.square().sum(1) + right.square().sum(1)
    difference = down.square().sum(1) - right.square().sum(1)
    spread = (difference.square() + 4 * (down * right).sum(1).square()).sqrt()
    return trace - spread <= _ALONG * (trace + spread)


def details(pictures: Tensor) -> Tensor:
    """What pictures [P, C, s, s] in 0..255 have besides broad light and dark, and fine noise.

    Pictures of different scenes often agree in light and dark, and hardly in details.
    """
    fine, broad = _box_matrices(pictures.shape[-1])
    return (fine @ pictures @ fine.T - broad @ pictures @ broad.T).clamp_(-_LARGEST, _LARGEST)


@cache
def _box_matrices(side: int) -> tuple[Tensor, Tensor]:
    """What averages 3 pixels along an axis, and then 9 of the results; borders are reflected: [s, s] each."""
    fine = _box_matrix(side, 3)
    return fine, _box_matrix(side, 9) @ fine


def _box_matrix(side: int, width: int) -> Tensor:
    matrix = torch.zeros(side, side)
    for shift in range(-(width // 2), width // 2 + 1):
        columns = (torch.arange(side) + shift).abs()
        columns = torch.minimum(columns, 2 * (side - 1) - columns)
        matrix[torch.arange(side), columns] += 1 / width
    return matrix


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.flatten(1), b.flatten(1)
    floor = _NOISE**2 * a.shape[1]
    energies = [pictures.square().sum(1).clamp(min=floor) for pictures in (a, b)]
    return (a * b).sum(1) / (energies[0] * energies[1]).sqrt()


@dataclass(frozen=True)
class _Crops:
    """A crop of each of P pictures, in shares of the picture.

    Attributes:
        correlation: [P], with the part that is searched for.
        longer: [P], the longer side of the crop.
        sides: [P, 2], height and width.
        corner: [P, 2], top and left edge.
    """

    correlation: Tensor
    longer: Tensor
    sides: Tensor
    corner: Tensor

    def take(self, index: Tensor) -> _Crops:
        """Those of some pictures."""
        return _Crops(*(getattr(self, name)[index] for name in vars(self)))


def crop_agreement(images: Tensor, parts: Tensor, image_sizes: np.ndarray, part_sizes: np.ndarray) -> Tensor:
    """How well pictures agree with the best crop of others: [P], zero if there is no promising one.

    A crop is searched for on coarse pictures: at all offsets, its longer side at least half of the image's.
    The best one is then compared in detail, at finer steps. A crop may be of any size later, but its pixels
    keep their proportions.

    Args:
        images: pictures [P, C, s, s] in 0..255 of which a crop is searched for.
        parts: pictures [P, C, s, s] of what may be the crops.
        image_sizes, part_sizes: [P, 2], height and width of the images that the pictures are of.
    """
    proportions = [sizes[:, 1] / sizes[:, 0] for sizes in (part_sizes, image_sizes)]
    stretch = torch.from_numpy(proportions[0] / proportions[1]).float()  # of the crop in the square picture
    crops = _search(images, parts, stretch)
    values = torch.zeros(len(images))
    for longer in crops.longer.unique():
        index = ((crops.longer == longer) & (crops.correlation >= _PROMISING)).nonzero()[:, 0]
        if len(index):
            own = DetailedPictures.of(_blur(parts[index], float(longer)))
            values[index] = _best_nearby(images[index], own, crops.take(index))
    return values


def _sides(longer: float, stretch: Tensor) -> Tensor:
    """Height and width [P, 2] of crops, in shares of a square picture; ``stretch`` is width to height."""
    return longer * torch.stack([stretch.clamp(min=1).reciprocal(), stretch.clamp(max=1)], 1)


def _search(images: Tensor, parts: Tensor, stretch: Tensor) -> _Crops:
    """The best crops on coarse pictures."""
    image, part = _coarse(images), _coarse(parts)
    spectra = (torch.fft.rfft2(image), torch.fft.rfft2(image.square()))
    best = _Crops(
        torch.full_like(stretch, -1.0), stretch, torch.ones(len(image), 2), torch.zeros(len(image), 2)
    )
    steps = torch.arange(_COARSE)
    for longer in _SHARES:
        sides = _sides(longer, stretch)
        correlation = _correlations(spectra, *_placement(part, sides))  # [P, g, g]
        ends = steps + _COARSE * sides[..., None]  # [P, 2, g]: of a crop that starts there
        fits = (ends <= _COARSE + 0.5).float()
        outside = fits[:, 0, :, None] * fits[:, 1, None, :] == 0
        top, position = correlation.masked_fill(outside, -1.0).flatten(1).max(1)
        corner = torch.stack([position // _COARSE, position % _COARSE], 1) / _COARSE
        best = _better(best, _Crops(top, torch.full_like(top, longer), sides, corner))
    return best


def _better(one: _Crops, other: _Crops) -> _Crops:
    wins = other.correlation > one.correlation
    pairs = ((getattr(one, name), getattr(other, name)) for name in vars(one))
    return _Crops(*(torch.where(wins if a.dim() == 1 else wins[:, None], b, a) for a, b in pairs))


def _coarse(pictures: Tensor) -> Tensor:
    """Brightness of pictures on g x g pixels, around zero: [P, g, g]."""
    coarse = F.interpolate(pictures, (_COARSE, _COARSE), mode="bilinear", antialias=True).mean(1)
    return coarse - coarse.mean((1, 2), keepdim=True)


def _placement(part: Tensor, sides: Tensor) -> tuple[Tensor, Tensor]:
    """Coarse parts, shrunk to a share of their sides, at the top left of a square, and where they lie."""
    ends = (_COARSE * sides).round().clamp(min=1)  # [P, 2] in pixels
    centres = torch.arange(_COARSE) + 0.5
    places = [centres / ends[:, axis, None] for axis in (0, 1)]  # [P, g], shares of the part
    inside = (places[0] < 1).float()[:, :, None] * (places[1] < 1).float()[:, None, :]
    rows, columns = (2 * place - 1 for place in places)
    grid = torch.stack(
        [columns[:, None, :].expand(-1, _COARSE, -1), rows[:, :, None].expand(-1, -1, _COARSE)], 3
    )
    shrunk_part = F.grid_sample(part[:, None], grid, padding_mode="border", align_corners=False)[:, 0]
    return shrunk_part * inside, inside


def _correlations(spectra: tuple[Tensor, Tensor], part: Tensor, inside: Tensor) -> Tensor:
    """Normalised correlation of parts with pictures, at every corner: [P, g, g]; corners wrap around."""
    count = inside.sum((1, 2), keepdim=True)
    part = (part - part.sum((1, 2), keepdim=True) / count) * inside
    part_spectrum, mask_spectrum = torch.fft.rfft2(part).conj(), torch.fft.rfft2(inside).conj()
    size = part.shape[1:]
    products = torch.fft.irfft2(spectra[0] * part_spectrum, s=size)
    sums, squares = (torch.fft.irfft2(spectrum * mask_spectrum, s=size) for spectrum in spectra)
    energy = squares - sums.square() / count
    floor = _NOISE**2 * count
    own_energy = part.square().sum((1, 2), keepdim=True).clamp(min=floor)
    return products / (energy.clamp(min=floor) * own_energy).sqrt()


def _blur(parts: Tensor, share: float) -> Tensor:
    """Parts as windows, with no more detail than a crop of that share has in a picture."""
    side = max(2, round(parts.shape[-1] * share))
    small = F.interpolate(parts, (side, side), mode="bilinear", antialias=True)
    return F.interpolate(small, (_WINDOW, _WINDOW), mode="bilinear", antialias=True)


def _best_nearby(images: Tensor, parts: DetailedPictures, crops: _Crops) -> Tensor:
    """The best agreement of parts with windows around their crops: [P]."""
    best = _best_of(images, parts, crops, _FACTORS[1:2], _STEPS[1:-1])
    index = (best >= _HOPEFUL).nonzero()[:, 0]
    if len(index):
        all_steps = _best_of(images[index], parts.take(index), crops.take(index), _FACTORS, _STEPS)
        best[index] = torch.maximum(best[index], all_steps)
    return best


def _best_of(
    images: Tensor,
    parts: DetailedPictures,
    crops: _Crops,
    factors: Sequence[float],
    steps: Sequence[float],
) -> Tensor:
    """As :func:`_best_nearby`, with crops whose sides and corners change by some factors and steps."""
    best = torch.zeros(len(images))
    for factor in factors:
        sides = (factor * crops.sides).clamp(max=1)
        for down, right in product(steps, steps):
            corner = crops.corner + torch.tensor([down, right]) / _COARSE
            corner = torch.minimum(corner, 1 - sides).clamp(min=0)
            windows = DetailedPictures.of(_windows(images, sides, corner))
            best = torch.maximum(best, agreement(windows, parts))
    return best


def _windows(images: Tensor, sides: Tensor, corner: Tensor) -> Tensor:
    """Windows of pictures, by their sides and corners in shares of the picture: [P, C, w, w]."""
    centres = (torch.arange(_WINDOW) + 0.5) / _WINDOW
    rows, columns = (2 * (corner[:, axis, None] + sides[:, axis, None] * centres) - 1 for axis in (0, 1))
    grid = torch.stack(
        [columns[:, None, :].expand(-1, _WINDOW, -1), rows[:, :, None].expand(-1, -1, _WINDOW)], 3
    )
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
