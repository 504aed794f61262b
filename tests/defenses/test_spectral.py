from __future__ import annotations

import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_fim
from keras_fim import attacks
from keras_fim.callbacks import MuSchedule
from keras_fim.defenses import SpectralDefense, mu_from_budget
from keras_fim.defenses.base import EMPTY_BATCH
from tests import oracles

LABELS = np.array([0, 1, 2, 3, 0])
IMAGES = np.random.default_rng(0).uniform(size=(48, 8, 8, 1)).astype("float32")
DIGITS = np.arange(48) % 4


def dense(model, points):
    """The FIM in the input of each point, by float64 differences of the probabilities."""
    fims = (oracles.input_fim(lambda x: np.log(model(x[None]).numpy()[0]), x) for x in points.numpy())
    return np.stack(list(fims))


def nothing(y_true, y_pred):
    return 0.0 * tf.reduce_sum(y_pred, axis=-1)


def test_xla_is_refused():
    """Its assertions would vanish; Keras chooses it on a GPU unless it is refused."""
    defense = SpectralDefense(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax")]), 1.0)
    with pytest.warns(UserWarning, match="doesn't support `jit_compile=True`"):
        defense.compile("sgd", "sparse_categorical_crossentropy", jit_compile=True)
    assert defense.jit_compile is False


WIDE = (-5.0, 5.0)


def wide(model, mu=1.0, *, step=0.1, **options):
    """The defense on points within -5..5, with the options of unit length: it works in units of that range."""
    return SpectralDefense(model, mu / 100, step=step / 10, bounds=WIDE, **options)


def logged(defense, images=IMAGES, labels=DIGITS, **options):
    """What one training step reports that changes no weights."""
    defense.compile(keras.optimizers.SGD(0.0), loss="sparse_categorical_crossentropy", **options)
    return defense.train_on_batch(images, labels, return_dict=True)


def small():
    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Flatten(), keras.layers.Dense(12, use_bias=False)]
    normed = [keras.layers.BatchNormalization(momentum=0.9), keras.layers.ReLU()]
    head = [keras.layers.Dense(4, dtype="float32"), keras.layers.Softmax(dtype="float32")]
    return keras.Sequential([keras.Input((8, 8, 1)), *hidden, *normed, *head])


