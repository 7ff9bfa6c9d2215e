"""The best epoch is kept."""

from mnist_lightning.training.history import TrainingHistory


def test_best_epoch_has_the_highest_accuracy_and_then_the_lowest_loss() -> None:
    epochs = [(0.5, 1.0), (0.7, 0.9), (0.7, 0.8), (0.7, 0.85), (0.7, 0.8), (0.6, 0.1)]
    history, is_best = TrainingHistory(), []
    for accuracy, loss in epochs:
        history.rows += [{"val/accuracy": accuracy, "val/loss": loss}]
        is_best.append(history.best is history.rows[-1])
    assert is_best == [True, True, True, False, False, False]


def test_epoch_without_validation_is_not_the_best() -> None:
    history = TrainingHistory()
    history.rows += [{"train/loss": 1.0}]
    assert history.best is None
