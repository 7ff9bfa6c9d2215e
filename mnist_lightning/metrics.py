"""The metrics: a confusion matrix and a summed loss, from which every score is derived, and the best temperature."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

NUM_BINS = 15
"""Of confidence, as is usual for the expected calibration error."""


class Scores(Metric):
    """Loss and confusion matrix of one stage, summed over batches and processes.

    Adding to a matrix on the device keeps the host from waiting for a GPU; with `bincount` it would.

    Args:
        num_classes: Number of classes, C.

    Attributes:
        confusion: `(C, C)` int64, rows are labels, columns are predictions.
        loss_sum: Scalar float32, the sum of the loss over all images.
    """

    full_state_update = False
    confusion: Tensor
    loss_sum: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.add_state("confusion", torch.zeros(num_classes, num_classes, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("loss_sum", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Adds a batch.

        Args:
            logits: `(N, C)` float32.
            labels: `(N,)` int64.
            loss: Scalar float32, the mean over the batch.
        """
        cells = labels * len(self.confusion) + logits.argmax(1)
        self.confusion.view(-1).index_add_(0, cells, torch.ones_like(cells))
        self.loss_sum += loss * len(labels)

    def compute(self) -> dict[str, Tensor]:
        """Returns `loss`, `accuracy` in [0, 1] and `confusion`, each over all processes."""
        num_images = self.confusion.sum()
        return {
            "loss": self.loss_sum / num_images,
            "accuracy": self.confusion.trace() / num_images,
            "confusion": self.confusion.clone(),
        }


class Calibration(Metric):
    """Finds the temperature by which to divide logits, so that confidence says how often predictions are right.

    It sums the loss at each of a row of temperatures, 0.35 to 2.83 and 4 % apart, instead of keeping all logits for an
    optimiser.
    Source: Guo et al. 2017 (arXiv:1706.04599).

    Attributes:
        loss_sums: `(T,)` float32, the sum of the loss over all images at each temperature.
    """

    full_state_update = False
    loss_sums: Tensor
    temperatures: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("temperatures", torch.logspace(-1.5, 1.5, 49, base=2), persistent=False)
        self.add_state("loss_sums", torch.zeros_like(self.temperatures), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch.

        Args:
            logits: `(N, C)` float32.
            labels: `(N,)` int64.
        """
        scaled = logits.float().unsqueeze(2) / self.temperatures  # (N, C, T)
        losses = F.cross_entropy(scaled, labels.unsqueeze(1).expand(-1, len(self.temperatures)), reduction="none")
        self.loss_sums += losses.sum(0)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Returns the temperature with the lowest summed loss over all processes, and that loss: scalars float32."""
        loss_sum, best = self.loss_sums.min(0)
        return self.temperatures[best], loss_sum


def reliability(confidences: Tensor, is_right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns how many predictions fall into each of 15 equally wide bins, their mean confidence and their accuracy.

    Args:
        confidences: `(N,)` float32, the probability of each prediction.
        is_right: `(N,)` bool.

    Returns:
        `(15,)` int64 and twice `(15,)` float64, which are 0 in empty bins.
    """
    bins = (confidences * NUM_BINS).ceil().long().clamp(1, NUM_BINS) - 1
    counts = bins.bincount(minlength=NUM_BINS)
    means, accuracies = (
        bins.bincount(values.double(), NUM_BINS) / counts.clamp(min=1) for values in (confidences, is_right)
    )
    return counts, means, accuracies


def expected_calibration_error(confidences: Tensor, is_right: Tensor) -> float:
    """Returns how far confidence and accuracy lie apart, weighted by the predictions in each bin of `reliability`.

    Source: Guo et al. 2017 (arXiv:1706.04599).
    """
    counts, means, accuracies = reliability(confidences, is_right)
    return ((means - accuracies).abs() * counts).sum().item() / len(confidences)
