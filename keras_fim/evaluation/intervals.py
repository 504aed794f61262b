"""How far a figure that was measured on some images may be from that of all images: confidence intervals."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_fim.arguments import checked


@dataclasses.dataclass(frozen=True)
class Interval:
    """A figure and its confidence interval.

    Attributes:
        value: the figure on the samples at hand.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


@dataclasses.dataclass(frozen=True)
class Ratio(Interval):
    """A share of samples and its confidence interval.

    Attributes:
        value: ``count / total``; NaN of nothing.
        low: lower end of Wilson's 95 % interval.
        high: its upper end.
        count: samples that count.
        total: samples that could.
    """

    count: int
    total: int

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@checked
def wilson(count: int, total: int, *, confidence: float = 0.95) -> Ratio:
    r"""A share with Wilson's score interval.

    .. math:: \frac{\hat p + z^2 / 2n \pm z \sqrt{\hat p (1 - \hat p) / n + z^2 / 4 n^2}}{1 + z^2 / n}

    A share of independent samples is binomial, and this interval holds its level even where the share is near 0 or 1;
    there the bootstrap gives [0, 0] or [1, 1], whatever the number of samples.

    Args:
        count: samples that count, 0 to ``total``.
        total: samples that could.
        confidence: level in (0, 1).

    Returns:
        `Ratio`; NaN with the interval [0, 1] of nothing.

    Raises:
        ValueError: if the counts or the level are out of range.

    Example:
        >>> print(wilson(0, 100))
        0.0 % [0.0, 3.7]

    Source:
        Wilson, Probable inference, the law of succession, and statistical inference (JASA 1927).
    """
    if not 0 <= count <= total:
        raise ValueError(f"`count` should be from 0 to total={total}. Received: count={count}")
    confidence = _checked(confidence)
    if total == 0:
        return Ratio(math.nan, 0.0, 1.0, 0, 0)
    from scipy.stats import binomtest

    interval = binomtest(int(count), int(total)).proportion_ci(confidence, method="wilson")
    return Ratio(count / total, float(interval.low), float(interval.high), int(count), int(total))


@checked
def bootstrap(
    statistic: Callable[..., float],
    *samples: Sequence[Any] | np.ndarray,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """A statistic of samples with its percentile bootstrap interval.

    Samples are drawn again with replacement, the same ones from each array: two models that were measured on the same
    images are compared image by image. For plain shares use `wilson`.

    Args:
        statistic: a function of as many arrays as are given; may return inf or NaN (NaN draws are left out).
        *samples: arrays of one length n, one entry for each sample.
        confidence: level in (0, 1).
        resamples: number of draws.
        seed: of the draws.

    Returns:
        `Interval`; its ends are order statistics, so they may be inf. NaN ends if every draw was NaN.

    Raises:
        ValueError: if there is no sample, the lengths differ, or an option is out of range.

    Example:
        >>> found = bootstrap(np.mean, np.arange(100.0))
        >>> round(found.value, 1), 40 < found.low < found.value < found.high < 60
        (49.5, True)

    Source:
        Efron, Bootstrap methods: another look at the jackknife (Annals of Statistics 1979).
    """
    arrays = [np.asarray(each) for each in samples]
    lengths = {len(each) for each in arrays}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"`samples` should be arrays of one length, at least 1. Received: lengths {sorted(lengths)}")
    if resamples < 1:
        raise ValueError(f"`resamples` should be a positive integer. Received: resamples={resamples}")
    (count,), generator = lengths, np.random.default_rng(seed)
    draws = (generator.integers(count, size=count) for _ in range(resamples))
    values = np.array([statistic(*(each[chosen] for each in arrays)) for chosen in draws], np.float64)
    values = values[~np.isnan(values)]
    tails = np.array([(1 - _checked(confidence)) / 2, (1 + confidence) / 2])
    # an interpolation between inf and inf would be NaN
    low, high = np.quantile(values, tails, method="inverted_cdf") if len(values) else (np.nan, np.nan)
    return Interval(float(statistic(*arrays)), float(low), float(high))


def _checked(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` should be in (0, 1). Received: confidence={confidence}")
    return confidence
