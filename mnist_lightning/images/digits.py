"""From any image to what a model takes, such as digits in MNIST's format. No torch here."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mnist_lightning.images import reading
from mnist_lightning.images.ink import border, find_ink, merge, split
from mnist_lightning.images.reading import MAX_PIXELS, BlankImageError, Gray, ImageSource

cv2.setNumThreads(1)  # several images are read at a time
WORKING_SIZES = {"one": 560, "many": 2000}
"""Longest side, in pixels, at which one digit or many are searched, roughly; larger images are downscaled."""
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
    """Returns the digits in an image: one, or many in lines, in reading order; or raises an ImageError or OSError."""
    image = reading.read_image(source, max_pixels)
    if is_mnist(image):
        return [Digit((image * 255).round().astype(np.uint8), 0, 0, 28, 28)]
    longer = max(image.shape)
    shrink = round(longer / WORKING_SIZES["many" if many else "one"]) or 1  # averages of whole pixels are much faster
    factor = shrink if longer > MIN_SIZE else longer / MIN_SIZE
    height, width = (max(1, int(side / factor)) for side in image.shape)
    image = image[: height * shrink, : width * shrink]
    try:
        ink = find_ink(_resize(image, width, height))
        lines = split(ink) if many else [[merge(ink)]]
    except BlankImageError as error:
        raise BlankImageError(f"{reading.describe(source)} is blank: {error}") from error
    digits = []
    for line, pieces in enumerate(lines):
        for (rows, columns), mask in pieces:
            digit = to_mnist(np.where(mask, ink[rows, columns], 0))
            edges = (columns.start, rows.start, columns.stop, rows.stop)
            left, top, right, bottom = (round(edge * factor) for edge in edges)
            digits.append(Digit(digit, left, top, right - left, bottom - top, line))
    return digits


def join_lines(digits: Sequence[tuple[Digit, str]]) -> list[str]:
    """Returns the text of each line, given an image's digits in reading order with their predictions.

    A gap that is wide, compared with the other gaps and with the height of the digits, becomes a space.
    """
    pairs = [(left, right) for (left, _), right in itertools.pairwise(digits)]
    gaps = [right.left - left.left - left.width for left, (right, _) in pairs]
    height = np.median([digit.height for digit, _ in digits])
    inside = [gap for gap, (left, (right, _)) in zip(gaps, pairs, strict=True) if left.line == right.line]
    usual = np.median(inside or 0)
    lines = [digits[0][1]]
    for gap, (left, (right, text)) in zip(gaps, pairs, strict=True):
        if left.line != right.line:
            lines.append(text)
        else:
            lines[-1] += f" {text}" if gap > min(2 * height, max(0.8 * height, 1.5 * usual)) else text
    return lines


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
    scale = 20 / max(height, width)
    small = _resize(_thicken(ink), max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.clip(small / small.max(), 0, 1)
    top, left = np.clip(15 - np.array(_center(small)), 0, 28 - np.array(small.shape)).astype(int)
    image = np.zeros((28, 28), np.uint8)
    image[top : top + small.shape[0], left : left + small.shape[1]] = (small * 255).round()
    return image


def _center(image: Gray) -> list[float]:
    """Returns row and column of the center of mass."""
    # Not cv2.moments, which takes an image that is two pixels wide for the corners of a polygon.
    return [float(image.sum(1 - axis) @ np.arange(side) / image.sum()) for axis, side in enumerate(image.shape)]


def _resize(image: Gray, width: int, height: int) -> Gray:
    method = cv2.INTER_AREA if width * height < image.size else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=method).clip(0, 1), np.float32)


def _thicken(ink: Gray) -> Gray:
    """Widens strokes that are thinner than MNIST's thinnest, about a twelfth of the digit's size."""
    mask = (ink > 0.5).astype(np.uint8)
    depth = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, cv2.DIST_MASK_5)
    ridge = depth[(depth == cv2.dilate(depth, np.ones((3, 3)))) & (depth > 0)]
    stroke = 2 * float(np.median(ridge)) if len(ridge) else 1
    missing = max(ink.shape) / 12 - stroke
    if missing < 1:
        return ink
    return np.asarray(cv2.dilate(ink, np.ones((round(missing) + 1,) * 2)), np.float32)
