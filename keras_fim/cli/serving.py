"""The commands ``export``, ``verify`` and ``serve-client``."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from keras_fim import data
from keras_fim import export as exporting
from keras_fim.arguments import require
from keras_fim.cli.options import data_options, given
from keras_fim.detection import FisherDetector
from keras_fim.evaluation import samples
from keras_fim.evaluation.report import table
from keras_fim.export.client import predict_grpc, predict_rest
from keras_fim.records import expecting, read_json, read_text
from keras_fim.training import inputs, outcomes


def export(arguments: argparse.Namespace) -> None:
    """Export, verify, print the verdict."""
    export_and_verify(arguments.source, arguments.out, arguments)


def export_and_verify(source: str | Path, folder: Path, arguments: argparse.Namespace) -> None:
    """Export and verify with the options that the command at hand has.

    Raises:
        SystemExit: With code 1, if the exported model does not answer as the trained one does: then there is none.
    """
    options = given(arguments, "max_samples", "version", "direction", "calibrated")
    if getattr(arguments, "detector", None):
        options["detector"] = read_detector(arguments.detector)
    limits = {key: getattr(arguments, f"max_{key}", None) for key in exporting.Limits.__dataclass_fields__}
    options["limits"] = exporting.Limits(**{key: value for key, value in limits.items() if value is not None})
    reference = getattr(arguments, "reference_images", None)
    if getattr(arguments, "labels", None):
        options["labels"] = read_text(arguments.labels).splitlines()
    reports: list[exporting.Verification] = []

    def check(unfinished: Path) -> None:
        reports.append(exporting.verify(unfinished))
        if not reports[0].passed:
            print(reports[0])
            raise SystemExit(1)

    path = outcomes.export_model(source, folder, data_options(arguments, reference), check=check, **options)
    report = dataclasses.replace(reports[0], path=str(path))
    print(report if getattr(arguments, "verbose", False) else report.summary)


def read_detector(path: Path) -> FisherDetector:
    """The detector in a file that ``keras-fim detect`` wrote.

    Raises:
        ValueError: If it holds none.
    """
    with expecting(f"`--detector` {path}", "be a file that keras-fim detect wrote", (TypeError, ValueError)):
        return FisherDetector(**read_json(path))


def verify(arguments: argparse.Namespace) -> None:
    """Verify the version at a path, or the newest of a folder of versions, and print the verdict."""
    path: Path = arguments.path
    versions = [folder for folder in path.glob("*") if folder.name.isdecimal()]
    if versions and not (path / "saved_model.pb").is_file():
        path = max(versions, key=lambda folder: int(folder.name))
    report = exporting.verify(path, strict=arguments.strict)
    print(report if arguments.verbose or not report.passed else report.summary)
    if not report.passed:
        raise SystemExit(1)


def serve_client(arguments: argparse.Namespace) -> None:
    """Send images to a server and print a table."""
    shape = (arguments.image_size, arguments.image_size, arguments.channels) if arguments.image_size else None
    source = data.open_source(arguments.data, arguments.data_dir, image_shape=shape)
    test = data.evaluated(source, arguments.count, unseen=False)[0]
    images, labels = samples(inputs.in_range(test, tuple(arguments.bounds or (0.0, 1.0))), arguments.count)
    predictions, trust = _ask(arguments, images, "serving_default"), _trust(arguments, images)
    called = dict(enumerate(source.info.class_names))  # the model may have more classes
    columns, rows = {"p": predictions["probabilities"].max(axis=-1), **trust}, []
    for index, (label, predicted) in enumerate(zip(labels, predictions["classes"], strict=True)):
        answer = called.get(int(predicted), str(predicted))
        row = {"image": index, "label": f"{called[label]:.24}", "predicted": f"{answer:.24}"}
        rows.append({**row, **{key: float(column[index]) for key, column in columns.items()}})
    print(table(rows))
    right = int((predictions["classes"] == labels).sum())
    print(f"{right} of {len(labels)} as labeled; {arguments.protocol} from {arguments.host}")


def _trust(arguments: argparse.Namespace, images: np.ndarray) -> dict[str, Any]:
    """λ_max and boundary radii; nothing from a model without gradients, whose export has no such signature."""
    try:
        answer = _ask(arguments, images, "trust")
    except ValueError as error:
        require("signature" in str(error).lower(), str(error))
        print(f"Without λ and radius, since the model was exported without the signature trust: {error}")
        return {}
    return {"lambda": answer["lambda_max"], "radius": answer["boundary_radius"]}


def _ask(arguments: argparse.Namespace, images: np.ndarray, signature: str) -> dict[str, Any]:
    ask, port, scheme = (predict_grpc, 8500, "") if arguments.protocol == "grpc" else (predict_rest, 8501, "http://")
    address = f"{scheme}{arguments.host}:{arguments.port or port}"
    try:
        return ask(address, arguments.model, {"images": images}, signature=signature, version=arguments.version)
    except OSError as error:
        raise OSError(f"{address} cannot be reached: start a server there, or give --host and --port") from error
