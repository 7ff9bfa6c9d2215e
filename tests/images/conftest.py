"""How different two images are."""

import numpy as np

from tests.conftest import UInt8


def distance(first: UInt8, second: UInt8) -> float:
    """Returns the mean difference of pixels, in [0, 1], at the best shift by at most one pixel, as rounding may do."""
    shifts = [(rows, columns) for rows in (-1, 0, 1) for columns in (-1, 0, 1)]
    return min(float(np.abs(np.roll(first, shift, (0, 1)).astype(float) - second).mean() / 255) for shift in shifts)
