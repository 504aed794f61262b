"""A figure or table of the reproduction: rows, drawn and written as CSV, Markdown and PNG."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path
from typing import TYPE_CHECKING

from keras_fim.experiments.tables import markdown_table
from keras_fim.records import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Report"]


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
