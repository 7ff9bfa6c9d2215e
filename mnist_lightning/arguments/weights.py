"""Where a command's weights come from, and how `fit` changes them: checkpoints, and an optimizer named by flags."""

import reprlib
from typing import Any

from lightning.pytorch.cli import LightningCLI, instantiate_class

from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.errors import UserError, one_line
from mnist_lightning.models import Classifier
from mnist_lightning.runs.checkpoints import Checkpoint, class_path


def load(stored: Checkpoint, model: Classifier, data: MNISTDataModule, has_new_head: bool = False) -> None:
    """Loads a checkpoint's weights, or all but those of the last layer; raises a UserError if they don't fit."""
    problem = f"checkpoint {stored.path} holds a {stored.model_class}"
    if (chosen := class_path(type(model))) != stored.model_class:
        raise UserError(f"{problem}, not a {chosen}; use --model {stored.model_class}")
    if not has_new_head and stored.class_names != tuple(data.class_names):
        theirs, ours = (reprlib.repr(list(names)) for names in (stored.class_names, data.class_names))
        advice = "choose another --data.dataset or --ckpt_path"
        raise UserError(f"{problem} for the classes {theirs}, but {data.dataset} has {ours}; {advice}")
    weights = stored.weights
    if has_new_head:
        place = next(name for name, module in model.named_modules() if module is model.head)
        new = {name: value for name, value in model.state_dict().items() if name.startswith(f"{place}.")}
        weights = {**weights, **new}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        mismatch = str(error).splitlines()[1].strip()
        raise UserError(f"{problem} of another shape ({mismatch}); omit the flags that change it") from error


def choose_optimizer(model: Classifier, optimizer_init: Any, schedule_init: Any) -> None:
    """Replaces the model's optimizer, its schedule, or both with what flags name, as LightningCLI does."""

    def configure_optimizers() -> Any:
        try:
            given = instantiate_class(model.parameters(), optimizer_init) if optimizer_init else None
            optimizer = given or model.make_optimizer()
            schedule = instantiate_class(optimizer, schedule_init) if schedule_init else None
        except (TypeError, ValueError) as error:
            raise UserError(f"--optimizer or --lr_scheduler can't be used: {one_line(error)}") from error
        return LightningCLI.configure_optimizers(model, optimizer, schedule)

    if optimizer_init or schedule_init:
        model.configure_optimizers = configure_optimizers  # type: ignore[method-assign]
