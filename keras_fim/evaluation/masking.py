"""Whether a model is robust or only looks so because its gradients mislead the attack."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim import records, validation
from keras_fim.arguments import GradientNorm, checked, require
from keras_fim.attacks import FGM, FGSM, PGD, FixedBudgetAttack, Square, losses, lp, problem, resolve_epsilons
from keras_fim.evaluation.flags import answers_flags, outputs_flags
from keras_fim.evaluation.measurement import measured, predicted_classes, predictions_of, probabilities, softmax
from keras_fim.evaluation.report import Report, Row
from keras_fim.evaluation.sources import Dataset, MaxSamples, chunks, samples
from keras_fim.logits import LogitsFunction, classes_of, logits_function
from keras_fim.pixels import PixelRange, find_range
from keras_fim.typing import Bounds, Model

# by name the largest figure that raises no suspicion, and what the figure is
_CHECKS: dict[str, dict[str, Any]] = records.read_json(Path(__file__).with_suffix(".json"))


_NOISES = 10  # draws of random noise for each image


@dataclasses.dataclass(frozen=True)
class MaskingCheck:
    """One symptom of masked gradients.

    Attributes:
        name: the check.
        figure: a share of the originally correct samples; the larger, the worse. NaN if it was not run.
        threshold: the largest figure that raises no suspicion.
        verdict: ``"ok"``, ``"suspect"`` or ``"not run"``.
        meaning: what the figure is, and what a large one means.
    """

    name: str
    figure: float
    threshold: float
    verdict: str
    meaning: str


@dataclasses.dataclass(frozen=True)
class MaskingReport(Report):
    """Symptoms of masked gradients; prints as a table.

    Attributes:
        checks: one for each symptom.
        attack: the white-box attack that the checks are about, as its ``repr`` shows it.
        norm: ``"l2"`` or ``"linf"``.
        epsilon: the budget of the checks at one budget.
        epsilons: the budgets tried.
        fooling_ratios: of the white-box attack at each of them.
        num_correct: number of originally correct samples, which all shares are of.
        flags: Other reasons not to trust a robust accuracy, such as random outputs; they explain the checks.
    """

    checks: tuple[MaskingCheck, ...]
    attack: str
    norm: str
    epsilon: float
    epsilons: tuple[float, ...]
    fooling_ratios: tuple[float, ...]
    num_correct: int
    flags: tuple[str, ...] = ()

    @property
    def suspect(self) -> bool:
        """Whether any check raises suspicion: then no robust accuracy by gradients should be quoted."""
        return any(check.verdict == "suspect" for check in self.checks)

    def check(self, name: str) -> MaskingCheck:
        """One of the checks, by name."""
        return {check.name: check for check in self.checks}[name]

    def tables(self) -> dict[str, list[Row]]:
        """A row for each check."""
        rows = list[Row]()
        for check in self.checks:
            figure = "" if math.isnan(check.figure) else f"{100 * check.figure:.1f} %"
            limit = {"figure": figure, "up to": f"{100 * check.threshold:.0f} %"}
            rows.append({"check": check.name, **limit, "verdict": check.verdict, "meaning": check.meaning})
        verdict = "masked gradients are suspected" if self.suspect else "no sign of masked gradients"
        verdict = "; ".join(self.flags) or verdict
        return {f"{verdict}: {self.norm}, ε = {self.epsilon:g}, {self.num_correct} originally correct images": rows}


@checked
def masking_report(
    model: Model,
    dataset: Dataset,
    *,
    norm: GradientNorm = np.inf,
    epsilons: Sequence[float] | None = None,
    twin: Model | None = None,
    max_samples: MaxSamples = 200,
    steps: int = 40,
    queries: int = 500,
    bounds: Bounds | PixelRange | None = None,
    seed: int = 0,
) -> MaskingReport:
    """Look for signs that a model's gradients mislead attacks, so that it seems more robust than it is.

    The white-box attack is PGD on the cross-entropy, from the image and then from a random start; its steps add up to
    5 ε. Checks at one budget take, of ``epsilons``, the one at which it fools nearest to half of the samples.

    A check that stays below its threshold proves nothing. Of the thresholds, that of the margin loss has been seen to
    part models: plain, spectral and N-FGM ones of MNIST and GTSRB stay below 7 %, those of eq. (4) and of strong label
    smoothing are above 13 % (``results/defenses``, ``results/paper``). The others are judgment.

    Args:
        model: any classifier that `keras_fim.logits.logits_function` takes.
        dataset: See `keras_fim.evaluation.Dataset`.
        norm: 2 or ``np.inf``.
        epsilons: budgets in that norm; ``None`` for `keras_fim.attacks.DEFAULT_EPSILONS`, and between them what it
            takes to fool about half of the samples.
        twin: an undefended model for the same classes, whose adversarials are tried, too.
        max_samples: The largest number of samples, of each class as many as possible; ``None`` for all. With fewer than
            a hundred, a single one counts a lot.
        steps: of the white-box attack.
        queries: of the Square attack, which needs images ``(batch, height, width, channels)``.
        bounds: Smallest and largest pixel value; ``None`` for what `keras_fim.pixels.find_range` finds.
        seed: of all that is drawn at random.

    Returns:
        `MaskingReport`.

    Raises:
        ValueError: as the attacks, and if the model has no sample right.

    Example:
        >>> x = np.linspace(0.05, 0.95, 10)[:, None]
        >>> def masked(images):  # saturated sigmoids have no gradient
        ...     images = tf.sigmoid(1e5 * (images - 0.5))
        ...     return tf.concat([images - 0.5, 0.5 - images], axis=-1)
        >>> model = logits_function(masked, from_logits=True)
        >>> report = masking_report(model, (x, x[:, 0] < 0.5), steps=2, epsilons=[0.1], bounds=(0, 1))
        >>> report.suspect, report.check("zero gradients").figure
        (True, 1.0)

    Source:
        Athalye, Carlini, Wagner, Obfuscated gradients give a false sense of security (ICML 2018); Carlini et al., On
        evaluating adversarial robustness (2019).
    """
    images, labels = samples(dataset, max_samples)
    logits_fn = logits_function(model, validation.check_images(images))
    pixels = find_range(logits_fn, images, labels, bounds)
    images = pixels.clip(images)[0]
    p = probabilities(logits_fn, images)
    right = classes_of(p) == validation.check_labels(labels, *p.shape)
    flags = outputs_flags(logits_fn, images, labels, bounds=pixels.bounds)
    flags += answers_flags(classes_of(p), labels)
    require(right.any(), "`model` should have at least one of the samples right. Received: accuracy 0")
    size = min(1.0, 5 / max(1, steps))  # from one end of the ball to the other and back
    options: dict[str, Any] = {"steps": steps, "step_size": size, "bounds": pixels.bounds, "seed": seed}
    options |= {"random_start": False, "restarts": 2, "stop_early": True}  # from the image, then from a random start
    white = PGD(norm=norm, **options)
    (budgets,) = resolve_epsilons([white], epsilons)
    probe = Probe(logits_fn, white, tf.boolean_mask(logits_fn.cast(images), right), tf.constant(labels[right]))
    fooled = probe.around_half(budgets, tries=4 if epsilons is None else 0)
    ratios = {epsilon: float(mask.mean()) for epsilon, mask in fooled.items()}
    middle = min(ratios, key=lambda epsilon: abs(ratios[epsilon] - 0.5))
    checks = tuple(_check(*pair) for pair in probe.figures(fooled, middle, twin, queries).items())
    tried = middle, tuple(ratios), tuple(ratios.values())
    return MaskingReport(checks, repr(white), lp.norm_name(white.norm), *tried, len(probe.labels), tuple(flags))


class Probe(NamedTuple):
    """The samples on which symptoms are looked for, and the attack in question.

    Attributes:
        logits_fn: The model.
        white: The white-box attack.
        images: ``(n, ...)``, which the model classifies correctly.
        labels: int64 ``(n,)``.
    """

    logits_fn: LogitsFunction
    white: PGD
    images: tf.Tensor
    labels: tf.Tensor

    def sweep(self, attack: FixedBudgetAttack, epsilons: Sequence[float], model: Any = None) -> list[np.ndarray]:
        """For each ε, which samples an attack fools, on this model or on another one."""
        return list(measured(model or self.logits_fn, attack, epsilons, (self.images, self.labels)).fooled)

    def around_half(self, epsilons: Sequence[float], *, tries: int) -> dict[float, np.ndarray]:
        """Which samples the white-box attack fools at each budget, in ascending order.

        Where nearly all samples are fooled, or nearly none, there is nothing to compare. As long as no budget fools
        between a fifth and four fifths of them, one halfway is added, up to ``tries`` times.
        """
        fooled = dict(zip(epsilons, self.sweep(self.white, epsilons), strict=True))
        for _ in range(tries):
            ratios = {epsilon: float(mask.mean()) for epsilon, mask in fooled.items()}
            low = max((epsilon for epsilon, ratio in ratios.items() if ratio < 0.2), default=0.0)
            high = min((epsilon for epsilon, ratio in ratios.items() if ratio > 0.8), default=low)
            if high <= low or any(0.2 <= ratio <= 0.8 for ratio in ratios.values()):
                break
            fooled[(low + high) / 2] = self.sweep(self.white, [(low + high) / 2])[0]
        return dict(sorted(fooled.items()))

    def figures(
        self, white: dict[float, np.ndarray], epsilon: float, twin: Model | None, queries: int
    ) -> dict[str, float]:
        """The figure of each check at one ε; ``white`` says which samples the white-box attack fools at each ε."""
        attack, fooled, flat = self.white, white[epsilon], self.white.norm == np.inf
        one_step = self.sweep((FGSM if flat else FGM)(bounds=attack.bounds), [*white])
        (margin,) = self.sweep(dataclasses.replace(attack, loss="margin"), [epsilon])
        finer: dict[str, Any] = {"steps": 5 * attack.steps // 2, "step_size": 0.4 * attack.step_size, "restarts": 3}
        (more,) = self.sweep(dataclasses.replace(attack, **finer), [epsilon])
        rounded = LogitsFunction(functools.partial(softmax, self.logits_fn), "probabilities")
        (through,) = self.sweep(attack, [epsilon], rounded)
        half = problem.Units(attack.bounds).scale / 2  # where all images can become the same gray
        (largest,) = self.sweep(attack, [half * (1 if flat else math.sqrt(math.prod(self.images.shape[1:])))])
        gradients = fooled | margin | more  # what others have to beat
        slopes = self.logits_fn.in_batches(losses.slope, self.images, batch_size=attack.batch_size)

        def beyond(mask: np.ndarray | None, others: np.ndarray) -> float:
            return math.nan if mask is None else float((mask & ~others).mean())

        return {
            "one step": max(beyond(one, many) for one, many in zip(one_step, white.values(), strict=True)),
            "margin loss": abs(float(margin.mean()) - float(fooled.mean())),
            "more steps": beyond(more, fooled),
            "probabilities": beyond(fooled, through),
            "random noise": beyond(self.random_noise(epsilon), gradients),
            "black box": beyond(self.black_box(epsilon, queries), gradients),
            "transfer": beyond(self.transferred(epsilon, twin), gradients),
            "growing ε": float((~largest).mean()),
            "zero gradients": float((~((slopes > 0) & np.isfinite(slopes))).mean()),
        }

    def random_noise(self, epsilon: float) -> np.ndarray:
        """Which samples some perturbation of length ε fools; in l∞ the signs are random, in l2 the direction."""
        generator, fooled = np.random.default_rng(self.white.seed), np.zeros(len(self.labels), bool)
        for _ in range(_NOISES):
            for indices, images, labels in chunks((self.images, self.labels)):
                draw = generator.normal(size=images.shape)
                length = np.sqrt((draw**2).sum(axis=tuple(range(1, draw.ndim)), keepdims=True))
                step = np.sign(draw) if self.white.norm == np.inf else draw / length
                noisy = np.clip(images + epsilon * step, *self.white.bounds).astype(images.dtype)
                fooled[indices] |= predicted_classes(self.logits_fn, noisy) != labels
        return fooled

    def black_box(self, epsilon: float, queries: int) -> np.ndarray | None:
        """Which samples Square fools; None where images are not images."""
        if self.images.shape.rank != 4:
            return None
        options: dict[str, Any] = {"bounds": self.white.bounds, "seed": self.white.seed}
        return self.sweep(Square(norm=self.white.norm, queries=queries, **options), [epsilon])[0]

    def transferred(self, epsilon: float, twin: Model | None) -> np.ndarray | None:
        """Which samples another model's adversarials fool; None without another model."""
        if twin is None:
            return None
        attack = dataclasses.replace(self.white, loss="margin", stop_early=False)  # far beyond the twin's boundary
        model, samples = logits_function(twin, self.images), (self.images, self.labels)
        outcome = measured(model, attack, [epsilon], samples, predictions_of(self.logits_fn))
        return np.asarray(outcome.seen[0] != self.labels.numpy())


def _check(name: str, figure: float) -> MaskingCheck:
    verdict = "not run" if math.isnan(figure) else "suspect" if figure > _CHECKS[name]["threshold"] else "ok"
    return MaskingCheck(name, figure, verdict=verdict, **_CHECKS[name])
