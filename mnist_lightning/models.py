"""The classifiers: one training step, and networks read from top to bottom."""

import itertools
import string
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from mnist_lightning.metrics import Scores

Batch = tuple[Tensor, Tensor]


def normalize(images: Tensor, mean: float, std: float) -> Tensor:
    """Scales pixels to [0, 1] and normalises them, a whole batch at once on its own device.

    Args:
        images: `(N, 28, 28)` uint8.
        mean: Mean of the training pixels, in [0, 1].
        std: Their standard deviation.

    Returns:
        `(N, 1, 28, 28)` float32.
    """
    return images.unsqueeze(1).float().div_(255).sub_(mean).div_(std)


def check_range(name: str, value: object, is_allowed: bool, allowed: str) -> None:
    """Raises a ValueError that says what was given and what is allowed, unless the value is."""
    if not is_allowed:
        raise ValueError(f"{name} {value} is not allowed; it must be {allowed}")


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
        check_range("learning_rate", learning_rate, learning_rate > 0, "more than 0, such as 0.001")
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

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits `(N, C)` float32 for normalised images `(N, 1, 28, 28)` float32."""
        logits: Tensor = self.network(images.to(self.dtype))  # another than float32 with --trainer.precision 16-true
        return logits

    def _step(self, batch: Batch, scores: Scores, label_smoothing: float = 0.0) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        scores.update(logits.detach(), labels, loss.detach())
        return loss

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the loss of a batch."""
        return self._step(batch, self.train_scores, self.label_smoothing)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch to the validation scores."""
        self._step(batch, self.val_scores)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch to the test scores."""
        self._step(batch, self.test_scores)

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Returns probabilities `(N, C)` float32 and the labels `(N,)` int64."""
        images, labels = batch
        return self(images).softmax(1), labels

    def _log_scores(self, stage: str, scores: Scores) -> None:
        # The sums are over all processes already; sync_dist only tells Lightning that every process logs.
        values = scores.compute()
        self.log_dict({f"{stage}/{name}": values[name] for name in ("loss", "accuracy")}, sync_dist=True)

    def on_train_epoch_start(self) -> None:
        """Forgets the last epoch's scores."""
        self.train_scores.reset()

    def on_validation_epoch_start(self) -> None:
        """Forgets the last epoch's scores."""
        self.val_scores.reset()

    def on_test_epoch_start(self) -> None:
        """Forgets the last test's scores."""
        self.test_scores.reset()

    def on_train_epoch_end(self) -> None:
        """Logs `train/loss`, `train/accuracy` and `learning_rate`."""
        self._log_scores("train", self.train_scores)
        self.log("learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"], sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Logs `val/loss` and `val/accuracy`."""
        self._log_scores("val", self.val_scores)

    def on_test_epoch_end(self) -> None:
        """Logs `test/loss` and `test/accuracy`."""
        self._log_scores("test", self.test_scores)

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
        # The data loader keeps no state, so that asking for its length here does not disturb a resumed run.
        num_steps = int(self.trainer.estimated_stepping_batches) + 1  # it is stepped once more after the last batch
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, num_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the class, so that a checkpoint alone can rebuild the model."""
        checkpoint["model_class"] = f"{type(self).__module__}.{type(self).__qualname__}"


class MLP(Classifier):
    """Fully connected layers with ReLU and dropout.

    Args:
        hidden_sizes: Units of each hidden layer.
        dropout: Share of hidden units that are silenced in training.
        kwargs: As in `Classifier`.
    """

    def __init__(self, hidden_sizes: Sequence[int] = (512, 256), dropout: float = 0.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_range("hidden_sizes", list(hidden_sizes), all(n > 0 for n in hidden_sizes), "1 or more each")
        check_range("dropout", dropout, 0 <= dropout < 1, "at least 0 and less than 1")
        sizes = [28 * 28, *hidden_sizes]
        hidden = [
            layer
            for num_inputs, num_outputs in itertools.pairwise(sizes)
            for layer in (nn.Linear(num_inputs, num_outputs), nn.ReLU(), nn.Dropout(dropout))
        ]
        self.network = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], len(self.class_names)))


class CNN(Classifier):
    """Convolutions with BatchNorm and ReLU; the first one's stride and one pooling keep it small.

    Args:
        widths: Channels of each convolution. The first is 5x5 with stride 2, the others are 3x3.
        pool_after: After how many convolutions 14x14 pixels become 7x7; the earlier, the faster.
        dropout: Share of pooled features that are silenced in training.
        kwargs: As in `Classifier`.
    """

    def __init__(
        self, widths: Sequence[int] = (16, 32, 64, 64), pool_after: int = 2, dropout: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_range("widths", list(widths), len(widths) > 0 and min(widths) > 0, "1 or more each, such as [16, 32, 64]")
        check_range("pool_after", pool_after, 0 < pool_after <= len(widths), f"between 1 and {len(widths)}")
        check_range("dropout", dropout, 0 <= dropout < 1, "at least 0 and less than 1")
        convolutions = [
            _convolution(1, widths[0], kernel_size=5, stride=2),
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


def _convolution(num_inputs: int, num_outputs: int, kernel_size: int = 3, stride: int = 1) -> tuple[nn.Module, ...]:
    padding = kernel_size // 2
    convolution = nn.Conv2d(num_inputs, num_outputs, kernel_size, stride, padding, bias=False)
    return convolution, nn.BatchNorm2d(num_outputs), nn.ReLU()
