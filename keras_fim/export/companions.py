"""What lies beside an exported model: references, by which it is verified, warm-up requests and a card."""

import dataclasses
import datetime
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_fim import inspection
from keras_fim.arguments import checked
from keras_fim.evaluation.report import table
from keras_fim.export import decoding, runner
from keras_fim.export.signatures import Serving, trusted
from keras_fim.fisher import fisher_spectrum
from keras_fim.logits import LogitsFunction
from keras_fim.records import expecting, versions
from keras_fim.strangers import check_operations
from keras_fim.typing import Images

NUM_REFERENCES = 16
_WARM_UP = "tf_serving_warmup_requests"  # the name that TensorFlow Serving looks for
_CLEAR = 1e-4  # a class or a verdict that hangs on less than this is not compared


def write_references(serving: Serving, path: Path, images: Images | None) -> None:
    """Write 16 inputs with the outputs of the model as it is in this process, for `keras_fim.export.runner`.

    Args:
        serving: What is served.
        path: The path of the SavedModel.
        images: At least one; ``None`` for random ones.

    Raises:
        ValueError: if the images do not fit the model, or an option of ``serving`` is not valid.
    """
    logits_fn, inputs = serving.logits_fn, _reference_images(serving, images)
    arrays: dict[str, Any] = {"images": inputs, **_predictions("serving_default", logits_fn, inputs)}
    arrays["logits/logits"] = logits_fn(logits_fn.cast(inputs)).numpy()
    if serving.differentiable:
        spectrum = fisher_spectrum(logits_fn, inputs, max_steps=serving.fisher_steps, bounds=serving.pixels.bounds)
        arrays["fisher/lambda_max"] = spectrum.eigenvalues[:, 0].numpy()
        arrays["fisher/kl_radius"] = serving.radius(spectrum.eigenvalues[:, 0]).numpy()
        if serving.direction:
            arrays["fisher/direction"] = spectrum.directions[:, 0].numpy()
        figures = logits_fn.in_batches(trusted, serving.pixels.clip(inputs)[0], serving.fisher_steps)
        arrays |= {f"trust/{name}": radii for name, radii in serving.boundary_radii(figures["radius"]).items()}
        arrays |= {f"trust/{name}": figures[name] for name in ("lambda_max", "confidence")}
    if serving.detector:
        arrays["detect/score"] = serving.detector.scores(logits_fn, inputs, bounds=serving.pixels.bounds)
        arrays["detect/is_adversarial"] = arrays["detect/score"] > serving.detector.threshold
        distance = np.abs(arrays["detect/score"] - serving.detector.threshold)
        arrays["detect/is_adversarial/clear"] = distance > _CLEAR * np.maximum(1, np.abs(arrays["detect/score"]))
    if serving.decodes:
        low, high = (np.asarray(end) for end in serving.pixels.bounds)
        pixels = np.rint(255 * (inputs - low) / (high - low)).astype(np.uint8)
        arrays["image_bytes"] = np.array([tf.io.encode_png(image).numpy() for image in pixels])
        arrays |= _predictions("image_bytes", logits_fn, inputs)  # of the images themselves, not of decoded ones
    arrays |= {f"{name.split('/')[0]}/in_bounds": np.ones(NUM_REFERENCES, bool) for name in arrays if "/" in name}
    _references(path).parent.mkdir(exist_ok=True)
    np.savez_compressed(_references(path), **arrays)


def _references(path: Path) -> Path:
    return path / runner.EXTRA / runner.REFERENCES


def write_warm_up(signatures: Collection[str], path: Path, name: str) -> int:
    """Write warm-up requests from the reference inputs: for each signature, one image and all of them.

    Args:
        signatures: The names of the signatures.
        path: The path of the SavedModel, with its references.
        name: The name that the model is served by.

    Returns:
        How many were written: 0, after a warning, without ``tensorflow-serving-api``.
    """
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError:
        needed = "they need tensorflow-serving-api (pip install 'keras_fim[serving]')"
        warnings.warn(f"no warm-up requests were written: {needed}", stacklevel=3)
        return 0
    with np.load(_references(path)) as stored:
        arrays = {k: v.astype(object) if v.dtype.kind == "S" else v for k, v in stored.items()}
    requests = [(signature, count) for count in (1, NUM_REFERENCES) for signature in signatures]
    with tf.io.TFRecordWriter(str(_references(path).with_name(_WARM_UP))) as writer:
        for signature, count in requests:
            argument = "image_bytes" if signature == "image_bytes" else "images"
            request = predict_pb2.PredictRequest()
            request.model_spec.name, request.model_spec.signature_name = name, signature
            request.inputs[argument].CopyFrom(tf.make_tensor_proto(arrays[argument][:count]))
            log = prediction_log_pb2.PredictLog(request=request)
            writer.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString())
    return len(requests)


def write_card(path: Path, serving: Serving, signatures: Any, *, version: int, report: Any, warm_up: int) -> None:
    """Write ``model_card.json``: what it is, what it answers, what it was made with, and how good it is.

    Args:
        path: The path of the SavedModel.
        serving: What is served.
        signatures: The concrete functions by name.
        version: The version of the model.
        report: As for `keras_fim.export.saved_model`.
        warm_up: The number of warm-up requests.

    Raises:
        ValueError: if the report is not ready for JSON.
    """
    pixels, images = serving.pixels, {"shape": list(serving.image_shape), "bounds": list(serving.pixels.bounds)}
    card = {
        "model": serving.logits_fn.model.name,
        "version": version,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "images": {**images, "found": pixels.origin, "files": decoding.PREPROCESSING if serving.decodes else None},
        "limits": dataclasses.asdict(serving.limits),
        "labels": serving.labels,
        "signatures": {name: _interface(function) for name, function in signatures.items()},
        "fisher": {"kl": serving.kl, "max_steps": serving.fisher_steps},
        "calibration": serving.calibration.as_dict() if serving.calibration else None,
        "detector": serving.detector.as_dict() if serving.detector else None,
        "warm_up_requests": warm_up,
        "report": report.as_dict() if hasattr(report, "as_dict") else report,
    }
    with expecting("`report`", "be ready for JSON", (TypeError, ValueError)):
        text = json.dumps(card, indent=2, allow_nan=False)
    (path / "model_card.json").write_text(text + "\n", encoding="utf-8")


