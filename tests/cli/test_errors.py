"""Whatever fails ends in one line that names the file and the remedy; --debug shows the traceback."""

from __future__ import annotations

import errno
import os

import pytest
import tensorflow as tf

from keras_fim import cli
from keras_fim.cli.errors import run_safely

HDF5 = (
    "[Errno 28] Unable to synchronously write data (file write failed: time = Thu Nov 26 15:00:00 2026\n, filename = "
    "'/runs/a/b.h5', file descriptor = 12, errno = 28, error message = 'No space left on device', buf = 0x7f)"
)
FULL = "free some space, or write to another disk (--out)"
ERRORS = [
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "run/a"), 2, f"run/a: No space left on device; {FULL}"),
    (OSError(HDF5), 2, f"/runs/a/b.h5: No space left on device; {FULL}"),
    (OSError(errno.EROFS, os.strerror(errno.EROFS), "run/a"), 2, "run/a: Read-only file system; choose a folder that"),
    (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "a"), 2, "a: No such file or directory; check the"),
    (tf.errors.UnknownError(None, None, "m/variables; No space left on device [Op:SaveV2]"), 2, f"device; {FULL}"),
    (ValueError("`mu` should\nbe positive."), 2, "`mu` should be positive."),
    (KeyError("config"), 70, "KeyError: 'config' (unexpected: --debug shows where)"),
]


@pytest.mark.parametrize(("error", "code", "line"), ERRORS, ids=[str(index) for index in range(len(ERRORS))])
def test_errors_are_one_line_with_a_remedy(error, code, line, capsys):
    def fail():
        raise error

    assert run_safely(fail) == code
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and line in shown and shown.count("\n") == 1
    assert run_safely(fail, debug=True) == code
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last)" in shown and "in fail" in shown


@pytest.mark.parametrize("command", ["export mnist-plain --max-samples 0", "train --data mnist5k --quick"])
def test_a_folder_below_a_file_cannot_be_written(command, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main([*command.split(), "--out", str(tmp_path / "file" / "model")]) == 2
    shown = capsys.readouterr().err
    exists = f"error: {tmp_path / 'file'}: File exists; it should be a folder: choose another path\n"
    below = (
        f"error: {tmp_path / 'file' / 'model'}: Not a directory; a part of that path is a file: choose another one\n"
    )
    assert shown in (exists, below)
    assert cli.main([*command.split(), "--out", str(tmp_path / "file" / "model"), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_path_that_tensorflow_cannot_load_is_refused(tmp_path, capsys):
    assert cli.main(["export", "mnist-plain", "--out", str(tmp_path / "a[1]")]) == 2
    assert "`folder` should be a path without [, ], * and ?" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_text_are_named(tmp_path, capsys):
    (tmp_path / "labels.txt").write_bytes(b"caf\xe9")
    arguments = ["export", "mnist-plain", "--out", str(tmp_path / "m"), "--labels", str(tmp_path / "labels.txt")]
    assert cli.main(arguments) == 2
    assert f"error: {tmp_path / 'labels.txt'} should be text in UTF-8" in capsys.readouterr().err
