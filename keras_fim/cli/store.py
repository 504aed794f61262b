"""Keep a run's weights, small, under a name."""

from __future__ import annotations

import argparse
from pathlib import Path

from keras_fim.experiments.storing import store_run

__all__ = ["add_arguments", "run"]

DESCRIPTION = """Store the weights of finished runs as float16 under results/models/NAME, where
keras_fim.experiments.load_model(NAME) finds them, and measure the stored weights on the test images.

examples:
  keras-fim store results/runs/mnist-plain results/runs/mnist-fisher
  keras-fim store results/runs/mnist-mu0.02-seed0 --name mnist-fisher
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--name", help="name of the stored weights, for a single run (that of its folder)")
    parser.add_argument("--data-dir", help="where TensorFlow Datasets keeps its data ($TFDS_DATA_DIR or its default)")


def run(arguments: argparse.Namespace) -> None:
    """Store each run and print its accuracy."""
    if arguments.name and len(arguments.runs) > 1:
        raise ValueError(f"`--name` should go with one run. Received: {len(arguments.runs)} runs")
    for path in arguments.runs:
        name = arguments.name or path.name
        results = store_run(path, name, data_dir=arguments.data_dir)["results"]
        stored = results["stored"]
        print(
            f"{name}: test accuracy {100 * stored['test_accuracy']:.2f} % as float16 "
            f"({100 * results['test_accuracy']:.2f} % before), {stored['bytes'] / 1e6:.2f} MB"
        )
