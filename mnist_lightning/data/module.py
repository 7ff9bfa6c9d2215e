"""The data module: a fixed stratified split, and batches drawn by a single indexing operation."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from mnist_lightning.data import reading, sources
from mnist_lightning.data.augmentation import Augmentation
from mnist_lightning.errors import UserError, check_range

EVALUATION_BATCH_SIZE = 1000
"""Images in a step without gradients: fewer, larger steps are faster, and the scores are the same."""
NO_AUGMENTATION = Augmentation()

Batch = tuple[Tensor, Tensor]  # images and labels


def scale(images: Tensor) -> Tensor:
    """Returns pixels `(N, 1, 28, 28)` float32 in [0, 1] for images `(N, 28, 28)` uint8."""
    return images.unsqueeze(1).float().div_(255)


def normalize(images: Tensor, mean: float, std: float) -> Tensor:
    """Returns images `(N, 28, 28)` uint8 as the networks see them: scaled and normalized, `(N, 1, 28, 28)` float32."""
    return scale(images).sub_(mean).div_(std)


def make_generator(*keys: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Returns a generator that is seeded by all keys."""
    return torch.Generator(device).manual_seed(int(np.random.SeedSequence(keys).generate_state(1)[0]))


class Batches(DistributedSampler[Tensor]):
    """Yields the indices of one batch at a time; the order is a function of seed and epoch alone.

    Each process gets as many batches as the others, and each image is in exactly one of them. torch's own sampler
    repeats images to fill the last batch, which skews scores over several processes. Batches differ by at most
    one image in size, so that none is much smaller.

    Args:
        indices: `(N,)` int64, the images to draw from.
        batch_size: Images in a batch.
        seed: Shuffles again in each epoch; `None` keeps the order.
        rank: Index of this process.
        num_replicas: Number of processes that share the images.
    """

    def __init__(
        self, indices: Tensor, batch_size: int, seed: int | None = None, rank: int = 0, num_replicas: int = 1
    ) -> None:
        # Lightning calls `set_epoch` on a DistributedSampler, and does not replace it.
        super().__init__(TensorDataset(indices), num_replicas, rank, shuffle=seed is not None, seed=seed or 0)
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
    """Splits images in two, with the same proportion of classes in both parts; the seed alone decides how.

    Returns:
        Indices of the first part, and of the second, which has the given fraction: int64, in ascending order.
    """
    num_images = len(labels)
    num_chosen = round(num_images * fraction)
    if not 0 < num_chosen < num_images:
        raise UserError(f"validation_fraction {fraction} of {num_images} images leaves a part empty; try 0.1")
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
        data_dir: Folder of the datasets that don't come with the package, in torchvision's layout.
        batch_size: Images in a training step of each process.
        validation_fraction: Fraction of the training images used for validation, between 0 and 1.
        split_seed: Decides which ones, independently of `seed`.
        num_workers: Processes that load batches; 0 is fastest for images in memory.
        mean: Mean to normalize with, in [0, 1]; by default the dataset's own.
        std: Standard deviation to normalize with; by default the dataset's own.
        augmentation: Distortions of the training images; default: none.
        seed: Decides the order and the augmentation of the training images; on the command line, `seed_everything`.

    Attributes:
        class_names: In the order of the labels.
        first_epoch: Where training starts; more than 0 in a resumed run.

    Raises:
        UserError: An argument is out of its range.
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
        seed: int = 0,
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
        self.save_hyperparameters({"augmentation": dataclasses.asdict(augmentation)})  # plain numbers, for checkpoints
        self.dataset = dataset
        self.data_dir = Path(data_dir)
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.split_seed = split_seed
        self.num_workers = num_workers
        self.mean = mean
        self.std = std
        self.augmentation = augmentation
        self.seed = seed
        self.class_names = list(source.class_names)
        self.first_epoch = 0

    def prepare_data(self) -> None:
        """Downloads what is missing, in one process of each machine."""
        if not sources.find_source(self.dataset).is_bundled:
            reading.load(self.dataset, "train", self.data_dir)
            reading.load(self.dataset, "test", self.data_dir)

    def setup(self, stage: str) -> None:
        """Reads the images of a stage: the training images for `fit` and `validate`, else the test images."""
        if stage in ("fit", "validate"):
            if not hasattr(self, "train_indices"):
                self.train_images, self.train_labels = reading.load(self.dataset, "train", self.data_dir)
                self.train_indices, self.val_indices = stratified_split(
                    self.train_labels, self.validation_fraction, self.split_seed
                )
        elif not hasattr(self, "test_images"):
            self.test_images, self.test_labels = reading.load(self.dataset, "test", self.data_dir)

    def use_test_images(self, images: Tensor) -> None:
        """Replaces the test images with unlabeled ones, `(N, 28, 28)` uint8; all labels are 0."""
        self.test_images, self.test_labels = images, torch.zeros(len(images), dtype=torch.uint8)

    def _loader(self, images: Tensor, labels: Tensor, batches: Batches) -> DataLoader[Batch]:
        return DataLoader(
            TensorDataset(images, labels),  # type: ignore[arg-type]  # the sampler yields whole batches
            batch_size=None,
            sampler=batches,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            generator=torch.Generator(),  # otherwise each epoch would draw from the generator that dropout uses
        )

    def _batches(self, indices: Tensor, batch_size: int = 0, seed: int | None = None) -> Batches:
        rank, num_replicas = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return Batches(indices, batch_size or EVALUATION_BATCH_SIZE, seed, rank, num_replicas)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Returns the training batches, shuffled by seed and epoch."""
        batches = self._batches(self.train_indices, self.batch_size, self.seed)
        batches.set_epoch(self.first_epoch)  # Lightning does so too late for batches that workers load
        return self._loader(self.train_images, self.train_labels, batches)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Returns the validation batches."""
        return self._loader(self.train_images, self.train_labels, self._batches(self.val_indices))

    def test_dataloader(self) -> DataLoader[Batch]:
        """Returns the official test images in batches, in their order."""
        batches = self._batches(torch.arange(len(self.test_labels)))
        return self._loader(self.test_images, self.test_labels, batches)

    predict_dataloader = test_dataloader

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augments a training batch and normalizes any batch, on its device.

        Images `(N, 28, 28)` and labels `(N,)`, uint8, become `(N, 1, 28, 28)` float32 and `(N,)` int64.
        """
        images, labels = batch
        pixels = scale(images)
        if self.trainer and self.trainer.training and self.augmentation != NO_AUGMENTATION:
            keys = (self.seed, self.trainer.global_rank, self.trainer.fit_loop.total_batch_idx + 1)
            pixels = self.augmentation(pixels, make_generator(*keys, device=pixels.device))
        return pixels.sub_(self.mean).div_(self.std), labels.long()
