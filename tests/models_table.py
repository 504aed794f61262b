"""Which kinds of model each part of the package takes: the table of ``docs/guides/models.md``.

    python -m tests.models_table

rewrites the page. Every kind is the same linear classifier on 48 values, in other layers and other coordinates, so
that each part has a figure in closed form. A cell "works" where that figure is met, and otherwise has the message,
whose first sentence is printed below the table. Anything but a ``ValueError`` is an error of the package.
"""

from __future__ import annotations

import dataclasses
import math
import re
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_fim
from keras_fim import attacks, callbacks, defenses, detection, evaluation, export
from keras_fim.export.runner import check_model
from tests.oracles import softmax

PAGE = Path(__file__).parents[1] / "docs" / "guides" / "models.md"
BEGIN, END = "<!-- table: python -m tests.models_table -->", "<!-- end of the table -->"
LAYERS = keras.layers
SIZE, COUNT, EPSILON = 48, 12, 0.03
UNITS = np.random.default_rng(0).integers(26, 230, (COUNT, SIZE)) / 255
MEAN, DEVIATION = np.array([0.4, 0.5, 0.6], "float32"), np.array([0.2, 0.25, 0.4], "float32")


@dataclasses.dataclass(frozen=True)
class Case:
    """A kind of model, and the images that it takes.

    Attributes:
        model: The classifier.
        shape: The shape of one image.
        low: What 0 of the unit coordinates is.
        high: What 1 is.
        dtype: Of the images.
        classes: The number of classes.
        rtol: The tolerance on figures.
        loss: What the model is trained with.
        drawn: Whether it draws random numbers in training, so that the penalty has the right order only.
    """

    model: Any
    shape: tuple[int, ...] = (4, 4, 3)
    low: Any = 0.0
    high: Any = 1.0
    dtype: str = "float32"
    classes: int = 3
    rtol: float = 2e-3
    loss: Any = "sparse_categorical_crossentropy"
    drawn: bool = False

    @property
    def images(self) -> np.ndarray:
        """In the coordinates of the model."""
        pixels = self.low + (np.asarray(self.high) - self.low) * UNITS.reshape(COUNT, *self.shape)
        return (np.rint(pixels) if "int" in self.dtype else pixels).astype(self.dtype)

    @property
    def labels(self) -> np.ndarray:
        """What the classifier predicts."""
        return logits(UNITS, self.classes).argmax(axis=-1)

    @property
    def bounds(self) -> Any:
        """The range of the pixels."""
        return (tuple(self.low), tuple(self.high)) if np.ndim(self.low) else (self.low, self.high)

    @property
    def span(self) -> float:
        """How long a unit is; 1 with bounds for each channel, where budgets are in units."""
        return 1.0 if np.ndim(self.low) else self.high - self.low


