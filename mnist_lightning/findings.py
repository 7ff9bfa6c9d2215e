"""What a search found: a table, CSV files and figures."""

import contextlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
import optuna
from matplotlib import pyplot
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from mnist_lightning.reports import write_csv, write_figure
from mnist_lightning.space import Parameter

RECIPE = -1
"""Stands among the finalists for the recipe as it is."""


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the finished trials, the highest validation accuracy first, each set of values once."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    found: dict[str, FrozenTrial] = {}
    for trial in sorted(trials, key=lambda trial: (-trial.values[0], trial.number)):
        found.setdefault(json.dumps(trial.params, sort_keys=True), trial)
    return list(found.values())


def means_in_full(finals: optuna.Study, num_seeds: int) -> dict[int, float]:
    """Returns the mean validation accuracy of each finalist that was trained with every seed, by its trial's number."""
    scores: dict[int, dict[int, float]] = {}
    for trial in (trial for trial in _finalists(finals) if trial.state == TrialState.COMPLETE):
        number, seed = _finalist(trial)
        scores.setdefault(number, {})[seed] = trial.values[0]
    return {number: fmean(seeds.values()) for number, seeds in scores.items() if len(seeds) >= num_seeds}


def show(study: optuna.Study, finals: optuna.Study, means: Mapping[int, float], space: Sequence[Parameter]) -> Table:
    """Returns a table of the five best trials beside the recipe, with the means of those that were trained in full."""
    trials = best_trials(study)[:5]
    table = Table("trial", *(str(trial.number) for trial in trials), "recipe")
    table.add_row("validation", *(f"{trial.values[0]:.2%}" for trial in trials))
    for entry in space:
        table.add_row(entry.label, *(short(trial.user_attrs["values"].get(entry.name, "")) for trial in trials))
    in_full = {number: "failed" for number, _ in map(_finalist, _finalists(finals))}
    in_full |= {number: f"{mean:.2%}" for number, mean in means.items()}
    table.add_row("in full", *(in_full.get(number, "") for number in (*(trial.number for trial in trials), RECIPE)))
    return table


def _finalists(finals: optuna.Study) -> list[FrozenTrial]:
    return [trial for trial in finals.get_trials(deepcopy=False) if "fixed_params" in trial.system_attrs]


def _finalist(trial: FrozenTrial) -> tuple[int, int]:
    """Returns the number of the trial, or `RECIPE`, and the seed that a finalist is trained with."""
    queued = trial.system_attrs["fixed_params"]
    return queued["trial"], queued["seed"]


def short(value: Any) -> str:
    """Returns a value as tables show it."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def write_trials(folder: Path, study: optuna.Study, finals: optuna.Study, names: Sequence[str]) -> None:
    """Writes `trials.csv`, a row for each trial with its values of those names, and `finalists.csv`."""
    rows = [
        [trial.number, *(trial.user_attrs.get("values", {}).get(name, "") for name in names)] for trial in study.trials
    ]
    _write_outcomes(folder / "trials.csv", ["trial", *names], rows, study.trials)
    rows = [["recipe" if number == RECIPE else number, seed] for number, seed in map(_finalist, _finalists(finals))]
    _write_outcomes(folder / "finalists.csv", ["trial", "seed"], rows, _finalists(finals))


def _write_outcomes(path: Path, columns: list[str], rows: list[list[Any]], trials: Sequence[FrozenTrial]) -> None:
    outcomes = [
        [
            *(trial.state.name.lower(), trial.values[0] if trial.values else ""),
            *(trial.user_attrs.get(name, "") for name in ("machine", "run", "error")),
        ]
        for trial in trials
    ]
    columns = [*columns, "state", "validation accuracy", "machine", "run", "error"]
    write_csv(path, [columns, *(row + outcome for row, outcome in zip(rows, outcomes, strict=True))])


def importances(study: optuna.Study) -> dict[str, float]:
    """Returns each parameter's share of what made trials differ, the largest first; none if that can't be told."""
    # Too few trials, or all alike; or a parameter that few of them have, of which Optuna warns.
    with contextlib.suppress(ValueError, RuntimeError), warnings.catch_warnings(action="ignore"):
        return optuna.importance.get_param_importances(study)
    return {}


def draw(study: optuna.Study, folder: Path) -> None:
    """Writes figures of the trials in their order, of their values side by side, and of what mattered."""
    plots = optuna.visualization.matplotlib
    drawn: dict[str, Any] = {
        "history": plots.plot_optimization_history,
        "parallel_coordinate": plots.plot_parallel_coordinate,
    }
    if importances(study):
        drawn["importance"] = plots.plot_param_importances
    for name, plot in drawn.items():
        # Optuna changes the style of all figures, and stretches axes that have one value.
        with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings(action="ignore"):
            axes = plot(study, target_name="validation accuracy")
            if name == "history":
                axes.figure.set_figwidth(9.6)  # its legend stands beside it
                axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
            if name == "parallel_coordinate":
                axes.figure.set_figwidth(max(6.4, 1.2 * len(axes.figure.axes)))  # it has an axis for each parameter
            if name == "importance":
                axes.get_legend().remove()  # it hides the smallest
            write_figure(folder / f"{name}.png", axes.figure, bbox_inches="tight")
            pyplot.close(axes.figure)
