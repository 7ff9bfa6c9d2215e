"""Run folders: making them, and finding the checkpoints in them. No torch here."""

import contextlib
import datetime
import itertools
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mnist_lightning.errors import hide_passwords
from mnist_lightning.files import locked, remove_leftovers, write_atomically

PRETRAINED = Path(__file__).parent / "pretrained.ckpt"
"""The weights that come with the package."""
LOGS_DIR = Path("lightning_logs")
"""Where runs are unless `--trainer.default_root_dir` says otherwise."""
NEXT_STEP = "train one with `python -m mnist_lightning fit`"


def run_dirs(logs_dir: Path) -> list[Path]:
    """Returns the run folders `version_N`, oldest first."""
    return sorted((path for path in logs_dir.glob("version_*") if _number(path) >= 0), key=_number)


def _number(run_dir: Path) -> int:
    number = run_dir.name.removeprefix("version_")
    return int(number) if number.isdecimal() else -1


def make_run_dir(logs_dir: Path) -> Path:
    """Makes the next run folder; runs that start at the same moment get folders of their own."""
    newest = max(map(_number, logs_dir.glob("version_*")), default=-1)
    for number in itertools.count(newest + 1):
        path = logs_dir / f"version_{number}"
        try:
            path.mkdir(parents=True)
        except OSError as error:
            if path.exists():
                continue
            advice = "name another place with --trainer.default_root_dir"
            raise OSError(f"{path} can't be made ({error.strerror}); {advice}") from error
        return path
    raise AssertionError("numbers have no end")


@contextlib.contextmanager
def claim(run_dir: Path) -> Iterator[None]:
    """Keeps other processes from training in a run folder; the claim ends with this process, however that ends.

    Raises:
        ValueError: Another process has it.
    """
    try:
        with locked(run_dir, wait=False):
            remove_leftovers(run_dir)
            yield
    except BlockingIOError as error:
        raise ValueError(f"{run_dir} is being trained by another process; wait for it, or end it") from error


def record_start(run_dir: Path, **details: object) -> None:
    """Adds to a run folder's `environment.json` what it takes to repeat the run.

    Args:
        run_dir: The folder; a resumed run has an entry for each start.
        details: What else decides how numbers come out, such as threads, device and seed.
    """
    git = ("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    with contextlib.suppress(OSError):
        found = subprocess.run(git, capture_output=True, text=True)
        details["git"] = found.stdout.strip() or None  # of the folder that the command was given in
    start = {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": [hide_passwords(arg) for arg in sys.argv],
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": {package: version(package) for package in ("mnist_lightning", "torch", "lightning", "numpy")},
        **details,
    }
    _write_starts(run_dir, [*_read_starts(run_dir), start])


def record_end(run_dir: Path) -> None:
    """Adds to a run folder's `environment.json` that nothing is left to train."""
    starts = _read_starts(run_dir)
    last = starts.pop() if starts else {}  # somebody may have damaged it meanwhile
    finished = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    _write_starts(run_dir, [*starts, {**last, "finished": finished}])


def is_finished(run_dir: Path) -> bool:
    """Tells whether a run has come to its end, with all that it leaves."""
    return any("finished" in start for start in _read_starts(run_dir))


def _read_starts(run_dir: Path) -> list[dict[str, Any]]:
    with contextlib.suppress(OSError, ValueError):
        match json.loads((run_dir / "environment.json").read_text()):
            case list(starts) if all(isinstance(start, dict) for start in starts):
                return starts
    return []


def _write_starts(run_dir: Path, starts: list[dict[str, Any]]) -> None:
    write_atomically(run_dir / "environment.json", json.dumps(starts, indent=2) + "\n")


def find(ckpt_path: str, logs_dir: Path, is_resumed: bool = False) -> Path:
    """Finds a checkpoint.

    Args:
        ckpt_path: `best` or `last` of the newest run that has one, `pretrained`, or a file.
        logs_dir: Folder of the runs.
        is_resumed: Whether a run is to go on from it, so that no other one may stand for the newest.

    Raises:
        FileNotFoundError: There is none, or the newest run was cut off before its `last` one.
    """
    if ckpt_path in ("best", "last"):
        for run_dir in reversed(run_dirs(logs_dir)):
            path = run_dir / "checkpoints" / f"{ckpt_path}.ckpt"
            if path.is_file():
                return path
            if is_resumed and (config := run_dir / "config.yaml").is_file():
                raise FileNotFoundError(
                    f"{run_dir} has no checkpoint to go on from; start it again with --config {config}, "
                    "or give the file of another run's"
                )
        other = "" if is_resumed else ", or give --ckpt_path pretrained"
        raise FileNotFoundError(f"no run in {logs_dir} has a {ckpt_path} checkpoint; {NEXT_STEP}{other}")
    path = PRETRAINED if ckpt_path == "pretrained" else Path(ckpt_path)
    if not path.is_file():
        raise FileNotFoundError(
            f"checkpoint {ckpt_path} is not a file; give a path, best, last or pretrained, or {NEXT_STEP}"
        )
    return path
