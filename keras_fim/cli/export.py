"""Export a trained model for TensorFlow Serving and verify it.

Export a run, stored weights or a .keras file as the next version of a SavedModel, after it was run in
a fresh process without Keras and compared. Exit code 1 means that it does not answer as the trained model does; then
there is no new version.

Examples:
  keras-fim export mnist-fisher --out saved_models/mnist
  keras-fim export results/runs/gtsrb-plain-seed0 --out saved_models/gtsrb --detector detector.json
  keras-fim export my.keras --out served/ --bounds 0 255 --labels labels.txt --reference-images photos/val
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from keras_fim.cli.options import DATASETS, MODELS, add_bounds, add_data_dir, add_image_size, add_max_samples

if TYPE_CHECKING:
    from keras_fim.detection import FisherDetector
    from keras_fim.export import Verification

_LIMITS = {
    "images": "Largest number of images in a request (default: 4096).",
    "pixels": "Largest width times height of an image file (default: 2^26).",
    "decoded_bytes": "Largest number of bytes of a request's image files when decoded (default: 2^28).",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("source", help=f"Model: {MODELS}.")
    parser.add_argument("--out", type=Path, required=True, help="Folder of the model, in which versions are numbered.")
    parser.add_argument("--version", type=int, help="Number of the version (default: the next).")
    parser.add_argument("--detector", type=Path, help="JSON file of a detector, for the signature detect.")
    parser.add_argument("--direction", action="store_true", help="Let the signature fisher also return directions.")
    text = "Let the signature trust also return a calibrated radius."
    parser.add_argument("--calibrated", action="store_true", help=text)
    add_bounds(parser, "what the run's record or a leading rescaling says")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="Text file with the name of a class in each line.")
    text = f"Dataset of the reference inputs (default: the one on record): {DATASETS}."
    parser.add_argument("--reference-images", metavar="DATA", help=text)
    add_image_size(parser)
    parser.add_argument("--verbose", action="store_true", help="Print a line for every comparison of the verification.")
    for name, text in _LIMITS.items():
        parser.add_argument(f"--max-{name.replace('_', '-')}", type=int, metavar="N", help=text)
    add_max_samples(parser, 200, "for the reference inputs and the model card's robustness table; 0 for none")
    add_data_dir(parser)


def run(arguments: argparse.Namespace) -> None:
    """Export, verify, print the verdict."""
    export_and_verify(arguments.source, arguments.out, arguments)


def export_and_verify(source: str | Path, folder: Path, arguments: argparse.Namespace) -> None:
    """Export and verify with the options that the command at hand has.

    Raises:
        SystemExit: With code 1, if the exported model does not answer as the trained one does: then there is none.
    """
    from keras_fim.export import Limits, verify
    from keras_fim.records import read_text
    from keras_fim.training.exporting import export_model

    names = ("max_samples", "version", "direction", "calibrated", "data_dir", "bounds", "image_size")
    given = {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}
    if getattr(arguments, "detector", None):
        given["detector"] = _detector(arguments.detector)
    limits = {name: getattr(arguments, f"max_{name}", None) for name in _LIMITS}
    given["limits"] = Limits(**{name: value for name, value in limits.items() if value is not None})
    given["reference"] = getattr(arguments, "reference_images", None)
    if getattr(arguments, "labels", None):
        given["labels"] = read_text(arguments.labels).splitlines()

    def check(unfinished: Path) -> None:
        reports.append(verify(unfinished))
        if not reports[0].passed:
            print(reports[0])
            raise SystemExit(1)

    reports: list[Verification] = []
    path = export_model(source, folder, check=check, **given)
    report = dataclasses.replace(reports[0], path=str(path))
    print(report if getattr(arguments, "verbose", False) else report.summary)


def _detector(path: Path) -> FisherDetector:
    from keras_fim.detection import FisherDetector
    from keras_fim.records import read_json

    try:
        return FisherDetector(**read_json(path))
    except (TypeError, ValueError) as error:
        raise ValueError(f"`--detector` should be a file that keras-fim detect wrote: {path}: {error}") from error
