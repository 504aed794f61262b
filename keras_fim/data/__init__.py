"""Datasets as batches of (images in [0, 1], labels): the paper's, a folder of images, an ``.npz`` file, TFDS."""

from keras_fim.data.catalog import DatasetInfo, names
from keras_fim.data.loading import Splits, evaluated, load, load_splits
from keras_fim.data.sources import KINDS, Source, described, info, open_source, short_name
from keras_fim.data.splits import PassSeed

__all__ = [
    "DatasetInfo", "KINDS", "PassSeed", "Source", "Splits", "described", "evaluated", "info", "load", "load_splits",
    "names", "open_source", "short_name",
]  # fmt: skip
