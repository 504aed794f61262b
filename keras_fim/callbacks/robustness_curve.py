"""How easily the model is fooled, after each epoch."""

import contextlib
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_fim import plots, validation
from keras_fim.arguments import checked, expect
from keras_fim.attacks import FGSM, OSSA, Attack, CleverHans, attack_by_name, catalog, kinds, problem, resolve_epsilons
from keras_fim.callbacks.measuring import MeasuringCallback
from keras_fim.evaluation import flags, measurement, page, plans, report, rows, sources
from keras_fim.logits import LogitsFunction, classes_of
from keras_fim.pixels import check_contradiction
from keras_fim.typing import Bounds

_ITERATIVE = CleverHans("projected_gradient_descent", nb_iter=10)
_DEFAULT_ATTACKS = (OSSA(), FGSM(), _ITERATIVE)
_DEFAULT_EPSILONS = {
    "l2": (0.5, 1.0, 1.5, 2.0, 2.5, 3.0),
    "linf": (0.05, 0.1, 0.15, 0.2, 0.25, 0.3),
    _ITERATIVE.name: (0.1,),
}
_DEFAULT_SAMPLES = {_ITERATIVE.name: 25}  # ten gradients an image: 150 would cost more than the other two attacks
_NUM_SAMPLES = 400
_CANDIDATES = 24  # samples among which the examples are chosen
_RATIOS = ("val_fooling/", "val_distance/")  # of samples that are classified correctly


