"""Ink: separated from paper of any light and polarity, and segmented into digits, line by line. No torch here."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from mnist_lightning.images.reading import BlankImageError, Gray

MIN_CONTRAST = 0.06  # smallest difference between ink and paper, as a fraction of the range from black to white
MIN_LINE = 0.02  # smallest difference between a ruled line and paper
MAX_COMPONENTS = 1000  # connected components that are searched for digits; each is compared with the others
ONLY_SPECKS = "there is nothing but specks"

Box = tuple[slice, slice]  # rows and columns


def find_ink(image: Gray) -> Gray:
    """Returns where the ink is, `(height, width)` float32 in [0, 1], or raises a BlankImageError."""
    smooth = cv2.GaussianBlur(image, (0, 0), max(0.5, max(image.shape) / 500))
    paper = _even_paper(image)
    if paper is not None:
        flat = np.abs(smooth - np.float32(paper))
    else:
        darkest, brightest = _estimate_paper(smooth)
        flat = max(smooth - brightest, darkest - smooth, key=_level)  # ink is what differs more
    flat = _remove_lines(_remove_lines(flat).T).T
    level, sample = _level(flat), _sample(flat)
    spread = 1.4826 * float(np.median(np.abs(sample))) + 1e-4  # standard deviation, estimated robustly
    if level < max(MIN_CONTRAST, 5 * spread) and level < 0.25:
        raise BlankImageError("nothing stands out from the paper")
    positive = (sample[sample > 0] * (200 / level)).clip(max=255).astype(np.uint8)
    otsu, _ = cv2.threshold(positive, 0, 255, cv2.THRESH_OTSU)
    threshold = max(otsu / 200, 0.3) * level
    full = float(np.median(sample[sample > threshold]))
    return np.asarray(np.clip((flat - 0.25 * threshold) / (full - 0.25 * threshold), 0, 1), np.float32)


def _sample(ink: Gray) -> Gray:
    """Returns pixels at regular distances, enough for statistics of a whole image."""
    step = 1 + max(ink.shape) // 350
    return ink[::step, ::step]


def _level(ink: Gray) -> float:
    return float(np.quantile(_sample(ink), 0.998))


def border(image: Gray) -> Gray:
    """Returns the pixels at the four edges."""
    return np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])


def _even_paper(image: Gray) -> float | None:
    """Returns the brightness of uniform paper, as in drawings: the image's lowest or highest one, or None."""
    for value in (float(image.min()), float(image.max())):
        parts = (_sample(image), border(image))
        fraction, fraction_of_border = (np.mean(np.abs(part - value) < 0.03) for part in parts)
        if fraction > 0.3 and fraction_of_border > 0.4:
            return value
    return None


def _estimate_paper(image: Gray) -> tuple[Gray, Gray]:
    """Returns the lowest and the highest brightness of the paper near each pixel, at a low resolution.

    Ink is excluded in two ways: it fills less than half of a large window, so that a median follows gradients and the
    edges of shadows; and it is narrower than a small window, unlike shadows and tables in a corner.
    """
    scale = min(1, 80 / min(image.shape))
    size = [max(1, round(side * scale)) for side in image.shape[::-1]]
    small = (cv2.resize(image, size, interpolation=cv2.INTER_AREA).clip(0, 1) * 255).astype(np.uint8)
    median = cv2.medianBlur(small, int(0.75 * min(size)) // 2 * 2 + 1)
    window = np.ones((max(3, round(0.3 * min(size))),) * 2, np.uint8)
    papers = []
    for fill, choose, extreme in ((cv2.MORPH_CLOSE, np.minimum, cv2.erode), (cv2.MORPH_OPEN, np.maximum, cv2.dilate)):
        filled = cv2.morphologyEx(small, fill, window, borderType=cv2.BORDER_REPLICATE)
        paper = cv2.GaussianBlur(choose(filled, median).astype(np.float32) / 255, (0, 0), 1)
        papers.append(cv2.resize(extreme(paper, np.ones((3, 3))), image.shape[::-1]))
    return papers[0], papers[1]


def _remove_lines(ink: Gray) -> Gray:
    """Removes thin horizontal lines, level or slightly tilted, as on ruled or graph paper."""
    height, width = ink.shape
    if min(height, width) < 64:
        return ink
    strips = ink[:, : width // 32 * 32].reshape(height, 32, -1).mean(2)
    if np.partition(strips.max(0), 4)[4] < MIN_LINE:
        return ink  # nothing reaches across
    positions = (np.arange(32) + 0.5) / 32 - 0.5
    common, slope, sharpest = strips[:, 0], 0.0, -1.0
    for candidate in np.linspace(-0.06, 0.06, 25) * width:
        rows = np.arange(height)[:, None] + (candidate * positions).round().astype(int)
        shared = np.partition(np.take_along_axis(strips, rows.clip(0, height - 1), 0), 8, axis=1)[:, 8]  # by most
        if (sharpness := float(np.square(np.diff(shared)).sum())) > sharpest:
            common, slope, sharpest = shared, candidate, sharpness
    common = common[:, None]
    opening = cv2.morphologyEx(common, cv2.MORPH_OPEN, np.ones((max(5, round(0.03 * max(ink.shape))), 1)))
    lines = common - opening  # thinner than a stroke
    lines = cv2.dilate(np.where((lines > MIN_LINE) & (lines > 0.7 * common), 1.3 * lines, 0), np.ones((3, 1)))
    rows = np.arange(height)[:, None] - (slope * (np.arange(width) / width - 0.5)).round().astype(int)
    return np.asarray(ink - lines[rows.clip(0, height - 1), 0], np.float32)


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
