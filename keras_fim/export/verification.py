"""Does an exported model answer as the trained one did?"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from keras_fim.arguments import checked
from keras_fim.export import runner
from keras_fim.strangers import check_operations


@dataclasses.dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        signature: its name.
        output: its name.
        inputs: the batches: ``"16"`` is the whole, ``"1+2+5+8"`` split, ``"0"`` no image.
        deviation: the largest deviation.
        tolerance: the largest deviation allowed.
        passed: whether the deviation is allowed.
    """

    signature: str
    output: str
    inputs: str
    deviation: float
    tolerance: float
    passed: bool


@dataclasses.dataclass(frozen=True)
class Verification:
    """All comparisons of an exported model; prints as a table.

    Attributes:
        path: of the SavedModel.
        checks: what was compared.
        error: why it could not be loaded or run; empty if it could.
    """

    path: str
    checks: tuple[Check, ...]
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether it could be run and no deviation was too large."""
        return not self.error and bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def summary(self) -> str:
        """The verdict in one line."""
        if not self.passed:
            return f"{self.path}: NOT as the trained model"
        signatures = len({check.signature for check in self.checks})
        return f"{self.path}: verified ({signatures} signatures, {len(self.checks)} comparisons)"

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**dataclasses.asdict(self), "passed": self.passed}

    def __str__(self) -> str:
        lines = [f"{'signature':16} {'output':15} {'images':>12}  {'deviation':>9}  {'allowed':>7}"]
        for check in self.checks:
            compared = f"{check.signature:16} {check.output:15} {check.inputs:>12}  {check.deviation:9.1e}"
            lines.append(f"{compared}  {check.tolerance:7.0e}  {'ok' if check.passed else 'MISMATCH'}")
        lines += [self.error] * bool(self.error)
        return "\n".join([*lines, self.summary])


@checked
def verify(path: str | Path, *, strict: bool = False) -> Verification:
    """Run an exported model in a fresh process that cannot import Keras or this package, and compare.

    Every signature is given the 16 reference inputs that `keras_fim.export.saved_model` stored: as one batch, split in
    batches of 1, 2, 5 and 8, and none at all. The results are compared with what the trained model returned when it was
    exported: probabilities to 1e-5; logits (relative to the largest of the image), λ_max, the radius to 1e-4;
    directions by ``|cos| >= 0.999``; classes and verdicts where they were clear.

    Args:
        path: of the SavedModel: the folder with the version.
        strict: Whether to refuse a model whose graph reaches files, Python or a network, of which there is a warning
            otherwise: a SavedModel is a program.

    Returns:
        `Verification`; ``passed`` says whether all is well.

    Raises:
        ValueError: if there is no SavedModel with references, or it is refused.
    """
    path = Path(path)
    if not (path / "saved_model.pb").is_file() or not (path / runner.EXTRA / runner.REFERENCES).is_file():
        raise ValueError(f"`path` should be a version that export.saved_model wrote. Received: {str(path)!r}")
    check_operations(path, strict=strict)
    command = [sys.executable, runner.__file__, str(path.resolve())]
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Verification(str(path), (), f"the process ended with code {done.returncode}: {last}")
    return Verification(str(path), tuple(Check(**check) for check in json.loads(done.stdout.splitlines()[-1])))
