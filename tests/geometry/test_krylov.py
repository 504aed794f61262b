from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_fim
from keras_fim import geometry, models
from keras_fim.logits import logits_function
from tests import oracles


def network(num_classes, size=12, scale=1.5, dtype="float64"):
    """A smooth classifier whose probabilities are neither flat nor one-hot."""
    layers = [
        keras.Input((size,), dtype=dtype),
        keras.layers.Dense(24, activation="tanh", dtype=dtype),
        keras.layers.Dense(num_classes, dtype=dtype),
        keras.layers.Softmax(dtype=dtype),
    ]
    model = keras.Sequential(layers)
    model.set_weights([weight * scale for weight in model.get_weights()])
    return model


def inputs(count, size=12, dtype="float64"):
    return tf.constant(np.random.default_rng(1).normal(size=(count, size)), dtype)


def dense_fims(model, x):
    def log_p(point):
        return np.log(model(point[None]).numpy()[0])

    return np.stack([oracles.input_fim(log_p, point) for point in x.numpy()])


def assert_same_pairs(actual, expected, rtol):
    np.testing.assert_allclose(actual.eigenvalues, expected.eigenvalues, rtol=rtol)
    cosines = tf.reduce_sum(actual.directions * expected.directions, axis=list(range(2, actual.directions.shape.rank)))
    np.testing.assert_allclose(np.abs(cosines), 1, atol=rtol)


@pytest.mark.slow
@pytest.mark.parametrize(("num_classes", "k"), [(2, 1), (7, 1), (7, 3), (30, 2), (10, 10)])
def test_spectrum_is_that_of_the_dense_fim(num_classes, k):
    model, x = network(num_classes), inputs(6)
    spectrum = geometry.krylov_spectrum(logits_function(model), x, k, rtol=1e-6, max_steps=30)
    values, vectors = np.linalg.eigh(dense_fims(model, x))
    values, vectors = values[:, ::-1][:, :k], vectors[:, :, ::-1][:, :, :k].transpose(0, 2, 1)
    assert spectrum.converged.numpy().all()
    # the oracle's finite differences are good to 1e-10
    np.testing.assert_allclose(spectrum.eigenvalues, np.maximum(values, 0), rtol=1e-6, atol=1e-9)
    cosines = np.abs(np.einsum("bkd,bkd->bk", spectrum.directions.numpy(), vectors))
    assert (cosines[values > 1e-6] >= 0.9999).all()
    norms = np.linalg.norm(spectrum.directions, axis=-1)
    np.testing.assert_allclose(norms, spectrum.eigenvalues.numpy() > 0, atol=1e-12)


@pytest.mark.slow
def test_krylov_is_exact_on_a_convnet(digit_model, digits):
    images = digits[2][:60]
    for k in (1, 2):
        exact = keras_fim.fisher_spectrum(digit_model, images, k, method="exact")
        krylov = keras_fim.fisher_spectrum(digit_model, images, k, method="krylov", rtol=1e-3, max_steps=12)
        assert krylov.converged.numpy().all() and not exact.num_steps.numpy().any()
        assert krylov.eigenvalues.dtype == tf.float32
        assert_same_pairs(krylov, exact, rtol=1e-4)


@pytest.mark.slow
def test_the_defaults_keep_their_promise(digit_model, digits):
    exact = keras_fim.fisher_spectrum(digit_model, digits[2], method="exact")
    krylov = keras_fim.fisher_spectrum(digit_model, digits[2])
    ratios = krylov.eigenvalues[:, 0] / exact.eigenvalues[:, 0]
    cosines = np.abs(tf.reduce_sum(krylov.directions * exact.directions, axis=(1, 2, 3, 4)))
    assert np.mean((cosines >= 0.99) & (np.abs(ratios - 1) <= 0.01)) >= 0.99
    assert (ratios.numpy() <= 1 + 1e-4).all()  # Ritz values are lower bounds
    assert krylov.num_steps.numpy().mean() < 3


