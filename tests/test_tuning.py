"""A search finds, goes on, is shared by machines, and refuses what can't work before anything is made."""

import csv
import getpass
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from mnist_lightning import tuning
from mnist_lightning.__main__ import main
from mnist_lightning.space import Parameter
from mnist_lightning.trials import INTERRUPTED, SURPLUS
from tests.conftest import BEST, SMALL, line_of
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
SOURCES["Tiny"] = Source(tuple("0123456789"), 0.2, 0.3, "Tiny", files)
main()
"""  # a new process does not know the tests' dataset
STORAGE = "sqlite:///tuning/small/study.db"
QUICK = ["--trials", "4", "--epochs", "1", "--finalists", "2", "--seeds", "2", *SMALL]


@pytest.fixture
def tune(tiny: Path) -> list[str]:
    """Writes a recipe and a space for `Tiny`, and returns the command that searches it."""
    Path("small.yaml").write_text(RECIPE)
    Path("space.yaml").write_text(SPACE)
    return ["tune", "--config", "small.yaml", "--space", "space.yaml", "--data.data_dir", str(tiny), *QUICK]


def test_a_search_finds_values_that_fit_takes(tune: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(tune)
    folder = Path("tuning/small")
    with (folder / "trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["trial"] for row in rows] == ["0", "1", "2", "3"]
    assert {row["state"] for row in rows} <= {"complete", "pruned"}
    assert {row["machine"] for row in rows} == {platform.node()}
    with (folder / "finalists.csv").open() as stream:
        finalists = [(row["trial"], row["seed"], row["state"]) for row in csv.DictReader(stream)]
    assert finalists[:2] == [("recipe", "0", "complete"), ("recipe", "1", "complete")]
    assert len(finalists) == 6
    assert all(Path(row["run"], "checkpoints", "last.ckpt").is_file() for row in rows)
    assert {path.stem for path in (folder / "figures").iterdir()} >= {"history", "parallel_coordinate"}
    output = capsys.readouterr().out
    assert output.count("the recipe in full, seed ") == 2
    assert output.count(" in full, seed ") == 6
    best = yaml.safe_load((folder / "best.yaml").read_text())
    options = best["model"].pop("init_args")
    assert 1e-4 <= options.pop("learning_rate") <= 1e-1
    assert options.pop("hidden_sizes") in ([16], [32, 16])
    assert options == {"dropout": 0.1}  # what the recipe says, and no default
    assert best["trainer"] == {"max_epochs": 2, "accelerator": "cpu"}  # a recipe's own length
    main(["fit", "--config", str(folder / "best.yaml")])
    capsys.readouterr()
    main(tune)  # again: everything is done
    assert "trial 4" not in capsys.readouterr().out
    main([*tune, "--trials", "5"])
    assert capsys.readouterr().out.count("trial 4: ") == 1


def hyper_parameters(run_dir: str) -> dict[str, object]:
    """Returns what TensorBoard's hparams page shows of a run."""
    metadata = EventAccumulator(run_dir).Reload().summary_metadata["_hparams_/session_start_info"]
    content = HParamsPluginData.FromString(metadata.plugin_data.content).session_start_info.hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in content.items()}


