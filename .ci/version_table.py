"""Put what the smoke runs recorded into the table of tested versions: version_table.py FOLDER TABLE."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from keras_fim.evaluation.report import table
from keras_fim.records import read_json, write_json, write_text

NAMES = ("lowest", "oldest", "colab", "newest")


def main(folder: Path, target: Path) -> None:
    """Update ``TABLE.json`` with the records in ``FOLDER``, and write ``TABLE.md`` from it."""
    file = target.with_suffix(".json")
    rows = {row["environment"]: row for row in (read_json(file) if file.exists() else [])}
    for path in folder.glob("*.json"):
        rows[path.stem] = {"environment": path.stem, **json.loads(path.read_text(encoding="utf-8"))}
    ordered = [rows[name] for name in NAMES if name in rows]
    if not ordered:
        return
    write_json(file, ordered)
    shown = [{**row, "passed": "yes" if row["passed"] else "no"} for row in ordered]
    write_text(target.with_suffix(".md"), f"{table(shown, markdown=True)}\n\nPrinted by `.ci/parts/versions`.\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
