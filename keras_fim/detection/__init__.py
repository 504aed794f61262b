"""The Fisher spectrum as a detector of adversarial input, and an attacker who knows it."""

from keras_fim.detection.adaptive import AdaptivePGD
from keras_fim.detection.detector import FEATURES, DetectionCurves, FisherDetector, detection_curves, spectral_features

__all__ = ["FEATURES", "AdaptivePGD", "DetectionCurves", "FisherDetector", "detection_curves", "spectral_features"]
