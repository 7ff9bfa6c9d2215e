"""Files that are whole or not there, and settings that a reader survives."""

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

LARGEST_SETTINGS = 100_000
"""Characters of a recipe or space."""
DEEPEST_SETTINGS = 20
"""How deep mappings and lists may lie in each other."""
MOST_ALIASES = 20
"""A few lines of nested aliases can stand for more than fits in memory."""


def read_settings(path: Path) -> Any:
    """Reads a YAML file as `parse_settings` does.

    Raises:
        OSError: The file can't be read.
        ValueError: It is no YAML that settings could be.
    """
    try:
        return parse_settings(path.read_text(encoding="utf-8"), path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text") from error


def parse_settings(text: str, name: object) -> Any:
    """Parses YAML from anybody.

    Args:
        text: The YAML.
        name: What to call it in errors.

    Raises:
        ValueError: It is no YAML, or larger, deeper or more entangled than settings are.
    """
    depth = aliases = 0
    if len(text) > LARGEST_SETTINGS:
        raise ValueError(f"{name} has {len(text):,} characters; settings have {LARGEST_SETTINGS:,} at most")
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            aliases += isinstance(event, yaml.AliasEvent)
            if depth > DEEPEST_SETTINGS or aliases > MOST_ALIASES:
                limit = f"{DEEPEST_SETTINGS} levels" if depth > DEEPEST_SETTINGS else f"{MOST_ALIASES} aliases"
                raise ValueError(f"{name} has more than {limit}, which settings don't need")
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{name} is no YAML: {' '.join(str(error).split())}") from error


def remove_leftovers(folder: Path) -> None:
    """Removes what `write_atomically` was killed over, in a folder that nobody else writes to."""
    for path in folder.rglob(f".*.*.{'?' * 8}"):
        path.unlink()


@contextlib.contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[None]:
    """Keeps other processes out of a folder, if they ask; the lock ends with this process, however that ends.

    Raises:
        BlockingIOError: Another process has it, and this one does not wait.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


class UnwritableError(OSError):
    """A file of this program's can't be written."""


def write_atomically(path: Path, content: bytes | memoryview | str) -> None:
    """Writes a file beside its target and moves it into place, so that no reader ever sees half of it.

    Args:
        path: The target; its folder is made if need be. A link is followed, a device or pipe is written to.
        content: Bytes, or text that is encoded as UTF-8.

    Raises:
        UnwritableError: The folder can't be written; an earlier file is left as it was.
    """
    try:
        _write(path.resolve(), content.encode() if isinstance(content, str) else content)
    except OSError as error:
        advice = "free some space" if error.errno == errno.ENOSPC else "choose a place that can be written"
        raise UnwritableError(f"{path} can't be written ({error.strerror or error}); {advice}") from error


def _write(path: Path, data: bytes | memoryview) -> None:
    if path.exists() and not path.is_file():
        path.write_bytes(data)  # a folder raises
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with temporary.open("xb") as stream:
        try:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)  # or a power cut could take the new name away again
    os.close(folder)
