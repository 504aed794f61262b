from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

import keras_fim
from keras_fim import attacks
from keras_fim.detection import FEATURES, AdaptivePGD, FisherDetector, detection_curves, spectral_features
from keras_fim.logits import logits_function

pytest.importorskip("sklearn", reason="needs the extra [detection]")


def test_features_of_a_linear_model_are_those_of_the_closed_form():
    """Two classes with weights ±w: λ = 4 p_1 p_2 |w|², and there is no second eigenvalue."""
    w = np.array([1.0, -2.0, 0.5])
    points = np.random.default_rng(0).normal(size=(6, 3))
    features = spectral_features(lambda x: x @ tf.constant(np.stack([w, -w], axis=-1)), tf.constant(points)).numpy()
    p = 1 / (1 + np.exp(-2 * points @ w))
    expected = {
        "log_lambda_1": np.log(4 * p * (1 - p) * (w @ w)),
        "log_lambda_2": np.full(6, np.log(1e-30)),
        "log_trace": np.log(1 / p + 1 / (1 - p)),
        "log_unsure": np.log(np.minimum(p, 1 - p)),
        "log_radius": np.log(np.abs(points @ w) / np.linalg.norm(w)),
    }
    np.testing.assert_allclose(features, np.stack([expected[name] for name in FEATURES], axis=-1), rtol=1e-9)


def test_features_stay_finite_where_the_model_is_certain():
    logits = tf.constant([[80.0, 0.0, -5.0], [1e4, 0.0, 0.0]])
    features = spectral_features(lambda x: logits + 0 * x[:, :1], tf.ones((2, 4)))
    assert np.isfinite(features).all()


def test_a_detector_from_before_the_radius_goes_on_without_it(mlp, points):
    kept = {"threshold": 0.0, "false_positive_rate": 0.1}
    old = FisherDetector(weights=(0.5, 0.2, 0.1, -0.3), **kept)
    assert old == FisherDetector(weights=(0.5, 0.2, 0.1, -0.3, 0.0), **kept) and not old.radius
    weighed = FisherDetector(weights=(0.5, 0.2, 0.1, -0.3, -2.0), **kept)
    difference = weighed.scores(mlp, points) - old.scores(mlp, points)
    np.testing.assert_allclose(difference, -2 * np.log(keras_fim.boundary_radius(mlp, points).radius), rtol=1e-6)


def test_without_attacks_the_score_is_log_lambda_and_the_threshold_a_quantile(mlp, points):
    images = np.random.default_rng(2).normal(size=(200, 6))
    detector = FisherDetector.fit(mlp, images, false_positive_rate=0.1)
    eigenvalues = keras_fim.fisher_spectrum(mlp, points).eigenvalues[:, 0]
    np.testing.assert_allclose(detector.scores(mlp, points), np.log(eigenvalues), rtol=1e-6)
    assert detector.pairs == 1
    assert detector.detect(mlp, images).sum() in (19, 20)
    np.testing.assert_array_equal(detector.detect(mlp, points), detector.scores(mlp, points) > detector.threshold)
    np.testing.assert_allclose(detector.scores(mlp, images, batch_size=7), detector.scores(mlp, images), rtol=1e-9)


