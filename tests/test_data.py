"""The split is fixed, every image is used once, and wrong arguments are told."""

import hashlib
import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mnist_lightning.data import Batches, MNISTDataModule, stratified_split


@pytest.fixture(scope="module")
def mnist() -> MNISTDataModule:
    data = MNISTDataModule()
    data.setup("fit")
    data.setup("test")
    return data


def test_mnist_is_split_as_published(mnist: MNISTDataModule) -> None:
    train, val = mnist.train_indices, mnist.val_indices
    assert (len(train), len(val), len(mnist.test_indices)) == (54_000, 6_000, 10_000)
    assert sorted(torch.cat([train, val]).tolist()) == list(range(60_000))
    # The split that every published figure stands on.
    digest = hashlib.sha256(val.numpy().astype("<i4").tobytes()).hexdigest()
    assert digest == "0783be3ff7b72e0d9c9db0947c60b65c906b731be5728a7c61e930f15d6fbf61"


def test_each_class_has_its_share(mnist: MNISTDataModule) -> None:
    labels = mnist.train_images.labels
    all_counts, val_counts = labels.bincount(), labels[mnist.val_indices].bincount()
    assert ((val_counts - all_counts * 0.1).abs() < 1).all()


def test_the_split_depends_on_its_seed_alone() -> None:
    labels = torch.arange(1000) % 7
    torch.manual_seed(1)
    first = stratified_split(labels, 0.3, seed=5)
    torch.manual_seed(2)
    again = stratified_split(labels, 0.3, seed=5)
    other = stratified_split(labels, 0.3, seed=6)
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
    assert len(first[1]) == 300


@pytest.mark.parametrize("fraction", [0.0001, 0.9999])
def test_an_empty_part_is_told(fraction: float) -> None:
    with pytest.raises(
        ValueError, match=rf"^validation_fraction {fraction} leaves a part of 100 images empty; try 0.1$"
    ):
        stratified_split(torch.zeros(100, dtype=torch.uint8), fraction, seed=0)


@pytest.mark.parametrize(
    ("num_images", "batch_size", "num_replicas", "seed"),
    list(itertools.product([10, 97, 1000], [1, 7, 128], [1, 2, 3], [None, 3])),
)
def test_every_image_is_in_one_batch_of_one_process(
    num_images: int, batch_size: int, num_replicas: int, seed: int | None
) -> None:
    indices = torch.arange(num_images) + 5
    shares = [list(Batches(indices, batch_size, seed, rank, num_replicas)) for rank in range(num_replicas)]
    drawn = torch.cat([batch for share in shares for batch in share])
    assert sorted(drawn.tolist()) == indices.tolist()
    assert len({len(share) for share in shares}) == 1
    sizes = {len(batch) for share in shares for batch in share}
    assert min(sizes) > 0
    assert max(sizes) <= batch_size + (num_replicas > 1)
    assert all(len(share) == len(Batches(indices, batch_size, seed, 0, num_replicas)) for share in shares)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
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
    images, labels = next(iter(data.train_dataloader()))
    assert (images.dtype, tuple(images.shape[1:]), labels.dtype) == (torch.uint8, (28, 28), torch.uint8)
    normalised, targets = data.on_after_batch_transfer((images, labels), 0)
    assert (normalised.dtype, tuple(normalised.shape[1:]), targets.dtype) == (torch.float32, (1, 28, 28), torch.int64)
    torch.testing.assert_close(normalised[:, 0], (images / 255 - 0.2) / 0.3)


def test_test_images_are_the_official_ones_in_their_order(mnist: MNISTDataModule) -> None:
    labels = torch.cat([labels for _, labels in mnist.test_dataloader()])
    assert torch.equal(labels, mnist.test_images.labels)
    assert labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size 0 is not allowed; it must be 1 or more, such as 128"),
        (
            {"validation_fraction": 1.5},
            "validation_fraction 1.5 is not allowed; it must be between 0 and 1, such as 0.1",
        ),
        ({"num_workers": -1}, "num_workers -1 is not allowed; it must be 0 or more"),
        (
            {"dataset": "CIFAR"},
            "dataset 'CIFAR' is not known; choose one of "
            "MNIST, FashionMNIST, KMNIST, QMNIST, EMNISTDigits, EMNISTBalanced",
        ),
    ],
)
def test_wrong_arguments_are_told(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as error:
        MNISTDataModule(**options)  # type: ignore[arg-type]
    assert str(error.value) == message


@pytest.mark.parametrize("kind", ["train", "val", "test"])
def test_processes_share_the_images(tiny: Path, kind: str) -> None:
    drawn = []
    for rank in range(3):
        data = MNISTDataModule("Tiny", str(tiny), batch_size=7)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=3)  # type: ignore[assignment]
        data.setup("fit")
        data.setup("test")
        drawn += [image.numpy().tobytes() for images, _ in getattr(data, f"{kind}_dataloader")() for image in images]
    images = data.test_images if kind == "test" else data.train_images
    indices = getattr(data, f"{kind}_indices")
    assert sorted(drawn) == sorted(images.images[index].numpy().tobytes() for index in indices)
