"""Images a second over the 10,000 test images, and the time that one image takes."""

import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from benchmarks import measure
from benchmarks.epoch_time import MODELS
from mnist_lightning.callbacks import Predictions
from mnist_lightning.data import EVALUATION_BATCH_SIZE, MNISTDataModule
from mnist_lightning.models import Classifier, normalize

NUM_SINGLE_IMAGES = 1000


class TimedPredictions(Predictions):
    """Gathers predictions as `predict` does, and measures from the first batch to the last."""

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the watch."""
        self.seconds = -time.perf_counter()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops it."""
        super().on_predict_end(trainer, pl_module)
        self.seconds += time.perf_counter()


def through_trainer(model: Classifier, data: MNISTDataModule, accelerator: str) -> float:
    """Predicts with `Trainer.predict`; returns the seconds."""
    predictions = TimedPredictions()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = Trainer(accelerator=accelerator, devices=1, callbacks=[predictions], **quiet)  # type: ignore[arg-type]
    trainer.predict(model, data, return_predictions=False)
    return predictions.seconds


def bare(model: Classifier, data: MNISTDataModule, device: str) -> float:
    """Runs the bare network over the same batches; returns the seconds."""
    network = model.network.to(device).eval()
    images = data.test_images.images.to(device)
    start = time.perf_counter()
    with torch.inference_mode():
        parts = [
            network(normalize(part, data.mean, data.std)).softmax(1)
            for part in images.split(EVALUATION_BATCH_SIZE)  # type: ignore[no-untyped-call]
        ]
        torch.cat(parts).cpu()
    return time.perf_counter() - start


def latencies_ms(model: Classifier, data: MNISTDataModule, device: str) -> list[float]:
    """Returns the milliseconds of single images, from uint8 on the host to probabilities on the host."""
    network, milliseconds = model.network.to(device).eval(), []
    with torch.inference_mode():
        for number in range(NUM_SINGLE_IMAGES):
            start = time.perf_counter()
            image = data.test_images.images[number : number + 1].to(device)
            network(normalize(image, data.mean, data.std)).softmax(1).cpu()
            milliseconds.append(1000 * (time.perf_counter() - start))
    return milliseconds


def compare(model_name: str, accelerator: str, repeats: int) -> dict[str, Any]:
    """Measures one network."""
    device = "cpu" if accelerator == "cpu" else "cuda"
    model, data = MODELS[model_name](), MNISTDataModule()
    data.setup("predict")
    num_images = len(data.test_images)
    sides = {
        "bare": lambda: bare(model, data, device),
        "predict": lambda: through_trainer(model, data, accelerator),
    }
    seconds = measure.alternate(sides, repeats)
    latencies = torch.tensor([latencies_ms(model, data, device) for _ in range(repeats + 1)][1:]).flatten()
    return {
        "model": model_name,
        "predict images/s": measure.summarise([num_images / s for s in seconds["predict"]]),
        "bare images/s": measure.summarise([num_images / s for s in seconds["bare"]]),
        "predict / bare seconds": measure.ratio(seconds["predict"], seconds["bare"]),
        "one image p50 ms": latencies.quantile(0.5).item(),
        "one image p99 ms": latencies.quantile(0.99).item(),
    }


def main() -> None:
    """Measures MLP and CNN."""
    args = measure.parse("Images a second, and one image", repeats=7, accelerator="cpu")
    rows = [compare(model, args.accelerator, args.repeats) for model in MODELS]
    measure.report("inference", rows, list(rows[0]), args.output)


if __name__ == "__main__":
    main()
