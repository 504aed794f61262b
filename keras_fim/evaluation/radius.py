"""How far an image is from the decision boundary: as a gradient tells, and calibrated by attacks."""

import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.arguments import Count, InnerShare, Norm, checked, expect
from keras_fim.attacks import FMN, DeepFool, lp, problem
from keras_fim.evaluation.report import Report, Row
from keras_fim.geometry.boundary import DUAL, RIVALS, boundary_distance
from keras_fim.geometry.jacobian import linearize
from keras_fim.logits import LogitsFunction, logits_function, predict_logits
from keras_fim.pixels import PixelRange, find_range, images_in_range
from keras_fim.typing import Bounds, Images, Model
from keras_fim.validation import check_images

_FEWEST = 200


class BoundaryRadius(NamedTuple):
    """How far the decision boundary is from some images, to first order.

    Attributes:
        radius: ``(n,)``, in the norm asked for and on the scale of the images; NaN where it is not defined.
        rival: int32 ``(n,)``, the class on the other side of that boundary.
        defined: bool ``(n,)``: False where the gradient of every difference of logits is zero or not finite, so that
            nothing can be said. Such an image is not robust; it is unknown.
    """

    radius: np.ndarray
    rival: np.ndarray
    defined: np.ndarray


@checked
def boundary_radius(
    model: Model,
    images: Images,
    norm: Norm = 2,
    rivals: Count = RIVALS,
    *,
    refine: bool = False,
    batch_size: int = 128,
    bounds: Bounds | PixelRange | None = None,
) -> BoundaryRadius:
    r"""The first-order distance of each image to the boundary of the class y that the model predicts.

    .. math:: r = \min_j \frac{z_y - z_j}{\|\nabla_x (z_y - z_j)\|_q}, \qquad 1/p + 1/q = 1

    over the most probable rivals j. It is exact for a linear model, an estimate for any other, and a guarantee for
    none: `keras_fim.evaluation.calibrate` fits a factor that makes it hold for a given share of images, and
    `keras_fim.certify` is the way to a guarantee. Unlike the radius that the Fisher information predicts, it does not
    grow with the confidence alone.

    Args:
        model: Any classifier that `keras_fim.logits.logits_function` takes. One sigmoid unit has two classes.
        images: ``(n, ...)`` in the range that the model takes.
        norm: The p of the radius: 1, 2 or inf; q is its dual.
        rivals: The number of rivals j, at most; one gradient each.
        refine: Whether to take the step to that boundary and, from where it ends, one more to the same rival's: the
            radius is then the length of both together, at the price of one more gradient. In l2 and l∞.
        batch_size: The number of images worked on at a time.
        bounds: The smallest and the largest pixel value that the model takes; ``None`` for what its leading rescaling
            says, if it has one. The radii are on the scale of the pixels as they are.

    Returns:
        `BoundaryRadius` of float32 radii (float64 for a float64 model).

    Raises:
        ValueError: If images are empty, not finite, without a batch axis, outside of the range, or bytes that nothing
            says the model takes; if the model has no gradient; or if an option is out of range.

    Example:
        >>> model = logits_function(lambda x: x @ [[3.0, 0.0], [4.0, 0.0]], from_logits=True)
        >>> boundary_radius(model, [[1.0, 0.5], [0.3, 0.4]]).radius
        array([1. , 0.5], dtype=float32)
    """
    expect(not refine or norm != 1, "norm", "2 or inf with refine=True", norm)
    images = images_in_range(model, images, bounds)
    logits_fn = logits_function(model, images)
    estimate = _second_step if refine else _first_order
    radius, rival = logits_fn.in_batches(estimate, images, float(norm), int(rivals), batch_size=batch_size)
    if np.isnan(radius).all():  # a loop that is compiled makes zeros of gradients that it does not have
        logits_fn.check_gradient(images[:1])
    return BoundaryRadius(radius, rival, ~np.isnan(radius))


@dataclasses.dataclass(frozen=True)
class Calibration(Report):
    """A factor for boundary radii; prints as what may be said of them.

    Attributes:
        factor: What a radius is multiplied by.
        share: The share of images that then have their nearest adversarial farther away.
        norm: The norm of the radii.
        num_samples: The number of images it was fitted on.
        num_without_radius: The number of images left out, because they have no radius.
    """

    factor: float
    share: float
    norm: str
    num_samples: int
    num_without_radius: int

    def tables(self) -> dict[str, list[Row]]:
        """One row."""
        return {"": [dataclasses.asdict(self)]}

    def __str__(self) -> str:
        images = f"For {100 * self.share:g} % of images like these {self.num_samples}, no attack we ran succeeded"
        return f"{images} within their radius: {self.factor:.3g} times the boundary radius in {self.norm}."