def fitted(model, epochs=2, images=IMAGES, **options):
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    model.compile(optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model.fit(images, DIGITS[: len(images)], 10, epochs=epochs, shuffle=False, verbose=0, **options)


def assert_same_weights(own, theirs, **tolerance):
    for mine, other in zip(own.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, **tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("difference", ["one_sided", "central"])
def test_penalty_is_the_largest_eigenvalue_of_the_dense_fim(mlp, points, difference):
    exact = np.linalg.eigvalsh(dense(mlp, points))[:, -1].mean()
    errors = []
    for step in (1e-2, 1e-4):
        defense = wide(mlp, 0.5, direction="krylov", krylov_steps=4, step=step, difference=difference)
        logs = logged(defense, points, LABELS)
        errors.append(abs(logs["eigenvalue"] / 100 / exact - 1))
        assert logs["penalty"] == pytest.approx(0.5 * logs["eigenvalue"] / 100)
        assert logs["loss"] - logs["penalty"] == pytest.approx(defense.evaluate(points, LABELS, verbose=0), rel=1e-5)
    assert errors[1] < 5e-4 and errors[1] < errors[0] < 0.1


@pytest.mark.slow
def test_gradient_direction_is_a_lower_bound(mlp, points):
    exact = np.linalg.eigvalsh(dense(mlp, points))[:, -1].mean()
    bounds = [
        logged(wide(mlp, step=1e-4, **options), points, LABELS)["eigenvalue"] / 100
        for options in ({}, {"direction": "krylov"}, {"direction": "krylov", "krylov_steps": 3})
    ]
    assert 0.5 * exact < bounds[0] < bounds[1] <= bounds[2] * (1 + 1e-6) <= exact * (1 + 1e-3)


def test_mu_of_a_budget_prices_the_divergence_at_its_worst_point(mlp, points):
    epsilon = 1e-3
    value, vectors = np.linalg.eigh(dense(mlp, points))
    worst = points + epsilon * vectors[:, :, -1]
    divergence = tf.reduce_sum(mlp(points) * tf.math.log(mlp(points) / mlp(worst)), axis=-1)
    np.testing.assert_allclose(divergence, mu_from_budget(epsilon) * value[:, -1], rtol=0.01)


def test_trace_is_unbiased(mlp, points):
    fims = dense(mlp, points)
    many = tf.repeat(points, 4000, axis=0)
    trace = logged(wide(mlp, penalty="trace", step=1e-4), many, np.repeat(LABELS, 4000))["trace"]
    assert trace / 100 == pytest.approx(np.trace(fims, axis1=1, axis2=2).mean(), rel=0.05)


def test_random_directions_differ_from_step_to_step_but_not_from_run_to_run(mlp, points):
    def run(seed):
        defense = wide(mlp, penalty="trace", seed=seed)
        defense.compile(keras.optimizers.SGD(0.0), loss="sparse_categorical_crossentropy")
        record = []
        for _ in range(2):
            defense.reset_metrics()
            record.append(defense.train_on_batch(points, LABELS, return_dict=True)["trace"])
        return record

    first, second = run(0)
    assert first != second and run(0) == [first, second] and run(1)[0] != first


@pytest.mark.slow
def test_gradient_in_the_weights_agrees_with_finite_differences(mlp, points):
    """Of the dense eigenvalue itself: by the envelope theorem, holding the direction constant changes nothing."""

    def eigenvalue(weights):
        mlp.set_weights(weights)
        return np.linalg.eigvalsh(dense(mlp, points))[:, -1].mean()

    start, rng = mlp.get_weights(), np.random.default_rng(2)
    defense = wide(mlp, 2.0, direction="krylov", krylov_steps=4, step=1e-4, difference="central")
    defense.compile(keras.optimizers.SGD(1.0), loss=nothing)
    defense.train_on_batch(points, LABELS)
    gradients = [(before - after) / 2 for before, after in zip(start, mlp.get_weights(), strict=True)]
    for _ in range(3):
        shift = [rng.normal(size=w.shape) for w in start]
        ahead, behind = ([w + s * 1e-3 * d for w, d in zip(start, shift, strict=True)] for s in (1, -1))
        expected = (eigenvalue(ahead) - eigenvalue(behind)) / 2e-3
        assert sum((g * d).sum() for g, d in zip(gradients, shift, strict=True)) == pytest.approx(expected, rel=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"difference": "central", "share": 0.5}, {"direction": "krylov"}, {"penalty": "trace"}], ids=str
)
def test_batch_statistics_are_those_of_a_plain_step(options):
    plain, model = small(), small()
    fitted(plain, 1, IMAGES[:10])
    history = fitted(SpectralDefense(model, 10.0, **options), 1, IMAGES[:10]).history
    assert history["penalty"][0] > 1e-3
    for own, theirs in zip(model.non_trainable_variables, plain.non_trainable_variables, strict=True):
        np.testing.assert_allclose(own.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-6, err_msg=own.path)
    changes = [np.abs(a - b).max() for a, b in zip(model.get_weights(), plain.get_weights(), strict=True)]
    assert max(changes) > 1e-3  # the penalty did act


@pytest.mark.slow
def test_without_weight_it_is_plain_training():
    plain, model = small(), small()
    fitted(plain)
    history = fitted(SpectralDefense(model, 0.0)).history
    assert_same_weights(model, plain, rtol=1e-4, atol=1e-5)
    assert history["eigenvalue"][0] > 0 and history["penalty"] == [0, 0]


