"""Damaged files, made from valid ones by a grammar of damages; each is used as its owner would use it.

It survives if the program works, or ends in a ValueError or OSError that names the file or its folder.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from keras_fim import data, models
from keras_fim.cli.serving import read_detector
from keras_fim.detection import FisherDetector
from keras_fim.export import saved_model, verify
from keras_fim.records import write_json
from keras_fim.training import load_model, recipe, train, trained
from keras_fim.training.trained import seen_images


class Kind(NamedTuple):
    """A valid thing, the files of it that are damaged, and its use."""

    folder: Path
    files: tuple[str, ...]
    use: Callable[[Path], Any]


def truncated(content: bytes, generator: random.Random) -> bytes:
    """The beginning of a file."""
    return content[: generator.randrange(max(1, len(content)))]


def flipped(content: bytes, generator: random.Random) -> bytes:
    """Some bits turned."""
    changed = bytearray(content)
    for _ in range(generator.choice([1, 3, 30]) if changed else 0):
        changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
    return bytes(changed)


def stuffed(content: bytes, generator: random.Random) -> bytes:
    """Bytes put in."""
    place = generator.randrange(len(content) + 1)
    return content[:place] + generator.randbytes(generator.choice([1, 5, 500])) + content[place:]


def zeroed(content: bytes, generator: random.Random) -> bytes:
    """Zeros where a block was not written."""
    place = generator.randrange(len(content) + 1)
    return content[:place] + bytes(min(4096, len(content) - place)) + content[place + 4096 :]


def replaced(content: bytes, generator: random.Random) -> bytes:
    """Something else, valid of its kind."""
    others = [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"config": null}',
        b"\xff\xfe",
        b"epoch,loss\n1,x\n",
        b"PK\x05\x06" + bytes(18),
    ]
    return generator.choice(others)


def unlike(content: bytes, generator: random.Random) -> bytes:
    """JSON or CSV with a value of another type, without a value, or without a line."""
    try:
        parsed = json.loads(content)
    except ValueError:
        lines = content.split(b"\n")
        del lines[generator.randrange(len(lines))]
        return b"\n".join(lines)
    part = parsed
    while isinstance(part, dict) and part:
        key = generator.choice(sorted(part))
        if not (isinstance(part[key], dict) and part[key] and generator.random() < 0.7):
            part[key] = generator.choice([None, [], {}, "x", -1, 1e300, "../../x"])
            if generator.random() < 0.3:
                del part[key]
            break
        part = part[key]
    return json.dumps(parsed).encode()


DAMAGES = (truncated, flipped, stuffed, zeroed, replaced, unlike)


def kinds(folder: Path) -> dict[str, Kind]:
    """Valid things of each kind."""
    small = {"limit": 60, "test_limit": 30, "model_options": {"filters": (2, 4)}, "mu": 0.0, "augment": False}
    config = recipe("mnist5k", epochs=1, **small)
    run = train(config, folder / "run", verbose=0)
    unfinished = Path(shutil.copytree(run, folder / "unfinished"))
    record = json.loads((run / "run.json").read_text())
    write_json(unfinished / "run.json", {**record, "results": None})
    stored = Path(shutil.copytree(trained._STORED / "mnist-plain", folder / "stored"))
    rng = np.random.default_rng(0)
    (folder / "arrays").mkdir()
    images, labels = rng.integers(0, 256, (40, 8, 8, 1), np.uint8), np.arange(40) % 3
    np.savez(folder / "arrays" / "a.npz", images=images, labels=labels)
    for name in "ab":
        (folder / "photos" / name).mkdir(parents=True)
        for index in range(3):
            suffix = ("png", "jpg", "bmp")[index]
            Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).save(
                folder / "photos" / name / f"{index}.{suffix}"
            )
    detector = FisherDetector(threshold=0.5, false_positive_rate=0.1)
    write_json(folder / "detector" / "d.json", detector.as_dict())
    served = saved_model(models.convnet(filters=(1, 1)), folder / "served", bounds=(0, 1))
    graph = ("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001")
    beside = ("assets.extra/keras_fim_reference.npz", "model_card.json")
    resumed = ("run.json", "history.csv", "checkpoints/epoch-0001.weights.h5", "training_images.npy", "best.weights.h5")
    pictures = tuple(f"{name}/{index}.{suffix}" for name in "ab" for index, suffix in enumerate(("png", "jpg", "bmp")))
    return {
        "run to resume": Kind(unfinished, resumed, lambda path: train(config, path, resume=True, verbose=0)),
        "run to use": Kind(run, ("run.json", "model.keras", "training_images.npy"), _used),
        "stored weights": Kind(stored, ("run.json", "weights.npz"), _used),
        "arrays": Kind(folder / "arrays", ("a.npz",), lambda path: _read(path / "a.npz")),
        "photos": Kind(folder / "photos", pictures, lambda path: _read(path)),
        "served model": Kind(served, (*graph, *beside), verify),
        "detector": Kind(folder / "detector", ("d.json",), lambda path: read_detector(path / "d.json")),
    }


def _used(path: Path) -> None:
    load_model(path)
    trained.record_of(path)
    seen_images(path)


def _read(path: Path) -> None:
    for part in data.load(str(path), 8):
        for _ in part:
            pass


def damages(trials: int, seed: int, folder: Path) -> tuple[list[str], str]:
    """Damage files and use them.

    Returns:
        What was wrong, an entry for each trial, empty if nothing was; and a remark.
    """
    generator, wrong, refused = random.Random(seed), list[str](), 0
    available = kinds(folder / "valid")
    for index in range(trials):
        name = list(available)[index % len(available)]
        kind, damage = available[name], generator.choice(DAMAGES)
        file = generator.choice(kind.files)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            path = Path(shutil.copytree(kind.folder, Path(temporary) / "it"))
            content = (path / file).read_bytes()
            (path / file).write_bytes(damage(content, generator))
            outcome = _outcome(kind.use, path)
        refused += outcome == "refused"
        wrong.append("" if outcome in ("", "refused") else f"{name}, {file} {damage.__name__}: {outcome}")
    return wrong, f"{refused} were refused, the others did not matter"


def _outcome(use: Callable[[Path], Any], path: Path) -> str:
    """ "" if it works, ``refused``, or what is wrong."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            use(path)
        except (ValueError, OSError) as error:
            return "refused" if str(path) in str(error) or "was set up otherwise" in str(error) else f"{error!r:.200}"
        except Exception as error:
            return f"{error!r:.200}"
    return ""
