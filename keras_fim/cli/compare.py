"""Compare defences."""

from __future__ import annotations

import argparse
from pathlib import Path

from keras_fim.experiments.comparison import compare
from keras_fim.experiments.contestants import BUDGETS, CONTESTANTS, DEFAULTS, IMAGES
from keras_fim.experiments.defending import NAMES
from keras_fim.experiments.workbench import Workbench

__all__ = ["add_arguments", "run"]

_IMAGES = ", ".join(f"{data}: {count}" for data, count in IMAGES.items())
DESCRIPTION = f"""Train defences on one data set, attack all of them alike, and say what each costs: a table as JSON,
CSV and Markdown, and a figure. Models are taken from the stored weights, or trained and then stored. A run that was
interrupted goes on where it was. The table marks the Pareto front of accuracy, fooling ratio and cost.

defences: {", ".join([*NAMES, *CONTESTANTS])}; some joined by +

examples:
  keras-fim compare mnist5k --quick
  keras-fim compare mnist --defenses spectral n-fgm --seeds 0
  keras-fim compare gtsrb
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("data", choices=list(BUDGETS), help="data set")
    parser.add_argument("--defenses", nargs="+", metavar="NAME", help="which (a choice for each data set)")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="of each defence (a choice for each)")
    parser.add_argument("--images", type=int, help=f"test images to attack, stratified ({_IMAGES})")
    parser.add_argument("--quick", action="store_true", help="a quarter of the strong attack's steps")
    parser.add_argument("--epochs", type=int, help="of each training")
    parser.add_argument("--limit", type=int, help="number of training images")
    parser.add_argument(
        "--out",
        type=Path,
        help="where results go (results/defences/DATA; a part of it or a lesser trial: RUNS/defences/DATA)",
    )
    parser.add_argument("--runs", type=Path, default=Path("results/runs"), help="folder of the runs (%(default)s)")
    parser.add_argument("--data-dir", help="where TensorFlow Datasets keeps its data ($TFDS_DATA_DIR or its default)")


def run(arguments: argparse.Namespace) -> None:
    """Compare, and print the table."""
    usual = DEFAULTS[arguments.data]
    names = dict.fromkeys(["none", *(arguments.defenses or usual)])
    defences = {name: tuple(dict.fromkeys(arguments.seeds or usual.get(name, (0,)))) for name in names}
    changes = {key: value for key in ("epochs", "limit") if (value := getattr(arguments, key)) is not None}
    chosen = arguments.defenses or arguments.seeds or arguments.images is not None or arguments.quick or changes
    results = arguments.runs if chosen else Path("results")
    folder = arguments.out or results / "defences" / arguments.data
    images = IMAGES[arguments.data] if arguments.images is None else arguments.images
    if images < 1:
        raise ValueError(f"`--images` should be a positive integer. Received: {images}")
    bench = Workbench(folder, runs=arguments.runs, data_dir=arguments.data_dir)
    found = compare(bench, arguments.data, defences, images=images, quick=arguments.quick, changes=changes)
    print(f"\n{found}\n\nwritten to {bench.folder}: comparison.md, .csv, .json and .png")
