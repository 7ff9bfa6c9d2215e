"""Searching hyper-parameters with Optuna: a trial, the finalists, and what came out."""

import contextlib
import json
import math
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NoReturn

import matplotlib
import optuna
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib import pyplot
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from mnist_lightning.arguments import CLI
from mnist_lightning.errors import Parser, in_one_line
from mnist_lightning.files import write_atomically
from mnist_lightning.models import check_range
from mnist_lightning.recipes import flatten
from mnist_lightning.reports import write_csv, write_figure
from mnist_lightning.runs import hide_passwords
from mnist_lightning.space import Parameter, as_flags, read_space

RECIPE = -1
"""Stands among the finalists for the recipe as it is."""
SURPLUS = "another machine began the last one at the same moment"
"""The error of a trial that is one too many."""


class Report(Callback):
    """Tells a trial its validation accuracy after each epoch, and ends it when others were better by then."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial
        self.is_pruned = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports the epoch that ends."""
        self.trial.report(trainer.callback_metrics["val/accuracy"].item(), trainer.current_epoch + 1)
        if self.trial.should_prune():
            self.is_pruned = trainer.should_stop = True


def make_sampler(seed: int | None = None) -> optuna.samplers.BaseSampler:
    """Returns what chooses the values: Parzen estimators of all of them together, aware of trials that still run."""
    return optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)


