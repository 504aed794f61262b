"""How robust a model is: figures as plain dataclasses."""

from keras_fim.evaluation.distances import DistanceSummary, minimal_distances
from keras_fim.evaluation.evaluate import evaluate
from keras_fim.evaluation.masking import MaskingCheck, MaskingReport, masking_report
from keras_fim.evaluation.measurement import Confidence, clean_performance, predicted_classes
from keras_fim.evaluation.plans import default_attacks
from keras_fim.evaluation.radius import BoundaryRadius, Calibration, boundary_radius, calibrate
from keras_fim.evaluation.report import Interval, Ratio, Report, bootstrap, wilson
from keras_fim.evaluation.result import Evaluation
from keras_fim.evaluation.rows import AttackRow, RobustnessCurve, robustness_curve
from keras_fim.evaluation.side_by_side import SideBySide, Transfer, TransferRow, transfer
from keras_fim.evaluation.smoothing import Certificates, certify
from keras_fim.evaluation.sources import Chunk, Dataset, chunks, samples
from keras_fim.evaluation.spectrum import SpectrumSummary, spectrum_summary

__all__ = [
    "AttackRow", "BoundaryRadius", "Calibration", "Certificates", "Chunk", "Confidence", "Dataset",
    "DistanceSummary", "Evaluation", "Interval", "MaskingCheck", "MaskingReport", "Ratio", "Report",
    "RobustnessCurve", "SideBySide", "SpectrumSummary", "Transfer", "TransferRow", "bootstrap", "boundary_radius",
    "calibrate", "certify", "chunks", "clean_performance", "default_attacks", "evaluate", "masking_report",
    "minimal_distances", "predicted_classes", "robustness_curve", "samples", "spectrum_summary", "transfer",
    "wilson",
]  # fmt: skip
