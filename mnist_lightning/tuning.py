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
from typing import Any

import matplotlib
import optuna
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib import pyplot
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
from mnist_lightning.reports import write_csv, write_figure
from mnist_lightning.space import Parameter, as_flags, read_space

RECIPE = -1
"""Stands among the finalists for the recipe as it is."""


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
    return optuna.samplers.TPESampler(multivariate=True, constant_liar=True, seed=seed)


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
        """
        end = time.monotonic() + timeout_s if timeout_s else math.inf
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
        while time.monotonic() < end:
            trials = study.get_trials(deepcopy=False)
            states = {trial.state for trial in trials}
            if TrialState.WAITING in states or sum(map(_is_first_try, trials)) < count:
                study.optimize(objective, n_trials=1, catch=(Exception,))
            elif TrialState.RUNNING in states:  # on another machine, which may die yet
                time.sleep(1)
                optuna.storages.fail_stale_trials(study)
            else:
                return True
        return False

    def _search(self, trial: optuna.Trial) -> float:
        earlier = trial.study.get_trials(deepcopy=False)[: trial.number]
        if sum(map(_is_first_try, earlier)) >= self.num_trials:
            raise RuntimeError("another machine began the last trial at the same moment")
        values: dict[str, Any] = {}
        for parameter in self.space:
            if parameter.only_with in (None, values.get("model", self.model)):
                values[parameter.name] = parameter.suggest(trial)
        trial.set_user_attr("values", values)
        report = Report(trial)
        accuracy = self._fit(trial, [*as_flags(values), f"--trainer.max_epochs={self.num_epochs}"], [report])
        shown = ", ".join(f"{entry.label} {_short(values[entry.name])}" for entry in self.space if entry.name in values)
        self.say(f"trial {trial.number}: {accuracy:.2%}{' and ended early' * report.is_pruned} with {shown}")
        if report.is_pruned:
            raise optuna.TrialPruned
        return accuracy

    def _train_finalist(self, study: optuna.Study, trial: optuna.Trial) -> float:
        number, seed = trial.suggest_int("trial", RECIPE, 10**6), trial.suggest_int("seed", 0, 10**6)
        values = study.trials[number].user_attrs["values"] if number != RECIPE else {}
        accuracy = self._fit(trial, [*as_flags(values), f"--seed_everything={seed}"], [])
        self.say(f"{f'trial {number}' if values else 'the recipe'} in full, seed {seed}: {accuracy:.2%}")
        return accuracy

    def _fit(self, trial: optuna.Trial, flags: list[str], callbacks: list[Callback]) -> float:
        own = [f"--trainer.default_root_dir={self.folder}", "--trainer.enable_progress_bar=false"]
        own.append("--trainer.check_val_every_n_epoch=1")  # or there would be nothing to score
        try:
            cli = CLI("fit", [*self.flags, *flags, *own], callbacks)
            trial.set_user_attr("run", str(cli.open_run_dir()))
            with cli.claims:
                cli.trainer.fit(cli.model, cli.datamodule, weights_only=True)
        except SystemExit:  # Lightning's end of a run that a signal stopped; the trial is repeated when it has been
            raise SystemExit(128 + (cli.scoreboard.stopped_by or signal.SIGINT)) from None  # silent for long enough
        except Exception as error:
            trial.set_user_attr("error", in_one_line(error)[:500])
            self.say(f"trial {trial.number} failed: {in_one_line(error)}")
            raise
        return float(cli.trainer.callback_metrics["val/accuracy"])

    def _write(self, study: optuna.Study, finals: optuna.Study) -> None:
        """Shows the best trials, and writes `trials.csv`, `best.yaml` and figures."""
        found, names = best_trials(study), [entry.name for entry in self.space]
        scores: dict[int, dict[int, float]] = {}
        for trial in finals.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            scores.setdefault(trial.params["trial"], {})[trial.params["seed"]] = trial.values[0]
        whole = {number: fmean(seeds.values()) for number, seeds in scores.items() if len(seeds) >= self.num_seeds}
        in_full = {number: f"{whole[number]:.2%}" if number in whole else "not all" for number in scores}
        table = Table("trial", "validation", *(entry.label for entry in self.space), f"{self.num_seeds} in full")
        for trial in found[:5]:
            values = [_short(trial.user_attrs["values"].get(name, "")) for name in names]
            table.add_row(str(trial.number), f"{trial.values[0]:.2%}", *values, in_full.get(trial.number, ""))
        table.add_row("the recipe", "", *[""] * len(names), in_full.get(RECIPE, ""))
        self.say(table)
        if not whole.keys() - {RECIPE}:
            self.say("no finalist could be trained with every seed, so that there is no best.yaml")
            return
        best = max(whole.keys() - {RECIPE}, key=whole.__getitem__)
        config = CLI("fit", [*self.flags, *as_flags(study.trials[best].user_attrs["values"])])
        write_atomically(self.folder / "best.yaml", config.parser.dump(config.config, skip_default=True))
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
        with contextlib.suppress(ValueError, RuntimeError):  # too few trials, or all alike
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


def _is_first_try(trial: FrozenTrial) -> bool:
    return RetryHeartbeatStaleTrialCallback.retried_trial_number(trial) is None


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
    cli = CLI("fit", recipe)
    if cli.trainer.world_size > 1:
        raise ValueError("a trial has one device; give --trainer.devices 1, and start tune once for each device")
    space = read_space(args.space)
    for parameter in space:
        model = [f"--model={parameter.only_with}"] if parameter.only_with else []
        for value in parameter.values():
            CLI("fit", [*recipe, *model, *as_flags({parameter.name: value})])
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


def open_storage(url: str, grace_s: int) -> RDBStorage:
    """Opens a database that a search is shared by; its trials show that they live, and are repeated once if not.

    Args:
        url: As SQLAlchemy takes it.
        grace_s: After so many seconds of silence a trial counts as dead.

    Raises:
        ValueError: The address is none, or nothing answers there. Passwords are left out.
    """
    try:
        shown = make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError as error:
        raise ValueError("--storage is no address; give one such as postgresql+psycopg://user@host/name") from error
    storage = partial(
        RDBStorage,
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
        problem = str(error.__cause__ or error).strip().splitlines()[0]
        raise ValueError(f"--storage {shown} can't be used: {problem}") from error


optuna.logging.set_verbosity(optuna.logging.ERROR)  # `say` tells what became of a trial
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # heartbeats and figures
