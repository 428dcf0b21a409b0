"""Small pictures show the same image, mirrored or cropped, or they do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from contrastive.curation.pictures import difference_hash, pixel_digest, small_picture
from contrastive.curation.verification import CROP, NEAR, DetailedPictures, crop_agreement, details
from contrastive.curation.verification import agreement as agreement_of
from tests.support.curation import recompressed, scene

SCENES = range(12)


def pictures(images: list[Tensor]) -> Tensor:
    return torch.stack([small_picture(image) for image in images]).float()


def agreement(a: Tensor, b: Tensor) -> Tensor:
    return agreement_of(DetailedPictures.of(a), DetailedPictures.of(b))


def horizon(above: tuple[int, int, int], below: tuple[int, int, int]) -> Tensor:
    """Two colours with an edge that runs almost from left to right, uint8 [3, 96, 128]."""
    image = torch.tensor(above, dtype=torch.uint8)[:, None, None].repeat(1, 96, 128)
    for column in range(128):
        image[:, 80 + column // 40 :, column] = torch.tensor(below, dtype=torch.uint8)[:, None]
    return image


def crop_of(image: Tensor, share: float, top: float, left: float) -> Tensor:
    """A crop whose corner is at shares of the room that it leaves."""
    height, width = (round(share * side) for side in image.shape[1:])
    y, x = round(top * (image.shape[1] - height)), round(left * (image.shape[2] - width))
    return image[:, y : y + height, x : x + width].contiguous()


@pytest.mark.parametrize(("height", "width", "quality"), [(48, 48, 50), (40, 56, 60), (128, 128, 30)])
def test_resized_and_recompressed_images_agree(height: int, width: int, quality: int):
    images = [scene(seed) for seed in SCENES]
    others = [recompressed(image, height, width, quality) for image in images]
    assert (agreement(pictures(images), pictures(others)) >= NEAR).all()


def test_details_are_a_difference_of_means_without_the_largest_values():
    pictures_of = pictures([scene(seed) for seed in SCENES])

    def mean(values: Tensor, side: int) -> Tensor:
        padded = torch.nn.functional.pad(values, (side // 2,) * 4, mode="reflect")
        return torch.nn.functional.avg_pool2d(padded, side, stride=1)

    smooth = mean(pictures_of, 3)
    expected = (smooth - mean(smooth, 9)).clamp(-20, 20)
    torch.testing.assert_close(details(pictures_of), expected, rtol=1e-4, atol=1e-3)


def test_different_scenes_do_not_agree():
    images = pictures([scene(seed) for seed in SCENES])
    assert (agreement(images, images.roll(1, 0)) < NEAR / 2).all()


def test_a_mirrored_image_agrees_only_when_mirrored():
    images = pictures([scene(seed) for seed in SCENES])
    assert (agreement(images, images.flip(3)) < NEAR / 2).all()
    assert (agreement(images, images.flip(3).flip(3)) > 0.999).all()


def test_a_common_frame_is_no_agreement():
    framed = pictures([scene(seed) for seed in SCENES])
    framed[..., :3, :] = framed[..., -3:, :] = 255
    framed[..., :3] = framed[..., -3:] = 255
    assert (agreement(framed, framed.roll(1, 0)) < NEAR).all()


def test_nearly_blank_pictures_agree_in_nothing():
    draws = torch.Generator().manual_seed(0)
    blank = (128 + torch.randint(-1, 2, (8, 3, 32, 32), generator=draws)).float()
    assert (agreement(blank, blank) < 0.2).all()


def test_one_edge_is_no_agreement_unless_colours_agree_too():
    dusk, dawn = horizon((150, 130, 200), (40, 40, 90)), horizon((200, 210, 220), (90, 80, 60))
    copy = recompressed(dusk, 72, 96, 70)
    one, other, again = (pictures([image]) for image in (dusk, dawn, copy))
    assert agreement(one, other) == 0
    assert agreement(one, again) >= NEAR
    sizes = np.array([[96, 128]]), np.array([[72, 96]])
    crop = recompressed(crop_of(dusk, 0.75, 1, 0.5), 72, 96, 70)
    assert crop_agreement(one, pictures([crop]), *sizes) >= CROP
    assert crop_agreement(other, pictures([crop]), *sizes) < CROP


@pytest.mark.parametrize("share", [0.9, 0.75, 0.6])
@pytest.mark.parametrize("corner", [(0.0, 0.0), (0.5, 0.5), (1.0, 0.3)])
def test_a_crop_is_found_wherever_it_is(share: float, corner: tuple[float, float]):
    images = [scene(seed, 96, 96) for seed in SCENES]
    crops = [recompressed(crop_of(image, share, *corner), 80, 80, 80) for image in images]
    sizes = np.full((len(images), 2), 96), np.full((len(images), 2), 80)
    values = crop_agreement(pictures(images), pictures(crops), *sizes)
    assert (values >= CROP).sum() >= len(images) - 1, values
    if share < 0.9:
        assert (agreement(pictures(images), pictures(crops)) < NEAR).all()


def test_a_crop_of_other_proportions():
    images = [scene(seed, 96, 96) for seed in SCENES]
    crops = [image[:, 10:82, 20:68].contiguous() for image in images]  # 72 x 48
    sizes = np.full((len(images), 2), 96), np.tile([72, 48], (len(images), 1))
    assert (crop_agreement(pictures(images), pictures(crops), *sizes) >= CROP).all()


def test_other_images_are_no_crops():
    images, sizes = pictures([scene(seed) for seed in SCENES]), np.full((12, 2), 64)
    assert (crop_agreement(images, images.roll(1, 0), sizes, sizes) < CROP).all()


def test_hashes_of_the_same_image_are_near():
    images = [scene(seed) for seed in SCENES]
    own = difference_hash(pictures(images))
    other = difference_hash(pictures([recompressed(image, 40, 50, 50) for image in images]))
    assert own.shape == (12, 128)
    products = own @ other.T
    assert (products.argmax(1) == torch.arange(12)).all()
    mirrored = difference_hash(pictures(images).flip(3))
    along_rows = own[:, :64].reshape(-1, 8, 8)
    flipped = mirrored[:, :64].reshape(-1, 8, 8).flip(2)
    assert (along_rows == -flipped).float().mean() > 0.95  # a rise to the right is a fall when mirrored


def test_digests_tell_pixels_and_sizes_apart():
    image = scene(0, 8, 4)
    assert pixel_digest(image) == pixel_digest(image.clone())
    assert pixel_digest(image) != pixel_digest(image.reshape(3, 4, 8))
    other = image.clone()
    other[0, 0, 0] ^= 1
    assert pixel_digest(image) != pixel_digest(other)
