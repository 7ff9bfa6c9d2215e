"""The classifier: training step, scores and optimizer, for any network."""

import math
import string
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from mnist_lightning.data.module import Batch
from mnist_lightning.errors import UserError, check_range
from mnist_lightning.models.metrics import Calibration, Scores


class Classifier(LightningModule):
    """Training, evaluation and prediction of a network; subclasses set `network`.

    Args:
        class_names: In the order of the labels.
        mean: Mean of the training pixels, in [0, 1].
        std: Their standard deviation.
        learning_rate: Peak of the one-cycle schedule.
        weight_decay: AdamW's, for weights but not for biases and BatchNorm.
        label_smoothing: Fraction of each training target that is spread over all classes.

    Attributes:
        network: Returns logits `(N, C)` for normalized images `(N, 1, 28, 28)` float32.
        temperature: Scalar float32 that logits are divided by to be calibrated; each validation in `fit` sets it.
        confusion: `(C, C)` int64 of the last validation, rows are labels, columns are predictions.

    Raises:
        UserError: An argument is out of its range.
    """

    network: nn.Module
    temperature: Tensor
    confusion: Tensor

    def __init__(
        self,
        class_names: Sequence[str] = tuple(string.digits),
        mean: float = 0.1307,
        std: float = 0.3081,
        learning_rate: float = 0.01,
        weight_decay: float = 0.01,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if type(self) is Classifier:
            raise UserError("Classifier has no network; choose MLP, CNN or a subclass of your own")
        check_range("learning_rate", learning_rate, 0 < learning_rate < math.inf, "more than 0, such as 0.001")
        check_range("weight_decay", weight_decay, weight_decay >= 0, "0 or more, such as 0.01")
        check_range("label_smoothing", label_smoothing, 0 <= label_smoothing < 1, "at least 0 and less than 1")
        self.save_hyperparameters()
        self.class_names = tuple(class_names)
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.train_scores, self.val_scores, self.test_scores = (Scores(len(self.class_names)) for _ in range(3))
        self.calibration = Calibration()
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        """Returns raw logits `(N, C)` for normalized images `(N, 1, 28, 28)` float32."""
        logits: Tensor = self.network(images.to(self.dtype))  # float16 with --trainer.precision 16-true
        return logits

    def calibrated_logits(self, images: Tensor) -> Tensor:
        """Returns logits `(N, C)` float32 whose softmax gives calibrated probabilities."""
        logits: Tensor = self(images).float()
        return logits / self.temperature

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the loss of a batch."""
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        self.train_scores.update(logits.detach(), labels, loss.detach())
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Scores a batch; in `fit` with raw logits, from which the temperature is found."""
        images, labels = batch
        logits = self(images).float()
        if self._is_fitting:
            self.calibration.update(logits, labels)
        else:
            logits = logits / self.temperature
        return self._score(logits, labels, self.val_scores)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Scores a batch."""
        images, labels = batch
        return self._score(self.calibrated_logits(images), labels, self.test_scores)

    def _score(self, logits: Tensor, labels: Tensor, scores: Scores) -> dict[str, Tensor]:
        scores.update(logits, labels, F.cross_entropy(logits, labels))
        return {"probabilities": logits.softmax(1), "labels": labels}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Returns `probabilities` `(N, C)` float32 and `labels` `(N,)` int64."""
        images, labels = batch
        return {"probabilities": self.calibrated_logits(images).softmax(1), "labels": labels}

    def on_train_epoch_end(self) -> None:
        """Logs `train/loss` and `train/accuracy`."""
        self._log_scores("train", self.train_scores.compute())
        self.train_scores.reset()

    def on_validation_epoch_end(self) -> None:
        """Logs `val/loss` and `val/accuracy`; in `fit`, the loss is taken at the best temperature."""
        scores = self.val_scores.compute()
        if self._is_fitting:
            temperature, loss_sum = self.calibration.compute()
            self.temperature.copy_(temperature)
            scores["loss"] = loss_sum / scores["confusion"].sum()
        self.confusion = scores["confusion"]
        self._log_scores("val", scores)
        self.val_scores.reset()
        self.calibration.reset()

    def on_test_epoch_end(self) -> None:
        """Logs `test/loss` and `test/accuracy`."""
        self._log_scores("test", self.test_scores.compute())
        self.test_scores.reset()

    @property
    def _is_fitting(self) -> bool:
        return self.trainer.state.fn == "fit"

    def _log_scores(self, stage: str, scores: dict[str, Tensor]) -> None:
        # Callbacks see these at once; `TrainingHistory` passes them on to the loggers. The sums are over all processes
        # already; sync_dist only tells Lightning that every process logs.
        values = {f"{stage}/{name}": scores[name] for name in ("loss", "accuracy")}
        self.log_dict(values, prog_bar=True, logger=False, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Returns AdamW and a one-cycle schedule with a step for each batch.

        Source: Loshchilov and Hutter 2019 (arXiv:1711.05101); Smith and Topin 2018 (arXiv:1708.07120).
        """
        groups = [
            {"params": [p for p in self.parameters() if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in self.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, fused=True)
        num_steps = int(self.trainer.estimated_stepping_batches) + 1  # the scheduler steps once more at the end
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, num_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the class, so that a checkpoint is enough to rebuild the model."""
        checkpoint["model_class"] = class_path(type(self))
        checkpoint["state_dict"]["temperature"] = self.temperature  # weight averaging would average it


def class_path(model_class: type) -> str:
    """Returns the path that a class is imported from, such as `mnist_lightning.models.CNN`."""
    package = "mnist_lightning.models"  # exports the classes of its modules
    module = package if model_class.__module__.startswith(f"{package}.") else model_class.__module__
    return f"{module}.{model_class.__qualname__}"
