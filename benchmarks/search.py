"""The search of `tune`, compared with random search: `python -m benchmarks.search`.

All methods have the same config, space and number of trials, and every repeat has its own seed. One method does not
prune, which shows how much time pruning saves. Several searches run at a time, in processes of one thread each, so
durations are comparable only with each other.
"""

import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest import mock

import optuna
import torch
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from benchmarks import measure
from mnist_lightning.tuning.search import Search
from mnist_lightning.tuning.space import read_space
from mnist_lightning.tuning.storage import open_storage

METHODS: dict[str, tuple[Callable[..., BaseSampler], Callable[..., BasePruner]]] = {
    "tune": (TPESampler, MedianPruner),
    "tune without pruning": (TPESampler, lambda **options: NopPruner()),
    "random search": (lambda seed, **options: RandomSampler(seed), MedianPruner),
}
"""The sampler and the pruner of each method, which replace those of `tune`."""


def search(method: str, seed: int, config: str, num_trials: int, num_epochs: int) -> dict[str, Any]:
    """Searches once; returns the best values, their accuracy and the duration."""
    torch.set_num_threads(1)
    sampler, pruner = METHODS[method]
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/study.db"
        tuning = Search(
            storage=open_storage(url, grace_s=60),
            name=method,
            flags=[f"--config=configs/{config}.yaml", "--trainer.accelerator=cpu"],
            space=read_space(Path("configs/tune.yaml")),
            num_trials=num_trials,
            num_epochs=num_epochs,
            num_finalists=0,
            num_seeds=0,
            folder=Path(folder),
        )
        start = time.perf_counter()
        with (
            contextlib.redirect_stdout(io.StringIO()),
            mock.patch("optuna.samplers.TPESampler", partial(sampler, seed=seed)),
            mock.patch("optuna.pruners.MedianPruner", pruner),
        ):
            tuning.run()
        seconds = time.perf_counter() - start
        study = optuna.load_study(study_name=method, storage=url)
    trials = study.get_trials(deepcopy=False)
    fraction = sum(len(trial.intermediate_values) for trial in trials) / (num_trials * num_epochs)
    scores = [trial.values[0] for trial in trials if trial.state == TrialState.COMPLETE]
    return {
        "method": method,
        "seed": seed,
        "seconds": seconds,
        "best validation accuracy %": 100 * max(scores),
        "mean of the best five %": 100 * fmean(sorted(scores)[-5:]),
        "trials pruned": sum(trial.state == TrialState.PRUNED for trial in trials),
        "epochs saved %": 100 * (1 - fraction),
        "best trial": study.best_trial.number,
        "values": study.best_trial.user_attrs["values"],
    }


def main() -> None:
    """Searches with every method, then prints the medians."""
    args = measure.parse("tune compared with random search", repeats=3, config="mlp", trials=30, epochs=3, workers=2)
    jobs = [(method, seed) for seed in range(args.repeats) for method in METHODS]
    with ProcessPoolExecutor(args.workers, get_context("spawn")) as pool:
        pending = [pool.submit(search, *job, args.config, args.trials, args.epochs) for job in jobs]
        found = [future.result() for future in pending]
    results = [
        "best validation accuracy %",
        "mean of the best five %",
        "seconds",
        "trials pruned",
        "epochs saved %",
    ]
    rows: list[dict[str, Any]] = []
    for method in METHODS:
        runs = [run for run in found if run["method"] == method]
        medians = {name: measure.summarize([run[name] for run in runs]) for name in results}
        budget = {"config": args.config, "trials": args.trials, "epochs": args.epochs}
        rows.append({"method": method, **budget, **medians, "runs": runs})
    measure.report("search", rows, ["method", *results], args.output)


if __name__ == "__main__":
    main()
