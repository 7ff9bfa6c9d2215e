"""Run folders: making them, and finding the checkpoints in them. No torch here."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

PRETRAINED = Path(__file__).parent / "pretrained.ckpt"
"""The weights that come with the package."""
NEXT_STEP = "train one with `python -m mnist_lightning fit`"


def run_dirs(logs_dir: Path) -> list[Path]:
    """Returns the run folders `version_N`, oldest first."""
    numbered = [path for path in logs_dir.glob("version_*") if path.name.removeprefix("version_").isdecimal()]
    return sorted(numbered, key=lambda path: int(path.name.removeprefix("version_")))


def make_run_dir(logs_dir: Path) -> Path:
    """Makes the next run folder; runs that start at the same moment get folders of their own."""
    number = 0
    if existing := run_dirs(logs_dir):
        number = int(existing[-1].name.removeprefix("version_")) + 1
    while True:
        path = logs_dir / f"version_{number}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return path


@contextlib.contextmanager
def claim(run_dir: Path) -> Iterator[None]:
    """Keeps other processes from training in a run folder; the claim ends with this process, however that ends.

    Raises:
        ValueError: Another process has it.
    """
    descriptor = os.open(run_dir, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ValueError(f"{run_dir} is being trained by another process; wait for it, or end it") from error
    finally:
        os.close(descriptor)


def find(ckpt_path: str, logs_dir: Path) -> Path:
    """Finds a checkpoint.

    Args:
        ckpt_path: `best` or `last` of the newest run that has one, `pretrained`, or a file.
        logs_dir: Folder of the runs.

    Raises:
        FileNotFoundError: There is none.
    """
    if ckpt_path in ("best", "last"):
        for run_dir in reversed(run_dirs(logs_dir)):
            path = run_dir / "checkpoints" / f"{ckpt_path}.ckpt"
            if path.is_file():
                return path
        raise FileNotFoundError(f"no run in {logs_dir} has a {ckpt_path} checkpoint; {NEXT_STEP}")
    path = PRETRAINED if ckpt_path == "pretrained" else Path(ckpt_path)
    if not path.is_file():
        raise FileNotFoundError(
            f"checkpoint {ckpt_path} is not a file; give a path, best, last or pretrained, or {NEXT_STEP}"
        )
    return path
