from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_fim import attacks, metrics

SUCCESS = np.array([True, False, True, False, False])
CORRECT = np.array([True, True, True, True, False])
ADVERSARIALS = np.array([[3.0, 4, 0, 0], [9, 9, 9, 9], [0, 1, 0, 0], [9, 0, 0, 0], [5, 5, 5, 5]]) / 10
NORMS = {0: [2, 1], 1: [0.7, 0.1], 2: [0.5, 0.1], np.inf: [0.4, 0.1]}  # of the two successes
FOOLBOX = {0: [2, 1], 1: [0.7 / 4, 0.1 / 4], 2: [0.25 / 4, 0.01 / 4], np.inf: [0.4, 0.1]}


def every_metric():
    return [metrics.FoolingRatio(), metrics.RobustAccuracy()]


def updated(metric, split=(2,)):
    for success, was_correct in zip(np.split(SUCCESS, split), np.split(CORRECT, split), strict=True):
        metric.update_state(success, was_correct)
    return metric


def test_ratios_by_hand():
    assert float(updated(metrics.FoolingRatio()).result()) == metrics.fooling_ratio(SUCCESS, CORRECT) == 2 / 4
    robust = float(updated(metrics.RobustAccuracy()).result())
    assert robust == pytest.approx(metrics.robust_accuracy(SUCCESS, CORRECT)) == pytest.approx(2 / 5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("convention", "values"), [("norm", NORMS), ("foolbox", FOOLBOX)])
def test_distances_by_hand(norm, convention, values):
    """Two of four originally correct samples are fooled: the median is inf, the mean is that of the two."""
    distances = np.linalg.norm(ADVERSARIALS, ord=norm, axis=-1)
    distances = metrics.in_convention(distances, norm, 4, convention=convention)
    mean, share = metrics.mean_distance(distances, SUCCESS, CORRECT)
    assert mean == pytest.approx(np.mean(values[norm])) and share == 0.5
    assert metrics.median_distance(distances, SUCCESS, CORRECT) == np.inf
    three = metrics.median_distance(distances[:3], SUCCESS[:3], CORRECT[:3])
    assert three == pytest.approx(max(values[norm]))


def test_foolbox_distances_are_in_units_of_the_range():
    for norm, values in FOOLBOX.items():
        scaled = 1 if norm == 0 else 255
        actual = metrics.in_convention(np.array(NORMS[norm]) * scaled, norm, 4, convention="foolbox", bounds=(0, 255))
        np.testing.assert_allclose(actual, values)


def test_batches_count_as_one_and_reset_forgets():
    for metric in every_metric():
        whole, parts = (float(updated(metric, split).result()) for split in ((), (1, 3)))
        metric.reset_state()
        again = float(updated(metric).result())
        assert whole == pytest.approx(again) and (whole == parts or np.isclose(whole, parts))


def test_metrics_of_nothing_are_nan():
    assert all(np.isnan(float(metric.result())) for metric in every_metric())
    nobody = np.zeros(2, bool)
    assert np.isnan(metrics.fooling_ratio(nobody, nobody)) and metrics.robust_accuracy(nobody, nobody) == 0
    assert np.isnan(metrics.mean_distance(np.ones(2), nobody, ~nobody)[0])


@pytest.mark.parametrize("metric", every_metric(), ids=lambda m: m.name)
def test_config_round_trip(metric):
    copy = keras.metrics.deserialize(keras.metrics.serialize(metric))
    assert type(copy) is type(metric) and copy.get_config() == metric.get_config()
    assert float(updated(copy).result()) == float(updated(metric).result())


def test_ratios_run_in_a_graph():
    metric = metrics.FoolingRatio()
    tf.function(lambda s, c: metric.update_state(s, c))(tf.constant(SUCCESS), tf.constant(CORRECT))
    assert float(metric.result()) == 0.5


def test_an_attack_result_goes_straight_in(digit_model, digits):
    images, labels = digits[2][:60], digits[3][:60]
    result = attacks.FGM()(digit_model, images, labels, epsilon=1.5)
    ratio = metrics.FoolingRatio()
    ratio.update_state(result.success, result.was_correct)
    assert float(ratio.result()) == pytest.approx(result.fooling_ratio)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.in_convention([1], 3, 4, convention="norm"), "`norm` should be 0, 1, 2 or inf. .*norm=3"),
        (lambda: metrics.in_convention([1], 2, 4, convention="mse"), "`convention` should be norm or foolbox. .*'mse'"),
        (lambda: metrics.fooling_ratio([True], [False]), "Received: one that was wrong before"),
        (lambda: metrics.fooling_ratio([True], [True, True]), r"one shape \(batch,\)"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
