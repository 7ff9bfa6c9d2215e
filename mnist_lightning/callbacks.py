"""What watches a run: scores for TensorBoard, predictions, the progress bar."""

import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from mnist_lightning import figures, reports
from mnist_lightning.checkpoints import find_best
from mnist_lightning.models import Classifier

WITHOUT_EFFECT = ("class_names", "data_dir", "num_workers")
"""Hyper-parameters that no score depends on."""


def tensorboard(trainer: Trainer) -> list[TensorBoardLogger]:
    """Returns the TensorBoard loggers that this process writes to: none but in the first process."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero]


def tensorboard_logger(run_dir: Path) -> TensorBoardLogger:
    """Returns a logger that writes to a run's folder."""
    return TensorBoardLogger(run_dir.parent, "", run_dir.name, default_hp_metric=False)


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


class Scoreboard(Callback):
    """Shows the validation's confusion matrix in TensorBoard after each epoch, and the best scores at the end.

    It is one callback, because Lightning calls each of them six times a batch, whether it has something to do or not.

    Attributes:
        seconds: How long training took, with validation and checkpoints.
    """

    seconds = 0.0

    def __init__(self) -> None:
        self.history: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run must know: the epochs so far."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a saved state."""
        self.history = list(state_dict["history"])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the epoch's scores for the curves."""
        scores = {name: value.item() for name, value in trainer.callback_metrics.items()}
        trained = classifier(trainer).train_scores.compute()  # the model logs these after its callbacks' turn
        scores |= {f"train/{name}": trained[name].item() for name in ("loss", "accuracy")}
        self.history.append({"epoch": trainer.current_epoch + 1, **scores})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the watch."""
        self.seconds = -time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops it."""
        self.seconds += time.perf_counter()
        self._draw_curves(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves curves of what was trained when a run is interrupted."""
        self._draw_curves(trainer)

    def _draw_curves(self, trainer: Trainer) -> None:
        for logger in tensorboard(trainer):
            if self.history:
                reports.write_figure(
                    Path(logger.log_dir) / "figures" / "curves.png", figures.curves_figure(self.history)
                )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds a confusion matrix to TensorBoard's images."""
        for logger in tensorboard(trainer):
            model = classifier(trainer)
            show_confusion(logger, "val", model.val_scores.compute(), model, trainer.global_step)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gives TensorBoard's hparams page the scores of the best checkpoint."""
        best = find_best(trainer)
        if best and best.best_model_score is not None:
            scores = {"best/val_accuracy": best.best_model_score.item(), "best/val_loss": best.best_loss}
            for logger in tensorboard(trainer):
                options = {name: value for name, value in logger.hparams.items() if name not in WITHOUT_EFFECT}
                logger.log_hyperparams(options, scores, step=trainer.global_step)


class Predictions(Callback):
    """Gathers the predictions of all processes, in the dataset's order.

    Attributes:
        probabilities: `(N, C)` float32, once predicting has ended.
        labels: `(N,)` int64, likewise.
    """

    probabilities: Tensor
    labels: Tensor

    def __init__(self) -> None:
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
