"""Flags before parsing: their order and lists of values; the checkpoint that they name, its options and weights."""

import argparse
import inspect
import json
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.errors import UserError
from mnist_lightning.files import read_yaml
from mnist_lightning.models import Classifier, known_classes
from mnist_lightning.runs.checkpoints import Checkpoint, class_path

LISTS = ("model.init_args.ckpt_paths", "model.ckpt_paths", "images")  # take several values, as a shell expands patterns
LINKED = ("class_names", "mean", "std", "image_size", "channels", "is_handwriting", "outliers")
"""Model arguments that come from the data module, so that a checkpoint is enough to rebuild the model."""


def normalize(flags: Sequence[str]) -> list[str]:
    """Moves configs to the front, so that flags override them wherever they stand, and joins lists of values."""
    for name in LINKED:
        if {f"--model.init_args.{name}", f"--model.{name}"} & {flag.partition("=")[0] for flag in flags}:
            raise UserError(f"--model.init_args.{name} comes from the data; use the flags that begin with --data")
    scan = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    scan.add_argument("-c", "--config", action="append", default=[], nargs="?", const="")
    for name in LISTS:
        scan.add_argument(f"--{name}", nargs="+")
    known, others = scan.parse_known_args(flags)
    for name in LISTS:
        if values := getattr(known, name):
            others.append(f"--{name}={values[0] if values[0].startswith('[') else json.dumps(values)}")
    return [*(f"--config={path}" for path in known.config), *others]


def named_checkpoint(flags: Sequence[str]) -> tuple[str | None, str | None, str | None]:
    """Returns the checkpoint to use or resume, the one to start from, and the folder that contains `lightning_logs`."""
    found: dict[str, Any] = {}
    for flag in flags:
        if flag.startswith("--config=") and isinstance(config := read_yaml(Path(flag.partition("=")[2])), dict):
            trainer = config.get("trainer")
            found |= {**config, **(trainer if isinstance(trainer, dict) else {})}
    scan = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("ckpt_path", "init_from", "trainer.default_root_dir"):
        scan.add_argument(f"--{name}", nargs="?", dest=name.rpartition(".")[2])
    for name in LISTS[:2]:  # the first member of an ensemble stands for its data
        scan.add_argument(f"--{name}", dest="ckpt_path", type=lambda text: (yaml.safe_load(text) or [None])[0])
    found |= {name: value for name, value in vars(scan.parse_known_args(flags)[0]).items() if value}
    return found.get("ckpt_path"), found.get("init_from"), found.get("default_root_dir")


def defaults(command: str, flags: Sequence[str], stored: Checkpoint | None, is_resumed: bool = False) -> list[str]:
    """Returns flags to prepend: a checkpoint's model and data; its run's config, to resume; its network; or a CNN."""
    if stored is None:
        return ["--model=CNN"]
    if is_resumed:
        if not stored.is_resumable:
            raise UserError(f"checkpoint {stored.path} holds only weights and can't be resumed; use --init_from")
        if not stored.run_dir and not any(flag.startswith("--config") for flag in flags):
            raise UserError(f"checkpoint {stored.path} is not in a run folder; use --config to name the run's config")
        return [f"--config={stored.run_dir / 'config.yaml'}"] if stored.run_dir else []
    if stored.model_class not in {*known_classes(), *(flag.rpartition("=")[2] for flag in flags)}:
        raise UserError(f"checkpoint {stored.path} holds a {stored.model_class}; use --model {stored.model_class}")
    is_start = command == "fit"  # from these weights: everything but the network is new
    not_kept = inspect.signature(Classifier).parameters if is_start else LINKED
    model = {name: value for name, value in stored.model_options.items() if name not in not_kept}
    data = {} if is_start else {name: value for name, value in stored.data_options.items() if name != "seed"}
    try:
        text = yaml.safe_dump({"model": {"init_args": model}, "data": data})
        if "class_path" in text:
            raise ValueError("they name a class to import")
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"checkpoint {stored.path} holds options that are not plain values ({error})") from error
    return [f"--model={stored.model_class}", f"--config={text}"]


def load_weights(stored: Checkpoint, model: Classifier, data: MNISTDataModule, has_new_head: bool = False) -> None:
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
        weights = {**weights, **model.head.state_dict(prefix=f"{place}.")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        mismatch = str(error).splitlines()[1].strip()
        raise UserError(f"{problem} of another shape ({mismatch}); omit the flags that change it") from error
