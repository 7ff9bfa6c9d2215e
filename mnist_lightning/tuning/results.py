"""The results of a search: the best trials, and CSV files of all of them."""

import json
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
        found.setdefault(json.dumps(trial.params, sort_keys=True), trial)
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


def write_trials(folder: Path, study: optuna.Study, finals: optuna.Study, names: Sequence[str]) -> None:
    """Writes `trials.csv`, a row for each trial with its values for `names`, and `finalists.csv`."""
    rows = [[t.number, *(t.user_attrs.get("values", {}).get(name, "") for name in names)] for t in study.trials]
    _write(folder / "trials.csv", ["trial", *names], rows, study.trials)
    trainings = full_trainings(finals)
    rows = [[t.user_attrs["finalist"].split()[-1], t.user_attrs["seed"]] for t in trainings]
    _write(folder / "finalists.csv", ["trial", "seed"], rows, trainings)


def _write(path: Path, columns: list[str], rows: list[list[Any]], trials: Sequence[FrozenTrial]) -> None:
    for row, trial in zip(rows, trials, strict=True):
        row += [trial.state.name.lower(), trial.values[0] if trial.values else ""]
        row += [trial.user_attrs.get(name, "") for name in OUTCOME[2:]]
    write_atomically(path, as_csv([[*columns, *OUTCOME], *rows]))
