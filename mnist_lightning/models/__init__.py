"""The models, and their metrics."""

from mnist_lightning.models.classifier import Classifier
from mnist_lightning.models.ensemble import Ensemble, known_classes
from mnist_lightning.models.networks import CNN, MLP

__all__ = ["CNN", "MLP", "Classifier", "Ensemble", "known_classes"]
