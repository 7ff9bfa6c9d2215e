"""Scaling to 60,000, 600,000 and 6,000,000 images: speed should stay the same, memory grow only by the images.

Each run is a separate process that trains for the same number of steps on a synthetic dataset in IDX files. Timing
starts after a few warm-up steps, because shuffling six million images takes a second, in an epoch of minutes.
"""

import os
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure

NUM_STEPS = 210  # with two processes, an epoch of the smallest dataset has 211
NUM_WARMUP_STEPS = 30
CHILD = """
import resource, sys, time
from lightning.pytorch import Callback, Trainer
from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.data.sources import SOURCES, File, Source
from mnist_lightning.models import MLP

folder, (num_warmup_steps, num_steps, devices) = sys.argv[1], map(int, sys.argv[2:])
files = {split: (File("images"), File("labels")) for split in ("train", "test")}
SOURCES["Synthetic"] = Source(tuple("0123456789"), 0.5, 0.3, "Synthetic", files)


class Stopwatch(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == num_warmup_steps:
            self.start = time.perf_counter()

    def on_validation_start(self, trainer, pl_module):
        self.seconds = time.perf_counter() - self.start


stopwatch = Stopwatch()
trainer = Trainer(
    accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=1,
    limit_train_batches=num_steps, limit_val_batches=1, logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, callbacks=[stopwatch],
)
data = MNISTDataModule("Synthetic", folder)
start = time.perf_counter()
data.setup("fit")
setup = time.perf_counter() - start
trainer.fit(MLP(), data)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
if trainer.is_global_zero:
    print(f"RESULT {devices * (num_steps - num_warmup_steps) * data.batch_size / stopwatch.seconds} {setup} {peak}")
"""


def write_dataset(folder: Path, num_images: int) -> None:
    """Writes random images and labels as uncompressed IDX files, in parts."""
    raw_dir = folder / "Synthetic" / "raw"
    raw_dir.mkdir(parents=True)
    generator = np.random.default_rng(0)
    part = generator.integers(0, 256, (60_000, 28, 28), "u1").tobytes()
    with (raw_dir / "images").open("wb") as stream:
        stream.write(struct.pack(">BBBB3I", 0, 0, 8, 3, num_images, 28, 28))
        for _ in range(num_images // 60_000):
            stream.write(part)
    labels = (np.arange(num_images) % 10).astype("u1").tobytes()
    (raw_dir / "labels").write_bytes(struct.pack(">BBBBI", 0, 0, 8, 1, num_images) + labels)


def run(folder: Path, devices: int) -> tuple[float, float, float]:
    """Trains in a separate process; returns images per second, seconds of setup, and peak memory in MiB."""
    program = folder / "child.py"
    program.write_text(CHILD)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(program), str(folder), *map(str, (NUM_WARMUP_STEPS, NUM_STEPS, devices))]
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    found = re.search(r"RESULT (\S+) (\S+) (\S+)", output)
    assert found, output
    speed, setup, peak = map(float, found.groups())
    return speed, setup, peak


def main() -> None:
    """Measures all sizes in turn, with one process and with two."""
    args = measure.parse("Speed and memory by dataset size", sizes="60000,600000,6000000")
    sizes = [int(size) for size in args.sizes.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            write_dataset(Path(folder) / str(size), size)
        keys = [(size, devices) for devices in (1, 2) for size in sizes]
        rounds: list[dict[tuple[int, int], tuple[float, float, float]]] = [
            {key: run(Path(folder) / str(key[0]), key[1]) for key in keys} for _ in range(args.repeats + 1)
        ][1:]
    rows: list[dict[str, Any]] = []
    for size, devices in keys:
        speeds, setups, peaks = zip(*(results[size, devices] for results in rounds), strict=True)
        smallest = [results[sizes[0], devices] for results in rounds]
        rows.append(
            {
                "images": size,
                "processes": devices,
                "images/s": measure.summarize(speeds),
                "/ smallest": measure.ratio(speeds, [result[0] for result in smallest]),
                "setup s": measure.summarize(setups),
                "peak MiB per process": measure.summarize(peaks),
                "image data MiB": size * 784 / 2**20,
            }
        )
    measure.report("growth", rows, list(rows[0]), args.output)


if __name__ == "__main__":
    main()
