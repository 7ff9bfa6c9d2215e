"""From any image to what a model takes, such as digits in MNIST's format. No torch here."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mnist_lightning.errors import UserError
from mnist_lightning.images import reading
from mnist_lightning.images.ink import border, find_ink
from mnist_lightning.images.reading import MAX_PIXELS, Gray, ImageError, ImageSource
from mnist_lightning.images.segmentation import cut, merge, split

cv2.setNumThreads(1)  # several images are read at a time
WORKING_PIXELS = {"one": 560 * 420, "many": 2000 * 1500}  # larger images are downscaled to about this size
MAX_PIECES = 4096  # of ink that could be digits
MIN_HEIGHT = 30  # pixels; where most digits are lower, they are searched once more, at twice the size
MIN_SIZE = 64  # smaller images are enlarged to this, so that a stroke is several pixels wide


@dataclass(frozen=True)
class Digit:
    """A digit and where it was found, in pixels of the image; or a whole picture."""

    image: npt.NDArray[np.uint8]  # a digit is (28, 28), as in MNIST; a picture has the shape that its model takes
    left: int
    top: int
    width: int
    height: int
    line: int = 0  # of text, counted from 0
    start: int = 0  # where it starts and stops in the chain of possible cuts through all ink, in reading order
    stop: int = 1
    cost: float = 0.0  # how unlikely it is as a digit: minus a logarithm


@dataclass(frozen=True)
class InputFormat:
    """The images that a model takes."""

    image_size: int = 28  # height and width, in pixels
    channels: int = 1  # 1 for gray, 3 for color
    is_handwriting: bool = True  # whether digits are found in a picture and centered as in MNIST; else all is resized

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an image: `(H, W)` in gray, `(H, W, 3)` in color."""
        return (self.image_size, self.image_size, 3)[: 3 if self.channels == 3 else 2]

    def read(self, source: ImageSource, many: bool = False, max_pixels: int = MAX_PIXELS) -> list[Digit]:
        """Returns the digits in a picture, or the whole picture; raises what `find_digits` raises."""
        if self.is_handwriting:
            return find_digits(source, many, max_pixels)
        picture = reading.read_picture(source, self.image_size, self.channels, max_pixels)
        return [Digit(picture, 0, 0, self.image_size, self.image_size)]


def find_digits(source: ImageSource, many: bool = False, max_pixels: int = MAX_PIXELS) -> list[Digit]:
    """Returns the digit in an image, or with `many` all ink that could be digits; or raises an ImageError or OSError.

    They come in reading order, and parts of connected ink before the whole; `choose` finds out which are digits.
    """
    image = reading.read_image(source, max_pixels)
    if is_mnist(image):
        return [Digit((image * 255).round().astype(np.uint8), 0, 0, 28, 28)]
    shrink = round(math.sqrt(image.size / WORKING_PIXELS["many" if many else "one"])) or 1
    try:
        digits = list(itertools.islice(_search(image, many, shrink), MAX_PIECES + 1))
        if many and shrink > 1 and np.median([digit.height for digit in digits]) < MIN_HEIGHT * shrink:
            digits = list(itertools.islice(_search(image, many, shrink // 2), MAX_PIECES + 1))
    except UserError as error:
        raise ImageError(source, f"is blank: {error}") from error
    if len(digits) > MAX_PIECES:
        raise ImageError(source, f"has more than {MAX_PIECES:,} pieces of ink", 413)
    return digits


def _search(image: Gray, many: bool, shrink: int) -> Iterator[Digit]:
    """Yields the digits in an image that is downscaled by a whole number, as averages of whole pixels are fast."""
    factor = shrink if max(image.shape) > MIN_SIZE else max(image.shape) / MIN_SIZE
    height, width = (max(1, int(side / factor)) for side in image.shape)
    ink, is_even = find_ink(_resize(image[: height * shrink, : width * shrink], width, height))
    lines = split(ink, is_even) if many else merge(ink, is_even)
    if not lines:
        raise UserError("there is nothing but specks")
    node = 0
    for line, groups in enumerate(lines):
        for group in groups:
            pieces = cut(ink, group) if many else [group]
            for (rows, columns), mask, start, stop, cost in pieces:
                digit = to_mnist(np.where(mask, ink[rows, columns], 0))
                left, top = round(columns.start * factor), round(rows.start * factor)
                right, bottom = round(columns.stop * factor), round(rows.stop * factor)
                yield Digit(digit, left, top, right - left, bottom - top, line, node + start, node + stop, cost)
            node += pieces[-1].stop


def is_mnist(image: Gray) -> bool:
    """Returns whether an image is already a digit as in MNIST, centered by mass, or as in EMNIST, by its box."""
    if image.shape != (28, 28) or image.max() < 0.5 or np.median(image) > 0.1 or border(image).mean() >= 0.06:
        return False
    sides = [np.flatnonzero(image.max(axis) > 0.1)[[0, -1]].mean() for axis in (1, 0)]
    return any(all(abs(place - 13.75) < 1.5 for place in center) for center in (_center(image), sides))


def to_mnist(ink: Gray) -> npt.NDArray[np.uint8]:
    """Returns a digit's ink, cropped tightly, as in MNIST: light, 20 pixels large, centered by mass; `(28, 28)` uint8.

    Source: MNIST's preprocessing as reconstructed by Yadav and Bottou 2019 (arXiv:1905.10498).
    """
    height, width = ink.shape
    depth = cv2.distanceTransform(np.pad((ink > 0.5).view(np.uint8), 1), cv2.DIST_L2, cv2.DIST_MASK_5)
    ridge = depth[(depth == cv2.dilate(depth, np.ones((3, 3)))) & (depth > 0)]
    missing = max(height, width) / 12 - 2 * float(np.median(ridge))  # twice the median is a stroke's width
    pen = round(missing) + 1 if missing >= 1 else 1  # widens strokes to MNIST's thinnest, a twelfth of the digit's size
    scale = 20 / max(height, width)
    small = _resize(cv2.dilate(ink, np.ones((pen, pen))), max(1, round(width * scale)), max(1, round(height * scale)))
    small /= small.max()
    margin = 28 - np.array(small.shape)  # both sides together
    before = np.clip(15 - np.array(_center(small)), 0, margin).astype(int)
    return np.pad((small * 255).round().astype(np.uint8), np.stack([before, margin - before], axis=1))


def _center(image: Gray) -> list[float]:
    """Returns row and column of the center of mass."""
    # Not cv2.moments, which takes an image that is two pixels wide for the corners of a polygon.
    return [float(image.sum(1 - axis) @ np.arange(side) / image.sum()) for axis, side in enumerate(image.shape)]


def _resize(image: Gray, width: int, height: int) -> Gray:
    method = cv2.INTER_AREA if width * height < image.size else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=method).clip(0, 1), np.float32)
