"""Training on noisy images, so that the smoothed classifier is certified farther."""

import math
from typing import Any

import keras
import tensorflow as tf

from keras_fim.arguments import checked
from keras_fim.attacks import draws
from keras_fim.defenses.base import Defense
from keras_fim.defenses.batch import Batch, SameState


@keras.saving.register_keras_serializable("keras_fim")
class GaussianAugmentation(Defense):
    r"""Trains on images with Gaussian noise, the training of a classifier that `keras_fim.certify` smooths.

    .. math:: L(x + \sigma n), \qquad n \sim \mathcal N(0, I)

    The noise is drawn anew in each step and not clipped to the pixel bounds, as in `keras_fim.certify`; take the same
    σ there. The classifier itself is hardly more robust.

    Logged in training: ``noisy_accuracy``.

    Args:
        model: A built Keras classifier, or another defense of one.
        sigma: The standard deviation σ of the noise, on the scale of the images.
        **options: ``bounds``, ``seed``, of the noise, and ``name``, as in `Defense`.

    Raises:
        ValueError: If ``sigma`` is not a finite number > 0, or as `Defense`.

    Example:
        >>> from keras_fim import models
        >>> defended = GaussianAugmentation(models.convnet(filters=(2, 2)), 0.25)
        >>> defended.compile("adam", loss="sparse_categorical_crossentropy")
        >>> history = defended.fit(tf.zeros((4, 28, 28, 1)), tf.range(4), verbose=0).history

    Source:
        Cohen, Rosenfeld, Kolter, Certified adversarial robustness via randomized smoothing (ICML 2019), section 3.3.
    """

    @checked
    def __init__(self, model: keras.Model, sigma: float, **options: Any) -> None:
        if not 0 < sigma < math.inf:
            raise ValueError(f"`sigma` should be a finite number > 0. Received: sigma={sigma}")
        super().__init__(model, **{"name": "gaussian_augmentation", **options})
        self.sigma = float(sigma)
        self._noisy = keras.metrics.SparseCategoricalAccuracy(name="noisy_accuracy")

    def perturb(self, images: tf.Tensor, labels: tf.Tensor, again: SameState, seed: tf.Tensor) -> tf.Tensor:
        """Noisy images."""
        keys = draws.fold(draws.keys_of(seed, tf.range(tf.shape(images)[0])), 3)
        return images + self.sigma * draws.normal(keys, images.shape[1:], images.dtype)

    @property
    def perturbs(self) -> bool:
        """True: a step is trained on noisy images alone."""
        return True

    def penalty(self, batch: Batch) -> tf.Tensor | None:
        """None; notes the accuracy on the noisy images."""
        self._noisy.update_state(batch.labels, tf.stop_gradient(batch.logits))
        return None

    def trackers(self) -> list[keras.metrics.Metric]:
        """The accuracy on the noisy images."""
        return [self._noisy] if hasattr(self, "_noisy") else []

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "sigma": self.sigma}
