"""Everything that ``python -m reproduction`` writes, by name, and the page that shows it all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from keras_fim.records import versions, write_json, write_text
from reproduction import figure1, figures, holds, study, tables
from reproduction.bench import FULL, PaperBench
from reproduction.report import Report

__all__ = ["TARGETS", "reproduce"]

TARGETS: dict[str, Callable[[PaperBench], Report]] = {
    "figure1": figure1.figure1,
    "figure2": figures.figure2,
    "figure3": figures.figure3,
    "figure4": figures.figure4,
    "figure5": figures.figure5,
    "table1": tables.table1,
    "table2": tables.table2,
    "strong": holds.strong,
    "study": study.study,
}


def reproduce(bench: PaperBench, targets: Sequence[str]) -> list[Report]:
    """Measure figures and tables of the paper and write each as PNG, CSV and Markdown; rewrite the page.

    Args:
        bench: says where, on how many images, with which seeds.
        targets: keys of `TARGETS`, or ``"all"``.

    Returns:
        The reports, in the order of `TARGETS`.

    Raises:
        ValueError: if a target is not known.
    """
    unknown = set(targets) - {*TARGETS, "all"}
    if unknown:
        raise ValueError(f"`targets` should be of {', '.join(TARGETS)}, all. Received: {', '.join(sorted(unknown))}")
    names = list(TARGETS) if "all" in targets else [name for name in TARGETS if name in targets]
    reports = []
    for name in names:
        report = TARGETS[name](bench)
        report.write(bench.folder)
        reports.append(report)
        _write_page(bench)
    return reports


def _write_page(bench: PaperBench) -> None:
    """``README.md`` of the folder: every figure and table measured so far, beside what the paper prints."""
    pages = [bench.folder / f"{name}.md" for name in TARGETS if (bench.folder / f"{name}.md").is_file()]
    command = "python -m reproduction all" if bench.scale == FULL else "python -m reproduction all --quick"
    head = (
        "# The paper, measured again\n\n"
        f"Written by `{command}`; every cell, with its settings and versions, lies in `cells/`, every table as CSV "
        "beside its Markdown. What the paper prints stands beside our figure.\n"
    )
    text = "\n".join([head, *(path.read_text(encoding="utf-8") for path in pages)])
    write_text(bench.folder / "README.md", text)
    write_json(bench.folder / "versions.json", versions())
