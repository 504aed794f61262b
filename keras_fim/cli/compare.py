"""Train several defenses alike, and compare what holds and what it costs.

Every defense is trained on the same dataset and attacked in the same way. The result is a table as JSON, CSV and
Markdown, a figure, and a page to read (report.html). The table marks the Pareto front of accuracy, fooling ratio and
cost. The same command continues an interrupted comparison.

Examples:
  keras-fim compare --data mnist5k --quick
  keras-fim compare --data mnist --defenses spectral n-fgm --seeds 0 1 2
  keras-fim compare --data gtsrb --epochs 3 --learning-rate 0.05 --init-from gtsrb-plain
  keras-fim compare --data photos/ --model my.keras --defenses none,n-fgm,pgd --epochs 3
"""

import argparse
from pathlib import Path

from keras_fim.cli.options import (
    DATASETS,
    SMOKE_TEST,
    add_bounds,
    add_data_dir,
    add_image_size,
    add_max_samples,
    add_training_options,
    training_options,
)
from keras_fim.training.defending import COMPARED, NAMES

_TRAINING = ("model", "epochs", "batch_size", "learning_rate", "warmup_epochs", "limit", "init_from", "augment")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--data", required=True, help=f"Dataset: {DATASETS}.")
    parser.add_argument(
        "--defenses",
        nargs="+",
        metavar="NAME",
        help=f"Defenses to compare with plain training (default: {' '.join(COMPARED)}); of {', '.join(NAMES)}.",
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0], metavar="N", help="Random seeds of each training (default: 0)."
    )
    add_max_samples(parser, 500, "to attack")
    parser.add_argument("--quick", action="store_true", help="Take a quarter of the strong attack's steps.")
    add_training_options(parser, _TRAINING)
    parser.add_argument("--out", type=Path, help="Folder for results and runs (default: results/runs/compare-DATA).")
    add_image_size(parser)
    add_bounds(parser, "what a leading rescaling of the model says, or by its accuracy")
    add_data_dir(parser)


def run(arguments: argparse.Namespace) -> None:
    """Compare, and print the table."""
    from keras_fim.data import short_name
    from keras_fim.evaluation.progress import say
    from keras_fim.training.comparison import compare

    folder = arguments.out or Path("results/runs") / f"compare-{short_name(arguments.data)}"
    comparison = compare(
        arguments.data,
        folder,
        [name for text in arguments.defenses or COMPARED for name in text.split(",") if name],
        seeds=arguments.seeds,
        max_samples=arguments.max_samples,
        quick=arguments.quick,
        changes=training_options(arguments, skip=("data", "bounds")),
        data_dir=arguments.data_dir,
        image_size=arguments.image_size,
        bounds=arguments.bounds,
        on_progress=say,
    )
    print(
        f"\n{comparison}\n\nwritten to {folder}: comparison.md, .csv, .json and .png\nreport: {folder / 'report.html'}"
    )
    if arguments.quick:
        print(SMOKE_TEST)
