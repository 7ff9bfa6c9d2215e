"""The one metric: a confusion matrix and a summed loss, from which every score is derived."""

import torch
from torch import Tensor
from torchmetrics import Metric


class Scores(Metric):
    """Loss and confusion matrix of one stage, summed over batches and processes.

    Adding to a matrix on the device keeps the host from waiting for it, as `bincount` would on a GPU.

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
