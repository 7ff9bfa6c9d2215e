"""One epoch of training and validation: a plain PyTorch loop, this package's `fit`, and standard Lightning code.

All three train the same network from the same weights with the same optimizer and schedule. The first two also use the
same batches in the same order, and end with bit-identical weights (`tests/benchmarks/test_benchmarks.py`).
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset
from torchmetrics.classification import MulticlassAccuracy

from benchmarks import measure
from mnist_lightning.arguments.cli import CLI
from mnist_lightning.data.module import EVALUATION_BATCH_SIZE, Batches, MNISTDataModule, normalize
from mnist_lightning.models import CNN, MLP, Classifier

STANDARD_FRACTION = 0.25
"""Fraction of an epoch that the slowest variant runs."""
MODELS: dict[str, type[Classifier]] = {"MLP": MLP, "CNN": CNN}


def make_data(batch_size: int) -> MNISTDataModule:
    """Returns the data module with the training and validation images in memory."""
    data = MNISTDataModule(batch_size=batch_size)
    data.setup("fit")
    return data


def make_optimizer(model: Classifier, num_steps: int) -> tuple[torch.optim.Optimizer, Any]:
    """Returns the optimizer and schedule of `Classifier.configure_optimizers`."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": model.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=model.learning_rate, fused=True)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, model.learning_rate, num_steps + 1)


def plain_epoch(model: Classifier, data: MNISTDataModule, device: str = "cpu") -> float:
    """Trains and validates for one epoch in a plain PyTorch loop; returns the seconds it took."""
    torch.set_flush_denormal(True)  # as `fit` does
    network = model.network.to(device).train()
    images, labels = data.train_images.to(device), data.train_labels.to(device)
    train = Batches(data.train_indices.to(device), data.batch_size, seed=0)
    val = Batches(data.val_indices.to(device), EVALUATION_BATCH_SIZE)
    optimizer, schedule = make_optimizer(model, len(train))
    _wait(device)
    start = time.perf_counter()
    for indices in train:
        logits = network(normalize(images[indices], data.mean, data.std))
        loss = F.cross_entropy(logits, labels[indices].long())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    network.eval()
    with torch.inference_mode():
        num_correct, loss_sum = torch.zeros((), device=device), torch.zeros((), device=device)
        for indices in val:
            logits, targets = network(normalize(images[indices], data.mean, data.std)), labels[indices].long()
            num_correct += (logits.argmax(1) == targets).sum()
            loss_sum += F.cross_entropy(logits, targets, reduction="sum")
    num_correct.item()
    return time.perf_counter() - start


