"""What callbacks that measure after an epoch share: when, on what, that training does not notice, and their logs."""

import abc
import contextlib
import random
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context as eager_context

from keras_fim.arguments import Count, checked
from keras_fim.distribution import is_chief
from keras_fim.evaluation.sources import Dataset, samples
from keras_fim.logits import LogitsFunction, logits_function

_DRAWN = "keras_fim_progress_bar"  # in the parameters that `fit` shares among its callbacks


class MeasuringCallback(keras.callbacks.ProgbarLogger, abc.ABC):
    """Measures the model on fixed samples after the first epoch, every so many from there, and the last.

    The figures go into ``logs``, for the callbacks after it in the list, and to TensorBoard. The first such callback
    draws the progress bar of ``fit``, before it adds its figures, so that they do not flood the bar.

    Args:
        dataset: The source of the samples, read now; see `keras_fim.evaluation.Dataset`. (Not the dataset to train on:
            reading it changes the order in which it shuffles next.)
        log_dir: The folder of the TensorBoard logs; ``None`` for none.
        every: The number of epochs from one measurement to the next.
        max_samples: The number of samples.
        seed: The seed of the selection of samples.
        from_logits: As in `keras_fim.logits.logits_function`, for models whose outputs it cannot tell.
        strict: Whether an error in a measurement is raised; otherwise it becomes a warning and training goes on.

    Raises:
        ValueError: If an option is out of range or the dataset is empty.
    """

    run: ClassVar[str]
    """The TensorBoard run of the figures, a folder in ``log_dir``."""

    @checked
    def __init__(
        self,
        dataset: Dataset,
        *,
        max_samples: Count,
        log_dir: str | Path | None = None,
        every: Count = 1,
        seed: int = 0,
        from_logits: bool | None = None,
        strict: bool = False,
    ) -> None:
        super().__init__()
        self.every, self.from_logits, self.strict = every, from_logits, strict
        with training_untouched():
            self.images, self.labels = samples(dataset, max_samples, seed=seed)
        self._log_dir = None if log_dir is None else Path(log_dir)
        self._writer: Any = None
        self._logits_fn: LogitsFunction | None = None

    def set_params(self, params: dict[str, Any]) -> None:
        """Take the progress bar, unless another measuring callback has it."""
        self.params = params
        super().set_params({**params, "verbose": 0} if _DRAWN in params else params)
        params[_DRAWN] = True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Finish the progress bar, measure, log, and write."""
        if self.progbar is not None:
            super().on_epoch_end(epoch, logs)
        if epoch % self.every and epoch + 1 != (self.params or {}).get("epochs"):
            return
        with training_untouched(self.model):
            figures = self._figures(self.model, epoch)
            if logs is not None:
                logs.update(figures)
            if self._log_dir and is_chief(self.model.distribute_strategy):
                with self._attempt(f"writing to {self._log_dir}", epoch):
                    self._write_figures(epoch, figures, self._log_dir)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the file; what is written later opens a new one of the same run."""
        if self._writer is not None:
            with self._tolerated(f"writing to {self._log_dir}"):
                self._writer.close()
            self._writer = None

    def measure(self, model: keras.Model) -> dict[str, float]:
        """Measure a model on the samples.

        Args:
            model: The model, with the same inputs and classes.

        Returns:
            What a measurement adds to ``logs``; nothing is written.

        Raises:
            ValueError: As what it measures with, whether strict or not.
        """
        with training_untouched(model):
            return self._figures(model)

    @abc.abstractmethod
    def _figures(self, model: keras.Model, epoch: int | None = None) -> dict[str, float]:
        """What to log of a model; after an epoch an error is a warning, and what was measured is remembered."""

    @abc.abstractmethod
    def _charts(self) -> dict[str, list[tuple[str, str]]]:
        """The charts of the custom-scalars page, as `write_layout` takes them."""

    @abc.abstractmethod
    def _write(self, epoch: int, folder: Path) -> None:
        """Write what was measured besides the figures."""

    def _write_figures(self, epoch: int, figures: Mapping[str, float], folder: Path) -> None:
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(folder / self.run))
            with self._writer.as_default(0):
                write_layout(self._charts())
        with self._writer.as_default(epoch + 1):
            for key, value in figures.items():
                tf.summary.scalar(key, value)
            self._write(epoch, folder)
        self._writer.flush()

    def _logits(self, model: keras.Model) -> LogitsFunction:
        """Always the same for the same model, so that nothing is compiled twice."""
        if self.from_logits is None:
            return logits_function(model, self.images[:4])
        if self._logits_fn is None or self._logits_fn.model is not model:
            self._logits_fn = logits_function(model, from_logits=self.from_logits)
        return self._logits_fn

    @contextlib.contextmanager
    def _tolerated(self, what: str) -> Iterator[None]:
        """Turn an error into a warning, unless strict."""
        try:
            yield
        except Exception as error:
            if self.strict:
                raise
            message = f"{type(self).__name__}: {what} failed; training goes on (strict=True would stop it)"
            warnings.warn(f"{message}. {type(error).__name__}: {error}", RuntimeWarning, stacklevel=2)

    def _attempt(self, what: str, epoch: int | None) -> contextlib.AbstractContextManager[None]:
        """`_tolerated` after an epoch, and nothing without one."""
        return contextlib.nullcontext() if epoch is None else self._tolerated(f"{what} after epoch {epoch + 1}")


@contextlib.contextmanager
def training_untouched(model: keras.Model | None = None) -> Iterator[None]:
    """Leave the random states of Python, numpy, TensorFlow and of the model's layers as they were.

    TensorFlow's eager operations draw their seeds from a hidden generator. Another one takes its place: restored, it
    would hand out seeds anew whose operations TensorFlow has kept, half-way through their sequence.
    """
    tensorflow: Any = eager_context.context()
    hidden = getattr(tensorflow, "_rng", None)
    states = random.getstate(), np.random.get_state()
    variables = [v for v in model.variables if not v.trainable] if model is not None else []
    values = [variable.numpy() for variable in variables]
    if hidden is not None:
        tensorflow._rng = random.Random(time.perf_counter_ns())
    try:
        yield
    finally:
        if hidden is not None:
            tensorflow._rng = hidden
        random.setstate(states[0])
        np.random.set_state(states[1])
        for variable, value in zip(variables, values, strict=True):
            if not np.array_equal(variable.numpy(), value):
                variable.assign(value)


def write_layout(charts: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """Write the charts of TensorBoard's custom-scalars page to the current run.

    Args:
        charts: The charts of each category: a title, and a regular expression for the keys of its lines.
    """
    from tensorboard.plugins.custom_scalar import layout_pb2, summary

    layout = layout_pb2.Layout()
    for title, members in charts.items():
        category = layout.category.add(title=title)
        for chart, pattern in members:
            category.chart.add(title=chart).multiline.tag.append(pattern)
    tf.summary.experimental.write_raw_pb(summary.pb(layout).SerializeToString())
