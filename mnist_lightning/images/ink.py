"""Separating ink from paper: any paper, lighting and polarity; ruled lines and shadows are removed. No torch here."""

import numpy as np
from scipy import ndimage

from mnist_lightning.images.reading import BlankImageError, Gray

MIN_CONTRAST = 0.06  # smallest difference between ink and paper, as a fraction of the range from black to white


def find_ink(image: Gray) -> Gray:
    """Returns where the ink is, `(height, width)` float32 in [0, 1], or raises a BlankImageError."""
    smooth = ndimage.gaussian_filter(image, max(0.5, max(image.shape) / 500))
    paper = _even_paper(image)
    if paper is not None:
        flat = np.abs(smooth - paper)
    else:
        above = smooth - _fit_paper(smooth)
        # Ink covers less than half of the image, so the longer tail of the differences is ink.
        sides = (_remove_shadows(above), _remove_shadows(-above))
        flat = max(sides, key=lambda side: float(np.quantile(side, 0.998)))
    flat = _remove_lines(_remove_lines(flat).T).T
    level = float(np.quantile(flat, 0.998))
    spread = 1.4826 * float(np.median(np.abs(flat))) + 1e-4  # standard deviation, estimated robustly
    if level < max(MIN_CONTRAST, 5 * spread) and level < 0.25:
        raise BlankImageError("nothing stands out from the paper")
    threshold = max(_otsu(flat), 0.3 * level)
    full = float(np.median(flat[flat > threshold]))
    ink: Gray = np.clip((flat - 0.25 * threshold) / (full - 0.25 * threshold), 0, 1).astype(np.float32)
    return ink


def border(image: Gray) -> Gray:
    """Returns the pixels at the four edges."""
    return np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])


def _even_paper(image: Gray) -> float | None:
    """Returns the brightness of uniform paper, as in drawings: the image's lowest or highest one, or None."""
    for value in (float(image.min()), float(image.max())):
        fraction, fraction_of_border = (np.mean(np.abs(part - value) < 0.03) for part in (image, border(image)))
        if fraction > 0.3 and fraction_of_border > 0.4:
            return value
    return None


def _fit_paper(image: Gray) -> Gray:
    """Fits a polynomial surface of degree 3 to the paper; ink is excluded iteratively, as outliers."""
    powers = [(i, j) for i in range(4) for j in range(4 - i)]
    y, x = (np.linspace(-1, 1, size)[:, None] ** np.arange(4) for size in image.shape)
    # The grid is fine enough to find the paper between strokes.
    rows, columns = (np.linspace(0, size - 1, min(size, 100)).astype(int) for size in image.shape)
    values = image[np.ix_(rows, columns)].ravel()
    terms = np.stack([np.outer(y[rows, i], x[columns, j]).ravel() for i, j in powers], 1)
    is_paper = np.ones(len(values), bool)
    for _ in range(8):
        solution = np.linalg.lstsq(terms[is_paper], values[is_paper], rcond=None)[0]
        residuals = np.abs(values - terms @ solution)
        is_paper = residuals <= max(2.5 * 1.4826 * float(np.median(residuals)), 0.01)
    coefficients = np.zeros((4, 4))
    coefficients[tuple(zip(*powers, strict=True))] = solution
    surface: Gray = (y @ coefficients @ x.T).astype(np.float32)
    return surface


def _remove_shadows(ink: Gray) -> Gray:
    """Removes what is wider and taller than any stroke: shadows with sharp edges, the table next to the paper."""
    shadows = ndimage.grey_opening(ink, max(3, round(0.3 * max(ink.shape))))
    flat: Gray = ink - shadows.clip(min=0)
    return flat


def _remove_lines(ink: Gray) -> Gray:
    """Removes thin horizontal lines, level or slightly tilted, as on ruled or graph paper."""
    height, width = ink.shape
    if min(height, width) < 64:
        return ink
    strips = np.stack([strip.mean(1) for strip in np.array_split(ink, 32, axis=1)])
    positions = (np.arange(32) + 0.5) / 32 - 0.5
    common, slope, sharpest = strips[0], 0.0, -1.0
    for candidate in np.linspace(-0.06, 0.06, 25) * width:
        rows = np.arange(height) + (candidate * positions).round().astype(int)[:, None]
        shared = np.partition(np.take_along_axis(strips, rows.clip(0, height - 1), 1), 8, axis=0)[8]  # in most strips
        if (sharpness := float(np.square(np.diff(shared)).sum())) > sharpest:
            common, slope, sharpest = shared, candidate, sharpness
    lines = common - ndimage.grey_opening(common, max(5, round(0.03 * max(ink.shape))))  # thinner than a stroke
    lines = ndimage.maximum_filter1d(np.where((lines > 0.02) & (lines > 0.7 * common), 1.3 * lines, 0), 3)
    rows = np.arange(height)[:, None] - (slope * (np.arange(width) / width - 0.5)).round().astype(int)
    flat: Gray = ink - lines[rows.clip(0, height - 1)]
    return flat


def _otsu(values: Gray) -> float:
    """Returns the threshold that best divides values in two. Source: Otsu 1979 (IEEE Trans. SMC 9:62-66)."""
    counts, edges = np.histogram(values[values > 0], 256)
    centers = (edges[:-1] + edges[1:]) / 2
    below = counts.cumsum()
    above = below[-1] - below
    sums = (counts * centers).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(centers[np.nanargmax(between[:-1])])