def test_a_model_may_be_chosen_with_what_belongs_to_it(tune: list[str]) -> None:
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
        own = {"MLP": "hidden_sizes", "CNN": "widths"}[row["model"]]
        assert hyper_parameters(row["run"]) == {
            "model": row["model"],
            own: row[f"model.init_args.{own}"],
            "epochs": 1,
            "seed": 0,
        }


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

    def fit_or_fail(
        self: tuning.Search, trial: optuna.Trial, name: str, flags: list[str], callbacks: list[Callback]
    ) -> float:
        if not callbacks and len(flags) > 1:
            finalists.append(flags[:-1])
            if flags == [*finalists[0], "--seed_everything=1"]:
                raise RuntimeError("it diverged")
        return fit(self, trial, name, flags, callbacks)

    monkeypatch.setattr(tuning.Search, "_fit", fit_or_fail)
    main(tune)
    first, *_, second = finalists
    best = yaml.safe_load(Path("tuning/small/best.yaml").read_text())
    rates = [flag.partition("=")[2] for flags in (first, second) for flag in flags if "learning_rate" in flag]
    assert best["model"]["init_args"]["learning_rate"] == float(rates[1]) != float(rates[0])
    assert "failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("model.dropout: {choices: [0.1]}\nmodel.init_args.dropout: {choices: [0.2]}", "is in the space twice"),
        ("data.batch_size: {choices: [60], only_with: RNN}", "has only_with: RNN, and models are MLP; leave it out"),
        ("model: {choices: [MLP, CNN]}\nmodel.dropout: {choices: [0]}\nmodel.widths: {choices: [[4]]}", "'widths'"),
        ("model.init_args.depth: {low: 1, high: 2}", "depth"),
        ("data.batch_size: {low: 64, high: 8}", "has nothing in it; low must be less than high"),
        ("data.batch_size: {choices: [64, 0]}", "batch_size 0 is not allowed"),
        ("", "must map flags of fit to ranges"),
        ("trainer.devices: {choices: [1, 2]}", "a trial has one device; give --trainer.devices 1"),
        ("trainer.max_epochs: {low: 1, high: 9}", "is what tune decides itself; leave it out, and see --epochs"),
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
        (["--storage", "postgresql+psycopg://127.0.0.1:9/x?password=secret"], "x?password=*** can't be used"),
        (["--storage", "postgresql+psycopg://ann:secret@here:port/x"], "--storage is no address"),
        (["--storage", "sqlite:///none/x.db"], "--storage sqlite:///none/x.db can't be used: unable to open"),
        (["--trainer.devices", "2"], "a trial has one device; give --trainer.devices 1"),
        (["--storag", "postgresql://ann:secret@here/x"], "unrecognized arguments: --storag postgresql://ann:***@here"),
        (["--nope", "1"], "unrecognized arguments: --nope"),
        (["--ckpt_path", "mlp.ckpt"], "a trial begins anew; leave out --ckpt_path"),
        (["--trainer.max_epochs", "0"], "--trainer.max_epochs 0 leaves nothing to do; give 1 or more"),
        (["--study", ".."], "study '..' is not allowed; give --study letters, digits, spaces and _.+-()"),
        (["--study", "a/b"], "study 'a/b' is not allowed"),
        (["--study", "a\nb: c"], "study 'a\\nb: c' is not allowed"),
        (["--grace_s", "999999999"], "grace_s 999999999 is not allowed; it must be between 1 and 86400"),
        (["--data.data_dir", "nowhere"], "no good copy of train-images, train-labels in nowhere"),
    ],
)
def test_flags_that_can_not_work_are_told_and_no_password_is(
    tune: list[str], capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    if "--ckpt_path" in flags:
        main(["fit", *SMALL, "--config", "small.yaml"])
        shutil.copy(BEST, "mlp.ckpt")
    told = line_of([*tune, *flags], capsys)
    assert message in told
    assert "secret" not in told
    assert not Path("tuning").exists()


def test_a_study_of_another_space_is_refused(tune: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(tune)
    Path("space.yaml").write_text("data.batch_size: {choices: [30, 60]}")
    assert "has a study small already, with another space, recipe, --epochs or direction" in line_of(tune, capsys)


def test_a_study_of_another_direction_is_refused(tune: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    optuna.create_study(study_name="small", storage="sqlite:///other.db", direction="minimize")
    told = line_of([*tune, "--storage", "sqlite:///other.db"], capsys)
    assert "has a study small already, with another space, recipe, --epochs or direction; give another --study" in told
    assert not Path("tuning").exists()


def states(storage: str = STORAGE, study: str = "small") -> list[str]:
    return [trial.state.name for trial in optuna.load_study(study_name=study, storage=storage).get_trials()]


def test_a_machine_that_died_before_it_could_show_life_is_not_waited_for(tune: list[str]) -> None:
    main([*tune, "--trials", "1"])
    optuna.load_study(study_name="small", storage=STORAGE).ask()  # and nothing more
    main([*tune, "--trials", "3", "--grace_s", "1"])
    assert states() == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]


def test_a_machine_that_was_silent_for_long_leaves_its_trial_to_others(
    tune: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tuning.Report.on_train_epoch_end

    def report_too_late(self: tuning.Report, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.trial.number == 1:
            self.trial.storage.set_trial_state_values(self.trial._trial_id, optuna.trial.TrialState.FAIL)
        report(self, trainer, pl_module)

    monkeypatch.setattr(tuning.Report, "on_train_epoch_end", report_too_late)
    main(tune)
    assert "this machine was silent for so long that its trial was given to another" in capsys.readouterr().out
    assert states()[:2] == ["COMPLETE", "FAIL"]


def test_what_two_machines_begin_at_the_same_moment_is_done_once(
    tune: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    enqueue, get_trials = optuna.Study.enqueue_trial, optuna.Study.get_trials
    num_looks = 0

    def enqueue_twice(self: optuna.Study, params: dict[str, object]) -> None:
        for _ in range(2):
            enqueue(self, params)

    def look_too_early(self: optuna.Study, *args: Any, **kwargs: Any) -> list[optuna.trial.FrozenTrial]:
        nonlocal num_looks
        found = get_trials(self, *args, **kwargs)
        is_done = self.study_name == "small" and len(found) == 4 and found[3].state.is_finished()
        num_looks += is_done
        return found[:3] if is_done and num_looks == 1 else found

    monkeypatch.setattr(optuna.Study, "enqueue_trial", enqueue_twice)
    monkeypatch.setattr(optuna.Study, "get_trials", look_too_early)
    main(tune)
    assert capsys.readouterr().out.count(" in full, seed ") == 6
    assert states(study="small, finalists").count("COMPLETE") == 6
    assert states()[4:] == ["FAIL"]
    with Path("tuning/small/trials.csv").open() as stream:
        assert list(csv.DictReader(stream))[4]["error"] == SURPLUS
    main([*tune, "--trials", "5"])
    assert len(states()) == 6  # the one too many does not count


@dataclass(frozen=True)
class Server:
    """A database that can be stopped."""

    address: str
    stop: Callable[[], None]


@pytest.fixture
def postgresql(tmp_path: Path) -> Iterator[Server]:
    """Starts a PostgreSQL server of its own as an ordinary user."""
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

    def stop() -> None:
        if (folder / "postmaster.pid").exists():
            do("pg_ctl", "-D", str(folder), "-m", "immediate", "stop")

    try:
        yield Server(f"postgresql+psycopg://tuner:secret@127.0.0.1:{port}/postgres", stop)
    finally:
        stop()
        subprocess.run([*become, "rm", "-r", str(folder)], check=True)


@pytest.mark.slow
def test_two_machines_share_a_search_though_one_is_killed(tune: list[str], tmp_path: Path, postgresql: Server) -> None:
    program = tmp_path / "tuner.py"
    program.write_text(PROGRAM)
    flags = [
        *tune,
        "--storage",
        postgresql.address,
        "--trials",
        "12",
        "--epochs",
        "20",
        "--grace_s",
        "6",
        "--seeds",
        "1",
    ]
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
    storage = optuna.storages.RDBStorage(postgresql.address)
    trials = optuna.load_study(study_name="small", storage=storage).get_trials()
    storage.remove_session()
    storage.engine.dispose()
    for trial in trials:
        print(trial.number, trial.state.name, trial.values, trial.user_attrs["run"], trial.system_attrs)
    done = [
        trial for trial in trials if trial.state in (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    ]
    lost = [trial for trial in trials if trial.state == optuna.trial.TrialState.FAIL]
    assert (len(done), len(lost)) == (12, 1)
    (again,) = [trial for trial in trials if "failed_trial" in trial.system_attrs]
    assert again.system_attrs["failed_trial"] == lost[0].number
    files = [path for name in ("first", "second") for path in (tmp_path / name).rglob("*") if path.is_file()]
    assert {"environment.json", "config.yaml", "best.yaml"} <= {path.name for path in files}
    for path in files:
        assert b"secret" not in path.read_bytes()


@pytest.mark.slow
def test_a_storage_that_answers_no_longer_is_told_in_a_line(
    tune: list[str], postgresql: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tuning.Report.on_train_epoch_end

    def report_too_late(self: tuning.Report, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.trial.number == 1:
            postgresql.stop()
        report(self, trainer, pl_module)

    monkeypatch.setattr(tuning.Report, "on_train_epoch_end", report_too_late)
    told = line_of([*tune, "--storage", postgresql.address], capsys)
    assert "the storage can't be used any longer (" in told
    assert told.endswith("; once that is mended, the same command goes on\n")


@pytest.mark.slow
def test_ctrl_c_loses_no_trial(tune: list[str], tmp_path: Path) -> None:
    program = tmp_path / "tuner.py"
    program.write_text(PROGRAM)
    flags = [*tune, "--trials", "3", "--epochs", "20", "--seeds", "1", "--finalists", "1"]
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
    subprocess.run([sys.executable, str(program), *flags], check=True, timeout=240)  # without a wait
    trials = optuna.load_study(study_name="small", storage=STORAGE).get_trials()
    done = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    assert [trial.state in done for trial in trials] == [True, False, True, True]
    assert trials[1].user_attrs["error"] == INTERRUPTED
    assert trials[1].params == trials[2].params


def test_interruptions_use_nothing_up(
    tune: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit, calls = tuning.Search._fit, []

    def fit_or_stop(
        self: tuning.Search, trial: optuna.Trial, name: str, flags: list[str], callbacks: list[Callback]
    ) -> float:
        calls.append(name)
        if len(calls) in (2, 3, 6, 7, 8):
            raise KeyboardInterrupt(signal.SIGTERM)
        return fit(self, trial, name, flags, callbacks)

    monkeypatch.setattr(tuning.Search, "_fit", fit_or_stop)
    flags = [*tune, "--trials", "2", "--finalists", "1", "--seeds", "1"]
    for _ in range(5):
        with pytest.raises(SystemExit) as error:
            main(flags)
        assert error.value.code == 128 + signal.SIGTERM
        assert capsys.readouterr().out.endswith("stopped; the same command goes on\n")
    main(flags)
    assert len(calls) == 2 + 2 + 5
    assert (states().count("COMPLETE"), states(study="small, finalists").count("COMPLETE")) == (2, 2)
    assert Path("tuning/small/best.yaml").is_file()


def test_a_finalist_that_failed_is_tried_again_by_the_same_command(
    tune: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = tuning.Search._train_finalist
    monkeypatch.setattr(tuning.Search, "_train_finalist", lambda *_: 1 / 0)
    main(tune)
    assert "so there is no best.yaml; the same command tries again" in capsys.readouterr().out
    assert not Path("tuning/small/best.yaml").exists()
    monkeypatch.setattr(tuning.Search, "_train_finalist", train)
    main(tune)
    assert Path("tuning/small/best.yaml").is_file()


def test_finalists_of_a_search_that_was_deleted_are_not_those_of_the_next(
    tune: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(tune)
    optuna.delete_study(study_name="small", storage=STORAGE)
    assert "has a study small, finalists already" in line_of(tune, capsys)


def test_machines_of_one_search_may_keep_their_data_in_different_places(tune: list[str], tiny: Path) -> None:
    main(tune)
    tiny.rename("elsewhere")
    main([*tune, "--data.data_dir", "elsewhere", "--trials", "5"])
    assert len(states()) == 5


def test_recipes_that_are_given_together_are_all_read(tune: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("longer.yaml").write_text("trainer: {max_epochs: 3}")
    main([*tune, "--config", "longer.yaml"])
    best = yaml.safe_load(Path("tuning/longer/best.yaml").read_text())
    assert (best["model"]["init_args"]["dropout"], best["trainer"]["max_epochs"]) == (0.1, 3)


def test_any_text_may_be_chosen(tune: list[str], tiny: Path) -> None:
    Path("data$^").symlink_to(tiny)
    Path("space.yaml").write_text('data.data_dir: {choices: [data, "data$^"]}')
    main(tune)
    assert Path("tuning/small/figures/parallel_coordinate.png").is_file()
