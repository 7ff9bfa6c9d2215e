"""TensorBoard: the loggers of a run."""

from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger


def make_logger(run_dir: Path, purge_step: int | None = None) -> TensorBoardLogger:
    """Returns a logger that writes to a run folder; TensorBoard discards earlier entries from `purge_step` on."""
    return TensorBoardLogger(run_dir, name="", version="", default_hp_metric=False, purge_step=purge_step)


def loggers(trainer: Trainer) -> list[TensorBoardLogger]:
    """Returns the TensorBoard loggers that this process writes to: only the first process writes."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero]
