"""What watches a run: scores for TensorBoard, predictions, the progress bar."""

import dataclasses
import math
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from mnist_lightning import figures, reports, runs
from mnist_lightning.augment import Augmentation
from mnist_lightning.checkpoints import best_callback
from mnist_lightning.errors import DivergedError
from mnist_lightning.models import Classifier
from mnist_lightning.watch import Watch

COLUMNS = ("epoch", "step", "train/loss", "train/accuracy", "val/loss", "val/accuracy", "learning_rate")
"""Of `metrics.csv`, which has a row for each epoch."""
PATIENCE = 100
"""Steps after which a model that still knows nothing is given up."""
WITHOUT_EFFECT = ("class_names", "data_dir", "num_workers")
"""Hyper-parameters that no score depends on."""
AUGMENTATION_OFF = dataclasses.asdict(Augmentation())


def tensorboard(trainer: Trainer) -> list[TensorBoardLogger]:
    """Returns the TensorBoard loggers that this process writes to: none but in the first process."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero]


def tensorboard_logger(run_dir: Path, purge_step: int | None = None) -> TensorBoardLogger:
    """Returns a logger that writes to a run's folder; TensorBoard forgets what it had there from `purge_step` on."""
    return TensorBoardLogger(run_dir.parent, "", run_dir.name, default_hp_metric=False, purge_step=purge_step)


def classifier(trainer: Trainer) -> Classifier:
    """Returns the model of a run."""
    model = trainer.lightning_module
    assert isinstance(model, Classifier)
    return model


def show_confusion(
    logger: TensorBoardLogger, stage: str, scores: dict[str, Tensor], model: Classifier, step: int
) -> None:
    """Adds a confusion matrix to TensorBoard's images.

    Args:
        logger: Where it goes.
        stage: `val` or `test`.
        scores: What `Scores` computed.
        model: Knows the class names.
        step: How many steps the model has been trained.
    """
    title = f"{stage}/accuracy {scores['accuracy'].item():.2%}"
    image = figures.render(figures.confusion_figure(scores["confusion"], model.class_names, title))
    logger.experiment.add_image(f"{stage}/confusion_matrix", image, step, dataformats="HWC")


