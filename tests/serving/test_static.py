"""What the page consists of: its colors, and the training digits that it compares with."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnist_lightning import serving
from mnist_lightning.data.module import MNISTDataModule
from tests.conftest import UInt8

STATIC = Path(serving.__file__).parent / "static"
TEXT, GRAPHICS = 4.5, 3.0  # least contrast, after WCAG 2.2, 1.4.3 and 1.4.11
CONTRASTS = {
    ("ink", "ground"): TEXT,
    ("ink", "paper"): TEXT,  # buttons
    ("faint", "ground"): TEXT,
    ("accent", "ground"): TEXT,  # messages, and the other way round the digits at the boxes
    ("accent", "paper"): GRAPHICS,
    ("bar", "paper"): GRAPHICS,
    ("line", "ground"): GRAPHICS,
    ("line", "paper"): GRAPHICS,
}


def luminance(color: str) -> float:
    """Returns the relative luminance of a color such as `#1d212b`, as WCAG defines it."""
    values = np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colors_have_enough_contrast(scheme: str) -> None:
    light, dark = re.findall(r":root \{(.*?)\}", (STATIC / "page.css").read_text(), re.DOTALL)
    colors = dict(re.findall(r"--(\w+): (#\w{6});", light if scheme == "light" else dark))
    assert {*colors} == {name for pair in CONTRASTS for name in pair}
    for (front, back), least in CONTRASTS.items():
        darker, brighter = sorted(luminance(colors[name]) for name in (front, back))
        assert (brighter + 0.05) / (darker + 0.05) >= least, (front, back)


def training_sheet() -> UInt8:
    """Returns the first 50 training images of each class, 25 in a row; `Image.fromarray` can save them again."""
    data = MNISTDataModule()
    data.setup("fit")
    images, labels = (part[data.train_indices].numpy() for part in (data.train_images, data.train_labels))
    chosen = np.concatenate([images[labels == label][:50] for label in range(10)])
    sheet: UInt8 = chosen.reshape(20, 25, 28, 28).swapaxes(1, 2).reshape(560, 700)
    return sheet


def test_page_has_the_first_training_digits_of_each_class() -> None:
    with Image.open(STATIC / "training.png") as sheet:
        assert sheet.mode == "L"
        np.testing.assert_array_equal(np.asarray(sheet), training_sheet())
