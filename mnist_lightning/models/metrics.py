"""Metrics: a confusion matrix and a summed loss, from which every score is derived; the best temperature."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric


class Scores(Metric):
    """Loss and confusion matrix of one stage, summed over batches and processes."""

    full_state_update = False
    confusion: Tensor  # (C, C) int64, rows are labels, columns are predictions
    loss_sum: Tensor  # scalar float32, over all images

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.add_state("confusion", torch.zeros(num_classes, num_classes, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("loss_sum", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Adds a batch: logits `(N, C)`, labels `(N,)` int64, and the mean loss, a scalar."""
        cells = logits.argmax(1).add_(labels, alpha=len(self.confusion))
        self.confusion.view(-1).index_add_(0, cells, torch.ones_like(cells))  # bincount would synchronize the GPU
        self.loss_sum.add_(loss, alpha=len(labels))

    def compute(self) -> dict[str, Tensor]:
        """Returns `loss`, `accuracy` in [0, 1] and `confusion`, each over all processes."""
        num_images = self.confusion.sum()
        return {
            "loss": self.loss_sum / num_images,
            "accuracy": self.confusion.trace() / num_images,
            "confusion": self.confusion.clone(),
        }


class Calibration(Metric):
    """Finds the temperature that logits are divided by, so that confidence matches accuracy.

    It sums the loss at each of 49 temperatures, from 0.35 to 2.83 and 4% apart; an optimizer would need all logits.

    Source: Guo et al. 2017 (arXiv:1706.04599).
    """

    full_state_update = False
    loss_sums: Tensor  # (49,) float32, over all images at each temperature
    temperatures: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("temperatures", torch.logspace(-1.5, 1.5, 49, base=2), persistent=False)
        self.add_state("loss_sums", torch.zeros_like(self.temperatures), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch of logits `(N, C)` float32 and labels `(N,)` int64."""
        scaled = logits.unsqueeze(2) / self.temperatures  # (N, C, 49)
        losses = F.cross_entropy(scaled, labels.unsqueeze(1).expand(-1, len(self.temperatures)), reduction="none")
        self.loss_sums += losses.sum(0)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Returns the temperature with the lowest loss, and the sum of that loss over all images: scalars float32."""
        loss_sum, best = self.loss_sums.min(0)
        return self.temperatures[best], loss_sum
