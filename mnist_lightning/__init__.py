"""A handwritten-digit classifier built with PyTorch Lightning, to run, trust, read and reuse."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnist_lightning.models import Classifier


def load(source: str | Path = "pretrained") -> "Classifier":
    """Returns a trained model, in evaluation mode, or raises a UserError; `model.predict(images)` classifies pictures.

    `source` is `pretrained`, a checkpoint, a run folder, or `best` or `last` of the newest run.
    """
    from mnist_lightning.models.ensemble import rebuild  # imports torch, which takes seconds
    from mnist_lightning.runs import checkpoints, folders

    return rebuild(checkpoints.read(folders.find_checkpoint(str(source))))
