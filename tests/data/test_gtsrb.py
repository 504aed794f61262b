from __future__ import annotations

import functools
import hashlib
import http.server
import shutil
import socket
import tempfile
import threading
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("dill", reason="tensorflow_datasets.testing needs it; it is in the extra [dev]")

import tensorflow_datasets as tfds

from keras_fim import data
from keras_fim.data import gtsrb
from keras_fim.data.gtsrb import gtsrb_dataset_builder as module

COLUMNS = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2"
TRACKS = {0: [3, 3], 7: [3]}  # the number of frames of each track by class; the other classes have one of one frame
NUM_TRAIN, NUM_TEST = 9 + 41, 4


def picture(seed, width=40, height=36):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def ppm(image, header=b"P6\n%d %d\n255\n"):
    return header % (image.shape[1], image.shape[0]) + image.tobytes()


def write_archives(folder):
    """The three archives in their official layout, with a few images each."""
    row = "{};40;36;5;6;35;30"
    with zipfile.ZipFile(folder / module.ARCHIVES["images"], "w") as archive:
        for label in range(43):
            base, rows = f"GTSRB/Final_Training/Images/{label:05d}", [f"{COLUMNS};ClassId"]
            for track, frames in enumerate(TRACKS.get(label, [1])):
                for frame in range(frames):
                    name = f"{track:05d}_{frame:05d}.ppm"
                    archive.writestr(f"{base}/{name}", ppm(picture(label + frame)))
                    rows.append(f"{row.format(name)};{label}")
            archive.writestr(f"{base}/GT-{label:05d}.csv", "\n".join(rows))
    names = [f"{index:05d}.ppm" for index in range(NUM_TEST)]
    with zipfile.ZipFile(folder / module.ARCHIVES["test_images"], "w") as archive:
        for index, name in enumerate(names):
            archive.writestr(f"GTSRB/Final_Test/Images/{name}", ppm(picture(index)))
        rows = [COLUMNS, *map(row.format, names)]
        archive.writestr("GTSRB/Final_Test/Images/GT-final_test.test.csv", "\n".join(rows))
    with zipfile.ZipFile(folder / module.ARCHIVES["test_truth"], "w") as archive:
        rows = [f"{row.format(name)};{42 - index}" for index, name in enumerate(names)]
        archive.writestr("GT-final_test.csv", "\n".join([f"{COLUMNS};ClassId", *rows]))


_FOLDER = tempfile.TemporaryDirectory()
write_archives(Path(_FOLDER.name))


class GtsrbTest(tfds.testing.DatasetBuilderTestCase):
    """TFDS's own conformance test of a builder."""

    DATASET_CLASS = gtsrb.Builder
    EXAMPLE_DIR = _FOLDER.name
    SPLITS = {"train": NUM_TRAIN, "test": NUM_TEST}
    SKIP_CHECKSUMS = True
    SKIP_TF1_GRAPH_MODE = True


@pytest.fixture(autouse=True)
def reachable(monkeypatch):
    """The archives' server answers; nothing is asked of the network."""
    monkeypatch.setattr(module.requests, "head", lambda url, timeout: None)


@pytest.fixture
def manual(tmp_path):
    folder = tmp_path / "downloads" / "manual"
    folder.mkdir(parents=True)
    write_archives(folder)
    return tmp_path


def prepared(data_dir):
    builder = gtsrb.Builder(data_dir=data_dir)
    builder.download_and_prepare()
    return {split: list(tfds.as_numpy(builder.as_dataset(split=split))) for split in ("train", "test")}


def test_examples_have_their_labels_tracks_and_frames(manual):
    examples = prepared(manual)
    read = sorted((e["label"], e["track"], e["frame"]) for e in examples["train"])
    tracks = [(label, track) for label in range(43) for track in enumerate(TRACKS.get(label, [1]))]
    assert read == [(label, track, frame) for label, (track, frames) in tracks for frame in range(frames)]
    assert sorted((e["label"], e["track"]) for e in examples["test"]) == [(k, -1) for k in (39, 40, 41, 42)]
    assert {e["image"].shape for e in examples["train"]} == {(32, 32, 3)}


