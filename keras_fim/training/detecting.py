"""How well the Fisher spectrum detects attacked images, also against an attacker who knows the detector."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np

from keras_fim import attacks
from keras_fim.detection import AdaptivePGD, FisherDetector, detection_curves
from keras_fim.evaluation import chunks, clean_performance, samples
from keras_fim.evaluation.measurement import Outcome, measure
from keras_fim.evaluation.plans import Plan, bounded, estimate
from keras_fim.evaluation.report import Report, Row
from keras_fim.logits import logits_function
from keras_fim.records import versions, write_json, write_text
from keras_fim.training import hardening, inputs, trained
from keras_fim.typing import AttackResult, Bounds

_CURVES = ("false_positive_rates", "true_positive_rates", "precisions", "recalls")
_Detectors: TypeAlias = Mapping[str, FisherDetector]
_FEWEST = 10  # the AUC of fewer adversarials is meaningless


@dataclasses.dataclass(frozen=True)
class DetectionReport(Report):
    """The figures of detectors on one model.

    Attributes:
        model: The name of the model.
        config: The numbers of images, the false-positive rate, the budgets that detectors were fitted at.
        benign: The accuracy on the images of the evaluation, and the share that each detector calls adversarial.
        rows: For each attack and ε, how many images were fooled, and the figures of each detector on those.
        detectors: The fitted detectors, ready for ``FisherDetector(**...)``.
        versions: The versions of the packages that measured this.
    """

    model: str
    config: dict[str, Any]
    benign: dict[str, Any]
    rows: list[dict[str, Any]]
    detectors: dict[str, dict[str, Any]]
    versions: dict[str, str | None] = dataclasses.field(default_factory=versions)

    def tables(self) -> dict[str, list[Row]]:
        """One row for benign images, and one for each attack and ε."""
        alarms = {name: {"detected": share} for name, share in self.benign["detected"].items()}
        rows: list[Row] = [self._table_row("benign", f"{self.benign['num']} images", alarms)]
        for row in self.rows:
            budget = "" if row["epsilon"] is None else f", ε {row['epsilon']:.3g}"
            title, fooled = f"{row['attack']}{budget}", f"{row['fooled']} of {row['num']}"
            rows.append(self._table_row(title, fooled, row["detectors"]))
        return {"": rows}

    def _table_row(self, title: str, fooled: str, figures: dict[str, dict[str, float]]) -> Row:
        row = {self.model: title, "fooled": fooled}
        for name in self.detectors:
            figure = figures.get(name, {})
            row[f"{name}: AUC"] = f"{figure['auc']:.3f}" if "auc" in figure else "-"
            row[f"{name}: detected"] = f"{100 * figure['detected']:.1f} %" if figure else "-"
        return row


def evaluate_detection(
    name: str,
    folder: Path,
    data: inputs.DataOptions,
    *,
    max_samples: int = 400,
    max_adaptive: int = 100,
    false_positive_rate: float = 0.05,
    on_progress: Callable[[str], None] = lambda line: None,
) -> DetectionReport:
    """Fit detectors on half of some test images, and measure them on the other half under other attacks.

    Three detectors: ``lambda``, a threshold on λ_max that needs no attack; ``fgsm`` and ``pgd``, logistic regressions
    fitted on that attack at one ε. Attacked samples are those that fooled the model. The first two are also
    attacked by `AdaptivePGD`, which knows them.

    Args:
        name: The name of stored weights, a run folder, or a ``.keras`` file.
        folder: The folder for ``<name>.json``, the table ``<name>.md``, the curves ``<name>.curves.jsonl`` and the
            detectors ``<name>.<detector>.json``.
        data: The dataset whose test images are taken.
        max_samples: The number of test images: half to fit and half to evaluate.
        max_adaptive: The number of the latter that the adaptive attacker gets.
        false_positive_rate: The false-positive rate of the thresholds on the images that they are fitted on.
        on_progress: A function that gets a line of text, which says how long the attacks may take.

    Returns:
        `DetectionReport`.

    Raises:
        ValueError: If there is no model of that name, or the dataset is neither given nor on record.
    """
    data = data._replace(name=data.name or _trained_on(name))
    model = inputs.model_for(name, data)
    tested = inputs.evaluated_images(name, model, data, max_samples)
    images, labels = samples(tested.dataset, max_samples)
    own = _Classifier(model, tested.pixels.bounds)
    usual = hardening.default_epsilons(images.shape[1:], own.bounds)
    budgets = {norm: epsilons[1:] for norm, epsilons in usual.items()}
    fit, test = (images[::2], labels[::2]), (images[1::2], labels[1::2])
    plans = _plans(budgets)
    on_progress(estimate(logits_function(model), plans, next(iter(chunks(test))), len(test[1])))
    detectors = _fitted(own, *fit, budgets, false_positive_rate)
    scores = {kind: own.scores(detector, test[0]) for kind, detector in detectors.items()}
    alarms = {kind: float((scores[kind] > detector.threshold).mean()) for kind, detector in detectors.items()}
    rows = [row for plan in plans for row in _rows(own, plan, test, detectors, scores)]
    few = test[0][:max_adaptive], test[1][:max_adaptive]
    for kind, detector in ((kind, detectors[kind]) for kind in ("lambda", "fgsm") if kind in detectors):
        plan = Plan(_adaptive_attack(detector), budgets[np.inf][1:])
        adaptive = _rows(own, plan, few, {kind: detector}, scores)
        rows += [{**row, "attack": f"{row['attack']} on {kind}"} for row in adaptive]  # it knows the detector
    config: dict[str, Any] = {"num_fitted": len(fit[0]), "num_evaluated": len(test[0]), "num_adaptive": max_adaptive}
    config |= {"false_positive_rate": false_positive_rate, "adaptive": repr(_adaptive_attack(detectors["lambda"]))}
    config |= {"fitted_on": {"fgsm": budgets[np.inf][1], "pgd": budgets[np.inf][0]}}
    benign = {"num": len(test[0]), "accuracy": clean_performance(model, *test).accuracy, "detected": alarms}
    fitted = {kind: detector.as_dict() for kind, detector in detectors.items()}
    report = DetectionReport(Path(name).name.removesuffix(".keras"), config, benign, rows, fitted)
    _write(report, folder)
    return report


class _Classifier(NamedTuple):
    """A model and the range of its pixels."""

    model: keras.Model
    bounds: Bounds

    def scores(self, detector: FisherDetector, images: np.ndarray) -> np.ndarray:
        return detector.scores(self.model, images, bounds=self.bounds)

    def fit(self, *images: np.ndarray, rate: float) -> FisherDetector:
        return FisherDetector.fit(self.model, *images, false_positive_rate=rate, bounds=self.bounds)


def _trained_on(name: str) -> str:
    """The dataset in the record of a model's run."""
    record = trained.record_of(name)
    if record is None:
        raise ValueError(f"`data_name` should be given for a model without the record of its run. Received: {name!r}")
    return str(record["config"]["data"])


