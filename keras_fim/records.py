"""Result files: written whole or not at all, with the versions that produced them."""

import contextlib
import importlib.metadata
import itertools
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

_REMEDY = "restore the file, or train into another folder (--out)"
_UNFINISHED = re.compile(r"\.(.+)\.(\d+)\.\d+\.tmp\.")  # the host and the process that writes it
_OLD = 86_400  # seconds after which a file of another host is nobody's
_HOST = socket.gethostname()
_NUMBERS = itertools.count()
_SWEPT: set[Path] = set()


@contextlib.contextmanager
def aside(path: str | Path) -> Iterator[Path]:
    """A path beside another one, on which a file or a folder is written; what is still there at the end is removed.

    What killed processes left in the folder of both is removed, too.

    Args:
        path: The path that it gets when it is ready (`publish`); the folder that it is in is made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    unfinished = path.with_name(f".{_HOST}.{os.getpid()}.{next(_NUMBERS)}.tmp.{path.name}")
    try:
        yield unfinished
    finally:
        _remove(unfinished)


def publish(unfinished: Path, path: Path) -> None:
    """Flush a file or a folder to the disk and rename it, so that neither a reader nor a crash sees half of it.

    Raises:
        OSError: If that fails, or a folder that is not empty is there already.
    """
    for file in (unfinished, *unfinished.rglob("*")):
        _flush(file)
    unfinished.replace(path)
    _flush(path.parent)


@contextlib.contextmanager
def written(path: str | Path, size: int = 0) -> Iterator[Path]:
    """A path on which to write what becomes ``path`` at the end, unless there was an error: `aside`, then `publish`.

    Args:
        path: The path of the file.
        size: The number of bytes for which there has to be room: where HDF5 meets a full disk, it ends the process.

    Raises:
        OSError: If there is no room.
    """
    with aside(path) as unfinished:
        if size and hasattr(os, "posix_fallocate"):
            with open(unfinished, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        yield unfinished
        publish(unfinished, Path(path))


def _flush(path: Path) -> None:
    """Wait until a file is on the disk; of a folder, the names in it, where the system can do that."""
    tolerated = (OSError,) if path.is_dir() else ()
    with contextlib.suppress(*tolerated):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Remove what processes that do not run any more have left unfinished in a folder; once in a process."""
    if folder in _SWEPT:
        return
    _SWEPT.add(folder)
    for path in folder.glob(".*.tmp.*"):
        match = _UNFINISHED.match(path.name)
        with contextlib.suppress(OSError):
            if match and (_ended(int(match[2])) if match[1] == _HOST else time.time() - path.stat().st_mtime > _OLD):
                _remove(path)


def _ended(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:  # a PermissionError means that it runs, as another user
        return isinstance(error, ProcessLookupError)
    return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """In it, no other process that asks for this lock writes to a folder.

    The system releases the lock of a process that ends, however it ends: a file ``.lock`` that a killed process left
    locks nothing. Where there are no locks, as on some network disks, this does nothing.

    Raises:
        ValueError: If another process writes there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ImportError):  # a disk that is read-only, or without locks; Windows
            _lock(stack.enter_context(open(folder / ".lock", "a+", encoding="utf-8")), folder)
        yield


def _lock(file: IO[str], folder: Path) -> None:
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or "another process"
        raise ValueError(f"{folder} is being written by {owner}: wait for it, or choose another --out") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {_HOST}")
    file.flush()


def write_text(path: str | Path, text: str) -> Path:
    """Write a text file as `written` does."""
    with written(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | Path, content: Any) -> Path:
    """`write_text` of ``content`` as indented JSON."""
    return write_text(path, json.dumps(content, indent=2) + "\n")


@contextlib.contextmanager
def expecting(path: str | Path, expected: str, errors: Any = Exception, *, advice: str = "") -> Iterator[None]:
    """Say of a file that cannot be read what it should be, in place of what its reader raises.

    Args:
        path: The file, or what to call it.
        expected: What it should be or hold, such as "be JSON".
        errors: The class of what the reader raises, or several. Keras, zipfile, h5py and NumPy have each their own
            errors for a damaged file, so the default is all.
        advice: What can be done about it, for the end of the message.

    Raises:
        ValueError: With the first line of the reader's message.
    """
    try:
        yield
    except errors as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} should {expected}: {reason}{f'; {advice}' if advice else ''}") from error


def read_text(path: str | Path) -> str:
    """The content of a text file.

    Raises:
        ValueError: If it is not text in UTF-8.
    """
    with expecting(path, "be text in UTF-8", UnicodeDecodeError):
        return Path(path).read_text(encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: If it is not JSON.
    """
    text = read_text(path)
    with expecting(path, "be JSON", (json.JSONDecodeError, RecursionError)):
        return json.loads(text)


def read_arrays(path: str | Path, names: Collection[str] | None = None) -> dict[str, Any]:
    """The arrays of an .npz file by name, all or those of ``names`` that it has; nothing in it is unpickled.

    Raises:
        ValueError: If it is damaged, or holds pickled objects.
    """
    import numpy as np

    expected = "be an .npz file of plain arrays (no pickled objects)"
    with expecting(path, expected), np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files if names is None or name in names}


def read_run(path: str | Path) -> dict[str, Any]:
    """The content of the ``run.json`` of a training run.

    Raises:
        ValueError: If it is damaged.
    """
    with expecting(path, "hold the record of a run", ValueError, advice=_REMEDY):
        record = read_json(path)
    config = record.get("config") if isinstance(record, dict) else None
    if not isinstance(config, dict) or not {"data", "model"} <= set(config):
        raise ValueError(f"{path} should hold the record of a run and its config. Received: {record!r:.80}; {_REMEDY}")
    return dict(record)


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that a result depends on, and the git revision of this package.

    Returns:
        Version strings by name, None of what is not installed; ``"git"`` is None outside of a checkout and ends in
        ``-dirty`` in a changed one.
    """
    import keras
    import numpy as np
    import tensorflow as tf

    first = {"python": platform.python_version(), "keras_fim": _installed("keras_fim")}
    # the distribution of TensorFlow may be tensorflow-cpu, tf-nightly or another
    imported = {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__}
    others = {name: _installed(name) for name in ("tensorflow-datasets", "cleverhans")}
    return {**first, **imported, **others, "git": _git_revision()}


def _installed(distribution: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(distribution)
    return None


def _git_revision() -> str | None:
    root = Path(__file__).resolve().parents[1]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if (root / ".git").exists():
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return None
