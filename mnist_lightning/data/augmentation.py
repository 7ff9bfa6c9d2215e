"""Random changes of training images, a whole batch at a time: distortions, other pens, and light."""

import math
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from mnist_lightning.errors import check_range


@dataclass(frozen=True)
class Augmentation:
    """Random distortions of training images; each image draws its own, uniformly up to these limits.

    Args:
        rotation: Largest angle either way, in degrees.
        shift: Largest shift along each axis, in pixels.
        scale: Largest change of width and of height, as a fraction.
        shear: Largest slant of verticals either way, in degrees.
        elastic: Standard deviation of the displacements of a grid of nodes, in pixels; interpolated smoothly.
        elastic_nodes: Nodes along each side of that grid.
        background: Brightness of the brightest paper, in [0, 1], lit unevenly.
        contrast: Largest loss of contrast between ink and paper, in [0, 1].
        inversion: Fraction of the images changed by light that become dark ink on light paper, in [0, 1].
        noise: Largest standard deviation of pixel noise.
        erasing: Longest side of a rectangle of random brightness that covers part of the image, in pixels.
        flags: Fraction of the handwritten 1s that get a flag, in [0, 1].
        pen: Largest change of the stroke width, thicker or thinner, in [0, 1]; 1 is two pixels.
        outline: Fraction of the images that are reduced to their outline, in [0, 1].
        strokes: Fraction of the images that a line crosses or interrupts, in [0, 1].
        nib: Fraction of the images that are written with a broad nib, in [0, 1].
        coarse: Fraction of the images that are reduced to a half or a third of their size and enlarged, in [0, 1].
        light_share: Fraction of the images that background, contrast, inversion, noise and erasing apply to.

    Source: Simard et al. 2003 (ICDAR) for elastic distortions; Zhong et al. 2017 (arXiv:1708.04896) for erasing.
    """

    rotation: float = 0.0
    shift: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    elastic: float = 0.0
    elastic_nodes: int = 6
    background: float = 0.0
    contrast: float = 0.0
    inversion: float = 0.0
    noise: float = 0.0
    erasing: float = 0.0
    light_share: float = 0.5
    flags: float = 0.0
    pen: float = 0.0
    outline: float = 0.0
    strokes: float = 0.0
    nib: float = 0.0
    coarse: float = 0.0

    def __post_init__(self) -> None:
        check_range("augmentation.elastic_nodes", self.elastic_nodes, self.elastic_nodes > 1, "2 or more")
        for name, value in asdict(self).items():
            limit = LIMITS.get(name, math.inf)
            check_range(f"augmentation.{name}", value, 0 <= value <= limit, f"between 0 and {limit:g}")

    def __call__(self, images: Tensor, generator: Generator, is_one: Tensor | None = None) -> Tensor:
        """Returns distorted images `(N, 1, H, H)` float32 in [0, 1], bright ink; `is_one` `(N,)`: which show a 1."""
        if self.flags and is_one is not None:
            images = add_flags(images, is_one & (uniform(generator, len(images)) < self.flags), generator)
        if self.rotation or self.shift or self.scale or self.shear or self.elastic:
            images = distort(images, **self.draw(len(images), generator))
        if self.pen:
            images = change_width(images, self.pen, generator)
        for name, change in PENS.items():
            if number := round(getattr(self, name) * len(images)):
                chosen = uniform(generator, len(images)).argsort()[:number]
                images = images.index_copy(0, chosen, change(images[chosen], generator))
        if self.background or self.contrast or self.inversion or self.noise or self.erasing:
            images = self._change_light(images, generator)
        return images

    def draw(self, num_images: int, generator: Generator) -> dict[str, Tensor]:
        """Draws what `distort` does to each of `num_images` images."""
        rand = partial(uniform, generator, num_images)
        shape = (num_images, 2, self.elastic_nodes, self.elastic_nodes)
        return {
            "scale": 1 + self.scale * (2 * rand(2) - 1),
            "shear": (math.radians(self.shear) * (2 * rand() - 1)).tan(),
            "angle": math.radians(self.rotation) * (2 * rand() - 1),
            "shift": self.shift * (2 * rand(2) - 1),
            "elastic": self.elastic * torch.randn(shape, generator=generator, device=generator.device),
        }

    def _change_light(self, images: Tensor, generator: Generator) -> Tensor:
        size, rand = images.shape[-1], partial(uniform, generator, len(images), 1)
        is_changed = rand(1, 1) < self.light_share
        lights = torch.lerp(rand(1, 1), rand(3, 3), rand(1, 1)) * rand(1, 1)  # even to uneven, dim to bright
        paper = F.interpolate(self.background * lights, (size, size), mode="bilinear", align_corners=True)
        changed = paper + (1 - paper) * (1 - self.contrast * rand(1, 1)) * images
        changed = torch.where(rand(1, 1) < self.inversion, 1 - changed, changed)
        if self.noise:
            changed += torch.randn(images.shape, generator=generator, device=images.device) * (self.noise * rand(1, 1))
        if self.erasing:
            rows = (torch.arange(size, device=images.device) - size * rand(1)).abs() < self.erasing / 2 * rand(1)
            columns = (torch.arange(size, device=images.device) - size * rand(1)).abs() < self.erasing / 2 * rand(1)
            changed = torch.where(rows.unsqueeze(3) & columns.unsqueeze(2), rand(1, 1), changed)
        return torch.where(is_changed, changed.clamp(0, 1), images)


