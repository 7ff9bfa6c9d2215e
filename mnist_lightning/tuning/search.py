"""The search: trials of a few epochs each, then full trainings of the best ones."""

import itertools
import math
import platform
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from lightning.pytorch import Callback, LightningModule, Trainer
from optuna.trial import FrozenTrial, TrialState

from mnist_lightning.arguments.cli import CLI
from mnist_lightning.console import command_line, echo
from mnist_lightning.errors import UserError, one_line
from mnist_lightning.files import write_atomically
from mnist_lightning.reporting.reports import as_csv
from mnist_lightning.training import interruptions
from mnist_lightning.tuning.space import Parameter, as_flags
from mnist_lightning.tuning.storage import Storage, lost_storage_reported

CONFIG = "the config"  # the finalist that every search has
DONE = (TrialState.COMPLETE, TrialState.PRUNED)


class Pruning(Callback):
    """Reports a trial's validation accuracy after each epoch, and prunes it if others did better by that epoch."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial, self.is_pruned = trial, False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.trial.report(trainer.callback_metrics["val/accuracy"].item(), trainer.current_epoch + 1)
        if self.trial.should_prune():
            self.is_pruned = trainer.should_stop = True


@dataclass(frozen=True)
class Search:
    """A search, the same on each machine that shares its storage."""

    storage: Storage
    name: str  # of the study in the storage
    flags: list[str]  # what each trial passes to `fit`, such as `--config`
    space: list[Parameter]
    num_trials: int  # over all machines
    num_epochs: int  # per trial; full trainings use the config's
    num_finalists: int  # how many of the best trials are trained in full, in addition to the config itself
    num_seeds: int  # per full training
    folder: Path  # of runs and results

    @lost_storage_reported()
    def run(self, timeout_s: float = math.inf) -> None:
        """Runs trials with other machines, then full trainings; starts none after `timeout_s`; writes the results."""
        end = time.monotonic() + timeout_s
        try:
            study = self._open(self.name)
            # All machines together complete `num_trials`, or stop when as many have failed.
            limits = [optuna.study.MaxTrialsCallback(self.num_trials, states) for states in (DONE, (TrialState.FAIL,))]
            if len(study.get_trials(deepcopy=False, states=DONE)) < self.num_trials:
                study.optimize(self._run_trial, timeout=end - time.monotonic(), catch=(Exception,), callbacks=limits)
            found = best_trials(study)
            if found:
                finals = self._open(f"{self.name}, finalists", of=str(study.trials[0].datetime_start))
                best = {f"trial {t.number}": t.user_attrs["values"] for t in found[: self.num_finalists]}
                if self._run_finalists(finals, {CONFIG: {}, **best}, end):
                    self._write(study, finals)
                    return
            elif time.monotonic() < end:
                errors = (trial.user_attrs["error"] for trial in study.trials if "error" in trial.user_attrs)
                reason = next(errors, "all of them died")
                raise UserError(f"no trial was completed ({reason}); fix that, then use another --study")
        except KeyboardInterrupt:
            echo("stopped     continue with the same command")
            raise
        echo("stopped     continue with the same command")

    def _open(self, name: str, **further: str) -> optuna.Study:
        """Opens a study, or creates it; one of the same name is rejected if more than a machine's settings differ."""
        cli = CLI("fit", self.flags)
        for setting in ("data.data_dir", "data.num_workers", "trainer.accelerator", "trainer.enable_progress_bar"):
            cli.config[setting] = cli.parser.get_default(setting)
        config, space = cli.parser.dump(cli.config, skip_default=True), [str(entry) for entry in self.space]
        made_with = {"config": config, "epochs": self.num_epochs, "space": space, **further}
        sampler = optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True)
        study = optuna.create_study(  # its default pruner is a MedianPruner
            storage=self.storage, sampler=sampler, study_name=name, direction="maximize", load_if_exists=True
        )
        if "made_with" not in study.user_attrs and not study.get_trials(deepcopy=False):
            study.set_user_attr("made_with", made_with)
        if study.direction != optuna.study.StudyDirection.MAXIMIZE or study.user_attrs.get("made_with") != made_with:
            other = "another space, config, --epochs or direction"
            raise UserError(f"the storage already has a study {name} with {other}; use another --study")
        return study

    def _run_trial(self, trial: optuna.Trial) -> float:
        values: dict[str, Any] = {}
        for parameter in self.space:
            if "model" not in values or parameter.belongs_to(values["model"]):
                values[parameter.name] = parameter.suggest(trial)
        trial.set_user_attr("values", values)
        pruning = Pruning(trial)
        flags = [*as_flags(values), f"--trainer.max_epochs={self.num_epochs}"]
        accuracy = self._fit(trial, f"trial {trial.number}", flags, [pruning])
        outcome = f"{accuracy:.2%}, stopped early" if pruning.is_pruned else f"{accuracy:.2%}"
        echo(f"trial {trial.number}: {outcome}, with {' '.join(as_flags(values))}")
        if pruning.is_pruned:
            raise optuna.TrialPruned
        return accuracy

    def _run_finalists(self, finals: optuna.Study, finalists: dict[str, dict[str, Any]], end: float) -> bool:
        """Trains the finalists, given with their values, with each seed; returns whether all machines are done."""
        for (name, values), seed in itertools.product(finalists.items(), range(self.num_seeds)):
            params = {"finalist": name, "seed": seed}
            finals.enqueue_trial(params, user_attrs={**params, "values": values}, skip_if_exists=True)
        while time.monotonic() < end:
            states = {trial.state for trial in finals.get_trials(deepcopy=False)}
            if TrialState.WAITING in states:
                finals.optimize(self._run_finalist, n_trials=1, catch=(Exception,))
            elif TrialState.RUNNING in states:  # on another machine, which may die
                time.sleep(1)
                optuna.storages.fail_stale_trials(finals)
            else:
                return True
        return False

    def _run_finalist(self, trial: optuna.Trial) -> float:
        if "finalist" not in trial.user_attrs:
            raise optuna.TrialPruned  # another machine took the last queued training
        finalist, seed, values = (trial.user_attrs[name] for name in ("finalist", "seed", "values"))
        name = f"full training of {finalist}, seed {seed}"
        accuracy = self._fit(trial, name, [*as_flags(values), f"--seed_everything={seed}"], [])
        echo(f"{name}: {accuracy:.2%}")
        return accuracy

    def _fit(self, trial: optuna.Trial, name: str, flags: list[str], callbacks: list[Callback]) -> float:
        """Returns the validation accuracy after the last epoch of a `fit`; an interrupted trial is queued again."""
        own = [f"--trainer.default_root_dir={self.folder}", "--trainer.enable_progress_bar=false"]
        own.append("--trainer.check_val_every_n_epoch=1")  # each epoch is scored
        try:
            cli = CLI("fit", [*self.flags, *flags, *own], callbacks)
            trial.set_user_attr("machine", platform.node())
            with cli.open_run() as run_dir, interruptions.handled(cli.trainer):
                trial.set_user_attr("run", str(run_dir))
                cli.trainer.fit(cli.model, cli.datamodule, weights_only=True)
            if not cli.history.best:
                raise UserError("training ended before its first validation")
            return cli.history.rows[-1]["val/accuracy"]
        except KeyboardInterrupt as error:
            traceback.clear_frames(error.__traceback__)  # they may hold a cursor, and with it SQLite's lock
            trial.study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)
            raise
        except Exception as error:
            trial.set_user_attr("error", one_line(error, 500))
            echo(f"{name} failed: {one_line(error)}")
            raise

    def _write(self, study: optuna.Study, finals: optuna.Study) -> None:
        """Writes `trials.csv`, `finalists.csv` and `best.yaml`, and shows the finalists."""
        trainings = [trial for trial in finals.get_trials(deepcopy=False) if "finalist" in trial.user_attrs]
        write_trials(self.folder / "trials.csv", study.trials, [entry.name for entry in self.space])
        write_trials(self.folder / "finalists.csv", trainings, ["seed"])
        scores = mean_accuracies(trainings, self.num_seeds)
        values = {trial.user_attrs["finalist"]: trial.user_attrs["values"] for trial in trainings}
        for name, score in scores.items():
            echo(f"{name.removeprefix('the '):<11} {score:.2%} {' '.join(as_flags(values[name])) or 'unchanged'}")
        echo(f"results     {self.folder}")
        if not (best := next((name for name in scores if name != CONFIG), None)):
            echo("            no finalist was trained with every seed, so best.yaml was not written")
            return
        if scores.get(CONFIG, 0) >= scores[best]:
            echo("            no trial is better than the config; best.yaml is the best trial")
        cli = CLI("fit", [*self.flags, *as_flags(values[best])])
        origin = f"# {best.capitalize()} of the search {self.name}: mean validation accuracy {scores[best]:.2%}."
        write_atomically(self.folder / "best.yaml", f"{origin}\n{cli.parser.dump(cli.config, skip_default=True)}")
        echo(f"next        {command_line('fit', '--config', self.folder / 'best.yaml')}")


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the completed trials by validation accuracy, the highest first, without duplicate values."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    found: dict[str, FrozenTrial] = {}
    for trial in sorted(trials, key=lambda trial: (-trial.values[0], trial.number)):
        found.setdefault(str(trial.params), trial)
    return list(found.values())


