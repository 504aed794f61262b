"""Checkpoints of a training run: the last epoch to resume from, the best one to use."""

import csv
import math
from pathlib import Path
from typing import Any

import keras

from keras_fim.defenses import plain
from keras_fim.distribution import is_chief
from keras_fim.records import written


class RunCheckpoint(keras.callbacks.Callback):
    """After each epoch, keeps weights and optimizer state, the classifier's best weights, and one row of metrics.

    Files are written aside and renamed. An epoch has finished when its checkpoint is there; `resume` finds the last one
    whenever the process was killed, and mends what should have followed.

    Args:
        folder: the run's folder.
        monitor: the metric whose largest value marks the best weights; of equals the later.
        history: the rows of the epochs before, as `resume` returns them.
    """

    chief_only = True  # of several workers

    def __init__(
        self, folder: Path, *, monitor: str = "val_accuracy", history: list[dict[str, float]] | None = None
    ) -> None:
        super().__init__()
        self.folder, self.monitor = Path(folder), monitor
        self.history: list[dict[str, float]] = list(history or [])
        (self.folder / "checkpoints").mkdir(parents=True, exist_ok=True)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the files of one epoch."""
        row = {"epoch": epoch + 1, **{key: float(value) for key, value in (logs or {}).items()}}
        self.history.append(row)
        _write_rows(self.folder / "history.csv", self.history)
        _save(self.model, _checkpoint(self.folder, epoch + 1))
        if _last_is_best(self.history, self.monitor):
            _save(plain(self.model), self.folder / "best.weights.h5")
        for path in _checkpoints(self.folder)[:-1]:
            path.unlink()


def resume(model: keras.Model, folder: Path, *, monitor: str = "val_accuracy") -> list[dict[str, float]]:
    """Bring a compiled model back to the end of the last epoch that finished.

    Args:
        model: the compiled model, built as in the interrupted run.
        folder: the run's folder.
        monitor: as in `RunCheckpoint`.

    Returns:
        The rows of metrics of the finished epochs; empty where none finished.
    """
    saved = _checkpoints(Path(folder))
    if not saved:
        return []
    with model.distribute_strategy.scope():
        model.optimizer.build(model.trainable_variables)  # Keras skips the state of one that is not built
    load_weights(model, saved[-1])
    epochs = int(saved[-1].name.removeprefix("epoch-").split(".")[0])
    history = read_history(folder)[:epochs]
    if len(history) < epochs or any(monitor not in row for row in history):
        expected = f"a row with {monitor} for each of the {epochs} epochs of {saved[-1].name}"
        raise ValueError(f"{Path(folder) / 'history.csv'} should have {expected}. Received: {len(history)} rows")
    if _last_is_best(history, monitor) and is_chief(
        model.distribute_strategy
    ):  # the kill may have come before these were kept
        _save(plain(model), Path(folder) / "best.weights.h5")
    return history


def read_history(folder: Path) -> list[dict[str, float]]:
    """The rows of metrics of a run's epochs, first to last."""
    path = Path(folder) / "history.csv"
    with open(path, newline="", encoding="utf-8") as file:
        try:
            return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
        except (ValueError, TypeError, csv.Error) as error:
            raise ValueError(f"{path} should hold the metrics of each epoch as numbers: {error}") from error


def load_weights(model: keras.Model, path: Path) -> None:
    """Load a file of weights.

    Raises:
        ValueError: If it is damaged, or of another model.
    """
    try:
        model.load_weights(path)
    except Exception as error:  # Keras, zipfile and h5py have each their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        advice = "If it is damaged, delete it and train into another folder (--out)"
        raise ValueError(f"{path} should hold the weights of this run ({reason}). {advice}") from error


def size_of(model: keras.Model) -> int:
    """A number of bytes that is enough for the weights of a model and the state of its optimizer as HDF5."""
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.variables, *(optimizer.variables if optimizer else ())]
    return (1 << 16) + sum(int(math.prod(value.shape)) * 8 + 4096 for value in variables)


def _save(model: keras.Model, path: Path) -> None:
    with written(path, size_of(model)) as unfinished:
        model.save_weights(unfinished, overwrite=True)


def _last_is_best(history: list[dict[str, float]], monitor: str) -> bool:
    return history[-1][monitor] >= max(row[monitor] for row in history)


def _checkpoint(folder: Path, epoch: int) -> Path:
    return folder / "checkpoints" / f"epoch-{epoch:04d}.weights.h5"


def _checkpoints(folder: Path) -> list[Path]:
    paths = (folder / "checkpoints").glob("epoch-[0-9][0-9][0-9][0-9].weights.h5")
    return sorted(path for path in paths if path.is_file())


def _write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    with written(path) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
