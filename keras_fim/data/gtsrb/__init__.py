"""German Traffic Sign Recognition Benchmark as a TensorFlow Datasets builder."""

from keras_fim.data.gtsrb.gtsrb_dataset_builder import Builder

__all__ = ["Builder"]
