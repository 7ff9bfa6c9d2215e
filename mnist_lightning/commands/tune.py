"""The command `tune`: searches hyperparameters."""

import argparse
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path

from mnist_lightning.arguments.cli import CLI
from mnist_lightning.console import command_line
from mnist_lightning.errors import Parser, UserError, check_range, needs_extra

with needs_extra("tune"):
    from mnist_lightning.tuning.search import Search
    from mnist_lightning.tuning.space import Parameter, as_flags, read_space
    from mnist_lightning.tuning.storage import open_storage


def tune(flags: Sequence[str]) -> None:
    """Searches hyperparameters; the same command on many machines with the same storage is one search."""
    args, fit_flags = _parse(flags)
    name = args.study or (Path(args.config[-1]).stem if args.config else "fit")
    if not re.fullmatch(r"\w[\w .+()-]{0,99}", name):  # it also names a folder
        raise UserError(f"--study {name!r} must be a letter or digit, and then letters, digits, spaces and _.+-()")
    folder = Path("tuning") / name
    space = read_space(args.space)
    cli = _checked_cli(fit_flags)
    _check_space(space, fit_flags, type(cli.model).__name__)
    cli.datamodule.setup("fit")  # missing data is reported before the first trial
    if not args.storage:
        folder.mkdir(parents=True, exist_ok=True)
    storage = open_storage(args.storage or f"sqlite:///{folder / 'study.db'}", args.grace_s)
    num_epochs = args.epochs or max(1, (cli.trainer.max_epochs or 1) // 3)
    sizes = {"num_trials": args.trials, "num_finalists": args.finalists, "num_seeds": args.seeds}
    Search(storage, name, fit_flags, space, num_epochs=num_epochs, folder=folder, **sizes).run(args.timeout_s)


def _parse(flags: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the command's own flags, and those that each trial passes to `fit`."""
    parser = Parser(command_line("tune"), allow_abbrev=False)
    parser.add_argument("--config", action="append", default=[])
    parser.add_argument("--space", type=Path, required=True)
    for name, default in (("trials", 20), ("epochs", None), ("finalists", 3), ("seeds", 3), ("grace_s", 60)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--storage")
    parser.add_argument("--study")
    parser.add_argument("--timeout_s", type=float, default=math.inf)
    args, others = parser.parse_known_args(flags)
    for name, minimum in (("trials", 1), ("epochs", 1), ("finalists", 1), ("seeds", 1), ("timeout_s", 0)):
        value = getattr(args, name)
        check_range(f"--{name}", value, value is None or value >= minimum, f"{minimum} or more")
    check_range("--grace_s", args.grace_s, 1 <= args.grace_s <= 86_400, "between 1 and 86400")
    return args, [*(f"--config={path}" for path in args.config), *others]


def _check_space(space: list[Parameter], flags: list[str], model: str) -> None:
    """Raises the UserError of `fit` if it rejects a value with a model that the value may be combined with."""
    chosen = next((list(map(str, entry.values())) for entry in space if entry.name == "model"), None)
    for parameter in space:
        models = [name for name in chosen or [model] if parameter.belongs_to(name)]
        if not models:
            entry = f"{parameter.name} in the space has only_with: {parameter.only_with}"
            raise UserError(f"{entry}, but the models are {', '.join(chosen or [model])}; remove it or add model")
        for name, value in itertools.product(models, parameter.values()):
            _checked_cli([*flags, *as_flags({**({"model": name} if chosen else {}), parameter.name: value})])


def _checked_cli(flags: list[str]) -> CLI:
    cli = CLI("fit", flags)
    if cli.checkpoint:
        raise UserError("each trial trains a new model; omit --ckpt_path")
    if cli.trainer.world_size > 1:
        raise UserError("a trial uses one device; use --trainer.devices 1, and start tune once for each device")
    return cli
