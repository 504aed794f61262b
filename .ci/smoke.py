"""A walk through the installed package, to run outside of the checkout: is all there, and do its dependencies fit?"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_fim

PACKAGE = Path(keras_fim.__file__).parent


def check_installation() -> None:
    """The package comes from site-packages and brings its type hints."""
    assert "site-packages" in PACKAGE.parts, f"keras_fim comes from {PACKAGE}, not from an installed wheel"
    assert (PACKAGE / "py.typed").exists(), "the wheel lacks py.typed"
    assert importlib.metadata.version("keras_fim") == keras_fim.__version__


def check_training_and_attack(folder: Path) -> None:
    """One step with the Fisher-trace loss, logged to TensorBoard; OSSA, a plot and a SavedModel of the result."""
    keras.utils.set_random_seed(0)
    train, test = keras_fim.data.load("mnist5k", batch_size=64)
    model = keras_fim.models.convnet()
    model.compile("adam", loss=keras_fim.FisherTraceLoss(mu=0.02), metrics=["accuracy"])
    board = keras.callbacks.TensorBoard(folder / "logs")
    history = model.fit(train.take(1), verbose=0, shuffle=False, callbacks=[board])
    assert np.isfinite(history.history["loss"]).all(), f"the loss is {history.history['loss']}"
    _check_event_file(folder / "logs" / "train")

    images, labels = keras_fim.evaluation.samples(test, 16)
    attack = keras_fim.attacks.OSSA()
    result = attack(model, images, labels, epsilon=1.0)
    assert result.adversarials.shape == images.shape and (result.distances <= 1.0 + 1e-5).all()
    curve = keras_fim.evaluation.robustness_curve(model, images, labels, attack, [0.0, 1.0])
    keras_fim.plots.robustness_figure({"smoke": [curve]}).savefig(folder / "curve.png")

    exported = keras_fim.export.saved_model(model, folder / "saved")
    report = keras_fim.export.verify(exported)
    assert report.passed, report


def _check_event_file(folder: Path) -> None:
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder)).Reload()
    assert "epoch_loss" in events.Tags()["tensors"], f"no loss among {events.Tags()['tensors']}"
    importlib.import_module("tensorboard.main")


def check_data_sets() -> None:
    """The wheel holds GTSRB's description, and its builder is one of TensorFlow Datasets."""
    tfds = importlib.import_module("tensorflow_datasets")
    gtsrb = importlib.import_module("keras_fim.data.gtsrb")
    assert len(keras_fim.data.info("gtsrb").class_names) == 43
    assert issubclass(gtsrb.Builder, tfds.core.GeneratorBasedBuilder)
    with tempfile.TemporaryDirectory() as folder:
        builder = gtsrb.Builder(data_dir=folder)
        assert builder.info.features["label"].num_classes == 43
        assert builder.info.description, "the wheel lacks the description of GTSRB"


def check_other_packages() -> None:
    """What is imported only when used can be imported."""
    for module in ("cleverhans.tf2.attacks.projected_gradient_descent", "cleverhans.tf2.attacks.carlini_wagner_l2"):
        importlib.import_module(module)


def main() -> None:
    """Run all checks."""
    names = ("tensorflow", "keras", "numpy", "tensorflow_datasets", "tensorboard", "matplotlib", "mlxtend")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    print(f"Python {platform.python_version()}, {versions}")
    with tempfile.TemporaryDirectory() as folder:
        check_installation()
        check_training_and_attack(Path(folder))
        check_data_sets()
        check_other_packages()
    print(f"smoke: all well with {PACKAGE.name} {keras_fim.__version__} from an installed wheel")


if __name__ == "__main__":
    main()
