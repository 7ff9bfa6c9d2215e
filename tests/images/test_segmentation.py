"""Ink is divided into digits, and specks are left out."""

import numpy as np
import pytest

from mnist_lightning.errors import UserError
from mnist_lightning.images.reading import Gray
from mnist_lightning.images.segmentation import Box, merge, split


def page(*boxes: tuple[int, int, int, int]) -> Gray:
    """Returns a page with boxes of ink, each from its top left to its bottom right: rows and columns."""
    ink = np.zeros((200, 300), np.float32)
    for top, left, bottom, right in boxes:
        ink[top:bottom, left:right] = 1
    return ink


def edges(box: Box) -> tuple[int, int, int, int]:
    rows, columns = box
    return rows.start, columns.start, rows.stop, columns.stop


FIRST, SECOND, BELOW = (20, 20, 70, 50), (26, 80, 76, 110), (120, 30, 170, 60)
SPECK = (10, 200, 12, 201)


def test_digits_are_sorted_into_lines() -> None:
    lines = split(page(BELOW, SECOND, FIRST), True)
    assert [[edges(piece.box) for piece in line] for line in lines] == [[FIRST, SECOND], [BELOW]]
    assert all(piece.mask.all() for line in lines for piece in line)


@pytest.mark.parametrize("stroke", [(8, 22, 14, 48), (75, 22, 81, 48)], ids=["above", "below"])
def test_loose_stroke_belongs_to_its_digit(stroke: tuple[int, int, int, int]) -> None:
    (line,) = split(page(FIRST, SECOND, stroke), True)
    assert [edges(piece.box) for piece in line] == [
        (min(FIRST[0], stroke[0]), 20, max(FIRST[2], stroke[2]), 50),
        SECOND,
    ]


def test_ink_of_a_neighboring_digit_is_masked() -> None:
    ink = page(FIRST, (20, 20, 26, 100), (40, 70, 90, 100))  # the first digit's bar reaches over the second
    pieces = [piece for line in split(ink, True) for piece in line]
    first = next(piece for piece in pieces if edges(piece.box) == (20, 20, 70, 100))
    assert first.mask[:50, :30].all()
    assert not first.mask[30:, 55:].any()


def test_specks_and_dashes_are_not_digits() -> None:
    dash = (50, 150, 54, 180)
    (line,) = split(page(FIRST, SECOND, SPECK, dash), True)
    assert [edges(piece.box) for piece in line] == [FIRST, SECOND]
    ((piece,),) = merge(page(FIRST, SPECK), True)
    assert edges(piece.box) == FIRST


def test_merge_keeps_all_strokes_and_drops_shadows_at_the_edge() -> None:
    shadow = (180, 0, 200, 20)
    ((piece,),) = merge(page(FIRST, SECOND, shadow), False)
    assert edges(piece.box) == (20, 20, 76, 110)


def test_image_with_only_specks_has_no_lines() -> None:
    specks = np.zeros((200, 300), np.float32)
    specks[5::5, 5::5] = 1
    assert merge(specks, True) == []
    assert split(page((10, 10, 11, 11)), True) == []
    with pytest.raises(UserError, match=r"^there are 2,301 specks, and at most 1,000 are searched$"):
        split(specks, True)
