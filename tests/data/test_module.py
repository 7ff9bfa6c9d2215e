"""The split is fixed, and every image is used once."""

import hashlib
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from mnist_lightning.data.augmentation import Augmentation
from mnist_lightning.data.module import Batches, MNISTDataModule, normalize
from mnist_lightning.data.sources import stratified_split
from mnist_lightning.errors import UserError


@pytest.fixture(scope="module")
def mnist() -> MNISTDataModule:
    data = MNISTDataModule()
    data.setup("fit")
    data.setup("test")
    return data


def fake_trainer(rank: int = 0, num_processes: int = 1, epoch: int = 0, step: int = 0, training: bool = True) -> Any:
    """Returns what the data module reads from a trainer."""
    progress = SimpleNamespace(current=SimpleNamespace(processed=epoch))
    loop = SimpleNamespace(epoch_progress=progress, total_batch_idx=step)
    return SimpleNamespace(global_rank=rank, world_size=num_processes, fit_loop=loop, training=training)


def test_images_are_scaled_and_normalized() -> None:
    gray = torch.tensor([[[0, 51], [102, 255]]], dtype=torch.uint8)
    expected = torch.tensor([[[[-0.5, 0.5], [1.5, 4.5]]]])
    torch.testing.assert_close(normalize(gray, mean=0.1, std=0.2), expected)
    color = torch.stack([gray, gray, gray], -1)
    torch.testing.assert_close(normalize(color, mean=0.1, std=0.2), expected.expand(1, 3, 2, 2))


def test_mnist_split_matches_published_results(mnist: MNISTDataModule) -> None:
    train, val = mnist.train_indices, mnist.val_indices
    assert (len(train), len(val), len(mnist.test_labels)) == (54_000, 6_000, 10_000)
    assert sorted(torch.cat([train, val]).tolist()) == list(range(60_000))
    digest = hashlib.sha256(val.numpy().astype("<i4").tobytes()).hexdigest()
    assert digest == "0783be3ff7b72e0d9c9db0947c60b65c906b731be5728a7c61e930f15d6fbf61"


def test_split_is_stratified(mnist: MNISTDataModule) -> None:
    labels = mnist.train_labels
    all_counts, val_counts = labels.bincount(), labels[mnist.val_indices].bincount()
    assert ((val_counts - all_counts * 0.1).abs() < 1).all()


def test_split_depends_on_its_seed_alone() -> None:
    labels = torch.arange(1000) % 7
    torch.manual_seed(1)
    first = stratified_split(labels, 0.3, seed=5)
    torch.manual_seed(2)
    again = stratified_split(labels, 0.3, seed=5)
    other = stratified_split(labels, 0.3, seed=6)
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
    assert len(first[1]) == 300


@pytest.mark.parametrize("fraction", [-1, 0.0001, 0.9999, 1.5])
def test_empty_part_of_a_split_is_reported(fraction: float) -> None:
    with pytest.raises(UserError) as error:
        stratified_split(torch.zeros(100, dtype=torch.uint8), fraction, seed=0)
    assert str(error.value) == f"validation_fraction {fraction} of 100 images leaves a part empty; try 0.1"


@pytest.mark.parametrize(
    ("num_images", "batch_size", "num_replicas", "seed"),
    list(itertools.product([10, 97, 1000], [1, 7, 128], [1, 2, 3], [None, 3])),
)
def test_every_image_is_in_one_batch_of_one_process(
    num_images: int, batch_size: int, num_replicas: int, seed: int | None
) -> None:
    indices = torch.arange(num_images) + 5
    parts = [list(Batches(indices, batch_size, seed, rank, num_replicas)) for rank in range(num_replicas)]
    drawn = torch.cat([batch for part in parts for batch in part])
    assert sorted(drawn.tolist()) == indices.tolist()
    assert len({len(part) for part in parts}) == 1
    sizes = {len(batch) for part in parts for batch in part}
    assert min(sizes) > 0
    assert max(sizes) <= batch_size + (num_replicas > 1)
    assert all(len(part) == len(Batches(indices, batch_size, seed, 0, num_replicas)) for part in parts)


