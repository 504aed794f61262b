from __future__ import annotations

import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_fim
from keras_fim import evaluation, export, models
from keras_fim.export import companions, saved
from tests import oracles
from tests.export.conftest import LABELS


@pytest.fixture
def model():
    return models.convnet(filters=(2, 3))


def test_signatures_have_the_promised_outputs(exported, signatures):
    shapes = {
        name: {key: (value.dtype.name, value.shape.as_list()) for key, value in function.structured_outputs.items()}
        for name, function in signatures.items()
    }
    predictions = {"probabilities": ("float32", [None, 10]), "classes": ("int64", [None])}
    inside = {"in_bounds": ("bool", [None])}
    image = [None, 28, 28, 1]
    fisher = {"lambda_max": ("float32", [None]), "kl_radius": ("float32", [None]), "direction": ("float32", image)}
    trust = {key: ("float32", [None]) for key in ("boundary_radius", "calibrated_radius", "confidence", "lambda_max")}
    detect = {"score": ("float32", [None]), "is_adversarial": ("bool", [None])}
    assert shapes == {
        "serving_default": predictions | inside,
        "logits": {"logits": ("float32", [None, 10])} | inside,
        "fisher": fisher | inside,
        "trust": trust | inside,
        "detect": detect | inside,
        "image_bytes": predictions | inside,
    }
    inputs = {name: function.structured_input_signature[1] for name, function in signatures.items()}
    assert inputs.pop("image_bytes") == {"image_bytes": tf.TensorSpec([None], tf.string, "image_bytes")}
    assert all(spec == {"images": tf.TensorSpec(image, tf.float32, "images")} for spec in inputs.values())


@pytest.mark.slow
def test_outputs_are_those_of_the_package(exported, signatures):
    images = exported.images[:7]
    served = signatures["serving_default"](images=images)
    np.testing.assert_allclose(served["probabilities"], exported.model(images), atol=1e-6)
    np.testing.assert_array_equal(served["classes"], np.argmax(exported.model(images), axis=-1))
    logits = signatures["logits"](images=images)["logits"]
    np.testing.assert_allclose(tf.nn.softmax(logits), served["probabilities"], atol=1e-6)
    spectrum = keras_fim.fisher_spectrum(exported.model, images, max_steps=1)
    fisher = signatures["fisher"](images=images)
    np.testing.assert_allclose(fisher["lambda_max"], spectrum.eigenvalues[:, 0], rtol=1e-4)
    cosines = np.sum(fisher["direction"] * spectrum.directions[:, 0], axis=(1, 2, 3))
    np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-3)
    trust = signatures["trust"](images=images)
    radius = keras_fim.boundary_radius(exported.model, images).radius
    np.testing.assert_allclose(trust["boundary_radius"], radius, rtol=1e-4)
    np.testing.assert_allclose(trust["calibrated_radius"], 0.8 * radius, rtol=1e-4)
    np.testing.assert_allclose(trust["confidence"], np.max(served["probabilities"], axis=-1), rtol=1e-5)
    np.testing.assert_allclose(trust["lambda_max"], fisher["lambda_max"], rtol=0.05)  # of another Krylov space
    exact = keras_fim.fisher_spectrum(exported.model, images, method="exact").eigenvalues[:, 0]
    assert (trust["lambda_max"] <= exact * (1 + 1e-4)).numpy().all()
    actual = signatures["detect"](images=images)
    np.testing.assert_allclose(actual["score"], exported.detector.scores(exported.model, images), rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(actual["is_adversarial"], actual["score"] > exported.detector.threshold)


@pytest.mark.slow
def test_variables_are_saved_once_and_restored_by_a_session(exported, signatures):
    """TensorFlow Serving restores by name of the checkpoint; what `tf.saved_model.load` finds it may not."""
    names = [name for name, _ in tf.train.list_variables(str(exported.path / "variables" / "variables"))]
    kept = [name for name in names if name.endswith("VARIABLE_VALUE")]
    assert len(kept) == len(exported.model.variables)
    files = np.array([tf.io.encode_png(np.uint8(255 * image)).numpy() for image in exported.images[:3]], object)
    given = {name: files if name == "image_bytes" else exported.images[:3] for name in signatures}
    expected = {}
    for name, signature in signatures.items():
        (argument,) = signature.structured_input_signature[1]
        outputs = signature(**{argument: tf.constant(given[name])})
        expected[name] = {key: value.numpy() for key, value in outputs.items()}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        loaded = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(exported.path)).signature_def
        for name, outputs in expected.items():
            fetches = {key: info.name for key, info in loaded[name].outputs.items()}
            (argument,) = loaded[name].inputs.values()
            actual = session.run(fetches, {argument.name: given[name]})
            for key, value in outputs.items():
                np.testing.assert_allclose(actual[key], value, rtol=1e-4, atol=1e-5)


