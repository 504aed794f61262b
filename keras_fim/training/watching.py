"""What a training run does after its epochs: checkpoints, figures, TensorBoard's logs and its row in HParams."""

import csv
import math
import sys
import time
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tensorflow.core.util import event_pb2

from keras_fim import callbacks, defenses, distribution, records
from keras_fim.arguments import require
from keras_fim.attacks.lp import norm_name
from keras_fim.evaluation import flags, report, samples
from keras_fim.logits import logits_function, predict_logits
from keras_fim.training.config import TrainingConfig, recipe
from keras_fim.training.outcomes import default_epsilons
from keras_fim.training.trained import load_weights

_NUM_GRADIENTS = 1000  # in a measurement of the Fisher spectrum; an image takes one for each class
_IMAGES_BETWEEN = 20_000  # to train on from one measurement to the next: small datasets are not measured each epoch
_TIMED_STEPS = 20  # of the first epoch
_PGD = "cleverhans_projected_gradient_descent_linf"


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
        self.history.append({"epoch": epoch + 1, **{key: float(value) for key, value in (logs or {}).items()}})
        records.write_text(self.folder / "history.csv", report.csv_text(self.history))
        _save(self.model, self.folder / "checkpoints" / f"epoch-{epoch + 1:04d}.weights.h5")
        if _last_is_best(self.history, self.monitor):
            _save(defenses.plain(self.model), self.folder / "best.weights.h5")
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
    if _last_is_best(history, monitor) and distribution.is_chief(model.distribute_strategy):
        _save(defenses.plain(model), Path(folder) / "best.weights.h5")  # the kill may have come before these were kept
    return history


def read_history(folder: Path) -> list[dict[str, float]]:
    """The rows of metrics of a run's epochs, first to last."""
    path = Path(folder) / "history.csv"
    with records.expecting(path, "hold the metrics of each epoch as numbers", (ValueError, TypeError, csv.Error)):
        text = path.read_text(encoding="utf-8")
        require(not text or text.endswith("\n"), "its last line is cut off")
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(text.splitlines())]


def size_of(model: keras.Model) -> int:
    """A number of bytes that is enough for the weights of a model and the state of its optimizer as HDF5."""
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.variables, *(optimizer.variables if optimizer else ())]
    return (1 << 16) + sum(int(math.prod(value.shape)) * 8 + 4096 for value in variables)


def _save(model: keras.Model, path: Path) -> None:
    with records.written(path, size_of(model)) as unfinished:
        model.save_weights(unfinished, overwrite=True)


def _last_is_best(history: list[dict[str, float]], monitor: str) -> bool:
    return history[-1][monitor] >= max(row[monitor] for row in history)


def _checkpoints(folder: Path) -> list[Path]:
    paths = (folder / "checkpoints").glob("epoch-[0-9][0-9][0-9][0-9].weights.h5")
    return sorted(path for path in paths if path.is_file())


class Score(keras.callbacks.Callback):
    """Logs ``score``, whose largest value marks the epoch whose weights are kept; 0 for a model of one class only."""

    def __init__(self, keep: str, validation: Any) -> None:
        super().__init__()
        self.keep, (self.images, self.labels) = keep, samples(validation, 256)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Log it."""
        if logs is None:
            return
        if self.keep == "last" or "fooled_iterative" not in logs:
            logs["score"] = float(epoch + 1)
            return
        logits = logits_function(defenses.plain(self.model)).in_batches(predict_logits, self.images)
        standing = 0.0 if flags.one_class(logits.argmax(axis=-1), self.labels) else 1 - logs["fooled_iterative"]
        logs["score"] = standing * logs["val_accuracy"]


class EpochSeconds(keras.callbacks.Callback):
    """Logs how long each epoch took, validation included; says how long ``epochs`` may take, unless they are 0."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs, self._seconds = epochs, list[float]()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Look at the clock."""
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Say how long it may take, once."""
        steps = self.params.get("steps") or 0
        if not self.epochs or steps < 3 or batch not in (1, min(_TIMED_STEPS, steps - 1)):
            return
        self._seconds.append(time.perf_counter() - self._start)
        if len(self._seconds) == 2:  # the first steps, which compile, are left out
            step = (self._seconds[1] - self._seconds[0]) / (batch - 1)
            minutes = math.ceil(self.epochs * steps * step / 60)
            line = f"about {minutes} min to train; the measurements after each epoch add some"
            print(f"\n{line}" if sys.stdout.isatty() else line, flush=True)
            self.epochs = 0

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Log it."""
        if logs is not None:
            logs["seconds"] = time.perf_counter() - self._start


