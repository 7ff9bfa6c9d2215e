"""Ink is separated from any paper."""

import numpy as np
import pytest

from mnist_lightning.errors import UserError
from mnist_lightning.images.ink import find_ink
from mnist_lightning.images.reading import Gray

STROKES = np.zeros((300, 400), bool)
STROKES[80:220, 120:138] = STROKES[80:98, 120:240] = STROKES[140:158, 120:240] = True


def paper(kind: str) -> Gray:
    """Returns an empty sheet, dark enough that ink can be brighter, and bright enough that it can be darker."""
    rows, columns = np.mgrid[0:300, 0:400].astype(np.float32)
    generator = np.random.default_rng(0)
    sheet = 0.55 + generator.normal(0, 0.01, (300, 400)).astype(np.float32)
    if kind == "gradient":
        sheet += 0.5 * ((rows / 300) ** 2 - (columns / 400) ** 2)
    elif kind == "ruled":
        sheet -= 0.1 * np.clip(2 - np.abs((rows + 0.01 * columns) % 70 - 35), 0, 1)
    elif kind == "grid":
        sheet[(rows % 70 < 3) | (columns % 70 < 3)] -= 0.1
    elif kind == "shadow in a corner":
        sheet[:100, 300:] -= 0.3
    return sheet


@pytest.mark.parametrize("contrast", [-0.35, 0.35], ids=["dark ink", "bright ink"])
@pytest.mark.parametrize("kind", ["even", "gradient", "ruled", "grid", "shadow in a corner"])
def test_strokes_are_found_on_any_paper(kind: str, contrast: float) -> None:
    ink, _ = find_ink(paper(kind) + contrast * STROKES.astype(np.float32))
    found = ink > 0.5
    assert (str(ink.dtype), ink.min(), ink.max()) == ("float32", 0, 1)
    assert (found & STROKES).sum() / (found | STROKES).sum() > 0.95


@pytest.mark.parametrize("kind", ["even", "gradient", "ruled", "grid"])
def test_empty_paper_is_blank(kind: str) -> None:
    with pytest.raises(UserError, match=r"^nothing stands out from the paper$"):
        find_ink(paper(kind))
