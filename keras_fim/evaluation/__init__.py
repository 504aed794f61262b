"""How robust a model is: figures as plain dataclasses."""

from keras_fim.evaluation.curves import (
    Confidence,
    RobustnessCurve,
    clean_performance,
    predicted_classes,
    robustness_curve,
    samples,
)
from keras_fim.evaluation.distances import DistanceSummary, distance_summary, minimal_distances
from keras_fim.evaluation.evaluate import DEFAULT_ATTACKS, Evaluation, evaluate
from keras_fim.evaluation.intervals import Interval, Ratio, bootstrap, wilson
from keras_fim.evaluation.masking import MaskingCheck, MaskingReport, masking_report
from keras_fim.evaluation.report import Report
from keras_fim.evaluation.rows import AttackRow
from keras_fim.evaluation.spectrum import SpectrumSummary, spectrum_summary
from keras_fim.evaluation.transfer import Transfer, TransferRow, transfer

__all__ = [
    "AttackRow",
    "Confidence",
    "DEFAULT_ATTACKS",
    "DistanceSummary",
    "Evaluation",
    "Interval",
    "MaskingCheck",
    "MaskingReport",
    "Ratio",
    "Report",
    "RobustnessCurve",
    "SpectrumSummary",
    "Transfer",
    "TransferRow",
    "bootstrap",
    "clean_performance",
    "distance_summary",
    "evaluate",
    "masking_report",
    "minimal_distances",
    "predicted_classes",
    "robustness_curve",
    "samples",
    "spectrum_summary",
    "transfer",
    "wilson",
]