@dataclass(frozen=True)
class Search:
    """A search, the same on every machine that shares its storage.

    Args:
        storage: Where trials are kept.
        name: The study's name there.
        flags: What every trial gives to `fit`, its recipe among them.
        model: The recipe's model, such as `CNN`.
        space: What is searched.
        num_trials: Trials of all machines together.
        num_epochs: Epochs of a trial; finalists have the recipe's.
        num_finalists: How many of the best trials are trained in full, beside the recipe itself.
        num_seeds: How often each of them is.
        folder: Where runs and results lie.
        say: Tells the user something.
        sampler: Chooses the values; default: `make_sampler`'s.
        pruner: Ends trials early; default: those that are below the median of the others after as many epochs.

    Raises:
        ValueError: The study was made with another space, recipe or direction.
    """

    storage: RDBStorage
    name: str
    flags: list[str]
    model: str
    space: list[Parameter]
    num_trials: int
    num_epochs: int
    num_finalists: int
    num_seeds: int
    folder: Path
    say: Callable[[object], None]
    sampler: optuna.samplers.BaseSampler | None = None
    pruner: optuna.pruners.BasePruner | None = None

    def run(self, timeout_s: float | None = None) -> None:
        """Works on trials until all machines together have done them, then on the finalists, and writes what came out.

        Args:
            timeout_s: No trial begins after that many seconds; the same command goes on later.

        Raises:
            OSError: The storage answers no longer.
        """
        try:
            self._run(time.monotonic() + timeout_s if timeout_s else math.inf)
        except Exception as error:
            if not (lost := _find_cause(error, SQLAlchemyError)):
                raise
            raise OSError(f"the storage answers no longer ({_problem(lost)}); the same command goes on") from error

    def _run(self, end: float) -> None:
        study = self._open(self.name)
        if self._work(study, self.num_trials, self._search, end) and (found := best_trials(study)):
            finals = self._open(f"{self.name}, finalists")
            for number in (RECIPE, *(trial.number for trial in found[: self.num_finalists])):
                for seed in range(self.num_seeds):
                    finals.enqueue_trial({"trial": number, "seed": seed}, skip_if_exists=True)
            if self._work(finals, 0, partial(self._train_finalist, study), end):
                self._write(study, finals)
                return
        self.say("stopped; the same command goes on")

    def _open(self, name: str) -> optuna.Study:
        cli = CLI("fit", self.flags)
        recipe = cli.parser.dump(cli.config, skip_default=True)
        made_with = {"recipe": recipe, "epochs": self.num_epochs, "space": [str(entry) for entry in self.space]}
        study = optuna.create_study(
            storage=self.storage,
            study_name=name,
            direction="maximize",
            pruner=self.pruner or optuna.pruners.MedianPruner(n_startup_trials=5),
            sampler=self.sampler or make_sampler(),
            load_if_exists=True,
        )
        if "made_with" not in study.user_attrs and not study.get_trials(deepcopy=False):
            study.set_user_attr("made_with", made_with)
        if study.direction != StudyDirection.MAXIMIZE or study.user_attrs.get("made_with") != made_with:
            raise ValueError(
                f"the storage has a study {name} already, with another space, recipe or direction; give another --study"
            )
        return study

    def _work(self, study: optuna.Study, count: int, objective: Callable[[optuna.Trial], float], end: float) -> bool:
        """Runs trials until there are that many and none is left; tells whether there was time for that."""
        watched: set[int] = set()
        while time.monotonic() < end:
            trials = study.get_trials(deepcopy=False)
            states = {trial.state for trial in trials}
            if TrialState.WAITING in states or sum(map(_counts, trials)) < count:
                try:
                    study.optimize(objective, n_trials=1, catch=(Exception,))
                except ValueError as error:
                    if "Cannot tell a FAIL trial" not in str(error):
                        raise
                    self.say("this machine was silent for so long that its trial was given to another")
            elif TrialState.RUNNING in states:  # on another machine, which may die yet
                time.sleep(1)
                optuna.storages.fail_stale_trials(study)
                for trial in trials:
                    if trial.state == TrialState.RUNNING and trial.number not in watched:
                        self.storage.record_heartbeat(trial._trial_id)  # one that died before its own has none
                        watched.add(trial.number)
            else:
                return True
        return False

    def _search(self, trial: optuna.Trial) -> float:
        earlier = trial.study.get_trials(deepcopy=False)[: trial.number]
        if sum(map(_counts, earlier)) >= self.num_trials:
            _refuse(trial)
        values: dict[str, Any] = {}
        for parameter in self.space:
            if parameter.only_with in (None, values.get("model", self.model)):
                values[parameter.name] = parameter.suggest(trial)
        trial.set_user_attr("values", values)
        report = Report(trial)
        flags = [*as_flags(values), f"--trainer.max_epochs={self.num_epochs}"]
        accuracy = self._fit(trial, f"trial {trial.number}", flags, [report])
        shown = ", ".join(f"{entry.label} {_short(values[entry.name])}" for entry in self.space if entry.name in values)
        self.say(f"trial {trial.number}: {accuracy:.2%}{' and ended early' * report.is_pruned} with {shown}")
        if report.is_pruned:
            raise optuna.TrialPruned
        return accuracy

    def _train_finalist(self, study: optuna.Study, trial: optuna.Trial) -> float:
        number, seed = trial.suggest_int("trial", RECIPE, 10**6), trial.suggest_int("seed", 0, 10**6)
        earlier = [other for other in trial.study.get_trials(deepcopy=False) if other.number < trial.number]
        taken = [other.system_attrs["fixed_params"] for other in earlier if other.state != TrialState.FAIL]
        if {"trial": number, "seed": seed} in taken:
            _refuse(trial)
        values = study.trials[number].user_attrs["values"] if number != RECIPE else {}
        name = f"{'the recipe' if number == RECIPE else f'trial {number}'} in full, seed {seed}"
        accuracy = self._fit(trial, name, [*as_flags(values), f"--seed_everything={seed}"], [])
        self.say(f"{name}: {accuracy:.2%}")
        return accuracy

    def _fit(self, trial: optuna.Trial, name: str, flags: list[str], callbacks: list[Callback]) -> float:
        own = [f"--trainer.default_root_dir={self.folder}", "--trainer.enable_progress_bar=false"]
        own.append("--trainer.check_val_every_n_epoch=1")  # or there would be nothing to score
        try:
            cli = CLI("fit", [*self.flags, *flags, *own], callbacks)
            cli.scoreboard.hyper_parameters = self._searched(cli)
            trial.set_user_attr("run", str(cli.open_run_dir()))
            with cli.claims:
                cli.trainer.fit(cli.model, cli.datamodule, weights_only=True)
        except SystemExit:  # Lightning's end of a run that a signal stopped; the trial is repeated when it has been
            raise SystemExit(128 + (cli.scoreboard.stopped_by or signal.SIGINT)) from None  # silent for long enough
        except Exception as error:
            trial.set_user_attr("error", in_one_line(error)[:500])
            self.say(f"{name} failed: {in_one_line(error)}")
            raise
        return float(cli.trainer.callback_metrics["val/accuracy"])

    def _searched(self, cli: CLI) -> dict[str, Any]:
        """Returns what runs of this search differ in, for TensorBoard."""
        settings = flatten(_as_settings(cli))
        settings |= {"model": settings["model.class_path"].rpartition(".")[2]}
        names = {"epochs": "trainer.max_epochs", "seed": "seed_everything"}
        names |= {entry.label: entry.name for entry in self.space}
        return {label: settings[name] for label, name in names.items() if name in settings}

    def _write(self, study: optuna.Study, finals: optuna.Study) -> None:
        """Shows the best trials, and writes `trials.csv`, `best.yaml` and figures."""
        found, names = best_trials(study), [entry.name for entry in self.space]
        scores: dict[int, dict[int, float]] = {}
        for trial in finals.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            scores.setdefault(trial.params["trial"], {})[trial.params["seed"]] = trial.values[0]
        whole = {number: fmean(seeds.values()) for number, seeds in scores.items() if len(seeds) >= self.num_seeds}
        in_full = {number: f"{whole[number]:.2%}" if number in whole else "not all" for number in scores}
        table = Table("trial", *(str(trial.number) for trial in found[:5]), "recipe")
        table.add_row("validation", *(f"{trial.values[0]:.2%}" for trial in found[:5]))
        for entry in self.space:
            table.add_row(entry.label, *(_short(trial.user_attrs["values"].get(entry.name, "")) for trial in found[:5]))
        numbers = [*(trial.number for trial in found[:5]), RECIPE]
        table.add_row(f"{self.num_seeds} in full", *(in_full.get(number, "") for number in numbers))
        self.say(table)
        if not whole.keys() - {RECIPE}:
            self.say("no finalist could be trained with every seed, so that there is no best.yaml")
            return
        best = max(whole.keys() - {RECIPE}, key=whole.__getitem__)
        if whole.get(RECIPE, 0) >= whole[best]:
            self.say("nothing better than the recipe was found; best.yaml is the best beside it")
        settings = _as_settings(CLI("fit", [*self.flags, *as_flags(study.trials[best].user_attrs["values"])]))
        defaults = _as_settings(CLI("fit", [f"--model={settings['model']['class_path']}"]))
        origin = (
            f"# Trial {best} of the search {self.name}: {in_full[best]} of the validation images, mean of its seeds.\n"
        )
        recipe = yaml.safe_dump(_differences(settings, defaults), sort_keys=False)
        write_atomically(self.folder / "best.yaml", origin + recipe)
        columns = ["trial", "state", "validation accuracy", *names, "run", "error"]
        rows = [
            [
                *(trial.number, trial.state.name.lower(), trial.values[0] if trial.values else ""),
                *(trial.user_attrs.get("values", {}).get(name, "") for name in names),
                *(trial.user_attrs.get(name, "") for name in ("run", "error")),
            ]
            for trial in study.get_trials(deepcopy=False)
        ]
        write_csv(self.folder / "trials.csv", [columns, *rows])
        self._draw(study)
        self.say(f"results     {self.folder}")
        self.say(f"next        python -m mnist_lightning fit --config {self.folder / 'best.yaml'}")

    def _draw(self, study: optuna.Study) -> None:
        importances: dict[str, float] = {}
        # Too few trials, or all alike, or some of them with a parameter that few others have.
        with contextlib.suppress(ValueError, RuntimeError), warnings.catch_warnings(action="ignore"):
            importances = optuna.importance.get_param_importances(study)
        for name, share in importances.items():
            self.say(f"importance  {share:.0%} {name}")
        plots = optuna.visualization.matplotlib
        drawn: dict[str, Any] = {
            "history": plots.plot_optimization_history,
            "parallel_coordinate": plots.plot_parallel_coordinate,
            **({"importance": plots.plot_param_importances} if importances else {}),
        }
        for name, draw in drawn.items():
            # Optuna changes the style of all figures, and stretches axes that have one value.
            with matplotlib.rc_context(), warnings.catch_warnings(action="ignore"):
                axes = draw(study, target_name="validation accuracy")
                if name == "parallel_coordinate":
                    axes.figure.set_figwidth(max(6.4, 1.2 * len(axes.figure.axes)))  # it has an axis for each parameter
                if name == "importance":
                    axes.get_legend().remove()  # it hides the smallest
                write_figure(self.folder / "figures" / f"{name}.png", axes.figure, bbox_inches="tight")
                pyplot.close(axes.figure)


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the finished trials, the highest validation accuracy first, each set of values once."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    found: dict[str, FrozenTrial] = {}
    for trial in sorted(trials, key=lambda trial: (-trial.values[0], trial.number)):
        found.setdefault(json.dumps(trial.params, sort_keys=True), trial)
    return list(found.values())


