"""Other pens than those of the training images: thicker, thinner or hollow strokes, lines across, flags on 1s."""

import math
from functools import partial

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


def uniform(generator: Generator, *shape: int) -> Tensor:
    """Returns random numbers in [0, 1), float32."""
    return torch.rand(shape, generator=generator, device=generator.device)


def draw_path(points: Tensor, widths: Tensor, size: int = 28) -> Tensor:
    """Draws a pen's path through points `(N, P, 2)`, in pixels, with widths `(N,)`; `(N, 1, H, H)` in [0, 1]."""
    pixels = torch.arange(size, device=points.device)
    x, y = (points.unsqueeze(3) - pixels).square().unbind(2)  # (N, P, H)
    distances = (y.unsqueeze(3) + x.unsqueeze(2)).amin(1).sqrt()
    return (widths.view(-1, 1, 1) / 2 + 0.5 - distances).clamp(0, 1).unsqueeze(1)


def change(images: Tensor, pen: float, outline: float, strokes: float, generator: Generator) -> Tensor:
    """Changes images `(N, 1, H, H)` float32 in [0, 1]; the limits are explained in `Augmentation`."""
    num_images, size, rand = len(images), images.shape[-1], partial(uniform, generator, len(images))
    thick, thin = F.max_pool2d(images, 3, 1, 1), -F.max_pool2d(-images, 3, 1, 1)
    amount = pen * (2 * rand(1, 1, 1) - 1)
    changed = torch.lerp(images, torch.where(amount > 0, thick, thin), amount.abs())
    hollow = F.max_pool2d(thick, 3, 1, 1) - torch.lerp(images, thick, rand(1, 1, 1))
    changed = torch.where(rand(1, 1, 1) < outline, hollow, changed)
    marked = rand().argsort()[: round(strokes * num_images)]
    angle, middle = 2 * math.pi * rand(1)[marked], size * (0.15 + 0.7 * rand(1, 2)[marked])
    reach = torch.linspace(-size, size, 2 * size, device=images.device).view(-1, 1)
    line = draw_path(middle + reach * torch.stack([angle.cos(), angle.sin()], 2), 1 + rand()[marked], size)
    crossed, interrupted = torch.maximum(changed[marked], line), changed[marked] * (1 - line)
    return changed.index_copy(0, marked, torch.where(rand(1, 1, 1)[marked] < 0.5, crossed, interrupted))


def add_flags(images: Tensor, chosen: Tensor, generator: Generator) -> Tensor:
    """Draws a stroke from the top of the ink to the lower left, in chosen `(N,)` of the images `(N, 1, H, H)`."""
    rand, ink = partial(uniform, generator, len(images)), images[:, 0] > 0.5
    top = ink.any(2).int().argmax(1)
    left = ink[torch.arange(len(ink), device=ink.device), top].int().argmax(1)
    angle, reach = (
        0.4 + 0.8 * rand(1),
        (3 + 6 * rand(1, 1)) * torch.linspace(0, 1, 12, device=images.device).view(-1, 1),
    )
    points = torch.stack([left, top], 1).unsqueeze(1) + reach * torch.stack([-angle.cos(), angle.sin()], 2)
    flag = draw_path(points, 1.5 + 1.5 * rand(), images.shape[-1])
    return torch.where(chosen.view(-1, 1, 1, 1), torch.maximum(images, flag), images)
