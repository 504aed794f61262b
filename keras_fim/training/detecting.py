"""How well the Fisher spectrum detects attacked images, also against an attacker who knows the detector."""

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_fim import attacks
from keras_fim.detection import AdaptivePGD, FisherDetector, detection_curves
from keras_fim.evaluation import chunks, clean_performance, measurement, samples
from keras_fim.evaluation.plans import Plan, bounded, estimate
from keras_fim.evaluation.report import Report, Row
from keras_fim.logits import LogitsFunction, logits_function
from keras_fim.records import versions, write_json, write_text
from keras_fim.training import inputs, outcomes, trained
from keras_fim.typing import AttackResult, Bounds

_CURVES = ("false_positive_rates", "true_positive_rates", "precisions", "recalls")
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
    usual = outcomes.default_epsilons(images.shape[1:], tested.pixels.bounds)
    budgets = {norm: epsilons[1:] for norm, epsilons in usual.items()}
    fit, test = (images[::2], labels[::2]), (images[1::2], labels[1::2])
    detection = _Measurement(logits_function(model), tested.pixels.bounds)
    plans = _plans(budgets)
    on_progress(estimate(detection.logits_fn, plans, next(iter(chunks(test))), len(test[1]))[0])
    detection.fit(*fit, test[0], budgets[np.inf], false_positive_rate)
    detectors = detection.detectors
    for plan in plans:
        detection.attack(plan, test, detectors)
    few = test[0][:max_adaptive], test[1][:max_adaptive]
    for kind in (kind for kind in ("lambda", "fgsm") if kind in detectors):
        detection.attack(Plan(_adaptive_attack(detectors[kind]), budgets[np.inf][1:]), few, [kind], f" on {kind}")
    config: dict[str, Any] = {"num_fitted": len(fit[0]), "num_evaluated": len(test[0]), "num_adaptive": max_adaptive}
    config |= {"false_positive_rate": false_positive_rate, "adaptive": repr(_adaptive_attack(detectors["lambda"]))}
    config |= {"fitted_on": {"fgsm": budgets[np.inf][1], "pgd": budgets[np.inf][0]}}
    benign = {"num": len(test[0]), "accuracy": clean_performance(model, *test).accuracy, "detected": detection.alarms}
    fitted = {kind: detector.as_dict() for kind, detector in detectors.items()}
    report = DetectionReport(trained.name_of(name), config, benign, detection.rows, fitted)
    for suffix in ("json", "md"):
        report.save(folder / f"{report.model}.{suffix}")
    write_text(folder / f"{report.model}.curves.jsonl", "".join(f"{json.dumps(c)}\n" for c in detection.curves))
    for detector_name, detector in report.detectors.items():
        write_json(folder / f"{report.model}.{detector_name}.json", detector)
    return report


def _trained_on(name: str) -> str:
    """The dataset in the record of a model's run."""
    record = trained.record_of(name)
    if record is None:
        raise ValueError(f"`data_name` should be given for a model without the record of its run. Received: {name!r}")
    return str(record["config"]["data"])


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


class _Measurement:
    """What attacks do to a model and to the detectors that are fitted to it.

    Attributes:
        detectors: The detectors by name.
        alarms: The share of untouched images that each detector calls adversarial.
        rows: As of `DetectionReport`.
        curves: For each attack, ε and detector the points of its curves.
    """

    def __init__(self, logits_fn: LogitsFunction, bounds: Bounds) -> None:
        self.logits_fn, self.bounds = logits_fn, bounds
        self.detectors: dict[str, FisherDetector] = {}
        self.rows, self.curves = list[dict[str, Any]](), list[dict[str, Any]]()

    def fit(self, images: Any, labels: Any, benign: Any, budgets: Sequence[float], rate: float) -> None:
        """Fit the detectors to images, and to those that two attacks fooled the model with; score other benign ones."""
        options: dict[str, Any] = {"false_positive_rate": rate, "bounds": self.bounds}
        self.detectors["lambda"] = FisherDetector.fit(self.logits_fn, images, **options)
        plans = {"fgsm": (attacks.FGSM(), budgets[1]), "pgd": (attacks.PGD(steps=20), budgets[0])}
        for kind, (attack, epsilon) in plans.items():
            result = bounded(attack, self.bounds)(self.logits_fn, images, labels, epsilon=epsilon)
            attacked = result.adversarials[result.success]
            if len(attacked) >= _FEWEST:
                self.detectors[kind] = FisherDetector.fit(self.logits_fn, images, attacked, **options)
        self.benign = {kind: self._scores(kind, benign) for kind in self.detectors}
        self.alarms = {kind: float((s > self.detectors[kind].threshold).mean()) for kind, s in self.benign.items()}

    def _scores(self, kind: str, images: np.ndarray) -> np.ndarray:
        return self.detectors[kind].scores(self.logits_fn, images, bounds=self.bounds)

    def attack(self, plan: Plan, test: tuple[np.ndarray, np.ndarray], kinds: Collection[str], what: str = "") -> None:
        """For each ε, how many images one attack fooled, and the figures of some detectors on those."""

        def scored(result: AttackResult) -> np.ndarray:
            scores = np.full((len(kinds), len(result.success)), np.nan)
            for row, kind in enumerate(kinds if result.success.any() else ()):
                scores[row, result.success] = self._scores(kind, result.adversarials[result.success])
            return scores

        outcome = measurement.measured(self.logits_fn, bounded(plan.attack, self.bounds), plan.epsilons, test, scored)
        num = int(outcome.was_correct.sum())
        for position, epsilon in enumerate(plan.epsilons):
            fooled = outcome.fooled[position]
            figures = {}
            budget = {"attack": plan.attack.name + what, "epsilon": None if np.isinf(epsilon) else epsilon}
            if fooled.sum() >= _FEWEST:
                for kind, scores in zip(kinds, outcome.seen_at(position), strict=True):
                    figures[kind], points = self._figures(kind, scores[fooled], num)
                    self.curves.append({**budget, "detector": kind, **points})
            self.rows.append({**budget, "num": num, "fooled": int(fooled.sum()), "detectors": figures})

    def _figures(self, kind: str, scores: np.ndarray, num: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """The figures of a detector on adversarials of ``num`` originally correct images, and its curves."""
        threshold = self.detectors[kind].threshold
        curves = detection_curves(self.benign[kind], scores).as_dict()
        points = {key: [round(number, 4) for number in curves.pop(key)] for key in _CURVES}
        detected, missed = float((scores > threshold).mean()), float((scores <= threshold).sum() / num)
        return {"detected": detected, "undetected_of_correct": missed, **curves}, points
