"""Puts a recipe's best run, by validation, into the package and its folder beside the README.

`python -m benchmarks.accuracy configs/cnn_best.yaml`, then `python -m benchmarks.ship cnn_best`.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch

from benchmarks.accuracy import RESULTS_DIR, last_checkpoint
from mnist_lightning.__main__ import main as run_program
from mnist_lightning.checkpoints import KINDS
from mnist_lightning.runs import PRETRAINED

REFERENCE_DIR = Path("lightning_logs") / "reference"


def main() -> None:
    """Copies weights, figures and the run's folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="what the runs are called")
    parser.add_argument("--runs_dir", type=Path, default=Path("runs"), help="where their checkpoints are")
    args = parser.parse_args()
    runs = [json.loads(path.read_text()) for path in RESULTS_DIR.glob(f"{args.name}-*.json")]
    best = max(runs, key=lambda run: (run["val accuracy"], -run["val loss"]))
    path = last_checkpoint(args.runs_dir / args.name / str(best["seed"]))
    content = torch.load(path, weights_only=True)
    torch.save({**{key: content[key] for key in KINDS}, "callbacks": {}}, PRETRAINED)
    run_dir = path.parent.parent
    shutil.copy(run_dir / "config.yaml", PRETRAINED.with_suffix(".yaml"))
    figures = {"recipe": args.name, **{key: value for key, value in best.items() if key != "wrong"}}
    PRETRAINED.with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")
    run_program(["test", "--ckpt_path", str(path), "--trainer.accelerator", "cpu"])
    shutil.rmtree(REFERENCE_DIR, ignore_errors=True)
    shutil.copytree(run_dir, REFERENCE_DIR, ignore=shutil.ignore_patterns("checkpoints"))


if __name__ == "__main__":
    main()
