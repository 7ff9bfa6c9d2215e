"""Help: a page for each command, without importing torch; and all flags of models, data and trainer."""

import argparse
import inspect
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mnist_lightning.console import command_line

PAGES = Path(__file__).parent / "help_pages"


def page(command: str) -> str:
    """Returns what a command does, its most useful flags, and examples."""
    text = (PAGES / f"{command}.txt").read_text(encoding="utf-8").replace("python -m mnist_lightning", command_line())
    more = "" if command == "serve" else "\n--help-all lists all flags of models, data and trainer.\n"
    return f"usage: {command_line(command)} [FLAGS]\n\n{text}{more}"


def all_flags() -> str:
    """Returns the flags of each model, of the data module and of the trainer, from signatures and docstrings."""
    from lightning.pytorch import Trainer

    from mnist_lightning.arguments import flags, settings
    from mnist_lightning.data.augmentation import Augmentation
    from mnist_lightning.data.module import MNISTDataModule
    from mnist_lightning.models import Classifier
    from mnist_lightning.models.ensemble import known_classes

    models = [
        _describe(f"--model {model.__name__}", [model, Classifier], "model.init_args", flags.LINKED)
        for model in known_classes().values()
    ]
    data = _describe("data", [MNISTDataModule], "data", ("seed", "augmentation"))
    augmentation = _describe("augmentation of the training images", [Augmentation], "data.augmentation")
    trainer = _describe("trainer", [Trainer], "trainer", settings.UNSUPPORTED, settings.DEFAULTS)
    return "\n".join([*models, data, augmentation, trainer])


def _describe(
    title: str, classes: list[type], key: str, skip: Collection[str] = (), defaults: dict[str, Any] | None = None
) -> str:
    """Returns the arguments of classes as flags, each with the first sentence about it and its default."""
    from docstring_parser import parse

    parser = argparse.ArgumentParser(
        add_help=False,
        usage=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=42),
    )
    group = parser.add_argument_group(title)
    texts = [text for documented in classes for text in (documented.__doc__, documented.__init__.__doc__)]  # type: ignore[misc]
    about = {param.arg_name: param.description for text in texts[::-1] for param in parse(text or "").params}
    arguments: dict[str, inspect.Parameter] = {}
    for documented in classes:
        arguments |= {k: v for k, v in inspect.signature(documented).parameters.items() if k not in arguments}
    for name, argument in arguments.items():
        if name in skip or argument.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        text = " ".join((about.get(name) or "").split()).partition(". ")[0].rstrip(".").replace("`", "")
        default = (defaults or {}).get(name, argument.default)
        if default is argument.empty:
            text += " (required)"
        elif default is not None:
            text += f" (default: {default})"
        group.add_argument(f"--{key}.{name}", metavar="", help=text.replace("%", "%%"))
    return parser.format_help().lstrip()
