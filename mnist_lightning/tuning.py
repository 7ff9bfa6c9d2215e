"""Searching hyper-parameters with Optuna: the trials, and then the finalists."""

import itertools
import math
import platform
import re
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from mnist_lightning import findings
from mnist_lightning.arguments import CLI
from mnist_lightning.console import program
from mnist_lightning.errors import Parser, check_range, in_one_line
from mnist_lightning.files import write_atomically
from mnist_lightning.findings import RECIPE
from mnist_lightning.recipes import FREE, flatten
from mnist_lightning.space import Parameter, as_flags, read_space
from mnist_lightning.trials import Storage, open_storage, refuse_surplus, refuse_twin, told_when_lost
from mnist_lightning.watch import Watch

OF_MACHINES = (*FREE, "trainer.accelerator", "trainer.enable_progress_bar")
"""Settings in which machines that share a search may differ."""


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
    """

    storage: Storage
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
            ValueError: The study was made with another space, recipe, length or direction; or all trials failed.
        """
        end = time.monotonic() + timeout_s if timeout_s is not None else math.inf
        with Watch().listening(), told_when_lost():
            study = self._open(self.name)
            work_on = partial(self.storage.work_on, end=end, say=self.say)
            if work_on(study, self.num_trials, self._search):
                if not (found := findings.best_trials(study)):
                    errors = (error for trial in study.trials if (error := trial.user_attrs.get("error")))
                    problem = f"no trial came to its end ({next(errors, '')})"
                    raise ValueError(f"{problem}; once that is mended, give another --study")
                finals = self._open(f"{self.name}, finalists", of=str(study.trials[0].datetime_start))
                self._queue(finals, [RECIPE, *(trial.number for trial in found[: self.num_finalists])])
                if work_on(finals, 0, partial(self._train_finalist, study)):
                    self._write(study, finals)
                    return
            self.say("stopped; the same command goes on")

    def _open(self, name: str, **more: str) -> optuna.Study:
        cli = CLI("fit", self.flags)
        recipe = flatten(yaml.safe_load(cli.parser.dump(cli.config, skip_default=True)))
        made_with = {
            "recipe": yaml.safe_dump({name: value for name, value in recipe.items() if name not in OF_MACHINES}),
            "epochs": self.num_epochs,
            "space": [str(entry) for entry in self.space],
            **more,
        }
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
            other = "another space, recipe, --epochs or direction"
            raise ValueError(f"the storage has a study {name} already, with {other}; give another --study")
        return study

    def _queue(self, finals: optuna.Study, numbers: list[int]) -> None:
        """Puts those finalists into the queue that are neither trained nor waiting; failed ones get another chance."""
        trials = [trial for trial in finals.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]
        begun = [trial.system_attrs.get("fixed_params") for trial in trials]
        for number, seed in itertools.product(numbers, range(self.num_seeds)):
            if (finalist := {"trial": number, "seed": seed}) not in begun:
                finals.enqueue_trial(finalist)

    def _search(self, trial: optuna.Trial) -> float:
        refuse_surplus(trial, self.num_trials)
        values: dict[str, Any] = {}
        for parameter in self.space:
            if parameter.belongs_to(values.get("model", self.model)):
                values[parameter.name] = parameter.suggest(trial)
        trial.set_user_attr("values", values)
        report = Report(trial)
        flags = [*as_flags(values), f"--trainer.max_epochs={self.num_epochs}"]
        accuracy = self._fit(trial, f"trial {trial.number}", flags, [report])
        shown = ", ".join(
            f"{entry.label} {findings.short(values[entry.name])}" for entry in self.space if entry.name in values
        )
        outcome = f"{accuracy:.2%} and ended early" if report.is_pruned else f"{accuracy:.2%}"
        self.say(f"trial {trial.number}: {outcome} with {shown}")
        if report.is_pruned:
            raise optuna.TrialPruned
        return accuracy

    def _train_finalist(self, study: optuna.Study, trial: optuna.Trial) -> float:
        refuse_twin(trial)
        number, seed = trial.suggest_int("trial", RECIPE, 10**6), trial.suggest_int("seed", 0, 10**6)
        values = study.trials[number].user_attrs["values"] if number != RECIPE else {}
        name = f"{'the recipe' if number == RECIPE else f'trial {number}'} in full, seed {seed}"
        accuracy = self._fit(trial, name, [*as_flags(values), f"--seed_everything={seed}"], [])
        self.say(f"{name}: {accuracy:.2%}")
        return accuracy

    def _fit(self, trial: optuna.Trial, name: str, flags: list[str], callbacks: list[Callback]) -> float:
        own = [f"--trainer.default_root_dir={self.folder}", "--trainer.enable_progress_bar=false"]
        own.append("--trainer.check_val_every_n_epoch=1")  # or there would be nothing to score
        watch: Watch | None = None
        try:
            cli = CLI("fit", [*self.flags, *flags, *own], callbacks)
            watch = cli.scoreboard
            cli.scoreboard.hyper_parameters = self._searched(cli)
            trial.set_user_attr("machine", platform.node())
            trial.set_user_attr("run", str(cli.open_run_dir()))
            with cli.claims, cli.scoreboard.over(cli.trainer):
                cli.trainer.fit(cli.model, cli.datamodule, weights_only=True)
            if "val/accuracy" not in cli.trainer.callback_metrics:
                raise ValueError("it ended before its first validation")
        except SystemExit:  # Lightning's end of a run that a signal stopped
            raise KeyboardInterrupt(watch.stopped_by if watch and watch.stopped_by else signal.SIGINT) from None
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
        """Shows the best trials, and writes `trials.csv`, `finalists.csv`, `best.yaml` and figures."""
        names, means = [entry.name for entry in self.space], findings.means_in_full(finals, self.num_seeds)
        best = max(means.keys() - {RECIPE}, key=means.__getitem__, default=None)
        findings.write_trials(self.folder, study, finals, names)
        if best is not None:
            self._write_best(study.trials[best], means)
        findings.draw(study, self.folder / "figures")
        self.say(findings.show(study, finals, means, self.space))
        for name, share in findings.importances(study).items():
            self.say(f"importance  {share:.0%} {name}")
        self.say(f"results     {self.folder}")
        if best is None:
            self.say("no finalist was trained with every seed, so there is no best.yaml; the same command tries again")
            return
        if means.get(RECIPE, 0) >= means[best]:
            self.say("            nothing better than the recipe; best.yaml is the best beside it")
        self.say(f"next        {program()} fit --config {self.folder / 'best.yaml'}")

    def _write_best(self, trial: FrozenTrial, means: dict[int, float]) -> None:
        settings = _as_settings(CLI("fit", [*self.flags, *as_flags(trial.user_attrs["values"])]))
        defaults = _as_settings(CLI("fit", [f"--model={settings['model']['class_path']}"]))
        recipe = yaml.safe_dump(_differences(settings, defaults), sort_keys=False)
        beside = f", the recipe {means[RECIPE]:.2%}" if RECIPE in means else ""
        scores = f"{means[trial.number]:.2%} of the validation images{beside}, the mean of all seeds"
        origin = f"# Trial {trial.number} of the search {self.name}: {scores}.\n"
        write_atomically(self.folder / "best.yaml", origin + recipe)


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
    parser.add_argument("--config", action="append", default=[], help="the recipe; of several, the last wins")
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
    for name, least in (("trials", 1), ("epochs", 1), ("finalists", 1), ("seeds", 1), ("timeout_s", 0)):
        value = getattr(args, name)
        check_range(name, value, value is None or value >= least, f"{least} or more")
    check_range("grace_s", args.grace_s, 1 <= args.grace_s <= 86_400, "between 1 and 86400")
    name = args.study or (Path(args.config[-1]).stem if args.config else "fit")
    if not re.fullmatch(r"\w[\w .+()-]{0,99}", name):  # it is a folder's, too
        raise ValueError(f"study {name!r} is not allowed; give --study letters, digits, spaces and _.+-()")
    folder = Path("tuning") / name
    recipe = [*(f"--config={path}" for path in args.config), *rest]
    space = read_space(args.space)
    cli = _checked(recipe)
    _check_space(space, recipe, type(cli.model).__name__)
    cli.datamodule.setup("fit")  # or each trial would find out that the data can't be had
    if not args.storage:
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


def _check_space(space: list[Parameter], recipe: list[str], model: str) -> None:
    """Raises a ValueError, in the words of `fit`, unless it takes all values with all models that they may meet."""
    chosen = next((list(map(str, entry.values())) for entry in space if entry.name == "model"), None)
    for parameter in space:
        models = [name for name in chosen or [model] if parameter.belongs_to(name)]
        if not models:
            entry = f"{parameter.name} in the space has only_with: {parameter.only_with}"
            raise ValueError(f"{entry}, and models are {', '.join(chosen or [model])}; leave it out, or add model")
        for name, value in itertools.product(models, parameter.values()):
            _checked([*recipe, *as_flags({**({"model": name} if chosen else {}), parameter.name: value})])


def _checked(flags: list[str]) -> CLI:
    cli = CLI("fit", flags)
    if cli.ckpt_path:
        raise ValueError("a trial begins anew; leave out --ckpt_path")
    if cli.trainer.world_size > 1:
        raise ValueError("a trial has one device; give --trainer.devices 1, and start tune once for each device")
    return cli


optuna.logging.set_verbosity(optuna.logging.ERROR)  # `say` tells what became of a trial
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # heartbeats and figures
