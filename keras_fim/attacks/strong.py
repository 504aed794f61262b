"""The strong attack: what gradients, boundaries and a search without either can do, at a moderate price."""

import dataclasses
from typing import Any, ClassVar

import tensorflow as tf

from keras_fim.attacks.apgd import APGD
from keras_fim.attacks.base import Attack, predict_logits
from keras_fim.attacks.fmn import FMN
from keras_fim.attacks.iterative import PGD
from keras_fim.attacks.lp import norm_name
from keras_fim.attacks.samples import Best, Task
from keras_fim.attacks.square import Square
from keras_fim.attacks.staged import StagedAttack
from keras_fim.attacks.units import Units
from keras_fim.logits import LogitsFunction, logits_function
from keras_fim.typing import Model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strong(StagedAttack):
    """The attack whose robust accuracy is worth quoting: each sample goes on to the next stage while it stands.

    The stages are, by index (`stages`): 0 ``transfer``, adversarials of an undefended twin (PGD on its margin, 40
    steps), if there is a twin; 1 ``pgd``, PGD on the margin, 5 restarts of 40 steps; 2 ``apgd_ce``, 100 steps; 3
    ``apgd_dlr``, 100 steps; 4 ``fmn``, the nearest adversarial that 100 steps find, if it is within ε; 5 ``apgd_t``,
    APGD on the targeted DLR, 100 steps for each of the nine most probable wrong classes (of fewer than four classes, on
    their margin); 6 ``square``, 1000 queries. ``quick`` takes a quarter of the steps (PGD's twice as long) and queries:
    a preview, not to be quoted. A defense that masks gradients falls to the first stage or the last.

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

    twin: Model = None
    quick: bool = False

    stages: ClassVar[tuple[str, ...]] = ("transfer", "pgd", "apgd_ce", "apgd_dlr", "fmn", "apgd_t", "square")
    revision: ClassVar[int] = 2

    @property
    def name(self) -> str:
        """``strong_`` and the norm, like ``strong_linf``."""
        return f"strong_{norm_name(self.norm)}"

    def attacks(self, num_classes: int = 10) -> dict[str, Attack]:
        """The attack of each stage; that of ``transfer`` is for the twin."""
        shared: dict[str, Any] = {"norm": self.norm, "bounds": self.bounds, "batch_size": self.batch_size}
        part = 4 if self.quick else 1
        pgd = {"loss": "margin", "steps": 40 // part, "step_size": 0.25 if self.quick else 0.125, **shared}
        apgd = {"steps": 100 // part, "stop_early": True, **shared}
        return {
            "transfer": PGD(**pgd),  # to the largest margin of the twin: what barely fools it will not fool another
            "pgd": PGD(restarts=5, stop_early=True, **pgd),
            "apgd_ce": APGD(**apgd),
            "apgd_dlr": APGD(loss="dlr", **apgd),
            "fmn": FMN(steps=100 // part, **shared),
            "apgd_t": APGD(loss="dlr_targeted" if num_classes > 3 else "targeted_margin", **apgd),
            "square": Square(queries=1000 // part, **shared),
        }

    def _rounds(self, num_classes: int) -> list[tuple[int, Attack]]:
        """Without a twin, all but the first."""
        return super()._rounds(num_classes)[1 if self.twin is None else 0 :]

    def _run(self, stage: str, attack: Attack, logits_fn: LogitsFunction, task: Task, logits: tf.Tensor) -> Best:
        """What a stage finds; of adversarials of the twin, what the model makes of them."""
        if stage != "transfer":
            return super()._run(stage, attack, logits_fn, task, logits)
        units = Units(self.bounds)
        twin = logits_function(self.twin, units.to_pixels(task.images))
        moved = task._replace(images=twin.cast(task.images))
        moved, twin = moved._replace(epsilon=tf.cast(task.epsilon, moved.images.dtype)), units.logits_fn(twin)
        seen = twin.compiled(predict_logits)(moved.images)
        if seen.shape[-1] != logits.shape[-1]:
            raise ValueError(
                f"`twin` should have {logits.shape[-1]} classes like the model. Received: {seen.shape[-1]} classes"
            )
        points = tf.cast(super()._run(stage, attack, twin, moved, seen).points, task.images.dtype)
        return Best.of(points, logits_fn.compiled(predict_logits)(points), task.labels, "margin")