def mean_accuracies(trainings: list[FrozenTrial], num_seeds: int) -> dict[str, float]:
    """Returns the mean validation accuracy of each finalist that was trained with every seed, the best first."""
    scores: dict[str, dict[int, float]] = {}
    for trial in trainings:
        if trial.state == TrialState.COMPLETE and trial.user_attrs["seed"] < num_seeds:
            scores.setdefault(trial.user_attrs["finalist"], {})[trial.user_attrs["seed"]] = trial.values[0]
    found = {name: fmean(by_seed.values()) for name, by_seed in scores.items() if len(by_seed) == num_seeds}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def write_trials(path: Path, trials: list[FrozenTrial], names: list[str]) -> None:
    """Writes a row for each trial, or training of a finalist: its number, its values for `names`, and its outcome."""
    columns = ["trial", *names, "state", "validation accuracy", "machine", "run", "error"]
    rows: list[list[Any]] = [columns]
    for trial in trials:
        row = {**trial.user_attrs.get("values", {}), **trial.user_attrs, "state": trial.state.name.lower()}
        row["trial"] = row.get("finalist", str(trial.number)).split()[-1]
        row["validation accuracy"] = trial.values[0] if trial.values else ""
        rows.append([row.get(column, "") for column in columns])
    write_atomically(path, as_csv(rows))