def test_lambda_and_radius_are_those_of_the_definition(mlp, points, tmp_path):
    """A float64 model, against a dense Fisher matrix by finite differences; served as float32."""
    path = export.saved_model(mlp, tmp_path / "mlp", kl=0.1, bounds=(-5, 5))
    served = tf.saved_model.load(str(path)).signatures["fisher"](images=tf.cast(points, tf.float32))

    def log_p(x):
        return np.log(mlp(x[None]).numpy()[0])

    largest = [np.linalg.eigvalsh(oracles.input_fim(log_p, x))[-1] for x in points.numpy()]
    np.testing.assert_allclose(served["lambda_max"], largest, rtol=1e-4)
    assert served["lambda_max"].dtype == tf.float32
    radius = np.minimum(np.sqrt(2 * 0.1 / np.array(largest)), 10 * np.sqrt(6))
    np.testing.assert_allclose(served["kl_radius"], radius, rtol=1e-4)


def test_radius_stays_finite_where_nothing_changes_the_prediction(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, kernel_initializer="zeros")])
    path = export.saved_model(model, tmp_path / "constant", bounds=(-1.0, 2.0), direction=True)
    served = tf.saved_model.load(str(path)).signatures["fisher"](images=tf.zeros((2, 4)))
    np.testing.assert_array_equal(served["lambda_max"], [0, 0])
    np.testing.assert_array_equal(served["direction"], np.zeros((2, 4)))
    np.testing.assert_allclose(served["kl_radius"], [6, 6], rtol=1e-6)  # the diagonal of [-1, 2]^4
    assert "image_bytes" not in tf.saved_model.load(str(path)).signatures


def test_files_are_decoded_resized_and_scaled(exported, signatures):
    image = (255 * exported.images[0]).astype("uint8")
    larger = np.random.default_rng(1).integers(0, 256, (60, 45, 3), np.uint8)
    files = [tf.io.encode_png(image), tf.io.encode_jpeg(image, quality=100), tf.io.encode_png(larger)]
    served = signatures["image_bytes"](image_bytes=tf.stack(files))["probabilities"]
    decoded = [image, tf.io.decode_jpeg(files[1])]
    decoded.append(tf.image.resize(tf.io.decode_png(files[2], channels=1), (28, 28), antialias=True))
    expected = exported.model(tf.stack([tf.cast(image, tf.float32) / 255 for image in decoded]))
    np.testing.assert_allclose(served, expected, atol=1e-5)


def test_card_and_labels(exported):
    assert (exported.path / "assets" / "labels.txt").read_text().splitlines() == LABELS
    card = json.loads((exported.path / "model_card.json").read_text())
    assert card["version"] == 1 and card["report"]["mu"] == 0.02 and card["versions"]["tensorflow"] == tf.__version__
    assert card["signatures"]["fisher"]["outputs"]["lambda_max"] == {"dtype": "float32", "shape": [None]}
    assert card["signatures"]["image_bytes"]["inputs"] == {"image_bytes": {"dtype": "string", "shape": [None]}}
    assert keras_fim.detection.FisherDetector(**card["detector"]) == exported.detector


