"""One epoch of training and validation: a raw loop, this package's `fit`, and the stock way with Lightning.

All three train the same network from the same weights with the same optimiser and schedule; the first two also with
the same batches in the same order, and end with the same weights to the last bit (`tests/test_benchmarks.py`).
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset
from torchmetrics.classification import MulticlassAccuracy
from torchvision import transforms

from benchmarks import measure
from mnist_lightning.arguments import CLI
from mnist_lightning.data import EVALUATION_BATCH_SIZE, Batches, Images, MNISTDataModule
from mnist_lightning.models import CNN, MLP, Classifier, normalize

STOCK_SHARE = 0.25
"""How much of an epoch the slowest side runs."""
MODELS: dict[str, type[Classifier]] = {"MLP": MLP, "CNN": CNN}


def make_data(batch_size: int) -> MNISTDataModule:
    """Returns MNIST with its training and validation images in memory."""
    data = MNISTDataModule(batch_size=batch_size)
    data.setup("fit")
    return data


def make_optimizer(model: Classifier, num_steps: int) -> tuple[torch.optim.Optimizer, Any]:
    """Returns what `Classifier.configure_optimizers` does."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": model.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=model.learning_rate, fused=True)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, model.learning_rate, num_steps + 1)


def raw_epoch(model: Classifier, data: MNISTDataModule, device: str = "cpu") -> float:
    """Trains and validates for one epoch without a framework; returns the seconds."""
    network = model.network.to(device).train()
    images, labels = data.train_images.images.to(device), data.train_images.labels.to(device)
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
        num_right, loss_sum = torch.zeros((), device=device), torch.zeros((), device=device)
        for indices in val:
            logits, targets = network(normalize(images[indices], data.mean, data.std)), labels[indices].long()
            num_right += (logits.argmax(1) == targets).sum()
            loss_sum += F.cross_entropy(logits, targets, reduction="sum")
    num_right.item()
    return time.perf_counter() - start


class Stopwatch(Callback):
    """Measures from the first batch to the end of training, with validation, logs, figures and checkpoints."""

    seconds: float

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the watch."""
        _wait(pl_module.device.type)
        self.seconds = -time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops it."""
        _wait(pl_module.device.type)
        self.seconds += time.perf_counter()


def package_epoch(model_name: str, batch_size: int, device: str, folder: Path) -> tuple[float, Classifier]:
    """Trains for one epoch as `fit` does, with everything on; returns the seconds and the model."""
    stopwatch = Stopwatch()
    flags = ["--model", model_name, "--data.batch_size", str(batch_size), "--trainer.max_epochs", "1"]
    accelerator = "cpu" if device == "cpu" else "gpu"
    flags += ["--trainer.accelerator", accelerator, "--trainer.devices", "1", "--trainer.default_root_dir", str(folder)]
    cli = CLI("fit", flags, [stopwatch])
    cli.datamodule.setup("fit")
    cli.open_run_dir()
    cli.trainer.fit(cli.model, cli.datamodule)
    return stopwatch.seconds, cli.model


class StockModule(LightningModule):
    """The way of most tutorials: a metric and two `self.log` calls in every step."""

    def __init__(self, model: Classifier, num_steps: int) -> None:
        super().__init__()
        self.network: nn.Module = model.network
        self.model, self.num_steps = [model], num_steps
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
        """Returns the same optimiser and schedule as the other sides."""
        optimizer, schedule = make_optimizer(self.model[0], self.num_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Pictures(Dataset[tuple[Tensor, int]]):
    """What `torchvision.datasets.MNIST` does for each image: a PIL picture, then its transforms."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Returns an image `(1, 28, 28)` float32 and its label."""
        picture = transforms.functional.to_pil_image(self.images.images[index])
        return self.transform(picture), int(self.images.labels[index])


def stock_epoch(model: Classifier, data: MNISTDataModule, device: str, folder: Path) -> float:
    """Trains for a part of an epoch the stock way; returns the seconds that the whole would take."""
    pictures, stopwatch = Pictures(data.train_images), Stopwatch()
    train = DataLoader(Subset(pictures, data.train_indices.tolist()), data.batch_size, shuffle=True)
    val = DataLoader(Subset(pictures, data.val_indices.tolist()), data.batch_size)
    trainer = Trainer(
        accelerator="cpu" if device == "cpu" else "gpu",
        devices=1,
        max_epochs=1,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        logger=TensorBoardLogger(folder),
        callbacks=[stopwatch, ModelCheckpoint(monitor="val/accuracy", mode="max", save_last=True)],
        limit_train_batches=STOCK_SHARE,
        limit_val_batches=STOCK_SHARE,
    )
    trainer.fit(StockModule(model, len(train)), train, val)
    return stopwatch.seconds / STOCK_SHARE


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def compare(model_name: str, batch_size: int, device: str, repeats: int, folder: Path) -> dict[str, Any]:
    """Measures the three sides for one network and batch size."""

    def fresh() -> Classifier:
        seed_everything(0, workers=True, verbose=False)
        return MODELS[model_name]()

    sides = {
        "raw": lambda: raw_epoch(fresh(), make_data(batch_size), device),
        "package": lambda: package_epoch(model_name, batch_size, device, folder)[0],
        "stock": lambda: stock_epoch(fresh(), make_data(batch_size), device, folder),
    }
    seconds = measure.alternate(sides, repeats)
    return {
        "model": model_name,
        "batch size": batch_size,
        "package / raw": measure.ratio(seconds["package"], seconds["raw"]),
        "stock / package": measure.ratio(seconds["stock"], seconds["package"]),
        **{f"{side} s": measure.summarise(values) for side, values in seconds.items()},
    }


def main() -> None:
    """Measures MLP and CNN with batches of 128 and 512."""
    args = measure.parse("Seconds of one epoch", device="cpu", models="MLP,CNN", batch_sizes="128,512")
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            compare(model, int(batch_size), args.device, args.repeats, Path(folder))
            for model in args.models.split(",")
            for batch_size in args.batch_sizes.split(",")
        ]
    columns = ["model", "batch size", "package / raw", "stock / package", "raw s", "package s", "stock s"]
    measure.report("epoch_time", rows, columns, args.output)


if __name__ == "__main__":
    main()
