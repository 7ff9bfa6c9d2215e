"""The data module: a fixed stratified split, and batches drawn by a single indexing operation."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from mnist_lightning.data import image_folder, sources
from mnist_lightning.data.augmentation import Augmentation, make_generator
from mnist_lightning.data.outliers import make_outliers
from mnist_lightning.errors import check_range
from mnist_lightning.images import InputFormat

EVALUATION_BATCH_SIZE = 1000  # in steps without gradients: fewer, larger ones are faster, and the scores are the same
NO_AUGMENTATION = Augmentation()

Batch = tuple[Tensor, Tensor]  # images and labels


def scale(images: Tensor) -> Tensor:
    """Returns pixels `(N, C, H, W)` float32 in [0, 1] for images `(N, H, W)` or `(N, H, W, 3)` uint8."""
    return (images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)).float().div_(255)


def normalize(images: Tensor, mean: float, std: float) -> Tensor:
    """Returns images as the networks see them: scaled as above, and normalized."""
    return scale(images).sub_(mean).div_(std)


class Batches(DistributedSampler[Tensor]):
    """Yields the indices of one batch at a time; the order is a function of seed and epoch alone.

    Each process gets as many batches as the others, and each image is in exactly one of them. torch's own sampler
    repeats images to fill the last batch, which skews scores over several processes. Batches differ by at most
    one image in size, so that none is much smaller. Without a seed, the order of the indices, `(N,)` int64, stays.
    """

    def __init__(
        self, indices: Tensor, batch_size: int, seed: int | None = None, rank: int = 0, num_replicas: int = 1
    ) -> None:
        # Lightning calls `set_epoch` on a DistributedSampler, and does not replace it.
        super().__init__(TensorDataset(indices), num_replicas, rank, shuffle=seed is not None, seed=seed or 0)
        self.indices, self.batch_size = indices, batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.indices) // self.num_replicas / self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        indices = self.indices
        if self.shuffle:
            indices = indices[torch.randperm(len(indices), generator=make_generator(self.seed, self.epoch))]
        yield from indices[self.rank :: self.num_replicas].tensor_split(len(self))


class MNISTDataModule(LightningDataModule):
    """A dataset: its training images split in two, its test images for test and predict.

    Args:
        dataset: MNIST, FashionMNIST, KMNIST, QMNIST, EMNISTDigits, EMNISTBalanced, or ImageFolder: your own pictures.
        data_dir: Folder of the datasets that don't come with the package, in torchvision's layout.
        batch_size: Images in a training step of each process.
        validation_fraction: Fraction of the training images used for validation, between 0 and 1.
        split_seed: Decides which ones, independently of `seed`.
        num_workers: Processes that load batches; 0 is fastest for images in memory.
        mean: Mean to normalize with, in [0, 1]; by default the dataset's own, of all channels.
        std: Standard deviation to normalize with; by default the dataset's own.
        image_size: Height and width that pictures of an ImageFolder are resized to, in pixels.
        channels: 1 for gray, 3 for color, of an ImageFolder.
        class_names: Classes of an ImageFolder, in the order of the labels; by default the names of its folders.
        augmentation: Distortions of the training images; default: none.
        outliers: Pictures without a digit that are added to a training batch, as a fraction of it; for digits alone.
        seed: Decides the order and the augmentation of the training images; on the command line, `seed_everything`.
    """

    is_handwriting = False  # whether digits are found in a picture of your own; otherwise, all of it is resized
    first_epoch = 0  # where training starts; more than 0 in a resumed run

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
        image_size: int = 28,
        channels: Literal[1, 3] = 1,
        class_names: Sequence[str] | None = None,
        augmentation: Augmentation = NO_AUGMENTATION,
        outliers: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_range("batch_size", batch_size, batch_size > 0, "1 or more, such as 128")
        check_range("num_workers", num_workers, num_workers >= 0, "0 or more")
        self.dataset, self.data_dir, self.split_seed = dataset, Path(data_dir), split_seed
        self.batch_size, self.validation_fraction, self.num_workers = batch_size, validation_fraction, num_workers
        self.augmentation, self.outliers, self.seed = augmentation, outliers, seed
        shape = self.image_size, self.channels = image_size, channels
        if dataset == image_folder.NAME:
            check_range("image_size", image_size, image_size >= 8, "8 or more, such as 64")
            class_names = self.class_names = list(class_names or image_folder.find_classes(self.data_dir))
            if mean is None or std is None:
                self.setup("fit")
                own_mean, own_std = image_folder.measure(self.train_images)
        else:
            source = sources.find_source(dataset)
            check_range("image_size, channels", shape, shape == (28, 1), f"(28, 1) for {dataset}")
            class_names = self.class_names = list(source.class_names)
            self.is_handwriting, own_mean, own_std = source.is_handwriting, source.mean, source.std
        self.mean = mean = own_mean if mean is None else mean
        self.std = std = own_std if std is None else std
        check_range("std", std, std > 0, "more than 0, such as 0.3")
        self.save_hyperparameters(ignore="augmentation")
        self.save_hyperparameters({"augmentation": dataclasses.asdict(augmentation)})  # plain numbers, for checkpoints

    def prepare_data(self) -> None:
        """Downloads what is missing, in one process of each machine."""
        if self.dataset != image_folder.NAME and not sources.SOURCES[self.dataset].is_bundled:
            sources.load(self.dataset, "train", self.data_dir)
            sources.load(self.dataset, "test", self.data_dir)

    def setup(self, stage: str) -> None:
        """Reads the images of a stage: the training images for `fit` and `validate`, else the test images."""
        has_digits = self.is_handwriting and self.class_names == list("0123456789")
        for name, value in (("outliers", self.outliers), ("augmentation.flags", self.augmentation.flags)):
            is_allowed = value == 0 or (has_digits and 0 < value < math.inf)
            check_range(name, value, is_allowed, "0, or for handwritten digits, more than 0, such as 0.25")
        if stage in ("fit", "validate"):
            if not hasattr(self, "train_indices"):
                self.train_images, self.train_labels = self._read("train")
                parts = sources.stratified_split(self.train_labels, self.validation_fraction, self.split_seed)
                self.train_indices, self.val_indices = parts
        elif not hasattr(self, "test_images"):
            self.test_images, self.test_labels = self._read("test")

    def _read(self, split: sources.Split) -> tuple[Tensor, Tensor]:
        if self.dataset != image_folder.NAME:
            return sources.load(self.dataset, split, self.data_dir)
        inputs = InputFormat(self.image_size, self.channels)
        return image_folder.load(self.data_dir, split, self.class_names, inputs, self.split_seed)

    def _loader(
        self, images: Tensor, labels: Tensor, indices: Tensor, batch_size: int = 0, seed: int | None = None
    ) -> DataLoader[Batch]:
        rank, num_replicas = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        batches = Batches(indices, batch_size or EVALUATION_BATCH_SIZE, seed, rank, num_replicas)
        batches.set_epoch(self.first_epoch)  # Lightning does so too late for batches that workers load
        return DataLoader(
            TensorDataset(images, labels),  # type: ignore[arg-type]  # the sampler yields whole batches
            batch_size=None,
            sampler=batches,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            generator=torch.Generator(),  # otherwise each epoch would draw from the generator that dropout uses
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.train_images, self.train_labels, self.train_indices, self.batch_size, self.seed)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.train_images, self.train_labels, self.val_indices)

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.test_images, self.test_labels, torch.arange(len(self.test_labels)))

    predict_dataloader = test_dataloader

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augments a training batch and normalizes any batch, on its device.

        Images become `(N, C, H, W)` float32, and labels `(N,)` int64. Outliers come last and have no labels.
        """
        images, labels = batch
        pixels = scale(images)
        if self.trainer and self.trainer.training and (self.outliers or self.augmentation != NO_AUGMENTATION):
            keys = (self.seed, self.trainer.global_rank, self.trainer.fit_loop.total_batch_idx + 1)
            generator = make_generator(*keys, device=pixels.device)
            if num_outliers := round(self.outliers * len(labels)):
                pixels = torch.cat([pixels, make_outliers(pixels, labels, num_outliers, generator)])
            pixels = self.augmentation(pixels, generator, F.pad(labels == 1, (0, len(pixels) - len(labels))))
        return pixels.sub_(self.mean).div_(self.std), labels.long()
