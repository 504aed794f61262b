"""Models by name, run folder, file or function, and which images they were trained on, as hashes of the pixels.

The named weights come with the package, stored as float16.
"""

import contextlib
import hashlib
import importlib
import inspect
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_fim import data, defenses, layers, losses, metrics, models  # noqa: F401 - registers what a file may hold
from keras_fim.arguments import checked, require
from keras_fim.evaluation import chunks
from keras_fim.records import expecting, read_arrays, read_run, written

_STORED = Path(__file__).parent / "weights"
HASHES = "training_images.npy"
"""The file in a run's folder with the hashes of the images that it was trained on."""

STORED_HASHES = _STORED / "training_images"


def stored_names() -> tuple[str, ...]:
    """The names of the weights that come with the package, for `load_model`.

    Example:
        >>> stored_names()
        ('cifar10-fisher', 'cifar10-plain', 'gtsrb-fisher', 'gtsrb-plain', 'mnist-fisher', 'mnist-plain')
    """
    return tuple(sorted(path.parent.name for path in _STORED.glob("*/weights.npz")))


@checked
def load_model(
    name: str | Path, *, image_shape: Sequence[int] | None = None, num_classes: int | None = None
) -> keras.Model:
    """Load or build a model.

    Args:
        name: A name of `stored_names`, a folder of stored weights, a run folder, or a ``.keras`` file; what builds a
            model: ``"package.module:function"``, ``"keras.applications:NAME"`` (with random weights) or a name of
            `keras_fim.models.MODELS`.
        image_shape: ``(height, width, channels)``, for what builds a model and takes it.
        num_classes: The number of classes, likewise.

    Returns:
        The model; only that of a run is compiled. Files are loaded in Keras' safe mode, which runs no code of theirs.

    Raises:
        ValueError: If there is nothing of that name, or it is not a Keras model.
    """
    path = Path(name)
    if path.suffix == ".keras" and path.is_file():
        return _loaded(path, compile=False)
    if (path / "model.keras").is_file():
        return _loaded(path / "model.keras")
    if (path / "saved_model.pb").is_file():
        raise ValueError(f"A SavedModel can be evaluated only; name the .keras file it comes from. Received: {name}")
    if builds(name):
        return _built(str(name), image_shape, num_classes)
    folder = _stored(path)
    config = read_run(folder / "run.json")["config"]
    facts = data.info(config["data"])
    expected = f"hold the weights of {config['model']!r}, one of {', '.join(models.MODELS)}, as its run.json says"
    with expecting(folder, expected, (KeyError, TypeError, ValueError)):
        model = models.MODELS[config["model"]](facts.image_shape, facts.num_classes, **config["model_options"])
        arrays = read_arrays(folder / "weights.npz")
        model.set_weights([arrays[key].astype(np.float32) for key in sorted(arrays)])
    return model


def _loaded(path: Path, **options: Any) -> keras.Model:
    """A .keras file, in safe mode."""
    with expecting(path, f"be a model that Keras {keras.__version__} can load"):
        return keras.models.load_model(path, safe_mode=True, **options)


def builds(name: str | Path) -> bool:
    """Whether a source of `load_model` builds a new model, with weights of its own making."""
    return str(name) in models.MODELS or (":" in str(name) and not Path(name).exists())


def name_of(source: str | Path) -> str:
    """What to call a model of `load_model`: the name of its file or folder, of ``RUN/model.keras`` that of its run."""
    path = Path(source)
    named = path.parent if path.name == "model.keras" and path.parent.name else path
    return named.resolve().name.removesuffix(".keras")


def load_weights(model: keras.Model, path: Path) -> None:
    """Load a file of weights.

    Raises:
        ValueError: If it is damaged, or of another model.
    """
    advice = "if it is damaged, delete it and train into another folder (--out)"
    with expecting(path, "hold the weights of this run", advice=advice):
        model.load_weights(path)


def load_into(model: keras.Model, source: str | Path) -> None:
    """Set a model's weights from a run folder, stored weights, or a ``.weights.h5`` or ``.keras`` file.

    Args:
        model: A built model with the same layers.
        source: As in `load_model`, or a file of weights.

    Raises:
        ValueError: If there is nothing of that name, or it does not fit the model.
    """
    path = Path(source)
    if path.name.endswith(".weights.h5") and path.is_file():
        load_weights(model, path)
    else:
        model.set_weights(load_model(path).get_weights())


def record_of(source: str | Path) -> dict[str, Any] | None:
    """The record of the run that the weights of a `load_into` source come from.

    Args:
        source: As in `load_into`.

    Returns:
        The content of ``run.json``; None for a bare file of weights, which has no record.

    Raises:
        ValueError: If there is nothing of that name.
    """
    path = Path(source)
    if path.name == "model.keras" and (path.parent / "run.json").is_file():
        path = path.parent
    if builds(source) or (path.name.endswith((".weights.h5", ".keras")) and path.is_file()):
        return None
    record = (path if (path / "model.keras").is_file() else _stored(path)) / "run.json"
    return read_run(record) if record.is_file() else None


