"""Fuzzed calls of the public functions, counted."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import hypothesis

from tests.campaign import arguments


def calls(trials: int, seed: int, folder: Path, *, slow: bool = True) -> tuple[list[str], str]:
    """Call public functions with arguments that they may not expect.

    Returns:
        What was wrong, an entry for each call, empty if nothing was; and a remark.
    """
    available, wrong = arguments.targets(folder, slow=slow), list[str]()
    quiet = {"deadline": None, "database": None, "suppress_health_check": list(hypothesis.HealthCheck)}

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=trials, phases=[hypothesis.Phase.generate], **quiet)
    @hypothesis.given(arguments.fuzzed(available))
    def call(fuzzed: arguments.Fuzzed) -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            outcome = fuzzed.outcome()
        wrong.append(f"{fuzzed}: {outcome}" if outcome else "")

    call()
    pairs = sum(len(target.valid) for target in available)
    return wrong, f"{len(available)} functions and classes, {pairs} arguments"
