"""Checkpoints: reading them without trust, writing them whole, and keeping the best."""

import contextlib
import io
import itertools
import os
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint

from mnist_lightning.files import UnwritableError, write_atomically
from mnist_lightning.runs import NEXT_STEP

KINDS = {
    "model_class": str,
    "hyper_parameters": dict,
    "datamodule_hyper_parameters": dict,
    "state_dict": dict,
    "callbacks": dict,
    "epoch": int,
    "global_step": int,
}
"""What a checkpoint of this package has at least."""
RESUMED = ("optimizer_states", "lr_schedulers", "loops", "pytorch-lightning_version", "MNISTDataModule")
"""What a run needs to go on from it, too."""
MOST_OPTIONS = 2000
"""Lists that hold each other stand for more than anybody can look through."""


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
        recipe: All settings of the run as YAML; empty if it was not made by the command line.
        is_resumable: Whether the optimiser's state is there too.
    """

    path: Path
    model_class: str
    model_options: dict[str, Any]
    data_options: dict[str, Any]
    weights: dict[str, Tensor]
    num_epochs: int
    num_steps: int
    recipe: str
    is_resumable: bool

    @property
    def run_dir(self) -> Path | None:
        """The folder of the run that the checkpoint belongs to, or None for a file that lies elsewhere."""
        is_in_run = self.path.parent.name == "checkpoints" and (self.path.parent.parent / "config.yaml").is_file()
        return self.path.parent.parent if is_in_run else None


def read(path: Path) -> Checkpoint:
    """Reads a checkpoint of this package, without running any code in it.

    Raises:
        ValueError: The file is damaged, would run code, or was not written by this package.
    """
    content = _load(path)
    if not isinstance(content, dict) or any(not isinstance(content.get(key), kind) for key, kind in KINDS.items()):
        raise ValueError(f"checkpoint {path} was not written by mnist_lightning; {NEXT_STEP}")
    weights = content["state_dict"]
    if not all(isinstance(name, str) and isinstance(weight, Tensor) for name, weight in weights.items()):
        raise ValueError(f"checkpoint {path} has weights that are none; {NEXT_STEP}")
    for name in ("hyper_parameters", "datamodule_hyper_parameters"):
        if (num_options := sum(1 for _ in itertools.islice(_walk(content[name]), MOST_OPTIONS))) == MOST_OPTIONS:
            raise ValueError(f"checkpoint {path} has {num_options:,} {name} or more, which no model needs; {NEXT_STEP}")
    own = content["callbacks"].get("BestCheckpoint")
    recipe = own.get("recipe") if isinstance(own, dict) else None
    return Checkpoint(
        path,
        model_class=content["model_class"],
        model_options=content["hyper_parameters"],
        data_options=content["datamodule_hyper_parameters"],
        weights=content["state_dict"],
        num_epochs=content["epoch"] + 1 if content["global_step"] else 0,
        num_steps=content["global_step"],
        recipe=recipe if isinstance(recipe, str) else "",
        is_resumable=all(content.get(name) for name in RESUMED),
    )


def _walk(options: Any) -> Iterator[Any]:
    """Yields what is in nested options, over and over where they hold themselves."""
    pending = [options]
    while pending:
        yield (options := pending.pop())
        if isinstance(options, dict | list | tuple):
            pending += options.values() if isinstance(options, dict) else options


def _load(path: Path) -> Any:
    problem = "is damaged, or not a checkpoint at all"
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("torch compresses nothing, and what is compressed may be larger than memory")
            if damaged := archive.testzip():  # torch writes checksums, and doesn't look at them
                raise ValueError(f"{damaged} has another checksum")
        with contextlib.suppress(pickle.UnpicklingError):
            if names := get_unsafe_globals_in_checkpoint(path):
                problem = f"would run {', '.join(sorted(names))} when it is loaded, and was not loaded"
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch promises no particular one for what is not a checkpoint
        raise ValueError(f"checkpoint {path} {problem}; {NEXT_STEP}") from error


class DurableIO(CheckpointIO):
    """Writes checkpoints beside their target and to the disk, before they take its place.

    Lightning's own way goes through the system's temporary folder and trusts that the disk will have it.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Writes a checkpoint; until it is whole, the earlier one stays.

        Raises:
            UnwritableError: The disk is full, or the folder can't be written.
        """
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        try:
            write_atomically(Path(path), buffer.getbuffer())
        except UnwritableError as error:
            raise UnwritableError(f"checkpoint {error}; the one before it is whole") from error

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint, without running any code in it.

        Raises:
            ValueError: The file is damaged, or would run code.
        """
        content: dict[str, Any] = _load(Path(path))
        return content

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Removes a checkpoint."""
        Path(path).unlink(missing_ok=True)


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt`, by validation accuracy and then by validation loss, and `last.ckpt`.

    Args:
        recipe: All settings of the run as YAML, stored for a resumed run to have the same.
    """

    state_key = "BestCheckpoint"  # of which there is one; the inherited key spells out the arguments

    def __init__(self, recipe: str = "") -> None:
        super().__init__(
            filename="best",
            monitor="val/accuracy",
            mode="max",
            save_last=True,
            save_on_train_epoch_end=True,  # when the epoch's training scores are known too
            enable_version_counter=False,
        )
        self.best_loss = float("inf")
        self.is_stopped = False
        self.recipe = recipe

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds its folder, where a resumed run has checkpoints already."""
        with warnings.catch_warnings(action="ignore"):
            super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves what a run begins with, so that it can go on from there however soon it ends."""
        super().on_train_start(trainer, pl_module)
        trainer.should_stop |= self.is_stopped  # a run that was stopped early, and killed before it ended
        if not trainer.global_step:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the epoch as the last one, too; Lightning does so for the best ones alone."""
        self.is_stopped = trainer.should_stop
        if self.monitor in trainer.callback_metrics:  # the first epochs may have no validation
            super().on_train_epoch_end(trainer, pl_module)
        if not self._should_skip_saving_checkpoint(trainer):  # as it does for a step that it has saved already
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves nothing, since the last epoch has been; Lightning would, with a state that no epoch ends in."""

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Tells whether the epoch just ended is the best so far."""
        loss = float(trainer.callback_metrics.get("val/loss", float("inf")))  # an epoch may have no validation
        is_tie = current is not None and current == self.best_model_score and loss < self.best_loss
        is_best = super().check_monitor_top_k(trainer, current) or is_tie
        if is_best:
            self.best_loss = loss
        return is_best

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run must know."""
        own = {"best_loss": self.best_loss, "is_stopped": self.is_stopped, "recipe": self.recipe}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a saved state."""
        self.best_loss = state_dict["best_loss"]
        self.is_stopped = state_dict.get("is_stopped", False)
        self.current_score = state_dict.get("current_score")  # Lightning saves it, and forgets it
        # The run's folder may have been moved, and a checkpoint that lies elsewhere begins a new one.
        super().load_state_dict({**state_dict, "dirpath": self.dirpath})


def best_callback(trainer: Trainer) -> BestCheckpoint | None:
    """Returns a trainer's `BestCheckpoint`; it has none when checkpoints are switched off."""
    return next((callback for callback in trainer.checkpoint_callbacks if isinstance(callback, BestCheckpoint)), None)
