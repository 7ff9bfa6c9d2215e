"""The best epoch is kept."""

import pytest
import torch
from lightning.pytorch import Trainer

from mnist_lightning.training.saving import BestCheckpoint


def test_best_epoch_has_the_highest_accuracy_and_then_the_lowest_loss() -> None:
    epochs = [(0.5, 1.0), (0.7, 0.9), (0.7, 0.8), (0.7, 0.85), (0.6, 0.1)]
    best, trainer = BestCheckpoint(), Trainer(logger=False, accelerator="cpu", enable_progress_bar=False)
    is_best = []
    for accuracy, loss in epochs:
        score = torch.tensor(accuracy)
        trainer.callback_metrics.update({"val/accuracy": score, "val/loss": torch.tensor(loss)})
        is_best.append(best.check_monitor_top_k(trainer, score))
        if is_best[-1]:
            best.best_model_score, best.best_k_models = score, {"best.ckpt": score}
            best.kth_best_model_path = "best.ckpt"
        restored = BestCheckpoint()
        restored.load_state_dict(best.state_dict())
        assert restored.best_loss == best.best_loss
    assert is_best == [True, True, True, False, False]
    assert best.best_loss == pytest.approx(0.8)