def test_regression_is_scikit_learns_on_the_features(mlp):
    """Weights on features as they are, against a pipeline that scales."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(3)
    benign, attacked = 2 * rng.normal(size=(80, 6)), 0.3 * rng.normal(size=(40, 6))
    detector = FisherDetector.fit(mlp, benign, attacked)
    both = np.concatenate([benign, attacked])
    features = spectral_features(logits_function(mlp), tf.constant(both)).numpy()
    features[:, -1] = np.maximum(features[:, -1], features[:80, -1].min())  # no radius is below the benign ones
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    pipeline.fit(features, np.repeat([0, 1], [80, 40]))
    np.testing.assert_allclose(detector.scores(mlp, both), pipeline.decision_function(features), rtol=1e-4, atol=1e-4)
    assert detector.pairs == 2
    assert (detector.scores(mlp, benign) > detector.threshold).mean() <= 0.05


def test_detector_makes_the_round_trip_through_json(mlp, points):
    detector = FisherDetector.fit(mlp, points, points + 1)
    again = FisherDetector(**json.loads(json.dumps(detector.as_dict())))
    assert again == detector and hash(again) == hash(detector)


def test_curves_are_those_of_the_definition():
    rng = np.random.default_rng(4)
    benign, attacked = rng.normal(size=60).round(1), rng.normal(1, size=40).round(1)
    curves = detection_curves(benign, attacked)
    above = (attacked[:, None] > benign).mean() + 0.5 * (attacked[:, None] == benign).mean()
    assert curves.auc == pytest.approx(above)
    threshold = np.sort(benign)[::-1][6]
    expected = (attacked > threshold).mean()
    allowed = np.asarray(curves.false_positive_rates) <= (benign > threshold).mean()
    assert np.asarray(curves.true_positive_rates)[allowed].max() >= expected
    assert curves.num_benign == 60 and curves.num_attacked == 40
    precisions, recalls = np.array(curves.precisions), np.array(curves.recalls)
    assert curves.average_precision == pytest.approx(-np.sum(np.diff(recalls) * precisions[:-1]))


@pytest.fixture(scope="module")
def attacked_digits(digit_model, digits):
    """Images that the model gets right, with labels, and its detector."""
    images, labels = digits[2], digits[3]
    right = digit_model.predict(images, verbose=0).argmax(axis=-1) == labels
    images, labels = images[right][:60], labels[right][:60]
    return images, labels, FisherDetector.fit(digit_model, images[::2], false_positive_rate=0.1)


@pytest.mark.slow
def test_attacks_that_stop_at_the_boundary_are_detected(digit_model, attacked_digits):
    images, labels, detector = attacked_digits
    result = attacks.DeepFool()(digit_model, images, labels)
    curves = detection_curves(detector.scores(digit_model, images), detector.scores(digit_model, result.adversarials))
    assert result.success.mean() > 0.9 and curves.auc > 0.85


def features_with(radius):
    """Of three samples, one of which has no radius."""
    rows = np.random.default_rng(0).normal(size=(3, 5)).astype("float32")
    rows[:, -1] = [np.log(1e-30), radius, radius + 1]
    return rows


def test_small_radii_count_as_the_smallest_of_a_benign_sample(mlp, points, monkeypatch):
    benign, attacked = (np.random.default_rng(seed).normal(size=(40, 6)) for seed in (2, 3))
    detector = FisherDetector.fit(mlp, benign, attacked)
    assert detector.least_log_radius == pytest.approx(np.log(keras_fim.boundary_radius(mlp, benign).radius.min()))
    monkeypatch.setattr(keras_fim.detection.detector, "_features", lambda *_: features_with(detector.least_log_radius))
    assert FisherDetector.fit(mlp, benign, attacked).least_log_radius == pytest.approx(detector.least_log_radius)
    features = np.zeros((2, 5))
    features[:, -1] = detector.least_log_radius - np.array([0.0, 7.0])
    low, lower = detector.combine(features).numpy()
    assert low == lower


@pytest.mark.slow
def test_an_attacker_who_knows_the_detector_evades_it(digit_model, attacked_digits):
    (images, labels), detector = (part[:24] for part in attacked_digits[:2]), attacked_digits[2]
    adaptive = AdaptivePGD(detector=detector, steps=10, step_size=0.3, weights=(1.0, np.inf))
    result = adaptive(digit_model, images, labels, epsilon=0.25)
    assert (result.distances <= 0.25 + 1e-6).all()
    assert result.adversarials.min() >= 0 and result.adversarials.max() <= 1
    scores = detector.scores(digit_model, result.adversarials)
    np.testing.assert_allclose(result.details["score"], scores, rtol=1e-3, atol=1e-3)
    nearest = attacks.DeepFool(norm=np.inf)(digit_model, images, labels)
    caught = detector.detect(digit_model, nearest.adversarials)[nearest.success].mean()
    evaded = result.success & (scores <= detector.threshold)
    assert caught > 0.5 and evaded.sum() > 0.8 * result.success.sum() > 5
    unchanged = adaptive(digit_model, images, labels, epsilon=0.0)
    np.testing.assert_array_equal(unchanged.adversarials, images)
    assert not unchanged.success.any()


@pytest.mark.slow
@pytest.mark.parametrize("radius", [False, True])
def test_selective_steps_lower_the_score_of_what_is_fooled(mlp, radius):
    """On a smooth model: of points that fool, the one with the lower score is returned."""
    points = np.random.default_rng(5).uniform(size=(12, 6))
    labels = mlp.predict(points, verbose=0).argmax(axis=-1)
    detector = FisherDetector.fit(mlp, points, points + 0.5 if radius else None)
    assert detector.radius == radius
    common = {"detector": detector, "norm": 2, "steps": 20, "step_size": 0.2}
    blind = AdaptivePGD(weights=(0.0,), **common)(mlp, points, labels, epsilon=1.0)
    both = AdaptivePGD(weights=(0.0, 1.0, np.inf), **common)(mlp, points, labels, epsilon=1.0)
    assert blind.success.any() and (both.success >= blind.success).all()
    fooled = blind.success
    assert (both.details["score"][fooled] <= blind.details["score"][fooled] + 1e-9).all()
    assert both.details["score"][fooled].mean() < blind.details["score"][fooled].mean()


BAD = {
    "rate of 1": (lambda m, x: FisherDetector.fit(m, x, false_positive_rate=1.0), r"`false_positive_rate` .*=1\.0"),
    "no images": (lambda m, x: FisherDetector.fit(m, x[:0]), "`images` should not be empty"),
    "NaN": (lambda m, x: FisherDetector.fit(m, x * np.nan), "`images` should be finite"),
    "batch size": (lambda m, x: FisherDetector.fit(m, x, batch_size=0), "`batch_size` should be"),
    "three weights": (
        lambda m, x: FisherDetector(weights=(1, 2, 3), threshold=0, false_positive_rate=0.1),
        "`weights` should be 5 numbers",
    ),
    "infinite threshold": (
        lambda m, x: FisherDetector(threshold=np.inf, false_positive_rate=0.1),
        "`weights`, `bias` and `threshold` should be finite",
    ),
    "no attacked": (lambda m, x: detection_curves([1.0], []), r"not empty. Received: \(\(1,\), \(0,\)\)"),
    "no weights": (
        lambda m, x: AdaptivePGD(detector=FisherDetector(threshold=0, false_positive_rate=0), weights=()),
        "`weights` should be one or more numbers >= 0",
    ),
}


@pytest.mark.parametrize("call, message", BAD.values(), ids=BAD.keys())
def test_bad_input(call, message, mlp, points):
    with pytest.raises(ValueError, match=message):
        call(mlp, points)


def test_repr_shows_the_options():
    detector = FisherDetector(threshold=1.5, false_positive_rate=0.1)
    assert "threshold=1.5" in repr(detector) and "refresh=5" in repr(AdaptivePGD(detector=detector))
    assert AdaptivePGD(detector=detector, norm=2).name == "adaptive_pgd_l2"


def test_an_image_without_a_finite_score_is_suspect():
    weights = tf.constant([[1.0, -1.0], [0.5, 2.0]])

    def broken(x):  # finite logits, whose gradient at 0 is infinity times 0
        return x @ weights + tf.reduce_sum(tf.sqrt(tf.maximum(x, 0.0)), axis=-1, keepdims=True) * [1.0, 0.0]

    detector = FisherDetector(weights=(1.0, 0.0, 0.0, 0.0), threshold=1e9, false_positive_rate=0.1)
    images = np.array([[0.4, 0.3], [0.0, -0.1]], "float32")
    model = logits_function(broken, from_logits=True)
    assert np.isnan(detector.scores(model, images)[1])
    np.testing.assert_array_equal(detector.detect(model, images), [False, True])


def test_points_that_do_not_fool_are_told_apart_by_margins_that_hardly_differ():
    """A step of a thousandth towards a far boundary is better than none."""
    weights = tf.constant([[3.0, 0.0], [4.0, 0.0]])
    model = logits_function(lambda x: x @ weights, from_logits=True)
    images = np.float32([[0.5, 0.5], [0.7, 0.4]])
    detector = FisherDetector(threshold=0.0, false_positive_rate=0.1)
    attack = AdaptivePGD(detector=detector, norm=2, steps=40, weights=(0.0,))
    result = attack(model, images, [0, 0], epsilon=1e-3)
    assert not result.success.any()
    np.testing.assert_allclose(result.adversarials, images - 1e-3 * np.float32([0.6, 0.8]), atol=3e-5)
