"""A search finds, goes on, is shared by machines, and refuses what can't work before anything is made."""

import csv
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import yaml
from lightning.pytorch import Callback

from mnist_lightning import tuning
from mnist_lightning.__main__ import main
from mnist_lightning.space import Parameter
from tests.conftest import SMALL
from tests.test_faults import hear_ctrl_c

RECIPE = """
model: {class_path: MLP, init_args: {hidden_sizes: [24], dropout: 0.1}}
trainer: {max_epochs: 2}
"""
SPACE = """
model.init_args.learning_rate: {low: 1e-4, high: 1e-1, log: true}
model.init_args.hidden_sizes: {choices: [[16], [32, 16]], only_with: MLP}
"""
PROGRAM = """
from mnist_lightning.__main__ import main
from mnist_lightning.space import Parameter
from mnist_lightning.sources import SOURCES, File, Source

files = {split: (File(f"{split}-images"), File(f"{split}-labels")) for split in ("train", "test")}
SOURCES["Tiny"] = Source(tuple("0123456789"), 0.2, 0.3, "the tests", "Tiny", files)
main()
"""  # a new process does not know the tests' dataset
QUICK = ["--trials", "4", "--epochs", "1", "--finalists", "2", "--seeds", "2", *SMALL]


@pytest.fixture
def tune(tiny: Path) -> list[str]:
    """Writes a recipe and a space for `Tiny`, and returns the command that searches it."""
    Path("small.yaml").write_text(RECIPE)
    Path("space.yaml").write_text(SPACE)
    return ["tune", "--config", "small.yaml", "--space", "space.yaml", "--data.data_dir", str(tiny), *QUICK]


