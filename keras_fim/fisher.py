"""The Fisher spectrum of a model on images."""

from typing import Annotated, Any

import tensorflow as tf

from keras_fim.arguments import Count, Positive, checked, one_of
from keras_fim.geometry import krylov
from keras_fim.geometry.spectrum import spectrum_and_logits
from keras_fim.logits import logits_function
from keras_fim.pixels import images_in_range
from keras_fim.typing import Bounds, Images, Model, Spectrum


@checked
def fisher_spectrum(
    model: Model,
    images: Images,
    k: int = 1,
    *,
    method: Annotated[str, one_of(*krylov.METHODS)] = "auto",
    rtol: Positive = krylov.RTOL,
    max_steps: Count = krylov.MAX_STEPS,
    batch_size: Count = 128,
    bounds: Bounds | None = None,
) -> Spectrum:
    r"""The k largest eigenpairs of the Fisher information matrix :math:`G_x` of a model, image by image.

    The largest eigenvalue says how fast the predicted distribution can change around an image:
    :math:`D_{KL}(p(x) \| p(x + \delta)) \approx \tfrac12 \delta^\top G_x \delta \le \tfrac12 \lambda \|\delta\|^2`.

    Args:
        model: any classifier that `keras_fim.logits.logits_function` takes.
        images: ``(batch, ...)`` in the range that the model takes.
        k: number of eigenpairs, from 1 to the number of classes K.
        method: ``"exact"`` takes K gradients and a K x K eigenproblem for each image; ``"krylov"`` a few products with
            the factor B, whatever K is (`keras_fim.geometry.krylov_spectrum`); ``"auto"`` is exact up to 4 k classes.
        rtol: tolerance of the Krylov method on the sine of the angle to the eigenvector, as it estimates it.
        max_steps: largest number of its steps; an image that needs more is marked in ``converged``.
        batch_size: images that are worked on at a time; bounds the memory (exact: ``batch_size * K`` images).
        bounds: The smallest and the largest pixel value that the model takes; ``None`` for what its leading rescaling
            says, if it has one. The eigenvalues are those in the pixels as they are.

    Returns:
        `Spectrum` of float32 tensors (float64 for a float64 model).

    Raises:
        ValueError: if images are empty, not finite, without a batch axis, outside of the range, or bytes that nothing
            says the model takes; if the model has no gradient; or if an option is out of range.

    Example:
        >>> from keras_fim import models
        >>> spectrum = fisher_spectrum(models.convnet(), tf.zeros((3, 28, 28, 1)), k=2)
        >>> spectrum.eigenvalues.shape, spectrum.directions.shape
        (TensorShape([3, 2]), TensorShape([3, 2, 28, 28, 1]))
    """
    images = images_in_range(model, images, bounds)
    options: dict[str, Any] = {"k": k, "method": method, "rtol": rtol, "max_steps": max_steps}
    logits_fn = logits_function(model, images)
    spectrum, _ = logits_fn.in_batches(spectrum_and_logits, images, batch_size=batch_size, **options)
    if not spectrum.eigenvalues.any():  # a loop that is compiled makes zeros of gradients that it does not have
        logits_fn.check_gradient(images[:1])
    return Spectrum(*map(tf.constant, spectrum))
