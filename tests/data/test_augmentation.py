"""Augmentation agrees with a slow reference that handles each pixel of each image by itself."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mnist_lightning.data.augmentation import Augmentation, distort
from mnist_lightning.errors import UserError

ALL = Augmentation(15, 2, 0.15, 10, 1, background=0.5, contrast=0.5, noise=0.2, erasing=8)


def random_images(num_images: int = 4) -> Tensor:
    return torch.rand(num_images, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def slow_reference(images: Tensor, distortion: dict[str, Tensor]) -> Tensor:
    """Moves every pixel of the result backwards: unbend, unshift, unrotate, unshear, unscale; then interpolates."""
    result = torch.zeros_like(images)
    bends = torch.nn.functional.interpolate(distortion["elastic"], (28, 28), mode="bicubic", align_corners=True)
    for n, image in enumerate(images[:, 0].tolist()):
        angle, shear = distortion["angle"][n].item(), distortion["shear"][n].item()
        (scale_x, scale_y), (shift_x, shift_y) = (distortion[name][n].tolist() for name in ("scale", "shift"))
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


def test_distortion_equals_the_slow_reference() -> None:
    images = random_images()
    distortion = ALL.draw(len(images), torch.Generator().manual_seed(1))
    fast = distort(images, **distortion)
    torch.testing.assert_close(fast, slow_reference(images, distortion), atol=2e-5, rtol=0)
    assert not torch.equal(fast, images)


def test_identity_changes_nothing() -> None:
    images = random_images()
    torch.testing.assert_close(distort(images), images, atol=1e-5, rtol=0)
    assert Augmentation()(images, torch.Generator()) is images


def test_directions_are_as_documented() -> None:
    images = torch.zeros(1, 1, 28, 28)
    images[0, 0, 13:15, 20:22] = 1  # right of the center

    def center(**changes: Tensor) -> tuple[float, float]:
        ink, places = distort(images, **changes)[0, 0], torch.arange(28) - 13.5
        return (ink.sum(0) @ places / ink.sum()).item(), (ink.sum(1) @ places / ink.sum()).item()

    assert center() == pytest.approx((7, 0), abs=0.01)
    assert center(shift=torch.tensor([[2.0, -3.0]])) == pytest.approx((9, -3), abs=0.01)
    assert center(angle=torch.tensor([math.pi / 2])) == pytest.approx((0, -7), abs=0.01)
    assert center(scale=torch.tensor([[0.5, 1.0]])) == pytest.approx((3.5, 0), abs=0.1)
    images = images.transpose(2, 3)  # below the center
    assert center(shear=torch.tensor([0.5])) == pytest.approx((3.5, 7), abs=0.1)


def test_distortions_stay_in_their_limits_and_differ_between_images() -> None:
    distortion = ALL.draw(5000, torch.Generator().manual_seed(2))
    for values, limit in (
        (distortion["angle"], math.radians(15)),
        (distortion["shear"], math.tan(math.radians(10))),
        (distortion["shift"], 2),
        (distortion["scale"] - 1, 0.15),
    ):
        assert 0.98 * limit < values.abs().max() <= limit + 1e-6
        assert values.mean().abs() < 0.05 * limit
        assert len(set(values.flatten().tolist())) > 4000
    assert distortion["elastic"].std().item() == pytest.approx(1, abs=0.02)


def test_all_randomness_comes_from_the_generator() -> None:
    images = random_images(64)
    first = ALL(images, torch.Generator().manual_seed(3))
    torch.manual_seed(7)
    assert torch.equal(first, ALL(images, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, ALL(images, torch.Generator().manual_seed(4)))
    assert first.min() >= 0 and first.max() <= 1


def test_light_share_is_the_fraction_of_images_that_change() -> None:
    images = torch.zeros(4000, 1, 28, 28)
    changed = Augmentation(background=0.5, light_share=0.3)(images, torch.Generator().manual_seed(5))
    is_changed = changed.flatten(1).amax(1) > 0
    assert is_changed.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert 0.45 < changed.max() <= 0.5


def test_inversion_gives_dark_ink_on_bright_paper() -> None:
    images = random_images(2000)
    changed = Augmentation(inversion=0.3, light_share=1)(images, torch.Generator().manual_seed(7))
    is_inverted = (changed - (1 - images)).flatten(1).abs().amax(1) < 1e-6
    assert is_inverted.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert torch.equal(changed[~is_inverted], images[~is_inverted])


def test_contrast_dims_ink_and_erasing_covers_a_rectangle() -> None:
    ink = torch.ones(2000, 1, 28, 28)
    dimmed = Augmentation(contrast=0.4, light_share=1)(ink, torch.Generator().manual_seed(6))
    assert dimmed.flatten(1).std(1).max() < 1e-6
    assert dimmed.min().item() == pytest.approx(0.6, abs=0.01)
    erased = Augmentation(erasing=8, light_share=1)(ink, torch.Generator().manual_seed(6)) < 1
    assert 6 <= erased.any(3).sum(2).max() <= 8
    assert 6 <= erased.any(2).sum(2).max() <= 8
    assert torch.equal(erased, erased.any(3, keepdim=True) & erased.any(2, keepdim=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rotation": 181}, "augmentation.rotation 181 is not allowed; it must be between 0 and 180"),
        ({"shear": -1}, "augmentation.shear -1 is not allowed; it must be between 0 and 80"),
        ({"inversion": 1.5}, "augmentation.inversion 1.5 is not allowed; it must be between 0 and 1"),
        ({"noise": float("nan")}, "augmentation.noise nan is not allowed; it must be between 0 and inf"),
        ({"elastic_nodes": 1}, "augmentation.elastic_nodes 1 is not allowed; it must be 2 or more"),
    ],
)
def test_wrong_limits_are_reported(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        Augmentation(**options)
    assert str(error.value) == message


def squares(num_images: int = 40) -> Tensor:
    images = torch.zeros(num_images, 1, 28, 28)
    images[..., 9:19, 9:19] = 1
    return images


def test_pen_makes_strokes_thicker_or_thinner() -> None:
    changed = Augmentation(pen=1)(squares(), torch.Generator().manual_seed(0))
    ink = changed.sum((1, 2, 3))
    assert ((ink >= 8**2 - 0.1) & (ink <= 12**2 + 0.1)).all()
    assert 10 < (ink < 95).sum() < 30 and 10 < (ink > 105).sum() < 30


def test_outline_leaves_the_inside_empty() -> None:
    changed = Augmentation(outline=1)(squares(), torch.Generator().manual_seed(0))
    assert changed[..., 10:18, 10:18].max() == 0
    assert (changed.amax((1, 2, 3)) == 1).all()


def test_strokes_cross_or_cut_a_fraction_of_the_images() -> None:
    changed = Augmentation(strokes=0.5)(squares(), torch.Generator().manual_seed(0))
    ink = changed.sum((1, 2, 3))
    assert 20 <= (ink == 100).sum() <= 32  # a line may miss the square
    assert (ink > 101).any() and (ink < 99).any()


def test_a_broad_nib_widens_strokes_without_moving_them() -> None:
    changed = Augmentation(nib=1)(squares(), torch.Generator().manual_seed(0))
    ink, places = changed.sum((1, 2, 3)), torch.arange(28) - 13.5
    assert (changed[..., 11:17, 11:17].amin((1, 2, 3)) >= 0.49).all()  # at least half of the ink
    assert ((changed > 0.01).sum((1, 2, 3)) > 120).sum() > 20 and (changed <= 1).all()
    assert ((changed.sum((1, 2)) @ places / ink).abs() < 0.01).all()


def test_coarse_images_keep_their_ink_and_lose_detail() -> None:
    lines = torch.zeros(10, 1, 28, 28)
    lines[..., ::2] = 1
    changed = Augmentation(coarse=1)(lines, torch.Generator().manual_seed(0))
    assert changed.std((1, 2, 3)).max() < 0.3 < 0.45 < lines.std()
    assert changed.mean() == pytest.approx(0.5, abs=0.01)
    assert changed.min() >= 0 and changed.max() <= 1


def test_what_is_off_draws_no_random_numbers() -> None:
    used, expected = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    Augmentation(rotation=5, pen=0.5)(squares(), used)
    Augmentation(rotation=5).draw(40, expected)
    torch.rand(40, 1, 1, 1, generator=expected)  # of the pen
    assert torch.equal(used.get_state(), expected.get_state())


def test_pens_draw_in_images_of_any_size_and_color() -> None:
    images = torch.rand(8, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    changed = Augmentation(pen=1, outline=0.3, strokes=1, nib=0.5, coarse=0.5)(images, torch.Generator().manual_seed(0))
    assert changed.shape == images.shape
    assert ((changed >= 0) & (changed <= 1)).all()


def test_flags_start_at_the_top_of_ones() -> None:
    images, is_one = squares(), torch.arange(40) < 30
    images[..., 12:, 12:] = 0  # a stroke without a foot
    generator = torch.Generator().manual_seed(0)
    changed = Augmentation(flags=0.5)(images, generator, is_one)
    added = changed - images
    assert 8 < (added.sum((1, 2, 3)) > 0).sum() < 22
    assert added[30:].sum() == added[:, :, :6].sum() == added[:, :, :, 12:].sum() == 0
    assert torch.equal(Augmentation(flags=1)(images, generator), images)
    images[..., 18, 9:19] = 1  # a foot
    assert torch.equal(Augmentation(flags=1)(images, generator, is_one), images)
