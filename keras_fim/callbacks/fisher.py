"""Fisher information in training: the weight of its penalty, step by step, and how large it is, epoch by epoch."""

import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_fim.arguments import checked, expect, require
from keras_fim.callbacks.measuring import MeasuringCallback
from keras_fim.evaluation import sources, spectrum
from keras_fim.validation import check_images

_QUANTILES = (0.1, 0.5, 0.9)
_COLUMNS = ("largest_x", "trace_x", "largest_s", "largest_z", "boundary_radius", "confidence")  # of `QUANTITIES`
_KRYLOV_STEPS = 5  # of more than 64 classes; an image takes two products in each
_TOLERANCE = 0.05  # changes of medians by less than this share are none
_SMALLEST = 1e-30  # what a histogram of logarithms shows for a saturated sample's 0


class FisherSpectrum(MeasuringCallback):
    r"""Measures the Fisher information of the model after each epoch; quantiles go to ``logs`` and TensorBoard.

    ``logs`` gets ``fisher/largest_x/q50`` (and ``q10``, ``q90``), quantiles over the samples of the largest eigenvalue
    :math:`\lambda_{\max}(G_x)` of the Fisher information matrix in the input; the same of its trace as
    ``fisher/trace_x``, of :math:`\lambda_{\max}(G_s) = 1 / \min_i p_i` (the paper's eq. 3) as ``fisher/largest_s`` and
    of :math:`\lambda_{\max}(G_z)` in the logits as ``fisher/largest_z``, and of the boundary radius
    (`keras_fim.boundary_radius`, in l2) as ``fisher/boundary_radius``, over the samples that have one;
    ``fisher/confidence/mean``, of the largest probability; and ``fisher_seconds``. TensorBoard gets histograms as well,
    of logarithms to base 10.

    A penalty on :math:`G_s` need not lower :math:`\lambda_{\max}(G_x)`, which is what tells how far an image is from
    another prediction. A warning is given, once, when the median of the former falls by more than 5 % while that of the
    latter rises by more than 5 %, from one measurement to the next or since the first.

    Args:
        dataset: The source of the samples, as in `RobustnessCurve`.
        max_samples: The number of samples, the same in each epoch, of each class as many as possible. Each takes one
            gradient for each class, or fewer than 40 if there are more than 64 classes
            (`keras_fim.evaluation.spectrum.information`).
        **options: The arguments ``log_dir``, ``every``, ``seed``, ``from_logits`` and ``strict`` of `RobustnessCurve`.

    Raises:
        ValueError: If an option is not valid.

    Example:
        >>> from keras_fim import models
        >>> callback = FisherSpectrum((np.full((8, 28, 28, 1), 0.4, "float32"), np.arange(8)))
        >>> measured = callback.measure(models.convnet())
        >>> bool(measured["fisher/largest_x/q50"] <= measured["fisher/trace_x/q50"])
        True
    """

    run = "spectrum"  # behind "robustness", so that TensorBoard shows that one first

    @checked
    def __init__(self, dataset: sources.Dataset, *, max_samples: int = 500, **options: Any) -> None:
        super().__init__(dataset, max_samples=max_samples, **options)
        check_images(self.images)
        self._columns: dict[str, np.ndarray] = {}
        self._medians: list[tuple[float, float]] = []
        self._warned = False

    def _figures(self, model: keras.Model, epoch: int | None = None) -> dict[str, float]:
        figures, self._columns = dict[str, float](), {}
        with self._attempt("measuring", epoch):
            begin = time.perf_counter()
            measured = spectrum.information(self._logits(model), self.images, max_steps=_KRYLOV_STEPS)
            measured["boundary radius"] = measured["boundary radius"][~np.isnan(measured["boundary radius"])]
            with np.errstate(over="ignore"):  # TensorBoard knows float32 only
                pairs = zip(_COLUMNS, spectrum.QUANTITIES, strict=True)
                self._columns = {key: measured[name].astype(np.float32) for key, name in pairs if len(measured[name])}
            figures = {
                f"fisher/{key}/q{100 * share:g}": float(np.quantile(values, share, method="lower"))
                for key, values in self._columns.items()
                for share in (_QUANTILES if key != "confidence" else ())
            }
            figures["fisher/confidence/mean"] = float(self._columns["confidence"].mean())
            figures["fisher_seconds"] = time.perf_counter() - begin
            if epoch is not None:
                self._compare(figures["fisher/largest_s/q50"], figures["fisher/largest_x/q50"])
        return figures

    def _compare(self, largest_s: float, largest_x: float) -> None:
        for before_s, before_x in {*self._medians[:1], *self._medians[-1:]}:
            fell, rose = largest_s < (1 - _TOLERANCE) * before_s, largest_x > (1 + _TOLERANCE) * before_x
            if fell and rose and not self._warned:
                self._warned = True
                flatter = f"of λ_max(G_s), 1 / min p, fell from {before_s:.3g} to {largest_s:.3g}"
                faster = f"that of λ_max(G_x) rose from {before_x:.3g} to {largest_x:.3g}"
                advice = "predictions are flatter, yet they change faster with the image. Judge the defense by attacks."
                message = f"FisherSpectrum: the median {flatter} but {faster}: {advice}"
                warnings.warn(message, RuntimeWarning, stacklevel=2)
        self._medians.append((largest_s, largest_x))

    def _charts(self) -> dict[str, list[tuple[str, str]]]:
        return {"Fisher information": [(key, f"^fisher/{key}/") for key in self._columns or _COLUMNS]}

    def _write(self, epoch: int, folder: Path) -> None:
        for key, values in self._columns.items():
            linear = key == "confidence"
            shown = values if linear else np.log10(np.clip(values, _SMALLEST, np.finfo(np.float32).max))
            tf.summary.histogram(f"fisher/{key}" if linear else f"fisher/log10_{key}", shown)


