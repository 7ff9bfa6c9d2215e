"""What a search may choose: flags of `fit`, each with a range or choices."""

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import FloatDistribution, IntDistribution

from mnist_lightning.files import read_settings

RANGE, CHOICES = {"low", "high"}, {"choices"}
WHOLE = ("config", "print_config", "ckpt_path", "data", "trainer")
"""Flags of `fit` that are no single setting."""
OWN = {"trainer.max_epochs": "--epochs", "trainer.default_root_dir": "--study", "seed_everything": "--seeds"}
"""What `tune` decides itself, and by which flag."""


@dataclass(frozen=True)
class Parameter:
    """A flag of `fit` to search, and where.

    Attributes:
        name: The flag without its dashes.
        label: What it is called in tables and figures.
        options: `low` and `high`, with `log` or `step` if wanted; or `choices`.
        only_with: The model that it belongs to, or None for all.
    """

    name: str
    label: str
    options: dict[str, Any]
    only_with: str | None

    def belongs_to(self, model: str) -> bool:
        """Tells whether it is searched with a model, given by its name or import path."""
        return self.only_with in (None, model.rpartition(".")[2])

    def values(self) -> list[Any]:
        """Returns values to try on the command line: all choices, or both ends."""
        return self.options.get("choices") or [self.options["low"], self.options["high"]]

    def suggest(self, trial: optuna.Trial) -> Any:
        """Lets a trial choose."""
        if "choices" in self.options:
            if all(isinstance(value, int | float) for value in self.options["choices"]):
                return trial.suggest_categorical(self.label, self.options["choices"])
            texts = [json.dumps(value) for value in self.options["choices"]]  # because Optuna stores no lists
            return json.loads(trial.suggest_categorical(self.label, texts))
        return (trial.suggest_int if _is_whole(self.options) else trial.suggest_float)(self.label, **self.options)


def read_space(path: Path) -> list[Parameter]:
    """Reads a space: `FLAG: {low: 1e-4, high: 1e-1, log: true}` or `FLAG: {choices: [1, 2]}`, one a line.

    `step` makes a range a ladder, and `only_with: MLP` leaves the flag out with other models.

    Raises:
        ValueError: An entry is none of these, or a range has nothing in it.
        OSError: The file can't be read.
    """
    content = read_settings(path)
    if not isinstance(content, dict) or not content:
        raise ValueError(f"--space {path} must map flags of fit to ranges, such as data.batch_size: {{choices: [64]}}")
    # The command line takes `model.dropout`, too; and `model` decides what the others may be.
    names = [re.sub(r"^model\.(?!init_args\.)", "model.init_args.", str(name)) for name in content]
    last_parts = [name.rpartition(".")[2] for name in names]
    found = [
        _parameter(name, part if last_parts.count(part) == 1 else name, options)
        for name, part, options in zip(names, last_parts, content.values(), strict=True)
    ]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{twice[0]} is in the space twice; leave out one of them")
    return sorted(found, key=lambda parameter: parameter.name != "model")


def _parameter(name: str, label: str, options: Any) -> Parameter:
    given = f"{name}: {json.dumps(options, default=str)} in the space"
    if name in WHOLE:
        raise ValueError(f"{given} is no single setting; give flags such as data.batch_size")
    if name in OWN:
        raise ValueError(f"{given} is what tune decides itself; leave it out, and see {OWN[name]}")
    if not isinstance(options, dict):
        raise ValueError(f"{given} is no range; give {{low: …, high: …}} or {{choices: […]}}")
    options = {key: _number(value) for key, value in options.items()}
    only_with = options.pop("only_with", None)
    only_with = only_with and str(only_with).rpartition(".")[2]
    if options.keys() == CHOICES:
        if not isinstance(options["choices"], list) or not options["choices"]:
            raise ValueError(f"{given} has no choices; give one or more in a list")
    elif not RANGE <= options.keys() <= RANGE | {"log", "step"}:
        raise ValueError(f"{given} is no range; give low and high, with log or step, or choices alone")
    else:
        _check_range(given, options)
    return Parameter(name, label, options, only_with)


def _check_range(given: str, options: dict[str, Any]) -> None:
    numbers = [value for key, value in options.items() if key != "log"]
    if not all(type(value) in (int, float) and abs(value) < 1e300 for value in numbers):  # NaN is not, either
        raise ValueError(f"{given} is no range; low, high and step must be numbers")
    if options["low"] >= options["high"]:
        raise ValueError(f"{given} has nothing in it; low must be less than high")
    if not isinstance(options.get("log", False), bool):
        raise ValueError(f"{given} has a log that is neither true nor false")
    if options.get("log") and (options["low"] <= 0 or "step" in options):
        raise ValueError(f"{given} can't be logarithmic; low must be more than 0, and step left out")
    try:
        with warnings.catch_warnings(action="error"):
            (IntDistribution if _is_whole(options) else FloatDistribution)(**options)
    except UserWarning as warning:
        raise ValueError(f"{given} has steps that don't end at high; give another high or step") from warning
    except ValueError as error:
        raise ValueError(f"{given} can't be searched: {error}") from error


def _is_whole(options: Mapping[str, Any]) -> bool:
    return all(isinstance(value, int) for value in options.values())


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value  # YAML 1.1 takes 1e-4 for text
    except ValueError:
        return value


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """Returns settings as `fit` takes them; a model's class comes before its arguments."""
    names = sorted(values, key=lambda name: name != "model")
    return [f"--{name}={values[name] if isinstance(values[name], str) else json.dumps(values[name])}" for name in names]
