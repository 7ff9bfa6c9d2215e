"""Other pens than those of the training images: thick, thin, broad or hollow; lines across, flags on 1s."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

Change = Callable[[Tensor, Generator], Tensor]


def uniform(generator: Generator, *shape: int) -> Tensor:
    """Returns random numbers in [0, 1), float32."""
    return torch.rand(shape, generator=generator, device=generator.device)


def draw_path(points: Tensor, widths: Tensor, size: int = 28) -> Tensor:
    """Draws a pen's path through points `(N, P, 2)`, in pixels, with widths `(N,)`; `(N, 1, H, H)` in [0, 1]."""
    pixels = torch.arange(size, device=points.device)
    x, y = (points.unsqueeze(3) - pixels).square().unbind(2)  # (N, P, H)
    distances = (y.unsqueeze(3) + x.unsqueeze(2)).amin(1).sqrt()
    return (widths.view(-1, 1, 1) / 2 + 0.5 - distances).clamp(0, 1).unsqueeze(1)


def change_some(images: Tensor, fraction: float, generator: Generator, change: Change) -> Tensor:
    """Applies a change to a fraction of the images `(N, C, H, H)`, chosen at random."""
    if not (number := round(fraction * len(images))):
        return images
    chosen = uniform(generator, len(images)).argsort()[:number]
    return images.index_copy(0, chosen, change(images[chosen], generator))


# The following take images `(N, C, H, H)` float32 in [0, 1], and return as many.


def change_width(images: Tensor, pen: float, generator: Generator) -> Tensor:
    """Makes strokes thicker or thinner, by up to two pixels for a `pen` of 1."""
    thick, thin = F.max_pool2d(images, 3, 1, 1), -F.max_pool2d(-images, 3, 1, 1)
    amount = pen * (2 * uniform(generator, len(images), 1, 1, 1) - 1)
    return torch.lerp(images, torch.where(amount > 0, thick, thin), amount.abs())


def outline(images: Tensor, generator: Generator) -> Tensor:
    """Leaves the outlines of strokes."""
    thick = F.max_pool2d(images, 3, 1, 1)
    return F.max_pool2d(thick, 3, 1, 1) - torch.lerp(images, thick, uniform(generator, len(images), 1, 1, 1))


def cross_out(images: Tensor, generator: Generator) -> Tensor:
    """Draws a line across each image, or erases one."""
    size, rand = images.shape[-1], partial(uniform, generator, len(images))
    path = size * (0.15 + 0.7 * rand(1, 2)) + _straight(2 * math.pi * rand(), -size, size, 2 * size)
    line = draw_path(path, 1 + rand(), size)
    return torch.where(rand(1, 1, 1) < 0.5, torch.maximum(images, line), images * (1 - line))


def use_broad_nib(images: Tensor, generator: Generator) -> Tensor:
    """Writes with a nib of up to six pixels, held at any angle, with more or less ink."""
    rand = partial(uniform, generator, len(images))
    nib = draw_path(3 + rand(1, 1) * _straight(math.pi * rand(), -3, 3, 25), rand(), 7)
    ink = (0.5 + 0.5 * rand(1, 1, 1)) * nib / nib.amax((2, 3), keepdim=True)
    return F.conv2d(images.transpose(0, 1), ink, padding=3, groups=len(images)).transpose(0, 1).clamp(max=1)


def make_coarse(images: Tensor, generator: Generator) -> Tensor:
    """Reduces images to between a third and half of their size, and enlarges them again."""
    size = images.shape[-1]
    few = round(size / 3 + size / 6 * uniform(generator).item())
    return F.interpolate(F.interpolate(images, (few, few), mode="area"), (size, size), mode="bicubic").clamp(0, 1)


def add_flags(images: Tensor, chosen: Tensor, generator: Generator) -> Tensor:
    """Draws a stroke from the top to the lower left in chosen `(N,)` of the images `(N, 1, H, H)`, which show 1s."""
    rand, size, ink = partial(uniform, generator, len(images)), images.shape[-1], images[:, 0] > 0.5
    has_foot = ink[:, size // 2 :].sum(2).amax(1) > size / 4  # with a flag, too, it would look like a 2
    top = ink.any(2).int().argmax(1)
    left = ink[torch.arange(len(ink), device=ink.device), top].int().argmax(1)
    path = (3 + 6 * rand(1, 1)) * _straight(math.pi - 0.4 - 0.8 * rand(), 0, 1, 12)
    flag = draw_path(torch.stack([left, top], 1).unsqueeze(1) + path, 1.5 + 1.5 * rand(), size)
    is_changed = (chosen & ~has_foot).view(-1, 1, 1, 1)
    return torch.where(is_changed, torch.maximum(images, flag), images)


def _straight(angles: Tensor, first: float, last: float, num_points: int) -> Tensor:
    """Returns points `(N, P, 2)` in directions `(N,)`, in radians, from the first distance to the last."""
    reach = torch.linspace(first, last, num_points, device=angles.device).view(-1, 1)
    return reach * torch.stack([angles.cos(), angles.sin()], 1).unsqueeze(1)


CHANGES: dict[str, Change] = {"outline": outline, "strokes": cross_out, "nib": use_broad_nib, "coarse": make_coarse}
"""By the argument of `Augmentation` that says how many images are changed."""