def line_of(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as error:
        main(args)
    told = capsys.readouterr().err
    assert (error.value.code, told.count("\n"), told[:7]) == (2, 1, "error: ")
    return told


def test_a_search_finds_values_that_fit_takes(tune: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(tune)
    folder = Path("tuning/small")
    with (folder / "trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["trial"] for row in rows] == ["0", "1", "2", "3"]
    assert {row["state"] for row in rows} <= {"complete", "pruned"}
    assert all(Path(row["run"], "checkpoints", "last.ckpt").is_file() for row in rows)
    assert {path.stem for path in (folder / "figures").iterdir()} >= {"history", "parallel_coordinate"}
    output = capsys.readouterr().out
    assert output.count("the recipe in full, seed ") == 2
    assert output.count(" in full, seed ") == 6
    best = yaml.safe_load((folder / "best.yaml").read_text())
    assert 1e-4 <= best["model"]["init_args"]["learning_rate"] <= 1e-1
    assert best["trainer"]["max_epochs"] == 2  # a recipe's own length
    assert "enable_progress_bar" not in best["trainer"]
    main(["fit", "--config", str(folder / "best.yaml")])
    capsys.readouterr()
    main(tune)  # again: everything is done
    assert "trial 4" not in capsys.readouterr().out
    main([*tune, "--trials", "5"])
    assert capsys.readouterr().out.count("trial 4: ") == 1


def test_a_trial_that_fails_is_recorded_and_the_search_goes_on(
    tune: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    suggest = Parameter.suggest

    def sometimes_wrong(self: Parameter, trial: optuna.Trial) -> object:
        value = suggest(self, trial)
        return -1.0 if self.name.endswith("learning_rate") and trial.number == 1 else value

    monkeypatch.setattr(Parameter, "suggest", sometimes_wrong)
    main(tune)
    with Path("tuning/small/trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["state"] for row in rows].count("fail") == 1
    assert "learning_rate -1.0 is not allowed" in rows[1]["error"]


def test_a_finalist_that_fails_with_a_seed_is_not_the_best(
    tune: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = tuning.Search._fit
    finalists: list[list[str]] = []

    def fit_or_fail(self: tuning.Search, trial: optuna.Trial, flags: list[str], callbacks: list[Callback]) -> float:
        if not callbacks and len(flags) > 1:
            finalists.append(flags[:-1])
            if flags == [*finalists[0], "--seed_everything=1"]:
                raise RuntimeError("it diverged")
        return fit(self, trial, flags, callbacks)

    monkeypatch.setattr(tuning.Search, "_fit", fit_or_fail)
    main(tune)
    first, *_, second = finalists
    best = yaml.safe_load(Path("tuning/small/best.yaml").read_text())
    rates = [flag.partition("=")[2] for flags in (first, second) for flag in flags if "learning_rate" in flag]
    assert best["model"]["init_args"]["learning_rate"] == float(rates[1]) != float(rates[0])
    assert "not all" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("model.init_args.depth: {low: 1, high: 2}", "depth"),
        ("data.batch_size: {low: 64, high: 8}", "has nothing in it; low must be a number less than high"),
        ("data.batch_size: {choices: [64, 0]}", "batch_size 0 is not allowed"),
        ("", "must map flags of fit to ranges"),
    ],
)
def test_a_space_that_can_not_be_searched_is_told(
    tune: list[str], capsys: pytest.CaptureFixture[str], space: str, message: str
) -> None:
    Path("space.yaml").write_text(space)
    assert message in line_of(tune, capsys)
    assert not Path("tuning").exists()


def test_an_unknown_flag_is_refused_with_the_words_of_fit(tune: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text("model.init_args.depth: {choices: [3]}")
    told = line_of(tune, capsys)
    assert (
        told.partition("; see")[0]
        == line_of(["fit", *tune[1:3], *SMALL, "--model.init_args.depth", "3"], capsys).partition("; see")[0]
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--space", "no.yaml"], "no.yaml"),
        (["--trials", "0"], "trials 0 is not allowed; it must be 1 or more"),
        (["--storage", "nothing"], "--storage is no address; give one such as postgresql+psycopg://user@host/name"),
        (["--storage", "mongo://ann:secret@here/x"], "--storage mongo://ann:***@here/x can't be used"),
        (["--storage", "postgresql+psycopg://ann:secret@127.0.0.1:9/x"], "ann:***@127.0.0.1:9/x can't be used"),
        (["--trainer.devices", "2"], "a trial has one device; give --trainer.devices 1"),
        (["--nope", "1"], "unrecognized arguments: --nope"),
    ],
)
def test_flags_that_can_not_work_are_told_and_no_password_is(
    tune: list[str], capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    told = line_of([*tune, *flags], capsys)
    assert message in told
    assert "secret" not in told
    assert not Path("tuning").exists()


def test_a_study_of_another_space_is_refused(tune: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(tune)
    Path("space.yaml").write_text("data.batch_size: {choices: [30, 60]}")
    assert "has a study small already, with another space, recipe or direction" in line_of(tune, capsys)


@pytest.fixture
def postgresql(tmp_path: Path) -> Iterator[str]:
    """Starts a PostgreSQL server of its own as an ordinary user, and returns its address."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "initdb")]
    programs = found[-1].parent
    user = "postgres" if os.getuid() == 0 else getpass.getuser()
    become = ["runuser", "-u", user, "--"] if os.getuid() == 0 else []  # it refuses to run as root
    folder = Path("/tmp") / f"postgresql_{tmp_path.name}_{os.getpid()}"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def do(program: str, *args: str) -> None:
        subprocess.run([*become, str(programs / program), *args], check=True, capture_output=True, cwd="/")

    do("initdb", "-D", str(folder), "-A", "trust", "-U", "tuner")
    do(
        "pg_ctl",
        "-D",
        str(folder),
        "-w",
        "-l",
        str(folder / "log"),
        "-o",
        f"-p {port} -k {folder} -h 127.0.0.1",
        "start",
    )
    try:
        yield f"postgresql+psycopg://tuner:secret@127.0.0.1:{port}/postgres"
    finally:
        do("pg_ctl", "-D", str(folder), "-m", "immediate", "stop")
        subprocess.run([*become, "rm", "-r", str(folder)], check=True)


@pytest.mark.slow
def test_two_machines_share_a_search_though_one_is_killed(tune: list[str], tmp_path: Path, postgresql: str) -> None:
    program = tmp_path / "tuner.py"
    program.write_text(PROGRAM)
    flags = [*tune, "--storage", postgresql, "--trials", "12", "--epochs", "20", "--grace_s", "6", "--seeds", "1"]
    workers = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        for file in ("small.yaml", "space.yaml"):
            shutil.copy(file, tmp_path / name)
        workers.append(
            subprocess.Popen(
                [sys.executable, str(program), *flags],
                cwd=tmp_path / name,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    end = time.monotonic() + 120
    while not list(Path("first/tuning/small/lightning_logs").glob("version_*/metrics.csv")):  # it is in mid-trial
        assert time.monotonic() < end and workers[0].poll() is None
        time.sleep(0.05)
    workers[0].kill()
    workers[0].communicate()
    output, errors = workers[1].communicate(timeout=240)
    assert workers[1].returncode == 0, errors
    assert "secret" not in output + errors
    storage = optuna.storages.RDBStorage(postgresql)
    trials = optuna.load_study(study_name="small", storage=storage).get_trials()
    storage.remove_session()
    storage.engine.dispose()
    done = [
        trial for trial in trials if trial.state in (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    ]
    lost = [trial for trial in trials if trial.state == optuna.trial.TrialState.FAIL]
    assert (len(done), len(lost)) == (12, 1)
    (again,) = [trial for trial in trials if "failed_trial" in trial.system_attrs]
    assert again.system_attrs["failed_trial"] == lost[0].number
    for path in tmp_path.rglob("*.yaml"):
        assert "secret" not in path.read_text()


@pytest.mark.slow
def test_ctrl_c_loses_no_trial(tune: list[str], tmp_path: Path) -> None:
    program = tmp_path / "tuner.py"
    program.write_text(PROGRAM)
    flags = [*tune, "--trials", "3", "--epochs", "20", "--grace_s", "2", "--seeds", "1", "--finalists", "1"]
    process = subprocess.Popen(
        [sys.executable, str(program), *flags], stdout=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c
    )
    end = time.monotonic() + 120
    while not list(Path("tuning/small/lightning_logs").glob("version_1/metrics.csv")):  # in its second trial
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert "stopped; the same command goes on" in process.communicate(timeout=60)[0]
    assert process.returncode == 130
    time.sleep(3)
    subprocess.run([sys.executable, str(program), *flags], check=True, timeout=240)
    trials = optuna.load_study(study_name="small", storage="sqlite:///tuning/small/study.db").get_trials()
    done = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    assert sum(trial.state in done for trial in trials) == 3
