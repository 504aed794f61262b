"""The budgets at which models are attacked by default."""

from collections.abc import Sequence

import numpy as np

from keras_fim.attacks import DEFAULT_EPSILONS

_COLOR = {2.0: (0.25, 0.5, 1.0, 2.0), np.inf: (1 / 255, 2 / 255, 4 / 255, 8 / 255)}


def default_epsilons(
    image_shape: Sequence[int], bounds: tuple[float, float] = (0.0, 1.0)
) -> dict[float, tuple[float, ...]]:
    """Budgets that suit the images.

    Args:
        image_shape: ``(height, width, channels)``. Color images get smaller budgets than `keras_fim.attacks` has by
            default: a classifier of photographs is fooled by far smaller changes than one of gray digits. In l2 theirs
            grow with the square root of the number D of values, as ``sqrt(D / 3072)``.
        bounds: The smallest and the largest pixel value.

    Returns:
        Four values of ε for each of the norms 2 and inf, from the smallest to the largest, on the scale of ``bounds``.

    Example:
        >>> default_epsilons((28, 28, 1))[2.0]
        (0.5, 1.0, 2.0, 3.0)
    """
    color = image_shape[-1] == 3
    epsilons = _COLOR if color else {norm: DEFAULT_EPSILONS[norm] for norm in _COLOR}
    size = float(np.sqrt(np.prod(image_shape) / 3072)) if color else 1.0
    scales = {norm: (bounds[1] - bounds[0]) * (size if norm == 2 else 1.0) for norm in epsilons}
    return {norm: tuple(scales[norm] * epsilon for epsilon in values) for norm, values in epsilons.items()}
