"""Cost and accuracy of the largest Fisher eigenpair by the Krylov method, next to the exact one.

    python benchmarks/spectrum.py --out results/benchmarks/spectrum.json

Cost is counted in gradients: the time of `fisher_spectrum` over that of one compiled loss gradient of the same
images, taken in turn. K = 10 and 43 are the stored weights on test images; 200 and 1000 are untrained networks (random
weights) on fewer images, of which the exact method, hundreds of gradients there, is given the first 32, 16 at a time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

import keras_fim
from keras_fim import data, models
from keras_fim.geometry.krylov import MAX_STEPS, RTOL
from keras_fim.logits import logits_function
from keras_fim.records import versions, write_json
from keras_fim.training.trained import load_model
from keras_fim.typing import Spectrum

BATCH = 128


class Case(NamedTuple):
    """A classifier, how many images it is tried on, and how many of them, at a time, the exact method is given."""

    build: Callable[[], keras.Model]
    data: str
    images: int
    exact: int
    exact_batch: int = BATCH


def mobilenet() -> keras.Model:
    """MobileNetV2 for 1000 classes and images in [0, 1], 64x64, random weights.

    Its normalizations average over random images: with their initial averages the logits are constant to 1e-11.
    """
    inputs = keras.Input((64, 64, 3))
    scaled = keras.layers.Rescaling(2.0, offset=-1.0)(inputs)
    network = keras.applications.MobileNetV2((64, 64, 3), alpha=0.35, weights=None, classes=1000)
    model = keras.Model(inputs, network(scaled), name="mobilenet_v2")
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(tf.random.stateless_uniform((32, 64, 64, 3), seed=(0, 0)), training=True)
    return model


CASES = {
    "mnist-plain": Case(lambda: load_model("mnist-plain"), "mnist", 500, 500),
    "mnist-fisher": Case(lambda: load_model("mnist-fisher"), "mnist", 500, 500),
    "gtsrb-plain": Case(lambda: load_model("gtsrb-plain"), "gtsrb", 500, 500),
    "gtsrb-fisher": Case(lambda: load_model("gtsrb-fisher"), "gtsrb", 500, 500),
    "resnet14-200-random": Case(lambda: models.resnet14(num_classes=200), "gtsrb", 96, 32, 16),
    "mobilenet-1000-random": Case(mobilenet, "cifar10", 96, 32, 16),
}


def gradients_of(model: keras.Model, images: np.ndarray) -> Callable[[], None]:
    """One compiled gradient of the loss at the predicted class, of all images."""
    logits_fn = logits_function(model, images)
    compiled, batches = logits_fn.compiled(_gradient), tf.constant(images)

    def run() -> None:
        for start in range(0, len(images), BATCH):
            compiled(batches[start : start + BATCH])

    return run


def _gradient(logits_fn: Callable[[tf.Tensor], tf.Tensor], images: tf.Tensor) -> tf.Tensor:
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        logits = logits_fn(images)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.argmax(logits, axis=-1), logits)
    return tape.gradient(loss, images)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def in_gradients(method: Callable[[], Any], gradient: Callable[[], None], rounds: int) -> dict[str, Any]:
    """Median over rounds of a method's time over that of the gradients before and after it."""
    ratios, seconds = [], []
    before = timed(gradient)[0]
    for _ in range(rounds):
        own = timed(method)[0]
        after = timed(gradient)[0]
        ratios.append(2 * own / (before + after))
        seconds.append(own)
        before = after
    return {"gradients": statistics.median(ratios), "seconds": statistics.median(seconds), "rounds": rounds}


