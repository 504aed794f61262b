"""Train a plain and two defended classifiers on embedded digits and attack them."""

from __future__ import annotations

import argparse
from pathlib import Path

from keras_fim.experiments.demo import run_demo

__all__ = ["add_arguments", "run"]

DESCRIPTION = """Train a ConvNet on 5,000 real digits that a package ships: plain, with the paper's Fisher trace, and
with N-FGM, a defence that holds. Attack all three with one step (FGSM, OSSA) and with the strongest attack at hand, and
print how often each is fooled. Takes a few minutes; needs no download.

examples:
  keras-fim demo
  keras-fim demo --mu 0.01 --epochs 6 --out results/runs/demo-mild
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--mu", type=float, default=0.02, help="weight of the Fisher trace (%(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the training digits (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and shuffling (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/runs/demo"), help="where results go (%(default)s)")
    parser.add_argument(
        "--export", type=Path, default=Path("saved_models/mnist"), help="where the SavedModel goes (%(default)s)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Run it and print the table."""
    report = run_demo(arguments.out, arguments.export, mu=arguments.mu, epochs=arguments.epochs, seed=arguments.seed)
    print(report)
