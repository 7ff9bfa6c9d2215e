"""The predictions of a whole stage, gathered from all processes."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors


class Predictions(Callback):
    """Gathers what the steps of a stage return, in the dataset's order."""

    probabilities: Tensor  # (N, C) float32 on the CPU, at the end of the stage
    labels: Tensor  # (N,) int64 on the CPU, at the end of the stage

    def __init__(self) -> None:
        self.batches: list[dict[str, Tensor]] = []

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        self.batches.append(outputs)

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end  # type: ignore[assignment]

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.probabilities, self.labels = (
            _join(torch.cat([batch[name] for batch in self.batches]), trainer.world_size).cpu()
            for name in ("probabilities", "labels")
        )

    on_validation_end = on_test_end = on_predict_end


def _join(part: Tensor, num_processes: int) -> Tensor:
    """Joins the parts of all processes: process r of n has the images r, r + n, r + 2n and so on."""
    if num_processes == 1:
        return part
    parts = gather_all_tensors(part)
    whole = part.new_empty(sum(map(len, parts)), *part.shape[1:])
    for rank, gathered in enumerate(parts):
        whole[rank::num_processes] = gathered
    return whole
