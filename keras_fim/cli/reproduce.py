"""Measure the paper's figures and tables again."""

from __future__ import annotations

import argparse
from pathlib import Path

from keras_fim.experiments.paper.bench import FULL, QUICK, PaperBench
from keras_fim.experiments.paper.reproduce import TARGETS, reproduce

__all__ = ["add_arguments", "run"]

DESCRIPTION = f"""Measure figures and tables of the paper on MNIST (figure 4: on all three data sets), ours beside what
the paper prints, as PNG, CSV and Markdown with a page that shows them all. Models are taken from the stored weights,
or trained and then stored. A run that was interrupted goes on at the first cell that is missing.

targets: {", ".join(TARGETS)}, all

examples:
  keras-fim reproduce table1 --quick        100 images, one seed
  keras-fim reproduce figure2 figure3
  keras-fim reproduce all
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("targets", nargs="+", choices=[*TARGETS, "all"], metavar="TARGET", help="what to measure")
    parser.add_argument("--quick", action="store_true", help="100 images and one seed, shorter trainings")
    parser.add_argument("--out", type=Path, help="where results go (results/paper, with --quick results/runs/paper)")
    parser.add_argument("--data-dir", help="where TensorFlow Datasets keeps its data ($TFDS_DATA_DIR or its default)")


def run(arguments: argparse.Namespace) -> None:
    """Measure, and print each table."""
    folder = arguments.out or Path("results/runs/paper" if arguments.quick else "results/paper")
    scale = QUICK if arguments.quick else FULL
    bench = PaperBench(folder, scale, data_dir=arguments.data_dir)
    for report in reproduce(bench, arguments.targets):
        print(f"\n{report.markdown()}")
    print(f"written to {folder}: README.md shows everything")
