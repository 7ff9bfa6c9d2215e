"""TensorBoard: what it shows of a run besides the scores, which the history logs."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from mnist_lightning.data.augmentation import Augmentation
from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.models import Classifier
from mnist_lightning.reporting import figures, reports, sheets
from mnist_lightning.training.history import TrainingHistory

NORM_STEPS = 10  # the norm of the gradient would take a few percent of a small network's step
SHOWN = ("batch_size", "learning_rate", "seed")  # settings by which runs are compared even if they are the defaults
HIDDEN = ("augmentation", "class_names", "mean", "std", "data_dir", "num_workers")  # and by which they never are


def make_logger(run_dir: Path, purge_step: int | None = None) -> TensorBoardLogger:
    """Returns a logger that writes to a run folder; TensorBoard discards earlier entries from `purge_step` on."""
    return TensorBoardLogger(run_dir, name="", version="", default_hp_metric=False, purge_step=purge_step)


def _writers(trainer: Trainer) -> list[SummaryWriter]:
    """Returns TensorBoard's writers, in the first process alone."""
    loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    return [logger.experiment for logger in loggers if trainer.is_global_zero]


class TensorBoardPages(Callback):
    """Writes charts, the errors of each class, the gradient's norm, settings, and the first batch if it is wanted."""

    def __init__(self, history: TrainingHistory, has_samples: bool = True) -> None:
        self.history, self.has_samples = history, has_samples
        self._norms: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        charts = {name: ["Multiline", [f"train/{name}", f"val/{name}"]] for name in ("loss", "accuracy")}
        charts["error of each class"] = ["Multiline", [f"val_error/{name}" for name in pl_module.class_names]]
        for writer in _writers(trainer):
            writer.add_custom_scalars({"training and validation": charts})

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == batch_idx == 0 and self.has_samples and self.history.run_dir:
            assert isinstance(pl_module, Classifier)
            names = [pl_module.class_names[label] for label in batch[1].tolist()]
            sheet = sheets.batch_sheet(pl_module.to_pixels(batch[0]), names)
            reports.write_figure(self.history.run_dir / "figures" / "batch.png", sheet)
            for writer in _writers(trainer):
                writer.add_image("train/batch", np.asarray(sheet), 0, dataformats="HWC")

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        is_scaled = trainer.precision == "16-mixed"  # by a factor that the optimizer removes
        if not is_scaled and (trainer.global_step % NORM_STEPS == 0 or not self._norms):  # each epoch has one
            gradients = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
            self._norms.append(get_total_norm(gradients))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        assert isinstance(pl_module, Classifier)
        confusion, names, step = pl_module.confusion.cpu(), pl_module.class_names, trainer.global_step - 1
        errors = 1 - confusion.diagonal() / confusion.sum(1).clamp(min=1)
        title = f"val/accuracy {trainer.callback_metrics['val/accuracy']:.2%}"
        for writer in _writers(trainer):
            image = np.asarray(figures.confusion_image(confusion, names, title))
            writer.add_image("val/confusion_matrix", image, step, dataformats="HWC")
            for name, error in zip(names, errors.tolist(), strict=True):
                writer.add_scalar(f"val_error/{name}", error, step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for writer in _writers(trainer):
            if self._norms:
                writer.add_scalar("train/gradient_norm", torch.stack(self._norms).mean(), trainer.global_step - 1)
            writer.flush()
        self._norms.clear()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the settings by which TensorBoard compares runs, to which it adds the last scores."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        signatures = [inspect.signature(kind) for kind in (Augmentation, MNISTDataModule, Classifier, type(pl_module))]
        defaults = {name: given.default for signature in signatures for name, given in signature.parameters.items()}
        settings: dict[str, Any] = {"model": type(pl_module).__name__, "epochs": trainer.max_epochs}
        settings["optimizer"] = type(trainer.optimizers[0]).__name__
        for name, value in {**pl_module.hparams, **data.hparams, **data.hparams["augmentation"]}.items():
            if name in SHOWN or (name not in HIDDEN and value != defaults.get(name)):
                settings[name] = value if isinstance(value, int | float) else str(value)
        if best := self.history.best:
            settings["best val/accuracy"] = best["val/accuracy"]
        for writer in _writers(trainer):
            scores = dict.fromkeys(("val/accuracy", "test/accuracy"), 0)  # only the names count
            for summary in hparams(settings, scores):  # type: ignore[no-untyped-call]
                writer.file_writer.add_summary(summary)  # type: ignore[attr-defined]
            writer.flush()
