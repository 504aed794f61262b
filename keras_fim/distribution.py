"""All devices of a machine, and many machines: what ``fit`` lacks in Keras 3, and what callbacks have to agree on."""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras.callbacks import BackupAndRestore, CSVLogger, ModelCheckpoint, ProgbarLogger, RemoteMonitor, TensorBoard

_WRITERS = (BackupAndRestore, CSVLogger, ModelCheckpoint, ProgbarLogger, RemoteMonitor, TensorBoard)
_GONE = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
_ENDED = (
    "Another worker of the cluster has ended, or cannot be reached. Start all workers again with the same commands; "
    "`keras-fim train` goes on from the last epoch with --resume, `fit` with keras.callbacks.BackupAndRestore"
)


def strategy(resolver: tf.distribute.cluster_resolver.ClusterResolver | None = None) -> tf.distribute.Strategy:
    """The strategy for the devices that there are; call it first, and build and compile the model in its scope.

    Args:
        resolver: Where the workers of the cluster are, such as
            ``tf.distribute.cluster_resolver.SlurmClusterResolver()``; ``None`` for what ``TF_CONFIG`` says.

    Returns:
        ``MultiWorkerMirroredStrategy`` on a cluster of several workers, ``MirroredStrategy`` on a machine with several
        GPUs, and otherwise TensorFlow's default strategy.

    Example:
        >>> strategy().num_replicas_in_sync
        1
    """
    cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
    if resolver is not None or sum(len(cluster.get(job, ())) for job in ("chief", "worker")) > 1:
        several = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
        mend_keras(several)
        return several
    return local_strategy()


def local_strategy() -> tf.distribute.Strategy:
    """``MirroredStrategy`` on a machine with several GPUs, otherwise TensorFlow's default strategy."""
    several = len(tf.config.list_logical_devices("GPU")) > 1
    return tf.distribute.MirroredStrategy() if several else tf.distribute.get_strategy()


def devices_of(model: Any) -> tf.distribute.Strategy:
    """The strategy in whose scope a Keras model was built; of anything else, that of the present scope."""
    return getattr(model, "distribute_strategy", None) or tf.distribute.get_strategy()


def fit(model: keras.Model, *args: Any, callbacks: Iterable[Any] | None = None, **options: Any) -> Any:
    """As ``model.fit``, also where the model was built in the scope of a `strategy` of several workers.

    There, after each epoch and before the validation, the moving statistics of batch normalization become their mean
    over the workers; whatever a callback adds to ``logs`` is what it added on the chief; and only the chief has
    Keras' callbacks that write, those with a true attribute ``chief_only``, and output.

    Args:
        model: The compiled model.
        *args: As of ``model.fit``.
        callbacks: As of ``model.fit``, in a list.
        **options: As of ``model.fit``.

    Returns:
        As ``model.fit``.

    Raises:
        ConnectionError: If another worker has ended.
    """
    devices: tf.distribute.Strategy = model.distribute_strategy
    if not many_workers(devices):
        return model.fit(*args, callbacks=callbacks, **options)
    mend_keras(devices)
    if not is_chief(devices):
        options["verbose"] = 0
    with explained():
        return model.fit(*args, callbacks=synchronized(callbacks or (), devices), **options)


def synchronized(callbacks: Iterable[Any], devices: tf.distribute.Strategy) -> list[keras.callbacks.Callback]:
    """The callbacks of one worker, with those between them that keep the workers the same; see `fit`."""
    kept: list[Any] = [_SameStatistics()]
    for callback in callbacks:
        if is_chief(devices) or not getattr(callback, "chief_only", isinstance(callback, _WRITERS)):
            kept.append(callback)
        elif isinstance(callback, BackupAndRestore):
            kept.append(_Restored(callback))
        if not type(callback).__module__.startswith("keras."):
            kept.append(_SameLogs())
    return kept


class Share(NamedTuple):
    """The images of one device.

    Attributes:
        images: ``(n, ...)``, at least one, because no model is called on an empty batch.
        size: How many of them count, int32; ``None`` for all.
        place: A context in which operations are of that device, and use its copy of the weights.
    """

    images: tf.Tensor
    size: tf.Tensor | None
    place: contextlib.AbstractContextManager[Any]