class MuSchedule(keras.callbacks.Callback):
    """Sets μ before each training step, from the number of steps that the optimizer has taken.

    So a resumed training goes on where it stood. The variable ``mu`` is looked for on ``target``, by default the
    compiled model's loss or the model itself, whichever has one. μ is logged as ``mu``.

    Args:
        schedule: a function from the step (an int, from 0) to μ, such as a ``LearningRateSchedule`` of Keras; or a
            number, the μ that a linear warm-up reaches.
        warmup_steps: steps over which μ grows linearly from 0 to what ``schedule`` says.
        target: an object with a ``keras.Variable`` named ``mu``; ``None`` for the compiled model's loss or the model,
            of which only one may have a ``mu`` then.

    Raises:
        ValueError: if ``schedule`` is neither, ``warmup_steps`` is negative, the schedule gives a negative or
            non-finite μ, or there is no ``mu`` on the target, or one on each of two.

    Example:
        >>> warm_up = MuSchedule(0.02, warmup_steps=469)  # an epoch of MNIST in batches of 128
        >>> warm_up.value(0), warm_up.value(469)
        (0.0, 0.02)
    """

    @checked
    def __init__(self, schedule: float | Callable[[int], Any], *, warmup_steps: int = 0, target: Any = None) -> None:
        super().__init__()
        expect(callable(schedule) or 0 <= schedule < math.inf, "schedule", "a function of the step or >= 0", schedule)
        expect(warmup_steps >= 0, "warmup_steps", "at least 0", warmup_steps)
        self.schedule, self.warmup_steps, self.target = schedule, warmup_steps, target

    def value(self, step: int) -> float:
        """μ at a step."""
        scheduled = float(self.schedule(step)) if callable(self.schedule) else float(self.schedule)
        mu = scheduled * min(1.0, step / self.warmup_steps) if self.warmup_steps else scheduled
        require(0 <= mu < math.inf, f"`schedule` should give finite numbers >= 0. Received: {mu} at step {step}")
        return mu

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find the variable."""
        places = [self.model.loss, self.model] if self.target is None else [self.target]
        places = [place for place in places if hasattr(place, "mu")] or places[:1]
        require(len(places) == 1, "Loss and model have a `mu` each: pass target=model.loss or target=model.")
        mu = getattr(places[0], "mu", None)
        expected = "`target` should have a keras.Variable `mu`, as FisherTraceLoss has"
        received = f"{places[0]!r}; compile the model with such a loss or pass target=."
        require(isinstance(mu, keras.Variable), f"{expected}. Received: {received}")
        self._mu: Any = mu

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Set μ for this step."""
        self._mu.assign(self.value(int(self.model.optimizer.iterations.numpy())))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Log μ."""
        if logs is not None:
            logs["mu"] = float(self._mu.numpy())
