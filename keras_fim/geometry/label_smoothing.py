"""Where eq. (4) and label smoothing meet: the minimizer of ``CE + μ Σ 1/p_i`` on one sample.

Both have their minimum at ``q = α/K`` for each other class and ``t = 1 - (K-1) q`` for the true one. Setting the
derivative of ``-log t + μ (1/t + (K-1)/q)`` in ``q`` to zero gives exactly ``μ = t q² / (t² - q²)``.
"""

import math

from keras_fim.arguments import checked

_PAPER_ALPHA = 0.765  # what the paper's μ = 0.02 is at K = 10


@checked
def mu_from_label_smoothing(alpha: float, num_classes: int) -> float:
    r"""The μ of eq. (4) whose optimum on one sample is that of label smoothing with strength α.

    .. math:: \mu = \frac{t q^2}{t^2 - q^2}, \quad q = \frac{\alpha}{K}, \quad t = 1 - (K-1) q

    Args:
        alpha: strength of label smoothing in [0, 1): ``y (1 - α) + α/K``.
        num_classes: number of classes K >= 2.

    Returns:
        μ >= 0, growing with α without bound.

    Raises:
        ValueError: if ``alpha`` is not in [0, 1) or ``num_classes < 2``.

    Example:
        >>> round(mu_from_label_smoothing(0.765, 10), 4), round(mu_from_label_smoothing(0.765, 43), 5)
        (0.02, 0.00126)
    """
    _check_num_classes(num_classes)
    if not 0 <= alpha < 1:
        raise ValueError(f"`alpha` should be in [0, 1). Received: alpha={alpha}")
    q = alpha / num_classes
    t = 1 - (num_classes - 1) * q
    # t - q = 1 - alpha exactly; the difference of squares would cancel
    return t * q * q / ((t + q) * (1 - alpha))


@checked
def label_smoothing_from_mu(mu: float, num_classes: int) -> float:
    """The strength α of label smoothing that has the optimum of eq. (4) with μ; inverse of `mu_from_label_smoothing`.

    Args:
        mu: weight μ >= 0 of the trace.
        num_classes: number of classes K >= 2.

    Returns:
        α in [0, 1), to the last bits (by bisection; the relation is monotone).

    Raises:
        ValueError: if ``mu`` is negative or not finite, or ``num_classes < 2``.

    Example:
        >>> round(label_smoothing_from_mu(0.02, 10), 3)
        0.765
    """
    _check_num_classes(num_classes)
    if not 0 <= mu < math.inf:
        raise ValueError(f"`mu` should be a finite number >= 0. Received: mu={mu}")
    if mu == 0:
        return 0.0
    low, high = 0.0, math.nextafter(1.0, 0.0)
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if mu_from_label_smoothing(middle, num_classes) < mu else (low, middle)
    return low


@checked
def default_mu(num_classes: int) -> float:
    """A μ for eq. (4) that smooths K classes as strongly as the paper's μ = 0.02 smooths ten.

    It is `mu_from_label_smoothing` at α = 0.765: 0.02 at K = 10, 0.0013 at K = 43, where 0.02 itself would leave the
    true class a probability of 0.039, next to chance.

    Args:
        num_classes: number of classes K >= 2.

    Returns:
        μ, rounded to two digits.

    Raises:
        ValueError: if ``num_classes < 2``.

    Example:
        >>> default_mu(10), default_mu(43)
        (0.02, 0.0013)
    """
    return float(f"{mu_from_label_smoothing(_PAPER_ALPHA, num_classes):.1e}")


def _check_num_classes(num_classes: int) -> None:
    if not num_classes >= 2:
        raise ValueError(f"`num_classes` should be at least 2. Received: num_classes={num_classes}")
