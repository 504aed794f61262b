"""The cells of an evaluation: found in their files, or measured in this process or by the workers of a Ray cluster."""

import collections
import contextlib
import functools
import json
import operator
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import tensorflow as tf

from keras_fim._lazy import library
from keras_fim.evaluation.sources import Chunk, digest
from keras_fim.logits import LogitsFunction
from keras_fim.records import expecting, read_json, versions, write_text

# returns figures by name; it is sent to other processes, so it is a function of a module, or a partial one
Measure: TypeAlias = Callable[[LogitsFunction, Chunk], dict[str, Any]]

# a chunk, and for each of its cells the figures and how long they took, or "kept"
Finished: TypeAlias = tuple[Chunk, Iterator[tuple[dict[str, Any], str]]]

_Result = TypeVar("_Result")
_RETRIES = 3


class Cell(NamedTuple):
    """What is measured of a chunk.

    Attributes:
        name: The start of the name of its file.
        settings: What the figures depend on besides the model and the chunk, ready for JSON.
        columns: The names of the figures.
        measure: Measures them.
        gradients: About how many gradients an image takes.
    """

    name: str
    settings: dict[str, Any]
    columns: Sequence[str]
    measure: Measure
    gradients: float


class Here:
    """Measures cells in this process, when a result is asked for; other backends are derived from it.

    Args:
        logits_fn: The classifier.
        cells: What may be measured of a chunk.
    """

    def __init__(self, logits_fn: LogitsFunction, cells: Sequence[Cell]) -> None:
        self.logits_fn, self.cells = logits_fn, cells

    def submit(self, index: int, chunk: Chunk) -> Any:
        """Hand out a cell, and return something that stands for its result."""
        return index, chunk

    def ready(self, task: Any) -> bool:
        """Whether the result would not have to be waited for."""
        return True

    def result(self, task: Any) -> Any:
        """The figures of a cell."""
        index, chunk = task
        return self.cells[index].measure(self.logits_fn, chunk)


class OnRay(Here):
    """Measures in Ray's actors, one for each free GPU, or else CPU; Ray restarts those that die.

    The model is sent once to each actor. No more cells are handed out than actors are free, so that memory does not
    grow with the dataset. An actor without a GPU computes on one thread.

    Args:
        logits_fn: The classifier.
        cells: What may be measured of a chunk.

    Raises:
        ImportError: If Ray is not installed.
    """

    def __init__(self, logits_fn: LogitsFunction, cells: Sequence[Cell]) -> None:
        ray = _ray()
        if not ray.is_initialized():
            ray.init(log_to_driver=False, logging_level="ERROR")
        free = ray.available_resources()
        kind = "GPU" if free.get("GPU", 0) >= 1 else "CPU"
        self._ray, self.slots = ray, max(1, int(free.get(kind, 1)))
        resources: dict[str, Any] = {f"num_{kind.lower()}s": 1}
        worker: Any = ray.remote(_Worker).options(max_restarts=_RETRIES, max_task_retries=_RETRIES, **resources)
        shipped = ray.put((logits_fn, cells))
        self._start: Callable[[], Any] = lambda: worker.remote([shipped], single=kind == "CPU")
        self._busy: dict[Any, Any] = {}

    def submit(self, index: int, chunk: Chunk) -> Any:
        """As `Here`; waits for an actor if all are busy."""
        if len(self._busy) < self.slots:
            actor = self._start()
        else:
            done, _ = self._ray.wait(list(self._busy))
            actor = self._busy.pop(done[0])
        task = actor.result.remote((index, chunk))
        self._busy[task] = actor
        return task

    def ready(self, task: Any) -> bool:
        """As `Here`."""
        return bool(self._ray.wait([task], timeout=0)[0])

    def result(self, task: Any) -> Any:
        """As `Here`."""
        return self._ray.get(task)


class _Worker(Here):
    """A process of a Ray cluster with its own copy of the model."""

    def __init__(self, shipped: list[Any], *, single: bool) -> None:
        if single:  # before the first operation, and so before the model is there
            tf.config.threading.set_intra_op_parallelism_threads(1)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        super().__init__(*_ray().get(shipped[0]))


BACKENDS: dict[str, type[Here]] = {"local": Here, "ray": OnRay}


