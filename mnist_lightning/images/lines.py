"""Lines of text: which of the possible digits were written, and the gaps between them. No torch here."""

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mnist_lightning.images.digits import Digit

MIN_KNOWN = 0.5  # a picture of which less is known shows no digit
# Chosen on numbers that were written with validation images, as in benchmarks.strings:
NO_DIGIT = np.log(0.5)  # logarithm of the weight of connected ink without a digit, compared with its parts
SHARPNESS, DOUBT = 2, 0.3


def choose(digits: Sequence[Digit], probabilities: npt.NDArray[np.float32]) -> tuple[list[int], list[float]]:
    """Returns the indices of the most probable digits in pictures, which use all ink, and their confidences.

    The digits are all that are possible, in the order of `find_digits`, with the probabilities of their classes,
    `(N, C)`. A confidence is the probability of the digit's class, times the share that readings with this digit have
    in the weight of all readings. For that, ink that can be read as one digit is hardly ever several.
    """
    tops, spans = probabilities.max(1), [(digit.start, digit.stop) for digit in digits]
    weights = np.log(tops) - [digit.cost for digit in digits]  # these and all that follow are logarithms
    doubts, whole = np.zeros(len(digits)), len(digits)
    for index in reversed(range(len(digits))):
        if whole == len(digits) or spans[index][0] < spans[whole][0]:
            whole = index  # its parts precede it
            weights[index] = max(weights[index], NO_DIGIT)
        elif spans[index][0] == spans[whole][0]:
            doubts[index] = np.log(1.01 - tops[whole])
    sharp = SHARPNESS * (weights + DOUBT * doubts)
    before, after, best = np.full((3, spans[-1][1] + 1), -np.inf)  # of readings up to a place, from there, and the best
    before[0] = after[-1] = best[0] = 0
    last = [0] * len(best)
    for index, (start, stop) in enumerate(spans):
        before[stop] = np.logaddexp(before[stop], before[start] + sharp[index])
        if best[start] + weights[index] > best[stop]:
            best[stop], last[stop] = best[start] + weights[index], index
    for (start, stop), weight in zip(spans[::-1], sharp[::-1], strict=True):
        after[start] = np.logaddexp(after[start], after[stop] + weight)
    chosen = [last[-1]]
    while start := spans[chosen[-1]][0]:
        chosen.append(last[start])
    chosen.reverse()
    shares = [before[spans[index][0]] + sharp[index] + after[spans[index][1]] for index in chosen] - before[-1]
    return chosen, (tops[chosen] * np.exp(shares)).tolist()


def join_lines(digits: Sequence[tuple[Digit, str]]) -> list[str]:
    """Returns the text of each line, given an image's digits in reading order with their predictions.

    A gap that is wide, compared with the other gaps and with the height of the digits, becomes a space.
    """
    pairs = [(left, right) for (left, _), (right, _) in itertools.pairwise(digits) if left.line == right.line]
    usual = np.median([right.left - left.left - left.width for left, right in pairs] or 0)
    height = np.median([digit.height for digit, _ in digits])
    limit, end = min(2 * height, max(0.8 * height, 1.5 * usual)), 0
    lines: list[str] = []
    for digit, text in digits:
        if digit.line == len(lines):
            lines.append(text)
        else:
            lines[-1] += f" {text}" if digit.left - end > limit else text
        end = digit.left + digit.width
    return lines
