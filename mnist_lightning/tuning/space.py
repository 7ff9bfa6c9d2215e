"""The search space: flags of `fit`, each with a range or choices."""

import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import BaseTrial, FixedTrial

from mnist_lightning.errors import UserError
from mnist_lightning.files import read_yaml

RESERVED = {"trainer.max_epochs": "--epochs", "trainer.default_root_dir": "--study", "seed_everything": "--seeds"}
RESERVED |= dict.fromkeys(("config", "print_config", "ckpt_path", "data", "trainer"), "settings like data.batch_size")
"""Flags of `fit` that can't be searched: `tune` controls them, or they aren't single settings; with what to use."""
EXAMPLE = "use {low: 1e-4, high: 1e-1}, with log: true or a step, or {choices: [1, 2]}"


@dataclass(frozen=True)
class Parameter:
    """A flag of `fit` to search."""

    name: str  # the flag without its dashes
    options: dict[str, Any]  # `low` and `high`, with `log` or `step`; or `choices`
    only_with: str | None  # the model that it belongs to; None for all

    def belongs_to(self, model: str) -> bool:
        """Returns whether it applies to a model, given by its name or import path."""
        return self.only_with in (None, model.rpartition(".")[2])

    def values(self) -> list[Any]:
        """Returns values to check before the search: all choices, or both ends of the range."""
        return self.options.get("choices") or [self.options["low"], self.options["high"]]

    def suggest(self, trial: BaseTrial) -> Any:
        if choices := self.options.get("choices"):
            if all(isinstance(value, int | float) for value in choices):
                return trial.suggest_categorical(self.name, choices)
            texts = [json.dumps(value) for value in choices]  # Optuna can't store lists
            return json.loads(trial.suggest_categorical(self.name, texts))
        is_integer = all(isinstance(value, int) for value in self.options.values())
        return (trial.suggest_int if is_integer else trial.suggest_float)(self.name, **self.options)


def read_space(path: Path) -> list[Parameter]:
    """Reads a space: one flag per line, such as `model.init_args.dropout: {low: 0.0, high: 0.5, only_with: MLP}`."""
    content = read_yaml(path)
    if not isinstance(content, dict) or not content:
        raise UserError(f"--space {path} must map flags of fit to ranges, such as data.batch_size: {{choices: [64]}}")
    # The command line also accepts `model.dropout`.
    names = [re.sub(r"^model\.(?!init_args\.)", "model.init_args.", str(name)) for name in content]
    if duplicates := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{duplicates[0]} is in the space twice; remove one of them")
    found = [_parameter(name, options) for name, options in zip(names, content.values(), strict=True)]
    return sorted(found, key=lambda parameter: parameter.name != "model")  # the model decides which of the others apply


def _parameter(name: str, options: Any) -> Parameter:
    given = f"{name}: {json.dumps(options, default=str)} in the space"
    if name in RESERVED:
        raise UserError(f"{given} can't be searched; remove it and use {RESERVED[name]}")
    try:
        options = dict(options.items())
        only_with = options.pop("only_with", None)
        parameter = Parameter(name, options, only_with and str(only_with).rpartition(".")[2])
        if "choices" in options:
            if options.keys() != {"choices"} or not isinstance(options["choices"], list) or not options["choices"]:
                raise ValueError("choices must be a nonempty list, without other keys")
        elif not all(isinstance(value, int | float) and abs(value) < 1e300 for value in options.values()):  # not NaN
            raise ValueError("low, high and step must be numbers")
        else:
            with warnings.catch_warnings(action="error"):  # Optuna warns about steps that miss the end
                parameter.suggest(FixedTrial({name: options.get("low")}))
    except (AttributeError, TypeError, ValueError, UserWarning) as error:
        raise UserError(f"{given} is not a valid range: {error}; {EXAMPLE}") from error
    return parameter


def as_flags(values: dict[str, Any]) -> list[str]:
    """Returns settings as flags of `fit`, in the same order."""
    return [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in values.items()]
