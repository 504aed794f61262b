"""What every measurement needs: test images, trained models, and cells that are measured once."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_fim import data
from keras_fim.evaluation import samples
from keras_fim.evaluation.cells import Cells
from keras_fim.records import read_json
from keras_fim.training import TrainingConfig, load_model, train
from keras_fim.training.config import differences
from keras_fim.training.trained import record_of
from reproduction.storing import MODELS, source, store

__all__ = ["Workbench", "digest", "same_attack"]


class Workbench:
    """Images, models and measured cells.

    Args:
        folder: The folder for results. Cells are kept in ``cells/`` there, so that an interrupted run continues.
        runs: The folder of the training runs of models that are not stored.
        models: The folder of stored weights.
        data_dir: The folder in which TensorFlow Datasets keeps its data.
        say: A function that gets a line of text at each step.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        runs: str | Path = "results/runs",
        models: str | Path = MODELS,
        data_dir: str | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.folder, self.runs, self.models = Path(folder), Path(runs), Path(models)
        self.data_dir, self.say = data_dir, say
        self._images: dict[tuple[str, int | None], tuple[np.ndarray, np.ndarray]] = {}
        self._models: dict[str, keras.Model] = {}

    def test_images(self, data_name: str, count: int | None) -> tuple[np.ndarray, np.ndarray]:
        """``(images, labels)``: as many of a test split, stratified, always the same; None for all."""
        key = (data_name, count)
        if key not in self._images:
            self._images[key] = samples(data.load(data_name, 500, data_dir=self.data_dir, test_limit=count)[1])
        return self._images[key]

    def model(self, name: str, config: TrainingConfig) -> keras.Model:
        """The stored model of that name, or one that is trained now, and then stored.

        Args:
            name: The name of the stored weights, and of the run's folder.
            config: How the model is trained if it is not stored.

        Returns:
            The model; the same object at the next call.

        Raises:
            ValueError: If the stored model was trained differently.
        """
        if name not in self._models:
            stored = source(name, self.models)
            if stored is None:
                self.say(f"training {name}: {config.epochs} epochs")
                run = train(config, self.runs / name, resume=True, data_dir=self.data_dir)
                stored = store(load_model(run), name, read_json(run / "run.json"), self.models)
            elif changed := differences((record_of(stored) or {})["config"], config):
                raise ValueError(
                    f"The stored model {name} was trained otherwise; (its value, what is asked for): {changed}. "
                    f"Delete {stored} to train it anew."
                )
            self._models[name] = load_model(stored)
        return self._models[name]

    def cell(self, key: str, model: keras.Model | None, settings: dict[str, Any], measure: Callable[[], Any]) -> Any:
        """The result of ``measure``, from its file if it was measured with the same settings before.

        Args:
            key: The path of the file under ``cells/``, without its suffix.
            model: The model that is measured, whose weights count as settings; None if there is none.
            settings: What the result depends on, ready for JSON; a model stands for its weights.
            measure: A function that returns what JSON can hold.

        Returns:
            The result.
        """
        everything = settings if model is None else {**settings, "weights": model}
        settings = {k: digest(value) if isinstance(value, keras.Model) else value for k, value in everything.items()}

        cells = Cells(self.folder / "cells", same=_same_settings)
        result = cells.kept(key, settings, lambda content: content)
        if result is None:
            self.say(f"measuring {key}")
            result = measure()
            cells.keep(key, settings, result)
        return result


def digest(model: keras.Model) -> str:
    """A short digest of a model's weights."""
    state = hashlib.sha256()
    for weight in model.get_weights():
        state.update(np.ascontiguousarray(weight).tobytes())
    return state.hexdigest()[:16]


def same_attack(one: str, other: str) -> bool:
    """Whether the ``repr`` of two attacks differs at most in options that only one of them has.

    An attack shows all its options. One that has been added or removed since a cell was written changes the text, and
    not what was measured.

    Example:
        >>> same_attack("PGD(norm=2.0, steps=20)", "PGD(norm=2.0, steps=20, restarts=1)")
        True
        >>> same_attack("PGD(norm=2.0, steps=20)", "PGD(norm=2.0, steps=40)")
        False
    """
    try:
        return _same_node(ast.parse(one, mode="eval").body, ast.parse(other, mode="eval").body)
    except SyntaxError:  # an option without a text that Python can read
        return one == other


def _same_node(one: ast.expr, other: ast.expr) -> bool:
    if not (isinstance(one, ast.Call) and isinstance(other, ast.Call)):
        return ast.dump(one) == ast.dump(other)
    options, others = ({word.arg: word.value for word in call.keywords} for call in (one, other))
    shared = options.keys() & others.keys()
    return ast.dump(one.func) == ast.dump(other.func) and all(_same_node(options[key], others[key]) for key in shared)


def _same_settings(one: dict[str, Any], other: dict[str, Any]) -> bool:
    if "attack" not in one or "attack" not in other:
        return one == other
    return {**one, "attack": other["attack"]} == other and same_attack(one["attack"], other["attack"])