def test_dropout_drops_the_same_in_both_passes():
    """Another mask would turn the difference of two subnetworks into a derivative of the order of 1 / h²."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input((6,)), keras.layers.Dropout(0.5, seed=3), keras.layers.Dense(4, activation="softmax")]
    model = keras.Sequential(layers)
    images = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")
    values = [logged(wide(model, step=h), images, DIGITS[:40])["eigenvalue"] / 100 for h in (1e-3, 1e-2)]
    assert values[0] == pytest.approx(values[1], rel=0.5) and values[0] < 10


def test_share_takes_the_first_samples(mlp, points):
    few = logged(wide(mlp, share=0.4), points, LABELS)
    alone = logged(wide(mlp), points[:2], LABELS[:2])
    assert few["eigenvalue"] == pytest.approx(alone["eigenvalue"], rel=1e-5)


@pytest.mark.slow
def test_warm_up_drives_mu():
    defense = SpectralDefense(small(), 1.0)
    history = fitted(defense, 1, callbacks=[MuSchedule(2.0, warmup_steps=5, target=defense)]).history
    assert history["mu"] == pytest.approx([1.6])
    assert 0 < history["penalty"][0] < 2 * history["eigenvalue"][0]


@pytest.mark.slow
def test_with_the_fisher_trace_loss_one_hot_labels_weights_and_a_data_set():
    model, loss, weights = small(), keras_fim.FisherTraceLoss(0.02), np.linspace(0.1, 2, 48, dtype="float32")
    defense = SpectralDefense(model, 0.1)
    defense.compile(keras.optimizers.SGD(0.0), loss=loss, metrics=["accuracy"])
    data = tf.data.Dataset.from_tensor_slices((IMAGES, np.eye(4)[DIGITS], weights)).batch(48)
    clean = loss(np.eye(4)[DIGITS], model(tf.constant(IMAGES), training=True), sample_weight=weights)
    history = defense.fit(data, validation_data=data, verbose=0).history
    assert set(history) == {"accuracy", "loss", "penalty", "eigenvalue", "val_accuracy", "val_loss"}
    assert history["loss"][0] - history["penalty"][0] == pytest.approx(float(clean), rel=1e-4)
    np.testing.assert_array_equal(defense.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0))


def test_sample_weights_weigh_the_penalty(mlp, points):
    weighted = wide(mlp)
    weighted.compile(keras.optimizers.SGD(0.0), loss="sparse_categorical_crossentropy")
    logs = weighted.train_on_batch(points, LABELS, sample_weight=np.array([0, 0, 5.0, 0, 0]), return_dict=True)
    alone = logged(wide(mlp), points[2:3], LABELS[2:3])
    assert logs["eigenvalue"] == pytest.approx(alone["eigenvalue"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    def stepped(mu):
        """The defense, λ, and what one step of gradient descent does to the weights."""
        defense = SpectralDefense(small(), mu, step=0.3)
        start = defense.model.get_weights()
        defense.compile(keras.optimizers.SGD(1.0), loss="sparse_categorical_crossentropy")
        logs = defense.train_on_batch(IMAGES, DIGITS, return_dict=True)
        shifts = [(b - a).ravel() for a, b in zip(start, defense.model.get_weights(), strict=True)]
        return defense, logs["eigenvalue"], np.concatenate(shifts)

    (_, exact, with_penalty), (_, _, without) = stepped(2.0), stepped(0.0)
    keras.mixed_precision.set_global_policy(policy)
    defense, eigenvalue, shift = stepped(2.0)
    assert eigenvalue == pytest.approx(exact, rel=0.05)
    assert np.linalg.norm(shift - with_penalty) < 0.2 * np.linalg.norm(with_penalty - without)
    assert isinstance(defense.optimizer, keras.optimizers.LossScaleOptimizer) == (policy == "mixed_float16")
    assert defense.logits(tf.constant(IMAGES[:3])).dtype == tf.float32


@pytest.mark.slow
def test_saved_and_loaded_it_goes_on(tmp_path):
    defense = SpectralDefense(small(), 0.3, krylov_steps=np.int64(2), step=0.2, difference="central", share=0.5, seed=4)
    fitted(defense, 1)
    defense.save(tmp_path / "defense.keras")
    loaded = keras.models.load_model(tmp_path / "defense.keras")
    assert {**loaded.get_config(), "model": 0} == {**defense.get_config(), "model": 0}
    assert float(loaded.mu.numpy()) == pytest.approx(0.3) and int(loaded.optimizer.iterations.numpy()) == 5
    assert_same_weights(loaded, defense)
    for wrapper in (defense, loaded):
        wrapper.fit(IMAGES, DIGITS, 10, shuffle=False, verbose=0)
    assert_same_weights(loaded, defense, rtol=1e-5, atol=1e-6)
    defense.model.save(tmp_path / "plain.keras")
    plain = keras.models.load_model(tmp_path / "plain.keras")
    assert type(plain) is type(small())
    np.testing.assert_array_equal(plain.predict(IMAGES, verbose=0), defense.predict(IMAGES, verbose=0))


@pytest.mark.slow
def test_it_stands_wherever_the_classifier_does(tmp_path):
    model = small()
    defense = SpectralDefense(model)
    fitted(defense, 1)
    own, theirs = (attacks.PGD(norm=2, steps=3)(m, IMAGES, DIGITS, epsilon=0.5) for m in (defense, model))
    np.testing.assert_allclose(own.adversarials, theirs.adversarials, atol=1e-5)
    spectra = [keras_fim.fisher_spectrum(m, IMAGES[:4]).eigenvalues for m in (defense, model)]
    np.testing.assert_allclose(*spectra, rtol=1e-4)
    path = keras_fim.export.saved_model(defense, tmp_path, bounds=(0, 1))
    served = keras_fim.logits.logits_function(path, IMAGES)
    np.testing.assert_allclose(served(tf.constant(IMAGES)), defense.logits(tf.constant(IMAGES)), rtol=1e-4, atol=1e-5)
    written = [name for name, _ in tf.train.list_variables(str(path / "variables" / "variables"))]
    assert written and not any("optimizer" in name or "metric" in name or "mu/" in name for name in written)


PROGRAM = """
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from keras_fim.defenses import SpectralDefense