def connect(address: str) -> None:
    """Connect to a Ray cluster.

    Args:
        address: ``"auto"`` for the cluster that runs on this machine, ``"local"`` to start one on it, or the address of
            one, such as ``"ray://host:10001"``.

    Raises:
        ValueError: If there is no such cluster.
        ImportError: If Ray is not installed.
    """
    ray = _ray()
    with expecting(f"`--ray` {address}", "be auto, local or the address of a cluster", ConnectionError):
        ray.init(address, log_to_driver=False, logging_level="ERROR")


_ray = functools.partial(library, "ray", 'backend="ray"', "keras_fim[ray]")
"""The module ``ray``."""


class Cells:
    """A folder of finished cells; without a folder nothing is kept.

    A cell is found again if its settings are the same: those are what its result depends on, never the version of this
    package. A file that is damaged, or valid JSON of another shape, is measured again.

    Args:
        folder: The folder, made when the first cell is written.
        same: Tells whether the settings of a file and those asked for are the same.
    """

    def __init__(self, folder: str | Path | None, same: Callable[[Any, Any], bool] = operator.eq) -> None:
        self.folder, self.same = None if folder is None else Path(folder), same
        self._versions = {} if folder is None else versions()

    def kept(self, name: str, settings: dict[str, Any], read: Callable[[Any], _Result]) -> _Result | None:
        """A result from its file; None without one, or if the file is not of these settings or damaged.

        Args:
            name: The path of the file in the folder, without its suffix.
            settings: Whatever the result depends on, ready for JSON.
            read: Makes the result of what `keep` wrote; an error says that the content is not of its shape.
        """
        path = None if self.folder is None else self.folder / f"{name}.json"
        if path is not None and path.is_file():
            with contextlib.suppress(ValueError, TypeError, LookupError, AttributeError):  # it is damaged
                cell = read_json(path)
                if self.same(cell["settings"], json.loads(json.dumps(settings))):
                    return read(cell["result"])
        return None

    def keep(self, name: str, settings: dict[str, Any], content: Any) -> None:
        """Write a result, ready for JSON, to its file; the other arguments are those of `kept`."""
        if self.folder is not None:
            cell = {"settings": settings, "versions": self._versions, "result": content}
            write_text(self.folder / f"{name}.json", json.dumps(cell) + "\n")


def packed(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays and numbers by name, ready for JSON as Python reads it."""
    return {key: np.asarray(column).tolist() for key, column in columns.items()}


def unpacked(content: Any, names: Collection[str], num_samples: int) -> dict[str, np.ndarray]:
    """What `packed` made of arrays ``(..., n)`` and numbers.

    Raises:
        ValueError: If it is of other names or another number of samples.
    """
    columns = {key: np.array(column) for key, column in content.items()}
    if set(columns) != set(names) or any(column.shape[-1:] not in ((), (num_samples,)) for column in columns.values()):
        raise ValueError(f"A cell should hold {sorted(names)} of {num_samples} samples. Received: {sorted(columns)}")
    return columns


def finished(
    backend: Here, cells: Sequence[Cell], store: Cells, model: str, chunks: Iterable[tuple[Chunk, str]]
) -> Iterator[Finished]:
    """The figures of chunks, in order: from their files, or else from a backend.

    All cells of a chunk are handed out before the next chunk is read; a result is waited for when it is asked for.

    Args:
        backend: Measures cells.
        cells: What is measured of each chunk.
        store: The files.
        model: The digest of the model.
        chunks: Each with its digest.

    Yields:
        `Finished`.
    """
    waiting = collections.deque[tuple[list[Any], Finished]]()
    for chunk, data in chunks:
        tasks: list[Any] = []
        for index, cell in enumerate(cells):
            settings = {**cell.settings, "model": model, "data": data}
            file = f"{cell.name}-{digest(json.dumps(settings, sort_keys=True))[:16]}"
            read = functools.partial(unpacked, names=cell.columns, num_samples=len(chunk.labels))
            columns = store.kept(file, settings, read)
            tasks.append((file, settings, columns, backend.submit(index, chunk) if columns is None else None))
        waiting.append((tasks, (chunk, (_figures(backend, store, *task) for task in tasks))))
        while waiting and all(task is None or backend.ready(task) for *_, task in waiting[0][0]):
            yield waiting.popleft()[1]
    while waiting:
        yield waiting.popleft()[1]


def _figures(
    backend: Here, store: Cells, file: str, settings: dict[str, Any], columns: Any, task: Any
) -> tuple[dict[str, Any], str]:
    if columns is not None:
        return columns, "kept"
    begin = time.perf_counter()
    columns = backend.result(task)
    store.keep(file, settings, packed(columns))
    return columns, f"{time.perf_counter() - begin:.1f} s"
