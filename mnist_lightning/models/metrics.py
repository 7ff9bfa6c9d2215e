"""Metrics: a confusion matrix and summed losses, from which every score is derived, and the best temperature."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

TEMPERATURES = torch.logspace(-1.5, 1.5, 49, base=2)
"""What logits may be divided by: from 0.35 to 2.83 and 4% apart. An optimizer would need all logits at once."""


def losses_by_temperature(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the mean loss at each of the `TEMPERATURES`, for logits `(N, C)` float32 and labels `(N,)` int64.

    At the lowest, confidence matches accuracy. Source: Guo et al. 2017 (arXiv:1706.04599).
    """
    scaled = logits.unsqueeze(2) / TEMPERATURES.to(logits.device)  # (N, C, 49)
    targets = labels.unsqueeze(1).expand(-1, len(TEMPERATURES))
    return F.cross_entropy(scaled, targets, reduction="none").mean(0)


class Scores(Metric):
    """Confusion matrix and losses of one stage, summed over batches and processes."""

    confusion: Tensor  # (C, C) int64, rows are labels, columns are predictions
    loss_sums: Tensor  # (49,) float32, over all images, at each of the `TEMPERATURES`

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.add_state("confusion", torch.zeros(num_classes, num_classes, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("loss_sums", torch.zeros_like(TEMPERATURES), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor, losses: Tensor) -> None:
        """Adds a batch: logits `(N, C)`, labels `(N,)` int64, and the mean losses, or one for all temperatures."""
        cells = logits.argmax(1).add_(labels, alpha=len(self.confusion))
        self.confusion.view(-1).index_add_(0, cells, torch.ones_like(cells))  # bincount would synchronize the GPU
        self.loss_sums.add_(losses, alpha=len(labels))

    def compute(self) -> dict[str, Tensor]:
        """Returns `loss`, the lowest, its index `best`, `accuracy` in [0, 1] and `confusion`, over all processes."""
        num_images = self.confusion.sum()
        loss_sum, best = self.loss_sums.min(0)
        accuracy = self.confusion.trace() / num_images
        return {"loss": loss_sum / num_images, "best": best, "accuracy": accuracy, "confusion": self.confusion.clone()}
