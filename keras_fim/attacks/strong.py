"""A sequence of strong attacks, of which each works on the samples that the ones before could not fool."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from keras_fim.attacks.apgd import APGD
from keras_fim.attacks.base import predict_logits
from keras_fim.attacks.best import Best
from keras_fim.attacks.fixed_budget import FixedBudgetAttack, Perturbed
from keras_fim.attacks.iterative import PGD
from keras_fim.attacks.lp import check_norm, norm_name
from keras_fim.attacks.square import Square, check_image_shape
from keras_fim.logits import LogitsFunction, logits_function
from keras_fim.typing import AttackResult, Model

__all__ = ["Strong"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strong(FixedBudgetAttack):
    """The attack whose robust accuracy is worth quoting: each sample goes on to the next stage while it stands.

    The stages are, by index (`stages`): 0 ``transfer``, adversarials of an undefended twin (PGD on its margin, 40
    steps), if there is a twin; 1 ``pgd``, PGD on the margin, 5 restarts of 40 steps; 2 ``apgd_ce``, 100 steps; 3
    ``apgd_dlr``, 100 steps; 4 ``square``, 1000 queries. ``quick`` takes a quarter of the steps and queries. A defence
    that masks gradients falls to the first stage or the last.

    A sample that was fooled at a smaller ε of a sweep stays fooled by the same point, so that success grows with ε. One
    that stands comes back at the point of the largest margin, one that was wrong before unchanged. Samples of all
    batches are gathered before each stage, so that later ones work on full batches.

    Args:
        norm: 2 or inf.
        twin: an undefended model for the same classes, as `logits_function` takes it; a plain callable or a path is
            best passed through that, so that it is compiled once.
        quick: a quarter of the steps and queries of each stage.
        progress: show a progress bar of the stages and restarts done, at each ε.

    The result's ``details["stage"]`` is, for each sample, the index of the stage that fooled it, -1 for none.

    Example:
        >>> from keras_fim import models
        >>> model, images = models.convnet(), np.full((2, 28, 28, 1), 0.4, "float32")
        >>> attack = Strong(norm=np.inf, quick=True)
        >>> result = attack(model, images, model.predict(images, verbose=0).argmax(axis=-1), epsilon=0.1)
        >>> shares = attack.shares(result)
        >>> list(shares), bool(np.isclose(sum(shares.values()), result.fooling_ratio))
        (['transfer', 'pgd', 'apgd_ce', 'apgd_dlr', 'square'], True)

    Source:
        In the manner of AutoAttack: Croce & Hein, Reliable evaluation of adversarial robustness with an ensemble of
        diverse parameter-free attacks (ICML 2020).
    """

    norm: float = np.inf
    twin: Model = dataclasses.field(default=None)
    quick: bool = False

    compiled: ClassVar[bool] = False  # the stages are
    stages: ClassVar[tuple[str, ...]] = ("transfer", "pgd", "apgd_ce", "apgd_dlr", "square")
    """The names of the stages, in order."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "norm", check_norm(self.norm, (2, np.inf)))

    @property
    def name(self) -> str:
        """``strong_l2`` or ``strong_linf``."""
        return f"strong_{norm_name(self.norm)}"

    def attacks(self) -> dict[str, FixedBudgetAttack]:
        """The attack of each stage; that of ``transfer`` is for the twin."""
        shared: dict[str, Any] = {"norm": self.norm, "bounds": self.bounds, "batch_size": self.batch_size}
        part = 4 if self.quick else 1
        pgd, apgd = {"loss": "margin", "steps": 40 // part, **shared}, {"steps": 100 // part, **shared}
        found: tuple[FixedBudgetAttack, ...] = (
            PGD(**pgd),  # to the largest margin of the twin: what barely fools it will not fool another
            PGD(restarts=5, stop_early=True, **pgd),
            APGD(stop_early=True, **apgd),
            APGD(loss="dlr", stop_early=True, **apgd),
            Square(queries=1000 // part, **shared),
        )
        return dict(zip(self.stages, found, strict=True))

    def shares(self, result: AttackResult) -> dict[str, float]:
        """The share of the originally correct samples that each stage fooled; they add up to the fooling ratio.

        Args:
            result: of this attack.

        Returns:
            Shares by the name of the stage; NaN if no sample was correct.
        """
        stage, total = result.details["stage"][result.was_correct], np.count_nonzero(result.was_correct)
        return {
            name: np.count_nonzero(stage == number) / total if total else float("nan")
            for number, name in enumerate(self.stages)
        }

    def prepare(
        self, logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Logits; the best points known, their logits, and the stages that they are of."""
        check_image_shape(images)
        predict = logits_fn.compiled(predict_logits)
        logits = tf.concat([predict(images[batch]) for batch in self._slices(len(images))], axis=0)
        return logits, images, logits, tf.fill([len(images)], -1)

    def perturb(
        self,
        logits_fn: LogitsFunction,
        images: tf.Tensor,
        labels: tf.Tensor,
        epsilon: tf.Tensor,
        seed: tf.Tensor,
        logits: tf.Tensor,
        *state: Any,
    ) -> Perturbed:
        """Stage by stage; only ``logits`` is of the images, ``state`` is of the best points known, within ε."""
        points, attacked, stage = state
        best = Best.of(points, attacked, labels, "margin")
        rounds = self._rounds()
        bar = keras.utils.Progbar(len(rounds), unit_name="round") if self.progress else None
        for turn, (number, attack) in enumerate(rounds):
            (standing,) = np.nonzero(~best.fooled.numpy() & (epsilon.numpy() > 0))
            for batch in self._slices(len(standing)):
                index = tf.constant(standing[batch])
                chosen = [tf.gather(each, index) for each in (images, labels, epsilon, logits)]
                draw = seed + 1_000_003 * batch.start + turn  # wraps around
                run = self._run_stage if number else self._transfer
                points, attacked = run(attack, logits_fn, draw, *chosen)
                new = Best.of(points, attacked, chosen[1], "margin").unless_worse_than(best.at(index))
                best = best.with_at(index, new)
                stage = tf.tensor_scatter_nd_update(stage, index[:, None], tf.where(new.fooled, number, -1))
            if bar:
                bar.update(turn + 1)
        return Perturbed(best.points, best.logits, {"stage": stage})

    def _rounds(self) -> list[tuple[int, FixedBudgetAttack]]:
        """Stages and attacks in order; restarts one by one, since they share what is compiled, and batches are full."""
        found: list[tuple[int, FixedBudgetAttack]] = []
        for number, attack in enumerate(self.attacks().values()):
            if isinstance(attack, PGD):
                found += [(number, dataclasses.replace(attack, restarts=1))] * attack.restarts
            else:
                found.append((number, attack))
        return found if self.twin is not None else found[1:]

    def _run_stage(
        self,
        attack: FixedBudgetAttack,
        logits_fn: LogitsFunction,
        seed: tf.Tensor,
        images: tf.Tensor,
        labels: tf.Tensor,
        epsilon: tf.Tensor,
        logits: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """What an attack finds, and the logits of it."""
        found = attack._run(logits_fn, "perturb")(images, labels, epsilon, seed, logits)
        return found.adversarials, found.logits

    def _transfer(
        self,
        attack: FixedBudgetAttack,
        logits_fn: LogitsFunction,
        seed: tf.Tensor,
        images: tf.Tensor,
        labels: tf.Tensor,
        epsilon: tf.Tensor,
        logits: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """What an attack finds on the twin, and the model's logits of it."""
        twin = logits_function(self.twin, images)
        cast = twin.cast(images)
        known = twin.compiled(predict_logits)(cast)
        if known.shape[-1] != logits.shape[-1]:
            raise ValueError(
                f"`twin` should have {logits.shape[-1]} classes like the model. Received: {known.shape[-1]} classes"
            )
        points, _ = self._run_stage(attack, twin, seed, cast, labels, tf.cast(epsilon, cast.dtype), known)
        points = tf.clip_by_value(tf.cast(points, images.dtype), *self.bounds)
        return points, logits_fn.compiled(predict_logits)(points)

    def _carry(self, state: list[tf.Tensor], found: Perturbed) -> list[tf.Tensor]:
        return [found.adversarials, found.logits, found.details["stage"]]

    def _batches(self, count: int) -> Iterator[tuple[slice, tf.Tensor]]:
        """All samples at once: they are divided anew for each stage."""
        yield slice(0, count), tf.constant(self.seed, tf.int32)

    def _slices(self, count: int) -> Iterator[slice]:
        return (slice(start, start + self.batch_size) for start in range(0, count, self.batch_size))
