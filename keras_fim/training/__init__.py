"""Training runs that resume, the trained weights that come with the package, and what is measured on them."""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from keras_fim._lazy import importer as _importer
from keras_fim.training.config import TrainingConfig, recipe

if _TYPE_CHECKING:
    from keras_fim.training.comparison import compare
    from keras_fim.training.run import train
    from keras_fim.training.trained import load_model, stored_names

__all__ = ["TrainingConfig", "compare", "load_model", "recipe", "stored_names", "train"]

_HOMES = {"compare": "comparison", "load_model": "trained", "stored_names": "trained", "train": "run"}
__getattr__ = _importer(__name__, _HOMES)
