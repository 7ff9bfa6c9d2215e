"""Run folders `lightning_logs/version_N`: creating, locking and finding them. No torch here."""

import contextlib
import datetime
import json
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import filelock

from mnist_lightning.console import command_line
from mnist_lightning.errors import UserError, hide_passwords
from mnist_lightning.files import write_atomically

PRETRAINED = Path(__file__).parent.parent / "pretrained.ckpt"  # the weights that come with the package
LOGS_DIR = Path("lightning_logs")  # where runs are, unless `--trainer.default_root_dir` names another parent
TRAIN_ONE = f"train one with `{command_line('fit')}`"


def run_dirs(logs_dir: Path) -> list[Path]:
    """Returns the run folders `version_N`, oldest first."""
    found = (path for path in logs_dir.glob("version_*") if path.name[8:].isdecimal())
    return sorted(found, key=lambda path: int(path.name[8:]))


def make_run_dir(logs_dir: Path) -> Path:
    """Creates the next run folder, or raises a UserError; runs that start at the same moment get different ones."""
    number = max((int(path.name[8:]) + 1 for path in run_dirs(logs_dir)), default=0)
    while True:
        path = logs_dir / f"version_{number}"
        try:
            path.mkdir(parents=True)
            return path
        except OSError as error:
            if not path.exists():
                advice = "choose another location with --trainer.default_root_dir"
                raise UserError(f"{path} can't be created ({error.strerror}); {advice}") from error
            number += 1  # another run was faster


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Keeps other processes from training in a run folder; the lock ends with this process, even if it is killed."""
    try:
        with filelock.FileLock(run_dir / ".lock", blocking=False):
            for path in run_dir.rglob(f".*.*.{'?' * 8}"):  # what a killed `write_atomically` leaves
                path.unlink()
            yield
    except filelock.Timeout as error:
        raise UserError(f"another process is training in {run_dir}; wait for it, or stop it") from error


def environment() -> dict[str, Any]:
    """Returns what affects the results of this process: its command, machine and versions."""
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": [hide_passwords(arg) for arg in sys.argv],
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": {package: version(package) for package in ("mnist_lightning", "torch", "lightning", "numpy")},
    }


def record_environment(run_dir: Path, **details: object) -> None:
    """Appends the environment, with details, to `environment.json` each time a run starts."""
    path = run_dir / "environment.json"
    entries = json.loads(path.read_text()) if path.exists() else []
    write_atomically(path, json.dumps([*entries, {**environment(), **details}], indent=2) + "\n")


def find_checkpoint(ckpt_path: str, logs_dir: Path = LOGS_DIR, to_resume: bool = False) -> Path:
    """Finds `best` or `last` of the newest run that has one, `pretrained`, or a file, or raises a UserError.

    A run folder stands for its `best`; with `to_resume`, for its `last`, and of all runs only the newest counts.
    """
    if ckpt_path in ("best", "last"):
        for run_dir in reversed(run_dirs(logs_dir)):
            path = run_dir / "checkpoints" / f"{ckpt_path}.ckpt"
            if path.is_file():
                return path
            if to_resume and (config := run_dir / "config.yaml").is_file():
                advice = f"start it again with --config {config}, or name another run's checkpoint"
                raise UserError(f"{run_dir} has no checkpoint to resume from; {advice}")
        advice = TRAIN_ONE if to_resume else f"{TRAIN_ONE}, or use --ckpt_path pretrained"
        raise UserError(f"no run in {logs_dir} has a {ckpt_path} checkpoint; {advice}")
    path = PRETRAINED if ckpt_path == "pretrained" else Path(ckpt_path)
    if path.is_dir():
        return find_checkpoint(str(path / "checkpoints" / ("last.ckpt" if to_resume else "best.ckpt")))
    if not path.is_file():
        raise UserError(f"checkpoint {ckpt_path} is not a file; use a path, best, last or pretrained, or {TRAIN_ONE}")
    return path
