"""What `evaluate` costs: memory and speed on two sizes of data, an evaluation that is killed, a thousand classes.

    python benchmarks/evaluate.py stream   # 2,000 and 20,000 images from a generator: peak memory, images per second
    python benchmarks/evaluate.py kill     # the larger one, killed five times at random moments and started again
    python benchmarks/evaluate.py large    # ResNet50V2 at 224 pixels and 1,000 classes: gradients and peak memory

Each part runs in processes of its own and writes its figures beside the others'. Speed is per second of CPU time, which
other processes change less, in the median chunk after the first, in which everything is compiled.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OUT = Path("results/benchmarks/evaluate.json")
EPSILONS = {"linf": [0.01, 0.03, 0.06, 0.1]}
KILLS = 5


def batches(count: int) -> Iterator[tuple[Any, Any]]:
    """Random images of 32x32x3 with labels, from a generator."""
    import numpy as np

    for start in range(0, count, 100):
        rng = np.random.default_rng(start)
        yield rng.uniform(size=(100, 32, 32, 3)).astype("float32"), rng.integers(0, 10, 100)


def run_stream(count: int, folder: str | None) -> dict[str, Any]:
    """Evaluate a small ConvNet on so many images; every finished cell is reported on stderr."""
    import keras

    from keras_fim.attacks import PGD
    from keras_fim.evaluation import evaluate

    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
        keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(10, activation="softmax"),
    ]
    model = keras.Sequential([keras.Input((32, 32, 3)), *layers])
    times: list[tuple[int, float]] = []

    def note(line: str) -> None:
        times.append((int(line.split()[0]), time.process_time()))
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    attacks = ["fgsm", PGD(steps=5, step_size=0.25)]
    options: dict[str, Any] = {"epsilons": EPSILONS, "max_samples": None, "spectrum": False, "folder": folder}
    report = evaluate(model, batches(count), attacks=attacks, name="ConvNet", progress=note, **options)
    ends = [max(when for images, when in times if images == size) for size in sorted({size for size, _ in times})]
    chunk, last = times[0][0], len(ends) - (count % times[0][0] > 0)  # a last chunk may be smaller
    seconds = [after - before for before, after in itertools.pairwise(ends[:last])]
    rows = [{"attack": row.attack, "epsilon": row.epsilon, "fooled": row.fooling.count} for row in report.rows]
    return {
        "images": count,
        "megabytes": peak(),
        "images_per_cpu_second": chunk / statistics.median(seconds),
        "report": str(report),
        "rows": rows,
    }


def run_large() -> dict[str, Any]:
    """The default evaluation of ResNet50V2 with random weights on eight images, and `FisherSpectrum` on sixteen."""
    import keras
    import numpy as np
    import tensorflow as tf

    from keras_fim import attacks, callbacks, fisher_spectrum
    from keras_fim.evaluation import evaluate
    from keras_fim.logits import logits_function, predict_logits

    keras.utils.set_random_seed(0)
    network = keras.applications.ResNet50V2(weights=None, classifier_activation="softmax")
    counted = [0]

    def count(number: Any, _: Any) -> Any:
        counted[0] += int(number)
        return np.float32(0)

    def counting(values: tf.Tensor) -> tf.Tensor:  # counts what is executed: without its result it is pruned
        first = tf.reshape(values, [-1])[:1]
        zero = tf.numpy_function(count, [tf.shape(values)[0], first], tf.float32, stateful=False)
        return values + tf.ensure_shape(zero, [])

    @tf.custom_gradient
    def watched(images: tf.Tensor) -> Any:
        @tf.custom_gradient
        def back(upstream: tf.Tensor) -> Any:
            return counting(upstream), counting  # a gradient, and a product with the Jacobian

        return tf.identity(images), back

    model = logits_function(Watched(network, watched), from_logits=None)

    def gradients() -> int:
        number, counted[0] = counted[0], 0
        return number

    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, size=(16, 224, 224, 3)).astype("float32")
    labels = model.in_batches(predict_logits, images, batch_size=4).argmax(axis=-1)
    eight, bounds = (images[:8], labels[:8]), (-1.0, 1.0)
    result: dict[str, Any] = {"megabytes before": peak()}
    begin = time.perf_counter()
    report = evaluate(model, eight, bounds=bounds)
    result["evaluate"] = {
        "seconds": time.perf_counter() - begin,
        "gradients per image": gradients() / 8,
        "megabytes": peak(),
        "report": str(report),
    }
    epsilons = [row.epsilon for row in report.rows if row.attack == "fgsm"]
    for attack in (attacks.FGSM(bounds=bounds, batch_size=4), attacks.Strong(bounds=bounds, batch_size=4)):
        attack.sweep(model, *eight, epsilons)
    result["attacks alone"] = {"gradients per image": gradients() / 8}
    exact = fisher_spectrum(model, eight[0], method="krylov", rtol=1e-3, max_steps=20, batch_size=4)
    gradients()
    step, _ = model.in_batches(_one_step, eight[0], batch_size=4)
    cosines = np.abs(np.sum(np.reshape(exact.directions[:, 0] * step.directions[:, 0], (8, -1)), axis=-1))
    result["Krylov step and radius"] = {
        "gradients per image": gradients() / 8,
        "|cos| to convergence": cosines.tolist(),
        "eigenvalue over the converged one": np.divide(step.eigenvalues[:, 0], exact.eigenvalues[:, 0]).tolist(),
    }
    watch = callbacks.FisherSpectrum((images, labels), max_samples=16)
    figures = watch.measure(network)
    result["FisherSpectrum"] = {"seconds": figures["fisher_seconds"], "megabytes": peak()}
    watch._logits = lambda _: model  # type: ignore[method-assign]
    watch.measure(network)
    result["FisherSpectrum"]["gradients per image"] = gradients() / 16
    return result


def _one_step(logits_fn: Any, images: Any) -> Any:
    from keras_fim.evaluation.spectrum import spectrum_and_radius
    from keras_fim.geometry import linearize

    return spectrum_and_radius(logits_fn, linearize(logits_fn, images), images)


class Watched:
    """A model whose gradients are counted."""

    def __init__(self, model: Any, watched: Any) -> None:
        self.model, self.watched = model, watched

    def logits(self, images: Any, training: bool = False) -> Any:
        """Logits behind the softmax."""
        return self.model(self.watched(images), training=training)._keras_logits

    def __call__(self, images: Any) -> Any:
        """Probabilities."""
        return self.model(images, training=False)


def peak() -> float:
    """Peak memory of this process in MB, on Linux."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(*arguments: str, log: Path) -> subprocess.Popen[str]:
    """This program in a process of its own."""
    command = [sys.executable, __file__, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log.open("a"), text=True)


