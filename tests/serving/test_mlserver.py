"""An export behind MLServer, started as its users start it and asked over REST and gRPC."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import requests

import keras_fim
from tests.export.conftest import exported  # noqa: F401 - a fixture
from tests.serving.conftest import ROOT

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(importlib.util.find_spec("mlserver") is None, reason="needs the extra [mlserver]"),
]


def free_ports(host, count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((host, 0))) for _ in range(count)]
        return [opened.getsockname()[1] for opened in sockets]


@pytest.fixture(scope="module")
def server(exported, tmp_path_factory, loopback):  # noqa: F811
    """The REST and the gRPC address of a server with the settings of the repository, but for ports and model."""
    folder = tmp_path_factory.mktemp("mlserver")
    shutil.copy(ROOT / "serving" / "mlserver" / "runtime.py", folder)
    http, grpc = free_ports(loopback, 2)
    settings = json.loads((ROOT / "serving" / "mlserver" / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps({**settings, "http_port": http, "grpc_port": grpc}))
    model = json.loads((ROOT / "serving" / "mlserver" / "model-settings.json").read_text())
    model["parameters"]["uri"] = str(exported.path)
    (folder / "model-settings.json").write_text(json.dumps(model))
    log = (folder / "log").open("w+")
    program = "import sys; from mlserver.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "start", str(folder)],
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    url, end = f"http://{loopback}:{http}/v2/models/mnist", time.monotonic() + 600
    try:
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"{url}/ready", timeout=60).ok:
                    break
            time.sleep(1)
        else:
            log.seek(0)
            pytest.fail(f"MLServer did not start:\n{log.read()[-3000:]}")
        yield url, f"{loopback}:{grpc}"
    finally:
        process.kill()
        process.wait()
        log.close()


def by_rest(url, images, signature):
    inputs = [{"name": "images", "shape": list(images.shape), "datatype": "FP32", "data": images.ravel().tolist()}]
    content = {"inputs": inputs, "parameters": {"signature": signature}}
    answer = requests.post(f"{url}/infer", json=content, timeout=300)
    assert answer.ok, answer.text
    return {output["name"]: np.array(output["data"]).reshape(output["shape"]) for output in answer.json()["outputs"]}


def by_grpc(address, images, signature):
    import grpc
    from mlserver.grpc import converters, dataplane_pb2_grpc
    from mlserver.types import InferenceRequest, RequestInput

    data = images.ravel().tolist()
    inputs = [RequestInput(name="images", shape=list(images.shape), datatype="FP32", data=data)]
    request = InferenceRequest(inputs=inputs, parameters={"signature": signature})
    with grpc.insecure_channel(address) as channel:
        stub = dataplane_pb2_grpc.GRPCInferenceServiceStub(channel)
        message = converters.ModelInferRequestConverter.from_types(request, model_name="mnist")
        answer = converters.ModelInferResponseConverter.to_types(stub.ModelInfer(message, timeout=300))
    return {output.name: np.array(output.data.root).reshape(output.shape) for output in answer.outputs}


@pytest.mark.parametrize("ask", [by_rest, by_grpc])
def test_every_signature_answers_as_keras_does(ask, server, exported):  # noqa: F811
    address = server[0] if ask is by_rest else server[1]
    images, model = exported.images[:5], exported.model
    predicted = ask(address, images, "serving_default")
    expected = np.asarray(model(images))
    np.testing.assert_allclose(predicted["probabilities"], expected, atol=1e-6)
    np.testing.assert_array_equal(predicted["classes"].ravel(), expected.argmax(axis=-1))
    spectrum = keras_fim.fisher_spectrum(model, images, max_steps=1)
    fisher = ask(address, images, "fisher")
    np.testing.assert_allclose(fisher["lambda_max"].ravel(), spectrum.eigenvalues[:, 0], rtol=1e-5)
    trust = ask(address, images, "trust")
    radius = keras_fim.boundary_radius(model, images).radius
    np.testing.assert_allclose(trust["boundary_radius"].ravel(), radius, rtol=1e-4)
    assert ask(address, images, "detect")["is_adversarial"].size == 5


def test_wrong_requests_end_in_an_error_and_the_server_lives_on(server, exported):  # noqa: F811
    url, images = server[0], exported.images[:1]
    inputs = [{"name": "images", "shape": [1, 2], "datatype": "FP32", "data": [0.0, 0.0]}]
    unknown = requests.post(f"{url}/infer", json={"inputs": inputs, "parameters": {"signature": "x"}}, timeout=60)
    assert unknown.status_code >= 400 and "signature should be one of" in unknown.text
    for wrong in (inputs, [{**inputs[0], "name": "pictures"}]):
        assert requests.post(f"{url}/infer", json={"inputs": wrong}, timeout=60).status_code >= 400
    assert by_rest(url, images, "serving_default")["classes"].size == 1
