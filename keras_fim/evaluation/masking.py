"""Whether a model is robust or only looks so because its gradients mislead the attack."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_fim.arguments import checked
from keras_fim.attacks import PGD, resolve_epsilons
from keras_fim.attacks.lp import check_norm, norm_name
from keras_fim.evaluation.flags import Probe, one_class, outputs_flags
from keras_fim.evaluation.measurement import probabilities
from keras_fim.evaluation.report import Report, Row
from keras_fim.evaluation.sources import Dataset, samples
from keras_fim.logits import logits_function
from keras_fim.pixels import PixelRange, find_range
from keras_fim.records import read_json
from keras_fim.typing import Bounds, Model
from keras_fim.validation import check_images, check_labels

# by name the largest figure that raises no suspicion, and what the figure is
_CHECKS: dict[str, dict[str, Any]] = read_json(Path(__file__).with_suffix(".json"))


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
    norm: float = np.inf,
    epsilons: Sequence[float] | None = None,
    twin: Model | None = None,
    max_samples: int | None = 200,
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
    logits_fn = logits_function(model, check_images(images))
    pixels = find_range(logits_fn, images, labels, bounds)
    images = pixels.clip(images)[0]
    p = probabilities(logits_fn, images)
    right = p.argmax(axis=-1) == check_labels(labels, *p.shape)
    flags = outputs_flags(logits_fn, images, labels, gradients=False, bounds=pixels.bounds)
    flags += one_class(p.argmax(axis=-1), labels)
    if not right.any():
        raise ValueError("`model` should have at least one of the samples right. Received: accuracy 0")
    size = min(1.0, 5 / max(1, steps))  # from one end of the ball to the other and back
    options: dict[str, Any] = {"steps": steps, "step_size": size, "bounds": pixels.bounds, "seed": seed}
    options |= {"random_start": False, "restarts": 2, "stop_early": True}  # from the image, then from a random start
    white = PGD(norm=check_norm(norm, (2, np.inf)), **options)
    (budgets,) = resolve_epsilons([white], epsilons)
    probe = Probe(logits_fn, white, tf.boolean_mask(logits_fn.cast(images), right), tf.constant(labels[right]))
    fooled = probe.around_half(budgets, tries=4 if epsilons is None else 0)
    ratios = {epsilon: float(mask.mean()) for epsilon, mask in fooled.items()}
    middle = min(ratios, key=lambda epsilon: abs(ratios[epsilon] - 0.5))
    checks = tuple(_check(*pair) for pair in _figures(probe, fooled, middle, twin, queries).items())
    tried: dict[str, Any] = {"epsilon": middle, "epsilons": tuple(ratios), "fooling_ratios": tuple(ratios.values())}
    shared: dict[str, Any] = {"num_correct": len(probe.labels), "flags": tuple(flags)}
    return MaskingReport(checks, repr(white), norm_name(white.norm), **tried, **shared)


def _figures(
    probe: Probe, white: dict[float, np.ndarray], epsilon: float, twin: Model | None, queries: int
) -> dict[str, float]:
    """The figure of each check at one ε; ``white`` says which samples the white-box attack fools at each ε."""
    fooled, margin, more = white[epsilon], probe.margin(epsilon), probe.more_steps(epsilon)
    gradients = fooled | margin | more  # what others have to beat
    return {
        "one step": probe.one_step(white),
        "margin loss": abs(float(margin.mean()) - float(fooled.mean())),
        "more steps": float((more & ~fooled).mean()),
        "probabilities": probe.probabilities(epsilon, fooled),
        "random noise": probe.random_noise(epsilon, gradients),
        "black box": probe.black_box(epsilon, gradients, queries),
        "transfer": probe.transfer(epsilon, gradients, twin),
        "growing ε": probe.growing_epsilon(),
        "zero gradients": probe.zero_gradients(),
    }


def _check(name: str, figure: float) -> MaskingCheck:
    verdict = "not run" if math.isnan(figure) else "suspect" if figure > _CHECKS[name]["threshold"] else "ok"
    return MaskingCheck(name, figure, verdict=verdict, **_CHECKS[name])
