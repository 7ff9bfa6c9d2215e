"""How wrong input is told: in one line, with exit status 2. No torch here."""

import argparse
import contextlib
import re
import sys
from collections.abc import Iterator
from typing import NoReturn

NOISE = (
    "Does not validate against",
    "Expected a path but",
    "Expected a <class 'NoneType'>",
    "Subtypes:",
    "Errors:",
    "Given value",
    "Exception raised from",
    "frame #",
)
"""Lines of jsonargparse's and torch's messages that speak of their inner workings."""
LONGEST = 1000
"""Characters of an error's line."""


def in_one_line(error: BaseException) -> str:
    """Returns what an error says, without line breaks, inner workings and passwords."""
    is_of_file = isinstance(error, OSError) and error.filename and error.strerror
    text = f"{error.filename}: {error.strerror}" if is_of_file else str(error)  # type: ignore[attr-defined]
    lines = [line.strip().removeprefix("- ") for line in hide_passwords(text).splitlines()]
    text = " ".join(line for line in lines if line and not line.startswith(NOISE))
    text = "".join(char if char.isprintable() else "?" for char in text)  # a terminal obeys some of the others
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def hide_passwords(text: str) -> str:
    """Returns a text with `***` for the passwords of the addresses in it."""
    text = re.sub(r"(?i)((?:password|passwd|pwd)(?:=|%3d))(?:(?!%26|%3b)[^&\s;])*", r"\1***", text)
    return re.sub(r"(?<=://)([^/?@\s]*?):\S*@", r"\1:***@", text)


def check_range(name: str, value: object, is_allowed: bool, allowed: str) -> None:
    """Raises a ValueError that says what was given and what is allowed, unless the value is."""
    if not is_allowed:
        raise ValueError(f"{name} {value} is not allowed; it must be {allowed}")


class DivergedError(Exception):
    """Training has learnt nothing, or forgotten all."""


@contextlib.contextmanager
def one_line_errors(command: str) -> Iterator[None]:
    """Turns what is wrong with the input into one line and exit status 2, without a traceback."""
    try:
        yield
    except (argparse.ArgumentError, ValueError, TypeError, OSError) as error:
        text = in_one_line(error)
        if isinstance(error, argparse.ArgumentError):
            text += "; models are MLP, CNN and Ensemble" if '"model"' in text else ""
            text += f"; see python -m mnist_lightning {command} --help"
        print(f"error: {text}", file=sys.stderr)
        raise SystemExit(2) from None


@contextlib.contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Says what to install where an import fails that only one command needs."""
    try:
        yield
    except ImportError as error:
        raise ValueError(f"{name} needs more packages ({error}); pip install 'mnist_lightning[{name}]'") from error


class Parser(argparse.ArgumentParser):
    """A parser of flags whose errors are raised, for `one_line_errors` to tell."""

    def error(self, message: str) -> NoReturn:
        """Raises a ValueError."""
        raise ValueError(f"{message}; see python -m {self.prog} --help")
