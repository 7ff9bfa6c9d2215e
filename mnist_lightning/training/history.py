"""The history of a training run: each epoch's scores, in `metrics.csv`, loggers and figures; and its checkpoints."""

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from mnist_lightning.console import echo
from mnist_lightning.files import write_atomically
from mnist_lightning.models import Classifier
from mnist_lightning.reporting import figures, reports
from mnist_lightning.training import divergence

COLUMNS = ("epoch", "step", "train/loss", "train/accuracy", "val/loss", "val/accuracy", "learning_rate")
"""Columns of `metrics.csv`. Epochs and steps count from 0, as in Lightning."""


class TrainingHistory(Callback):
    """Records the scores of each epoch before its checkpoint is saved, so that a resumed run repeats no entry.

    One callback serves several purposes, because Lightning calls each callback six times a step.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []  # for each epoch its index, its last step, and its scores
        self.run_dir: Path | None = None  # where files go
        self.seconds = 0.0  # of training, including validation and checkpoints
        self.is_verbose = False  # whether each epoch prints a line
        self._epoch_start = 0.0
        self._validation: dict[str, float] = {}

    @property
    def best(self) -> dict[str, float] | None:
        """The epoch with the highest validation accuracy; the lower loss breaks ties."""
        validated = [row for row in self.rows if "val/accuracy" in row]
        return max(validated, key=lambda row: (row["val/accuracy"], -row["val/loss"]), default=None)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_start = time.perf_counter()
        self.seconds = -self._epoch_start

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._validation = {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
            self._log(trainer, self._validation)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        trained = pl_module.train_scores.compute()  # the model logs them only after the callbacks have run
        scores = {f"train/{name}": trained[name].item() for name in ("loss", "accuracy")}
        scores["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        row = {"epoch": trainer.current_epoch, "step": trainer.global_step - 1, **scores, **self._validation}
        divergence.check(row, pl_module)
        self._log(trainer, scores)
        self._validation = {}
        self.rows.append(row)
        if self.run_dir:
            rows = [[row.get(column, "") for column in COLUMNS] for row in self.rows]
            write_atomically(self.run_dir / "metrics.csv", reports.as_csv([COLUMNS, *rows]))
        now = time.perf_counter()
        if self.is_verbose:
            echo(self._describe(row, now - self._epoch_start))
        self._epoch_start = now

    def _describe(self, row: dict[str, float], seconds: float) -> str:
        text = f"epoch {row['epoch'] + 1:>3.0f}   training loss {row['train/loss']:.4f}"
        if "val/accuracy" in row:
            text += f"   validation accuracy {row['val/accuracy']:.2%}"
        return f"{text}   {seconds:.1f} s{'   best' if row is self.best else ''}"

    def _log(self, trainer: Trainer, scores: dict[str, float]) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(scores, trainer.global_step - 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds += time.perf_counter()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException | None = None) -> None:
        if self.run_dir and self.rows:
            reports.write_figure(self.run_dir / "figures" / "curves.png", figures.curves_figure(self.rows, self.best))

    on_exception = on_fit_end  # an interrupted run has curves, too


class RunCheckpoints(Checkpoint):
    """Saves `last.ckpt` after each epoch, and the same as `best.ckpt` if the history says that it is the best so far.

    `best.ckpt` comes first: if the run is killed in between, the resumed run repeats the epoch, and writes it again.
    """

    def __init__(self, history: TrainingHistory) -> None:
        self.history = history

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = (self.history.run_dir or Path()) / "checkpoints"  # only the first process has a folder, and writes
        best, last = folder / "best.ckpt", folder / "last.ckpt"
        is_best = self.history.best is self.history.rows[-1]
        trainer.save_checkpoint(best if is_best else last)
        if is_best and trainer.is_global_zero:
            write_atomically(last, best.read_bytes())
