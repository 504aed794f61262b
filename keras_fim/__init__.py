"""Fisher-information robustness for Keras classifiers: how easily can a model be fooled, and what to change.

Some names of the modules below are also at the top, as `keras_fim.fisher_spectrum` and so on:

* Losses: `keras_fim.losses.FisherTraceLoss` and `keras_fim.losses.FisherEigenvalueLoss`.
* Measures: `keras_fim.evaluation.evaluate`, `keras_fim.fisher.fisher_spectrum`,
  `keras_fim.evaluation.boundary_radius` and `keras_fim.evaluation.certify`.
* The weight μ: `keras_fim.geometry.default_mu`, `keras_fim.geometry.label_smoothing_from_mu` and
  `keras_fim.geometry.mu_from_label_smoothing`.

All modules are imported at once, so that `keras.models.load_model` finds what the package registers. Only the command
line imports each part when it is first used: its help then needs no TensorFlow.
"""

import importlib as _importlib
import json as _json
import os as _os
import sys as _sys
from typing import TYPE_CHECKING as _TYPE_CHECKING

from keras_fim._lazy import importer as _importer

if _TYPE_CHECKING:
    from keras_fim import (  # noqa: I001 - as in `__all__`
        attacks, callbacks, data, defenses, detection, distribution, evaluation, export, geometry, layers, logits,
        losses, metrics, models, plots, training,
    )  # fmt: skip
    from keras_fim.evaluation import boundary_radius, certify, evaluate
    from keras_fim.fisher import fisher_spectrum
    from keras_fim.geometry.simplex import default_mu, label_smoothing_from_mu, mu_from_label_smoothing
    from keras_fim.losses import FisherEigenvalueLoss, FisherTraceLoss

__version__ = "0.2.0"

__all__ = [
    "FisherEigenvalueLoss", "FisherTraceLoss", "attacks", "boundary_radius", "callbacks", "certify", "data",
    "default_mu", "defenses", "detection", "distribution", "evaluate", "evaluation", "export", "fisher_spectrum",
    "geometry", "label_smoothing_from_mu", "layers", "logits", "losses", "metrics", "models",
    "mu_from_label_smoothing", "plots", "training",
]  # fmt: skip

_HOMES = {
    **{name: name for name in __all__},
    **dict.fromkeys(("FisherEigenvalueLoss", "FisherTraceLoss"), "losses"),
    **dict.fromkeys(("default_mu", "label_smoothing_from_mu", "mu_from_label_smoothing"), "geometry.simplex"),
    **dict.fromkeys(("boundary_radius", "certify", "evaluate"), "evaluation"),
    "fisher_spectrum": "fisher",
}
__getattr__ = _importer(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _backend() -> str:
    """The backend of Keras: of Keras itself if it is imported, else the one that it is going to choose."""
    if "keras" in _sys.modules:
        return str(_sys.modules["keras"].backend.backend())
    if _os.environ.get("KERAS_BACKEND"):
        return _os.environ["KERAS_BACKEND"]
    path = _os.path.join(_os.environ.get("KERAS_HOME", _os.path.expanduser("~/.keras")), "keras.json")
    try:
        with open(_os.path.expanduser(path), encoding="utf-8") as file:
            return str(_json.load(file).get("backend", "tensorflow"))
    except (OSError, ValueError):
        return "tensorflow"


if _backend() != "tensorflow":
    raise ImportError(
        "keras_fim needs Keras on TensorFlow: set the environment variable KERAS_BACKEND=tensorflow. "
        f"Received: the backend {_backend()!r}"
    )

_program = _os.path.basename(_sys.argv[0] if _sys.argv else "")
if _program not in ("keras-fim", "keras-fim.exe") and not (_program == "-m" and "keras_fim" in _sys.orig_argv):
    for _home in dict.fromkeys(_HOMES.values()):
        _importlib.import_module(f"keras_fim.{_home}")