def peak_megabytes(method: Callable[[], Any]) -> tuple[float | None, Any]:
    """Memory that a call adds to what the process holds since the gradient; None if the system does not tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = _status("VmRSS")
        result = method()
        return (_status("VmHWM") - before) / 1024, result
    except OSError:
        return None, method()


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def measure(case: Case, rounds: int, rtol: float, max_steps: int) -> dict[str, Any]:
    keras.utils.set_random_seed(0)
    model = case.build()
    images = np.concatenate([batch.numpy() for batch, _ in data.load(case.data, test_limit=case.images)[1]])
    images = tf.image.resize(images, model.input_shape[1:3]).numpy()
    few = images[: case.exact]

    def krylov(images: np.ndarray = images) -> Spectrum:
        return keras_fim.fisher_spectrum(
            model, images, method="krylov", rtol=rtol, max_steps=max_steps, batch_size=BATCH
        )

    def exact() -> None:
        results.append(peak_megabytes(lambda: exact_spectrum(few)))

    def exact_spectrum(images: np.ndarray) -> Spectrum:
        return keras_fim.fisher_spectrum(model, images, method="exact", batch_size=case.exact_batch)

    results: list[tuple[float | None, Spectrum]] = []
    gradient, gradient_of_few = gradients_of(model, images), gradients_of(model, few)
    for warm_up in (gradient, lambda: krylov(images[:1]), lambda: exact_spectrum(images[:1])):  # compile
        warm_up()
    megabytes, spectrum = peak_megabytes(krylov)
    row: dict[str, Any] = {"classes": model.output_shape[-1], "images": len(images), "exact_images": len(few)}
    row["krylov"] = in_gradients(krylov, gradient, rounds) | {"peak_megabytes": megabytes}
    row["exact"] = in_gradients(exact, gradient_of_few, 1)
    row["exact"] |= {"batch_size": case.exact_batch, "peak_megabytes": results[0][0]}
    return row | accuracy(spectrum, results[0][1])


def accuracy(krylov: Spectrum, exact: Spectrum) -> dict[str, float]:
    """Shares of the images of ``exact`` on which both agree; steps over all."""
    axes, few = list(range(1, krylov.directions.shape.rank)), len(exact.eigenvalues)
    aligned = np.abs(tf.reduce_sum(krylov.directions[:few] * exact.directions, axis=axes)) >= 0.99
    close = np.abs(krylov.eigenvalues[:few, 0] - exact.eigenvalues[:, 0]) <= 0.01 * exact.eigenvalues[:, 0]
    return {
        "share_cosine_99": float(aligned.mean()),
        "share_eigenvalue_1_percent": float(np.mean(close)),
        "share_both": float(np.mean(aligned & close)),
        "share_converged": float(np.mean(krylov.converged)),
        "mean_steps": float(np.mean(krylov.num_steps)),
        "most_steps": int(np.max(krylov.num_steps)),
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = ["case                      K  images  |cos|>.99  lambda 1%   both  steps  gradients (exact)    MB (exact)"]
    for name, row in rows.items():
        krylov, exact = row["krylov"], row["exact"]
        memory = (
            "-"
            if None in (krylov["peak_megabytes"], exact["peak_megabytes"])
            else (f"{krylov['peak_megabytes']:.0f} ({exact['peak_megabytes']:.0f})")
        )
        lines.append(
            f"{name:22} {row['classes']:4} {row['images']:7} {row['share_cosine_99']:10.3f} "
            f"{row['share_eigenvalue_1_percent']:10.3f} {row['share_both']:6.3f} {row['mean_steps']:6.2f} "
            f"{krylov['gradients']:9.2f} ({exact['gradients']:.1f}) {memory:>14}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=7, help="of the Krylov method; the exact one is timed once")
    parser.add_argument("--rtol", type=float, default=RTOL)
    parser.add_argument("--max-steps", type=int, default=MAX_STEPS)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/spectrum.json"))
    arguments = parser.parse_args()
    options = {"rounds": arguments.rounds, "rtol": arguments.rtol, "max_steps": arguments.max_steps}
    rows = {name: measure(CASES[name], **options) for name in arguments.cases}
    config = options | {"batch_size": BATCH, "seed": 0, "k": 1}
    write_json(arguments.out, {"config": config, "cases": rows, "versions": versions()})
    print(table(rows))


if __name__ == "__main__":
    main()
