"""Pictures that show no digit, for training: strokes at random, dots, and digits that are mixed, turned or cut.

A network that has seen nothing but digits takes everything for a digit. In the loss, these pictures count half as much
as digits. Source: Hendrycks et al. 2019 (arXiv:1812.04606).
"""

import torch
from torch import Generator, Tensor

from mnist_lightning.data.augmentation import draw_path, move, uniform

TURNED = ((3, 4, 6, 7, 9), (3, 4, 7), (2, 3, 4, 5, 6, 7, 8, 9))  # mirrored, upside down, on the side
HALVED = ((0, 2, 3, 5, 6, 8), (0, 2, 5, 6))  # the left half alone, the right one
"""Digits that no longer look like digits when they are turned, or when half of them is missing."""


def make_outliers(digits: Tensor, labels: Tensor, num_images: int, generator: Generator) -> Tensor:
    """Returns pictures without a digit `(num_images, 1, 28, 28)` float32 in [0, 1].

    Each is made from one or two digits, `(N, 1, 28, 28)` with labels `(N,)`, or is a scribble if the result could
    still be a digit.
    """
    chosen = torch.randint(len(digits), (2, num_images), generator=generator, device=digits.device)
    parts = zip(KINDS, chosen.tensor_split(len(KINDS), 1), strict=True)
    made = [kind(digits[part], labels[part].long(), generator) for kind, part in parts if part.shape[1]]
    pictures, is_none = map(torch.cat, zip(*made, strict=True))
    return torch.where(is_none.view(-1, 1, 1, 1), pictures, scribble(num_images, generator))


def scribble(num_images: int, generator: Generator) -> Tensor:
    """Draws three to five strokes between places on a grid, joined or apart, straight or bent, as in letters."""
    cells, rest = uniform(generator, 2, 2, num_images, 5, 2)
    starts, others = 6 * (4 * cells).floor() + 3.5 + 3 * rest
    is_joined, is_bent = uniform(generator, 2, num_images, 1, 1) < 0.6
    ends = torch.where(is_joined, starts.roll(-1, 1), others)
    bends = 12 * is_bent * (uniform(generator, num_images, 5, 2) - 0.5)
    place = torch.linspace(0, 1, 24, device=generator.device).view(-1, 1)
    strokes = torch.lerp(starts.unsqueeze(2), ends.unsqueeze(2), place) + 4 * place * (1 - place) * bends.unsqueeze(2)
    last = (2 + 3 * uniform(generator, num_images, 1)).long()  # the strokes after it repeat it
    kept = torch.arange(5, device=generator.device).minimum(last)
    strokes = strokes.gather(1, kept[:, :, None, None].expand_as(strokes))
    return draw_path(strokes.flatten(1, 2), 1.5 + 2.5 * uniform(generator, num_images))


# Each of the following takes digits `(2, N, 1, 28, 28)` and labels `(2, N)`, and returns N pictures, and for each
# whether it shows no digit.


def dot(digits: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draws up to three dots of any size, in half of the pictures."""
    num_images = digits.shape[1]
    places = 14 + 18 * uniform(generator, num_images, 1, 1) * (uniform(generator, num_images, 3, 2) - 0.5)
    return draw_path(places, 2 + 16 * uniform(generator, num_images)), uniform(generator, num_images) < 0.5


def squeeze(digits: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Puts two digits side by side."""
    halves = []
    for place, digit in zip((-5.5, 5.5), digits, strict=True):
        height, lift = uniform(generator, 2, len(digit))
        scale = torch.stack([torch.full_like(height, 0.55), 0.7 + 0.4 * height], 1)
        shift = torch.stack([torch.full_like(lift, place), 2 * lift - 1], 1)
        halves.append(move(digit, scale=scale, shift=shift))
    return torch.maximum(*halves), torch.ones_like(labels[0], dtype=torch.bool)


def cross(digits: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Overlays two digits, one of them moved and turned; not a 1, which would only be a line through the other."""
    shift, angle = 12 * (uniform(generator, digits.shape[1], 2) - 0.5), 6.3 * uniform(generator, digits.shape[1])
    return torch.maximum(digits[0], move(digits[1], shift=shift, angle=angle)), (labels != 1).all(0)


def turn(digits: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Mirrors digits, or turns them."""
    turned = torch.stack([digits[0].flip(3), digits[0].rot90(2, (2, 3)), digits[0].rot90(1, (2, 3))])
    each = torch.arange(digits.shape[1], device=digits.device)
    way = torch.randint(3, each.shape, generator=generator, device=digits.device)
    return turned[way, each], _is_one_of(labels[0], TURNED)[way, each]


def halve(digits: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Cuts digits in two, near the middle, and centers a half."""
    is_right = uniform(generator, digits.shape[1]) < 0.5
    side = 2 * is_right.float().unsqueeze(1) - 1
    is_kept = side * (torch.arange(28, device=digits.device) - 13.5) > 3 * uniform(generator, *side.shape) - 1
    half = move(digits[0] * is_kept[:, None, None, :], shift=torch.cat([-5 * side, 0 * side], 1))
    left, right = _is_one_of(labels[0], HALVED)
    return half, torch.where(is_right, right, left)


KINDS = (dot, squeeze, cross, turn, halve)


def _is_one_of(labels: Tensor, groups: tuple[tuple[int, ...], ...]) -> Tensor:
    return torch.stack([(labels.unsqueeze(1) == labels.new_tensor(group)).any(1) for group in groups])
