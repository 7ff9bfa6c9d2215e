"""Scores are exact, and calibration finds the temperature."""

from collections import Counter

import pytest
import torch
from torch.nn import functional as F

from mnist_lightning.models.metrics import TEMPERATURES, Scores, losses_by_temperature


def test_scores_over_unequal_batches_are_those_of_all_images() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1000, 10, generator=generator)
    labels = torch.randint(0, 10, (1000,), generator=generator)
    scores = Scores(10)
    for start in range(0, 1000, 300):
        part, targets = logits[start : start + 300], labels[start : start + 300]
        scores.update(part, targets, F.cross_entropy(part, targets))
    values = scores.compute()
    pairs = Counter(zip(labels.tolist(), logits.argmax(1).tolist(), strict=True))
    assert values["confusion"].tolist() == [[pairs[label, other] for other in range(10)] for label in range(10)]
    assert values["accuracy"].item() == pytest.approx(sum(pairs[digit, digit] for digit in range(10)) / 1000)
    assert values["loss"].item() == pytest.approx(F.cross_entropy(logits.double(), labels).item(), rel=1e-5)


def test_reset_clears_the_scores() -> None:
    scores = Scores(3)
    scores.update(torch.eye(3), torch.tensor([0, 1, 1]), torch.tensor(1.0))
    assert scores.compute()["confusion"].tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 0]]
    scores.reset()
    scores.update(torch.eye(3), torch.tensor([0, 1, 2]), torch.tensor(1.0))
    assert scores.compute()["confusion"].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_calibration_finds_the_temperature_that_logits_were_multiplied_with(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20_000, 10, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)  # perfectly calibrated
    scores = Scores(10)
    for part, targets in zip((logits * temperature).chunk(7), labels.chunk(7), strict=True):
        scores.update(part, targets, losses_by_temperature(part, targets))
    values = scores.compute()
    assert TEMPERATURES[values["best"]].item() == pytest.approx(temperature, rel=0.05)
    assert values["loss"].item() == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-3)