class Stopwatch(Callback):
    """Measures the time of training, including validation, logs, figures and checkpoints.

    Attributes:
        seconds: From the first batch to the end of training.
    """

    seconds: float

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        _wait(pl_module.device.type)
        self.seconds = -time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock."""
        _wait(pl_module.device.type)
        self.seconds += time.perf_counter()


def package_epoch(model_name: str, batch_size: int, device: str, folder: Path) -> tuple[float, Classifier]:
    """Trains for one epoch as `fit` does, with everything enabled; returns the seconds it took, and the model."""
    stopwatch = Stopwatch()
    flags = ["--model", model_name, "--data.batch_size", str(batch_size), "--trainer.max_epochs", "1"]
    flags += ["--trainer.precision", "32-true"]  # as in the plain loop
    accelerator = "cpu" if device == "cpu" else "gpu"
    flags += ["--trainer.accelerator", accelerator, "--trainer.devices", "1", "--trainer.default_root_dir", str(folder)]
    cli = CLI("fit", flags, [stopwatch])
    cli.datamodule.setup("fit")
    with cli.open_run():
        cli.trainer.fit(cli.model, cli.datamodule)
    return stopwatch.seconds, cli.model


class StandardModule(LightningModule):
    """A module as in most tutorials: every step updates a metric and calls `self.log` twice.

    Args:
        model: Provides the network and the optimizer's settings.
        num_steps: Length of the schedule.
    """

    def __init__(self, model: Classifier, num_steps: int) -> None:
        super().__init__()
        self.network: nn.Module = model.network
        self.model, self.num_steps = [model], num_steps  # in a list, so that it is not a submodule
        self.train_accuracy = MulticlassAccuracy(10, average="micro")
        self.val_accuracy = MulticlassAccuracy(10, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the loss."""
        images, labels = batch
        logits = self.network(images)
        loss = F.cross_entropy(logits, labels)
        self.train_accuracy(logits, labels)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/accuracy", self.train_accuracy, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Logs loss and accuracy."""
        images, labels = batch
        logits = self.network(images)
        self.val_accuracy(logits, labels)
        self.log("val/loss", F.cross_entropy(logits, labels), prog_bar=True)
        self.log("val/accuracy", self.val_accuracy, prog_bar=True)

    def configure_optimizers(self) -> Any:
        """Returns the same optimizer and schedule as the other variants use."""
        optimizer, schedule = make_optimizer(self.model[0], self.num_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class TransformedImages(Dataset[tuple[Tensor, int]]):
    """Does the same as `torchvision.datasets.MNIST` for each image: converts it to a PIL image and transforms it.

    Args:
        images: `(N, 28, 28)` uint8.
        labels: `(N,)` integers.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        from torchvision import transforms  # in the extra `benchmarks`

        self.images, self.labels = images, labels
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Returns an image `(1, 28, 28)` float32 and its label."""
        image = Image.fromarray(self.images[index].numpy())
        return self.transform(image), int(self.labels[index])


def standard_epoch(model: Classifier, data: MNISTDataModule, device: str, folder: Path) -> float:
    """Trains for part of an epoch with standard Lightning code; returns the seconds that a whole epoch would take."""
    dataset, stopwatch = TransformedImages(data.train_images, data.train_labels), Stopwatch()
    train = DataLoader(Subset(dataset, data.train_indices.tolist()), data.batch_size, shuffle=True)
    val = DataLoader(Subset(dataset, data.val_indices.tolist()), data.batch_size)
    trainer = Trainer(
        accelerator="cpu" if device == "cpu" else "gpu",
        devices=1,
        max_epochs=1,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        logger=TensorBoardLogger(folder),
        callbacks=[stopwatch, ModelCheckpoint(monitor="val/accuracy", mode="max", save_last=True)],
        limit_train_batches=STANDARD_FRACTION,
        limit_val_batches=STANDARD_FRACTION,
    )
    trainer.fit(StandardModule(model, len(train)), train, val)
    return stopwatch.seconds / STANDARD_FRACTION


def further_epoch(model_name: str, batch_size: int, device: str, folder: Path) -> float:
    """Returns the seconds that each epoch after the second adds to the whole process of a `fit`."""
    seconds = []
    for num_epochs in (2, 8):
        command = [sys.executable, "-m", "mnist_lightning", "fit", "--model", model_name, "--trainer.devices", "1"]
        command += ["--trainer.accelerator", "cpu" if device == "cpu" else "gpu"]
        command += [
            "--trainer.precision",
            "32-true",
            "--data.batch_size",
            str(batch_size),
            "--trainer.max_epochs",
            str(num_epochs),
        ]
        start = time.perf_counter()
        subprocess.run([*command, "--trainer.default_root_dir", str(folder)], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    return (seconds[1] - seconds[0]) / 6


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def compare(model_name: str, batch_size: int, device: str, repeats: int, folder: Path) -> dict[str, Any]:
    """Measures the variants with one network and batch size."""

    def new_model() -> Classifier:
        seed_everything(0, workers=True, verbose=False)
        return MODELS[model_name]()

    variants = {
        "plain": lambda: plain_epoch(new_model(), make_data(batch_size), device),
        "package": lambda: package_epoch(model_name, batch_size, device, folder)[0],
        "standard": lambda: standard_epoch(new_model(), make_data(batch_size), device, folder),
    }
    if (model_name, batch_size) == ("MLP", 128):  # ten epochs take long
        variants["process"] = lambda: further_epoch(model_name, batch_size, device, folder)
    seconds = measure.alternate(variants, repeats)
    return {
        "model": model_name,
        "batch size": batch_size,
        "standard / package": measure.ratio(seconds["standard"], seconds["package"]),
        **{
            f"{name} / plain": measure.ratio(seconds[name], seconds["plain"])
            for name in ("package", "process")
            if name in seconds
        },
        **{f"{name} s": measure.summarize(values) for name, values in seconds.items()},
    }


def main() -> None:
    """Measures MLP and CNN with batch sizes of 128 and 512."""
    args = measure.parse("Duration of one epoch", device="cpu", models="MLP,CNN", batch_sizes="128,512")
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            compare(model, int(batch_size), args.device, args.repeats, Path(folder))
            for model in args.models.split(",")
            for batch_size in args.batch_sizes.split(",")
        ]
    columns = ["model", "batch size", "package / plain", "process / plain", "standard / package"]
    columns += [f"{name} s" for name in ("plain", "package", "process", "standard")]
    measure.report("epoch_time", rows, columns, args.output)


if __name__ == "__main__":
    main()
