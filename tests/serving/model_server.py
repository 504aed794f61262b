"""A small model server for tests, built on ``tf.saved_model.load`` and the protos of TensorFlow Serving.

    python model_server.py NAME FOLDER

Serves the newest versions in FOLDER over gRPC and REST on loopback and prints the two ports. It imports no Keras.
"""

from __future__ import annotations

import base64
import json
import re
import sys
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class NotFound(Exception):
    pass


class Invalid(Exception):
    pass


class Models:
    """Versions of one model."""

    def __init__(self, name, folder):
        self.name = name
        paths = {int(path.name): path for path in Path(folder).iterdir() if path.name.isdecimal()}
        self.loaded = {version: tf.saved_model.load(str(path)) for version, path in paths.items()}
        self.protos = {}
        for version, path in paths.items():
            proto = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
            self.protos[version] = proto.meta_graphs[0].signature_def

    def version(self, name, version):
        version = max(self.loaded) if version is None else version
        if name != self.name or version not in self.loaded:
            raise NotFound(f"Servable not found for request: {name} version {version}")
        return version

    def signature(self, version, name):
        try:
            return self.loaded[version].signatures[name or "serving_default"]
        except KeyError:
            raise Invalid(f"Serving signature name not found in signature def: {name}") from None

    def run(self, version, name, inputs):
        """Outputs by name; whatever is wrong with the inputs is `Invalid`."""
        function = self.signature(version, name)
        specs = function.structured_input_signature[1]
        if set(inputs) != set(specs):
            raise Invalid(f"inputs should be {sorted(specs)}, and are {sorted(inputs)}")
        for key, spec in specs.items():
            if tf.as_dtype(inputs[key].dtype) != spec.dtype:
                raise Invalid(f"{key} should be {spec.dtype.name}, and is {inputs[key].dtype}")
            if not spec.shape.is_compatible_with(inputs[key].shape):
                raise Invalid(f"{key} should have shape {spec.shape}, and has {inputs[key].shape}")
        try:
            return {key: value.numpy() for key, value in function(**inputs).items()}
        except (tf.errors.OpError, TypeError, ValueError) as error:
            raise Invalid(str(error)) from error


class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, models):
        self.models = models

    def Predict(self, request, context):
        with errors(context):
            version = self.models.version(request.model_spec.name, asked(request.model_spec))
            try:
                inputs = {name: tf.constant(tf.make_ndarray(proto)) for name, proto in request.inputs.items()}
            except (TypeError, ValueError) as error:
                raise Invalid(str(error)) from error
            outputs = self.models.run(version, request.model_spec.signature_name, inputs)
            wanted = list(request.output_filter) or list(outputs)
            if not set(wanted) <= set(outputs):
                raise Invalid(f"output tensor alias not found in signature: {wanted}")
            response = predict_pb2.PredictResponse()
            response.model_spec.CopyFrom(request.model_spec)
            response.model_spec.version.value = version
            for name in wanted:
                response.outputs[name].CopyFrom(tf.make_tensor_proto(outputs[name]))
            return response

    def GetModelMetadata(self, request, context):
        with errors(context):
            version = self.models.version(request.model_spec.name, asked(request.model_spec))
            if list(request.metadata_field) != ["signature_def"]:
                raise Invalid("metadata_field should be signature_def")
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in self.models.protos[version].items():
                signatures.signature_def[name].CopyFrom(signature)
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            response.model_spec.name, response.model_spec.version.value = self.models.name, version
            response.metadata["signature_def"].Pack(signatures)
            return response


class errors:
    """Turns errors into gRPC's."""

    def __init__(self, context):
        self.context = context

    def __enter__(self):
        pass

    def __exit__(self, kind, error, trace):
        if isinstance(error, NotFound):
            self.context.abort(grpc.StatusCode.NOT_FOUND, str(error)[:1000])
        if isinstance(error, Invalid):
            self.context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error)[:1000])


def asked(model_spec):
    return model_spec.version.value if model_spec.HasField("version") else None


class Rest(BaseHTTPRequestHandler):
    models: Models

    def do_GET(self):
        path = re.fullmatch(r"/v1/models/([^/:]+)", self.path)
        if not path or path[1] != self.models.name:
            return self.answer(404, {"error": "not found"})
        states = [{"version": str(version), "state": "AVAILABLE"} for version in self.models.loaded]
        return self.answer(200, {"model_version_status": states})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        path = re.fullmatch(r"/v1/models/([^/:]+)(?:/versions/(\d+))?:predict", self.path)
        try:
            if not path:
                raise NotFound(f"malformed request: POST {self.path}")
            version = self.models.version(path[1], int(path[2]) if path[2] else None)
            self.answer(200, self.predict(version, body))
        except NotFound as error:
            self.answer(404, {"error": str(error)[:1000]})
        except Invalid as error:
            self.answer(400, {"error": str(error)[:1000]})

    def predict(self, version, body):
        try:
            request = json.loads(body)
            name = request.get("signature_name", "serving_default")
            rows = request.get("instances")
        except (ValueError, AttributeError) as error:
            raise Invalid(f"JSON parse error: {error}") from error
        if (rows is None) == ("inputs" not in request):
            raise Invalid("one of `instances` and `inputs` is needed")
        specs = self.models.signature(version, name).structured_input_signature[1]
        inputs = columns(rows, specs) if rows is not None else request["inputs"]
        if not (isinstance(inputs, dict) and set(inputs) == set(specs)):
            if len(specs) != 1:
                raise Invalid(f"inputs should be {sorted(specs)}")
            inputs = {next(iter(specs)): inputs}
        outputs = self.models.run(version, name, {key: tensor(inputs[key], spec) for key, spec in specs.items()})
        lists = {key: value.tolist() for key, value in outputs.items()}
        only = next(iter(lists.values())) if len(lists) == 1 else None
        if rows is None:
            return {"outputs": lists if only is None else only}
        named = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
        return {"predictions": named if only is None else only}

    def answer(self, code, content):
        body = json.dumps(content, allow_nan=False).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def columns(rows, specs):
    """Named instances as one list for each input; unnamed ones are those of the only input."""
    if not isinstance(rows, list) or not rows:
        raise Invalid("`instances` should be a list that is not empty")
    if not all(isinstance(row, dict) and set(row) == set(specs) for row in rows):
        return rows
    return {key: [row[key] for row in rows] for key in specs}


def tensor(values, spec):
    try:
        if spec.dtype == tf.string:
            return tf.constant([base64.b64decode(value["b64"], validate=True) for value in values], tf.string)
        array = np.array(values)
        if array.size and array.dtype.kind not in "if":
            raise Invalid(f"{spec.name} should hold numbers")
        return tf.constant(array.astype(spec.dtype.as_numpy_dtype))
    except (TypeError, ValueError, KeyError) as error:
        raise Invalid(f"{spec.name}: {error}") from error


def main():
    models = Models(*sys.argv[1:3])
    server = grpc.server(futures.ThreadPoolExecutor(4), options=UNLIMITED)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(models), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    Rest.models = models
    rest = ThreadingHTTPServer(("127.0.0.1", 0), Rest)
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    assert not any(name.startswith("keras_fim") for name in sys.modules)
    print(json.dumps({"grpc": port, "rest": rest.server_address[1]}), flush=True)
    sys.stdin.read()  # until the test closes it


if __name__ == "__main__":
    main()
