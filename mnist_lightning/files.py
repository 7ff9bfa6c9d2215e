"""Durable files: a reader sees the old content or the new one, never a mixture."""

import contextlib
import errno
import os
import secrets
from pathlib import Path
from typing import Any

import yaml

from mnist_lightning.errors import UserError, one_line


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes a file next to its target, flushes it to the disk, and renames it; text is encoded as UTF-8.

    Missing folders are created. A symbolic link is followed; a device or pipe is written to. A UserError leaves an
    existing file unchanged.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        with contextlib.ExitStack() as stack:
            target = path.resolve()
            if target.exists() and not target.is_file():
                target.write_bytes(data)  # to a device or pipe; a folder raises an OSError
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
            stack.callback(temporary.unlink, missing_ok=True)  # after an error
            with temporary.open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(target)
            with contextlib.suppress(PermissionError):  # Windows can't open folders
                folder = os.open(target.parent, os.O_RDONLY)
                stack.callback(os.close, folder)
                os.fsync(folder)  # otherwise a power failure could undo the rename
    except OSError as error:
        advice = "free some space" if error.errno == errno.ENOSPC else "choose another location"
        raise UserError(f"{path} can't be written ({error.strerror or error}); {advice}") from error


def read_yaml(path: Path) -> Any:
    """Reads a YAML file, or raises a UserError."""
    from jsonargparse import get_loader  # reads 1e-4 as a number, as on the command line

    try:
        return get_loader("yaml")(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or f"it is not valid YAML ({one_line(error)})"
        raise UserError(f"{path} can't be read: {reason}") from error
