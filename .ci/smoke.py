"""A walk through the installed package, to run outside of the checkout: is all there, and do its dependencies fit?"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import keras_fim

PACKAGE = Path(keras_fim.__file__).parent


def check_installation() -> None:
    """The package comes from site-packages and brings its type hints."""
    assert "site-packages" in PACKAGE.parts, f"keras_fim comes from {PACKAGE}, not from an installed wheel"
    assert (PACKAGE / "py.typed").exists(), "the wheel lacks py.typed"
    assert importlib.metadata.version("keras_fim") == keras_fim.__version__


def check_training(folder: Path) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """The Fisher-trace loss with the callbacks, logged to TensorBoard; the model and some test images."""
    train, test = keras_fim.data.load("mnist5k", batch_size=64, augment=True)
    images, labels = (array.numpy()[:16] for array in next(iter(test)))
    model = keras_fim.models.convnet(filters=(6, 8))
    model.compile("adam", loss=keras_fim.FisherTraceLoss(mu=0.02), metrics=["accuracy"])
    callbacks = [
        keras_fim.callbacks.MuSchedule(0.02, warmup_steps=10),
        keras_fim.callbacks.RobustnessCurve((images, labels), log_dir=folder / "logs"),
        keras_fim.callbacks.FisherSpectrum((images, labels), log_dir=folder / "logs"),
        keras.callbacks.TensorBoard(folder / "logs"),
    ]
    history = model.fit(train.take(20), verbose=0, shuffle=False, callbacks=callbacks).history
    assert np.isfinite(history["loss"]).all(), f"the loss is {history['loss']}"
    assert any("fooling" in key for key in history), f"no fooling ratio among {sorted(history)}"
    _check_event_file(folder / "logs" / "train")
    return model, images, labels


def check_defenses(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> None:
    """Each defense trains on one batch."""
    d, pgd = keras_fim.defenses, keras_fim.attacks.PGD(steps=2)
    makers = {
        "SpectralDefense": d.SpectralDefense,
        "n_fgm": lambda classifier: d.n_fgm(classifier, 1.0),
        "AdversarialTraining": lambda classifier: d.AdversarialTraining(classifier, pgd, epsilon=0.1),
        "TRADES": lambda classifier: d.TRADES(classifier, epsilon=0.1, attack_steps=2),
        "GradientPenalty": d.GradientPenalty,
        "AdversarialLabelSmoothing": d.AdversarialLabelSmoothing,
    }
    for name, make in makers.items():
        defense = make(keras.models.clone_model(model))
        defense.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        history = defense.fit(images, labels, batch_size=len(images), verbose=0).history
        assert np.isfinite(history["loss"]).all(), f"the loss of {name} is {history['loss']}"


def check_attacks(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> None:
    """One attack of each family keeps to its budget and to the range of the images."""
    a = keras_fim.attacks
    one_step, pgd = [a.OSSA(), a.FGSM(), a.OTCM()], [a.PGD(steps=3), a.MIM(norm=2, steps=3), a.APGD(steps=5)]
    others = [a.Square(queries=20), a.Strong(quick=True), a.CleverHans("projected_gradient_descent", norm=2)]
    for attack in (*one_step, *pgd, *others):
        result = attack(model, images, labels, epsilon=0.5)
        assert (result.distances <= 0.5 + 1e-4).all(), f"{attack.name} exceeds its budget: {result.distances.max()}"
    nearest = [a.DeepFool(), a.CarliniWagner(steps=10, search_steps=2), a.FMN(steps=10), a.MinimalDistance(a.FGM())]
    for attack in (*nearest, a.JSMA(gamma=0.1)):
        result = attack(model, images, labels)
        assert result.adversarials.shape == images.shape
        assert result.adversarials.min() >= 0 and result.adversarials.max() <= 1, attack.name


def check_results(model: keras.Model, images: np.ndarray, labels: np.ndarray, folder: Path) -> None:
    """The report as a page, and a SavedModel that answers as the model does."""
    options = {"attacks": ["fgsm", "deepfool"], "epsilons": {"fgsm": [0.1]}}
    report = keras_fim.evaluation.evaluate(model, (images, labels), **options)
    assert "fgsm" in str(report)
    assert report.save(folder / "report.html").stat().st_size > 5_000
    verification = keras_fim.export.verify(keras_fim.export.saved_model(model, folder / "saved"))
    assert verification.passed, verification


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


def walk() -> None:
    """Run all checks."""
    keras.utils.set_random_seed(0)
    check_installation()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trained = check_training(folder)
        check_defenses(*trained)
        check_attacks(*trained)
        check_results(*trained, folder)
    check_data_sets()
    check_other_packages()


def main() -> None:
    """Run all checks; with ``--record FILE`` write what they ran on, how long they took and whether they passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    record = {"python": platform.python_version(), "tensorflow": tf.__version__, "keras": keras.__version__}
    record |= {"numpy": np.__version__, "tensorboard": importlib.metadata.version("tensorboard")}
    print(", ".join(f"{name} {version}" for name, version in record.items()), flush=True)
    begin, passed = time.monotonic(), False
    try:
        walk()
        passed = True
    finally:
        record |= {"seconds": round(time.monotonic() - begin), "passed": passed}
        if arguments.record:
            arguments.record.write_text(json.dumps(record), encoding="utf-8")
    print(f"smoke: all well with {PACKAGE.name} {keras_fim.__version__} from an installed wheel")


if __name__ == "__main__":
    main()
