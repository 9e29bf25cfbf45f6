"""How far samples are from data, the classes they cover, and how well an energy tells outliers apart."""

from hatebm.evaluation.classifier import Classifier, class_shares
from hatebm.evaluation.features import Features, classifier_features, features_from, inception, of_bytes
from hatebm.evaluation.fid import Quality, qualities, quality
from hatebm.evaluation.frechet import frechet_distance, gaussian_frechet, pixel_features
from hatebm.evaluation.kid import kernel_distance
from hatebm.evaluation.ood import Detection, Estimate, detection, energy_score, score_norm
from hatebm.evaluation.outliers import near_outliers, outliers

__all__ = [
    "Classifier",
    "Detection",
    "Estimate",
    "Features",
    "Quality",
    "class_shares",
    "classifier_features",
    "detection",
    "energy_score",
    "features_from",
    "frechet_distance",
    "gaussian_frechet",
    "inception",
    "kernel_distance",
    "near_outliers",
    "of_bytes",
    "outliers",
    "pixel_features",
    "qualities",
    "quality",
    "score_norm",
]