def _counts(trial: FrozenTrial) -> bool:
    """Tells whether a trial is one of those that were asked for, and not a repetition or one too many."""
    is_first_try = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial) is None
    return is_first_try and trial.user_attrs.get("error") != SURPLUS


def _refuse(trial: optuna.Trial) -> NoReturn:
    trial.set_user_attr("error", SURPLUS)
    raise RuntimeError(SURPLUS)


def _as_settings(cli: CLI) -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load(cli.parser.dump(cli.config))
    return settings


def _differences(settings: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings that are not the defaults; a model keeps its class."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and isinstance(defaults.get(name), dict):
            if inner := _differences(value, defaults[name]):
                found[name] = inner
        elif name == "class_path" or name not in defaults or value != defaults[name]:
            found[name] = value
    return found


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def prepare(flags: list[str], say: Callable[[object], None]) -> tuple[Search, float | None]:
    """Reads the flags of `tune` and checks them all before anything is made.

    Args:
        flags: Those of `tune`, and any that `fit` takes.
        say: Tells the user something.

    Returns:
        The search, and after how many seconds no trial begins any more.

    Raises:
        ValueError: A flag, the recipe, the space or the storage can't be used.
        OSError: A file can't be read.
    """
    parser = Parser("mnist_lightning tune", description="Other flags go to each trial's fit.", allow_abbrev=False)
    parser.add_argument("--config", help="the recipe")
    parser.add_argument("--space", type=Path, required=True, help="YAML file of what is searched")
    parser.add_argument("--trials", type=int, default=20, help="of all machines together (default: 20)")
    parser.add_argument("--epochs", type=int, help="of a trial (default: a third of the recipe's)")
    parser.add_argument("--finalists", type=int, default=3, help="best trials that are trained in full (default: 3)")
    parser.add_argument("--seeds", type=int, default=3, help="how often each of them is (default: 3)")
    parser.add_argument("--storage", help="database that machines share (default: a file in tuning/STUDY)")
    parser.add_argument("--study", help="name of the search (default: the recipe's)")
    parser.add_argument("--grace_s", type=int, default=60, help="a machine silent for so long is dead (default: 60)")
    parser.add_argument("--timeout_s", type=float, help="seconds after which no trial begins")
    args, rest = parser.parse_known_args(flags)
    for name, least in (("trials", 1), ("epochs", 1), ("finalists", 1), ("seeds", 1), ("grace_s", 1), ("timeout_s", 0)):
        value = getattr(args, name)
        check_range(name, value, value is None or value >= least, f"{least} or more")
    recipe = [*([f"--config={args.config}"] if args.config else []), *rest]
    space = read_space(args.space)
    cli = _checked(recipe)
    for parameter in space:
        model = [f"--model={parameter.only_with}"] if parameter.only_with else []
        for value in parameter.values():
            _checked([*recipe, *model, *as_flags({parameter.name: value})])
    name = args.study or (Path(args.config).stem if args.config else "fit")
    folder = Path("tuning") / name
    if args.storage is None:
        folder.mkdir(parents=True, exist_ok=True)
    search = Search(
        storage=open_storage(args.storage or f"sqlite:///{folder / 'study.db'}", args.grace_s),
        name=name,
        flags=recipe,
        model=type(cli.model).__name__,
        space=space,
        num_trials=args.trials,
        num_epochs=args.epochs or max(1, (cli.trainer.max_epochs or 1) // 3),
        num_finalists=args.finalists,
        num_seeds=args.seeds,
        folder=folder,
        say=say,
    )
    return search, args.timeout_s


class Storage(RDBStorage):
    """A database for trials that forgives a sign of life which does not reach it."""

    def record_heartbeat(self, trial_id: int) -> None:
        """Records that a trial is alive."""
        with contextlib.suppress(StorageInternalError):  # what else is asked of it will tell, and in a line
            super().record_heartbeat(trial_id)


def _checked(flags: list[str]) -> CLI:
    cli = CLI("fit", flags)
    if cli.trainer.world_size > 1:
        raise ValueError("a trial has one device; give --trainer.devices 1, and start tune once for each device")
    return cli


def open_storage(url: str, grace_s: int) -> Storage:
    """Opens a database that a search is shared by; its trials show that they live, and are repeated once if not.

    Args:
        url: As SQLAlchemy takes it.
        grace_s: After so many seconds of silence a trial counts as dead.

    Raises:
        ValueError: The address is none, or nothing answers there. Passwords are left out.
    """
    try:
        make_url(url)
    except (SQLAlchemyError, ValueError) as error:
        raise ValueError("--storage is no address; give one such as postgresql+psycopg://user@host/name") from error
    storage = partial(
        Storage,
        url,
        heartbeat_interval=max(1, grace_s // 6),
        grace_period=grace_s,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=1),
    )
    try:
        try:
            return storage()
        except (IntegrityError, ProgrammingError):  # another machine has made the same tables at the same moment
            time.sleep(3)
            return storage()
    except (SQLAlchemyError, ImportError, RuntimeError) as error:
        raise ValueError(f"--storage {hide_passwords(url)} can't be used: {_problem(error)}") from error


def _find_cause(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """Returns the first error of a kind among those that led to an error."""
    while error and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def _problem(error: BaseException) -> str:
    """Returns the first line of what a database said."""
    return hide_passwords(str(error.__cause__ or error).strip().splitlines()[0])


optuna.logging.set_verbosity(optuna.logging.ERROR)  # `say` tells what became of a trial
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # heartbeats and figures
