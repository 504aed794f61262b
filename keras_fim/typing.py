"""The package's result types, and what it takes for a model."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

Model: TypeAlias = Annotated[Any, "Model"]
"""What `keras_fim.logits.logits_function` takes: a Keras model, a callable on images, the path of a saved one."""

Images: TypeAlias = Any
"""Array-like images ``(batch, ...)``."""

Labels: TypeAlias = Any
"""Array-like class indices ``(batch,)`` or one-hot rows ``(batch, K)``."""

Bounds: TypeAlias = Annotated[tuple[Any, Any], "Bounds"]
"""The smallest and the largest pixel value: two numbers, or two tuples with one number for each channel."""

LogitsCallable: TypeAlias = Callable[[tf.Tensor], tf.Tensor]
"""A function from images ``(batch, ...)`` to logits ``(batch, K)`` that treats each image by itself."""


class Spectrum(NamedTuple):
    """Largest eigenvalues and eigenvectors of the Fisher information matrix G_x in the input.

    Attributes:
        eigenvalues: ``(batch, k)``, largest first, >= 0.
        directions: ``(batch, k, *image shape)``, of l2 norm 1; zero where the eigenvalue is (a saturated sample, or
            an eigenpair beyond the rank, which is at most K-1). Their sign has no meaning.
        converged: bool ``(batch,)``, whether the method reached its tolerance; exact methods always do.
        num_steps: int32 ``(batch,)``, iterations spent; 0 for exact methods.
    """

    eigenvalues: tf.Tensor
    directions: tf.Tensor
    converged: tf.Tensor
    num_steps: tf.Tensor


class AttackResult(NamedTuple):
    """What an attack found, as numpy arrays.

    Attributes:
        adversarials: ``(batch, ...)``, in the dtype that the model was attacked in, inside the pixel bounds.
        success: bool ``(batch,)``: classified correctly before and wrongly now, as the target if the attack has one.
        distances: float64 ``(batch,)``, the attack's lp norm of ``adversarials - images``, measured afterwards.
        predictions: int64 ``(batch,)``, classes predicted for ``adversarials``; -1 for an answer of NaN.
        was_correct: bool ``(batch,)``: classified correctly before the attack, and not of the class that it aims at.
        details: arrays ``(batch, ...)`` that only some attacks have, by name; their docstrings list them.
    """

    adversarials: np.ndarray
    success: np.ndarray
    distances: np.ndarray
    predictions: np.ndarray
    was_correct: np.ndarray
    details: dict[str, np.ndarray]

    @property
    def fooling_ratio(self) -> float:
        """Share of the originally correct samples that are fooled (the paper's definition); NaN if none was correct."""
        total = int(np.count_nonzero(self.was_correct))
        return float(np.count_nonzero(self.success) / total) if total else float("nan")
