"""The budgets at which models are attacked by default."""

from __future__ import annotations

import numpy as np

from keras_fim.attacks import DEFAULT_EPSILONS

__all__ = ["default_epsilons"]

_COLOR = {2.0: (0.25, 0.5, 1.0, 2.0), np.inf: (1 / 255, 2 / 255, 4 / 255, 8 / 255)}


def default_epsilons(num_channels: int, bounds: tuple[float, float] = (0.0, 1.0)) -> dict[float, tuple[float, ...]]:
    """Budgets that suit the images.

    Args:
        num_channels: The number of channels. Color images get smaller budgets than `keras_fim.attacks` has by default:
            a classifier of photographs is fooled by far smaller changes than one of gray digits.
        bounds: The smallest and the largest pixel value.

    Returns:
        Four values of ε for each of the norms 2 and inf, from the smallest to the largest, on the scale of ``bounds``.

    Example:
        >>> default_epsilons(1)[2.0]
        (0.5, 1.0, 2.0, 3.0)
    """
    scale = bounds[1] - bounds[0]
    epsilons = _COLOR if num_channels == 3 else {norm: DEFAULT_EPSILONS[norm] for norm in _COLOR}
    return {norm: tuple(scale * epsilon for epsilon in values) for norm, values in epsilons.items()}
