"""A figure or table of the reproduction: rows, drawn and written as CSV, Markdown and PNG."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keras_fim.records import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Report", "markdown_table"]


@dataclasses.dataclass(frozen=True)
class Report:
    """What was measured for one figure or table.

    Attributes:
        name: like ``figure3``; the files are named after it.
        title: a line of text.
        columns: headings.
        rows: cells as they are printed, by row.
        notes: what a reader has to know: choices where the paper leaves one open, what falls short.
        figure: the drawing, if there is one.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    figure: Figure | None = None

    def markdown(self) -> str:
        """Title, drawing, table and notes."""
        parts = [f"## {self.title}"]
        if self.figure is not None:
            parts.append(f"![{self.title}]({self.name}.png)")
        parts.append(markdown_table(self.columns, self.rows))
        parts += list(self.notes)
        return "\n\n".join(parts) + "\n"

    def write(self, folder: Path) -> None:
        """Write ``name.csv``, ``name.md`` and, with a drawing, ``name.png``."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.columns, *self.rows])
        write_text(folder / f"{self.name}.csv", text.getvalue())
        write_text(folder / f"{self.name}.md", self.markdown())
        if self.figure is not None:
            aside = folder / f".{self.name}.tmp.png"
            self.figure.savefig(aside, dpi=110)
            aside.replace(folder / f"{self.name}.png")


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of text under headings, the columns aligned; the first is flush left."""
    widths = [max(len(row[index]) for row in (columns, *rows)) for index in range(len(columns))]
    rule = ["-" * max(3, widths[0]), *["-" * max(2, width - 1) + ":" for width in widths[1:]]]
    widths = [max(3, width) for width in widths]
    lines = ("| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
             for row in (columns, rule, *rows))  # fmt: skip
    return "\n".join(lines)
