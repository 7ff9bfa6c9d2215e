"""Checkpoints: reading them without running or importing what they name, and writing them durably."""

import io
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from mnist_lightning.errors import UserError
from mnist_lightning.files import write_atomically
from mnist_lightning.runs.folders import TRAIN_ONE


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint file."""

    path: Path
    run_dir: Path | None  # the run folder that the file is in, or None if it is elsewhere
    model_class: str  # import path
    model_options: dict[str, Any]  # that class's arguments, including normalization
    class_names: tuple[str, ...]  # one of these arguments, in the order of the labels
    data_options: dict[str, Any]  # arguments of the data module
    weights: dict[str, Tensor]  # the model's state
    num_epochs: int  # epochs completed
    num_steps: int  # optimizer steps taken
    is_resumable: bool  # whether it holds the optimizer's state


def class_path(model_class: type) -> str:
    """Returns the path that a class is imported from, such as `mnist_lightning.models.CNN`."""
    package = "mnist_lightning.models"  # exports the classes of its modules
    module = package if model_class.__module__.startswith(f"{package}.") else model_class.__module__
    return f"{module}.{model_class.__qualname__}"


def read(path: Path) -> Checkpoint:
    """Reads a checkpoint of this package without running any code in it, or raises a UserError."""
    try:
        with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # torch writes checksums but does not verify them
                raise ValueError(f"checksum mismatch of {damaged}")
            content = torch.load(path, map_location="cpu", weights_only=True)
        run_dir = path.parent.parent
        is_in_run = path.parent.name == "checkpoints" and (run_dir / "config.yaml").is_file()
        return Checkpoint(
            path,
            run_dir if is_in_run else None,
            model_class=str(content["model_class"]),
            model_options=dict(content["hyper_parameters"]),
            class_names=tuple(content["hyper_parameters"]["class_names"]),
            data_options=dict(content["datamodule_hyper_parameters"]),
            weights=dict(content["state_dict"]),
            num_epochs=int(content["epoch"]) + 1,
            num_steps=int(content["global_step"]),
            is_resumable=bool(content.get("optimizer_states")),
        )
    except Exception as error:  # torch raises all kinds of errors for files that are not checkpoints
        best = path.with_name("best.ckpt")
        advice = f"try --ckpt_path {best}" if path.name == "last.ckpt" and best.exists() else TRAIN_ONE
        raise UserError(f"checkpoint {path} is damaged, of another program, or needs code to load; {advice}") from error


class DurableIO(TorchCheckpointIO):
    """Flushes a checkpoint to the disk before it replaces the previous one; Lightning moves it without a flush."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a checkpoint, or raises a UserError and keeps the previous one."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomically(Path(path), buffer.getvalue())
