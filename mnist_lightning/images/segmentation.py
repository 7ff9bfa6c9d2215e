"""Segmentation: from ink to digits, one per image or line by line. No torch here."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

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
    return _piece(labels, boxes, kept, margin=3)


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
    pieces = [_piece(labels, boxes, group, margin=2) for group in groups]
    min_heights = [(0.7 if _touches_edge(piece.box, ink.shape) else 0.3) * height for piece in pieces]
    # Others are dots, dashes and shadows.
    found = [piece for piece, minimum in zip(pieces, min_heights, strict=True) if len(piece.mask) > minimum]
    if not found:
        raise BlankImageError(ONLY_SPECKS)
    return _lines(found, height)


def _components(ink: Gray) -> tuple[npt.NDArray[np.int32], list[Box], npt.NDArray[np.int64]]:
    """Returns connected components: a label for each pixel, and the box and number of pixels of each component."""
    mask, fastest = (ink > 0.5).view(np.uint8), cv2.CCL_BBDT
    _, labels, stats, _ = cv2.connectedComponentsWithStatsWithAlgorithm(mask, 8, cv2.CV_32S, fastest)
    boxes = [(slice(top, top + height), slice(left, left + width)) for left, top, width, height, _ in stats[1:]]
    return labels, boxes, stats[1:, cv2.CC_STAT_AREA]


def _piece(labels: npt.NDArray[np.int32], boxes: list[Box], indices: Sequence[int], margin: int) -> Piece:
    """Joins components; their mask is wider by a margin, for the soft edges of strokes."""
    box = _union(boxes[index] for index in indices)
    is_member = np.zeros(len(boxes) + 1, np.uint8)
    is_member[[index + 1 for index in indices]] = 1
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    return Piece(box, cv2.dilate(is_member[labels[box]], cross, iterations=margin).astype(bool))


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
