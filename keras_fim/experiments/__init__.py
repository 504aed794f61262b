"""Training runs, the stored weights, and what is measured on them."""

from keras_fim.experiments.config import TrainingConfig, recipe
from keras_fim.experiments.training import train
from keras_fim.experiments.weights import load_model, stored_names

__all__ = ["TrainingConfig", "load_model", "recipe", "stored_names", "train"]