LAYERS = {
    "convolution": lambda: [keras.layers.Conv2D(3, 3, activation="tanh")],
    "batch_norm": lambda: [keras.layers.Conv2D(3, 3), keras.layers.BatchNormalization(synchronized=True, momentum=0.9)],
    "dense": lambda: [],
}
OPTIONS = {"batch_size": 16, "shuffle": False, "verbose": 0}

def trained(kind, strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        head = [keras.layers.Flatten(), keras.layers.Dense(4, activation="softmax")]
        plain = keras.Sequential([keras.Input((6, 6, 1)), *LAYERS[kind](), *head])
        model = SpectralDefense(plain, 0.005, bounds=(-5, 5))
        loss = "sparse_categorical_crossentropy"
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss=loss, metrics=["accuracy"])
    start = model.get_weights()
    logs = model.fit(images, labels, epochs=2, validation_data=(images[:17], labels[:17]), **OPTIONS).history
    weights = model.get_weights()
    if kind == "dense":  # batches of 16 and 1: the second one leaves a device without images
        last = model.fit(images[:17], labels[:17], epochs=1, **OPTIONS).history
        assert all(np.isfinite(values).all() for values in last.values()), last
    return start, weights, logs

images = np.random.default_rng(0).normal(size=(64, 6, 6, 1)).astype("float32")
labels = np.arange(64) % 4
mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice())
difference = lambda a, b: max(np.abs(x - y).max() for x, y in zip(a, b, strict=True))
for kind in LAYERS:
    start, single, logs = trained(kind, tf.distribute.get_strategy())
    start_of_both, both, logs_of_both = trained(kind, mirrored)
    assert difference(start, start_of_both) == 0 and difference(start, single) > 1e-2, kind
    for key in logs:
        assert np.allclose(logs[key], logs_of_both[key], rtol=1e-3), (kind, key, logs, logs_of_both)
    assert difference(single, both) < 1e-5, (kind, difference(single, both))
"""


@pytest.mark.slow
def test_two_devices_train_to_the_weights_of_one():
    """Devices must be there before TensorFlow starts: hence a process of its own, one for all three models."""
    finished = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=900)
    assert finished.returncode == 0, finished.stderr[-2000:]


def test_a_batch_without_images_trains_or_names_the_remedy():
    """Where TensorFlow convolves with oneDNN, it cannot take the gradient over such a batch."""
    layers = [keras.Input((6, 6, 1)), keras.layers.Conv2D(2, 3), keras.layers.Flatten()]
    defense = SpectralDefense(keras.Sequential([*layers, keras.layers.Dense(4, activation="softmax")]))
    defense.compile("sgd", loss="sparse_categorical_crossentropy")
    empty = tf.data.Dataset.from_tensors((tf.zeros((0, 6, 6, 1)), tf.zeros((0,), tf.int32)))
    try:
        history = defense.fit(empty, verbose=0).history
    except ValueError as error:
        assert str(error) == EMPTY_BATCH
    else:
        assert np.isfinite(list(history.values())).all()


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        ("Missing 1-th output from {{node conv2d/convolution/Conv2DBackpropFilter}}", ValueError, EMPTY_BATCH),
        ("another failure", tf.errors.InternalError, "another failure"),
    ],
    ids=["empty batch", "another failure"],
)
def test_only_the_failure_on_an_empty_batch_is_explained(monkeypatch, failure, error, message):
    """On any processor: Keras itself is made to fail."""

    def fails(*arguments, **options):
        raise tf.errors.InternalError(None, None, failure)

    monkeypatch.setattr(keras.Model, "fit", fails)
    with pytest.raises(error, match=re.escape(message)):
        SpectralDefense(small()).fit(IMAGES, DIGITS)
