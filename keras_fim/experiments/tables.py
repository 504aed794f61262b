"""Tables of text, and figures over seeds in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["markdown_table", "spread"]


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of text under headings, the columns aligned; the first is flush left."""
    widths = [max(len(row[index]) for row in (columns, *rows)) for index in range(len(columns))]
    rule = ["-" * max(3, widths[0]), *["-" * max(2, width - 1) + ":" for width in widths[1:]]]
    widths = [max(3, width) for width in widths]
    lines = ("| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
             for row in (columns, rule, *rows))  # fmt: skip
    return "\n".join(lines)


def spread(values: Sequence[float], form: str = ".1f", *, scale: float = 1.0) -> str:
    """Mean and range of a figure over seeds, as ``12.3 (11.9-12.8)``; a single value alone."""
    numbers: Any = np.asarray(values, float) * scale
    mean = format(float(numbers.mean()), form)
    if len(numbers) == 1:
        return mean
    return f"{mean} ({format(float(numbers.min()), form)}-{format(float(numbers.max()), form)})"