def distort(images: Tensor, **changes: Tensor) -> Tensor:
    """Distorts images `(N, C, H, H)` float32 around their centers; bilinear, and 0 beyond the edges.

    The changes, any of them and in this order, are float32, with lengths in pixels: `scale` `(N, 2)`, factors of width
    and height; `shear` `(N,)`, how far a point moves to the right for each pixel below the center; `angle` `(N,)`,
    counter-clockwise, in radians; `shift` `(N, 2)`, to the right and down; `elastic` `(N, 2, K, K)`, displacements of
    a grid of nodes, from the top left to the bottom right.
    """
    size, none, pair = images.shape[-1], images.new_zeros(len(images)), images.new_zeros(len(images), 2)
    nothing = {"scale": pair + 1, "shear": none, "angle": none, "shift": pair, "elastic": pair.view(-1, 2, 1, 1)}
    scale, shear, angle, shift, elastic = (nothing | changes).values()
    cos, sin = angle.cos(), angle.sin()
    # Each output pixel is sampled from where it came from, so the steps are inverted, the last one first.
    inverse = torch.stack([cos - shear * sin, -sin - shear * cos, sin, cos], 1).view(-1, 2, 2) / scale.unsqueeze(2)
    origin = inverse @ -shift.unsqueeze(2) * (2 / size)  # affine_grid's unit is half an image
    grid = F.affine_grid(torch.cat([inverse, origin], 2), list(images.shape), align_corners=False)
    bend = F.interpolate(elastic * (2 / size), (size, size), mode="bicubic", align_corners=True)
    return F.grid_sample(images, grid + bend.permute(0, 2, 3, 1), align_corners=False)


def make_generator(*keys: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Returns a generator that is seeded by all keys."""
    return torch.Generator(device).manual_seed(int(np.random.SeedSequence(keys).generate_state(1)[0]))


def uniform(generator: Generator, *shape: int) -> Tensor:
    """Returns random numbers in [0, 1), float32."""
    return torch.rand(shape, generator=generator, device=generator.device)


def draw_path(points: Tensor, widths: Tensor, size: int = 28) -> Tensor:
    """Draws a pen's path through points `(N, P, 2)`, in pixels, with widths `(N,)`; `(N, 1, H, H)` in [0, 1]."""
    x, y = (points.unsqueeze(3) - torch.arange(size, device=points.device)).square().unbind(2)  # (N, P, H)
    distances = (y.unsqueeze(3) + x.unsqueeze(2)).amin(1).sqrt()
    return (widths.view(-1, 1, 1) / 2 + 0.5 - distances).clamp(0, 1).unsqueeze(1)


def change_width(images: Tensor, pen: float, generator: Generator) -> Tensor:
    """Makes strokes in images `(N, C, H, H)` thicker or thinner, by up to two pixels for a `pen` of 1."""
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
    return torch.where((chosen & ~has_foot).view(-1, 1, 1, 1), torch.maximum(images, flag), images)


def _straight(angles: Tensor, first: float, last: float, num_points: int) -> Tensor:
    """Returns points `(N, P, 2)` in directions `(N,)`, in radians, from the first distance to the last."""
    reach = torch.linspace(first, last, num_points, device=angles.device).view(-1, 1)
    return reach * torch.stack([angles.cos(), angles.sin()], 1).unsqueeze(1)


PENS = {"outline": outline, "strokes": cross_out, "nib": use_broad_nib, "coarse": make_coarse}
"""Changes of images `(N, C, H, H)` float32 in [0, 1], by the argument that says how many images are changed."""

FRACTIONS = ("background", "contrast", "inversion", "light_share", "flags", "pen", *PENS)
LIMITS = {"rotation": 180, "shear": 80, "scale": 0.9, **dict.fromkeys(FRACTIONS, 1)}
"""Upper limits of the arguments of `Augmentation`; the others have none."""
