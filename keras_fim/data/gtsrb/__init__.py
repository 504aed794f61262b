"""German Traffic Sign Recognition Benchmark as a TensorFlow Datasets builder."""

from keras_fim.data.gtsrb.gtsrb_dataset_builder import CLASS_NAMES, Builder

__all__ = ["CLASS_NAMES", "Builder"]