def _write(report: DetectionReport, folder: Path) -> None:
    """Write the figures as JSON and as a table, the detectors, and the curves in a file of their own, a line each."""
    curves, rows = [], []
    for row in report.rows:
        kept = {}
        for kind, figures in row["detectors"].items():
            points = {key: figures[key] for key in _CURVES}
            curves.append(json.dumps({"attack": row["attack"], "epsilon": row["epsilon"], "detector": kind, **points}))
            kept[kind] = {key: value for key, value in figures.items() if key not in _CURVES}
        rows.append({**row, "detectors": kept})
    dataclasses.replace(report, rows=rows).save(folder / f"{report.model}.json")
    report.save(folder / f"{report.model}.md")
    write_text(folder / f"{report.model}.curves.jsonl", "\n".join(curves) + "\n")
    for kind, detector in report.detectors.items():
        write_json(folder / f"{report.model}.{kind}.json", detector)


def _fitted(
    own: _Classifier, images: np.ndarray, labels: np.ndarray, budgets: dict[float, Any], rate: float
) -> dict[str, FisherDetector]:
    plans = {"fgsm": (attacks.FGSM(), budgets[np.inf][1]), "pgd": (attacks.PGD(steps=20), budgets[np.inf][0])}
    detectors = {"lambda": own.fit(images, rate=rate)}
    for kind, (attack, epsilon) in plans.items():
        result = bounded(attack, own.bounds)(own.model, images, labels, epsilon=epsilon)
        attacked = result.adversarials[result.success]
        if len(attacked) >= _FEWEST:
            detectors[kind] = own.fit(images, attacked, rate=rate)
    return detectors


def _plans(budgets: Mapping[float, tuple[float, ...]]) -> list[Plan]:
    """Attacks that know nothing of a detector, and their ε; inf for the nearest adversarials."""
    return [
        Plan(attacks.FGSM(), budgets[np.inf]),
        Plan(attacks.PGD(steps=20), budgets[np.inf]),
        Plan(attacks.OSSA(), budgets[2]),
        Plan(attacks.DeepFool(), (*budgets[2], np.inf)),
        Plan(attacks.CarliniWagner(steps=100, search_steps=5, learning_rate=0.05), (*budgets[2], np.inf)),
    ]


def _adaptive_attack(detector: FisherDetector) -> AdaptivePGD:
    return AdaptivePGD(detector=detector, steps=20, step_size=0.15, weights=(1.0, 3.0, np.inf))


def _rows(
    own: _Classifier, plan: Plan, test: tuple[np.ndarray, np.ndarray], detectors: _Detectors, benign: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """For each ε, how many images one attack fooled, and the figures of the detectors on those."""

    def scored(result: AttackResult) -> np.ndarray:
        scores = np.full((len(result.success), len(detectors)), np.nan)
        for column, detector in enumerate(detectors.values() if result.success.any() else ()):
            scores[result.success, column] = own.scores(detector, result.adversarials[result.success])
        return scores

    inside = logits_function(own.model), bounded(plan.attack, own.bounds), plan.epsilons
    outcome = Outcome.joined(measure(*inside, chunk, inspect=scored) for chunk in chunks(test))
    rows, num = [], int(outcome.was_correct.sum())
    for position, epsilon in enumerate(plan.epsilons):
        scores = outcome.seen_at(position)[outcome.fooled[position]]
        by_kind = dict(zip(detectors, scores.T, strict=True)) if len(scores) >= _FEWEST else {}
        row = {"attack": plan.attack.name, "epsilon": None if np.isinf(epsilon) else epsilon, "num": num}
        figures = {kind: _figures(detectors[kind], benign[kind], values, num) for kind, values in by_kind.items()}
        rows.append({**row, "fooled": len(scores), "detectors": figures})
    return rows


def _figures(detector: FisherDetector, benign: np.ndarray, scores: np.ndarray, num: int) -> dict[str, Any]:
    """The figures of a detector on adversarials of ``num`` originally correct images."""
    curves = detection_curves(benign, scores).as_dict()
    return {
        "detected": float((scores > detector.threshold).mean()),
        "undetected_of_correct": float((scores <= detector.threshold).sum() / num),
        **{
            key: [round(number, 4) for number in value] if isinstance(value, tuple) else value
            for key, value in curves.items()
        },
    }
