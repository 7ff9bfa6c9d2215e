"""Throughput on the 10,000 test images, and the latency of a single image."""

import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from benchmarks import measure
from benchmarks.epoch_time import MODELS
from mnist_lightning.commands.evaluation import Predictions
from mnist_lightning.data.module import EVALUATION_BATCH_SIZE, MNISTDataModule, normalize
from mnist_lightning.models import Classifier

NUM_SINGLE_IMAGES = 1000


class TimedPredictions(Predictions):
    """Gathers predictions as `predict` does, and measures the time from the first batch to the last.

    Attributes:
        seconds: That time.
    """

    seconds: float

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self.seconds = -time.perf_counter()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock."""
        super().on_predict_end(trainer, pl_module)
        self.seconds += time.perf_counter()


def through_trainer(model: Classifier, data: MNISTDataModule, accelerator: str) -> float:
    """Predicts with `Trainer.predict`; returns the seconds it took."""
    predictions = TimedPredictions()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = Trainer(accelerator=accelerator, devices=1, callbacks=[predictions], **quiet)  # type: ignore[arg-type]
    trainer.predict(model, data, return_predictions=False)
    return predictions.seconds


def bare(model: Classifier, data: MNISTDataModule, device: str) -> float:
    """Runs the bare network on the same batches; returns the seconds it took."""
    network = model.network.to(device).eval()
    images = data.test_images.to(device)
    start = time.perf_counter()
    with torch.inference_mode():
        parts = [
            network(normalize(part, data.mean, data.std)).softmax(1)
            for part in images.split(EVALUATION_BATCH_SIZE)  # type: ignore[no-untyped-call]
        ]
        torch.cat(parts).cpu()
    return time.perf_counter() - start


def latencies_ms(model: Classifier, data: MNISTDataModule, device: str) -> list[float]:
    """Returns the latencies of single images, from uint8 on the host to probabilities on the host."""
    network, milliseconds = model.network.to(device).eval(), []
    with torch.inference_mode():
        for number in range(NUM_SINGLE_IMAGES):
            start = time.perf_counter()
            image = data.test_images[number : number + 1].to(device)
            network(normalize(image, data.mean, data.std)).softmax(1).cpu()
            milliseconds.append(1000 * (time.perf_counter() - start))
    return milliseconds


def compare(model_name: str, accelerator: str, repeats: int) -> dict[str, Any]:
    """Measures one network."""
    device = "cpu" if accelerator == "cpu" else "cuda"
    model, data = MODELS[model_name](), MNISTDataModule()
    data.setup("predict")
    num_images = len(data.test_images)
    variants = {
        "bare": lambda: bare(model, data, device),
        "predict": lambda: through_trainer(model, data, accelerator),
    }
    seconds = measure.alternate(variants, repeats)
    latencies = torch.tensor([latencies_ms(model, data, device) for _ in range(repeats + 1)][1:]).flatten()
    return {
        "model": model_name,
        "predict images/s": measure.summarize([num_images / s for s in seconds["predict"]]),
        "bare images/s": measure.summarize([num_images / s for s in seconds["bare"]]),
        "predict / bare seconds": measure.ratio(seconds["predict"], seconds["bare"]),
        "one image p50 ms": latencies.quantile(0.5).item(),
        "one image p99 ms": latencies.quantile(0.99).item(),
    }


def main() -> None:
    """Measures MLP and CNN."""
    args = measure.parse("Throughput and latency of prediction", repeats=7, accelerator="cpu")
    rows = [compare(model, args.accelerator, args.repeats) for model in MODELS]
    measure.report("inference", rows, list(rows[0]), args.output)


if __name__ == "__main__":
    main()