def _stored(name: Path) -> Path:
    for folder in (name, _STORED / name):
        if (folder / "weights.npz").is_file():
            return folder
    stored, new = ", ".join(stored_names()), ", ".join(models.MODELS)
    missing = ", where no file or folder is" if "." in str(name) or "/" in str(name) else ""
    expected = f"MODULE:FUNCTION, keras.applications:NAME, one of {new}, or one of the stored weights: {stored}"
    raise ValueError(f"The model should be a .keras file, a run folder, {expected}. Received: {str(name)!r}{missing}")


def _built(name: str, image_shape: Sequence[int] | None, num_classes: int | None) -> keras.Model:
    """The model that a function returns; it gets the image shape and the number of classes if it takes them."""
    module, _, attribute = name.rpartition(":")
    sys.path.insert(0, str(Path.cwd()))  # as python -m does
    try:
        build: Any = getattr(importlib.import_module(module), attribute, None) if module else models.MODELS[name]
    except ImportError as error:
        raise ValueError(f"The module of the model {name!r} cannot be imported: {error}") from error
    finally:
        sys.path.pop(0)
    require(callable(build), f"The model should be a function MODULE:FUNCTION. Received: {name!r}, which is {build!r}")
    given = _arguments(build, module, image_shape, num_classes)
    with expecting(name, f"build a model when it is called with {given or 'nothing'}", TypeError):
        model = build(**given)
    require(isinstance(model, keras.Model), f"{name} should return a keras.Model. Received: a {type(model).__name__}")
    return model


def _arguments(build: Any, module: str, image_shape: Sequence[int] | None, num_classes: int | None) -> dict[str, Any]:
    taken = inspect.signature(build).parameters
    offered: dict[str, Any] = {"weights": None} if module == "keras.applications" else {}
    if image_shape is not None:
        offered |= dict.fromkeys(("input_shape", "image_shape", "shape"), tuple(image_shape))
    if num_classes is not None:
        offered |= dict.fromkeys(("num_classes", "classes"), num_classes)
    return {key: value for key, value in offered.items() if key in taken}


def image_hashes(dataset: tf.data.Dataset) -> np.ndarray:
    """Sorted hashes, uint64 ``(n,)``, of images in [0, 1] as pixels of 8 bits."""
    return np.sort(np.concatenate([_hashed(images) for images, _ in dataset.as_numpy_iterator()]))


def was_seen(images: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Which images in [0, 1] have one of the sorted hashes; bool ``(n,)``."""
    return np.isin(_hashed(images), hashes)


def warn_of_seen(source: str | Path, dataset: tf.data.Dataset, max_samples: int) -> tuple[str, ...]:
    """Warn if some of the images in [0, 1] that are selected are among those that a model was trained on.

    Returns:
        A flag for `keras_fim.evaluation.Evaluation.flags` in that case.
    """
    if (hashes := seen_images(source)) is None:
        return ()
    masks = [was_seen(chunk.images, hashes) for chunk in chunks(dataset, max_samples)]
    seen, total = sum(int(mask.sum()) for mask in masks), sum(len(mask) for mask in masks)
    if not seen:
        return ()
    text = f"model was trained on {seen} of these {total} images: its figures here say little about new images"
    warnings.warn(f"The {text}.", stacklevel=2)
    return (f"training images: the {text}",)


def seen_images(source: str | Path) -> np.ndarray | None:
    """The hashes of the images that a model was trained on; None if they are not on record.

    Args:
        source: As in `keras_fim.training.load_model`.
    """
    files = [folder / HASHES for folder in (Path(source), Path(source).parent)]
    with contextlib.suppress(ValueError):  # nothing of that name
        if record := record_of(source):
            files.append(STORED_HASHES / f"{record['config']['data']}.npy")
    return next((_read(file) for file in files if file.is_file()), None)


def write_hashes(path: Path, hashes: np.ndarray) -> Path:
    """Write hashes as `keras_fim.records.written` does."""
    with written(path) as unfinished, open(unfinished, "wb") as file:
        np.save(file, hashes, allow_pickle=False)
    return path


def _read(path: Path) -> np.ndarray:
    advice = "delete the file to evaluate without that check"
    with expecting(path, "hold hashes of the training images", advice=advice):
        hashes = np.load(path, allow_pickle=False)
        valid = hashes.ndim == 1 and hashes.dtype == np.uint64 and hashes.size
        require(valid, f"an array {hashes.shape} of {hashes.dtype}")
    return np.asarray(hashes)


def _hashed(images: Any) -> np.ndarray:
    pixels = np.round(255 * np.asarray(images)).astype(np.uint8)
    digests = [hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in pixels]
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)
