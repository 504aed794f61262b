"""GTSRB (Stallkamp et al.): 39,209 training and 12,630 test images of 43 traffic signs, resized to 32x32."""

import csv
import hashlib
import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import requests
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_fim.arguments import require
from keras_fim.records import expecting

SIDE = 32
URL = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/"
ARCHIVES = {
    "images": "GTSRB_Final_Training_Images.zip",
    "test_images": "GTSRB_Final_Test_Images.zip",
    "test_truth": "GTSRB_Final_Test_GT.zip",
}
MD5 = {"test_images": "c7e4e6327067d32654124b0fe9e82185", "test_truth": "fe31e9c9270bbcd7b84b7f21a9d9d9e5"}
NUM_TRAIN = 39_209
NUM_CLASSES = 43

_LARGEST = 1 << 20  # bytes of a file in an archive; the largest of the official ones has a tenth
_AGAIN = "delete that file and, if there is one, the .INFO beside it, and try again"  # TFDS refuses a stale one


class Builder(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of GTSRB from its three official archives; its description and citation are in files beside it.

    They are taken from the manual folder (``<data_dir>/downloads/manual``) or, those that are not there, downloaded.
    A download is checked; of a file that somebody put there, only that it lists the images of every class.
    """

    name = "gtsrb"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Official final training and test images."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"{', '.join(ARCHIVES.values())} from {URL}"
    # one, of the name that data sets prepared before have in their path
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="full", description="The whole image.")]

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(SIDE, SIDE, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names_file=Path(__file__).with_name("labels.txt")),
            "track": np.int64,  # number within the class; -1 in the test split
            "frame": np.int64,
        }
        return self.dataset_info_from_configs(
            homepage="https://benchmark.ini.rub.de/",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        images, test_images, test_truth = _archives(dl_manager).values()
        return {"train": self._train_examples(images), "test": self._test_examples(test_images, test_truth)}

    def _generate_examples(self, **kwargs: Any) -> Iterator[Any]:
        raise TypeError("the examples of each split come from `_split_generators`")

    def _train_examples(self, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        with _open(path) as archive:
            for sheet in _class_sheets(archive, path):
                for name, label in _rows(archive, sheet):
                    member = f"{sheet.rpartition('/')[0]}/{name}"
                    if not (numbers := re.fullmatch(r"(\d+)_(\d+)\.ppm", name)):
                        raise ValueError(f"{sheet} should name images TRACK_FRAME.ppm. Received: {name!r}; {_AGAIN}")
                    yield member, _example(archive, member, label, *map(int, numbers.groups()))

    def _test_examples(self, images: Path, truth: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        with _open(truth) as archive:
            sheets = [name for name in archive.namelist() if name.endswith("GT-final_test.csv")]
            _require(len(sheets) == 1, f"{truth} should hold one GT-final_test.csv. Received: {len(sheets)}")
            rows = _rows(archive, sheets[0])
        with _open(images) as archive:
            members = {name.rpartition("/")[2]: name for name in archive.namelist()}
            if lacking := [name for name, _ in rows if name not in members]:
                raise ValueError(f"{images} should hold {len(rows)} images. Received: none of {', '.join(lacking[:5])}")
            for name, label in rows:
                yield name, _example(archive, members[name], label)


def _require(valid: Any, message: str) -> None:
    require(valid, f"{message}; {_AGAIN}")


def _example(archive: zipfile.ZipFile, member: str, label: int, track: int = -1, frame: int = -1) -> dict[str, Any]:
    return {"image": _pixels(archive, member), "label": label, "track": track, "frame": frame}


def _pixels(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    """An image, resized to uint8 ``(SIDE, SIDE, 3)``; TensorFlow cannot decode PPM."""
    content = _content(archive, member)
    with expecting(member, "be an image", advice=_AGAIN):
        image = np.asarray(PIL.Image.open(io.BytesIO(content)).convert("RGB"))
    if image.shape[:2] == (SIDE, SIDE):
        return image
    resized = tf.image.resize(image, (SIDE, SIDE), method="bilinear", antialias=True)
    return np.asarray(np.clip(np.rint(resized.numpy()), 0, 255), np.uint8)


def _content(archive: zipfile.ZipFile, member: str) -> bytes:
    """A file of an archive."""
    with expecting(archive.filename or "the archive", f"hold {member}", advice=_AGAIN):
        size = archive.getinfo(member).file_size
        require(size <= _LARGEST, f"{size} bytes, of at most {_LARGEST}")
        return archive.read(member)


def _archives(dl_manager: tfds.download.DownloadManager) -> dict[str, Path]:
    """Paths of the archives: those of the manual folder, and downloads of the others."""
    try:
        manual = Path(dl_manager.manual_dir)
    except AssertionError:  # how TFDS says that the folder does not exist or is empty
        manual = Path(dl_manager.download_dir) / "manual"
    paths = {key: manual / name for key, name in ARCHIVES.items()}
    missing = {key: URL + ARCHIVES[key] for key, path in paths.items() if not path.is_file()}
    if not missing:
        return paths
    try:
        notes = (Path(dl_manager.download_dir) / Builder.name).glob("*.INFO")  # beside what TFDS has downloaded earlier
        texts = [note.read_text(encoding="utf-8") for note in notes]
        if not all(any(f'"{url}"' in text for text in texts) for url in missing.values()):
            requests.head(URL, timeout=10)  # TFDS would try again for minutes where there is no network
        downloads = dl_manager.download(missing)
    except Exception as error:  # whatever the network throws
        files = ", ".join(ARCHIVES[key] for key in missing)
        raise ValueError(
            f"GTSRB needs {files}, which could not be downloaded from {URL} ({error}). Put them into {manual}, "
            'or use the embedded sample: keras_fim.data.load("mnist5k").'
        ) from error
    for key, path in downloads.items():
        paths[key] = Path(path)
        _check_download(key, paths[key])
    return paths


def _check_download(key: str, path: Path) -> None:
    if key in MD5:
        digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()  # 84 MB at most
        _require(digest == MD5[key], f"{ARCHIVES[key]} should have MD5 {MD5[key]}. Received: {digest} in {path}")
        return
    with _open(path) as archive:
        count = sum(name.endswith(".ppm") for name in archive.namelist())
    _require(count == NUM_TRAIN, f"{ARCHIVES[key]} should hold {NUM_TRAIN} images. Received: {count} in {path}")


def _open(path: Path) -> zipfile.ZipFile:
    with expecting(path, "be a zip archive", zipfile.BadZipFile, advice=_AGAIN):
        return zipfile.ZipFile(path)


def _class_sheets(archive: zipfile.ZipFile, path: Path) -> list[str]:
    """The annotations of the training images, one CSV for each class; fewer would quietly be fewer images."""
    sheets = {name.rpartition("/")[2]: name for name in archive.namelist() if re.search(r"/GT-\d{5}\.csv$", name)}
    expected = [f"GT-{label:05d}.csv" for label in range(NUM_CLASSES)]
    missing = ", ".join(name for name in expected if name not in sheets)
    should = f"{path} should hold {NUM_CLASSES} class CSVs, {expected[0]} to {expected[-1]}"
    _require(not missing, f"{should}. Received: {len(sheets)}; missing: {missing}")
    return sorted(sheets.values())


def _rows(archive: zipfile.ZipFile, sheet: str) -> list[tuple[str, int]]:
    """The names and the classes of the images in a CSV."""
    place = f"{sheet} in {archive.filename}"
    with expecting(place, "be a CSV", (UnicodeDecodeError, csv.Error), advice=_AGAIN):
        table = csv.DictReader(_content(archive, sheet).decode("utf-8").splitlines(), delimiter=";")
        columns, rows = table.fieldnames or [], list(table)
    header = "have a header with the columns Filename and ClassId, separated by semicolons"
    _require({"Filename", "ClassId"} <= set(columns), f"{place} should {header}. Received: {';'.join(columns)!r}")
    _require(rows, f"{place} should list images. Received: a header only")
    labels = {str(label): label for label in range(NUM_CLASSES)}
    for number, row in enumerate(rows, start=2):
        expected = f"have a Filename, and a ClassId from 0 to {NUM_CLASSES - 1}, in line {number}"
        received = f"{row['Filename']}, {row['ClassId']}"
        _require(row["Filename"] and row["ClassId"] in labels, f"{place} should {expected}. Received: {received}")
    return [(row["Filename"], labels[row["ClassId"]]) for row in rows]
