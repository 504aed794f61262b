"""Run every command of docs/guides/own_images.md on 10,000 pictures of CIFAR-10 and a MobileNetV2 trained on them.

python benchmarks/own_images.py [--folder FOLDER] [--data-dir DIR] [--epochs 25] [--classes 4]

Finished parts are kept in FOLDER and not made again. Results go to results/own_images/.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from keras_fim.records import read_json, write_json

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "guides" / "own_images.md"
KEPT = ("measured/evaluation.json", "aimed/evaluation.json", "hardened/robustness/before.json")
KEPT += ("hardened/robustness/after.json", "compared/comparison.md", "detection/my.md")


def make_pictures(folder: Path, classes: int, data_dir: str | None) -> None:
    import tensorflow_datasets as tfds
    from PIL import Image

    from keras_fim.data import info

    builder = tfds.builder("cifar10", data_dir=data_dir)
    names = info("cifar10").class_names[:classes]
    for split, count in (("train", 10_000 // classes), ("test", 400 // classes)):
        written = dict.fromkeys(names, 0)
        for element in tfds.as_numpy(builder.as_dataset(split=split)):
            label = int(element["label"])
            if label >= classes or written[names[label]] == count:
                continue
            path = folder / split / names[label] / f"{written[names[label]]:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(element["image"]).resize((64, 64), Image.Resampling.BILINEAR).save(path)
            written[names[label]] += 1


def train_plainly(photos: Path, path: Path, epochs: int) -> None:
    """What a stranger does: Keras alone, pixels from 0 to 255, a nested application."""
    import keras

    keras.utils.set_random_seed(0)
    options = {"image_size": (64, 64), "batch_size": 64, "seed": 0}
    train = keras.utils.image_dataset_from_directory(photos / "train", **options)
    test = keras.utils.image_dataset_from_directory(photos / "test", shuffle=False, **options)
    inputs = keras.Input((64, 64, 3))
    outputs = keras.layers.RandomFlip("horizontal")(inputs)
    outputs = keras.layers.Rescaling(1 / 127.5, offset=-1)(outputs)
    base = keras.applications.MobileNetV2((64, 64, 3), alpha=0.35, weights=None, include_top=False, pooling="avg")
    for layer in base.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9
    outputs = keras.layers.Dense(len(train.class_names), activation="softmax")(base(outputs))
    model = keras.Model(inputs, outputs)
    steps = len(train) * epochs
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=3e-3, warmup_steps=200)
    model.compile(keras.optimizers.Adam(rate), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(train, epochs=epochs, validation_data=test, verbose=2)
    model.save(path)


def commands() -> list[str]:
    text = "\n".join(re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL))
    return [line for line in text.splitlines() if line.startswith("keras-fim ")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("results/runs/own_images"))
    parser.add_argument("--data-dir")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--classes", type=int, default=4)
    arguments = parser.parse_args()
    folder = arguments.folder
    if not (folder / "photos").is_dir():
        make_pictures(folder / "unfinished", arguments.classes, arguments.data_dir)
        (folder / "unfinished").rename(folder / "photos")
    if not (folder / "my.keras").is_file():
        train_plainly(folder / "photos", folder / "my.keras", arguments.epochs)
    report = ["| command | seconds |", "|---|---|"]
    for command in commands():
        begin = time.perf_counter()
        print(f"$ {command}", flush=True)
        resumed = " --resume" if " train " in command and (folder / "hardened" / "run.json").is_file() else ""
        typed = [sys.executable, "-m", "keras_fim", *command.removeprefix("keras-fim ").split(), *resumed.split()]
        subprocess.run(typed, cwd=folder, check=True)
        report.append(f"| `{command}` | {time.perf_counter() - begin:.0f} |")
    kept = ROOT / "results" / "own_images"
    kept.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        if name.endswith(".json"):
            figures = {**read_json(folder / name), "samples": None, "examples": []}
            write_json(kept / name.replace("/", "-"), figures)
        else:
            shutil.copy(folder / name, kept / name.replace("/", "-"))
    (kept / "commands.md").write_text("\n".join(report) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
