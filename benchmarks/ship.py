"""Copies a config's best run into the package, and its run folder to `lightning_logs/reference`.

The best run is the one with the highest validation accuracy. First `python -m benchmarks.accuracy
configs/cnn_robust.yaml`, then `python -m benchmarks.ship cnn_robust`.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch

from benchmarks.accuracy import RESULTS_DIR, last_checkpoint
from mnist_lightning.__main__ import main as run_program
from mnist_lightning.runs.folders import PRETRAINED

REFERENCE_DIR = Path("lightning_logs") / "reference"
KEYS = (
    *("model_class", "hyper_parameters", "datamodule_hyper_parameters", "state_dict", "epoch", "global_step"),
    "pytorch-lightning_version",  # load_from_checkpoint needs it
)
"""Keys of a checkpoint that are needed to rebuild the model; the optimizer's state is omitted."""


def main() -> None:
    """Copies the weights, the results and the run folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="name of the runs")
    parser.add_argument("--runs_dir", type=Path, default=Path("runs"), help="folder of the checkpoints (default: runs)")
    args = parser.parse_args()
    results = [json.loads(path.read_text()) for path in RESULTS_DIR.glob(f"{args.name}-*.json")]
    runs = [result for result in results if "val accuracy" in result]  # the others are training times
    best = max(runs, key=lambda run: (run["val accuracy"], -run["val loss"]))
    path = last_checkpoint(args.runs_dir / args.name / str(best["seed"]))
    content = torch.load(path, weights_only=True)
    torch.save({key: content[key] for key in KEYS}, PRETRAINED)
    run_dir = path.parent.parent
    shutil.copy(run_dir / "config.yaml", PRETRAINED.with_suffix(".yaml"))
    shipped = {"config": args.name, **{key: value for key, value in best.items() if key != "wrong"}}
    PRETRAINED.with_suffix(".json").write_text(json.dumps(shipped, indent=2) + "\n")
    run_program(["test", "--ckpt_path", str(path), "--trainer.accelerator", "cpu"])
    shutil.rmtree(REFERENCE_DIR, ignore_errors=True)
    shutil.copytree(run_dir, REFERENCE_DIR, ignore=shutil.ignore_patterns("checkpoints", ".lock"))


if __name__ == "__main__":
    main()
