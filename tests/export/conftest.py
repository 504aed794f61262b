"""A small exported model that several modules look at."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_fim import detection, evaluation, export, models

LABELS = [f"digit {index}" for index in range(10)]


class Exported:
    """A model, the images it was exported with, its detector, and where it lies."""

    def __init__(self, folder):
        keras.utils.set_random_seed(0)
        self.model = models.convnet(filters=(2, 3))
        self.images = np.random.default_rng(0).uniform(size=(20, 28, 28, 1)).astype("float32")
        attacked = np.clip(self.images + 0.5, 0, 1)
        self.detector = detection.FisherDetector.fit(self.model, self.images, attacked, false_positive_rate=0.3)
        self.path = export.saved_model(
            self.model,
            folder / "digits",
            labels=LABELS,
            detector=self.detector,
            report={"data": "mnist5k", "accuracy": 0.1, "mu": 0.02, "robustness": {"curves": []}},
            images=self.images,
            bounds=(0, 1),
            direction=True,
            calibration=evaluation.Calibration(0.8, 0.9, "l2", 200, 0),
        )


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    pytest.importorskip("sklearn", reason="the detector needs the extra [detection]")
    return Exported(tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="session")
def signatures(exported):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(exported.path))
    yield loaded.signatures
    del loaded
