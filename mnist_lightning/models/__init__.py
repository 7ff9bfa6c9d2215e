"""The models, and their metrics."""

from mnist_lightning.models.classifier import Classifier
from mnist_lightning.models.ensemble import Ensemble
from mnist_lightning.models.networks import CNN, MLP

__all__ = ["CNN", "MLP", "Classifier", "Ensemble"]