@checked
def calibrate(
    model: Model, images: Images, *, norm: Norm = 2, share: InnerShare = 0.9, bounds: Bounds | PixelRange | None = None
) -> Calibration:
    r"""Fit the factor that makes the boundary radius hold for a share of images like these.

    With the ratios of the distance to the nearest change of the predicted class, as `keras_fim.attacks.FMN` and
    `keras_fim.attacks.DeepFool` find it, over the boundary radius, it is the k-th smallest ratio with
    :math:`k = \lfloor (1 - s) (n + 1) \rfloor`: a further image from the same source has its adversarial beyond its
    radius with probability at least s. That is what these attacks say, and no guarantee: a stronger attack may come
    nearer.

    Args:
        model: Any classifier that `keras_fim.logits.logits_function` takes.
        images: ``(n, ...)``, at least 200, that the model was not trained on.
        norm: 1, 2 or inf.
        share: The share s, in (0, 1).
        bounds: The smallest and the largest pixel value; ``None`` for what the model's leading rescaling says.

    Returns:
        `Calibration`.

    Raises:
        ValueError: If there are fewer images with a radius, an option is out of range, or so few images were fooled
            that no factor follows.

    Source:
        The order statistic is that of split conformal prediction (Papadopoulos et al., ECML 2002).
    """
    radius, distance = radius_and_distance(model, images, norm=norm, bounds=bounds)
    defined = radius > 0  # NaN is none, and a radius of 0 holds in any case
    ratios = np.sort(distance[defined] / radius[defined])
    place = min(int((1 - share) * (len(ratios) + 1) + 1e-9), len(ratios))
    if len(ratios) < _FEWEST or place < 1:
        raise ValueError(f"`images` should be at least {_FEWEST} with a boundary radius. Received: {len(ratios)}")
    factor = float(ratios[place - 1])
    expect(factor < np.inf, "images", "fooled more often", received=f"{np.isfinite(ratios).sum()} fooled images")
    return Calibration(factor, float(share), lp.norm_name(norm), len(ratios), int(np.isnan(radius).sum()))


def radius_and_distance(
    model: Model, images: Images, *, norm: float = 2, bounds: Bounds | PixelRange | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The boundary radius, and the distance to the nearest change of the predicted class that an attack finds.

    Args:
        model: As of `calibrate`.
        images: As of `calibrate`.
        norm: As of `calibrate`.
        bounds: As of `calibrate`.

    Returns:
        Float64 ``(n,)`` each, in the units of an attack's ε: the radius, NaN where it is not defined, and the distance,
        the smaller one of FMN and (but in l1) DeepFool, inf where both failed.

    Raises:
        ValueError: As `calibrate` for the images.
    """
    logits_fn = logits_function(model, check_images(images))
    pixels = find_range(logits_fn, images, bounds=bounds)
    units, inside = problem.Units(pixels.bounds), logits_fn.cast(pixels.clip(images)[0])
    predicted = logits_fn.in_batches(predict_logits, inside).argmax(axis=-1)
    attacks = [FMN(norm=norm, bounds=units.bounds), *([DeepFool(norm=norm, bounds=units.bounds)] if norm != 1 else [])]
    distances = [attack(logits_fn, inside, predicted).distances for attack in attacks]
    radius, _ = units.logits_fn(logits_fn).in_batches(_first_order, units.to_units(inside), float(norm), RIVALS)
    return np.asarray(radius * units.scale, np.float64), np.min(distances, axis=0)


def _first_order(norm: float, rivals: int, logits_fn: LogitsFunction, images: tf.Tensor) -> tuple[tf.Tensor, ...]:
    return boundary_distance(linearize(logits_fn, images), norm, rivals)


def _second_step(norm: float, rivals: int, logits_fn: LogitsFunction, images: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """The length of two steps of Newton's method on the margin against the nearest rival; NaN as of the first order."""
    jacobian = linearize(logits_fn, images)
    radius, rival = boundary_distance(jacobian, norm, rivals)
    classes = jacobian.logits.shape[-1]
    against = tf.one_hot(tf.argmax(jacobian.logits, axis=-1), classes) - tf.one_hot(rival, classes)
    against, moved = tf.cast(against, jacobian.logits.dtype), tf.zeros_like(images)
    for _ in range(2):
        slope = jacobian.pull(against)
        margin = tf.reduce_sum(against * jacobian.logits, axis=-1)
        moved = lp.step(moved, slope, -margin / lp.norms_of(slope, DUAL[norm]), norm)
        jacobian = linearize(logits_fn, images + moved)
    total = lp.norms_of(moved, norm)
    return tf.where(tf.math.is_finite(radius) & tf.math.is_finite(total), total, radius), rival
