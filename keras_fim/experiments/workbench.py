"""What every experiment needs: test images, trained models, and cells that are measured once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_fim import data
from keras_fim.evaluation import samples
from keras_fim.experiments.config import TrainingConfig, completed
from keras_fim.experiments.training import train
from keras_fim.experiments.weights import load_model, record_of, store, stored_names, weights_dir
from keras_fim.records import read_json, versions, write_json

__all__ = ["Workbench", "digest"]


class Workbench:
    """Images, models and measured cells of an experiment.

    Args:
        folder: where results go; cells are kept in ``cells/`` there, so that an interrupted run goes on.
        runs: folder of the training runs of models that are not stored.
        data_dir: where TensorFlow Datasets keeps its data.
        say: takes a line about what goes on.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        runs: str | Path = "results/runs",
        data_dir: str | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.folder, self.runs, self.data_dir, self.say = Path(folder), Path(runs), data_dir, say
        self._images: dict[tuple[str, int | None], tuple[np.ndarray, np.ndarray]] = {}
        self._models: dict[str, keras.Model] = {}

    def test_images(self, data_name: str, count: int | None) -> tuple[np.ndarray, np.ndarray]:
        """``(images, labels)``: so many of a test split, stratified, always the same; None for all."""
        key = (data_name, count)
        if key not in self._images:
            self._images[key] = samples(data.load(data_name, 500, data_dir=self.data_dir, test_limit=count)[1])
        return self._images[key]

    def model(self, name: str, config: TrainingConfig) -> keras.Model:
        """The stored model of that name, or one that is trained now, and then stored.

        Args:
            name: of the stored weights, and of the run's folder.
            config: how it is trained if it is not stored.

        Returns:
            The model; the same object at the next call.

        Raises:
            ValueError: if the stored model was trained otherwise.
        """
        if name not in self._models:
            if name in stored_names():
                _check_trained_as(name, config)
            else:
                self.say(f"training {name}: {config.epochs} epochs")
                run = train(config, self.runs / name, resume=True, data_dir=self.data_dir)
                store(load_model(run), name, read_json(run / "run.json"))
            self._models[name] = load_model(name)
        return self._models[name]

    def cell(self, key: str, model: keras.Model | None, settings: dict[str, Any], measure: Callable[[], Any]) -> Any:
        """What ``measure`` returns for a model, from its file if it was measured with the same settings before.

        Args:
            key: path of the file under ``cells/``, without its ending.
            model: what is measured; its weights count as settings. None where there is nothing but the settings.
            settings: whatever the result depends on, ready for JSON; a model stands for its weights.
            measure: returns what JSON can hold.

        Returns:
            The result.
        """
        path = self.folder / "cells" / f"{key}.json"
        everything = settings if model is None else {**settings, "weights": model}
        settings = {key: digest(each) if isinstance(each, keras.Model) else each for key, each in everything.items()}
        if path.is_file() and (known := read_json(path))["settings"] == settings:
            return known["result"]
        self.say(f"measuring {key}")
        result = measure()
        write_json(path, {"settings": settings, "versions": versions(), "result": result})
        return result


def _check_trained_as(name: str, config: TrainingConfig) -> None:
    """Compare the record of stored weights with a configuration."""
    theirs, ours = completed((record_of(weights_dir() / name) or {})["config"]), config.as_dict()
    if changed := {key: (theirs.get(key), ours[key]) for key in ours if theirs.get(key) != ours[key]}:
        raise ValueError(
            f"The stored model {name} was trained otherwise; (its value, what is asked for): {changed}. "
            f"Delete {weights_dir() / name} to train it anew, or set KERAS_FIM_WEIGHTS to another folder."
        )


def digest(model: keras.Model) -> str:
    """A short digest of a model's weights."""
    hashed = hashlib.sha256()
    for weight in model.get_weights():
        hashed.update(np.ascontiguousarray(weight).tobytes())
    return hashed.hexdigest()[:16]
