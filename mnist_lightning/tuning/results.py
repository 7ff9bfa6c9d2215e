"""The results of a search: the best trials, and CSV files of all of them."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from mnist_lightning.files import write_atomically
from mnist_lightning.reporting.reports import as_csv

OUTCOME = ("state", "validation accuracy", "machine", "run", "error")


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the completed trials by validation accuracy, the highest first, without duplicate values."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    found: dict[str, FrozenTrial] = {}
    for trial in sorted(trials, key=lambda trial: (-trial.values[0], trial.number)):
        found.setdefault(str(trial.params), trial)
    return list(found.values())


def full_trainings(finals: optuna.Study) -> list[FrozenTrial]:
    """Returns the full trainings; their user attributes are the name of a finalist, its values, and a seed."""
    return [trial for trial in finals.get_trials(deepcopy=False) if "finalist" in trial.user_attrs]


def mean_accuracies(finals: optuna.Study, num_seeds: int) -> dict[str, float]:
    """Returns the mean validation accuracy of each finalist that was trained with every seed, the best first."""
    scores: dict[str, dict[int, float]] = {}
    for trial in full_trainings(finals):
        if trial.state == TrialState.COMPLETE and trial.user_attrs["seed"] < num_seeds:
            scores.setdefault(trial.user_attrs["finalist"], {})[trial.user_attrs["seed"]] = trial.values[0]
    found = {name: fmean(by_seed.values()) for name, by_seed in scores.items() if len(by_seed) == num_seeds}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def describe(values: dict[str, Any]) -> str:
    """Returns a trial's values as text."""
    short = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in values.items()}
    return ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in short.items())


def write_trials(path: Path, trials: Sequence[FrozenTrial], names: Sequence[str]) -> None:
    """Writes a row for each trial, or training of a finalist: its number, its values for `names`, and its outcome."""
    columns = ["trial", *names, *OUTCOME]
    rows: list[list[Any]] = [columns]
    for trial in trials:
        row = {**trial.user_attrs.get("values", {}), **trial.user_attrs, "state": trial.state.name.lower()}
        row["trial"] = row.get("finalist", str(trial.number)).split()[-1]
        row["validation accuracy"] = trial.values[0] if trial.values else ""
        rows.append([row.get(column, "") for column in columns])
    write_atomically(path, as_csv(rows))