def test_load_reads_it_with_tracks_as_groups(manual):
    train, test = data.catalog.read("gtsrb", manual)
    assert len(np.unique(train.groups)) == 3 + 41 and len(np.unique(test.groups)) == NUM_TEST
    for group in np.unique(train.groups):
        assert len(np.unique(train.labels[train.groups == group])) == 1


@pytest.mark.parametrize("refusing", [(module.requests, "head"), (tfds.download.DownloadManager, "download")])
def test_missing_archives_are_named_with_their_place_and_the_embedded_sample(refusing, tmp_path):
    refuse = mock.patch.object(*refusing, side_effect=ConnectionError("no route"))
    with refuse, pytest.raises(ValueError, match="no route") as caught:
        data.load("gtsrb", data_dir=tmp_path)
    message = str(caught.value)
    for word in (*module.ARCHIVES.values(), str(tmp_path / "downloads" / "manual"), module.URL, 'load("mnist5k")'):
        assert word in message


def test_only_missing_archives_are_downloaded_and_those_are_checked(manual):
    """A file in the manual folder is taken as it is; a download must have the official MD5."""
    truth = manual / "downloads" / "manual" / module.ARCHIVES["test_truth"]
    elsewhere = manual / "downloaded.zip"
    truth.rename(elsewhere)
    received = hashlib.md5(elsewhere.read_bytes()).hexdigest()
    download = mock.patch.object(tfds.download.DownloadManager, "download", return_value={"test_truth": elsewhere})
    expected = f"MD5 {module.MD5['test_truth']}. Received: {received}"
    with download as called, pytest.raises(ValueError, match=expected):
        gtsrb.Builder(data_dir=manual).download_and_prepare()
    assert called.call_args.args == ({"test_truth": module.URL + module.ARCHIVES["test_truth"]},)
    with download, mock.patch.dict(module.MD5, test_truth=received):
        gtsrb.Builder(data_dir=manual).download_and_prepare()


def test_incomplete_training_archive_is_refused(manual):
    images = manual / "downloads" / "manual" / module.ARCHIVES["images"]
    elsewhere = images.rename(manual / "downloaded.zip")
    download = mock.patch.object(tfds.download.DownloadManager, "download", return_value={"images": elsewhere})
    with download, pytest.raises(ValueError, match="should hold 39209 images. Received: 50"):
        gtsrb.Builder(data_dir=manual).download_and_prepare()
    elsewhere.write_bytes(b"<html>not found</html>")
    with download, pytest.raises(ValueError, match="should be a zip archive"):
        gtsrb.Builder(data_dir=manual).download_and_prepare()


@pytest.mark.parametrize("header", [b"P6\n%d %d\n255\n", b"P6 %d %d 255 ", b"P6\n# a comment\n%d\n# more\n%d\n255\n"])
def test_images_of_the_right_size_keep_every_pixel(header, tmp_path):
    image = picture(3, width=32, height=32)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.ppm", ppm(image, header))
        np.testing.assert_array_equal(module._pixels(archive, "a.ppm"), image)


