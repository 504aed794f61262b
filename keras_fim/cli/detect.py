"""Measure detectors of adversarial input on stored models."""

from __future__ import annotations

import argparse
from pathlib import Path

from keras_fim.experiments.detecting import evaluate_detection

__all__ = ["add_arguments", "run"]

DESCRIPTION = """Fit detectors that look at the Fisher spectrum on half of some test images, and print how well they
find attacks that they were not fitted on: area under the ROC curve, and the share found at the threshold. The last rows
are an attacker who knows the detector. Needs scikit-learn (the extra [detection]).

examples:
  keras-fim detect mnist-plain mnist-fisher --out results/detection
  keras-fim export mnist-fisher --out saved_models/mnist --detector results/detection/mnist-fisher.lambda.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help="names of stored weights, or run folders")
    parser.add_argument("--images", type=int, default=400, help="test images: half to fit, half to test (%(default)s)")
    parser.add_argument("--adaptive-images", type=int, default=100, help="for the adaptive attacker (%(default)s)")
    parser.add_argument(
        "--false-positive-rate", type=float, default=0.05, help="benign images that may be detected (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("results/detection"), help="where results go (%(default)s)")
    parser.add_argument("--data-dir", help="where TensorFlow Datasets keeps its data ($TFDS_DATA_DIR or its default)")


def run(arguments: argparse.Namespace) -> None:
    """Measure each model and print its table."""
    for name in arguments.models:
        report = evaluate_detection(
            name,
            arguments.out,
            num_images=arguments.images,
            num_adaptive=arguments.adaptive_images,
            false_positive_rate=arguments.false_positive_rate,
            data_dir=arguments.data_dir,
        )
        print(f"{report}\n", flush=True)