class Scoreboard(Watch):
    """Keeps the scores of each epoch for `metrics.csv`, curves and TensorBoard, and ends a run that fails.

    It is one callback, because Lightning calls each of them six times a batch, whether it has something to do or not.

    Attributes:
        history: A row for each epoch, with its number from 1 on, the last step, and what was logged.
        run_dir: Where the run's files go, in the process that writes them.
        seconds: How long training took, with validation and checkpoints.
        hyper_parameters: What TensorBoard's hparams page shows of the run; default: all that can change its scores.
    """

    run_dir: Path | None = None
    seconds = 0.0
    hyper_parameters: dict[str, Any] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.history: list[dict[str, float]] = []
        self.confusion: Tensor | None = None
        self.validated_at = 0  # steps
        self.logged_at = 0  # step of that validation's scores, which may be one less

    @property
    def done(self) -> str:
        """What has been done by now, for a run that is stopped."""
        return f"after {len(self.history)} epochs"

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run must know: the epochs so far, and the last validation."""
        names = ("history", "confusion", "validated_at", "logged_at")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a saved state."""
        self.history = list(state_dict["history"])
        self.confusion = state_dict["confusion"]
        self.validated_at = state_dict.get("validated_at", 0)
        self.logged_at = state_dict.get("logged_at", self.validated_at - 1)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tells TensorBoard what it has forgotten of the last step, which a run that was cut off may not have told."""
        if self.history:
            scores = _as_logged(self.history[-1])
            last_step = int(scores.pop("step"))
            validation = {name: scores.pop(name) for name in [*scores] if name.startswith("val/")}
            for logger in tensorboard(trainer):
                logger.log_metrics(scores, last_step)
                if self.logged_at >= last_step:
                    logger.log_metrics(validation, self.logged_at)
                if self.validated_at >= last_step and self.confusion is not None:
                    self._show_validation(logger, trainer, self.confusion, self.validated_at)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the watch."""
        loop = trainer.fit_loop
        if loop.restarted_on_epoch_end:  # Lightning would end that epoch twice where a run has so many steps
            loop.epoch_progress.increment_completed()
            loop.epoch_loop.restarting = False
            loop.reset_restart_stage()
        self.seconds = -time.perf_counter()
        super().on_train_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes every number that a step draws a function of seed, process and epoch, so that none must be saved."""
        if seed := os.environ.get("PL_GLOBAL_SEED"):  # from `seed_everything`
            place = (int(seed), trainer.global_rank, trainer.current_epoch)
            numbers = np.random.SeedSequence(place).generate_state(3).tolist()
            torch.manual_seed(numbers[0])
            np.random.seed(numbers[1])
            random.seed(numbers[2])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the epoch's scores, and writes all so far, before the epoch's checkpoint is."""
        model = classifier(trainer)
        scores = {name: value.item() for name, value in trainer.callback_metrics.items()}
        if self.validated_at <= (self.history[-1]["step"] + 1 if self.history else 0):  # Lightning has the last ones
            scores = {name: value for name, value in scores.items() if not name.startswith("val/")}
        trained = model.train_scores.compute()  # the model logs these after its callbacks' turn
        scores |= {f"train/{name}": trained[name].item() for name in ("loss", "accuracy")}
        scores["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        _check_that_it_learns(trainer, scores)
        self.history.append({"epoch": trainer.current_epoch + 1, "step": trainer.global_step - 1, **scores})
        if self.run_dir:
            rows = [[row.get(column, "") for column in COLUMNS] for row in map(_as_logged, self.history)]
            reports.write_csv(self.run_dir / "metrics.csv", [COLUMNS, *rows])
        for logger in tensorboard(trainer):
            logger.experiment.flush()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the watch."""
        self.seconds += time.perf_counter()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves curves of what was trained when a run is interrupted."""
        super().on_exception(trainer, pl_module, exception)
        self._draw_curves()

    def _draw_curves(self) -> None:
        if self.run_dir and self.history:
            reports.write_figure(self.run_dir / "figures" / "curves.png", figures.curves_figure(self.history))

    def _show_validation(self, logger: TensorBoardLogger, trainer: Trainer, confusion: Tensor, step: int) -> None:
        accuracy = confusion.trace() / confusion.sum()
        show_confusion(logger, "val", {"accuracy": accuracy, "confusion": confusion}, classifier(trainer), step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds a confusion matrix to TensorBoard's images."""
        self.validated_at = trainer.global_step
        self.logged_at = trainer.fit_loop.epoch_loop._batches_that_stepped
        self.confusion = classifier(trainer).val_scores.compute()["confusion"].cpu()
        for logger in tensorboard(trainer):
            self._show_validation(logger, trainer, self.confusion, trainer.global_step)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws curves, and gives TensorBoard's hparams page the scores of the best checkpoint."""
        self._draw_curves()
        best = best_callback(trainer)
        if best and best.best_model_score is not None:
            scores = {"best/val_accuracy": best.best_model_score.item(), "best/val_loss": best.best_loss}
            for logger in tensorboard(trainer):
                options = self.hyper_parameters or _with_effect(dict(logger.hparams))
                logger.log_hyperparams(options, scores, step=trainer.global_step)
                logger.experiment.flush()
        if self.run_dir:
            runs.record_end(self.run_dir)


def _as_logged(row: dict[str, float]) -> dict[str, float]:
    return {**row, "epoch": row["epoch"] - 1}  # loggers count epochs from 0


def _with_effect(options: dict[str, Any]) -> dict[str, Any]:
    """Leaves out what no score depends on, and each augmentation that is off."""
    used = {name: value for name, value in options.get("augmentation", {}).items() if value != AUGMENTATION_OFF[name]}
    return {name: value for name, value in {**options, "augmentation": used}.items() if name not in WITHOUT_EFFECT}


def _check_that_it_learns(trainer: Trainer, scores: dict[str, float]) -> None:
    """Ends a run that has learnt nothing, before its state takes the place of a better one."""
    model = classifier(trainer)
    guess = math.log(len(model.class_names))  # the loss of a model that knows nothing
    loss = scores["train/loss"]
    problem = "" if math.isfinite(loss) else f"its loss is {loss}"
    if not problem and not math.isfinite(scores.get("val/loss", 0)):
        problem = f"its validation loss is {scores['val/loss']}"
    if not problem and trainer.global_step >= PATIENCE and "val/loss" in scores:
        confusion = model.val_scores.compute()["confusion"]
        taken = confusion.sum(0).nonzero().flatten().tolist()
        if len(taken) == 1 and int((confusion.sum(1) > 0).sum()) > 1 and scores["val/loss"] > 0.98 * guess:
            problem = f"it takes every validation image for a {model.class_names[taken[0]]!r}"
        elif not scores["val/loss"] < 2 * guess:
            problem = f"its validation loss is {scores['val/loss']:.3g}, and guessing has {guess:.2f}"
    if problem:
        raise DivergedError(
            f"training has failed, for after epoch {trainer.current_epoch + 1} {problem}; lower "
            f"--model.init_args.learning_rate {model.learning_rate:g}, try {model.learning_rate / 10:.2g}"
        )


class Predictions(Watch):
    """Gathers the predictions of all processes, in the dataset's order.

    Attributes:
        probabilities: `(N, C)` float32, once predicting has ended.
        labels: `(N,)` int64, likewise.
    """

    probabilities: Tensor
    labels: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[dict[str, Tensor]] = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps a batch's probabilities and labels."""
        self.batches.append(outputs)

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the processes' images back in order."""
        self.probabilities, self.labels = (
            _in_order(torch.cat([batch[name] for batch in self.batches]), trainer.world_size).cpu()
            for name in ("probabilities", "labels")
        )

    on_validation_end = on_test_end = on_predict_end


def _in_order(part: Tensor, num_processes: int) -> Tensor:
    """Joins what every process has: process r of n holds images r, r + n, r + 2n and so on."""
    if num_processes == 1:
        return part
    parts = gather_all_tensors(part)
    whole = part.new_empty(sum(map(len, parts)), *part.shape[1:])
    for rank, gathered in enumerate(parts):
        whole[rank::num_processes] = gathered
    return whole


class ProgressBar(RichProgressBar):
    """Lightning's progress bar with the last batch's loss, at most a few times a second.

    Lightning's own fetches and formats all figures after each batch, which costs time and, on a GPU, waits for it.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=2)  # times a second
        self.loss: Tensor | None = None
        self.next_time = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draws the bar if it is time to."""
        if trainer.is_last_batch or time.monotonic() >= self.next_time:
            self.next_time = time.monotonic() + 1 / self.refresh_rate
            self.loss = outputs["loss"]
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Returns what stands beside the bar."""
        accuracy = trainer.callback_metrics.get("val/accuracy")
        loss = {} if self.loss is None else {"loss": f"{self.loss.item():.3f}"}
        return loss if accuracy is None else {**loss, "val": f"{accuracy.item():.2%}"}