def rewrite(path, change):
    """Writes the archive anew with ``change(name, content)``; a member that becomes ``None`` is left out."""
    with zipfile.ZipFile(path) as archive:
        members = {name: change(name, archive.read(name)) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(name, content)


def without_sheets(name, content):
    return None if name.endswith(("GT-00007.csv", "GT-00042.csv")) else content


def in_sheet(change, label=7):
    """A change of the lines of the CSV of one class."""
    wanted = f"GT-{label:05d}.csv"
    return lambda name, content: change(content.decode()).encode() if name.endswith(wanted) else content


def in_image(content):
    return lambda name, old: content if name.endswith("00007/00000_00001.ppm") else old


def without_header(text):
    return text.partition("\n")[2]


def without_name(text):
    return text.replace("Filename;", "", 1)


BROKEN = [  # archive, change, what the error says
    ("images", without_sheets, "43 class CSVs.*Received: 41; missing: GT-00007.csv, GT-00042.csv; delete"),
    ("images", lambda n, c: None, "43 class CSVs.*Received: 0; missing: GT-00000.csv, .*, GT-00042.csv"),
    ("test_images", lambda n, c: None if n.endswith("02.ppm") else c, "4 images. Received: none of 00002.ppm"),
    ("test_truth", lambda n, c: None, "should hold one GT-final_test.csv. Received: 0"),
    ("test_images", lambda n, c: c[:-10] if n.endswith("02.ppm") else c, "02.ppm should be an image.*truncated"),
    ("test_images", lambda n, c: b"GIF8" if n.endswith("02.ppm") else c, "02.ppm should be an image.*cannot identify"),
    ("images", in_sheet(lambda text: text.replace(";", ",")), "GT-00007.csv in .*columns Filename and ClassId, sep"),
    ("images", in_sheet(without_header), "GT-00007.csv in .* should have a header.*Received: '00000_00000.ppm;40;36"),
    ("images", in_sheet(without_name), "GT-00007.csv in .* should have a header.*Received: 'Width;"),
    ("images", in_sheet(lambda text: text.partition("\n")[0]), "GT-00007.csv in .*list images. Received: a header"),
    ("images", in_sheet(lambda text: text.replace(";7\n", ";-1\n", 1)), "ClassId from 0 to 42, in line 2.*, -1;"),
    ("images", in_sheet(lambda text: text.replace(";7\n", "\n", 1)), "ClassId from 0 to 42, in line 2.*, None;"),
    ("images", in_sheet(lambda text: text + "\n\xff\x00"), "GT-00007.csv in "),
    ("images", in_sheet(lambda text: text.replace("00000_00001", "1")), "GT-00007.csv should name images TRACK_FRAME"),
    ("images", in_image(None), "zip should hold .*/00007/00000_00001.ppm: .*no item named .*; delete"),
    ("images", in_image(b"P6\n0 0\n255\n"), "00000_00001.ppm should be an image"),
    ("images", in_image(b"P6\n14000 14000\n255\n" + bytes(2_000_000)), "00000_00001.ppm: 2000019 bytes"),
    ("images", in_image(b"P6\n14000 14000\n255\n"), "00000_00001.ppm should be an image.*decompression bomb"),
    ("test_truth", lambda n, c: c.replace(b";42\n", b";43\n"), "ClassId from 0 to 42, in line 2.*00000.ppm, 43"),
]


@pytest.mark.parametrize(("key", "change", "message"), BROKEN)
def test_broken_archives_say_what_is_wrong(key, change, message, manual):
    rewrite(manual / "downloads" / "manual" / module.ARCHIVES[key], change)
    with pytest.raises(ValueError, match=message):
        gtsrb.Builder(data_dir=manual).download_and_prepare()


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder that a local server offers in place of the official one."""
    folder = tmp_path / "served"
    folder.mkdir()
    write_archives(folder)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        socket.create_connection(server.server_address, timeout=5).close()
    except OSError as error:
        server.shutdown()
        server.server_close()
        pytest.skip(f"no loopback interface: {error}")
    md5 = {key: hashlib.md5((folder / module.ARCHIVES[key]).read_bytes()).hexdigest() for key in module.MD5}
    monkeypatch.setattr(module, "URL", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setattr(module, "NUM_TRAIN", NUM_TRAIN)
    monkeypatch.setattr(module, "MD5", md5)
    yield folder
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_damaged_download_is_named_so_that_it_can_be_deleted(served, tmp_path):
    truth = served / module.ARCHIVES["test_truth"]
    content = truth.read_bytes()
    truth.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="MD5") as caught:
        gtsrb.Builder(data_dir=tmp_path).download_and_prepare()
    truth.write_bytes(content)
    assert ".INFO" in str(caught.value)
    path = Path(str(caught.value).split(" in ")[1].split(";")[0])
    path.unlink()
    path.with_name(f"{path.name}.INFO").unlink()
    gtsrb.Builder(data_dir=tmp_path).download_and_prepare()


def test_earlier_downloads_are_enough_without_a_network(served, tmp_path, monkeypatch):
    gtsrb.Builder(data_dir=tmp_path).download_and_prepare()
    monkeypatch.setattr(module.requests, "head", mock.Mock(side_effect=ConnectionError("no route")))
    shutil.rmtree(tmp_path / "gtsrb")
    builder = gtsrb.Builder(data_dir=tmp_path)
    builder.download_and_prepare()
    assert builder.info.splits["test"].num_examples == NUM_TEST
