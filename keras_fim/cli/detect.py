"""Measure detectors of adversarial input on a model.

Fit detectors that look at the Fisher spectrum on half of some test images, and print how well they
detect attacks that they were not fitted on: the area under the ROC curve, and the share detected at the threshold. The
last rows are an attacker who knows the detector. Needs scikit-learn (the extra [detection]).

Examples:
  keras-fim detect mnist-plain mnist-fisher --out results/detection
  keras-fim detect model.keras --data photos/
  keras-fim export mnist-fisher --out saved_models/mnist --detector results/detection/mnist-fisher.lambda.json
"""

import argparse
import sys
from pathlib import Path

from keras_fim.cli.options import DATASETS, MODELS, add_bounds, add_data_dir, add_image_size, add_max_samples


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help=f"Model: {MODELS}.")
    parser.add_argument("--data", help=f"Dataset (default: the one that the model was trained on): {DATASETS}.")
    add_max_samples(parser, 400, "(half to fit, half to evaluate)")
    parser.add_argument(
        "--max-adaptive",
        type=int,
        default=100,
        metavar="N",
        help="Number of images for the adaptive attacker (default: %(default)s).",
    )
    parser.add_argument(
        "--false-positive-rate",
        type=float,
        default=0.05,
        help="Share of benign images that may be detected (default: %(default)s).",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("results/detection"), help="Folder for results (default: %(default)s)."
    )
    add_image_size(parser)
    add_bounds(parser, "what the record of the run or a leading rescaling says, or by its accuracy")
    add_data_dir(parser)


def run(arguments: argparse.Namespace) -> None:
    """Measure each model and print its table."""
    from keras_fim.training.detecting import evaluate_detection

    for name in arguments.models:
        report = evaluate_detection(
            name,
            arguments.out,
            data_name=arguments.data,
            max_samples=arguments.max_samples,
            max_adaptive=arguments.max_adaptive,
            false_positive_rate=arguments.false_positive_rate,
            data_dir=arguments.data_dir,
            image_size=arguments.image_size,
            bounds=arguments.bounds,
            on_progress=lambda line: print(line, file=sys.stderr, flush=True),
        )
        print(f"{report}\n", flush=True)
