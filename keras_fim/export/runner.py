"""The other side of `keras_fim.export.verify`: a program of its own, which imports TensorFlow and nothing of Keras.

It loads a SavedModel, runs its signatures on the reference inputs stored with it, and prints what it found as JSON.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

EXTRA = "assets.extra"
REFERENCES = "keras_fim_reference.npz"

_VERDICTS = ("classes", "is_adversarial", "in_bounds")
_FIGURES = ("logits", "lambda_max", "confidence", "score", "kl_radius", "boundary_radius", "calibrated_radius")
TOLERANCES = dict.fromkeys(_FIGURES, 1e-4) | dict.fromkeys(_VERDICTS, 0.0) | {"probabilities": 1e-5, "direction": 1e-3}
"""The largest deviation of each output, as `_deviation` measures it, that is allowed."""

_SPLITS = ((16,), (1, 2, 5, 8), (0,))


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
        arrays = dict(stored)
    outputs = [name.split("/") for name in arrays if name.count("/") == 1]
    checks = []
    for name in dict.fromkeys(signature for signature, _ in outputs):
        (argument,) = signatures[name].structured_input_signature[1]
        for sizes in _SPLITS:
            answers = _run(tf, signatures[name], argument, arrays[argument], sizes)
            for output in (output for signature, output in outputs if signature == name):
                expected = arrays[f"{name}/{output}"][: sum(sizes)]
                clear = arrays.get(f"{name}/{output}/clear", np.ones(len(expected), bool))[: sum(sizes)]
                deviation = _deviation(output, answers.get(output), expected, clear)
                tolerance = TOLERANCES[output]
                figures = {"deviation": deviation, "tolerance": tolerance, "passed": deviation <= tolerance}
                checks.append({"signature": name, "output": output, "inputs": "+".join(map(str, sizes)), **figures})
    return checks


def _run(tf: Any, signature: Any, argument: str, inputs: np.ndarray, sizes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Outputs of the first inputs, in batches of these sizes."""
    parts = []
    for start, size in zip(np.cumsum((0, *sizes)), sizes, strict=False):
        values = inputs[start : start + size]
        given = tf.constant(values.tolist(), tf.string) if values.dtype.kind == "S" else values
        parts.append({key: value.numpy() for key, value in signature(**{argument: given}).items()})
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _deviation(output: str, answers: np.ndarray | None, expected: np.ndarray, clear: np.ndarray) -> float:
    """The largest deviation over the images.

    Absolute of probabilities; of logits, relative to the largest of the image; relative of λ and the radius; of scores,
    which are logarithms, relative where they exceed 1; 1 - |cos| of directions; share of other classes and verdicts,
    where these were clear.
    """
    if answers is None or answers.shape != expected.shape:
        return float("inf")
    if output.endswith("_radius"):  # NaN of an image without a gradient
        undefined = np.isnan(answers) & np.isnan(expected)
        answers, expected = np.where(undefined, 0, answers), np.where(undefined, 0, expected)
    if not np.isfinite(answers).all():
        return float("inf")
    if not len(expected):
        return 0.0
    if output in _VERDICTS:
        return float(np.mean(answers[clear] != expected[clear])) if clear.any() else 0.0
    answers, expected = (values.reshape(len(values), -1).astype(np.float64) for values in (answers, expected))
    if output == "direction":  # both are zero where λ is
        sizes = np.linalg.norm(answers, axis=-1) * np.linalg.norm(expected, axis=-1)
        same = (answers == expected).all(axis=-1)
        cosines = np.divide(np.abs((answers * expected).sum(axis=-1)), sizes, out=same * 1.0, where=sizes > 0)
        return float(1 - cosines.min())
    difference = np.abs(answers - expected).max(axis=-1)
    if output == "probabilities":
        return float(difference.max())
    size = np.abs(expected).max(axis=-1)
    size = np.maximum(size, 1) if output == "score" else size
    return float(np.max(np.divide(difference, size, out=difference.copy(), where=size > 0)))


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
