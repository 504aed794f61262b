"""The workbench of the reproduction: how much is measured, and which model has which name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_fim.training.config import TrainingConfig
from reproduction.recipes import all_models
from reproduction.storing import MODELS, source
from reproduction.workbench import Workbench

__all__ = ["FULL", "QUICK", "PaperBench", "Scale"]


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


class PaperBench(Workbench):
    """A workbench at a scale.

    Args:
        folder: as `Workbench`.
        scale: how much is measured.
        runs: as `Workbench`.
        models: as `Workbench`.
        data_dir: as `Workbench`.
        say: as `Workbench`.
    """

    def __init__(
        self,
        folder: str | Path,
        scale: Scale = FULL,
        *,
        runs: str | Path = "results/runs",
        models: str | Path = MODELS,
        data_dir: str | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        super().__init__(folder, runs=runs, models=models, data_dir=data_dir, say=say)
        self.scale = scale

    def images(self, count: int | None = None, data_name: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """`test_images`; None stands for the scale's number and data set."""
        return self.test_images(data_name or self.scale.data, count or self.scale.images)

    def model(self, name: str, config: TrainingConfig) -> keras.Model:
        """The stored model of that name, or one trained at the scale, under a name that says so."""
        if source(name, self.models) is not None:
            return super().model(name, config)
        return super().model(self.scale.prefix + name, dataclasses.replace(config, **self.scale.changes))

    def paper_model(self, name: str) -> keras.Model:
        """`model` of a name in `reproduction.recipes.all_models`."""
        return self.model(name, all_models()[name])
