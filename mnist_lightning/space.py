"""What a search may choose: flags of `fit`, each with a range or choices."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from mnist_lightning.files import read_settings

RANGE, CHOICES = {"low", "high"}, {"choices"}


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

    def values(self) -> list[Any]:
        """Returns values to try on the command line: all choices, or both ends."""
        return self.options.get("choices") or [self.options["low"], self.options["high"]]

    def suggest(self, trial: optuna.Trial) -> Any:
        """Lets a trial choose."""
        options = dict(self.options)
        if "choices" in options:
            if all(isinstance(value, int | float) for value in options["choices"]):
                return trial.suggest_categorical(self.label, options["choices"])
            texts = [json.dumps(value) for value in options["choices"]]  # because Optuna stores no lists
            return json.loads(trial.suggest_categorical(self.label, texts))
        whole = all(isinstance(options[name], int) for name in ("low", "high"))
        return (trial.suggest_int if whole else trial.suggest_float)(self.label, **options)


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
    last_parts = [str(name).rpartition(".")[2] for name in content]
    return [
        _parameter(str(name), part if last_parts.count(part) == 1 else str(name), options)
        for part, (name, options) in zip(last_parts, content.items(), strict=True)
    ]


def _parameter(name: str, label: str, options: Any) -> Parameter:
    given = f"{name}: {json.dumps(options)}"
    if not isinstance(options, dict):
        raise ValueError(f"{given} in the space is no range; give {{low: …, high: …}} or {{choices: […]}}")
    options = {key: _number(value) for key, value in options.items()}
    only_with = options.pop("only_with", None)
    if options.keys() == CHOICES:
        if not isinstance(options["choices"], list) or not options["choices"]:
            raise ValueError(f"{given} in the space has no choices; give one or more in a list")
    elif not RANGE <= options.keys() <= RANGE | {"log", "step"}:
        raise ValueError(f"{given} in the space is no range; give low and high, with log or step, or choices alone")
    elif not all(isinstance(options[key], int | float) for key in RANGE) or options["low"] >= options["high"]:
        raise ValueError(f"{given} in the space has nothing in it; low must be a number less than high")
    elif options.get("log") and (options["low"] <= 0 or "step" in options):
        raise ValueError(f"{given} in the space can't be logarithmic; low must be more than 0, and step left out")
    return Parameter(name, label, options, only_with)


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value  # YAML 1.1 takes 1e-4 for text
    except ValueError:
        return value


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """Returns settings as `fit` takes them; a model's class comes before its arguments."""
    names = sorted(values, key=lambda name: name != "model")
    return [f"--{name}={values[name] if isinstance(values[name], str) else json.dumps(values[name])}" for name in names]
