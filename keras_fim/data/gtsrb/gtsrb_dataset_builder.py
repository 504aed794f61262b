"""GTSRB (Stallkamp et al.): 39,209 training and 12,630 test images of 43 traffic signs, resized to 32x32."""

from __future__ import annotations

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
        return self.dataset_info_from_configs(
            homepage="https://benchmark.ini.rub.de/",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIDE, SIDE, 3), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names_file=Path(__file__).with_name("labels.txt")),
                    "track": np.int64,  # number within the class; -1 in the test split
                    "frame": np.int64,
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        paths = _archives(dl_manager)
        return {
            "train": self._train_examples(paths["images"]),
            "test": self._test_examples(paths["test_images"], paths["test_truth"]),
        }

    def _generate_examples(self, **kwargs: Any) -> Iterator[Any]:
        raise TypeError("the examples of each split come from `_split_generators`")

    def _train_examples(self, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        with _open(path) as archive:
            for sheet in _class_sheets(archive, path):
                for row in _rows(archive, sheet):
                    member = f"{sheet.rpartition('/')[0]}/{row['Filename']}"
                    track, frame = (int(part) for part in Path(member).stem.split("_"))
                    yield member, self._example(archive, member, row, track=track, frame=frame)

    def _test_examples(self, images: Path, truth: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        with _open(truth) as archive:
            sheets = [name for name in archive.namelist() if name.endswith("GT-final_test.csv")]
            if len(sheets) != 1:
                raise ValueError(f"{truth} should hold one GT-final_test.csv. Received: {len(sheets)}")
            rows = _rows(archive, sheets[0])
        with _open(images) as archive:
            members = {name.rpartition("/")[2]: name for name in archive.namelist()}
            if lacking := [row["Filename"] for row in rows if row["Filename"] not in members]:
                raise ValueError(f"{images} should hold {len(rows)} images. Received: none of {', '.join(lacking[:5])}")
            for row in rows:
                yield row["Filename"], self._example(archive, members[row["Filename"]], row, track=-1, frame=-1)

    def _example(
        self, archive: zipfile.ZipFile, member: str, row: dict[str, str], *, track: int, frame: int
    ) -> dict[str, Any]:
        return {"image": _pixels(archive, member), "label": int(row["ClassId"]), "track": track, "frame": frame}


def _pixels(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    """An image, resized to uint8 ``(SIDE, SIDE, 3)``; TensorFlow cannot decode PPM."""
    try:
        with archive.open(member) as file:
            image = np.asarray(PIL.Image.open(file).convert("RGB"))
    except OSError as error:
        raise ValueError(f"{member} should be an image. Received: {error}") from error
    if image.shape[:2] == (SIDE, SIDE):
        return image
    resized = tf.image.resize(image, (SIDE, SIDE), method="bilinear", antialias=True)
    return np.asarray(np.clip(np.rint(resized.numpy()), 0, 255), np.uint8)


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
        if not all(_is_cached(dl_manager, url) for url in missing.values()):
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


def _is_cached(dl_manager: tfds.download.DownloadManager, url: str) -> bool:
    """Whether TFDS keeps an earlier download of ``url``, with its ``.INFO`` beside it."""
    notes = (Path(dl_manager.download_dir) / Builder.name).glob("*.INFO")
    return any(f'"{url}"' in note.read_text(encoding="utf-8") for note in notes)


def _check_download(key: str, path: Path) -> None:
    if key in MD5:
        digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()  # 84 MB at most
        if digest != MD5[key]:
            raise ValueError(f"{ARCHIVES[key]} should have MD5 {MD5[key]}. Received: {digest} in {path}; {_AGAIN}")
        return
    with _open(path) as archive:
        found = sum(name.endswith(".ppm") for name in archive.namelist())
    if found != NUM_TRAIN:
        raise ValueError(f"{ARCHIVES[key]} should hold {NUM_TRAIN} images. Received: {found} in {path}; {_AGAIN}")


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} should be a zip archive; {_AGAIN}") from error


def _class_sheets(archive: zipfile.ZipFile, path: Path) -> list[str]:
    """The annotations of the training images, one CSV for each class; fewer would quietly be fewer images."""
    sheets = sorted(name for name in archive.namelist() if re.search(r"/GT-\d{5}\.csv$", name))
    expected = [f"GT-{label:05d}.csv" for label in range(NUM_CLASSES)]
    present = {name.rpartition("/")[2] for name in sheets}
    if missing := [name for name in expected if name not in present]:
        raise ValueError(
            f"{path} should hold {len(expected)} class CSVs, {expected[0]} to {expected[-1]}. "
            f"Received: {len(present)}; missing: {', '.join(missing)}; {_AGAIN}"
        )
    return sheets


def _rows(archive: zipfile.ZipFile, sheet: str) -> list[dict[str, str]]:
    with archive.open(sheet) as file:
        return list(csv.DictReader(io.TextIOWrapper(file, encoding="utf-8"), delimiter=";"))
