"""What every figure and table needs: images, trained models, and cells that are measured once."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_fim import data
from keras_fim.evaluation import samples
from keras_fim.experiments.config import TrainingConfig
from keras_fim.experiments.paper.recipes import all_models
from keras_fim.experiments.records import read_json, versions, write_json
from keras_fim.experiments.training import train
from keras_fim.experiments.weights import load_model, store, stored_names

__all__ = ["FULL", "QUICK", "Scale", "Workbench", "digest"]


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        images: test images of a cell, stratified.
        slow_images: of the attacks that cost most, Carlini-Wagner and JSMA.
        seeds: how many of the seeds.
        changes: attributes of `TrainingConfig` changed for models that are not stored.
        prefix: of the names that such models get.
        data: the data set of all but figure 4.
    """

    images: int = 1000
    slow_images: int = 300
    seeds: int = 3
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    prefix: str = ""
    data: str = "mnist"


FULL = Scale()
QUICK = Scale(images=100, slow_images=30, seeds=1, changes={"epochs": 2}, prefix="quick-")


class Workbench:
    """Images, models and measured cells of a reproduction.

    Args:
        folder: where results go; cells are kept in ``cells/`` there, so that an interrupted run goes on.
        scale: how much is measured.
        runs: folder of the training runs of models that are not stored.
        data_dir: where TensorFlow Datasets keeps its data.
        say: takes a line about what goes on.
    """

    def __init__(
        self,
        folder: str | Path,
        scale: Scale = FULL,
        *,
        runs: str | Path = "results/runs",
        data_dir: str | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.folder, self.scale, self.runs, self.data_dir, self.say = Path(folder), scale, Path(runs), data_dir, say
        self._images: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}
        self._models: dict[str, keras.Model] = {}

    def images(self, count: int | None = None, data_name: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """``(images, labels)`` of a test split, stratified; None stands for the scale's number and its data set."""
        key = (data_name or self.scale.data, count or self.scale.images)
        if key not in self._images:
            self._images[key] = samples(data.load(key[0], 500, data_dir=self.data_dir, test_limit=key[1])[1])
        return self._images[key]

    def model(self, name: str, config: TrainingConfig) -> keras.Model:
        """The stored model of that name, or one that is trained now, and then stored."""
        if name not in self._models:
            self._models[name] = load_model(self._stored(name, config))
        return self._models[name]

    def paper_model(self, name: str) -> keras.Model:
        """`model` of a name in `keras_fim.experiments.paper.recipes.all_models`."""
        return self.model(name, all_models()[name])

    def _stored(self, name: str, config: TrainingConfig) -> str:
        if name in stored_names():
            return name
        name = self.scale.prefix + name
        if name not in stored_names():
            config = dataclasses.replace(config, **self.scale.changes)
            self.say(f"training {name}: {config.epochs} epochs")
            run = train(config, self.runs / name, resume=True, data_dir=self.data_dir)
            store(load_model(run), name, read_json(run / "run.json"))
        return name

    def cell(self, key: str, model: keras.Model, settings: dict[str, Any], measure: Callable[[], Any]) -> Any:
        """What ``measure`` returns for a model, from its file if it was measured with the same settings before.

        Args:
            key: path of the file under ``cells/``, without its ending.
            model: what is measured; its weights count as settings.
            settings: whatever the result depends on, ready for JSON.
            measure: returns what JSON can hold.

        Returns:
            The result.
        """
        path = self.folder / "cells" / f"{key}.json"
        settings = {**settings, "weights": digest(model)}
        if path.is_file() and (known := read_json(path))["settings"] == settings:
            return known["result"]
        self.say(f"measuring {key}")
        result = measure()
        write_json(path, {"settings": settings, "versions": versions(), "result": result})
        return result


def digest(model: keras.Model) -> str:
    """A short digest of a model's weights."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()[:16]
