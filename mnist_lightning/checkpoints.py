"""Run folders and their checkpoints: making, finding, reading and keeping the best."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

NEXT_STEP = "train one with `python -m mnist_lightning fit`"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file says about the model in it.

    Attributes:
        path: The file.
        model_class: Import path of the model's class.
        model_options: Arguments of that class, with class names and normalisation.
        data_options: Arguments of the data module.
        weights: The model's state.
        num_epochs: How many epochs have been trained.
        num_steps: How many batches those were.
        max_epochs: How many the schedule is for.
    """

    path: Path
    model_class: str
    model_options: dict[str, Any]
    data_options: dict[str, Any]
    weights: dict[str, Tensor]
    num_epochs: int
    num_steps: int
    max_epochs: int

    @property
    def run_dir(self) -> Path | None:
        """The folder of the run that the checkpoint belongs to, or None for a file that lies elsewhere."""
        return self.path.parent.parent if self.path.parent.name == "checkpoints" else None


def run_dirs(logs_dir: Path) -> list[Path]:
    """Returns the run folders `version_N`, oldest first."""
    numbered = [path for path in logs_dir.glob("version_*") if path.name.removeprefix("version_").isdigit()]
    return sorted(numbered, key=lambda path: int(path.name.removeprefix("version_")))


def make_run_dir(logs_dir: Path) -> Path:
    """Makes the next run folder; runs that start at the same moment get folders of their own."""
    number = 0
    if existing := run_dirs(logs_dir):
        number = int(existing[-1].name.removeprefix("version_")) + 1
    while True:
        path = logs_dir / f"version_{number}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return path


def find(ckpt_path: str, logs_dir: Path) -> Path:
    """Finds a checkpoint.

    Args:
        ckpt_path: `best` or `last` of the newest run that has one, or a file.
        logs_dir: Folder of the runs.

    Raises:
        FileNotFoundError: There is none.
    """
    if ckpt_path in ("best", "last"):
        for run_dir in reversed(run_dirs(logs_dir)):
            path = run_dir / "checkpoints" / f"{ckpt_path}.ckpt"
            if path.is_file():
                return path
        raise FileNotFoundError(f"no run in {logs_dir} has a {ckpt_path} checkpoint; {NEXT_STEP}")
    path = Path(ckpt_path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {ckpt_path} is not a file; give a path, best or last, or {NEXT_STEP}")
    return path


def read(path: Path) -> Checkpoint:
    """Reads a checkpoint of this package, without running any code in it.

    Raises:
        ValueError: The file is damaged, or was not written by this package.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
        raise ValueError(f"checkpoint {path} is damaged, or not a checkpoint at all; {NEXT_STEP}") from error
    try:
        return Checkpoint(
            path,
            content["model_class"],
            content["hyper_parameters"],
            content["datamodule_hyper_parameters"],
            content["state_dict"],
            content["epoch"] + 1,
            content["global_step"],
            content["max_epochs"],
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"checkpoint {path} was not written by mnist_lightning; {NEXT_STEP}") from error


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt`, by validation accuracy and then by validation loss, and `last.ckpt`."""

    def __init__(self) -> None:
        super().__init__(
            filename="best",
            monitor="val/accuracy",
            mode="max",
            save_last=True,
            save_on_train_epoch_end=True,  # when the epoch's training scores are known too
            enable_version_counter=False,
        )
        self.best_loss = float("inf")

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Tells whether the epoch just ended is the best so far."""
        loss = float(trainer.callback_metrics["val/loss"])
        is_tie = current is not None and current == self.best_model_score and loss < self.best_loss
        is_best = super().check_monitor_top_k(trainer, current) or is_tie
        if is_best:
            self.best_loss = loss
        return is_best

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run must know."""
        return {**super().state_dict(), "best_loss": self.best_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a saved state."""
        self.best_loss = state_dict["best_loss"]
        # A resumed run has a folder of its own, and still knows the best epoch so far.
        super().load_state_dict({**state_dict, "dirpath": self.dirpath})