def finished(*arguments: str) -> dict[str, Any]:
    """What such a process measured."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        output = child(*arguments, log=log).communicate()[0]
        if not output:
            raise RuntimeError(log.read_text(encoding="utf-8")[-3000:])
    measured: dict[str, Any] = json.loads(output.splitlines()[-1])
    return measured


def killed(count: int, seconds: float) -> dict[str, Any]:
    """An evaluation that is killed five times at random moments, and started again."""
    rng, moments = random.Random(0), []
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        for _ in range(KILLS):
            process = child("run-stream", str(count), "--folder", f"{folder}/cells", log=log)
            moments.append(rng.uniform(0.1, 1) * seconds / KILLS + 8)  # a few seconds to start
            time.sleep(moments[-1])
            process.send_signal(signal.SIGKILL)
            process.communicate()
        result = json.loads(child("run-stream", str(count), "--folder", f"{folder}/cells", log=log).communicate()[0])
        lines = [line for line in log.read_text(encoding="utf-8").splitlines() if "fooling ratio" in line]
    measured = Counter(line.partition(": fooling")[0] for line in lines if not line.endswith("(kept)"))
    twice = sum(number > 1 for number in measured.values())
    return {"moments": moments, "measured twice": twice, "rows measured": len(measured), **result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("stream", "kill", "large", "run-stream", "run-large"))
    parser.add_argument("count", type=int, nargs="?", default=20_000)
    parser.add_argument("--folder")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    if arguments.part.startswith("run-"):
        result = run_large() if arguments.part == "run-large" else run_stream(arguments.count, arguments.folder)
        print(json.dumps(result))
        return
    from keras_fim.records import read_json, versions, write_json

    results = read_json(arguments.out) if arguments.out.is_file() else {}
    if arguments.part == "stream":
        small, large = (finished("run-stream", str(count)) for count in (arguments.count // 10, arguments.count))
        results["stream"] = [small, large]
        print(f"{large['megabytes'] - small['megabytes']:.0f} MB more for ten times the images")
        print(f"{large['images_per_cpu_second'] / small['images_per_cpu_second']:.3f} of the speed")
    elif arguments.part == "kill":
        begin = time.perf_counter()
        whole = finished("run-stream", str(arguments.count))
        again = killed(arguments.count, time.perf_counter() - begin)
        again["same report"] = (again.pop("report"), again.pop("rows")) == (whole["report"], whole["rows"])
        results["kill"] = again
        print(f"same report: {again['same report']}; measured twice: {again['measured twice']}")
    else:
        results["large"] = finished("run-large")
        print(json.dumps(results["large"], indent=2, ensure_ascii=False))
    results |= {"cpus": os.cpu_count(), "versions": versions()}
    write_json(arguments.out, results)


if __name__ == "__main__":
    main()
