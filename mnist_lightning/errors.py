"""Errors that the user can fix: one line, exit status 2; and interruptions. No torch here."""

import argparse
import contextlib
import difflib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import NoReturn


class UserError(ValueError):
    """An error whose text says what was given, what is allowed and what to do next; `main` shows no traceback."""


def check_range(name: str, value: object, is_allowed: bool, allowed: str) -> None:
    """Raises a UserError that states the value and what is allowed, unless `is_allowed`."""
    if not is_allowed:
        raise UserError(f"{name} {value} is not allowed; it must be {allowed}")


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Returns a question about the most similar of the allowed names, to append to an error; or nothing."""
    similar = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.65)
    return f"; did you mean {similar[0]}?" if similar else ""


def one_line(error: BaseException, max_length: int = 1000) -> str:
    """Returns an error's text without line breaks, control characters or passwords."""
    is_about_file = isinstance(error, OSError) and error.filename and error.strerror
    text = f"{error.filename}: {error.strerror}" if is_about_file else str(error)  # type: ignore[attr-defined]
    text = " ".join(hide_passwords(text).split())
    text = "".join(char if char.isprintable() else "?" for char in text)  # a terminal would act on escape sequences
    return text if len(text) <= max_length else f"{text[:max_length]} …"


def hide_passwords(text: str) -> str:
    """Returns a text with `***` in place of the passwords of URLs."""
    text = re.sub(r"(?i)((?:password|passwd|pwd)(?:=|%3d))(?:(?!%26|%3b)[^&\s;])*", r"\1***", text)
    return re.sub(r"(?<=://)([^/?@\s]*?):\S*@", r"\1:***@", text)


@contextlib.contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Turns a failed import into a UserError that names the extra to install."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"{name} needs more packages ({error}); pip install 'mnist_lightning[{name}]'") from error


def interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Handles a signal by raising a KeyboardInterrupt, as Ctrl-C does."""
    raise KeyboardInterrupt(number)


def handle_sigterm() -> None:
    """Makes SIGTERM raise a KeyboardInterrupt, except in a job of SLURM, which Lightning requeues."""
    if "SLURM_NTASKS" not in os.environ:
        signal.signal(signal.SIGTERM, interrupt)


def repeat_signal(dropped: "sys.UnraisableHookArgs") -> None:
    """Sends a signal again if Python dropped its KeyboardInterrupt, which came while an object was destroyed."""
    if isinstance(error := dropped.exc_value, KeyboardInterrupt):
        threading.Timer(0.01, os.kill, [os.getpid(), error.args[0] if error.args else signal.SIGINT]).start()
    else:
        sys.__unraisablehook__(dropped)


class Parser(argparse.ArgumentParser):
    """A parser that raises a UserError instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        unknown = re.search(r"unrecognized arguments: (--[^\s=]+)", message)
        similar = did_you_mean(unknown[1], re.findall(r"--\w+", self.format_usage())) if unknown else ""
        raise UserError(f"{message}; see {self.prog} --help{similar}")
