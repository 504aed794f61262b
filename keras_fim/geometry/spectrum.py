"""The Fisher spectrum by the method that suits the number of classes."""

import tensorflow as tf

from keras_fim.geometry.eigen import exact_spectrum_and_logits
from keras_fim.geometry.krylov import MAX_STEPS, RTOL, check_tolerance, krylov_spectrum_and_logits
from keras_fim.typing import LogitsCallable, Spectrum

METHODS = ("auto", "exact", "krylov")
_CLASSES_PER_PAIR = 4  # up to 4 k classes, K gradients cost no more than the Krylov method's first step


def spectrum_and_logits(
    logits_fn: LogitsCallable,
    images: tf.Tensor,
    k: int = 1,
    *,
    method: str = "auto",
    rtol: float = RTOL,
    max_steps: int = MAX_STEPS,
) -> tuple[Spectrum, tf.Tensor]:
    """The k largest eigenpairs of ``G_x`` and the logits.

    Args:
        logits_fn: a function from images ``(batch, ...)`` to logits ``(batch, K)``, sample by sample.
        images: ``(batch, ...)``, floating.
        k: number of eigenpairs, from 1 to K.
        method: one of `METHODS`; ``"auto"`` is exact up to four classes for each eigenpair, else Krylov.
        rtol: of `krylov_spectrum`.
        max_steps: of `krylov_spectrum`.

    Returns:
        `Spectrum`, and ``(batch, K)``.

    Raises:
        ValueError: if an option is not valid, or ``k`` not in 1..K.
    """
    check_method(method, rtol, max_steps)
    images = tf.convert_to_tensor(images)
    if method == "auto":  # only the shape is asked for: compiled, this pass is not executed
        method = "exact" if logits_fn(images[:1]).shape[-1] <= _CLASSES_PER_PAIR * k else "krylov"
    if method == "exact":
        return exact_spectrum_and_logits(logits_fn, images, k)
    return krylov_spectrum_and_logits(logits_fn, images, k, rtol=rtol, max_steps=max_steps)


def check_method(method: str, rtol: float, max_steps: int) -> None:
    """Check the options of `spectrum_and_logits`.

    Raises:
        ValueError: if ``method`` is not one of `METHODS`, ``rtol <= 0`` or ``max_steps < 1``.
    """
    if method not in METHODS:
        raise ValueError(f"`method` should be one of {', '.join(METHODS)}. Received: method={method!r}")
    check_tolerance(rtol, max_steps)
