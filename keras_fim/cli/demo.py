"""Train a plain and two defended classifiers on embedded digits and attack them.

Train a ConvNet on 5,000 real digits that a package ships: plain, with the paper's Fisher trace, and
with N-FGM, a defense that holds. Attack all three with one step (FGSM, OSSA) and with the strongest attack of the
package, and print how often each is fooled. This takes about five minutes on two cores and needs no download.

Examples:
  keras-fim demo
  keras-fim demo --mu 0.01 --epochs 6 --out results/runs/demo-mild
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--mu", type=float, default=0.02, help="Weight of the Fisher trace (default: %(default)s).")
    parser.add_argument("--epochs", type=int, default=20, help="Passes over the digits (default: %(default)s).")
    parser.add_argument(
        "--seed", type=int, default=0, help="Random seed of weights and shuffling (default: %(default)s)."
    )
    parser.add_argument(
        "--out", type=Path, default=Path("results/runs/demo"), help="Folder for results (default: %(default)s)."
    )
    parser.add_argument(
        "--export",
        type=Path,
        default=Path("saved_models/mnist"),
        help="Folder for the SavedModel (default: %(default)s).",
    )


def run(arguments: argparse.Namespace) -> None:
    """Run it and print the table."""
    from keras_fim.training.demo import run_demo

    report = run_demo(arguments.out, arguments.export, mu=arguments.mu, epochs=arguments.epochs, seed=arguments.seed)
    print(report)
