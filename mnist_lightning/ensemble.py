"""From checkpoints back to models, and several of them as one classifier."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mnist_lightning import checkpoints, runs
from mnist_lightning.models import Classifier, known_classes


def rebuild(stored: checkpoints.Checkpoint) -> Classifier:
    """Returns a checkpoint's model with its weights, ready to evaluate.

    Raises:
        ValueError: Its class has not been imported, or its weights don't fit.
    """
    model_class = known_classes().get(stored.model_class)
    if model_class is None:  # nothing is imported because a file says so
        known = ", ".join(known_classes())
        raise ValueError(f"checkpoint {stored.path} holds a {stored.model_class}, which is none of {known}")
    try:
        model = model_class(**stored.model_options)
        model.load_state_dict(stored.weights)
    except (TypeError, RuntimeError) as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"checkpoint {stored.path} was written by another version ({problem})") from error
    return model.eval()


class Ensemble(Classifier):
    """Several trained classifiers as one: the mean of their probabilities.

    Args:
        ckpt_paths: Their checkpoints: files, `best`, `last` or `pretrained`.
        kwargs: As in `Classifier`.

    Raises:
        FileNotFoundError: A checkpoint is missing.
        ValueError: There is none, one is damaged, or they were trained on different datasets.
    """

    def __init__(self, ckpt_paths: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ckpt_paths = list(ckpt_paths)
        if not ckpt_paths:
            raise ValueError("ckpt_paths is empty; give one or more checkpoints")
        members = [rebuild(checkpoints.read(runs.find(path, runs.LOGS_DIR))) for path in ckpt_paths]
        for path, member in zip(ckpt_paths, members, strict=True):
            its, ours = (
                {"class_names": model.class_names, "mean": model.hparams["mean"], "std": model.hparams["std"]}
                for model in (member, self)
            )
            if its != ours:
                raise ValueError(f"checkpoint {path} was trained on data with {its}, and these have {ours}")
        self.network = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logarithm of the mean probabilities, `(N, C)`, for images `(N, 1, 28, 28)` float32."""
        members = torch.stack([member(images).log_softmax(1) for member in self.network.children()])
        return members.logsumexp(0) - math.log(len(members))
