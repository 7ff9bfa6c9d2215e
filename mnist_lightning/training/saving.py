"""The checkpoint of the best epoch."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

OPTIONS: dict[str, Any] = {"save_on_train_epoch_end": True, "enable_version_counter": False}  # `last.ckpt`'s, too


class BestCheckpoint(ModelCheckpoint):
    """Saves `best.ckpt` at the highest validation accuracy; the lower loss breaks ties."""

    def __init__(self) -> None:
        super().__init__(filename="best", monitor="val/accuracy", mode="max", **OPTIONS)
        self.best_loss = float("inf")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the epoch if it is the best; the first epochs may have no validation."""
        if self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        loss = float(trainer.callback_metrics.get("val/loss", float("inf")))
        is_better_tie = current is not None and current == self.best_model_score and loss < self.best_loss
        is_best = super().check_monitor_top_k(trainer, current) or is_better_tie
        self.best_loss = loss if is_best else self.best_loss
        return is_best

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "best_loss": self.best_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state, even if the run folder was moved."""
        super().load_state_dict({**state_dict, "dirpath": self.dirpath})
        self.best_loss = state_dict["best_loss"]
        self.current_score = state_dict["current_score"]  # Lightning saves it but does not restore it
