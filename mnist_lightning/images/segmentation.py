"""Ink, divided into digits, line by line; where digits may touch, into all pieces that could be one. No torch here."""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from mnist_lightning.errors import UserError
from mnist_lightning.images.reading import Gray

MAX_COMPONENTS = 1000  # connected components that are searched for digits; each is compared with the others

ROWS = 32  # height to which ink is reduced in order to find seams
STIFFNESSES = (0.5, 1.5)  # costs of a step aslant, compared with a pixel of ink
MAX_COST = 20  # of a seam
MIN_DISTANCE = 2  # between seams, in columns
MAX_PARTS = 5  # between neighboring seams, in a digit
MAX_WIDTH, MIN_HEIGHT = 1.4, 0.3  # of a part, as fractions of the whole height

Box = tuple[slice, slice]  # rows and columns


class Piece(NamedTuple):
    """Ink that may be a digit: its box, and which pixels of that box belong to it."""

    box: Box
    mask: npt.NDArray[np.bool_]
    start: int = 0  # the seams between which it lies, counted from the left edge
    stop: int = 1
    cost: float = 0.0  # how unlikely it is as a digit: minus a logarithm


def merge(ink: Gray, is_even: bool) -> list[list[Piece]]:
    """Returns all ink as one digit in one line, without specks; no line if there is nothing else."""
    labels, boxes, sizes = _components(ink)
    min_fractions = [0.3 if _may_be_shadow(box, ink, is_even) else 0.04 for box in boxes]
    kept = [index for index in range(len(boxes)) if sizes[index] >= max(4, min_fractions[index] * sizes.max())]
    return [[_piece(labels, boxes, kept, margin=3)]] if kept else []


def split(ink: Gray, is_even: bool) -> list[list[Piece]]:
    """Returns separate digits, line by line and from left to right, without specks; or raises a UserError."""
    labels, boxes, sizes = _components(ink)
    if not 0 < len(boxes) <= MAX_COMPONENTS:
        raise UserError(f"there are {len(boxes):,} specks, and at most {MAX_COMPONENTS:,} are searched")
    heights = np.array([rows.stop - rows.start for rows, _ in boxes])
    height = float(np.quantile(heights[sizes >= 0.2 * np.quantile(sizes, 0.9)], 0.75))
    groups: list[list[int]] = []
    no_specks = np.flatnonzero(sizes >= max(4, 0.003 * height**2)).tolist()
    for index in sorted(no_specks, key=lambda index: -sizes[index]):
        group = next((group for group in groups if _belongs(boxes[index], [boxes[n] for n in group], height)), [])
        if not group:
            groups.append(group)
        group.append(index)
    pieces = [_piece(labels, boxes, group, margin=2) for group in groups]
    # Others are dots, dashes and shadows.
    found = [p for p in pieces if len(p.mask) > height * (0.7 if _may_be_shadow(p.box, ink, is_even) else 0.5)]
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
    is_member = np.isin(labels[box], [index + 1 for index in indices]).view(np.uint8)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    return Piece(box, cv2.dilate(is_member, cross, iterations=margin).astype(bool))


def _may_be_shadow(box: Box, ink: Gray, is_even: bool) -> bool:
    """Returns whether ink reaches in from an edge, as shadows do; even paper has none."""
    return not is_even and any(part.start == 0 or part.stop == side for part, side in zip(box, ink.shape, strict=True))


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
    return bool(overlap > 0.1 * narrower) and gap < 0.3 * height and together < (1.8 if gap > 0 else 1.4) * height


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


def cut(ink: Gray, whole: Piece) -> list[Piece]:
    """Returns all parts between seams, cheap paths from top to bottom, that could be digits, followed by the piece."""
    (rows, columns), mask, *_ = whole
    (height, width), top, left = mask.shape, rows.start, columns.start
    size = max(3, round(ROWS * width / height)), ROWS
    reduced = cv2.resize(np.where(mask, ink[rows, columns], 0), size, interpolation=cv2.INTER_AREA)
    costs, seams = map(np.concatenate, zip(*(_seams(reduced, stiffness) for stiffness in STIFFNESSES), strict=True))
    edges = [np.zeros(ROWS), np.full(ROWS, size[0])]
    for cost, seam in sorted(zip(costs.tolist(), seams, strict=True), key=lambda pair: pair[0]):
        if cost < MAX_COST and min(np.abs(seam - edge).mean() for edge in edges) >= MIN_DISTANCE:
            edges.append(seam)
    places = (np.sort(edges, 0) * width / size[0]).round()[:, np.arange(height) * ROWS // height, None]
    has_ink, column, parts = ink[rows, columns] > 0.5, np.arange(width), []
    for start, stop in itertools.combinations(range(len(edges)), 2):
        if stop - start > MAX_PARTS or stop - start == len(edges) - 1:
            continue
        between = mask & (column >= places[start]) & (column < places[stop])
        x, y, w, h = cv2.boundingRect((between & has_ink).view(np.uint8))
        if h / height > MIN_HEIGHT and w - 1 < MAX_WIDTH * height:
            box = slice(top + y, top + y + h), slice(left + x, left + x + w)
            parts.append(Piece(box, between[y : y + h, x : x + w], start, stop, max(0, 3 * (0.8 - h / height))))
    return [*parts, whole._replace(stop=len(edges) - 1)]


def _seams(ink: Gray, stiffness: float) -> tuple[Gray, npt.NDArray[np.int64]]:
    """Returns the ink that each of N seams goes through, `(N,)`, and their columns in each row, `(N, ROWS)`."""
    columns = np.arange(ink.shape[1])
    total, paths = ink[0], columns[None]  # of the cheapest path from the top to each pixel of a row
    for row in ink[1:]:
        padded = np.pad(total, 1, constant_values=np.inf)
        steps = np.stack([padded[:-2] + stiffness, total, padded[2:] + stiffness])
        total = row + steps.min(0)
        paths = np.vstack([paths[:, columns + steps.argmin(0) - 1], columns])
    lowest = 1 + np.flatnonzero((total[1:-1] <= total[:-2]) & (total[1:-1] < total[2:]))
    return total[lowest], paths[:, lowest].T
