"""Strong attacks that run several others in turn: our own at a moderate price, and AutoAttack."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import tensorflow as tf

from keras_fim.arguments import one_of, require
from keras_fim.attacks import apgd, base, boundaries, iterative, lp, minimum_norm, square, staged
from keras_fim.attacks.losses import decided
from keras_fim.attacks.problem import Problem, Units
from keras_fim.attacks.samples import MOST_DRAWS, Best, Task
from keras_fim.logits import LogitsFunction, logits_function, predict_logits
from keras_fim.typing import AttackResult, Model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strong(staged.StagedAttack):
    """The attack whose robust accuracy is worth quoting: each sample goes on to the next stage while it stands.

    The stages are, by index (`stages`): 0 ``transfer``, adversarials of an undefended twin (PGD on its margin, 40
    steps), if there is a twin; 1 ``pgd``, PGD on the margin, 5 restarts of 40 steps; 2 ``apgd_ce``, 100 steps, in l1 in
    five runs; 3 ``apgd_dlr``, 100 steps; 4 ``fmn``, the nearest adversarial that 100 steps find, if it is within ε; 5
    ``apgd_t``, APGD on the targeted DLR, 100 steps for each of the nine most probable wrong classes (of fewer than four
    classes, on their margin); 6 ``square``, 1000 queries. ``quick`` takes a quarter of the steps (PGD's twice as long)
    and queries: a preview, not to be quoted. A defense that masks gradients falls to the first stage or the last.

    Args:
        norm: 1, 2 or inf.
        twin: An undefended model for the same classes, as `logits_function` takes it; a plain callable or a path is
            best passed through that, so that it is compiled once.
        quick: Whether each stage takes a quarter of its steps and queries.
        progress: Whether to show a progress bar of the stages and restarts done, at each ε.

    The result's ``details["stage"]`` is, for each sample, the index of the stage that fooled it, or negative; see
    `keras_fim.attacks.staged.StagedAttack` for the rest.

    Example:
        >>> import numpy as np
        >>> from keras_fim import models
        >>> model, images = models.convnet(), np.full((2, 28, 28, 1), 0.4, "float32")
        >>> attack = Strong(norm=np.inf, quick=True)
        >>> result = attack(model, images, model.predict(images, verbose=0).argmax(axis=-1), epsilon=0.1)
        >>> shares = attack.shares(result)
        >>> list(shares), bool(np.isclose(sum(shares.values()), result.fooling_ratio))
        (['transfer', 'pgd', 'apgd_ce', 'apgd_dlr', 'fmn', 'apgd_t', 'square'], True)

    Source:
        In the manner of AutoAttack: Croce & Hein, Reliable evaluation of adversarial robustness with an ensemble of
        diverse parameter-free attacks (ICML 2020).
    """

    base_name = "strong"

    twin: Model = None
    quick: bool = False

    stages: ClassVar[tuple[str, ...]] = ("transfer", "pgd", "apgd_ce", "apgd_dlr", "fmn", "apgd_t", "square")
    revision: ClassVar[int] = 2

    def attacks(self, num_classes: int = 10) -> dict[str, base.Attack]:
        """The attack of each stage; that of ``transfer`` is for the twin."""
        shared: dict[str, Any] = {"norm": self.norm, "bounds": self.bounds, "batch_size": self.batch_size}
        part = 4 if self.quick else 1
        pgd = {"loss": "margin", "steps": 40 // part, "step_size": 0.25 if self.quick else 0.125, **shared}
        ascent = {"steps": 100 // part, "stop_early": True, **shared}
        return {
            # to the largest margin of the twin: what barely fools it will not fool another
            "transfer": iterative.PGD(**pgd),
            "pgd": iterative.PGD(restarts=5, stop_early=True, **pgd),
            "apgd_ce": apgd.APGD(restarts=5 if self.norm == 1 else 1, **ascent),
            "apgd_dlr": apgd.APGD(loss="dlr", **ascent),
            # γ is not the default, so that revision 2 stays comparable
            "fmn": minimum_norm.FMN(steps=100 // part, gamma=0.05, **shared),
            "apgd_t": apgd.APGD(loss="dlr_targeted" if num_classes > 3 else "targeted_margin", **ascent),
            "square": square.Square(queries=1000 // part, **shared),
        }

    def _rounds(self, num_classes: int) -> list[tuple[int, base.Attack]]:
        """Without a twin, all but the first."""
        return super()._rounds(num_classes)[1 if self.twin is None else 0 :]

    def _run(self, stage: str, attack: base.Attack, logits_fn: LogitsFunction, task: Task, logits: tf.Tensor) -> Best:
        """What a stage finds; of adversarials of the twin, what the model makes of them."""
        if stage != "transfer":
            return super()._run(stage, attack, logits_fn, task, logits)
        units = Units(self.bounds)
        twin = logits_function(self.twin, units.to_pixels(task.images))
        moved = task._replace(images=twin.cast(task.images))
        moved, twin = moved._replace(epsilon=tf.cast(task.epsilon, moved.images.dtype)), units.logits_fn(twin)
        seen = twin.compiled(predict_logits)(moved.images)
        expected = f"{logits.shape[-1]} classes like the model. Received: {seen.shape[-1]} classes"
        require(seen.shape[-1] == logits.shape[-1], f"`twin` should have {expected}")
        points = tf.cast(super()._run(stage, attack, twin, moved, seen).points, task.images.dtype)
        return Best.of(points, logits_fn.compiled(predict_logits)(points), task.labels, "margin")


_FEW = 64  # images on which two passes are compared
_DRAWS = 20  # passes of a model that draws random numbers, for a gradient and for a verdict


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoAttack(staged.StagedAttack):
    """AutoAttack, compiled: each sample goes on to the next stage while it stands.

    The stages of the version ``standard`` are (`stages`): ``apgd_ce``, APGD on the cross-entropy; ``apgd_t``, APGD on
    the targeted DLR for each of the nine most probable wrong classes; ``fab_t``, FAB towards each of them; ``square``,
    5,000 queries. All take 100 steps and one run for each class. In l1, as in the official code, ``apgd_ce`` has five
    runs and ``apgd_t`` five classes. The targeted DLR needs four classes. With three, ``apgd_dlr`` runs after
    ``apgd_ce``, and ``apgd_t`` climbs :math:`z_t - z_y`; with two, only the latter.

    The version ``rand`` is for models that draw random numbers: ``apgd_ce`` and ``apgd_dlr`` (of two classes on the
    margin), with gradients averaged over 20 draws. It has two verdicts. By the published rule a sample is fooled once
    a single draw is wrong anywhere on the way; half of such successes may not repeat themselves. Here a success
    is a point, the best one of all steps, at which at least 15 of 20 fresh draws are wrong, and then 30 of 40 with 20
    more, because of many points that are wrong in half of their draws some pass the first test by chance.

    Args:
        norm: 1, 2 or inf.
        version: ``"standard"`` or ``"rand"``.

    The result's ``details["stage"]`` is, for each sample, the index of the stage that fooled it, or negative: -3 where
    only the published rule calls it fooled; see `keras_fim.attacks.staged.StagedAttack` for the rest. With ``rand``
    a sample was correct if the mean of the logits over 20 draws says so.

    Raises:
        ValueError: If the model's outputs differ between two passes and the version is ``standard``.

    Example:
        >>> attack = AutoAttack(norm=2)
        >>> attack.name, list(attack.attacks()), list(AutoAttack(version="rand").attacks())
        ('autoattack_l2', ['apgd_ce', 'apgd_t', 'fab_t', 'square'], ['apgd_ce', 'apgd_dlr'])

    Source:
        Croce & Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks
        (ICML 2020), section 5; in l1: Croce & Hein, Mind the box: l1-APGD for sparse adversarial attacks on image
        classifiers (ICML 2021).
    """

    version: Annotated[str, one_of("standard", "rand")] = "standard"

    stages: ClassVar[tuple[str, ...]] = ("apgd_ce", "apgd_dlr", "apgd_t", "fab_t", "square")

    @property
    def name(self) -> str:
        """The version and the norm, like ``autoattack_l2`` or ``autoattack_rand_linf``."""
        return f"autoattack_{'rand_' if self.version == 'rand' else ''}{lp.norm_name(self.norm)}"

    @property
    def confirmations(self) -> int:
        """20 with ``rand``, else 1."""
        return _DRAWS if self.version == "rand" else 1

    def _sweep(self, problem: Problem, epsilons: Sequence[float | None]) -> list[AttackResult]:
        """A success on a model that draws random numbers may not repeat itself."""
        if self.version == "standard" and staged.random_outputs(problem.logits_fn, problem.images[:_FEW]):
            expected = "the same logits in two passes over the same images with version='standard'"
            received = "random outputs, which version='rand' (autoattack_rand) is for: a success may not repeat itself"
            raise ValueError(f"`model` should return {expected}. Received: {received}")
        return super()._sweep(problem, epsilons)

    def attacks(self, num_classes: int = 10) -> dict[str, base.Attack]:
        """The attack of each stage that runs on models of K classes."""
        shared: dict[str, Any] = {"norm": self.norm, "bounds": self.bounds, "batch_size": self.batch_size}
        if self.version == "rand":
            losses = {"apgd_ce": "cross_entropy", "apgd_dlr": "dlr"}
            return {name: apgd.APGD(loss=loss, eot_draws=_DRAWS, **shared) for name, loss in losses.items()}
        runs, num_targets = (5, 5) if self.norm == 1 else (1, 9)
        dlr = {"apgd_dlr": apgd.APGD(loss="dlr", stop_early=True, **shared)} if num_classes == 3 else {}
        targeted = "dlr_targeted" if num_classes > 3 else "targeted_margin"
        return {
            "apgd_ce": apgd.APGD(restarts=runs, stop_early=True, **shared),
            **dlr,
            "apgd_t": apgd.APGD(loss=targeted, num_targets=num_targets, stop_early=True, **shared),
            "fab_t": boundaries.FAB(**shared),
            "square": square.Square(queries=5000, **shared),
        }

    def _logits(self, logits_fn: LogitsFunction, images: tf.Tensor) -> tf.Tensor:
        """With ``rand`` the mean over 20 draws."""
        if self.version == "standard":
            return super()._logits(logits_fn, images)
        return tf.reduce_mean(logits_fn.compiled(_drawn, _DRAWS)(images), axis=0)

    def _run(self, stage: str, attack: base.Attack, logits_fn: LogitsFunction, task: Task, logits: tf.Tensor) -> Best:
        """What a stage finds; with ``rand``, by the verdict of fresh draws."""
        if self.version == "standard":
            return super()._run(stage, attack, logits_fn, task, logits)
        assert isinstance(attack, apgd.APGD)
        reached = attack._function(apgd.APGD.perturb, logits_fn)(task, (logits,))
        votes = _votes(logits_fn.compiled(_drawn, 2 * _DRAWS)(reached.adversarials), task.labels)
        verdict = Best.of(reached.adversarials, votes, task.labels, "margin")
        return verdict._replace(once=verdict.fooled | reached.details["once"])


def _drawn(count: int, logits_fn: LogitsFunction, images: tf.Tensor) -> tf.Tensor:
    """The logits of several passes over the same images, ``(count, batch, K)``."""
    return tf.map_fn(lambda _: logits_fn(images), tf.range(count), fn_output_signature=images.dtype)


def _votes(drawn: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """How many draws were for each class, ``(batch, K)``, with the label last where enough were wrong, else first."""
    classes = tf.argmax(drawn, axis=-1)
    votes = tf.reduce_sum(tf.one_hot(classes, drawn.shape[-1], dtype=drawn.dtype), axis=0)
    wrong = tf.cast(classes != labels, drawn.dtype)
    fooled = (tf.reduce_mean(wrong[:_DRAWS], axis=0) >= MOST_DRAWS) & (tf.reduce_mean(wrong, axis=0) >= MOST_DRAWS)
    return decided(votes, labels, ~fooled)
