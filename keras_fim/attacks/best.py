"""The best point that an attack has seen of each sample."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from keras_fim.attacks.losses import LOSSES
from keras_fim.attacks.lp import by_image

__all__ = ["Best"]


class Best(NamedTuple):
    """The best point seen of each sample: a fooling one if there was one, the one of the largest loss among equals.

    Attributes:
        points: ``(n, ...)``.
        logits: ``(n, K)``, theirs.
        loss: ``(n,)``, theirs.
        fooled: bool ``(n,)``, whether another class than the label is predicted.
    """

    points: tf.Tensor
    logits: tf.Tensor
    loss: tf.Tensor
    fooled: tf.Tensor

    @classmethod
    def of(cls, points: tf.Tensor, logits: tf.Tensor, labels: tf.Tensor, loss: str) -> Best:
        """Points that were looked at; ``loss`` is a key of `LOSSES`."""
        return cls(points, logits, LOSSES[loss](logits, labels), tf.argmax(logits, axis=-1) != labels)

    def at(self, index: tf.Tensor) -> Best:
        """Those of some samples."""
        return Best(*[tf.gather(part, index) for part in self])

    def with_at(self, index: tf.Tensor, new: Best) -> Best:
        """The same with others in the place of some."""
        pairs = zip(self, new, strict=True)
        return Best(*[tf.tensor_scatter_nd_update(mine, index[:, None], theirs) for mine, theirs in pairs])

    def unless_worse_than(self, old: Best) -> Best:
        """The better ones of two, sample by sample; of equals the old."""
        better = (self.fooled & ~old.fooled) | ((self.fooled == old.fooled) & (self.loss > old.loss))
        pairs = zip(self, old, strict=True)
        return Best(*[tf.where(by_image(better, mine), mine, theirs) for mine, theirs in pairs])