class RobustnessCurve(MeasuringCallback):
    """Attacks the model after each epoch; fooling ratios go to ``logs`` and TensorBoard.

    ``logs`` gets, for each attack and ε, ``val_fooling/ossa/eps_0p5`` (of the originally correct samples, the paper's
    definition) and ``val_robust_accuracy/ossa/eps_0p5`` (of all); ``val_distance/ossa/q25``, ``q50``, ``q75``, the
    quantiles of the smallest ε that fools (inf where it is beyond the largest; none of a single ε);
    ``robustness_seconds/ossa``; and ``val_clean/accuracy`` and ``val_clean/confidence`` of the same samples. Callbacks
    after this one can use them: ``ModelCheckpoint(path, monitor="val_robust_accuracy/ossa/eps_2", mode="max")``.
    Fooling ratios and distances are left out of ``logs`` while no sample is classified correctly, or all get one class.

    It draws the progress bar of `fit`, without these figures. It belongs behind ``keras.callbacks.TensorBoard``, which
    would write them once more.

    TensorBoard shows them as *Custom Scalars*, a chart for each attack with a line for each ε; as *Time Series* of the
    runs ``curve/epoch_0001``, ..., whose step is 1000 ε: fooling against ε; as *Images*, the curves of all epochs and
    adversarial examples of images that were classified correctly; and as *Text*, a table. Epochs count from 1.

    Args:
        dataset: The source of the samples, read now; see `keras_fim.evaluation.Dataset`. (Not the dataset to train on:
            reading it changes the order in which it shuffles next.)
        attacks: An attack or its name (`keras_fim.attacks.attack_names`), several, or a mapping that gives them other
            names. ``None`` for OSSA and FGSM at six ε and ten steps of CleverHans' PGD at one ε on 25 of the samples,
            which take a tenth of the time of an epoch of MNIST on two cores.
        epsilons: A list of ε in the norm of the attacks, which then have to share one; or a mapping from norms (``2``,
            ``np.inf``, ``"l2"``, ``"linf"``) or names of attacks, as in `keras_fim.attacks.resolve_epsilons`.
        max_samples: The number of samples, the same in each epoch, with the same number per class as far as possible;
            or a mapping from names of attacks to it, for which it is 400 otherwise.
        class_names: The names of the classes in pictures.
        num_examples: The number of adversarial examples of each attack in its picture.
        bounds: The smallest and the largest pixel value, for all attacks, whose default budgets follow the range;
            ``None`` for the attacks' own, 0 and 1. A model that says otherwise ends the
            measurement.
        log_dir: The folder of the TensorBoard logs; ``None`` for none.
        every: The number of epochs from one measurement to the next; the first and the last are always measured.
        seed: The seed of the selection of samples.
        from_logits: As in `keras_fim.logits.logits_function`, for models whose outputs it cannot tell.
        strict: Whether an error in a measurement is raised; otherwise it becomes a warning and training goes on.

    Raises:
        ValueError: If an option is not valid, or images do not lie within the bounds of an attack.

    Example:
        >>> import numpy as np
        >>> test = np.full((8, 28, 28, 1), 0.4, "float32"), np.arange(8)
        >>> curve = RobustnessCurve(test, OSSA(), [0.5, 1], max_samples=4)
        >>> from keras_fim import models
        >>> sorted(curve.measure(models.convnet()))[:2]
        ['robustness_seconds/ossa', 'val_clean/accuracy']
    """

    run = "robustness"

    @checked
    def __init__(
        self,
        dataset: sources.Dataset,
        attacks: Attack | str | Sequence[Attack | str] | Mapping[str, Attack | str] | None = None,
        epsilons: catalog.Epsilons = None,
        *,
        max_samples: int | Mapping[str, int] = _NUM_SAMPLES,
        class_names: Sequence[str] | None = None,
        num_examples: int = 3,
        bounds: Bounds | None = None,
        **options: Any,
    ) -> None:
        usual = _DEFAULT_SAMPLES if attacks is None else {}
        if attacks is None:
            attacks = _DEFAULT_ATTACKS
            if epsilons is None or isinstance(epsilons, Mapping):
                scale = 1.0 if bounds is None else problem.Units(validation.check_bounds(bounds)).scale
                scaled = {key: tuple(scale * epsilon for epsilon in row) for key, row in _DEFAULT_EPSILONS.items()}
                epsilons = {**scaled, **(epsilons or {})}
        self.attacks = {name: plans.bounded(attack, bounds) for name, attack in _named(attacks).items()}
        self.epsilons = _budgets(self.attacks, epsilons)
        counts = _sample_counts(self.attacks, max_samples, usual)
        super().__init__(dataset, max_samples=max(counts.values()), **options)
        for attack in self.attacks.values():
            validation.check_images(self.images, attack.bounds)
        self.samples = {name: (self.images[:count], self.labels[:count]) for name, count in counts.items()}
        self.class_names, self.num_examples = class_names, num_examples
        self._history: list[tuple[int, list[rows.RobustnessCurve]]] = []
        self._measured: list[tuple[rows.RobustnessCurve, page.Attacked]] = []

    def _figures(self, model: keras.Model, epoch: int | None = None) -> dict[str, float]:
        self._measured = []
        figures: dict[str, float] = {}
        with self._attempt("predicting", epoch):
            logits_fn = self._logits(model)
            for attack in self.attacks.values():
                check_contradiction(logits_fn, self.images, attack.bounds)
            p = measurement.probabilities(logits_fn, self.images)
            figures["val_clean/accuracy"] = float((classes_of(p) == self.labels).mean())
            figures["val_clean/confidence"] = float(p.max(axis=-1).mean())
            for name, attack in self.attacks.items():
                with self._attempt(f"attack {name}", epoch):
                    part, count = (self.samples[name], plans.Plan(attack, self.epsilons[name])), self.num_examples
                    curve, examples = measure_attack(logits_fn, *part, name=name, num_examples=count)
                    self._measured.append((curve, examples))
                    figures.update(logs(curve))
            undefined = _RATIOS if flags.one_class(p.argmax(axis=-1), self.labels) else ()
            figures = {key: v for key, v in figures.items() if not (math.isnan(v) or key.startswith(undefined))}
        return figures

    def _charts(self) -> dict[str, list[tuple[str, str]]]:
        """A chart for each figure and attack, without those that a single ε leaves empty."""
        figures = {"Robust accuracy": "val_robust_accuracy", "Fooling ratio": "val_fooling"}
        charts = {title: [(name, f"^{key}/{name}/") for name in self.epsilons] for title, key in figures.items()}
        several = [(name, f"^val_distance/{name}/") for name, own in self.epsilons.items() if len(own) > 1]
        charts |= {"Smallest ε": several} if several else {}
        return {**charts, "Without attack": [("accuracy and confidence", "^val_clean/")]}

    def _write(self, epoch: int, folder: Path) -> None:
        if not self._measured:
            return
        self._history.append((epoch, [curve for curve, _ in self._measured]))
        tf.summary.text("robustness/table", _table(self._history[-1][1]))
        pictures = {"robustness/curves": plots.curves_picture(self._history)}
        for curve, examples in self._measured:
            pictures[f"adversarials/{curve.attack}"] = plots.examples_picture(examples, self.class_names)
        for key, pixels in pictures.items():
            if pixels is not None:
                tf.summary.image(key, pixels[None])
        writer = tf.summary.create_file_writer(str(folder / f"curve/epoch_{epoch + 1:04d}"))
        with contextlib.closing(writer), writer.as_default():
            for row in (row for curve, _ in self._measured for row in curve.rows):
                step = round(1000 * row.epsilon)
                tf.summary.scalar(f"fooling_by_1000_eps/{row.attack}", row.fooling.value, step=step)


def logs(curve: rows.RobustnessCurve) -> dict[str, float]:
    """The figures of an attack by the keys that they have in Keras' logs and TensorBoard."""
    name, figures = curve.attack, {}
    for row in curve.rows:
        figures[f"val_fooling/{name}/eps_{epsilon_key(row.epsilon)}"] = row.fooling.value
        figures[f"val_robust_accuracy/{name}/eps_{epsilon_key(row.epsilon)}"] = row.robust.value
    for share, distance in curve.rows[0].nearest.items():  # a single ε has none
        figures[f"val_distance/{name}/q{100 * float(share):g}"] = distance
    return {**figures, f"robustness_seconds/{name}": sum(row.seconds for row in curve.rows)}


