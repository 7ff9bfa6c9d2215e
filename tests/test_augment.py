"""Augmentation against a slow reference that handles each pixel of each image by itself."""

import math

import pytest
import torch
from torch import Tensor

from mnist_lightning.augment import Augmentation, Distortion, distort

ALL = Augmentation(15, 2, 0.15, 10, 1, background=0.5, contrast=0.5, noise=0.2, erasing=8)


def pictures(num_images: int = 4, seed: int = 0) -> Tensor:
    return torch.rand(num_images, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def still(num_images: int, **changes: Tensor) -> Distortion:
    nothing = Distortion(
        scale=torch.ones(num_images, 2),
        shear=torch.zeros(num_images),
        angle=torch.zeros(num_images),
        shift=torch.zeros(num_images, 2),
        elastic=torch.zeros(num_images, 2, 4, 4),
    )
    return nothing._replace(**changes)


def slow_reference(images: Tensor, distortion: Distortion) -> Tensor:
    """Moves every pixel of the result backwards: unbend, unshift, unrotate, unshear, unscale; then interpolates."""
    result = torch.zeros_like(images)
    bends = torch.nn.functional.interpolate(distortion.elastic, (28, 28), mode="bicubic", align_corners=True)
    for n, image in enumerate(images[:, 0].tolist()):
        angle, shear = distortion.angle[n].item(), distortion.shear[n].item()
        (scale_x, scale_y), (shift_x, shift_y) = distortion.scale[n].tolist(), distortion.shift[n].tolist()
        for row in range(28):
            for column in range(28):
                x, y = column - 13.5 - shift_x, row - 13.5 - shift_y
                x, y = x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)
                x = x - shear * y
                x, y = x / scale_x + 13.5, y / scale_y + 13.5
                x, y = x + bends[n, 0, row, column].item(), y + bends[n, 1, row, column].item()
                left, top = math.floor(x), math.floor(y)
                for j in (top, top + 1):
                    for i in (left, left + 1):
                        if 0 <= i < 28 and 0 <= j < 28:
                            weight = (1 - abs(x - i)) * (1 - abs(y - j))
                            result[n, 0, row, column] += weight * image[j][i]
    return result


def test_a_batch_is_distorted_as_its_images_are_one_by_one() -> None:
    images = pictures()
    distortion = ALL.draw(len(images), torch.Generator().manual_seed(1))
    fast = distort(images, distortion)
    torch.testing.assert_close(fast, slow_reference(images, distortion), atol=2e-5, rtol=0)
    assert not torch.equal(fast, images)


def test_no_distortion_changes_nothing() -> None:
    images = pictures()
    torch.testing.assert_close(distort(images, still(len(images))), images, atol=1e-5, rtol=0)
    assert Augmentation()(images, torch.Generator()) is images


def test_directions_are_as_documented() -> None:
    images = torch.zeros(1, 1, 28, 28)
    images[0, 0, 13:15, 20:22] = 1  # right of the centre

    def centre(**changes: Tensor) -> tuple[float, float]:
        ink = distort(images, still(1, **changes))[0, 0]
        return (ink.sum(0) @ torch.arange(28.0) / ink.sum()).item() - 13.5, (
            ink.sum(1) @ torch.arange(28.0) / ink.sum()
        ).item() - 13.5

    assert centre() == pytest.approx((7, 0), abs=0.01)
    assert centre(shift=torch.tensor([[2.0, -3.0]])) == pytest.approx((9, -3), abs=0.01)
    assert centre(angle=torch.tensor([math.pi / 2])) == pytest.approx((0, -7), abs=0.01)
    assert centre(scale=torch.tensor([[0.5, 1.0]])) == pytest.approx((3.5, 0), abs=0.1)
    images = images.transpose(2, 3)  # below the centre
    assert centre(shear=torch.tensor([0.5])) == pytest.approx((3.5, 7), abs=0.1)


def test_draws_stay_in_their_limits_and_differ_by_image() -> None:
    distortion = ALL.draw(5000, torch.Generator().manual_seed(2))
    for values, limit in (
        (distortion.angle, math.radians(15)),
        (distortion.shear, math.tan(math.radians(10))),
        (distortion.shift, 2),
        (distortion.scale - 1, 0.15),
    ):
        assert 0.98 * limit < values.abs().max() <= limit + 1e-6
        assert values.mean().abs() < 0.05 * limit
        assert len(set(values.flatten().tolist())) > 4000
    assert distortion.elastic.std().item() == pytest.approx(1, abs=0.02)


def test_the_generator_is_the_only_source_of_chance() -> None:
    images = pictures(64)
    first = ALL(images, torch.Generator().manual_seed(3))
    torch.manual_seed(7)
    assert torch.equal(first, ALL(images, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, ALL(images, torch.Generator().manual_seed(4)))
    assert first.min() >= 0 and first.max() <= 1


def test_the_share_of_images_whose_light_changes() -> None:
    images = torch.zeros(4000, 1, 28, 28)
    lit = Augmentation(background=0.5, light_share=0.3)(images, torch.Generator().manual_seed(5))
    is_changed = lit.flatten(1).amax(1) > 0
    assert is_changed.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert 0.45 < lit.max() <= 0.5


def test_an_inverted_image_is_dark_on_bright() -> None:
    images = pictures(2000)
    changed = Augmentation(inversion=0.3, light_share=1)(images, torch.Generator().manual_seed(7))
    is_inverted = (changed - (1 - images)).flatten(1).abs().amax(1) < 1e-6
    assert is_inverted.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert torch.equal(changed[~is_inverted], images[~is_inverted])


def test_contrast_dims_ink_and_erasing_paints_a_rectangle() -> None:
    ink = torch.ones(2000, 1, 28, 28)
    dimmed = Augmentation(contrast=0.4, light_share=1)(ink, torch.Generator().manual_seed(6))
    assert dimmed.flatten(1).std(1).max() < 1e-6
    assert dimmed.min().item() == pytest.approx(0.6, abs=0.01)
    erased = Augmentation(erasing=8, light_share=1)(ink, torch.Generator().manual_seed(6)) < 1
    assert 6 <= erased.any(3).sum(2).max() <= 8
    assert 6 <= erased.any(2).sum(2).max() <= 8
    assert torch.equal(erased, erased.any(3, keepdim=True) & erased.any(2, keepdim=True))
