"""The paper's data sets and an embedded sample, as batches of (images in [0, 1], labels)."""

from keras_fim.data.catalog import DatasetInfo, info, names
from keras_fim.data.loading import Splits, load, load_splits

__all__ = ["DatasetInfo", "Splits", "info", "load", "load_splits", "names"]
