"""How far samples are from data: Frechet distances, and the classes they cover."""

from hatebm.evaluation.classifier import Classifier, class_shares
from hatebm.evaluation.frechet import frechet_distance, gaussian_frechet, pixel_features

__all__ = ["Classifier", "class_shares", "frechet_distance", "gaussian_frechet", "pixel_features"]
