"""Pictures that show no digit, for training: strokes at random, dots, and digits that are mixed, turned or cut.

A network that has seen nothing but digits takes everything for a digit; from these, it learns to abstain.
Source: Hendrycks et al. 2019 (arXiv:1812.04606).
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from mnist_lightning.data.augmentation import distort, draw_path, uniform


def make_outliers(digits: Tensor, labels: Tensor, num_images: int, generator: Generator) -> Tensor:
    """Returns pictures without a digit `(num_images, 1, 28, 28)` float32 in [0, 1].

    Each is made from digits `(N, 1, 28, 28)` with labels `(N,)`, or is a scribble if the result could be a digit.
    """
    chosen = torch.randint(len(digits), (2, num_images), generator=generator, device=digits.device)
    parts = zip(KINDS, chosen.tensor_split(len(KINDS), 1), strict=True)
    made = [kind(digits[part], labels[part].long(), generator) for kind, part in parts if part.shape[1]]
    pictures, is_none = map(torch.cat, zip(*made, strict=True))
    return torch.where(is_none.view(-1, 1, 1, 1), pictures, scribble(num_images, generator))


def scribble(num_images: int, generator: Generator) -> Tensor:
    """Draws two to five strokes, joined or apart, straight or bent, symmetric or not, as in letters and signs."""
    rand = partial(uniform, generator, num_images)
    cells = 1 + (2 + 2 * rand(1, 1, 1)).floor()  # places are on a grid in some pictures, anywhere in others
    free = rand(2, 5, 2)
    places = torch.lerp((free * cells).floor() / (cells - 1), free, rand(1, 1, 1).square())
    starts, others = (14 + (12 + 8 * rand(1, 1, 2)) * (places - 0.5)).unbind(1)
    last = (1 + 4 * rand(1).square()).floor()
    number = torch.arange(5, device=generator.device)
    following = torch.where((number == last) & (rand(1) < 0.3), 0, number + 1).clamp(max=4)
    ends = torch.where(rand(5, 1) < 0.6, starts.take_along_dim(following.unsqueeze(2), 1), others)
    bends = 16 * (rand(5, 1) < rand(1, 1)) * (rand(5, 2) - 0.5)
    place = torch.linspace(0, 1, 24, device=generator.device).view(-1, 1)
    strokes = torch.lerp(starts.unsqueeze(2), ends.unsqueeze(2), place) + 4 * place * (1 - place) * bends.unsqueeze(2)
    kept = number.minimum(last).long()[:, :, None, None]  # strokes after the last one repeat it
    picture = draw_path(strokes.take_along_dim(kept, 1).flatten(1, 2), 1.5 + 2.5 * rand())
    mirrored = torch.where(rand(1, 1, 1) < 0.6, picture.flip(3), picture.flip(2))
    return torch.where(rand(1, 1, 1) < 0.4, torch.maximum(picture, mirrored), picture)


def dot(digits: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draws up to three dots of any size, in a third of the pictures."""
    num_images = digits.shape[1]
    places = 14 + 18 * uniform(generator, num_images, 1, 1) * (uniform(generator, num_images, 3, 2) - 0.5)
    return draw_path(places, 2 + 16 * uniform(generator, num_images)), uniform(generator, num_images) < 0.3


def squeeze(digits: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Puts two digits side by side."""
    halves = []
    for place, digit in zip((-5.5, 5.5), digits, strict=True):
        height, lift = uniform(generator, 2, len(digit))
        scale = torch.stack([torch.full_like(height, 0.55), 0.7 + 0.4 * height], 1)
        shift = torch.stack([torch.full_like(lift, place), 2 * lift - 1], 1)
        halves.append(distort(digit, scale=scale, shift=shift))
    return torch.maximum(*halves), torch.ones_like(labels[0], dtype=torch.bool)


def cross(digits: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Overlays two digits, one of them moved and turned; not a 1, which would only be a line through the other."""
    shift, angle = 12 * (uniform(generator, digits.shape[1], 2) - 0.5), 6.3 * uniform(generator, digits.shape[1])
    is_none = (labels != 1).all(0) & (labels[0] != labels[1])
    return torch.maximum(digits[0], distort(digits[1], shift=shift, angle=angle)), is_none


def change(digits: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Mirrors or turns digits, or cuts them in two and mirrors or omits a half."""
    changed = torch.stack([function(digits[0]) for function in CHANGES])
    each = torch.arange(digits.shape[1], device=digits.device)
    way = torch.randint(len(CHANGES), each.shape, generator=generator, device=digits.device)
    is_none = torch.stack([torch.isin(labels[0], labels.new_tensor(group)) for group in CHANGES.values()])
    return changed[way, each], is_none[way, each]


KINDS = (dot, squeeze, cross, change, change)
"""Make N pictures from digits `(2, N, 1, 28, 28)` and labels `(2, N)`; return them, and which of them show no digit."""

CHANGES: dict[Callable[[Tensor], Tensor], tuple[int, ...]] = {
    lambda images: images.flip(3): (3, 4, 6, 7, 9),
    lambda images: images.flip(2): (4, 6, 7, 9),
    lambda images: images.rot90(1, (2, 3)): (2, 3, 4, 5, 6, 7, 8, 9),
    lambda images: images.rot90(2, (2, 3)): (3, 4, 7),
    lambda images: images.rot90(3, (2, 3)): (2, 3, 4, 5, 6, 7, 8, 9),
    lambda images: F.pad(images[..., :14], (7, 7)): (0, 2, 3, 5, 6, 8),
    lambda images: F.pad(images[..., 14:], (7, 7)): (0, 2, 5, 6),
    lambda images: torch.cat([images[..., :14], images[..., :14].flip(3)], 3): (2, 4, 5, 7),
    lambda images: torch.cat([images[..., 14:].flip(3), images[..., 14:]], 3): (2, 4, 7),
    lambda images: torch.cat([images[:, :, :14], images[:, :, :14].flip(2)], 2): (4, 5, 7),
    lambda images: torch.cat([images[:, :, 14:].flip(2), images[:, :, 14:]], 2): (2,),
}
"""Changes of images `(N, 1, 28, 28)`, and the digits that no longer look like digits then."""
