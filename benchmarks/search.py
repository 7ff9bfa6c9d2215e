"""`tune`'s search beside random search: `python -m benchmarks.search`.

All sides have the same recipe, space and number of trials, and every repetition has a seed of its own; one of them ends
no trial early, which shows what that spares. Searches run in processes of one thread each, as many at a time as there
are cores, so that seconds compare with each other alone.
"""

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import torch
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import TrialState

from benchmarks import measure
from mnist_lightning import tuning
from mnist_lightning.space import read_space
from mnist_lightning.trials import open_storage

SIDES: dict[str, tuple[Callable[[int], BaseSampler], BasePruner | None]] = {
    "tune": (tuning.make_sampler, None),
    "tune, none ended early": (tuning.make_sampler, NopPruner()),
    "random": (RandomSampler, None),
}
"""What chooses the values, and what ends trials early if not what `tune` has."""


def search(side: str, seed: int, recipe: str, num_trials: int, num_epochs: int) -> dict[str, Any]:
    """Searches once; returns what it found and how long it took."""
    torch.set_num_threads(1)
    sampler, pruner = SIDES[side]
    with tempfile.TemporaryDirectory() as folder:
        address = f"sqlite:///{folder}/study.db"
        shared = tuning.Search(
            storage=open_storage(address, grace_s=60),
            name=side,
            flags=[f"--config=configs/{recipe}.yaml", "--trainer.accelerator=cpu"],
            model="",
            space=read_space(Path("configs/tune.yaml")),
            num_trials=num_trials,
            num_epochs=num_epochs,
            num_finalists=0,
            num_seeds=0,
            folder=Path(folder),
            say=lambda text: None,
            sampler=sampler(seed),
            pruner=pruner,
        )
        start = time.perf_counter()
        shared.run()
        seconds = time.perf_counter() - start
        study = optuna.load_study(study_name=side, storage=address)
    trials = study.get_trials(deepcopy=False)
    share = sum(len(trial.intermediate_values) for trial in trials) / (num_trials * num_epochs)
    scores = [trial.values[0] for trial in trials if trial.state == TrialState.COMPLETE]
    return {
        "side": side,
        "seed": seed,
        "seconds": seconds,
        "best validation accuracy %": 100 * max(scores),
        "mean of the best five %": 100 * fmean(sorted(scores)[-5:]),
        "trials ended early": sum(trial.state == TrialState.PRUNED for trial in trials),
        "epochs spared %": 100 * (1 - share),
        "best trial": study.best_trial.number,
        "values": study.best_trial.user_attrs["values"],
    }


def main() -> None:
    """Searches with every side, then shows the medians."""
    args = measure.parse("tune beside random search", repeats=3, recipe="mlp", trials=30, epochs=3, workers=2)
    jobs = [(side, seed) for seed in range(args.repeats) for side in SIDES]
    with ProcessPoolExecutor(args.workers, get_context("spawn")) as pool:
        pending = [pool.submit(search, *job, args.recipe, args.trials, args.epochs) for job in jobs]
        found = [future.result() for future in pending]
    figures = [
        "best validation accuracy %",
        "mean of the best five %",
        "seconds",
        "trials ended early",
        "epochs spared %",
    ]
    rows: list[dict[str, Any]] = []
    for side in SIDES:
        runs = [run for run in found if run["side"] == side]
        medians = {name: measure.summarise([run[name] for run in runs]) for name in figures}
        budget = {"recipe": args.recipe, "trials": args.trials, "epochs": args.epochs}
        rows.append({"side": side, **budget, **medians, "runs": runs})
    measure.report("search", rows, ["side", *figures], args.output)


if __name__ == "__main__":
    main()
