"""Ask a model server: TensorFlow Serving's REST and gRPC interfaces, as two functions."""

import base64
from typing import Any, TypeAlias

import numpy as np
import requests
import tensorflow as tf

Arrays: TypeAlias = dict[str, np.ndarray]


def predict_rest(
    url: str,
    model: str,
    inputs: Arrays,
    *,
    signature: str = "serving_default",
    version: int | None = None,
    timeout: float = 60.0,
) -> Arrays:
    """Answers of a signature over REST, ``POST <url>/v1/models/<model>:predict``.

    Args:
        url: of the server, like ``http://localhost:8501``.
        model: its name there.
        inputs: arrays ``(batch, ...)`` by name; bytes travel in base64.
        signature: its name.
        version: of the model; ``None`` for the newest.
        timeout: seconds.

    Returns:
        Arrays ``(batch, ...)`` by name.

    Raises:
        ValueError: if the server refuses the request.
        OSError: if it cannot be reached.
    """
    lists = {name: _encoded(np.asarray(values)) for name, values in inputs.items()}
    body: dict[str, Any] = {"signature_name": signature, "inputs": lists}
    address = f"{url}/v1/models/{model}{'' if version is None else f'/versions/{version}'}:predict"
    response = requests.post(address, json=body, timeout=timeout)
    answer = response.json() if "json" in response.headers.get("content-type", "") else {}
    if not response.ok or "error" in answer:
        raise ValueError(f"{address} refuses the request: {answer.get('error', response.text)[:500]}")
    # a single output comes without its name
    outputs = answer["outputs"] if isinstance(answer["outputs"], dict) else {"output": answer["outputs"]}
    return {name: np.array(values) for name, values in outputs.items()}


def predict_grpc(
    address: str,
    model: str,
    inputs: Arrays,
    *,
    signature: str = "serving_default",
    version: int | None = None,
    outputs: tuple[str, ...] = (),
    timeout: float = 60.0,
) -> Arrays:
    """Answers of a signature over gRPC. Needs ``tensorflow-serving-api`` (the extra ``[serving]``).

    Args:
        address: of the server, like ``localhost:8500``.
        model: its name there.
        inputs: arrays ``(batch, ...)`` by name.
        signature: its name.
        version: of the model; ``None`` for the newest.
        outputs: names of those wanted; none for all.
        timeout: seconds.

    Returns:
        Arrays ``(batch, ...)`` by name.

    Raises:
        ValueError: if the server refuses the request.
        OSError: if it cannot be reached.
        ImportError: if the extra is not installed.
    """
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name, request.model_spec.signature_name = model, signature
    if version is not None:
        request.model_spec.version.value = version
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
    unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(address, options=unlimited) as channel:
        try:
            response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=timeout)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise OSError(f"{address} cannot be reached: {error.details()[:500]}") from error
            raise ValueError(f"{address} refuses the request: {error.details()[:500]}") from error
    return {name: tf.make_ndarray(value) for name, value in response.outputs.items()}


def _encoded(values: np.ndarray) -> list[Any]:
    if values.dtype.kind in "SO":
        return [{"b64": base64.b64encode(value).decode("ascii")} for value in values.tolist()]
    return list(values.tolist())
