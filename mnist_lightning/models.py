"""The classifiers: one training step, and networks read from top to bottom."""

import itertools
import math
import string
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from mnist_lightning.errors import check_range
from mnist_lightning.metrics import Calibration, Scores

Batch = tuple[Tensor, Tensor]


def scale(images: Tensor) -> Tensor:
    """Returns pixels `(N, 1, 28, 28)` float32 in [0, 1] for images `(N, 28, 28)` uint8."""
    return images.unsqueeze(1).float().div_(255)


def normalize(images: Tensor, mean: float, std: float) -> Tensor:
    """Scales pixels to [0, 1] and normalises them, a whole batch at once on its own device.

    Args:
        images: `(N, 28, 28)` uint8.
        mean: Mean of the training pixels, in [0, 1].
        std: Their standard deviation.

    Returns:
        `(N, 1, 28, 28)` float32.
    """
    return scale(images).sub_(mean).div_(std)


def class_path(model_class: type) -> str:
    """Returns where a class can be imported from."""
    return f"{model_class.__module__}.{model_class.__qualname__}"


class Classifier(LightningModule):
    """What every classifier shares: the step, the scores, the optimiser. Children set `network`.

    Args:
        class_names: In the order of the labels.
        mean: Mean of the training pixels, in [0, 1].
        std: Their standard deviation.
        learning_rate: Peak of the one-cycle schedule.
        weight_decay: AdamW's, for weights; biases and BatchNorm have none.
        label_smoothing: Share of each training target that is spread over all classes.

    Raises:
        ValueError: An argument is out of its range.
    """

    network: nn.Module

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
            raise ValueError("Classifier has no network of its own; choose MLP, CNN or a child class of yours")
        check_range("learning_rate", learning_rate, 0 < learning_rate < math.inf, "more than 0, such as 0.001")
        check_range("weight_decay", weight_decay, weight_decay >= 0, "0 or more, such as 0.01")
        check_range("label_smoothing", label_smoothing, 0 <= label_smoothing < 1, "at least 0 and less than 1")
        self.save_hyperparameters()
        self.class_names = tuple(class_names)
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.train_scores = Scores(len(self.class_names))
        self.val_scores = Scores(len(self.class_names))
        self.test_scores = Scores(len(self.class_names))
        self.calibration = Calibration()
        self.temperature: Tensor
        self.register_buffer("temperature", torch.ones(()))
        self.best_temperature = self.temperature

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits `(N, C)` for normalised images `(N, 1, 28, 28)` float32, calibrated except in training."""
        logits: Tensor = self.network(images.to(self.dtype))  # another than float32 with --trainer.precision 16-true
        return logits if self.training else logits.float() / self.temperature

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the loss of a batch."""
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        self.train_scores.update(logits.detach(), labels, loss.detach())
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Adds a batch to the validation scores, and returns what `predict_step` does."""
        logits = self._evaluate(batch, self.val_scores)
        if self.trainer.state.fn == "fit":
            self.calibration.update(logits, batch[1])
        return {"probabilities": logits.softmax(1), "labels": batch[1]}

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Adds a batch to the test scores, and returns what `predict_step` does."""
        return {"probabilities": self._evaluate(batch, self.test_scores).softmax(1), "labels": batch[1]}

    def _evaluate(self, batch: Batch, scores: Scores) -> Tensor:
        images, labels = batch
        logits: Tensor = self(images)
        scores.update(logits, labels, F.cross_entropy(logits, labels))
        return logits

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Returns `probabilities` `(N, C)` float32 and `labels` `(N,)` int64."""
        images, labels = batch
        return {"probabilities": self(images).softmax(1), "labels": labels}

    def _log_scores(self, stage: str, scores: dict[str, Tensor]) -> None:
        # The sums are over all processes already; sync_dist only tells Lightning that every process logs.
        self.log_dict({f"{stage}/{name}": scores[name] for name in ("loss", "accuracy")}, sync_dist=True)

    def on_fit_start(self) -> None:
        """Lets training begin without a temperature; each validation finds one."""
        self.temperature.fill_(1)

    def on_train_end(self) -> None:
        """Divides logits by the last validation's temperature from now on."""
        self.temperature.copy_(self.best_temperature)

    def on_train_epoch_start(self) -> None:
        """Forgets the last epoch's scores."""
        self.train_scores.reset()

    def on_validation_epoch_start(self) -> None:
        """Forgets the last epoch's scores."""
        self.val_scores.reset()
        self.calibration.reset()

    def on_test_epoch_start(self) -> None:
        """Forgets the last test's scores."""
        self.test_scores.reset()

    def on_train_epoch_end(self) -> None:
        """Logs `train/loss`, `train/accuracy` and `learning_rate`."""
        self._log_scores("train", self.train_scores.compute())
        self.log("learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"], sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Logs `val/loss` and `val/accuracy`; in `fit`, the loss at the temperature that goes into the checkpoint."""
        scores = self.val_scores.compute()
        if self.trainer.state.fn == "fit":
            self.best_temperature, loss_sum = self.calibration.compute()
            scores["loss"] = loss_sum / scores["confusion"].sum()
        self._log_scores("val", scores)

    def on_test_epoch_end(self) -> None:
        """Logs `test/loss` and `test/accuracy`."""
        self._log_scores("test", self.test_scores.compute())

    def configure_optimizers(self) -> Any:
        """Returns AdamW and a one-cycle schedule that is stepped every batch.

        Source: Loshchilov and Hutter 2019 (arXiv:1711.05101); Smith and Topin 2018 (arXiv:1708.07120).
        """
        matrices = [p for p in self.parameters() if p.ndim > 1]
        vectors = [p for p in self.parameters() if p.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": self.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, fused=True)
        num_steps = int(self.trainer.estimated_stepping_batches) + 1  # it is stepped once more after the last batch
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, num_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the class, so that a checkpoint alone can rebuild the model, and the temperature."""
        checkpoint["model_class"] = class_path(type(self))
        checkpoint["state_dict"]["temperature"] = self.best_temperature

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the temperature out of what a resumed run loads; its next validation may be some epochs away."""
        if self._trainer and self.trainer.state.fn == "fit":
            self.best_temperature = checkpoint["state_dict"]["temperature"]
            checkpoint["state_dict"]["temperature"] = torch.ones(())


class MLP(Classifier):
    """Fully connected layers with dropout.

    Args:
        hidden_sizes: Units of each hidden layer.
        dropout: Share of hidden units that are silenced in training.
        batch_norm: Whether each hidden layer is normalised over the batch.
        kwargs: As in `Classifier`.
    """

    def __init__(
        self,
        hidden_sizes: Sequence[int] = (512, 256),
        dropout: float = 0.2,
        batch_norm: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_range("hidden_sizes", list(hidden_sizes), all(n > 0 for n in hidden_sizes), "1 or more each")
        check_range("dropout", dropout, 0 <= dropout < 1, "at least 0 and less than 1")
        sizes = [28 * 28, *hidden_sizes]
        hidden = [
            layer
            for num_inputs, num_outputs in itertools.pairwise(sizes)
            for layer in (
                nn.Linear(num_inputs, num_outputs),
                *([nn.BatchNorm1d(num_outputs)] if batch_norm else []),
                nn.ReLU(),
                nn.Dropout(dropout),
            )
        ]
        self.network = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], len(self.class_names)))


class CNN(Classifier):
    """Convolutions with BatchNorm and ReLU; the first one's stride and one pooling keep it small.

    Args:
        widths: Channels of each convolution. The first is 5x5 with stride 2, the others are 3x3.
        pool_after: After how many convolutions 14x14 pixels become 7x7; the earlier, the faster.
        dropout: Share of pooled features that are silenced in training.
        edges_only: Whether the first convolution sees edges alone, dark on bright as bright on dark.
        kwargs: As in `Classifier`.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64, 64),
        pool_after: int = 2,
        dropout: float = 0.0,
        edges_only: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_range("widths", list(widths), len(widths) > 0 and min(widths) > 0, "1 or more each, such as [16, 32, 64]")
        check_range("pool_after", pool_after, 0 < pool_after <= len(widths), f"between 1 and {len(widths)}")
        check_range("dropout", dropout, 0 <= dropout < 1, "at least 0 and less than 1")
        first, batch_norm, relu = _convolution(1, widths[0], kernel_size=5, stride=2)
        convolutions = [
            (EdgeConv2d(widths[0]), batch_norm) if edges_only else (first, batch_norm, relu),
            *(_convolution(num_inputs, num_outputs) for num_inputs, num_outputs in itertools.pairwise(widths)),
        ]
        self.network = nn.Sequential(
            *itertools.chain(*convolutions[:pool_after]),
            nn.MaxPool2d(2),
            *itertools.chain(*convolutions[pool_after:]),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(widths[-1], len(self.class_names)),
        ).to(memory_format=torch.channels_last)  # about twice as fast on a CPU


