"""Run folders are numbered, locked and described, and the newest one with a checkpoint is found."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mnist_lightning.errors import UserError
from mnist_lightning.runs import folders
from mnist_lightning.runs.folders import PRETRAINED, TRAIN_ONE, find_checkpoint


def put_checkpoint(run_dir: Path, name: str) -> Path:
    path = run_dir / "checkpoints" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_run_dirs_are_numbered(tmp_path: Path) -> None:
    assert folders.make_run_dir(tmp_path / "logs") == tmp_path / "logs" / "version_0"
    (tmp_path / "logs" / "version_9").mkdir()
    (tmp_path / "logs" / "version_old").mkdir()
    assert folders.make_run_dir(tmp_path / "logs") == tmp_path / "logs" / "version_10"
    assert [path.name for path in folders.run_dirs(tmp_path / "logs")] == ["version_0", "version_9", "version_10"]


def test_runs_that_start_together_get_different_folders(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(
            pool.map(folders.make_run_dir, (Path(tmp_path) / "logs" for _ in range(40)))
        )  # a path is not shared
    assert len(set(made)) == 40


def test_folder_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as error:
        folders.make_run_dir(tmp_path / "file" / "logs")
    assert str(error.value) == (
        f"{tmp_path}/file/logs/version_0 can't be created (Not a directory); "
        "choose another location with --trainer.default_root_dir"
    )


def test_link_to_a_missing_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "logs").symlink_to("missing")
    with pytest.raises(UserError, match="version_0 can't be created"):
        folders.make_run_dir(tmp_path / "logs")


def test_newest_run_with_a_checkpoint_is_found(tmp_path: Path) -> None:
    put_checkpoint(tmp_path / "version_2", "best.ckpt")
    last = put_checkpoint(tmp_path / "version_2", "last.ckpt")
    best = put_checkpoint(tmp_path / "version_10", "best.ckpt")
    (tmp_path / "version_11").mkdir()
    assert find_checkpoint("best", tmp_path) == best
    assert find_checkpoint("last", tmp_path) == last
    assert find_checkpoint(str(last), tmp_path) == last
    assert find_checkpoint("pretrained", tmp_path) == PRETRAINED


def test_run_without_a_checkpoint_is_not_skipped_to_resume_an_older_one(tmp_path: Path) -> None:
    last = put_checkpoint(tmp_path / "version_2", "last.ckpt")
    (tmp_path / "version_3").mkdir()
    assert find_checkpoint("last", tmp_path, to_resume=True) == last  # version_3 has not begun
    (tmp_path / "version_3" / "config.yaml").touch()
    assert find_checkpoint("last", tmp_path) == last
    with pytest.raises(UserError) as error:
        find_checkpoint("last", tmp_path, to_resume=True)
    newest = tmp_path / "version_3"
    assert str(error.value) == (
        f"{newest} has no checkpoint to resume from; start it again with --config {newest}/config.yaml, "
        "or name another run's checkpoint"
    )


@pytest.mark.parametrize("name", ["best", "last"])
def test_missing_run_is_reported(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as error:
        find_checkpoint(name, tmp_path)
    problem = f"no run in {tmp_path} has a {name} checkpoint; {TRAIN_ONE}"
    assert str(error.value) == f"{problem}, or use --ckpt_path pretrained"
    with pytest.raises(UserError) as error:
        find_checkpoint(name, tmp_path, to_resume=True)
    assert str(error.value) == problem


def test_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        find_checkpoint("no.ckpt", tmp_path)
    assert str(error.value) == (
        f"checkpoint no.ckpt is not a file; use a path, best, last or pretrained, or {TRAIN_ONE}"
    )


def test_lock_removes_temporary_files_of_a_killed_process(tmp_path: Path) -> None:
    last = put_checkpoint(tmp_path, "last.ckpt")
    killed = "import os, sys; os.fsync = lambda _: os._exit(9); from mnist_lightning.files import write_atomically; "
    killed += "from pathlib import Path; write_atomically(Path(sys.argv[1]), 'half')"
    assert subprocess.run([sys.executable, "-c", killed, str(last)]).returncode == 9
    assert len(list(last.parent.iterdir())) == 2
    (tmp_path / ".hidden").touch()
    with folders.locked(tmp_path):
        assert list(last.parent.iterdir()) == [last]
        assert (tmp_path / ".hidden").exists()


def test_lock_removes_only_temporary_files(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    kept = [tmp_path / name for name in (".hidden", ".lock", "a.txt", ".a.txt", "checkpoints/best.ckpt")]
    for path in (*kept, tmp_path / ".a.txt.0123abcd", tmp_path / "checkpoints" / ".best.ckpt.89abcdef"):
        path.touch()
    with folders.locked(tmp_path):
        assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)


def test_locked_folder_cannot_be_locked_twice(tmp_path: Path) -> None:
    with folders.locked(tmp_path):
        with pytest.raises(UserError) as error, folders.locked(tmp_path):
            pass
        assert str(error.value) == f"another process is training in {tmp_path}; wait for it, or stop it"
    with folders.locked(tmp_path):
        pass


def test_each_start_of_a_run_is_recorded_without_passwords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["mnist_lightning", "tune", "postgresql://ann:secret@host/x"])
    for seed in (0, 1):
        folders.record_environment(tmp_path, seed=seed)
    entries = json.loads((tmp_path / "environment.json").read_text())
    assert [entry["seed"] for entry in entries] == [0, 1]
    assert entries[0]["command"] == ["mnist_lightning", "tune", "postgresql://ann:***@host/x"]
    assert set(entries[0]["versions"]) == {"mnist_lightning", "torch", "lightning", "numpy"}
