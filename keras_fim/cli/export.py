"""Export a trained model for TensorFlow Serving and verify it."""

from __future__ import annotations

import argparse
from pathlib import Path

from keras_fim.detection import FisherDetector
from keras_fim.experiments.exporting import export_model
from keras_fim.export import verify
from keras_fim.records import read_json

__all__ = ["add_arguments", "export_and_verify", "run"]

DESCRIPTION = """Export a run, stored weights or a .keras file as the next version of a SavedModel, then run that in a
fresh process without Keras and compare. Exit code 1 says that it does not answer as the trained model.

examples:
  keras-fim export mnist-fisher --out saved_models/mnist
  keras-fim export results/runs/gtsrb-plain-seed0 --out saved_models/gtsrb --detector detector.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("source", help="run folder, name of stored weights, or .keras file")
    parser.add_argument("--out", type=Path, required=True, help="the model's folder; versions are numbered in it")
    parser.add_argument("--version", type=int, help="number of the version (the next)")
    parser.add_argument("--detector", type=Path, help="JSON file of a detector, which the signature `detect` serves")
    parser.add_argument("--direction", action="store_true", help="let the signature `fisher` return directions, too")
    parser.add_argument(
        "--images", type=int, default=200, help="test images for the card's robustness table; 0: none (%(default)s)"
    )
    parser.add_argument("--data-dir", help="where TensorFlow Datasets keeps its data ($TFDS_DATA_DIR or its default)")


def run(arguments: argparse.Namespace) -> None:
    """Export, verify, print the table."""
    export_and_verify(arguments.source, arguments.out, arguments)


def export_and_verify(source: str | Path, folder: Path, arguments: argparse.Namespace) -> None:
    """Export and verify with the options that the command at hand has.

    Raises:
        SystemExit: with code 1, if the exported model does not answer as the trained one.
    """
    options = {"num_images": "images", "version": "version", "direction": "direction", "data_dir": "data_dir"}
    given = {key: getattr(arguments, name) for key, name in options.items() if hasattr(arguments, name)}
    if getattr(arguments, "detector", None):
        given["detector"] = FisherDetector(**read_json(arguments.detector))
    report = verify(export_model(source, folder, **given))
    print(report)
    if not report.passed:
        raise SystemExit(1)
