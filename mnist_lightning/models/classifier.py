"""The classifier: training step, scores and optimizer, for any network."""

import math
import string
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.nn import functional as F

from mnist_lightning.data.module import EVALUATION_BATCH_SIZE, Batch, normalize
from mnist_lightning.errors import UserError, check_range
from mnist_lightning.images import InputFormat
from mnist_lightning.models.metrics import TEMPERATURES, Scores, losses_by_temperature
from mnist_lightning.runs.checkpoints import class_path


class Answers(NamedTuple):
    """What a model says about N images, each of one of C classes."""

    classes: list[str]
    confidences: npt.NDArray[np.float32]  # (N,), the largest probability of each image
    probabilities: npt.NDArray[np.float32]  # (N, C)


class Classifier(LightningModule):
    """Training, evaluation and prediction of a network; subclasses set `network`.

    Args:
        class_names: In the order of the labels.
        mean: Mean of the training pixels, in [0, 1].
        std: Their standard deviation.
        image_size: Height and width of the images, in pixels.
        channels: 1 for gray images, 3 for color.
        is_handwriting: Whether digits are found in a picture; otherwise, all of it is resized.
        learning_rate: Peak of the one-cycle schedule.
        weight_decay: AdamW's, for weights but not for biases and BatchNorm.
        label_smoothing: Fraction of each training target that is spread over all classes.
        freeze: Whether only the last layer is trained; the network stays in evaluation mode.
        outliers: More than 0 if it learns to abstain, from pictures of no class; the same as the data's.
    """

    network: nn.Module  # returns logits `(N, C)` for normalized images `(N, C, H, W)` float32
    temperature: Tensor  # scalar float32 that logits are divided by to be calibrated; each validation in `fit` sets it
    confusion: Tensor  # (C, C) int64 of the last validation, rows are labels, columns are predictions

    def __init__(
        self,
        class_names: Sequence[str] = tuple(string.digits),
        mean: float = 0.1307,
        std: float = 0.3081,
        image_size: int = 28,
        channels: int = 1,
        is_handwriting: bool = True,
        learning_rate: float = 0.01,
        weight_decay: float = 0.01,
        label_smoothing: float = 0.0,
        freeze: bool = False,
        outliers: float = 0.0,
    ) -> None:
        super().__init__()
        if type(self) is Classifier:
            raise UserError("Classifier has no network; choose MLP, CNN or a subclass of your own")
        check_range("learning_rate", learning_rate, 0 < learning_rate < math.inf, "more than 0, such as 0.001")
        check_range("weight_decay", weight_decay, weight_decay >= 0, "0 or more, such as 0.01")
        check_range("label_smoothing", label_smoothing, 0 <= label_smoothing < 1, "at least 0 and less than 1")
        self.save_hyperparameters()
        self.class_names = tuple(class_names)
        self.inputs = InputFormat(image_size, channels, is_handwriting)
        self.learning_rate, self.weight_decay, self.label_smoothing = learning_rate, weight_decay, label_smoothing
        self.is_frozen, self.can_abstain = freeze, outliers > 0
        self.train_scores, self.val_scores, self.test_scores = (Scores(len(self.class_names)) for _ in range(3))
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        """Returns raw logits `(N, C)` for normalized images."""
        logits = self._raw_logits(images)
        if not self.can_abstain:
            return logits
        classes, none = logits.log_softmax(1).tensor_split([len(self.class_names)], 1)
        return torch.logaddexp(classes, none - math.log(len(self.class_names)))  # the same share of doubt to each class

    def _raw_logits(self, images: Tensor) -> Tensor:
        """Returns the network's logits, and that of no class, if it is learned: 0, so that it needs no weights."""
        logits: Tensor = self.network(images.to(self.dtype))  # float16 with --trainer.precision 16-true
        return F.pad(logits, (0, 1)) if self.can_abstain else logits

    def calibrated_logits(self, images: Tensor) -> Tensor:
        """Returns logits `(N, C)` float32 whose softmax gives calibrated probabilities."""
        return torch.div(self(images).float(), self.temperature)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        logits, outliers = self._raw_logits(images).tensor_split([len(labels)])
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        self.train_scores.update(logits[:, : len(self.class_names)].detach(), labels, loss.detach())
        if len(outliers):
            if not self.can_abstain:
                raise UserError("the data has outliers, but the model can't abstain; give both the same outliers")
            loss = loss - outliers.log_softmax(1)[:, -1].sum() / len(labels)  # each picture counts the same
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Scores a batch; in `fit` with raw logits, from which the temperature is found."""
        images, labels = batch
        is_fit = self.trainer.state.fn == "fit"
        with torch.autocast(images.device.type, enabled=False):  # as in `validate`, whatever the precision of training
            logits = self(images).float() if is_fit else self.calibrated_logits(images)
        losses = losses_by_temperature(logits, labels) if is_fit else F.cross_entropy(logits, labels)
        self.val_scores.update(logits, labels, losses)
        return {"probabilities": logits.softmax(1), "labels": labels}

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        images, labels = batch
        logits = self.calibrated_logits(images)
        self.test_scores.update(logits, labels, F.cross_entropy(logits, labels))
        return {"probabilities": logits.softmax(1), "labels": labels}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Returns `probabilities` `(N, C)` float32 and `labels` `(N,)` int64."""
        images, labels = batch
        return {"probabilities": self.calibrated_logits(images).softmax(1), "labels": labels}

    def on_train_epoch_end(self) -> None:
        self._log_scores("train", self.train_scores)

    def on_validation_epoch_end(self) -> None:
        """Logs `val/loss` and `val/accuracy`; in `fit`, the loss is taken at the best temperature."""
        scores = self._log_scores("val", self.val_scores)
        self.confusion = scores["confusion"]
        if self.trainer.state.fn == "fit":
            self.temperature.fill_(TEMPERATURES[int(scores["best"])])

    def on_test_epoch_end(self) -> None:
        self._log_scores("test", self.test_scores)

    def _log_scores(self, stage: str, metric: Scores) -> dict[str, Tensor]:
        scores = metric.compute()
        metric.reset()
        # Callbacks see these at once; `TrainingHistory` passes them on to the loggers. The sums are over all processes
        # already; sync_dist only tells Lightning that every process logs.
        values = {f"{stage}/{name}": scores[name] for name in ("loss", "accuracy")}
        self.log_dict(values, prog_bar=True, logger=False, sync_dist=True)
        return scores

    def predict(self, images: Any) -> Answers:
        """Classifies images, in evaluation mode, or raises a UserError, or an OSError if a file can't be read.

        Images are a picture, as a path, the content of a file or a Pillow image; a list of pictures; or an array or
        tensor `(N, 28, 28)` uint8, or of the shape in `inputs`.
        """
        if not isinstance(images, np.ndarray | Tensor):
            pictures = images if isinstance(images, list | tuple) else [images]
            images = np.stack([self.inputs.read(picture)[0].image for picture in pictures])
        pixels = torch.as_tensor(images)
        if pixels.shape[1:] != self.inputs.shape or pixels.dtype != torch.uint8 or len(pixels) == 0:
            given, expected = f"{tuple(pixels.shape)} and {pixels.dtype}", ", ".join(map(str, self.inputs.shape))
            raise UserError(f"images of shape {given} given; use (N, {expected}) and uint8")
        with torch.inference_mode():
            parts = [self.eval().probabilities(part).cpu() for part in torch.split(pixels, EVALUATION_BATCH_SIZE)]
        probabilities = torch.cat(parts).numpy()
        classes = [self.class_names[index] for index in probabilities.argmax(1)]
        return Answers(classes, probabilities.max(1), probabilities)

    def probabilities(self, images: Tensor) -> Tensor:
        """Returns calibrated probabilities `(N, C)` float32 for images as `inputs` says, uint8."""
        normalized = normalize(images.to(self.device), self.hparams["mean"], self.hparams["std"])
        return self.calibrated_logits(normalized).softmax(1)

    def to_pixels(self, images: Tensor) -> npt.NDArray[np.uint8]:
        """Returns normalized images `(N, C, H, W)` as pixels `(N, H, W)` or `(N, H, W, 3)`, limited to 0 and 255."""
        pixels: Tensor = (images * self.hparams["std"] + self.hparams["mean"]).mul(255).clamp(0, 255).byte()
        return pixels.permute(0, 2, 3, 1).reshape(-1, *self.inputs.shape).cpu().numpy()

    @property
    def head(self) -> nn.Linear:
        """The last fully connected layer, which has an output for each class."""
        return [module for module in self.network.modules() if isinstance(module, nn.Linear)][-1]

    def setup(self, stage: str) -> None:
        if self.is_frozen and stage == "fit":
            self.network.eval().requires_grad_(False)
            self.head.requires_grad_(True)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Returns AdamW. Source: Loshchilov and Hutter 2019 (arXiv:1711.05101)."""
        groups = [
            {"params": [p for p in self.parameters() if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in self.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        is_mixed = isinstance(self.trainer.precision_plugin, MixedPrecision)
        fused = not (is_mixed and self.trainer.gradient_clip_val)  # Lightning can't clip for a fused one then
        eps = max(1e-8, torch.finfo(next(self.parameters()).dtype).tiny)  # float16 would round 1e-8 to 0
        return torch.optim.AdamW(groups, lr=self.learning_rate, eps=eps, fused=fused)

    def configure_optimizers(self) -> Any:
        """Returns AdamW and a one-cycle schedule. Source: Smith and Topin 2018 (arXiv:1708.07120)."""
        optimizer = self.make_optimizer()
        num_steps = int(self.trainer.estimated_stepping_batches) + 1  # the scheduler steps once more at the end
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, num_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the class, so that a checkpoint is enough to rebuild the model."""
        checkpoint["model_class"] = class_path(type(self))
        checkpoint["state_dict"]["temperature"] = self.temperature  # weight averaging would average it
