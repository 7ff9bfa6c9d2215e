"""The progress bar: one for each pass over images, which disappears with it."""

import sys
from functools import partialmethod
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm


class PassBar(TQDMProgressBar):
    """Counts the batches of a pass. What stays of an epoch is the line that `TrainingHistory` prints."""

    def _make_bar(self, name: str, **options: Any) -> Tqdm:
        layout = f"{name} |{{bar}}| {{n_fmt}} of {{total_fmt}} batches, {{remaining}} left"
        position = int(name == "validating" and self.trainer.state.fn == "fit")  # below the epoch's bar
        look = {"bar_format": layout, "dynamic_ncols": True, "position": position, "leave": False, "file": sys.stdout}
        return Tqdm(**{"disable": self.is_disabled, **look, **options})

    init_train_tqdm = partialmethod(_make_bar, "training", disable=True)  # each epoch has its own
    init_validation_tqdm = partialmethod(_make_bar, "validating")
    init_test_tqdm = partialmethod(_make_bar, "testing")
    init_predict_tqdm = partialmethod(_make_bar, "predicting")

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        """Opens the bar of an epoch, counted from 1."""
        self.train_progress_bar = self._make_bar(f"epoch {trainer.current_epoch + 1}", total=self.total_train_batches)
