"""Memory of training on ten times the images: ``python benchmarks/data_at_scale.py [--images 4000 40000]``.

Writes random pictures of 64 x 64 pixels as TFRecords of TFDS and as a folder of PNG files, trains a ConvNet on all of
them for an epoch with ``keras-fim train`` in a process of its own, and prints that process's peak memory and the images
trained on in a second, the start of the process included. Results go to ``results/benchmarks/data_at_scale.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_fim.evaluation.report import table
from keras_fim.records import versions, write_json

SIDE, CLASSES, TEST = 64, 4, 200
OUT = Path("results/benchmarks/data_at_scale.json")


def pictures(count: int) -> Iterator[dict[str, Any]]:
    """Smooth noise around a brightness that tells the class."""
    generator = np.random.default_rng(0)
    for index in range(count):
        coarse = generator.normal(40 + 50 * (index % CLASSES), 20, (SIDE // 8, SIDE // 8, 3))
        image = np.clip(coarse.repeat(8, axis=0).repeat(8, axis=1) + generator.normal(0, 8, (SIDE, SIDE, 3)), 0, 255)
        yield {"image": image.astype(np.uint8), "label": index % CLASSES}


def write_records(folder: Path, count: int) -> list[str]:
    """TFRecords as TFDS keeps them; returns the options of ``keras-fim train``."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    image = tfds.features.Image(shape=(SIDE, SIDE, 3), encoding_format="png")
    features = tfds.features.FeaturesDict({"image": image, "label": tfds.features.ClassLabel(num_classes=CLASSES)})
    signature = {"image": tf.TensorSpec((SIDE, SIDE, 3), tf.uint8), "label": tf.TensorSpec((), tf.int64)}
    splits = {"train": count, "test": TEST}
    tfds.dataset_builders.store_as_tfds_dataset(
        name=f"pictures{count}",
        version="1.0.0",
        data_dir=folder,
        features=features,
        split_datasets={
            split: tf.data.Dataset.from_generator(lambda size=size: pictures(size), output_signature=signature)
            for split, size in splits.items()
        },
    )
    return ["--data", f"tfds:pictures{count}", "--data-dir", str(folder)]


def write_files(folder: Path, count: int) -> list[str]:
    """A folder of PNG files by split and class; returns the options of ``keras-fim train``."""
    from PIL import Image

    root = folder / f"files{count}"
    for split, size in (("train", count), ("test", TEST)):
        for index, element in enumerate(pictures(size)):
            path = root / split / f"class{element['label']}" / f"{index:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(element["image"]).save(path)
    return ["--data", str(root)]


def child(arguments: list[str]) -> None:
    """Train here and print the peak memory in MB."""
    from keras_fim import cli

    if code := cli.main(arguments):
        raise SystemExit(code)
    print(json.dumps({"peak MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}))


def measure(kind: str, count: int, folder: Path) -> dict[str, Any]:
    """The row of one dataset."""
    options = {"TFRecords": write_records, "PNG files": write_files}[kind](folder, count)
    options += ["--model", "convnet", "--defense", "none", "--epochs", "1", "--no-robustness", "--keep", "last"]
    command = [sys.executable, __file__, "--child", "train", *options, "--out", str(folder / f"run{kind[0]}{count}")]
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    if done.returncode:
        raise SystemExit(done.stderr)
    rate = count / (time.perf_counter() - begin)
    decoded = count * SIDE * SIDE * 3 / 2**20
    peak = json.loads(done.stdout.splitlines()[-1])["peak MB"]
    return {"data": kind, "images": count, "decoded MB": round(decoded), "peak MB": peak, "images/s": round(rate)}


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        return child(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[4000, 40000])
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("TFRecords", "PNG files"):
            rows += [measure(kind, count, Path(folder)) for count in arguments.images]
            print(rows[-1], flush=True)
    write_json(arguments.out, {"config": {"side": SIDE, "classes": CLASSES}, "rows": rows, "versions": versions()})
    print(table(rows))


if __name__ == "__main__":
    main()
