"""What flags say before they are parsed: which recipes, which checkpoint, where a list ends."""

import argparse
import contextlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

LISTS = ("--model.init_args.ckpt_paths", "--model.ckpt_paths", "--images")
"""Flags that take several values, one after the other as a shell's wildcards leave them."""
SETTINGS = ("--config", "--data", "--data.augmentation", "--model", "--trainer")
"""Flags whose value may be a file of settings."""


def recipes_first(flags: Sequence[str]) -> list[str]:
    """Moves `--config` to the front: flags win over recipes, wherever they stand."""
    scan = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    scan.add_argument("-c", "--config", action="append", default=[], nargs="?", const="")
    known, others = scan.parse_known_args(flags)
    return [*(f"--config={path}" for path in known.config), *others]


def with_lists(flags: Sequence[str]) -> list[str]:
    """Joins the values after a flag that takes a list: `--model.init_args.ckpt_paths a.ckpt b.ckpt`."""
    joined: list[str] = []
    for flag in flags:
        if len(joined) > 1 and joined[-2] in LISTS and not flag.startswith("--"):
            joined[-1] = json.dumps([*json.loads(joined[-1]), flag])
        elif joined and joined[-1] in LISTS and not flag.startswith(("--", "[")):
            joined.append(json.dumps([flag]))
        else:
            joined.append(flag)
    return joined


def settings_files(flags: Sequence[str]) -> Iterator[Path]:
    """Yields the files of settings that flags name: recipes, and those of a group alone."""
    for flag, following in itertools.zip_longest(flags, flags[1:], fillvalue=""):
        name, is_joined, value = flag.partition("=")
        with contextlib.suppress(OSError):  # a text that is too long for a path
            if name in SETTINGS and (path := Path(value if is_joined else following)).is_file():
                yield path


def checkpoint_place(flags: Sequence[str]) -> tuple[str | None, str | None]:
    """Returns which checkpoint flags name, or an ensemble's first, and the folder in which its run's is looked for."""
    scan = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    scan.add_argument("--ckpt_path", nargs="?")
    scan.add_argument("--trainer.default_root_dir", nargs="?", dest="root_dir")
    scan.add_argument(*LISTS[:2], nargs="?", dest="members")
    given = scan.parse_known_args(flags)[0]
    return given.ckpt_path or _first(given.members), given.root_dir


def _first(values: str | None) -> str | None:
    with contextlib.suppress(yaml.YAMLError):  # told when all flags are parsed
        match yaml.safe_load(values or ""):
            case [str(first), *_]:
                return first
    return None
