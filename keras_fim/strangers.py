"""SavedModels of anybody: what their graphs reach, before they are loaded, and their signature as a callable."""

import re
import warnings
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from keras_fim.arguments import require
from keras_fim.records import expecting

_REACHING = set(Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").split())
"""Operations that reach beyond the graph, as TensorFlow names them."""
_SAVER = {"SaveV2", "RestoreV2", "MergeV2Checkpoints"}  # what it does in its own functions
_SAVER_FUNCTION = re.compile(r"__inference__?traced_(save|restore)_\d+$")


def reaching_operations(path: Path) -> list[str]:
    """The operations of a SavedModel that reach files, Python or a network, outside of the saver's own functions.

    Nothing of it is run. Names can be hidden from this in ways that were not thought of: it is a warning, no boundary.

    Args:
        path: The folder with ``saved_model.pb``.

    Returns:
        Their names, sorted; none of an ordinary model.

    Raises:
        ValueError: If the file is damaged.
    """
    with expecting(path / "saved_model.pb", "be a SavedModel of TensorFlow", DecodeError):
        model = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    reached: set[str] = set()
    for graph in (part.graph_def for part in model.meta_graphs):
        functions = {function.signature.name: function.node_def for function in graph.library.function}
        for name, nodes in {"": graph.node, **functions}.items():
            own = _SAVER if _SAVER_FUNCTION.match(name) else set()
            reached |= {node.op for node in nodes if node.op in _REACHING - own}
    return sorted(reached)


def check_operations(path: Path, *, strict: bool = False) -> None:
    """Warn of the `reaching_operations` of a SavedModel that is going to be loaded.

    Raises:
        ValueError: With ``strict``, in place of the warning.
    """
    if not (names := reaching_operations(path)):
        return
    message = f"The SavedModel {path} can reach beyond its graph: it contains {', '.join(names)}"
    require(not strict, f"{message}. Load it without --strict only if you trust who made it")
    warnings.warn(f"{message}. A SavedModel is a program: load it only if you trust who made it", stacklevel=3)


class SavedModel:
    """A SavedModel's signature as a callable: ``logits`` if it has one (as ours do), else ``serving_default``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        check_operations(path)
        with expecting(path, "be a SavedModel that TensorFlow can load"):
            self.loaded = tf.saved_model.load(str(path))
        signatures = self.loaded.signatures
        name = "logits" if "logits" in signatures else "serving_default"
        require(name in signatures, f"The SavedModel {path} has no signature `logits` or `serving_default`")
        self.signature = signatures[name]
        inputs = list(self.signature.structured_input_signature[1].items())
        received = ", ".join(f"{key} {spec.shape}" for key, spec in inputs)
        any_number = len(inputs) == 1 and inputs[0][1].shape[:1].is_compatible_with([0])
        require(any_number, f"The SavedModel {path} should have one input, any number of images. Received: {received}")
        ((self.argument, spec),) = inputs
        self.dtype, self.input_shape = spec.dtype, spec.shape.rank and tuple(spec.shape)
        outputs = self.signature.structured_outputs
        preferred = [key for key in ("logits", "probabilities") if key in outputs]
        if not preferred and len(outputs) != 1:
            raise ValueError(f"The SavedModel {path} should have one output or one named `logits` or `probabilities`")
        self.output = (preferred or list(outputs))[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return SavedModel, (self.path,)

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """What it returns for images ``(batch, ...)``."""
        return self.signature(**{self.argument: tf.cast(images, self.dtype)})[self.output]
