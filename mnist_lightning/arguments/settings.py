"""Settings of training: the defaults, what this package does not support, precision, optimizer and schedule."""

import re
from typing import Any

import torch
from lightning.pytorch.cli import LightningCLI, instantiate_class

from mnist_lightning.errors import UserError, one_line
from mnist_lightning.models import Classifier

DEFAULTS = {
    "max_epochs": 5,
    "num_sanity_val_steps": 0,  # the first validation comes within seconds
    "enable_model_summary": False,
    "log_every_n_steps": 0,  # scores are logged by epoch
    "logger": True,
}
LIMITS = [f"limit_{stage}_batches" for stage in ("train", "val", "test", "predict")]
PARTIAL = [*LIMITS[1:], "fast_dev_run"]  # what must not be used to score or predict


def check(command: str, settings: Any) -> None:
    """Raises a UserError for a setting that is not supported."""
    is_endless = command == "fit" and settings.max_epochs in (0, -1) and settings.max_steps == -1
    for name, is_refused, reason in (
        ("overfit_batches", settings.overfit_batches, "would replace the sampler; use --trainer.limit_train_batches"),
        ("max_epochs", is_endless, "leaves the one-cycle schedule without a length; use 1 or more"),
        ("strategy", re.search("spawn|fork|notebook", str(settings.strategy)), "is not supported; use ddp"),
        *((name, settings[name] == 0, "leaves nothing to do; use 1 or more") for name in LIMITS),
        *((name, command != "fit" and settings[name], "would leave images out; omit it") for name in PARTIAL),
    ):
        if is_refused:
            raise UserError(f"--trainer.{name} {str(settings[name]).removesuffix('.0')} {reason}")


def choose_precision(command: str, settings: Any, is_new: bool) -> str:
    """Sets the precision of a new run: bfloat16 where the processor is fast at it; returns a note about that, or ""."""
    is_on_cpu = settings.accelerator in (("cpu",) if torch.accelerator.is_available() else ("cpu", "auto"))
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older releases of torch lack it
    is_fast = found.get("avx512_bf16") or found.get("amx_bf16")
    if command == "fit" and is_new and not settings.precision and not settings.plugins:
        settings.precision = "32-true"  # recorded, so that the config repeats the run
        # In mixed precision, Lightning can't clip every optimizer's gradients; other machines may choose otherwise.
        if is_on_cpu and is_fast and not settings.gradient_clip_val and settings.num_nodes == 1:
            settings.precision = "bf16-mixed"
            return "bf16-mixed, which is faster on this processor; --trainer.precision 32-true turns it off"
    elif is_on_cpu and "bf16" in str(settings.precision) and found and not is_fast and not found.get("bf16"):  # Arm's
        advice = "--trainer.precision 32-true is faster" if is_new else "but a resumed run keeps it"
        return f"{settings.precision}, which is slow on this processor; {advice}"
    return ""


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