def test_samples_take_as_many_steps_as_they_need_and_do_not_see_each_other():
    """A linear model is rank one far out between two classes, and of full rank where all are probable."""
    logits_fn = logits_function(network(30, scale=3.0))
    x = inputs(40)
    together = geometry.krylov_spectrum(logits_fn, x, rtol=1e-3, max_steps=20)
    steps = together.num_steps.numpy()
    assert len(set(steps)) >= 3
    few, many = steps.argmin(), steps.argmax()
    for index in (few, many, 0):
        alone = geometry.krylov_spectrum(logits_fn, x[index : index + 1], rtol=1e-3, max_steps=20)
        assert alone.num_steps.numpy()[0] == steps[index]
        assert_same_pairs(alone, keras_fim.typing.Spectrum(*(v[index : index + 1] for v in together)), rtol=1e-9)


def test_what_has_not_converged_says_so_and_is_a_lower_bound():
    logits_fn, x = logits_function(network(30)), inputs(40)
    exact = geometry.exact_spectrum(logits_fn, x)
    before = np.zeros((40, 1))
    for max_steps in (1, 2, 3):
        actual = geometry.krylov_spectrum(logits_fn, x, rtol=1e-8, max_steps=max_steps)
        assert not actual.converged.numpy().any() and (actual.num_steps.numpy() == max_steps).all()
        assert (actual.eigenvalues.numpy() >= before - 1e-12).all()
        assert (actual.eigenvalues.numpy() <= exact.eigenvalues.numpy() * (1 + 1e-12)).all()
        before = actual.eigenvalues.numpy()


def test_two_classes_take_one_step():
    spectrum = geometry.krylov_spectrum(logits_function(network(2, dtype="float32")), inputs(5, dtype="float32"), k=2)
    assert spectrum.converged.numpy().all() and (spectrum.num_steps.numpy() == 1).all()
    assert (spectrum.eigenvalues[:, 0].numpy() > 0).all()
    np.testing.assert_array_equal(spectrum.eigenvalues[:, 1], 0)
    np.testing.assert_array_equal(spectrum.directions[:, 1], 0)


def test_equal_eigenvalues_are_both_found():
    """Three equal classes with orthogonal weights: G_x has one eigenvalue twice."""
    spectrum = geometry.krylov_spectrum(lambda x: x, tf.zeros((1, 3), tf.float64), k=3)
    np.testing.assert_allclose(spectrum.eigenvalues, [[1 / 3, 1 / 3, 0]], atol=1e-12)
    first, second = spectrum.directions.numpy()[0, :2]
    assert abs(first @ second) < 1e-9


def test_nearly_saturated_and_saturated_samples():
    """p = 1 - 1e-11, then p = 1 - 1e-35, then what float32 cannot hold: of the two-class model ``z = ±a x``."""
    scales = tf.constant([[12.5], [40.0], [200.0]])
    logits = logits_function(lambda x: tf.concat([x, -x], axis=1), from_logits=True)
    spectrum = geometry.krylov_spectrum(logits, scales)
    odds = np.exp(-2 * scales.numpy().astype(np.float64))
    expected = np.where(odds > 1e-38, 4 * odds / (1 + odds) ** 2, 0)
    np.testing.assert_allclose(spectrum.eigenvalues, expected, rtol=1e-4)
    np.testing.assert_allclose(np.abs(spectrum.directions[:, 0]), expected > 0, rtol=1e-6)
    assert spectrum.converged.numpy().all()


def test_a_nearly_constant_model_is_not_taken_for_converged():
    """Logits that change by 1e-12: G_x is 1e-24 times that of the model itself, squares of it underflow in float32."""
    weights = tf.constant(np.random.default_rng(0).normal(size=(12, 12)), tf.float32)
    x = inputs(5, dtype="float32")
    exact = geometry.exact_spectrum(lambda x: x @ weights * 1e-12, x)
    krylov = geometry.krylov_spectrum(lambda x: x @ weights * 1e-12, x, max_steps=12, rtol=1e-3)
    assert (krylov.num_steps.numpy() > 1).all() and (exact.eigenvalues.numpy() > 0).all()
    assert_same_pairs(krylov, exact, rtol=1e-3)


def test_a_constant_model_has_a_zero_spectrum():
    spectrum = geometry.krylov_spectrum(lambda x: x @ tf.zeros((4, 3)), tf.ones((2, 4)), k=2)
    assert not spectrum.eigenvalues.numpy().any() and not spectrum.directions.numpy().any()
    assert spectrum.converged.numpy().all()


