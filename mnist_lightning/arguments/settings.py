"""The trainer's settings: the defaults, and what this package does not support."""

import re
from typing import Any

from mnist_lightning.errors import UserError

DEFAULTS = {
    "max_epochs": 5,
    "num_sanity_val_steps": 0,  # the first validation comes within seconds
    "enable_model_summary": False,
    "log_every_n_steps": 0,  # scores are logged by epoch
    "logger": True,
}
UNSUPPORTED = {"overfit_batches": "would replace the sampler; use --trainer.limit_train_batches"}
LIMITS = [f"limit_{stage}_batches" for stage in ("train", "val", "test", "predict")]


def check(command: str, settings: Any) -> None:
    """Raises a UserError for a setting that is not supported."""
    is_endless = command == "fit" and settings.max_epochs in (0, -1) and settings.max_steps == -1
    is_spawn = re.search("spawn|fork|notebook", str(settings.strategy))
    for name, is_refused, reason in (
        *((name, settings[name], reason) for name, reason in UNSUPPORTED.items()),
        ("max_epochs", is_endless, "leaves the one-cycle schedule without a length; use 1 or more"),
        ("strategy", is_spawn, "is not supported; use ddp"),
        *((name, settings[name] == 0, "leaves nothing to do; use 1 or more") for name in LIMITS),
    ):
        if is_refused:
            raise UserError(f"--trainer.{name} {str(settings[name]).removesuffix('.0')} {reason}")
