"""Saved tables, read back without the package."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any


def read_csv(path: str | Path) -> list[dict[str, Any]]:
    """Values by column: numbers and booleans as such, without the columns that a row leaves empty."""
    with open(path, encoding="utf-8", newline="") as file:
        return [{key: _parsed(value) for key, value in row.items() if value != ""} for row in csv.DictReader(file)]


def _parsed(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"True": True, "False": False}.get(text, text)
