"""Random distortions for training: each image has its own, and a whole batch takes a few tensor operations."""

import math
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mnist_lightning.errors import check_range

LIMITS = {
    "rotation": 180.0,
    "shear": 80.0,
    "scale": 0.9,
    "background": 1.0,
    "contrast": 1.0,
    "inversion": 1.0,
    "light_share": 1.0,
}
"""What must not be larger."""


class Distortion(NamedTuple):
    """What each of N images goes through, in this order; lengths are in pixels.

    Attributes:
        scale: `(N, 2)` float32, factors of width and height.
        shear: `(N,)` float32, how far a point moves to the right for each pixel that it lies below the centre.
        angle: `(N,)` float32, counter-clockwise, in radians.
        shift: `(N, 2)` float32, to the right and down.
        elastic: `(N, 2, K, K)` float32, displacements of a grid of nodes, from the top left to the bottom right.
    """

    scale: Tensor
    shear: Tensor
    angle: Tensor
    shift: Tensor
    elastic: Tensor


@dataclass(frozen=True)
class Augmentation:
    """How far training images may stray; every image draws its own, uniformly up to these limits.

    Args:
        rotation: Largest angle either way, in degrees.
        shift: Largest shift along each axis, in pixels.
        scale: Largest change of width and of height, as a fraction.
        shear: Largest angle either way that verticals lean over, in degrees.
        elastic: Standard deviation of the displacements of a grid of nodes, in pixels; smooth in between.
        elastic_nodes: Nodes of that grid along each side.
        background: Brightness of the brightest paper, in [0, 1]; it is lit unevenly.
        contrast: Largest loss of the contrast between ink and paper, in [0, 1].
        inversion: Share of those images that become dark ink on bright paper, in [0, 1].
        noise: Largest standard deviation of the noise of pixels.
        erasing: Longest side of a rectangle that is painted over, in pixels.
        light_share: Share of the images that background, contrast, inversion, noise and erasing change, in [0, 1].

    Raises:
        ValueError: A limit is out of its range.

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

    def __post_init__(self) -> None:
        """Checks the limits."""
        for name, value in asdict(self).items():
            most = LIMITS.get(name, math.inf)
            allowed = f"between 0 and {most:g}" if name in LIMITS else "0 or more"
            check_range(f"augmentation {name}", value, 0 <= value <= most, allowed)
        check_range("augmentation elastic_nodes", self.elastic_nodes, self.elastic_nodes > 1, "2 or more")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Returns distorted copies.

        Args:
            images: `(N, 1, H, H)` float32 in [0, 1], ink is bright.
            generator: The only source of chance; it lives on the images' device.

        Returns:
            `(N, 1, H, H)` float32 in [0, 1].
        """
        if self.rotation or self.shift or self.scale or self.shear or self.elastic:
            images = distort(images, self.draw(len(images), generator))
        if self.background or self.contrast or self.inversion or self.noise or self.erasing:
            images = self._change_light(images, generator)
        return images

    def draw(self, num_images: int, generator: torch.Generator) -> Distortion:
        """Returns the distortions of so many images."""

        def uniform(limit: float, *shape: int) -> Tensor:
            numbers = torch.rand(num_images, *shape, generator=generator, device=generator.device)
            return (2 * numbers - 1) * limit

        shape = (num_images, 2, self.elastic_nodes, self.elastic_nodes)
        return Distortion(
            scale=1 + uniform(self.scale, 2),
            shear=uniform(math.radians(self.shear)).tan(),
            angle=uniform(math.radians(self.rotation)),
            shift=uniform(self.shift, 2),
            elastic=self.elastic * torch.randn(shape, generator=generator, device=generator.device),
        )

    def _change_light(self, images: Tensor, generator: torch.Generator) -> Tensor:
        num_images, _, height, width = images.shape

        def rand(*shape: int) -> Tensor:
            return torch.rand(num_images, 1, *shape, generator=generator, device=images.device)

        is_changed = rand(1, 1) < self.light_share
        lights = torch.lerp(rand(1, 1), rand(3, 3), rand(1, 1)) * rand(1, 1)  # from even to uneven, dim to bright
        paper = F.interpolate(self.background * lights, (height, width), mode="bilinear", align_corners=True)
        changed = paper + (1 - paper) * (1 - self.contrast * rand(1, 1)) * images
        changed = torch.where(rand(1, 1) < self.inversion, 1 - changed, changed)
        if self.noise:
            noise = torch.randn(images.shape, generator=generator, device=images.device)
            changed = changed + self.noise * rand(1, 1) * noise
        if self.erasing:
            rows = (torch.arange(height, device=images.device) - height * rand(1)).abs() < self.erasing / 2 * rand(1)
            columns = (torch.arange(width, device=images.device) - width * rand(1)).abs() < self.erasing / 2 * rand(1)
            changed = torch.where(rows.unsqueeze(3) & columns.unsqueeze(2), rand(1, 1), changed)
        return torch.where(is_changed, changed.clamp(0, 1), images)


def distort(images: Tensor, distortion: Distortion) -> Tensor:
    """Scales, shears, rotates and shifts images around their centres, and bends them.

    Args:
        images: `(N, 1, H, H)` float32; beyond their edges all is 0.
        distortion: What each of them goes through.

    Returns:
        `(N, 1, H, H)` float32, interpolated linearly.
    """
    size = images.shape[-1]
    cos, sin, shear = distortion.angle.cos(), distortion.angle.sin(), distortion.shear
    # Each pixel looks up where it came from, so that everything is undone, the last first.
    rows = torch.stack([cos - shear * sin, -sin - shear * cos, sin, cos], 1).view(-1, 2, 2)
    inverse = rows / distortion.scale.unsqueeze(2)
    origin = inverse @ -distortion.shift.unsqueeze(2) * (2 / size)  # affine_grid counts in half images
    grid = F.affine_grid(torch.cat([inverse, origin], 2), list(images.shape), align_corners=False)
    bend = F.interpolate(distortion.elastic * (2 / size), (size, size), mode="bicubic", align_corners=True)
    return F.grid_sample(images, grid + bend.permute(0, 2, 3, 1), align_corners=False)
