"""Run folders are made, and the newest one with a checkpoint is found."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mnist_lightning import runs
from mnist_lightning.errors import hide_passwords
from mnist_lightning.runs import NEXT_STEP


def put_checkpoint(run_dir: Path, name: str) -> Path:
    path = run_dir / "checkpoints" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_run_dirs_are_numbered(tmp_path: Path) -> None:
    assert runs.make_run_dir(tmp_path / "logs") == tmp_path / "logs" / "version_0"
    (tmp_path / "logs" / "version_9").mkdir()
    (tmp_path / "logs" / "version_old").mkdir()
    assert runs.make_run_dir(tmp_path / "logs") == tmp_path / "logs" / "version_10"
    assert [path.name for path in runs.run_dirs(tmp_path / "logs")] == ["version_0", "version_9", "version_10"]


def test_runs_that_start_together_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(runs.make_run_dir, [tmp_path] * 40))
    assert len(set(made)) == 40


def test_the_newest_run_with_a_checkpoint_is_found(tmp_path: Path) -> None:
    put_checkpoint(tmp_path / "version_2", "best.ckpt")
    last = put_checkpoint(tmp_path / "version_2", "last.ckpt")
    best = put_checkpoint(tmp_path / "version_10", "best.ckpt")
    (tmp_path / "version_11").mkdir()
    assert runs.find("best", tmp_path) == best
    assert runs.find("last", tmp_path) == last
    assert runs.find(str(last), tmp_path) == last


@pytest.mark.parametrize("name", ["best", "last"])
def test_no_run_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError) as error:
        runs.find(name, tmp_path)
    assert (
        str(error.value) == f"no run in {tmp_path} has a {name} checkpoint; {NEXT_STEP}, or give --ckpt_path pretrained"
    )


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        runs.find("no.ckpt", tmp_path)
    assert str(error.value) == (
        f"checkpoint no.ckpt is not a file; give a path, best, last or pretrained, or {NEXT_STEP}"
    )


def test_a_claim_removes_what_a_killed_process_left_half_written(tmp_path: Path) -> None:
    last = put_checkpoint(tmp_path, "last.ckpt")
    killed = "import os, sys; os.fsync = lambda _: os._exit(9); from mnist_lightning.files import write_atomically; "
    killed += "from pathlib import Path; write_atomically(Path(sys.argv[1]), 'half')"
    assert subprocess.run([sys.executable, "-c", killed, str(last)]).returncode == 9
    assert len(list(last.parent.iterdir())) == 2
    (tmp_path / ".hidden").touch()
    with runs.claim(tmp_path):
        assert list(last.parent.iterdir()) == [last]
        assert (tmp_path / ".hidden").exists()
        with pytest.raises(ValueError, match="is being trained by another process"), runs.claim(tmp_path):
            pass


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg://ann:se/c:ret@host:5432/x", "postgresql+psycopg://ann:***@host:5432/x"),
        (
            "--storage=postgresql://host/x?password=secret&user=ann",
            "--storage=postgresql://host/x?password=***&user=ann",
        ),
        ("postgresql://host/x?password=s%40cret%26user=ann", "postgresql://host/x?password=***%26user=ann"),
        ("postgresql://ann:se@c:ret@host/x", "postgresql://ann:***@host/x"),
        ("postgresql://ann@host/x", "postgresql://ann@host/x"),
        ("sqlite:///tuning/cnn/study.db", "sqlite:///tuning/cnn/study.db"),
        ("--model.init_args.learning_rate=0.01", "--model.init_args.learning_rate=0.01"),
    ],
)
def test_passwords_are_shown_nowhere(text: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hide_passwords(text) == shown
    monkeypatch.setattr("sys.argv", ["mnist_lightning", "tune", text])
    runs.record_start(tmp_path)
    (start,) = json.loads((tmp_path / "environment.json").read_text())
    assert start["command"] == ["mnist_lightning", "tune", shown]


def test_a_run_is_finished_when_it_has_recorded_its_end(tmp_path: Path) -> None:
    assert not runs.is_finished(tmp_path)
    for seed in ("0", "1"):
        runs.record_start(tmp_path, seed=seed)
        assert not runs.is_finished(tmp_path)
    runs.record_end(tmp_path)
    assert runs.is_finished(tmp_path)
    assert [start["seed"] for start in json.loads((tmp_path / "environment.json").read_text())] == ["0", "1"]


@pytest.mark.parametrize("content", ["", "[", "3", "[3]", "{}", "[null]"])
def test_a_damaged_record_is_written_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / "environment.json").write_text(content)
    assert not runs.is_finished(tmp_path)
    runs.record_start(tmp_path, seed="2")
    assert [start["seed"] for start in json.loads((tmp_path / "environment.json").read_text())] == ["2"]