def test_it_is_traced_once_for_all_batch_sizes():
    model, traces = network(30), []

    def counted(x):
        traces.append(x.shape)
        return model(x)

    logits_fn = logits_function(counted, from_logits=False)
    for count in (5, 3, 8):
        keras_fim.fisher_spectrum(logits_fn, inputs(count).numpy(), method="krylov", batch_size=4)
    passes = len(traces)
    keras_fim.fisher_spectrum(logits_fn, inputs(7).numpy(), method="krylov", batch_size=7)
    assert len(traces) == passes


@pytest.mark.slow
def test_no_tensor_grows_with_the_classes_times_the_pixels():
    """Of the graph for 200 classes and 500 pixels, no tensor has a row of pixels for each class."""
    model = network(200, size=500)
    logits_fn = logits_function(model)
    traced = tf.function(lambda x: geometry.krylov_spectrum(logits_fn, x)).get_concrete_function(
        tf.TensorSpec([4, 500], tf.float64)
    )
    graphs = [traced.graph, *(function.graph for function in traced.graph._functions.values())]
    sizes = [
        output.shape.num_elements() or 0
        for graph in graphs
        for operation in graph.get_operations()
        for output in operation.outputs
    ]
    assert 4 * 500 <= max(sizes) < 4 * 200 * 500 / 4
    actual = geometry.krylov_spectrum(logits_fn, inputs(4, 500), rtol=1e-4, max_steps=20)
    assert_same_pairs(actual, geometry.exact_spectrum(logits_fn, inputs(4, 500)), rtol=1e-6)


def test_auto_is_exact_for_few_classes():
    for num_classes, k, exact in ((4, 1, True), (5, 1, False), (10, 2, False), (10, 3, True)):
        spectrum = keras_fim.fisher_spectrum(network(num_classes), inputs(2), k)
        assert spectrum.num_steps.numpy().any() != exact


def test_products_of_the_linearization():
    logits_fn, x = logits_function(network(7)), inputs(3)
    linear = geometry.linearize(logits_fn, x)
    v, w = inputs(6)[3:], tf.constant(np.random.default_rng(2).normal(size=(3, 7)))

    def logits(point):
        return logits_fn(tf.constant(point[None])).numpy()[0]

    jacobians = np.stack([oracles.jacobian(logits, point) for point in x.numpy()])
    np.testing.assert_allclose(linear.push(v), np.einsum("bkd,bd->bk", jacobians, v), atol=1e-8)
    np.testing.assert_allclose(linear.pull(w), np.einsum("bkd,bk->bd", jacobians, w), atol=1e-8)
    np.testing.assert_allclose(linear.logits, logits_fn(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "power"}, "`method` should be one of auto, exact, krylov. Received: method='power'"),
        ({"rtol": 0.0}, "`rtol` should be a positive number. Received: rtol=0.0"),
        ({"max_steps": 0}, "`max_steps` should be a positive integer. Received: max_steps=0"),
        ({"method": "krylov", "k": 8}, "`k` should be from 1 to the number of classes, 7. Received: k=8"),
    ],
    ids=str,
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        keras_fim.fisher_spectrum(network(7), inputs(2), **options)


@pytest.mark.slow
def test_images_with_channels_in_float32():
    model = models.convnet((8, 8, 1), 12, filters=(4, 4))
    images = np.random.default_rng(0).uniform(size=(9, 8, 8, 1)).astype("float32")
    exact = keras_fim.fisher_spectrum(model, images, 2, method="exact")
    krylov = keras_fim.fisher_spectrum(model, images, 2, rtol=1e-3, max_steps=12, batch_size=4)
    assert krylov.directions.shape == (9, 2, 8, 8, 1)
    np.testing.assert_allclose(krylov.eigenvalues, exact.eigenvalues, rtol=1e-4)


def test_an_image_that_is_not_finite_is_nan_and_leaves_the_others_alone():
    weights = tf.constant(np.random.default_rng(0).normal(size=(4, 3)))
    images = tf.constant([[0.1, 0.2, 0.3, 0.4], [np.nan, 0.2, 0.3, 0.4]], tf.float64)
    for spectrum in (geometry.exact_spectrum, geometry.krylov_spectrum):
        both = spectrum(lambda x: x @ weights, images)
        values = both.eigenvalues.numpy()
        alone = spectrum(lambda x: x @ weights, images[:1]).eigenvalues.numpy()
        np.testing.assert_allclose(values[0], alone[0], rtol=1e-12)
        assert np.isnan(values[1]).all() and np.isnan(both.directions[1]).all()
