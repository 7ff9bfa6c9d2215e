"""Confidence is compared with accuracy, bin by bin."""

import pytest
import torch

from mnist_lightning.reporting.reliability import NUM_BINS, expected_calibration_error, reliability


def test_bins_have_counts_mean_confidences_and_accuracies() -> None:
    confidences = torch.tensor([0.0, 0.01, 0.95, 0.97, 1.0])
    counts, means, accuracies = reliability(confidences, torch.tensor([False, False, True, True, False]))
    assert counts.tolist() == [2, *[0] * (NUM_BINS - 2), 3]
    assert means.tolist() == pytest.approx([0.005, *[0] * (NUM_BINS - 2), 2.92 / 3])
    assert accuracies.tolist() == pytest.approx([0, *[0] * (NUM_BINS - 2), 2 / 3])


def test_error_is_the_weighted_difference_between_confidence_and_accuracy() -> None:
    confidences = torch.tensor([0.95, 0.95, 0.95, 0.95, 0.52, 0.52])
    is_correct = torch.tensor([True, True, True, False, True, False])
    differences = 4 * abs(0.75 - 0.95) + 2 * abs(0.5 - 0.52)
    assert expected_calibration_error(confidences, is_correct) == pytest.approx(differences / 6, abs=1e-6)


def test_certain_and_correct_predictions_have_no_error() -> None:
    certain = torch.ones(5)
    assert expected_calibration_error(certain, certain.bool()) == 0
