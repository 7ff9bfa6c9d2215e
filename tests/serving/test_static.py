"""What the page consists of: its colors."""

import re
from pathlib import Path

import numpy as np
import pytest

from mnist_lightning import serving

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
