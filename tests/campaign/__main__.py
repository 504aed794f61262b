"""Try to break what the package promises, and print a table: ``python -m tests.campaign [PART...] [--scale 0.1]``.

``--scale 1`` runs the full numbers of trials. Exit code 1 means that something was lost.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_fim.evaluation.report import table
from keras_fim.records import read_json, versions, write_json, write_text

Part = Callable[[int, int, Path], tuple[list[str], str]]


def parts() -> dict[str, tuple[int, Part]]:
    """The full number of trials of each part, and what runs them."""
    from tests.campaign import damages, disks, fuzz, kills, models

    def fuzzed_requests(trials: int, seed: int, folder: Path) -> tuple[list[str], str]:
        from tests.campaign import requests  # needs tensorflow-serving-api

        return requests.fuzzed_requests(trials, seed, folder)

    return {
        "kills of train": (60, functools.partial(kills.kills, "train")),
        "kills of evaluate": (40, functools.partial(kills.kills, "evaluate")),
        "kills of export": (40, functools.partial(kills.kills, "export")),
        "kills of compare": (10, functools.partial(kills.kills, "compare")),
        "ends at each rename": (150, kills.renames),
        "concurrent runs": (12, kills.concurrent),
        "damaged files": (300, damages.damages),
        "fuzzed calls": (1000, fuzz.calls),
        "fuzzed requests": (1000, fuzzed_requests),
        "bad disks": (18, disks.disks),
        "new models": (200, lambda trials, seed, folder: models.models(max(40, trials), seed)),
    }


def main() -> int:
    """Run the parts, print and write the table."""
    available = parts()
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"Of {', '.join(available)} (default: all).")
    parser.add_argument("--scale", type=float, default=1.0, help="Share of the full number of trials.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="Folder for campaign.json and campaign.md.")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(available):
        parser.error(f"there is no part {sorted(unknown)}")
    rows: list[dict[str, Any]] = []
    for name in arguments.parts or available:
        full, run = available[name]
        trials, begin = max(1, round(full * arguments.scale)), time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            lost, remark = run(trials, arguments.seed, Path(folder))
        failures = [text for text in lost if text]
        print(*(f"{name}: {text}" for text in failures), sep="\n", flush=True)
        counts = {"trials": len(lost), "survived": len(lost) - len(failures), "lost": len(failures)}
        rows.append({"part": name, **counts, "seed": arguments.seed, "remark": remark})
        print(f"{name}: {counts}, {remark} ({time.process_time() - begin:.0f} s of CPU in this process)", flush=True)
        if arguments.out:
            _write(arguments.out, rows[-1])
    print(table(rows))
    return int(any(row["lost"] for row in rows))


def _write(folder: Path, row: dict[str, Any]) -> None:
    """Put the figures of a part in the place of earlier ones."""
    path = folder / "campaign.json"
    earlier = read_json(path)["rows"] if path.is_file() else []
    kept = {one["part"]: one for one in [*earlier, {**row, "git": versions()["git"]}]}
    rows = [kept[name] for name in parts() if name in kept]
    write_json(path, {"rows": rows, "versions": versions()})
    write_text(folder / "campaign.md", table(rows, markdown=True) + "\n")


if __name__ == "__main__":
    sys.exit(main())
