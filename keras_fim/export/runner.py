"""The other side of `keras_fim.export.verify`: a program of its own, which imports TensorFlow and nothing of Keras.

It loads a SavedModel, runs its signatures on the reference inputs stored with it, and prints what it found as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["EXTRA", "REFERENCES", "TOLERANCES", "check_model"]

EXTRA = "assets.extra"
REFERENCES = "keras_fim_reference.npz"

TOLERANCES = {
    "probabilities": 1e-5,
    "logits": 1e-4,
    "lambda_max": 1e-4,
    "kl_radius": 1e-4,
    "direction": 1e-3,
    "score": 1e-4,
    "classes": 0.0,
    "is_adversarial": 0.0,
}
"""Largest deviation, as `_deviation` measures it, of each output."""

_SPLIT = (1, 2, 5, 8)


def check_model(path: Path) -> list[dict[str, Any]]:
    """Compare what a SavedModel answers with its references.

    Args:
        path: of the SavedModel.

    Returns:
        One record for each check: ``signature``, ``output``, ``inputs``, ``deviation``, ``tolerance``, ``passed``.
    """
    import tensorflow as tf

    signatures = tf.saved_model.load(str(path)).signatures
    with np.load(path / EXTRA / REFERENCES) as stored:
        arrays = {name: stored[name] for name in stored.files}
    expected: dict[str, dict[str, np.ndarray]] = {}
    for name, values in arrays.items():
        if name.count("/") == 1:
            signature, output = name.split("/")
            expected.setdefault(signature, {})[output] = values
    checks = []
    for name, outputs in expected.items():
        if name not in signatures:
            checks.append(_check(name, "*", "none", float("inf"), 0.0))
            continue
        checks += _check_signature(tf, name, signatures[name], outputs, arrays)
    return checks


def _check_signature(
    tf: Any, name: str, signature: Any, outputs: dict[str, np.ndarray], arrays: dict[str, np.ndarray]
) -> Iterator[dict[str, Any]]:
    (argument,) = signature.structured_input_signature[1]
    inputs = arrays[argument]

    def run(start: int, stop: int) -> dict[str, np.ndarray]:
        values = inputs[start:stop]
        found = signature(**{argument: tf.constant(values.tolist(), tf.string) if values.dtype.kind == "S" else values})
        return {key: value.numpy() for key, value in found.items()}

    bounds = np.cumsum([0, *_SPLIT])
    parts = [run(*pair) for pair in zip(bounds[:-1], bounds[1:], strict=True)]
    ways = {
        f"{len(inputs)}": run(0, len(inputs)),
        "+".join(str(size) for size in _SPLIT): {key: np.concatenate([p[key] for p in parts]) for key in parts[0]},
    }
    for output, expected in outputs.items():
        clear = arrays.get(f"{name}/{output}/clear", np.ones(len(expected), bool))
        for way, found in ways.items():
            deviation = _deviation(output, found.get(output), expected, clear)
            yield _check(name, output, way, deviation, TOLERANCES[output])
    shapes = {key: value.shape for key, value in run(0, 0).items()}
    empty = {key: (0, *value.shape[1:]) for key, value in outputs.items()}
    yield _check(name, "*", "0", float(shapes != empty), 0.0)


def _deviation(output: str, found: np.ndarray | None, expected: np.ndarray, clear: np.ndarray) -> float:
    """The largest deviation over the images.

    Absolute of probabilities; of logits, relative to the largest of the image; relative of λ and the radius; of scores,
    which are logarithms, relative where they exceed 1; 1 - |cos| of directions; share of other classes and verdicts,
    where these were clear.
    """
    if found is None or found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    if output in ("classes", "is_adversarial"):
        return float(np.mean(found[clear] != expected[clear])) if clear.any() else 0.0
    found, expected = (each.reshape(len(each), -1).astype(np.float64) for each in (found, expected))
    if output == "direction":  # both are zero where λ is
        sizes = np.linalg.norm(found, axis=-1) * np.linalg.norm(expected, axis=-1)
        same = (found == expected).all(axis=-1)
        cosines = np.divide(np.abs((found * expected).sum(axis=-1)), sizes, out=same * 1.0, where=sizes > 0)
        return float(1 - cosines.min())
    difference = np.abs(found - expected).max(axis=-1)
    if output == "probabilities":
        return float(difference.max())
    size = np.abs(expected).max(axis=-1)
    size = np.maximum(size, 1) if output == "score" else size
    return float(np.max(np.divide(difference, size, out=difference.copy(), where=size > 0)))


def _check(signature: str, output: str, inputs: str, deviation: float, tolerance: float) -> dict[str, Any]:
    return {
        "signature": signature,
        "output": output,
        "inputs": inputs,
        "deviation": deviation,
        "tolerance": tolerance,
        "passed": bool(deviation <= tolerance),
    }


def _without_keras() -> None:
    """Make every import of Keras and of this package fail, and leave this folder out of the search path."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
    blocked: dict[str, Any] = dict.fromkeys(("keras", "keras_fim", "tf_keras"))
    if any(name.split(".")[0] in blocked for name in sys.modules):
        raise RuntimeError("Keras is already imported")
    sys.modules.update(blocked)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    _without_keras()
    print(json.dumps(check_model(Path(sys.argv[1]))))
