"""The data module: verified files, a fixed stratified split, and batches made by one index operation."""

import dataclasses
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from mnist_lightning import sources
from mnist_lightning.augment import Augmentation
from mnist_lightning.errors import check_range
from mnist_lightning.models import Batch, scale

EVALUATION_BATCH_SIZE = 1000
"""Images a step where no gradients are kept: fewer, larger steps are faster, and the scores are the same."""


NO_AUGMENTATION = Augmentation()


class Images(Dataset[Batch]):
    """Images and labels in memory.

    Args:
        images: `(N, 28, 28)` uint8.
        labels: `(N,)` uint8.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: Tensor) -> Batch:
        """Returns a whole batch by one index operation on each tensor."""
        return self.images[indices], self.labels[indices]

    __getitem__ = __getitems__  # what DataLoader calls when its sampler yields batches


def make_generator(*keys: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Returns a generator whose numbers are a function of all keys; torch's own seeds count modulo 2^32 only."""
    return torch.Generator(device).manual_seed(int(np.random.SeedSequence(keys).generate_state(1)[0]))


class Batches(DistributedSampler[Tensor]):
    """Yields the indices of a batch at a time; the order is a function of seed and epoch alone.

    Every process gets as many batches as the others, and every image is in exactly one of them: torch's own
    sampler repeats images to fill up the last one, which makes scores over several processes wrong.

    Args:
        indices: `(N,)` int64, the images to draw from.
        batch_size: Images in a batch, or one more; batches differ by one image, so that none is much smaller.
        seed: Shuffles anew each epoch; `None` keeps the order.
        rank: Which process this is.
        num_replicas: How many processes share the images.
    """

    def __init__(
        self, indices: Tensor, batch_size: int, seed: int | None = None, rank: int = 0, num_replicas: int = 1
    ) -> None:
        # Lightning tells such a sampler the epoch, and puts none of its own around it.
        super().__init__(Images(indices, indices), num_replicas, rank, shuffle=seed is not None, seed=seed or 0)
        self.indices = indices
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.indices) // self.num_replicas / self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        indices = self.indices
        if self.shuffle:
            indices = indices[torch.randperm(len(indices), generator=make_generator(self.seed, self.epoch))]
        yield from indices[self.rank :: self.num_replicas].tensor_split(len(self))


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Divides images in two, so that each class has its share in both.

    Args:
        labels: `(N,)` integers.
        fraction: Share of the second part, between 0 and 1.
        seed: The only source of chance.

    Returns:
        Indices of the first and of the second part, int64, each in ascending order.

    Raises:
        ValueError: A part would be empty.
    """
    num_images = len(labels)
    num_chosen = round(num_images * fraction)
    if not 0 < num_chosen < num_images:
        raise ValueError(f"validation_fraction {fraction} leaves a part of {num_images} images empty; try 0.1")
    shuffled = torch.randperm(num_images, generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    evenly_spaced = (2 * torch.arange(num_chosen) + 1) * num_images // (2 * num_chosen)
    chosen = torch.zeros(num_images, dtype=torch.bool)
    chosen[by_class[evenly_spaced]] = True
    return chosen.logical_not().nonzero().squeeze(1), chosen.nonzero().squeeze(1)


class MNISTDataModule(LightningDataModule):
    """MNIST and its relatives: official training images split in two, official test images for test and predict.

    Args:
        dataset: MNIST, FashionMNIST, KMNIST, QMNIST, EMNISTDigits or EMNISTBalanced.
        data_dir: Folder of the datasets that don't come with the package, laid out as torchvision does.
        batch_size: Images a training step and process.
        validation_fraction: Share of the training images that is set apart for validation, between 0 and 1.
        split_seed: Decides which ones; nothing else does.
        num_workers: Processes that load batches; 0 is fastest for images in memory.
        mean: Mean to normalise with, in [0, 1]; default: the dataset's own.
        std: Standard deviation to normalise with; default: the dataset's own.
        augmentation: How training images are distorted; default: not at all.

    Attributes:
        class_names: In the order of the labels.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        dataset: str = "MNIST",
        data_dir: str = "data",
        batch_size: int = 128,
        validation_fraction: float = 0.1,
        split_seed: int = 0,
        num_workers: int = 0,
        mean: float | None = None,
        std: float | None = None,
        augmentation: Augmentation = NO_AUGMENTATION,
    ) -> None:
        super().__init__()
        source = sources.find_source(dataset)
        mean = source.mean if mean is None else mean
        std = source.std if std is None else std
        is_fraction = 0 < validation_fraction < 1
        check_range("batch_size", batch_size, batch_size > 0, "1 or more, such as 128")
        check_range("validation_fraction", validation_fraction, is_fraction, "between 0 and 1, such as 0.1")
        check_range("num_workers", num_workers, num_workers >= 0, "0 or more")
        check_range("std", std, std > 0, "more than 0, such as 0.3")
        self.save_hyperparameters(ignore="augmentation")
        self.save_hyperparameters({"augmentation": dataclasses.asdict(augmentation)})  # as checkpoints can hold it
        self.dataset = dataset
        self.data_dir = Path(data_dir)
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.split_seed = split_seed
        self.num_workers = num_workers
        self.mean = mean
        self.std = std
        self.augmentation = augmentation
        self.class_names = list(source.class_names)
        self.first_epoch = 0

    @property
    def seed(self) -> int:
        """The run's seed, from where `seed_everything` leaves it for every process."""
        return int(os.environ.get("PL_GLOBAL_SEED", 0))

    def prepare_data(self) -> None:
        """Downloads what is missing, in one process of each machine, before the others look for it."""
        if not sources.find_source(self.dataset).is_bundled:
            sources.load(self.dataset, "train", self.data_dir)
            sources.load(self.dataset, "test", self.data_dir)

    def setup(self, stage: str) -> None:
        """Reads the images of a stage: the training images for `fit` and `validate`, else the test images."""
        if stage in ("fit", "validate"):
            if not hasattr(self, "train_indices"):
                self.train_images = Images(*sources.load(self.dataset, "train", self.data_dir))
                self.train_indices, self.val_indices = stratified_split(
                    self.train_images.labels, self.validation_fraction, self.split_seed
                )
        elif not hasattr(self, "test_images"):
            self.test_images = Images(*sources.load(self.dataset, "test", self.data_dir))
            self.test_indices = torch.arange(len(self.test_images))

    def use_test_images(self, images: Tensor) -> None:
        """Puts other images, `(N, 28, 28)` uint8, in the place of the test images; their labels are all 0."""
        self.test_images = Images(images, torch.zeros(len(images), dtype=torch.uint8))
        self.test_indices = torch.arange(len(images))

    def state_dict(self) -> dict[str, Any]:
        """Returns which epoch a resumed run begins with."""
        assert self.trainer
        return {"epoch": self.trainer.fit_loop.epoch_progress.current.processed}  # type: ignore[attr-defined]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a saved state."""
        self.first_epoch = state_dict["epoch"]

    def _loader(self, images: Images, indices: Tensor, batch_size: int, seed: int | None = None) -> DataLoader[Batch]:
        rank, num_replicas = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        batches = Batches(indices, batch_size, seed, rank, num_replicas)
        batches.set_epoch(self.first_epoch)  # Lightning does later, when other processes have loaded batches already
        return DataLoader(
            images,
            batch_size=None,  # the sampler yields whole batches
            sampler=batches,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            generator=torch.Generator(),  # or each epoch would draw from the numbers that dropout uses
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Returns the training batches, shuffled by the run's seed and the epoch."""
        return self._loader(self.train_images, self.train_indices, self.batch_size, self.seed)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Returns the validation batches."""
        return self._loader(self.train_images, self.val_indices, EVALUATION_BATCH_SIZE)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Returns the official test images in batches, in their order."""
        return self._loader(self.test_images, self.test_indices, EVALUATION_BATCH_SIZE)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Returns the same as `test_dataloader`."""
        return self.test_dataloader()

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augments a training batch and normalises any batch, on its device.

        Args:
            batch: Images `(N, 28, 28)` uint8 and labels `(N,)` uint8.
            dataloader_idx: Not used.

        Returns:
            Images `(N, 1, 28, 28)` float32 and labels `(N,)` int64.
        """
        images, labels = batch
        pixels = scale(images)
        if self.trainer and self.trainer.training:
            place = (self.seed, self.trainer.global_rank, self.trainer.fit_loop.total_batch_idx + 1)
            pixels = self.augmentation(pixels, make_generator(*place, device=pixels.device))
        return pixels.sub_(self.mean).div_(self.std), labels.long()
