"""Ink, separated from paper of any light and polarity. No torch here."""

import cv2
import numpy as np

from mnist_lightning.errors import UserError
from mnist_lightning.images.reading import Gray

MIN_CONTRAST = 0.06  # smallest difference between ink and paper, as a fraction of the range from black to white
MIN_LINE = 0.02  # smallest difference between a ruled line and paper


def find_ink(image: Gray) -> tuple[Gray, bool]:
    """Returns ink, `(height, width)` float32 in [0, 1], and whether its paper is even; or raises a UserError."""
    smooth = cv2.GaussianBlur(image, (0, 0), min(1, max(0.5, max(image.shape) / 500)))
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
        raise UserError("nothing stands out from the paper")
    positive = (sample[sample > 0] * (200 / level)).clip(max=255).astype(np.uint8)
    otsu, _ = cv2.threshold(positive, 0, 255, cv2.THRESH_OTSU)
    threshold = max(otsu / 200, 0.3) * level
    full = float(np.median(sample[sample > threshold]))
    ink = np.clip((flat - 0.25 * threshold) / (full - 0.25 * threshold), 0, 1)
    return np.asarray(ink, np.float32), paper is not None


def _sample(ink: Gray) -> Gray:
    """Returns pixels at regular distances, enough for statistics of a whole image."""
    step = 1 + max(ink.shape) // 350
    return ink[::step, ::step]


def _level(ink: Gray) -> float:
    return float(np.quantile(_sample(ink), 0.9995))


def border(image: Gray) -> Gray:
    """Returns the pixels at the four edges."""
    return np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])


def _even_paper(image: Gray) -> float | None:
    """Returns the brightness of uniform paper, as in drawings: the image's lowest or highest one, or None."""
    sample, edges = _sample(image), border(image)
    for value in (float(image.min()), float(image.max())):
        if np.mean(np.abs(sample - value) < 0.03) > 0.3 and np.mean(np.abs(edges - value) < 0.03) > 0.4:
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
    slopes = np.linspace(-0.06, 0.06, 25) * width
    rows = np.arange(height)[:, None] + (slopes[:, None, None] * positions).round().astype(int)
    shared = np.partition(np.take_along_axis(strips[None], rows.clip(0, height - 1), 1), 8, axis=2)[:, :, 8]  # by most
    sharpest = np.square(np.diff(shared)).sum(1).argmax()
    common, slope = shared[sharpest, :, None], slopes[sharpest]
    opening = cv2.morphologyEx(common, cv2.MORPH_OPEN, np.ones((max(5, round(0.03 * max(ink.shape))), 1)))
    lines = common - opening  # thinner than a stroke
    lines = cv2.dilate(np.where((lines > MIN_LINE) & (lines > 0.7 * common), 1.3 * lines, 0), np.ones((3, 1)))
    rows = np.arange(height)[:, None] - (slope * (np.arange(width) / width - 0.5)).round().astype(int)
    return np.asarray(ink - lines[rows.clip(0, height - 1), 0], np.float32)
