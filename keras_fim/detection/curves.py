"""How well scores tell two kinds of samples apart."""

import dataclasses
from typing import Any

import numpy as np

from keras_fim.arguments import checked


@dataclasses.dataclass(frozen=True)
class DetectionCurves:
    """ROC and precision-recall curve of a detector on one attack.

    Attributes:
        auc: area under the ROC curve: the chance that an attacked sample scores above a benign one; 0.5 is guessing.
        average_precision: area under the precision-recall curve.
        false_positive_rates: of the ROC curve, ascending.
        true_positive_rates: belonging to them.
        precisions: of the precision-recall curve.
        recalls: belonging to them, descending.
        num_benign: number of benign samples.
        num_attacked: number of attacked samples.
    """

    auc: float
    average_precision: float
    false_positive_rates: tuple[float, ...]
    true_positive_rates: tuple[float, ...]
    precisions: tuple[float, ...]
    recalls: tuple[float, ...]
    num_benign: int
    num_attacked: int

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return dataclasses.asdict(self)


@checked
def detection_curves(benign_scores: np.ndarray, attacked_scores: np.ndarray) -> DetectionCurves:
    """Curves of scores that should be larger for attacked samples. Needs scikit-learn (the extra ``[detection]``).

    Args:
        benign_scores: ``(n,)``.
        attacked_scores: ``(m,)``.

    Returns:
        `DetectionCurves`.

    Raises:
        ValueError: if there are no scores of one kind.
        ImportError: if scikit-learn is not installed.

    Example:
        >>> detection_curves([0.0, 1.0], [2.0, 3.0]).auc
        1.0
    """
    from sklearn import metrics

    if not len(benign_scores) or not len(attacked_scores):
        received = f"{len(benign_scores)} benign and {len(attacked_scores)} attacked"
        raise ValueError(f"`benign_scores` and `attacked_scores` should not be empty. Received: {received}")
    if (shapes := (np.shape(benign_scores), np.shape(attacked_scores))) != ((shapes[0][0],), (shapes[1][0],)):
        raise ValueError(f"`benign_scores` and `attacked_scores` should be (n,) and (m,). Received: {shapes}")
    scores = np.concatenate([benign_scores, attacked_scores])
    truth = np.repeat([0, 1], [len(benign_scores), len(attacked_scores)])
    columns = (*metrics.roc_curve(truth, scores)[:2], *metrics.precision_recall_curve(truth, scores)[:2])
    false_positives, true_positives, precisions, recalls = (tuple(column.tolist()) for column in columns)
    areas = float(metrics.roc_auc_score(truth, scores)), float(metrics.average_precision_score(truth, scores))
    sizes = len(benign_scores), len(attacked_scores)
    return DetectionCurves(*areas, false_positives, true_positives, precisions, recalls, *sizes)
