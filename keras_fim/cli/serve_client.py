"""Send test images to a model server and print its predictions with λ.

Send test images to TensorFlow Serving, over REST or gRPC, and print for each the predicted class, its
probability, the largest eigenvalue of the Fisher information matrix and the first-order l2 distance to the nearest
other prediction.
gRPC needs tensorflow-serving-api (the extra [serving]).

Examples:
  keras-fim serve-client --model mnist --data mnist
  keras-fim serve-client --model mnist --data mnist5k --protocol grpc --count 4
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from keras_fim.cli.options import DATASETS, add_bounds, add_data_dir, add_image_size

if TYPE_CHECKING:
    import numpy as np

    from keras_fim.export.client import Arrays


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--model", required=True, help="Name of the model on the server.")
    parser.add_argument("--data", required=True, help=f"Dataset whose test images are sent: {DATASETS}.")
    parser.add_argument("--count", type=int, default=8, help="Number of images (default: %(default)s).")
    parser.add_argument(
        "--protocol", choices=("rest", "grpc"), default="rest", help="Protocol of the requests (default: %(default)s)."
    )
    parser.add_argument("--host", default="localhost", help="Host of the server (default: %(default)s).")
    parser.add_argument("--port", type=int, help="Port of the server (default: 8501 for REST, 8500 for gRPC).")
    parser.add_argument("--version", type=int, help="Version of the model (default: the newest).")
    add_image_size(parser)
    parser.add_argument(
        "--channels",
        type=int,
        choices=(1, 3),
        default=3,
        help="Channels of the images, with --image-size (default: %(default)s).",
    )
    add_bounds(parser, "0 to 1")
    add_data_dir(parser)


def run(arguments: argparse.Namespace) -> None:
    """Send the images and print a table."""
    from keras_fim import data
    from keras_fim.evaluation import samples
    from keras_fim.training.inputs import in_range

    shape = (arguments.image_size, arguments.image_size, arguments.channels) if arguments.image_size else None
    source = data.open_source(arguments.data, arguments.data_dir, image_shape=shape)
    test = data.evaluated(source, arguments.count, unseen=False)[0]
    images, labels = samples(in_range(test, tuple(arguments.bounds or (0.0, 1.0))), arguments.count)
    predictions = _ask(arguments, images, "serving_default")
    trust = _ask(arguments, images, "trust")
    called = dict(enumerate(source.info.class_names))  # the model may have more classes
    print(f"{'image':>5}  {'label':24} {'predicted':24} {'p':>6} {'lambda':>10} {'radius':>8}")
    confidences = predictions["probabilities"].max(axis=-1)
    for index, (label, predicted) in enumerate(zip(labels, predictions["classes"], strict=True)):
        answer = called.get(int(predicted), str(predicted))
        print(
            f"{index:5}  {called[label]:24.24} {answer:24.24} {confidences[index]:6.3f} "
            f"{trust['lambda_max'][index]:10.3g} {trust['boundary_radius'][index]:8.3f}"
        )
    right = int((predictions["classes"] == labels).sum())
    print(f"{right} of {len(labels)} as labeled; {arguments.protocol} from {arguments.host}")


def _ask(arguments: argparse.Namespace, images: np.ndarray, signature: str) -> Arrays:
    from keras_fim.export.client import predict_grpc, predict_rest

    options = {"signature": signature, "version": arguments.version}
    if arguments.protocol == "grpc":
        address = f"{arguments.host}:{arguments.port or 8500}"
        return predict_grpc(address, arguments.model, {"images": images}, **options)
    url = f"http://{arguments.host}:{arguments.port or 8501}"
    return predict_rest(url, arguments.model, {"images": images}, **options)
