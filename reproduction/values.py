"""What the paper prints, as it prints it."""

from __future__ import annotations

__all__ = ["FIGURE2_ACCURACY", "FIGURE3_FOOLED", "FIGURE5_FOOLED", "TABLE1", "TABLE2"]

TABLE1 = {
    "fgsm": (0.107, 0.170),
    "fgm": (0.00584, 0.00791),
    "bim_l1": (0.0210, 0.0273),
    "bim_l2": (0.00158, 0.00273),
    "bim_linf": (0.0726, 0.1070),
    "deepfool_l2": (0.00215, 0.00267),
    "carlini_wagner_l2": (0.00145, 0.00204),
    "jsma": (28.26, 48.19),
    "pgd_linf": (0.0730, 0.1100),
}
"""Mean distance on the original model (μ = 0) and on the defended one (μ = 0.024), in Foolbox 0.x's convention."""

TABLE2: dict[str, tuple[float, float | None]] = {
    "fgsm": (97.47, 54.33),
    "fgm": (96.74, 78.18),
    "bim_l1": (98.79, 93.12),
    "bim_l2": (98.79, 93.72),
    "bim_linf": (98.89, 89.07),
    "deepfool_l2": (98.58, 93.64),
    "carlini_wagner_l2": (98.79, 97.47),
    "jsma": (96.09, 90.45),
    "pgd_linf": (98.99, 89.57),
    "ossa": (92.24, None),
}
"""Accuracy in % of the defended model on adversarials of the original one, and of the original on the defended's."""

FIGURE2_ACCURACY = "about 98.95 % throughout, 98.8 % at μ = 0.022"
FIGURE3_FOOLED = "below 10 % at ε = 6, μ = 0.022"
FIGURE5_FOOLED = "above 60 % at ε = 6"