def weights(classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the linear classifier in unit coordinates."""
    kernel = np.random.default_rng(classes).normal(size=(SIZE, classes))
    return kernel, -0.5 * kernel.sum(axis=0)


def logits(units: np.ndarray, classes: int) -> np.ndarray:
    """Of the linear classifier."""
    kernel, bias = weights(classes)
    return units @ kernel + bias


def eigenvalues(case: Case) -> np.ndarray:
    """The largest of each image, in the coordinates of the model."""
    scale = np.broadcast_to(np.asarray(case.high) - case.low, case.shape).reshape(SIZE, 1)
    jacobian = weights(case.classes)[0] / scale
    p = softmax(logits(UNITS, case.classes))
    return np.array([np.linalg.eigvalsh(jacobian @ (np.diag(q) - np.outer(q, q)) @ jacobian.T)[-1] for q in p])


def slopes(case: Case) -> np.ndarray:
    """The gradient of the cross-entropy, in unit coordinates."""
    p = softmax(logits(UNITS, case.classes))
    return (p - np.eye(case.classes)[case.labels]) @ weights(case.classes)[0].T


def fooled(case: Case) -> np.ndarray:
    """Which images the fast gradient sign method at `EPSILON` fools, in closed form."""
    points = np.clip(UNITS + EPSILON * np.sign(slopes(case)), 0, 1)
    return logits(points, case.classes).argmax(axis=-1) != case.labels


def penalty(case: Case) -> float:
    """Half the mean information along the gradient, which is what `SpectralDefense` at a budget of 1 adds."""
    p, direction = softmax(logits(UNITS, case.classes)), slopes(case)
    along = direction / np.linalg.norm(direction, axis=-1, keepdims=True) @ weights(case.classes)[0]
    return float(np.mean((p * along**2).sum(axis=-1) - (p * along).sum(axis=-1) ** 2) / 2)


def dense(case: Case, layer: Any, *, one_unit: bool = False) -> Case:
    """The case, after the weights of its last layer are those of the classifier."""
    kernel, bias = weights(case.classes)
    if one_unit:
        kernel, bias = kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1]
    layer.set_weights([kernel.reshape(layer.kernel.shape), bias])
    return case


def sequential(
    *front: Any, last: str = "softmax", classes: int = 3, units: int | None = None, policy: Any = None, **options: Any
) -> Case:
    """A Sequential model: some layers in front, then flat and dense."""
    layer = LAYERS.Dense(units or classes, activation=last, dtype=policy)
    shape = options.get("shape", (4, 4, 3))
    input_dtype = options.get("dtype", "float64" if policy == "float64" else "float32")
    model = keras.Sequential([keras.Input(shape, dtype=input_dtype), *front, LAYERS.Flatten(dtype=policy), layer])
    return dense(Case(model, classes=classes, **options), layer, one_unit=units == 1)


def functional() -> Case:
    image, layer = keras.Input((4, 4, 3)), LAYERS.Dense(3, activation="softmax")
    return dense(Case(keras.Model(image, layer(LAYERS.Flatten()(image)))), layer)


class Subclassed(keras.Model):
    """A model that states no shape."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.dense = LAYERS.Flatten(), LAYERS.Dense(3, activation="softmax")

    def call(self, images: Any) -> Any:
        return self.dense(self.flat(images))


def subclassed() -> Case:
    case = Case(Subclassed())
    case.model(case.images)
    return dense(case, case.model.dense)


def nested() -> Case:
    """A head on an application that begins with its preprocessing to -1..1."""
    image = keras.Input((4, 4, 3))
    inner = keras.Model(image, LAYERS.Flatten()(image / 127.5 - 1), name="application")
    layer = LAYERS.Dense(3, activation="softmax")
    outer = keras.Input((4, 4, 3))
    case = dense(Case(keras.Model(outer, layer(inner(outer))), high=255.0, low=0.0), layer)
    kernel, bias = layer.get_weights()
    layer.set_weights([kernel / 2, bias + kernel.sum(axis=0) / 2])
    return case


def logits_layer() -> Case:
    case = sequential(last="linear")
    return dataclasses.replace(case, model=keras.Sequential([*case.model.layers, LAYERS.Softmax()]))


def dynamic() -> Case:
    layer = LAYERS.Conv2D(3, 4)
    layers = [layer, LAYERS.GlobalAveragePooling2D(), LAYERS.Softmax()]
    return dense(Case(keras.Sequential([keras.Input((None, None, 3)), *layers])), layer)


def signal() -> Case:
    layer = LAYERS.Conv1D(3, 16)
    layers = [layer, LAYERS.Flatten(), LAYERS.Softmax()]
    return dense(Case(keras.Sequential([keras.Input((16, 3)), *layers]), shape=(16, 3)), layer)


def embedding() -> Case:
    case = Case(None, shape=(SIZE,), high=255.0, dtype="int32")
    layers = [LAYERS.Embedding(256, 1, name="ids"), LAYERS.Flatten(), LAYERS.Dense(3, activation="softmax")]
    case = dataclasses.replace(case, model=keras.Sequential([keras.Input((SIZE,), dtype="int32"), *layers]))
    case.model.layers[0].set_weights([np.arange(256.0)[:, None] / 255])
    return dense(case, layers[-1])


def normalized() -> Case:
    """The images are (u - mean) / deviation, channel by channel."""
    case = sequential(low=-MEAN / DEVIATION, high=(1 - MEAN) / DEVIATION)
    kernel, bias = case.model.layers[-1].get_weights()
    cube = kernel.reshape(4, 4, 3, 3)
    kernel, shift = (DEVIATION[:, None] * cube).reshape(SIZE, 3), (MEAN[:, None] * cube).sum(axis=(0, 1, 2))
    case.model.layers[-1].set_weights([kernel, bias + shift])
    return case


AUGMENTED = (LAYERS.RandomFlip, lambda: LAYERS.GaussianNoise(1.0), lambda: LAYERS.Rescaling(1 / 255))
KINDS: dict[str, Callable[[], Case]] = {
    "Sequential": sequential,
    "Functional": functional,
    "subclassed": subclassed,
    "nested application with preprocessing": nested,
    "softmax layer": logits_layer,
    "logits": lambda: sequential(last="linear", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
    "one sigmoid unit": lambda: sequential(last="sigmoid", classes=2, units=1, loss="binary_crossentropy"),
    "two-class softmax": lambda: sequential(classes=2),
    "mixed_float16": lambda: sequential(policy="mixed_float16", rtol=3e-2),
    "float64": lambda: sequential(policy="float64"),
    "dynamic size": dynamic,
    "(n, h, w)": lambda: sequential(shape=(6, 8)),
    "1-D": signal,
    "tabular": lambda: sequential(shape=(SIZE,)),
    "with augmentation layers": lambda: sequential(*(make() for make in AUGMENTED), high=255.0, drawn=True),
    "uint8 input": lambda: sequential(LAYERS.Rescaling(1 / 255), high=255.0, dtype="uint8"),
    "embedding": embedding,
    "normalized per channel": normalized,
}


def attack(case: Case) -> None:
    method = attacks.FGSM(bounds=case.bounds)
    images = case.images.astype("float32") if case.dtype == "uint8" else case.images
    result = method(case.model, images, case.labels, epsilon=EPSILON * case.span)
    np.testing.assert_array_equal(result.success, fooled(case))


def evaluate(case: Case) -> None:
    options: dict[str, Any] = {"bounds": case.bounds} if np.ndim(case.low) else {}
    options |= {"attacks": ["fgsm"], "epsilons": [EPSILON * case.span], "progress": None}
    result = evaluation.evaluate(case.model, (case.images, case.labels), **options)
    assert result.accuracy.value == 1 and not result.flags, result.flags
    assert result.rows[0].fooling.count == fooled(case).sum()
    median = np.quantile(eigenvalues(case), 0.5, method="inverted_cdf")
    np.testing.assert_allclose(result.spectrum.quantile("λ_max(G_x)", 0.5), median, rtol=case.rtol)


def spectrum(case: Case) -> None:
    options: dict[str, Any] = {"bounds": case.bounds} if np.ndim(case.low) else {}
    for method in ("exact", "krylov"):
        result = keras_fim.fisher_spectrum(case.model, case.images, method=method, rtol=1e-3, **options)
        np.testing.assert_allclose(result.eigenvalues[:, 0], eigenvalues(case), rtol=case.rtol)


def defense(case: Case) -> None:
    """A step of eq. (2), with weights that stay as they are."""
    model = defenses.SpectralDefense(case.model, budget=case.span, bounds=case.bounds)
    model.compile(keras.optimizers.SGD(0.0), loss=case.loss, metrics=["accuracy"])
    labels = case.labels[:, None] if case.loss == "binary_crossentropy" else case.labels
    logs = model.train_on_batch(case.images, labels, return_dict=True)
    assert np.isfinite(logs["loss"])
    tolerance = math.log(3) if case.drawn else 10 * case.rtol
    np.testing.assert_allclose(np.log(logs["penalty"]), np.log(penalty(case)), rtol=0, atol=tolerance)


def detector(case: Case) -> None:
    options: dict[str, Any] = {"bounds": case.bounds} if np.ndim(case.low) else {}
    fitted = detection.FisherDetector.fit(case.model, case.images, false_positive_rate=0.25, **options)
    scores = fitted.scores(case.model, case.images, **options)
    np.testing.assert_allclose(scores, np.log(eigenvalues(case)), atol=2 * case.rtol)
    assert fitted.detect(case.model, case.images, **options).sum() == 2


def watch(case: Case) -> None:
    """Both callbacks after an epoch that leaves the weights as they are."""
    curve = callbacks.RobustnessCurve(
        (case.images, case.labels), {"fgsm": attacks.FGSM()}, [EPSILON * case.span], bounds=case.bounds, strict=True
    )
    figures = {
        **curve.measure(case.model),
        **callbacks.FisherSpectrum((case.images, case.labels), strict=True).measure(case.model),
    }
    (ratio,) = (value for key, value in figures.items() if key.startswith("val_fooling/"))
    assert ratio == fooled(case).mean() and figures["val_clean/accuracy"] == 1
    largest = np.quantile(eigenvalues(case), 0.5, method="lower")
    np.testing.assert_allclose(figures["fisher/largest_x/q50"], largest, rtol=case.rtol)


def exported(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = export.saved_model(
            case.model, Path(folder) / "m", images=case.images, bounds=case.bounds, input_shape=case.shape
        )
        failed = [check for check in check_model(path) if not check["passed"]]
        assert not failed, failed
        served = tf.saved_model.load(str(path)).signatures
        images = tf.constant(case.images, tf.float32)
        assert served["serving_default"](images=images)["classes"].numpy().tolist() == case.labels.tolist()
        if "fisher" in served:
            largest = served["fisher"](images=images)["lambda_max"]
            np.testing.assert_allclose(largest, eigenvalues(case), rtol=max(2e-2, case.rtol))  # one Krylov step


PARTS: dict[str, Callable[[Case], None]] = {
    "attacks": attack,
    "evaluate": evaluate,
    "spectrum": spectrum,
    "defense step": defense,
    "detector": detector,
    "callbacks": watch,
    "export": exported,
}


def cell(part: str, case: Case) -> str:
    """``"works"``, with a warning if there is one, or the message."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            PARTS[part](case)
        except ValueError as error:
            return _first_sentence(str(error))
    told = [str(warning.message) for warning in caught if str(warning.message).startswith("`")]
    return f"works; {_first_sentence(told[0])}" if told else "works"


def measured(kind: str, parts: Any = PARTS) -> dict[str, str]:
    """The cells of a kind of model."""
    keras.utils.set_random_seed(0)
    case = KINDS[kind]()
    row = {}
    for part in parts:
        try:
            row[part] = cell(part, case)
        except Exception as error:
            raise AssertionError(f"{kind}, {part}: {type(error).__name__}: {error}") from error
    return row


def printed(rows: dict[str, dict[str, str]]) -> str:
    """The table, with the messages below it."""
    notes: list[str] = []
    lines = [f"| model | {' | '.join(PARTS)} |", f"| --- |{' --- |' * len(PARTS)}"]
    for kind, row in rows.items():
        cells = []
        for text in row.values():
            start, _, message = text.partition("; ") if text.startswith("works; ") else ("", "", text)
            if message and message != "works":
                notes += [] if message in notes else [message]
                cells.append(f"{start} ({notes.index(message) + 1})".strip())
            else:
                cells.append(text)
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{number}. {note}" for number, note in enumerate(notes, start=1))])


def on_the_page() -> str:
    """The table of the page."""
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip()


def cells_of_the_page() -> dict[str, dict[str, str]]:
    """What the page says, as `measured` returns it."""
    table, _, notes = on_the_page().partition("\n\n")
    messages = dict(re.findall(r"^(\d+)\. (.*)$", notes, flags=re.MULTILINE))
    head, _, *lines = ([text.strip() for text in line.strip("| ").split("|")] for line in table.splitlines())

    def text(entry: str) -> str:
        start, number = re.fullmatch(r"(works)? ?(?:\((\d+)\))?", entry).groups()
        return "; ".join(part for part in (start, number and messages[number]) if part)

    return {kind: dict(zip(head[1:], map(text, entries), strict=True)) for kind, *entries in lines}


def _first_sentence(text: str) -> str:
    return re.split(r"\. |\n|\.$", text, maxsplit=1)[0]


def main() -> None:
    table = printed({kind: measured(kind) for kind in KINDS})
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