def shares(images: tf.Tensor, devices: tf.distribute.Strategy) -> list[Share]:
    """Images divided among the devices of this process, whose numbers of images differ by at most one.

    Args:
        images: ``(batch, ...)``, at least one.
        devices: The strategy in whose scope the model was built.

    Returns:
        `Share` of each device; one of all images inside of a replica.
    """
    context, names = tf.distribute.get_replica_context(), local_devices(devices)
    if len(names) == 1 or (context is not None and context.num_replicas_in_sync > 1):
        return [Share(images, None, contextlib.nullcontext())]
    ends = [index * tf.shape(images)[0] // len(names) for index in range(len(names) + 1)]
    return [
        Share(images[start : tf.maximum(stop, start + 1)], stop - start, _place(devices, name))
        for start, stop, name in zip(ends, ends[1:], names, strict=False)
    ]


@contextlib.contextmanager
def _place(devices: tf.distribute.Strategy, name: str) -> Iterator[None]:
    with devices.scope(), tf.device(name):
        yield


def local_devices(devices: tf.distribute.Strategy) -> tuple[str, ...]:
    """The names of the devices of this process."""
    return ("",) if devices.num_replicas_in_sync == 1 else devices.extended.worker_devices


def many_workers(devices: tf.distribute.Strategy) -> bool:
    """Whether there are replicas in other processes."""
    return bool(devices.num_replicas_in_sync > len(local_devices(devices)))


def is_chief(devices: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes."""
    return bool(devices.extended.should_save_summary)


def from_chief(values: Any, devices: tf.distribute.Strategy) -> Any:
    """What the chief has in place of ``values``, ready for JSON. All workers call it, and wait for each other."""
    if not many_workers(devices):
        return values
    text = np.frombuffer(json.dumps(values).encode(), np.uint8).astype(np.int32)
    size = _of_first(np.array([len(text)], np.int32), devices)[0]
    return json.loads(_of_first(np.resize(text, size), devices).astype(np.uint8).tobytes())


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """In it, what TensorFlow says when another worker is gone becomes a ConnectionError of one sentence."""
    try:
        yield
    except (*_GONE, tf.errors.InternalError, tf.errors.FailedPreconditionError) as error:
        if not isinstance(error, _GONE) and "ollective" not in error.message:
            raise
        raise ConnectionError(_ENDED) from error


def mend_keras(devices: tf.distribute.Strategy) -> None:
    """Mend what keeps ``fit`` from running on several workers (keras-team/keras #20585), where it is not mended.

    Keras builds a model on a batch of all replicas in place of one, and takes the mean of the scalars in the logs over
    an axis that they do not have. Nothing changes for other strategies.
    """
    from keras.src.backend.tensorflow import trainer

    if not many_workers(devices) or getattr(trainer, "_keras_fim_mended", False):
        return
    if not _traces(lambda value: trainer.reduce_per_replica({"loss": value}, devices, "auto")):
        original = trainer.reduce_per_replica

        def reduce_per_replica(values: Any, strategy: Any, reduction: str) -> Any:
            if reduction not in ("auto", "mean") or not many_workers(strategy):
                return original(values, strategy, reduction)
            return tf.nest.map_structure(lambda value: strategy.reduce("MEAN", value, axis=None), values)

        trainer.reduce_per_replica = reduce_per_replica
    build = trainer.TensorFlowTrainer._maybe_symbolic_build

    def on_local_batch(self: Any, iterator: Any = None, data_batch: Any = None) -> None:
        build(self, iterator and _first_batch(iterator, self.distribute_strategy), data_batch)

    trainer.TensorFlowTrainer._maybe_symbolic_build = on_local_batch
    trainer._keras_fim_mended = True


class _SameStatistics(keras.callbacks.Callback):
    """Gives all workers the mean of the moving statistics that each has gathered on its share of the batches."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._variables = [v for v in self.model.non_trainable_variables if keras.backend.is_float_dtype(v.dtype)]
        self._read = tf.function(lambda: [tf.identity(variable.value) for variable in self._variables])

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.on_epoch_end(0)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        devices = self.model.distribute_strategy
        for variable, value in zip(self._variables, devices.run(self._read) if self._variables else [], strict=True):
            variable.assign(devices.reduce("MEAN", value, axis=None))


class _SameLogs(keras.callbacks.Callback):
    """Gives all workers the figures that the chief has in ``logs``."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        figures = {key: float(value) for key, value in (logs or {}).items() if np.ndim(value) == 0}
        agreed = from_chief(figures, self.model.distribute_strategy)
        if logs is not None:
            for key in figures.keys() - agreed.keys():
                del logs[key]
            logs.update(agreed)


class _Restored(keras.callbacks.Callback):
    """Restores what another callback has kept, and never writes."""

    def __init__(self, kept: BackupAndRestore) -> None:
        super().__init__()
        self._kept = kept

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._kept.set_model(self.model)
        self._kept.on_train_begin(logs)


def _first_batch(iterator: Any, devices: tf.distribute.Strategy) -> Iterator[tuple[int, int, Iterator[Any]]]:
    """What Keras' iterator over an epoch begins with, on the first replica of this process alone."""
    for begin, end, batches in iterator:
        batch = tf.nest.map_structure(lambda value: devices.experimental_local_results(value)[0], next(batches))
        yield begin, end, iter([batch])


def _of_first(values: np.ndarray, devices: tf.distribute.Strategy) -> np.ndarray:
    """The integers ``(n,)`` that the first replica has; there are as many on all of them."""
    replicas = devices.run(_or_zeros_beyond_first, args=(tf.constant(values),))
    return np.asarray(devices.reduce("SUM", replicas, axis=None))


@tf.function(reduce_retracing=True)
def _or_zeros_beyond_first(values: tf.Tensor) -> tf.Tensor:
    return values * tf.cast(tf.equal(tf.distribute.get_replica_context().replica_id_in_sync_group, 0), values.dtype)


def _traces(function: Callable[[tf.Tensor], Any]) -> bool:
    """Whether a function of a scalar can be compiled; it is not executed."""
    try:
        tf.function(function).get_concrete_function(tf.TensorSpec([], tf.float32))
    except (ValueError, TypeError):
        return False
    return True
