"""Segmentation: from ink to digits, one per image or line by line. No torch here."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mnist_lightning.images.reading import BlankImageError, Gray

MAX_COMPONENTS = 1000  # connected components that are searched for digits; each is compared with the others
ONLY_SPECKS = "there is nothing but specks"

Box = tuple[slice, slice]  # rows and columns


class Piece(NamedTuple):
    """The ink of a digit: its box, and which pixels of that box belong to it."""

    box: Box
    mask: npt.NDArray[np.bool_]


def merge(ink: Gray) -> Piece:
    """Returns all ink as one digit, without specks, or raises a BlankImageError."""
    labels, boxes, sizes = _components(ink)
    min_fractions = [0.3 if _touches_edge(box, ink.shape) else 0.04 for box in boxes]  # shadows reach in from the edges
    kept = [index for index in range(len(boxes)) if sizes[index] >= max(4, min_fractions[index] * sizes.max())]
    if not kept:
        raise BlankImageError(ONLY_SPECKS)
    box = _union(boxes[index] for index in kept)
    mask = ndimage.binary_dilation(np.isin(labels, [index + 1 for index in kept]), iterations=3)
    return Piece(box, mask[box])


def split(ink: Gray) -> list[list[Piece]]:
    """Returns separate digits, line by line and from left to right, or raises a BlankImageError."""
    labels, boxes, sizes = _components(ink)
    if not 0 < len(boxes) <= MAX_COMPONENTS:
        raise BlankImageError(f"{ONLY_SPECKS}: {len(boxes):,}, and at most {MAX_COMPONENTS:,} are searched")
    heights = np.array([rows.stop - rows.start for rows, _ in boxes])
    height = float(np.median(heights[sizes >= 0.2 * np.quantile(sizes, 0.9)]))
    groups: list[list[int]] = []
    for index in sorted(range(len(boxes)), key=lambda index: -sizes[index]):
        if sizes[index] < max(4, 0.003 * height**2):
            continue  # a speck
        match = next((group for group in groups if _belongs(boxes[index], [boxes[n] for n in group], height)), None)
        if match is None:
            groups.append([index])
        else:
            match.append(index)
    found = []
    for group in groups:
        box = _union(boxes[n] for n in group)
        is_tall = box[0].stop - box[0].start > (0.7 if _touches_edge(box, ink.shape) else 0.3) * height
        if is_tall:  # not a dot, a dash or a shadow
            mask = ndimage.binary_dilation(np.isin(labels[box], [n + 1 for n in group]), iterations=2)
            found.append(Piece(box, mask))
    if not found:
        raise BlankImageError(ONLY_SPECKS)
    return _lines(found, height)


def _components(ink: Gray) -> tuple[npt.NDArray[np.int32], list[Box], npt.NDArray[np.int64]]:
    """Returns connected components: a label for each pixel, and the box and number of pixels of each component."""
    labels, _ = ndimage.label(ink > 0.5, np.ones((3, 3)))
    boxes = ndimage.find_objects(labels)
    return labels, boxes, np.bincount(labels.ravel())[1:]


def _touches_edge(box: Box, shape: tuple[int, ...]) -> bool:
    return any(part.start == 0 or part.stop == side for part, side in zip(box, shape, strict=True))


def _union(boxes: Iterable[Box]) -> Box:
    sides = zip(*boxes, strict=True)
    rows, columns = (slice(min(p.start for p in parts), max(p.stop for p in parts)) for parts in sides)
    return rows, columns


def _belongs(box: Box, others: list[Box], height: float) -> bool:
    """Returns whether a part is a loose stroke of a digit: above, below or inside it."""
    rows, columns = _union(others)
    overlap = min(box[1].stop, columns.stop) - max(box[1].start, columns.start)
    gap = max(box[0].start, rows.start) - min(box[0].stop, rows.stop)
    together = max(box[0].stop, rows.stop) - min(box[0].start, rows.start)
    narrower = min(box[1].stop - box[1].start, columns.stop - columns.start)
    return bool(overlap > 0.4 * narrower) and gap < 0.3 * height and together < 1.4 * height


def _lines(found: list[Piece], height: float) -> list[list[Piece]]:
    """Sorts pieces into lines, each from left to right."""

    def middle(piece: Piece) -> float:
        return float(piece.box[0].start + piece.box[0].stop) / 2

    lines: list[list[Piece]] = []
    for piece in sorted(found, key=middle):
        if lines and middle(piece) - np.mean([middle(other) for other in lines[-1]]) < 0.6 * height:
            lines[-1].append(piece)
        else:
            lines.append([piece])
    return [sorted(line, key=lambda piece: piece.box[1].start) for line in lines]
