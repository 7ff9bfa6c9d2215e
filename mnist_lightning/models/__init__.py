"""The models, and their metrics."""

from mnist_lightning.models.classifier import Classifier
from mnist_lightning.models.cnn import CNN
from mnist_lightning.models.ensemble import Ensemble
from mnist_lightning.models.mlp import MLP

__all__ = ["CNN", "MLP", "Classifier", "Ensemble"]
