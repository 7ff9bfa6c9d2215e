"""Help: a page for each command, without importing torch; and all flags of models, data and trainer."""

from pathlib import Path

from mnist_lightning.console import command_line


def page(command: str) -> str:
    """Returns what a command does, its most useful flags, and examples."""
    path = Path(__file__).parent / "help_pages" / f"{command}.txt"
    text = path.read_text(encoding="utf-8").replace("python -m mnist_lightning", command_line())
    more = "" if command == "serve" else "\n--help-all lists all flags of models, data and trainer.\n"
    return f"usage: {command_line(command)} [FLAGS]\n\n{text}{more}"


def all_flags() -> str:
    """Returns the flags of each model, of the data module and of the trainer, from signatures and docstrings."""
    from jsonargparse import SUPPRESS, ArgumentParser
    from lightning.pytorch import Trainer

    from mnist_lightning.arguments import flags, settings
    from mnist_lightning.data.module import MNISTDataModule
    from mnist_lightning.models import known_classes

    pages = []
    for title, documented, key, skip in (
        *((f"--model {model.__name__}", model, "model.init_args", flags.LINKED) for model in known_classes().values()),
        ("data", MNISTDataModule, "data", ("seed",)),
        ("trainer", Trainer, "trainer", ("overfit_batches",)),
    ):
        parser = ArgumentParser(add_help=False, usage=SUPPRESS, default_meta=False)
        defaults = settings.DEFAULTS if key == "trainer" else None
        parser.add_class_arguments(documented, key, skip=set(skip), default=defaults)
        pages.append(f"{title}: {parser.format_help().strip()}\n")
    return "\n".join(pages)
