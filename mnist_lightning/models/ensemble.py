"""Rebuilds models from checkpoints, and combines several into one classifier."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnist_lightning.errors import UserError, check_range, one_line
from mnist_lightning.models.classifier import Classifier
from mnist_lightning.runs import checkpoints, folders


def known_classes() -> dict[str, type[Classifier]]:
    """Returns the classifiers that have been imported, by their import paths."""
    found: list[type[Classifier]] = [Classifier]
    for base in found:  # grows meanwhile
        found += base.__subclasses__()
    return {checkpoints.class_path(model): model for model in found[1:]}


def rebuild(stored: checkpoints.Checkpoint) -> Classifier:
    """Returns a checkpoint's model, in evaluation mode. Classes that a file names are never imported."""
    if not (model_class := known_classes().get(stored.model_class)):
        raise UserError(f"checkpoint {stored.path} holds a {stored.model_class}; import this class first")
    try:
        model = model_class(**stored.model_options)
        model.load_state_dict(stored.weights)
    except (TypeError, RuntimeError) as error:
        raise UserError(f"checkpoint {stored.path} does not fit this version ({one_line(error)})") from error
    return model.eval()


class Ensemble(Classifier):
    """One or several trained classifiers as one: the mean of their probabilities.

    Args:
        ckpt_paths: Their checkpoints: files, `best`, `last` or `pretrained`.
        shift: Pixels by which the images are also shifted, in all directions; the mean is over all of these, too.
        kwargs: As in `Classifier`.
    """

    def __init__(self, ckpt_paths: Sequence[str], shift: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_range("shift", shift, shift >= 0, "0 or more, such as 1")
        check_range("ckpt_paths", list(ckpt_paths), len(ckpt_paths) > 0, "one or more checkpoints")
        self.shift = shift
        self.ckpt_paths = [folders.find_checkpoint(path) for path in ckpt_paths]
        members = [rebuild(checkpoints.read(path)) for path in self.ckpt_paths]
        for path, member in zip(self.ckpt_paths, members, strict=True):
            theirs, ours = ((m.class_names, m.hparams["mean"], m.hparams["std"]) for m in (member, self))
            if theirs != ours:
                raise UserError(f"checkpoint {path} has classes, mean and std {theirs}, not {ours}; use the same data")
        self.members, self.network = members, nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logarithm of the mean probability, `(N, C)`, for images `(N, 1, 28, 28)` float32."""
        steps = range(-self.shift, self.shift + 1)
        views = [F.pad(images, (-x, x, -y, y), mode="replicate") for y in steps for x in steps]  # negative: crops
        log_probabilities = [member.calibrated_logits(view).log_softmax(1) for member in self.members for view in views]
        return torch.stack(log_probabilities).logsumexp(0) - math.log(len(log_probabilities))
