"""How well confidence agrees with accuracy. Source: Guo et al. 2017 (arXiv:1706.04599)."""

from torch import Tensor

NUM_BINS = 15  # bins of confidence, the usual number for the expected calibration error


def reliability(confidences: Tensor, is_correct: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bins N predictions by confidence, in 15 bins of equal width.

    Returns:
        For each bin the number of predictions, `(15,)` int64, and their mean confidence and accuracy, `(15,)` float64.
    """
    bins = (confidences * NUM_BINS).ceil().long().clamp(1, NUM_BINS) - 1
    counts = bins.bincount(minlength=NUM_BINS)
    means, accuracies = (
        bins.bincount(values.double(), NUM_BINS) / counts.clamp(min=1) for values in (confidences, is_correct)
    )
    return counts, means, accuracies


def expected_calibration_error(confidences: Tensor, is_correct: Tensor) -> float:
    """Returns the difference between confidence and accuracy, averaged over the bins, weighted by their counts."""
    counts, means, accuracies = reliability(confidences, is_correct)
    return ((means - accuracies).abs() * counts).sum().item() / len(confidences)
