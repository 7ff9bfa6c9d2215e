"""Error rates with corruptions that were not used in training: `python -m benchmarks.robustness`.

The corruptions resemble those of MNIST-C (Mu and Gilmer 2019, arXiv:1906.02337), in an independent implementation.
With `--validation`, the 6,000 validation images are corrupted instead, to compare configs.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from benchmarks import measure
from benchmarks.accuracy import predict
from mnist_lightning.data.augmentation import distort
from mnist_lightning.data.module import MNISTDataModule, scale
from mnist_lightning.runs import folders

Corruption = Callable[[Tensor, Generator], Tensor]
"""Returns corrupted copies of images `(N, 1, 28, 28)` float32 in [0, 1]; the caller clips them to [0, 1]."""


def shot_noise(images: Tensor, generator: Generator) -> Tensor:
    """Adds the noise of few photons."""
    return torch.poisson(images * 5, generator) / 5


def impulse_noise(images: Tensor, generator: Generator) -> Tensor:
    """Makes a fifth of the pixels black or white."""
    noise = torch.rand(images.shape, generator=generator)
    return images.masked_fill(noise < 0.1, 0).masked_fill(noise > 0.9, 1)


def blur(images: Tensor, generator: Generator) -> Tensor:
    """Applies a Gaussian blur with a standard deviation of 1.5 pixels."""
    kernel = torch.exp(-(torch.linspace(-4, 4, 9) ** 2) / (2 * 1.5**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, 9)
    return F.conv2d(F.conv2d(images, kernel, padding=(0, 4)), kernel.transpose(2, 3), padding=(4, 0))


def motion_blur(images: Tensor, generator: Generator) -> Tensor:
    """Blurs along a line of 8 pixels in a random direction."""
    angle = 2 * math.pi * torch.rand(len(images), generator=generator)
    steps = torch.linspace(-4, 4, 17)
    moved = [distort(images, shift=step * torch.stack([angle.cos(), angle.sin()], 1)) for step in steps]
    return torch.stack(moved).mean(0)


def fog(images: Tensor, generator: Generator) -> Tensor:
    """Adds clouds of all sizes, up to two thirds of full brightness."""
    clouds = torch.zeros_like(images)
    for nodes in (2, 4, 8, 16):
        noise = torch.rand(len(images), 1, nodes, nodes, generator=generator)
        clouds += F.interpolate(noise, (28, 28), mode="bicubic", align_corners=True) / nodes
    return images * 0.6 + clouds / clouds.amax((2, 3), keepdim=True) * 0.65


def brightness(images: Tensor, generator: Generator) -> Tensor:
    """Makes all pixels brighter by half of the range."""
    return images + 0.5


def contrast(images: Tensor, generator: Generator) -> Tensor:
    """Reduces the contrast to a fifth, around gray."""
    return 0.4 + 0.2 * images


def stripes(images: Tensor, generator: Generator) -> Tensor:
    """Inverts two vertical bands."""
    images = images.clone()
    for columns in (slice(5, 9), slice(19, 23)):
        images[..., columns] = 1 - images[..., columns]
    return images


def scaled(images: Tensor, generator: Generator) -> Tensor:
    """Shrinks width and height to between half and three quarters."""
    factor = 0.5 + 0.25 * torch.rand(len(images), 1, generator=generator)
    return distort(images, scale=factor.expand(-1, 2))


def rotated(images: Tensor, generator: Generator) -> Tensor:
    """Rotates by 20 to 35 degrees in either direction."""
    degrees = 20 + 15 * torch.rand(len(images), generator=generator)
    return distort(images, angle=_sign(images, generator) * degrees.deg2rad())


def sheared(images: Tensor, generator: Generator) -> Tensor:
    """Shears by 0.3 to 0.6 pixels per row, in either direction."""
    return distort(images, shear=_sign(images, generator) * (0.3 + 0.3 * torch.rand(len(images), generator=generator)))


def shifted(images: Tensor, generator: Generator) -> Tensor:
    """Shifts by up to 5 pixels along each axis."""
    return distort(images, shift=10 * torch.rand(len(images), 2, generator=generator) - 5)


def broken_strokes(images: Tensor, generator: Generator) -> Tensor:
    """Erases eight spots of 3x3 pixels."""
    return images * (1 - F.max_pool2d(_spots(images, 8, generator), 3, stride=1, padding=1))


def line(images: Tensor, generator: Generator) -> Tensor:
    """Draws a dotted line across the image."""
    images, count = images.clone(), len(images)
    ends = 27 * torch.rand(count, 2, generator=generator)
    for step in range(0, 28, 2):
        rows = (ends[:, 0] + (ends[:, 1] - ends[:, 0]) * step / 27).round().long()
        images[torch.arange(count), 0, rows, step] = 1
    return images


def spatter(images: Tensor, generator: Generator) -> Tensor:
    """Adds drops of ink: blurred noise above a threshold."""
    drops = blur(torch.randn(images.shape, generator=generator), generator)
    return torch.maximum(images, (drops > 0.35).float())


def edges(images: Tensor, generator: Generator) -> Tensor:
    """Keeps only the outlines."""
    dilated, eroded = F.max_pool2d(images, 3, 1, 1), -F.max_pool2d(-images, 3, 1, 1)
    return ((dilated > 0.5) & ~(eroded > 0.5)).float()


CORRUPTIONS: tuple[Corruption, ...] = (
    *(shot_noise, impulse_noise, blur, motion_blur, fog, brightness, contrast, stripes),
    *(scaled, rotated, sheared, shifted, broken_strokes, line, spatter, edges),
)


def _sign(images: Tensor, generator: Generator) -> Tensor:
    return torch.randint(0, 2, (len(images),), generator=generator) * 2 - 1


def _spots(images: Tensor, num_spots: int, generator: Generator) -> Tensor:
    spots = torch.zeros_like(images).flatten(1)
    places = torch.randint(0, 28 * 28, (len(images), num_spots), generator=generator)
    return spots.scatter_(1, places, 1).view_as(images)


def corrupt(images: Tensor, corruption: Corruption) -> Tensor:
    """Returns corrupted copies of images `(N, 28, 28)` uint8, the same in each call."""
    corrupted = corruption(scale(images), torch.Generator().manual_seed(0))
    return (corrupted.clamp(0, 1) * 255).round().squeeze(1).to(torch.uint8)


def score(path: Path, is_validation: bool) -> list[dict[str, Any]]:
    """Returns the error rate of a checkpoint without and with each corruption, and the mean of the latter."""
    data = MNISTDataModule()
    data.setup("fit" if is_validation else "test")
    if is_validation:
        images, labels = data.train_images[data.val_indices], data.train_labels[data.val_indices]
    else:
        images, labels = data.test_images, data.test_labels
    errors = {c.__name__: _error(path, corrupt(images, c), labels) for c in CORRUPTIONS}
    mean = {f"mean of {len(errors)}": sum(errors.values()) / len(errors)}
    errors = {"none": _error(path, images, labels), **errors, **mean}
    return [{"corruption": name, "error %": error} for name, error in errors.items()]


def main() -> None:
    """Measures the error rate with each corruption."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt_path", nargs="?", default="pretrained", help="best, last, pretrained (default) or a file")
    parser.add_argument("--validation", action="store_true", help="corrupt the validation images")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    args = parser.parse_args()
    rows = score(folders.find_checkpoint(args.ckpt_path), args.validation)
    name = "robustness_validation" if args.validation else "robustness"
    measure.report(name, rows, ["corruption", "error %"], args.output)


def _error(path: Path, images: Tensor, labels: Tensor) -> float:
    return 100 * (predict(path, images).argmax(1) != labels).float().mean().item()


if __name__ == "__main__":
    main()