def test_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        batches = Batches(torch.arange(100), 10, seed)
        batches.set_epoch(epoch)
        return torch.cat(list(batches)).tolist()

    torch.manual_seed(4)
    first = order(0, 1)
    torch.manual_seed(5)
    assert order(0, 1) == first
    assert order(0, 2) != first
    assert order(1, 1) != first
    assert torch.cat(list(Batches(torch.arange(100), 10))).tolist() == list(range(100))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_are_uint8_until_they_are_on_the_device(tiny: Path, num_workers: int) -> None:
    data = MNISTDataModule("Tiny", str(tiny), batch_size=64, num_workers=num_workers)
    data.setup("fit")
    data.trainer = fake_trainer()
    images, labels = next(iter(data.train_dataloader()))
    assert (images.dtype, tuple(images.shape[1:]), labels.dtype) == (torch.uint8, (28, 28), torch.uint8)
    normalized, targets = data.on_after_batch_transfer((images, labels), 0)
    assert (normalized.dtype, tuple(normalized.shape[1:]), targets.dtype) == (torch.float32, (1, 28, 28), torch.int64)
    torch.testing.assert_close(normalized[:, 0], (images / 255 - 0.2) / 0.3)


def test_seed_decides_the_order_of_the_training_images(tiny: Path) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        data = MNISTDataModule("Tiny", str(tiny), seed=seed)
        data.setup("fit")
        data.trainer = fake_trainer(epoch=epoch)
        data.first_epoch = epoch
        return torch.cat([labels for _, labels in data.train_dataloader()]).tolist()

    first = order(0, 0)
    assert order(0, 0) == first
    assert order(1, 0) != first
    assert order(0, 1) != first  # a resumed run starts with the order of its epoch


def test_augmentation_depends_on_seed_process_and_step_in_training_only(tiny: Path) -> None:
    images, labels = torch.randint(0, 256, (5, 28, 28), dtype=torch.uint8), torch.zeros(5, dtype=torch.uint8)

    def augmented(seed: int = 0, **options: Any) -> Tensor:
        data = MNISTDataModule("Tiny", str(tiny), augmentation=Augmentation(rotation=15), seed=seed)
        data.trainer = fake_trainer(**options)
        return data.on_after_batch_transfer((images, labels), 0)[0]

    first = augmented()
    assert torch.equal(augmented(), first)
    for other in (augmented(seed=1), augmented(rank=1), augmented(step=1)):
        assert not torch.equal(other, first)
    assert torch.equal(augmented(training=False), normalize(images, 0.2, 0.3))


def test_test_images_are_the_official_ones_in_their_order(mnist: MNISTDataModule) -> None:
    labels = torch.cat([labels for _, labels in mnist.test_dataloader()])
    assert torch.equal(labels, mnist.test_labels)
    assert labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def test_setup_keeps_test_images_that_are_already_there(tiny: Path) -> None:
    data = MNISTDataModule("Tiny", str(tiny))
    mine, none = torch.randint(0, 256, (3, 28, 28), dtype=torch.uint8), torch.zeros(3, dtype=torch.uint8)
    data.test_images, data.test_labels = mine, none
    data.setup("predict")
    ((images, labels),) = data.predict_dataloader()
    assert torch.equal(images, mine)
    assert torch.equal(labels, none)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size 0 is not allowed; it must be 1 or more, such as 128"),
        ({"num_workers": -1}, "num_workers -1 is not allowed; it must be 0 or more"),
        ({"std": 0.0}, "std 0.0 is not allowed; it must be more than 0, such as 0.3"),
        (
            {"dataset": "CIFAR"},
            "dataset CIFAR is not allowed; it must be one of MNIST, FashionMNIST, KMNIST, QMNIST, EMNISTDigits, "
            "EMNISTBalanced or ImageFolder",
        ),
    ],
)
def test_wrong_arguments_are_reported(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        MNISTDataModule(**options)
    assert str(error.value) == message


@pytest.mark.parametrize("kind", ["train", "val", "test"])
def test_processes_divide_the_images(tiny: Path, kind: str) -> None:
    drawn = []
    for rank in range(3):
        data = MNISTDataModule("Tiny", str(tiny), batch_size=7)
        data.trainer = fake_trainer(rank, num_processes=3)
        data.setup("fit")
        data.setup("test")
        drawn += [image.numpy().tobytes() for images, _ in getattr(data, f"{kind}_dataloader")() for image in images]
    images = data.test_images if kind == "test" else data.train_images[getattr(data, f"{kind}_indices")]
    assert sorted(drawn) == sorted(image.tobytes() for image in images.numpy())