@pytest.mark.slow
def test_versions_count_up_and_are_never_overwritten(model, tmp_path):
    assert [export.saved_model(model, tmp_path / "m", bounds=(0, 1)).name for _ in "ab"] == ["1", "2"]
    assert export.saved_model(model, tmp_path / "m", bounds=(0, 1), version=7).name == "7"
    with pytest.raises(ValueError, match="`version` should be a new positive integer. Received: version=7"):
        export.saved_model(model, tmp_path / "m", bounds=(0, 1), version=7)
    with pytest.raises(ValueError, match="version=0"):
        export.saved_model(model, tmp_path / "m", bounds=(0, 1), version=0)


@pytest.mark.slow
def test_somebody_else_taking_the_version_is_no_loss(model, tmp_path, monkeypatch):
    """Between the choice of a number and the renaming, once."""
    write_card = companions.write_card

    def late(path, *arguments, version, **options):
        if version == 1:
            (tmp_path / "m" / "1" / "variables").mkdir(parents=True)
        write_card(path, *arguments, version=version, **options)

    monkeypatch.setattr(saved, "write_card", late)
    path = export.saved_model(model, tmp_path / "m", bounds=(0, 1))
    assert path.name == "2" and json.loads((path / "model_card.json").read_text())["version"] == 2
    assert [file.name for file in (tmp_path / "m" / "1").iterdir()] == ["variables"]


@pytest.mark.slow
def test_without_the_extra_there_are_no_warm_up_requests(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_serving", None)
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    with pytest.warns(UserWarning, match="no warm-up requests were written"):
        path = export.saved_model(model, tmp_path / "m", bounds=(0, 1))
    assert json.loads((path / "model_card.json").read_text())["warm_up_requests"] == 0
    assert [file.name for file in (path / "assets.extra").iterdir()] == ["keras_fim_reference.npz"]


def test_warm_up_requests_are_prediction_logs_that_every_signature_answers(exported, signatures):
    logs = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    file = exported.path / "assets.extra" / "tf_serving_warmup_requests"
    actual = set()
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        request = logs.PredictionLog.FromString(record).predict_log.request
        assert request.model_spec.name == "digits"
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
        outputs = signatures[request.model_spec.signature_name](**inputs)
        assert all(np.isfinite(value).all() for value in outputs.values())
        actual.add((request.model_spec.signature_name, *{len(value) for value in outputs.values()}))
    assert actual == {(name, count) for name in signatures for count in (1, 16)}


REFUSED = {
    "unknown shape": ({}, "known shape"),
    "too few labels": ({"labels": ["a", "b"]}, "`labels` should be 10 names"),
    "a label of two lines": ({"labels": ["a\nb", *"cdefghijk"]}, "`labels` should be 10 names"),
    "images of another shape": ({"images": np.zeros((2, 8, 8, 1))}, r"`images` should have shape \(batch, "),
    "report that is no JSON": ({"report": {"mu": np.float32(1)}}, "`report` should be ready for JSON"),
    "bounds": ({"bounds": (1.0, 0.0)}, "`bounds` should be"),
    "no divergence": ({"kl": 0.0}, "`kl` should be a positive number. Received: kl=0.0"),
    "a calibration in another norm": (
        {"calibration": evaluation.Calibration(0.8, 0.9, "linf", 200, 0)},
        "`calibration` should be one in l2. Received: .*linf",
    ),
    "no steps": ({"fisher_steps": 0}, "`fisher_steps` should be a positive integer. Received: fisher_steps=0"),
}


@pytest.mark.slow
@pytest.mark.parametrize("options, message", REFUSED.values(), ids=REFUSED.keys())
def test_bad_input_is_refused_and_leaves_nothing(options, message, model, tmp_path):
    if not options:
        layers = [keras.Input((None, None, 1)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
        model = keras.Sequential(layers)
    with pytest.raises(ValueError, match=message):
        export.saved_model(model, tmp_path / "m", **{"bounds": (0, 1), **options})
    assert not list(tmp_path.iterdir())
