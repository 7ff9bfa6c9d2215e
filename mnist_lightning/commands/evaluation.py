"""The commands `validate` and `test`, and what they share with `predict`: a pass over images, by all processes."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from mnist_lightning.arguments.cli import CLI
from mnist_lightning.console import echo
from mnist_lightning.data.sources import SUSPECTED_LABEL_ERRORS
from mnist_lightning.reporting import network, reports
from mnist_lightning.reporting.sheets import Results
from mnist_lightning.training import interruptions
from mnist_lightning.training.tensorboard import make_logger


class Predictions(Callback):
    """Gathers what the steps of a stage return, in the dataset's order."""

    probabilities: Tensor  # (N, C) float32 on the CPU, at the end of the stage
    labels: Tensor  # (N,) int64 on the CPU, at the end of the stage

    def __init__(self) -> None:
        self.batches: list[dict[str, Tensor]] = []

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        self.batches.append(outputs)

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end  # type: ignore[assignment]

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        parts = [torch.cat([batch[name] for batch in self.batches]) for name in ("probabilities", "labels")]
        self.probabilities, self.labels = (_join(part, trainer.world_size).cpu() for part in parts)

    on_validation_end = on_test_end = on_predict_end


def _join(part: Tensor, num_processes: int) -> Tensor:
    """Joins the parts of all processes: process r of n has the images r, r + n, r + 2n and so on."""
    if num_processes == 1:
        return part
    parts = gather_all_tensors(part)
    whole = part.new_empty(sum(map(len, parts)), *part.shape[1:])
    for rank, gathered in enumerate(parts):
        whole[rank::num_processes] = gathered
    return whole


def run(cli: CLI) -> bool:
    """Runs the trainer; returns whether this process reports the predictions."""
    options = {"return_predictions": False} if cli.command == "predict" else {"verbose": False}
    try:
        with interruptions.handled(cli.trainer):
            getattr(cli.trainer, cli.command)(cli.model, cli.datamodule, **options)
    except KeyboardInterrupt:
        echo("stopped     nothing was written")
        raise
    return bool(cli.trainer.is_global_zero)


def _score(command: str, stage: str, flags: Sequence[str]) -> None:
    predictions = Predictions()
    cli = CLI(command, flags, [predictions])
    data = cli.datamodule
    data.setup(command)
    if not run(cli):
        return
    accuracy, loss = (cli.trainer.callback_metrics[f"{stage}/{name}"].item() for name in ("accuracy", "loss"))
    checkpoint = ", ".join(map(str, cli.ckpt_paths))
    echo(f"checkpoint  {checkpoint}")
    details = {"loss": loss, "dataset": data.dataset, "checkpoint": checkpoint}
    images = data.test_images if stage == "test" else data.train_images[data.val_indices]
    suspected = SUSPECTED_LABEL_ERRORS if (data.dataset, stage) == ("MNIST", "test") else ()
    results = Results(images, predictions.labels, predictions.probabilities, data.class_names, suspected)
    folder = cli.find_or_make_run_dir() / stage
    explained = network.draw(cli.model, results) if cli.config.explain else {}
    metrics = reports.write_report(folder, results, details, explained)
    if stage == "test":
        logger, step = make_logger(folder.parent), cli.checkpoint.num_steps if cli.checkpoint else 0
        logger.log_metrics({"test/accuracy": accuracy, "test/loss": loss}, step)
        for path in folder.glob("*.png"):
            pixels = np.asarray(Image.open(path).convert("RGB"))
            logger.experiment.add_image(f"test/{path.stem}", pixels, step, dataformats="HWC")
        if cli.config.explain:
            network.log_features(logger.experiment, cli.model, results)
        logger.finalize("success")
    echo((folder / "classification_report.txt").read_text("utf-8"))
    echo(f"report      {folder / 'report.html'}")
    echo(f"mistakes    {metrics['frequent_mistakes']}")
    low, high = metrics["accuracy_95_percent_interval"]
    interval = f"95% interval {low:.2%} to {high:.2%}"
    echo(f"{stage:<11} accuracy {accuracy:.2%} ({interval}), loss {loss:.4f}, {len(images):,} images of {data.dataset}")


validate = partial(_score, "validate", "val")
test = partial(_score, "test", "test")