def epsilon_key(epsilon: float) -> str:
    """ε in a key, without the dot that Keras' file-name templates stumble over.

    Example:
        >>> epsilon_key(0.1), epsilon_key(2.0)
        ('0p1', '2')
    """
    return f"{epsilon:g}".replace(".", "p")


def measure_attack(
    logits_fn: LogitsFunction, samples: sources.Dataset, plan: plans.Plan, *, name: str, num_examples: int = 4
) -> tuple[rows.RobustnessCurve, page.Attacked]:
    """Attack the samples at each ε.

    Args:
        logits_fn: The classifier.
        samples: ``(images, labels)``.
        plan: An attack of either kind, and its budgets, ascending.
        name: The name of the attack in the curve.
        num_examples: The largest number of examples.

    Returns:
        `RobustnessCurve` and `Attacked`, of correctly classified samples: those that are fooled go first.

    Raises:
        ValueError: As the attack.
    """
    attack, epsilons = plan
    asked = attack.fooling_only() if isinstance(attack, kinds.FixedBudgetAttack) else attack
    first, *others = sources.chunks(samples)
    given = logits_fn, asked, epsilons
    shown = measurement.measure(*given, first, inspect=lambda result: result.adversarials[:_CANDIDATES].copy())
    rest = [measurement.measure(*given, chunk) for chunk in others]
    correct, fooled = np.flatnonzero(shown.was_correct[:_CANDIDATES]), np.asarray(shown.fooled.any(axis=0))
    best = np.sort(correct[np.argsort(~fooled[correct], kind="stable")][:num_examples])
    restored = isinstance(attack, kinds.MinimalDistanceAttack)  # beyond the largest ε it does not count
    pictured = page.shown_at(plan, first, shown, best, restored=restored)
    outcome = measurement.Outcome.joined([part._replace(seen=()) for part in (shown, *rest)])
    named = (dataclasses.replace(row, attack=name) for row in rows.attack_rows(attack, epsilons, outcome))
    return rows.RobustnessCurve(tuple(named)), page.Attacked.of(logits_fn, first.take(best), *pictured, attack.bounds)


def _named(attacks: Attack | str | Sequence[Attack | str] | Mapping[str, Attack | str]) -> dict[str, Attack]:
    """Attacks by name.

    Raises:
        ValueError: If there is none, or none of that name, or two of one name, or a name does not suit a key.
    """
    if isinstance(attacks, Mapping):
        pairs = [(name, attack_by_name(attack)) for name, attack in attacks.items()]
    else:
        several = [attacks] if isinstance(attacks, (Attack, str)) else attacks
        pairs = [(attack.name, attack) for attack in map(attack_by_name, several)]
    names = [name for name, _ in pairs]
    if not names or len(set(names)) < len(names) or not all(re.fullmatch(r"[\w-]+", name) for name in names):
        expected = "at least one name, of letters, digits, _ and -, each once (a mapping {name: attack} gives others)"
        raise ValueError(f"`attacks` should have {expected}. Received: {names}")
    return dict(pairs)


def _budgets(attacks: Mapping[str, Attack], epsilons: catalog.Epsilons) -> dict[str, tuple[float, ...]]:
    """Ascending ε for each attack, by the names that `named` gives.

    Raises:
        ValueError: As `resolve_epsilons`, and if two ε of an attack give the same key.
    """
    resolved = resolve_epsilons(list(attacks.values()), epsilons, names=list(attacks))
    for budgets in resolved:
        if len(set(map(epsilon_key, budgets))) < len(set(budgets)):
            raise ValueError(f"`epsilons` should hold budgets that differ in six digits. Received: {budgets}")
    return {name: tuple(sorted(set(budgets))) for name, budgets in zip(attacks, resolved, strict=True)}


def _sample_counts(
    attacks: Mapping[str, Attack], max_samples: int | Mapping[str, int], usual: Mapping[str, int]
) -> dict[str, int]:
    """The number of samples for each attack, of which ``usual`` holds those that get fewer unless told otherwise.

    Raises:
        ValueError: If one is not a positive integer, or a key is not an attack.
    """
    if isinstance(max_samples, Mapping):
        if unknown := set(max_samples) - set(attacks):
            raise ValueError(f"`max_samples` should have keys of {', '.join(attacks)}. Received: {sorted(unknown)}")
        counts = {name: max_samples.get(name, usual.get(name, _NUM_SAMPLES)) for name in attacks}
    else:
        counts = {name: min(max_samples, usual.get(name, max_samples)) for name in attacks}
    whole = all(isinstance(count, Integral) and count >= 1 for count in counts.values())
    expect(whole, "max_samples", "a positive integer", max_samples)
    return counts


def _table(curves: Sequence[rows.RobustnessCurve]) -> str:
    """The ratios of all attacks with their intervals, Markdown."""
    head = ("attack", "samples", "ε", "fooling ratio", "robust accuracy")
    cells = [(r.attack, r.robust.total, f"{r.norm} {r.epsilon:g}", r.fooling, r.robust) for c in curves for r in c.rows]
    return report.table([dict(zip(head, row, strict=True)) for row in cells], markdown=True)
