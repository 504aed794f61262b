"""Fisher geometry of classifiers: the mathematics, on logits and on functions from images to logits."""

from keras_fim.geometry.boundary import boundary_distance  # noqa: I001 - the last list as `__all__`
from keras_fim.geometry.jacobian import Linearization, factor, linearize, linearized
from keras_fim.geometry.krylov import krylov_direction
from keras_fim.geometry.simplex import (
    INVERSE_PROBABILITY_CAP, default_mu, kl_divergence, label_smoothing_from_mu, logit_fim, logit_fim_form,
    logit_fim_largest_eigenvalue, mu_from_label_smoothing, penalized_cross_entropy, simplex_fim_largest_eigenvalue,
    simplex_fim_trace, two_classes,
)  # fmt: skip
from keras_fim.geometry.spectrum import exact_spectrum, krylov_spectrum

__all__ = [
    "INVERSE_PROBABILITY_CAP", "Linearization", "boundary_distance", "default_mu", "exact_spectrum", "factor",
    "kl_divergence", "krylov_direction", "krylov_spectrum", "label_smoothing_from_mu", "linearize", "linearized",
    "logit_fim", "logit_fim_form", "logit_fim_largest_eigenvalue", "mu_from_label_smoothing", "penalized_cross_entropy",
    "simplex_fim_largest_eigenvalue", "simplex_fim_trace", "two_classes",
]  # fmt: skip