def _reference_images(serving: Serving, images: Images | None) -> np.ndarray:
    """Inputs; of 8 bits where images come as files, so that a file holds the same pixels."""
    low, high = (np.asarray(end) for end in serving.pixels.bounds)
    if images is None:
        references = np.random.default_rng(0).uniform(low, high, (NUM_REFERENCES, *serving.image_shape))
    else:
        references = serving.pixels.clip(images[:NUM_REFERENCES])[0].numpy()
    if references.shape[1:] != serving.image_shape:
        raise ValueError(f"`images` should have shape (batch, *{serving.image_shape}). Received: {references.shape}")
    if serving.decodes:
        references = low + (high - low) * np.rint(255 * (references - low) / (high - low)) / 255
    return np.asarray(references[np.arange(NUM_REFERENCES) % len(references)], np.float32)


def _predictions(signature: str, logits_fn: LogitsFunction, images: np.ndarray) -> dict[str, np.ndarray]:
    """What the model itself says, through its softmax if it has one."""
    inputs = logits_fn.cast(tf.constant(images))
    probabilities = tf.nn.softmax(logits_fn(inputs)).numpy()
    if logits_fn.form in ("softmax", "probabilities"):
        own = inspection.call_model(logits_fn.forward, inputs, training=False).numpy()
        probabilities = probabilities if own.dtype.itemsize < 4 else own  # a softmax of 16 bits has 3 digits
    ordered = np.sort(probabilities, axis=-1)
    return {
        f"{signature}/probabilities": probabilities,
        f"{signature}/classes": probabilities.argmax(axis=-1),
        f"{signature}/classes/clear": ordered[:, -1] - ordered[:, -2] > _CLEAR,
    }


def _interface(function: Any) -> dict[str, dict[str, Any]]:
    """Names, dtypes and shapes of a signature's inputs and outputs."""
    inputs = {spec.name: spec for spec in function.structured_input_signature[0]}

    def described(specs: Mapping[str, Any]) -> dict[str, Any]:
        return {k: {"dtype": spec.dtype.name, "shape": spec.shape.as_list()} for k, spec in sorted(specs.items())}

    return {"inputs": described(inputs), "outputs": described(function.structured_outputs)}


@dataclasses.dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        signature: its name.
        output: its name.
        inputs: the batches: ``"16"`` is the whole, ``"1+2+5+8"`` split, ``"0"`` no image.
        deviation: the largest deviation.
        tolerance: the largest deviation allowed.
        passed: whether the deviation is allowed.
    """

    signature: str
    output: str
    inputs: str
    deviation: float
    tolerance: float
    passed: bool


@dataclasses.dataclass(frozen=True)
class Verification:
    """All comparisons of an exported model; prints as a table.

    Attributes:
        path: of the SavedModel.
        checks: what was compared.
        error: why it could not be loaded or run; empty if it could.
    """

    path: str
    checks: tuple[Check, ...]
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether it could be run and no deviation was too large."""
        return not self.error and bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def summary(self) -> str:
        """The verdict in one line."""
        if not self.passed:
            return f"{self.path}: NOT as the trained model"
        signatures = len({check.signature for check in self.checks})
        return f"{self.path}: verified ({signatures} signatures, {len(self.checks)} comparisons)"

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**dataclasses.asdict(self), "passed": self.passed}

    def __str__(self) -> str:
        verdicts = {True: "ok", False: "MISMATCH"}
        rows = [{**dataclasses.asdict(check), "passed": verdicts[check.passed]} for check in self.checks]
        return "\n".join(filter(None, [table(rows), self.error, self.summary]))


@checked
def verify(path: str | Path, *, strict: bool = False) -> Verification:
    """Run an exported model in a fresh process that cannot import Keras or this package, and compare.

    Every signature is given the 16 reference inputs that `keras_fim.export.saved_model` stored: as one batch, split in
    batches of 1, 2, 5 and 8, and none at all. The results are compared with what the trained model returned when it was
    exported: probabilities to 1e-5; logits (relative to the largest of the image), λ_max, the radius to 1e-4;
    directions by ``|cos| >= 0.999``; classes and verdicts where they were clear.

    Args:
        path: of the SavedModel: the folder with the version.
        strict: Whether to refuse a model whose graph reaches files, Python or a network, of which there is a warning
            otherwise: a SavedModel is a program.

    Returns:
        `Verification`; ``passed`` says whether all is well.

    Raises:
        ValueError: if there is no SavedModel with references, or it is refused.
    """
    path = Path(path)
    if not (path / "saved_model.pb").is_file() or not _references(path).is_file():
        raise ValueError(f"`path` should be a version that export.saved_model wrote. Received: {str(path)!r}")
    check_operations(path, strict=strict)
    command = [sys.executable, runner.__file__, str(path.resolve())]
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Verification(str(path), (), f"the process ended with code {done.returncode}: {last}")
    return Verification(str(path), tuple(Check(**check) for check in json.loads(done.stdout.splitlines()[-1])))
