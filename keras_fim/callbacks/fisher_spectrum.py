"""How fast the prediction can change around an image, after each epoch."""

import time
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_fim.arguments import checked
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
                warnings.warn(
                    f"FisherSpectrum: the median of λ_max(G_s), 1 / min p, fell from {before_s:.3g} to {largest_s:.3g} "
                    f"but that of λ_max(G_x) rose from {before_x:.3g} to {largest_x:.3g}: predictions are flatter, "
                    "yet they change faster with the image. Judge the defense by attacks.",
                    RuntimeWarning,
                    stacklevel=2,
                )
        self._medians.append((largest_s, largest_x))

    def _charts(self) -> dict[str, list[tuple[str, str]]]:
        return {"Fisher information": [(key, f"^fisher/{key}/") for key in self._columns or _COLUMNS]}

    def _write(self, epoch: int, folder: Path) -> None:
        for key, values in self._columns.items():
            linear = key == "confidence"
            shown = values if linear else np.log10(np.clip(values, _SMALLEST, np.finfo(np.float32).max))
            tf.summary.histogram(f"fisher/{key}" if linear else f"fisher/log10_{key}", shown)
