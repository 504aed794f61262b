"""An export of keras_fim behind MLServer: every signature of the SavedModel, over the Open Inference Protocol.

A request names the signature as its parameter ``signature``; without it, it is ``serving_default``.
"""

from __future__ import annotations

import tensorflow as tf
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import get_model_uri


class SavedModelRuntime(MLModel):
    """Serves the SavedModel at the ``uri`` of its settings."""

    async def load(self) -> bool:
        """Load the SavedModel."""
        self._model = tf.saved_model.load(await get_model_uri(self._settings))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run the signature that the request names on its inputs."""
        asked = getattr(payload.parameters, "signature", None) or "serving_default"
        if asked not in self._model.signatures:
            raise InferenceError(f"signature should be one of {', '.join(self._model.signatures)}. Received: {asked}")
        signature = self._model.signatures[asked]
        expected = signature.structured_input_signature[1]
        if {tensor.name for tensor in payload.inputs} != set(expected):
            raise InferenceError(f"the inputs of {asked} should be {', '.join(expected)}")
        try:
            given = {
                tensor.name: tf.constant(NumpyCodec.decode_input(tensor), expected[tensor.name].dtype)
                for tensor in payload.inputs
            }
            answer = signature(**given)
        except (tf.errors.InvalidArgumentError, TypeError, ValueError) as error:
            raise InferenceError(str(error).partition("\n")[0]) from error
        outputs = [NumpyCodec.encode_output(name, value.numpy()) for name, value in answer.items()]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
