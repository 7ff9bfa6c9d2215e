"""What Lightning's own loop costs per step: a step that does almost nothing, with Lightning and in a plain loop."""

import logging
import time
import warnings

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks import measure

NUM_STEPS = 2000


class EmptyStep(LightningModule):
    """A module with a single weight, whose loss is that weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Returns the loss."""
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Returns the optimizer that the plain loop uses, too."""
        return torch.optim.AdamW(self.parameters(), fused=True)


class Stopwatch(Callback):
    """Measures the time from the first step to the last."""

    seconds = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self.seconds = -time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock."""
        self.seconds += time.perf_counter()


def with_lightning() -> float:
    """Returns microseconds per step."""
    stopwatch, options = Stopwatch(), {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[stopwatch],
        enable_model_summary=False,
        **options,  # type: ignore[arg-type]
    )
    images: Dataset[Tensor] = torch.zeros(NUM_STEPS, 1)  # type: ignore[assignment]  # a tensor is a dataset
    trainer.fit(EmptyStep(), DataLoader(images))
    return 1e6 * stopwatch.seconds / NUM_STEPS


def with_plain_loop() -> float:
    """Returns microseconds per step."""
    model = EmptyStep()
    optimizer = model.configure_optimizers()
    start = time.perf_counter()
    for _ in range(NUM_STEPS):
        loss = model.weight.sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return 1e6 * (time.perf_counter() - start) / NUM_STEPS


def main() -> None:
    """Measures both in alternation."""
    args = measure.parse("What Lightning's own loop costs per step")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")  # advice on the number of workers
    found = measure.alternate({"Lightning": with_lightning, "plain loop": with_plain_loop}, args.repeats)
    row = {f"{name}, us": measure.summarize(values) for name, values in found.items()}
    differences = [a - b for a, b in zip(found["Lightning"], found["plain loop"], strict=True)]
    row["difference, us"] = measure.summarize(differences)
    measure.report("step", [row], list(row), args.output)


if __name__ == "__main__":
    main()
