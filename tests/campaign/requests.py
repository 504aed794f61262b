"""Fuzzed requests over REST and gRPC: each is answered, within twice the memory of the idle server."""

from __future__ import annotations

import base64
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import keras
import numpy as np
import requests
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from keras_fim import export, models

SERVER = Path(__file__).parents[1] / "serving" / "model_server.py"
SIGNATURES = ("serving_default", "logits", "fisher", "trust", "image_bytes", "", "no such")
REFUSALS = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNKNOWN)
PNG = tf.io.encode_png(np.random.default_rng(0).integers(0, 256, (28, 28, 1), np.uint8)).numpy()


def resident(process: int) -> float:
    """The largest memory that a process has had, in MB."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


def file(generator: random.Random) -> bytes:
    """An image file, whole or not."""
    announced = generator.choice([0, 28, 8192, 10_000, 2**31 - 1, 2**32 - 1]).to_bytes(4, "big")
    kinds = [PNG, PNG[: generator.randrange(len(PNG))], b"", generator.randbytes(300)]
    return generator.choice([*kinds, PNG[:16] + announced + announced + PNG[24:]])


def tensor(generator: random.Random) -> tensor_pb2.TensorProto:
    """Images, files or anything else; some announce far more than they hold."""
    kind = generator.randrange(5)
    if kind == 0:  # one value stands for all: a few bytes announce gigabytes
        proto = tensor_pb2.TensorProto(dtype=tf.float32.as_datatype_enum, float_val=[0.5])
        for side in (generator.choice([1, 4096, 4097, 20_000]), 28, 28, 1):
            proto.tensor_shape.dim.add(size=side)
        return proto
    if kind == 1:
        return tf.make_tensor_proto([file(generator) for _ in range(generator.choice([1, 3, 4097]))])
    shape = generator.choice([(), (0,), (2, 28, 28, 1), (2, 28, 28), (1, 27, 28, 1), (0, 28, 28, 1), (3,)])
    value = generator.choice([0.5, -7.0, float("nan"), float("inf"), 1e38])
    dtype = generator.choice(["float32", "float32", "float64", "int32", "uint8", "bool"])
    with np.errstate(all="ignore"):
        return tf.make_tensor_proto(np.full(shape, value).astype(dtype))


def by_grpc(stub: Any, generator: random.Random) -> bool:
    """Whether a request over gRPC is answered."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = generator.choice(["model", "model", "model", "other"])
    request.model_spec.signature_name = generator.choice(SIGNATURES)
    for name in generator.choice([["images"], ["images"], ["image_bytes"], [], ["images", "image_bytes"]]):
        request.inputs[name].CopyFrom(tensor(generator))
    try:
        stub.Predict(request, timeout=120)
    except grpc.RpcError as error:
        return error.code() in REFUSALS
    return True


def by_rest(url: str, generator: random.Random) -> bool:
    """Whether a request over REST is answered."""
    image = np.full((28, 28, 1), generator.random()).round(2).tolist()
    encoded = {"b64": base64.b64encode(file(generator)).decode()}
    rows = generator.choice([[image], [image] * 40, [encoded], [encoded] * 5, [], [1], ["x"], [[]], None, {}, [None]])
    body: Any = generator.choice(
        [{"instances": rows}, {"inputs": rows}, {"instances": rows, "inputs": rows}, [], "x", 7]
    )
    if isinstance(body, dict) and generator.random() < 0.7:
        body["signature_name"] = generator.choice(["serving_default", "logits", "image_bytes", "no such", 5, None])
    text = json.dumps(body)
    text = text[: generator.randrange(len(text))] if generator.random() < 0.2 else text
    path = generator.choice(
        ["/v1/models/model:predict"] * 4 + ["/v1/models/x:predict", "/v1/models/model/versions/9:predict"]
    )
    return requests.post(url + path, data=text, timeout=120).status_code in (200, 400, 404)


def fuzzed_requests(trials: int, seed: int, folder: Path) -> tuple[list[str], str]:
    """Ask a server of its own.

    Returns:
        What was dropped, an entry for each request, empty if it was answered; and the memory.
    """
    keras.utils.set_random_seed(0)
    export.saved_model(models.convnet(filters=(2, 4)), folder / "model", bounds=(0, 1))
    command = [sys.executable, str(SERVER), "model", str(folder / "model")]
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "MALLOC_ARENA_MAX": "2"}
    generator, dropped = random.Random(seed), list[str]()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=quiet) as process:
        ports = json.loads(process.stdout.readline())  # type: ignore[union-attr]
        idle, url = resident(process.pid), f"http://127.0.0.1:{ports['rest']}"
        with grpc.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            for index in range(trials):
                try:
                    answered = by_grpc(stub, generator) if index % 2 else by_rest(url, generator)
                    reason = "" if answered else "an unexpected status"
                except requests.RequestException as error:
                    reason = f"{error!r:.200}"
                dropped.append(f"request {index}: {reason}" if reason or process.poll() is not None else "")
        largest = resident(process.pid)
        process.kill()
    if largest > 2 * idle and dropped:
        dropped[-1] = dropped[-1] or f"memory: {largest:.0f} MB, {idle:.0f} MB idle"
    return dropped, f"memory: {idle:.0f} MB idle, {largest:.0f} MB at most"