class EdgeConv2d(nn.Conv2d):
    """A 5x5 convolution with stride 2 that answers to edges of either polarity, and to nothing else.

    Kernels without a mean are blind to even paper, however bright; the absolute value makes dark on bright the same
    as bright on dark, in each place by itself.

    Args:
        num_outputs: Output channels.
    """

    def __init__(self, num_outputs: int) -> None:
        super().__init__(1, num_outputs, 5, stride=2, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Returns `(N, num_outputs, 14, 14)`, at least 0, for `(N, 1, 28, 28)` float32."""
        padded = F.pad(images, (2, 2, 2, 2), mode="replicate")  # zeros would be an edge
        kernels = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(padded, kernels, stride=2).abs()


def _convolution(num_inputs: int, num_outputs: int, kernel_size: int = 3, stride: int = 1) -> tuple[nn.Module, ...]:
    padding = kernel_size // 2
    convolution = nn.Conv2d(num_inputs, num_outputs, kernel_size, stride, padding, bias=False)
    return convolution, nn.BatchNorm2d(num_outputs), nn.ReLU()


def known_classes() -> dict[str, type[Classifier]]:
    """Returns the classifiers that have been imported, by their import paths."""
    found: dict[str, type[Classifier]] = {}
    pending: list[type[Classifier]] = [Classifier]
    while pending:
        children = pending.pop().__subclasses__()
        found |= {class_path(child): child for child in children}
        pending += children
    return found
