"""Disks that are full, read-only, or gone: each ends in one line that names a remedy, and an export is whole or absent.

The disks are file systems in memory, mounted in a name space of their own (``unshare``).
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

COMMANDS = {
    "train": "train --data mnist5k --quick --limit 60 --test-limit 40 --no-robustness --out {}/run",
    "evaluate": "evaluate --model mnist-plain --data mnist5k --attacks fgsm --max-samples 20 --out {}/cells",
    "export": "export mnist-plain --max-samples 0 --out {}/served/model",
}
KINDS = {  # what is done to the disk before the command, and meanwhile
    "full": ("mount -t tmpfs -o size={size}k tmpfs {disk}", ""),
    "read-only": ("mount -t tmpfs -o ro tmpfs {disk}", ""),
    "vanishing": ("mount -t tmpfs -o size=64m tmpfs {disk}", "sleep {delay}; mount -o remount,ro {disk}"),
}


def available() -> bool:
    """Whether disks can be mounted here."""
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


def disks(trials: int, seed: int, folder: Path) -> tuple[list[str], str]:
    """Run commands on bad disks.

    Returns:
        What was wrong, an entry for each trial, empty if nothing was; and a remark.
    """
    if not available():
        return [], "skipped: no disks can be mounted here"
    generator, wrong = random.Random(seed), list[str]()
    for index in range(trials):
        kind, name = list(KINDS)[index % 3], list(COMMANDS)[index // 3 % 3]
        disk = folder / f"disk{index}"
        disk.mkdir()
        values = {"disk": disk, "size": generator.choice([8, 60, 200, 300]), "delay": f"{generator.uniform(0, 8):.1f}"}
        before, meanwhile = (text.format(**values) for text in KINDS[kind])
        command = f"{sys.executable} -m keras_fim {COMMANDS[name].format(disk)}"
        check = f"for v in {disk}/served/model/*; do [ ! -e $v ] || [ -f $v/model_card.json ] || echo half; done"
        script = f"{before}\n({meanwhile or ':'}) &\n{command}\ncode=$?\nwait\n{check}\nexit $code"
        done = subprocess.run(
            ["unshare", "-rm", "bash", "-c", script],
            capture_output=True,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        told = done.returncode == 2 and len(errors) == 1 and "; " in errors[0]
        right = (told or done.returncode == 0) and "Traceback" not in done.stderr and "half" not in done.stdout
        wrong.append("" if right else f"{kind} {name}: {done.returncode} {done.stderr[-300:]!r}")
    return wrong, ""
