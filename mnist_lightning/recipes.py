"""What a resumed run keeps of its recipe, which a checkpoint holds: all settings, and no class that a file names."""

import re
from pathlib import Path
from typing import Any

import yaml

from mnist_lightning.files import parse_settings

DECISIVE = """
    max_epochs max_steps min_epochs min_steps max_time limit_train_batches limit_val_batches check_val_every_n_epoch
    val_check_interval devices num_nodes strategy precision accumulate_grad_batches gradient_clip_val
    gradient_clip_algorithm sync_batchnorm benchmark deterministic
"""
KEPT = ("seed_everything", "model", "data", *(f"trainer.{name}" for name in DECISIVE.split()))
"""Settings that decide what a resumed run computes, or what they begin with."""
FREE = ("data.data_dir", "data.num_workers")
"""Those among them that don't."""
SWITCHES = tuple(
    f"trainer.{name}" for name in ("enable_checkpointing", "enable_progress_bar", "logger", "num_sanity_val_steps")
)
"""More that a resumed run has again, unless it is given otherwise."""
HARMLESS = tuple(
    f"lightning.pytorch.callbacks.{name}" for name in ("EMAWeightAveraging", "EarlyStopping", "LearningRateMonitor")
)
"""Callbacks that a checkpoint may name: they write to no place of their own."""
MADE_OF_CLASSES = tuple(f"trainer.{name}" for name in ("callbacks", "logger", "plugins", "profiler"))
"""Settings that a checkpoint can't bring along, but for those callbacks."""
OWN_CONFIG = "give the run's own config.yaml with --config"
TEXTS = ("dataset", "data_dir")
"""What is text among the data module's settings; all else in them is numbers."""


def without_classes(recipe: str) -> str:
    """Takes from a stored recipe what names no class, no file to read and no place for runs: known names, plain values.

    Args:
        recipe: YAML from anybody.

    Raises:
        ValueError: It is no recipe.
    """
    settings = parse_settings(recipe, "the checkpoint's recipe")
    if not isinstance(settings, dict) or not isinstance(settings.get("trainer", {}), dict):
        raise ValueError("the checkpoint's recipe is none")
    trainer, data = (_as_mapping(settings.get(name)) for name in ("trainer", "data"))
    kept: dict[str, Any] = {}
    if isinstance(settings.get("seed_everything"), int):
        kept["seed_everything"] = settings["seed_everything"]
    kept["data"] = {
        name: value for name, value in data.items() if _is_number(value) or (name in TEXTS and isinstance(value, str))
    }
    numbers = {name: value for name, value in _as_mapping(data.get("augmentation")).items() if _is_number(value)}
    kept["data"] |= {"augmentation": numbers} if numbers else {}
    kept["trainer"] = {name: value for name, value in trainer.items() if _is_kept(f"trainer.{name}", value)}
    callbacks = trainer.get("callbacks")
    if isinstance(callbacks, list):
        kept["trainer"]["callbacks"] = list(filter(_is_harmless, callbacks)) or None
    return yaml.safe_dump({name: value for name, value in kept.items() if value != {}})


def check_same(path: Path, stored: str, given: str) -> None:
    """Checks that a run is resumed with the settings that it began with.

    Args:
        path: The checkpoint.
        stored: Its recipe.
        given: All settings now, as YAML.

    Raises:
        ValueError: A setting that decides what is computed differs, or a class is missing.
    """
    then, now = (flatten(yaml.safe_load(text)) for text in (stored, given))
    for name in sorted(then):
        if name.startswith(KEPT) and name not in FREE and then[name] != now.get(name):
            if name.startswith("trainer.") and not _is_plain(then[name]):
                raise ValueError(f"{path} was trained with {name} {then[name]}; {OWN_CONFIG}")
            raise ValueError(
                f"{name} is {then[name]} in {path}, not {now.get(name)}, and a resumed run keeps its settings; "
                "leave the flag out, or train a new model without --ckpt_path"
            )
        missing = [item for item in _as_list(then.get(name)) if item not in _as_list(now.get(name))]
        if missing and name.startswith(MADE_OF_CLASSES) and not _is_plain(then.get(name)):
            raise ValueError(
                f"{path} was trained with {name} {missing}, and nothing is imported because a file says so; "
                f"{OWN_CONFIG}"
            )


def flatten(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Returns nested settings by their dotted names."""
    if not isinstance(settings, dict):
        return {prefix: settings}
    parts = (flatten(value, f"{prefix}.{name}" if prefix else str(name)) for name, value in settings.items())
    return {name: value for part in parts for name, value in part.items()}


def _is_kept(name: str, value: object) -> bool:
    is_known = name.startswith(KEPT) or name == "trainer.accelerator"
    return (is_known and _is_plain(value)) or (name in SWITCHES and _is_number(value))


def _is_harmless(callback: Any) -> bool:
    """Tells whether a callback that a checkpoint names may be made."""
    match callback:
        case {"class_path": str(name), **rest}:
            options = rest.get("init_args") or {}
            return name in HARMLESS and isinstance(options, dict) and all(map(_is_plain, options.values()))
    return False


def _is_number(value: object) -> bool:
    return value is None or isinstance(value, int | float)


def _is_plain(value: object) -> bool:
    """Tells whether a setting can't name anything to import or to read."""
    if isinstance(value, list):  # of devices
        return all(map(_is_number, value))
    return _is_number(value) or (isinstance(value, str) and re.fullmatch(r"[\w,/:-]+", value) is not None)


def _as_mapping(value: Any) -> dict[str, Any]:
    return {str(name): item for name, item in value.items()} if isinstance(value, dict) else {}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