def robustness_curve(config: TrainingConfig, dataset: tf.data.Dataset, **options: Any) -> callbacks.RobustnessCurve:
    """The default attacks, at values of ε that suit the dataset."""
    facts, bounds = config.facts, config.pixels
    epsilons: dict[Any, Any] | None = None  # the callback's own values suit gray images
    if facts.image_shape[-1] == 3:
        epsilons = {norm_name(norm): values for norm, values in default_epsilons(facts.image_shape, bounds).items()}
        epsilons[_PGD] = epsilons["linf"][1]
    options |= {"class_names": facts.class_names, "bounds": bounds}
    return callbacks.RobustnessCurve(dataset, epsilons=epsilons, **options)


def fisher_spectrum(config: TrainingConfig, dataset: tf.data.Dataset, **options: Any) -> callbacks.FisherSpectrum:
    """The spectrum of as many images as a few hundred gradients allow."""
    return callbacks.FisherSpectrum(dataset, max_samples=_NUM_GRADIENTS // config.facts.num_classes, **options)


def epochs_between(num_batches: int, batch_size: int) -> int:
    """The number of epochs from one measurement to the next."""
    return max(1, round(_IMAGES_BETWEEN / (num_batches * batch_size)))


def forget(logs: Path, *, epochs: int, steps: int) -> None:
    """Leave out of TensorBoard's logs what a killed run wrote of an epoch that is trained again, or only half wrote.

    Args:
        logs: The folder of the logs.
        epochs: The number of epochs that have finished.
        steps: The number of training steps in them.
    """
    for path in logs.rglob("events.out.tfevents.*"):
        events, whole = list[bytes](), True
        try:
            events += tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
        except tf.errors.DataLossError:
            whole = False
        parsed = [event_pb2.Event.FromString(event) for event in events]
        kept = [event for event, read in zip(events, parsed, strict=True) if _finished(read, epochs, steps)]
        if whole and len(kept) == len(events):
            continue
        with records.written(path) as unfinished, tf.io.TFRecordWriter(str(unfinished)) as writer:
            for event in kept:
                writer.write(event)


def _finished(event: event_pb2.Event, epochs: int, steps: int) -> bool:
    by_step = any(value.tag.endswith("_vs_iterations") for value in event.summary.value)  # as Keras names them
    return bool(event.step <= steps if by_step else event.step < epochs or not event.summary.value)


def write_row(config: TrainingConfig, folder: Path, results: dict[str, Any]) -> None:
    """Write the run's row in TensorBoard's HParams table to ``tensorboard/hparams``.

    Its columns are the dataset, the defense with its options, such as ε, μ, the seed, and what differs from the recipe;
    and accuracies, fooling ratios and median distances on test images. What is None has no column, because one text
    would make a column of numbers a column of texts.
    """
    from tensorboard.plugins.hparams import api

    figures = {key: value for key, value in results.items() if key.endswith("_accuracy")}
    robustness = results.get("robustness") or {}
    shown = {key: value for key, value in robustness.items() if key.startswith("fooling/") or key.endswith("/q50")}
    figures.update({f"test_{key}": value for key, value in shown.items() if value is not None})
    writer = tf.summary.create_file_writer(str(folder / "tensorboard" / "hparams"))
    with writer.as_default(step=0):
        api.hparams(_options(config), trial_id="/".join(folder.resolve().parts[-2:]))
        for key, value in figures.items():
            tf.summary.scalar(key, value)
    writer.close()


def _options(config: TrainingConfig) -> dict[str, bool | int | float | str]:
    usual = recipe(config.data, facts=config.facts, model=config.model, defense=TrainingConfig.defense).as_dict()
    skipped = ("image_shape", "class_names", "model_options", "defense_options")
    options = {key: value for key, value in config.as_dict().items() if key not in skipped}
    always = ("data", "model", "mu", "seed")
    columns = {key: value for key, value in options.items() if key in always or value != usual.get(key)}
    plain = "label_smoothing" if config.label_smoothing else "none"
    columns.setdefault("defense", "fisher_trace" if config.mu else plain)
    columns |= {f"model_{key}": value for key, value in config.model_options.items()} | config.defense_options
    numbers = {key: value for key, value in columns.items() if value is not None}
    return {key: value if isinstance(value, (bool, int, float, str)) else str(value) for key, value in numbers.items()}
