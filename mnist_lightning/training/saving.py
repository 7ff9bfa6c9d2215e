"""The two checkpoints of a run: `best.ckpt` and `last.ckpt`."""

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from mnist_lightning.files import write_atomically
from mnist_lightning.training.history import TrainingHistory


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
