"""Of all parts of the ink, those that are digits are chosen."""

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks import strings
from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.images import Digit, choose, find_digits
from mnist_lightning.models.ensemble import rebuild
from mnist_lightning.runs import checkpoints
from mnist_lightning.runs.folders import PRETRAINED

IMAGE = np.zeros((28, 28), np.uint8)
# Two parts and the whole, then another digit.
INK = [Digit(IMAGE, 0, 0, 9, 9, 0, start, stop) for start, stop in ((0, 1), (1, 2), (0, 2), (2, 3))]


def rows(*tops: float) -> npt.NDArray[np.float32]:
    """Returns probabilities whose largest are given."""
    return np.array([[top, *[(1 - top) / 9] * 9] for top in tops], np.float32)


def test_parts_are_chosen_if_the_whole_is_no_digit() -> None:
    chosen, confidences = choose(INK, rows(0.99, 0.99, 0.1, 0.9))
    assert chosen == [0, 1, 3]
    assert 0.5 < confidences[0] < 0.99
    assert confidences[2] == pytest.approx(0.9)


def test_the_whole_is_chosen_if_it_is_a_digit_or_if_a_part_is_none() -> None:
    chosen, confidences = choose(INK, rows(0.9, 0.9, 0.99, 0.9))
    assert (chosen, confidences[0] > 0.9) == ([2, 3], True)
    assert choose(INK, rows(0.99, 0.1, 0.1, 0.9))[0] == [2, 3]


def test_two_readings_that_are_as_good_are_not_sure() -> None:
    _, confidences = choose(INK, rows(0.7, 0.7, 0.5, 0.9))
    assert confidences[0] < 0.6


@pytest.mark.slow
def test_more_than_half_of_the_numbers_whose_digits_touch_are_read() -> None:
    data, model, rng = MNISTDataModule(), rebuild(checkpoints.read(PRETRAINED)), np.random.default_rng(0)
    data.setup("fit")
    num_right = 0
    for members in data.val_indices[:120].view(30, 4):
        ink = strings.write_string(list(data.train_images[members].numpy()), rng, "touching")
        classes, _ = strings.read(model, strings.png(ink, rng))
        num_right += classes == data.train_labels[members].tolist()
    assert num_right > 15


def test_small_digits_of_a_large_page_and_of_a_long_strip_are_found() -> None:
    data, rng = MNISTDataModule(), np.random.default_rng(0)
    data.setup("fit")
    digits = list(data.train_images[data.val_indices[:90]].numpy())
    for ink in (strings.write_page(digits, rng, 30), strings.write_strip(digits, rng)):
        found = find_digits(strings.png(ink, rng), many=True)
        whole, _ = choose(found, np.full((len(found), 10), 0.1, np.float32))
        assert 88 <= len(whole) <= 92
