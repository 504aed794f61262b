"""A model that nothing was measured on is never called robust."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_fim import attacks
from keras_fim.evaluation import evaluate, masking_report
from keras_fim.evaluation.flags import outputs_flags
from keras_fim.logits import logits_function

pytestmark = pytest.mark.slow  # each traces the strong attack on a model of its own

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(40, 6, 6, 1)).astype("float32")
LABELS = (IMAGES.mean(axis=(1, 2, 3)) > 0.5).astype(int)
BARE = {"bounds": (0, 1), "spectrum": False, "progress": None}


def linear(before=None, after=None):
    """Two classes by the mean of the pixels, with functions before and after."""

    def logits(images):
        images = before(images) if before else images
        margin = 20 * (tf.reduce_mean(images, axis=(1, 2, 3)) - 0.5)
        rows = tf.stack([-margin, margin], axis=-1)
        return after(rows) if after else rows

    return logits_function(logits, from_logits=True)


def measured(model, **options):
    return evaluate(model, (IMAGES, LABELS), **{**BARE, **options})


def masked(model):
    return masking_report(model, (IMAGES, LABELS), steps=2, queries=5, epsilons=[0.02], bounds=(0, 1))


def test_a_sound_model_has_no_flag():
    report = measured(linear(), attacks=["fgsm"])
    assert report.flags == () and report.rows[-1].fooling.value == 1
    assert "pixels 0..1, as given" in str(report)


def test_random_outputs_are_flagged():
    model = linear(before=lambda images: images + tf.random.normal(tf.shape(images), stddev=0.2))
    assert measured(model, attacks=["fgsm"]).flags[0].startswith("random outputs")
    report = masked(model)
    assert str(report).startswith("random outputs") and len(report.flags) == 1


def test_one_class_is_flagged():
    model = linear(after=lambda rows: rows + tf.constant([100.0, 0.0]))
    assert any(flag.startswith("one class") for flag in measured(model, attacks=["fgsm"]).flags)
    report = masked(model)
    assert str(report).startswith("one class") and len(report.flags) == 1


def test_constant_outputs_are_flagged():
    model = linear(after=lambda rows: 0 * rows + tf.constant([1.0, 0.0]))
    assert measured(model, attacks=["fgsm"]).flags[0].startswith("constant outputs: the logits are the same")
    assert masked(model).flags[0].startswith("constant outputs")


@tf.custom_gradient
def rounded(images):
    """To the nearest 255th, with the gradient of the identity."""
    return tf.round(images * 255) / 255, lambda upstream: upstream


@pytest.mark.parametrize("scale", [1, 255])
def test_a_rounded_input_is_flagged(scale):
    images = np.round(IMAGES * 255) / 255 * scale
    for before, expected in ((lambda x: rounded(x / scale), True), (lambda x: x / scale, False)):
        report = evaluate(
            linear(before), (images, LABELS), attacks=["fgsm"], bounds=(0, scale), spectrum=False, progress=None
        )
        assert any(flag.startswith("rounded input") for flag in report.flags) == expected
    if scale == 1:
        options = {"steps": 2, "queries": 5, "epsilons": [0.02], "bounds": (0, 1)}
        report = masking_report(linear(rounded), (images, LABELS), **options)
        assert report.flags[0].startswith("rounded input")


def test_zero_gradients_are_flagged():
    model = linear(before=lambda images: tf.sigmoid(1e5 * (images - 0.5)))
    assert any(flag.startswith("zero gradients") for flag in measured(model, attacks=["fgsm"]).flags)


@pytest.mark.slow
def test_a_search_without_gradients_that_fools_more_is_flagged():
    """The gradient has the wrong sign: every climb goes down."""
    flipped = logits_function(linear(), backward=linear(after=lambda rows: -rows))
    report = measured(flipped, attacks=[attacks.Strong(quick=True)], epsilons=[0.05])
    (flag,) = report.flags
    assert flag.startswith("black box: a search without gradients fools") and "under strong" not in flag
    assert report.rows[0].stages["square"] > 0.5
    assert measured(linear(), attacks=[attacks.Strong(quick=True)], epsilons=[0.05]).flags == ()


def test_a_search_that_fools_more_than_another_attack_is_flagged():
    options = {"attacks": [attacks.PGD(steps=10, step_size=0.25), attacks.Square(queries=50)], "epsilons": [0.05]}
    flipped = logits_function(linear(), backward=linear(after=lambda rows: -rows))
    (flag,) = measured(flipped, **options).flags
    assert flag.startswith("black box: at linf 0.05 square_linf fools") and "and pgd_linf" in flag
    assert measured(linear(), **options).flags == ()


@pytest.mark.slow
def test_gradients_that_end_on_the_way_are_flagged():
    """Before the boundary there is a plateau, too wide for a random start to cross."""

    def after(rows):
        return tf.where(tf.abs(rows) < 1, tf.sign(rows), rows)

    images, labels = (part[np.abs(IMAGES.mean(axis=(1, 2, 3)) - 0.5) > 0.055] for part in (IMAGES, LABELS))
    report = evaluate(
        linear(after=after),
        (images, labels),
        **{"attacks": [attacks.Strong(quick=True)], "epsilons": [0.02]},
        **{"bounds": (0, 1), "spectrum": False, "progress": None},
    )
    assert len(labels) > 5 and report.rows[0].robust.value == 1
    (flag,) = report.flags
    assert flag.startswith("zero gradients on the way: under strong_linf")


def test_logits_that_are_not_finite_are_flagged():
    model = linear(after=lambda rows: tf.where(rows[:, :1] > 0, np.nan, rows))
    assert measured(model, attacks=["fgsm"]).flags[0].startswith("not finite")


def test_gradients_that_are_not_finite_are_flagged():
    """A square root has an infinite slope at black pixels."""
    images = IMAGES.copy()
    images[:, 0] = 0
    labels = (tf.sqrt(images).numpy().mean(axis=(1, 2, 3)) > 0.5).astype(int)
    for before, expected in ((tf.sqrt, True), (lambda x: tf.sqrt(x + 1e-4), False)):
        options = {"attacks": ["fgsm", "fmn_l2"], "epsilons": {"linf": [1.0], "l2": [6.0]}}
        report = evaluate(linear(before), (images, labels), **options, **BARE)
        assert [flag.startswith("zero gradients: of 100 %") for flag in report.flags] == [True] * expected
        assert report.rows[0].fooling.value == 1 and report.rows[1].fooling.value > 0.5


def test_a_model_whose_answers_depend_on_the_batch_is_flagged():
    model = linear(before=lambda images: images - tf.reduce_mean(images, axis=0, keepdims=True) + 0.5)
    assert measured(model, attacks=["fgsm"]).flags[0].startswith("batch-dependent outputs")
    assert masked(model).flags[0].startswith("batch-dependent outputs")


def test_a_model_that_answers_adversarials_with_nan_is_flagged():
    """Off the grid of 8 bits nothing is a number, which fools nobody."""
    images = np.round(IMAGES * 255) / 255
    model = linear(lambda x: x + tf.where(tf.reduce_any(tf.abs(x * 255 - tf.round(x * 255)) > 0.1), np.nan, 0.0))
    report = evaluate(model, (images, LABELS), attacks=["fgsm"], epsilons=[0.3], **BARE)
    assert report.rows[0].fooling.value == 0
    assert any(flag.startswith("unconfirmed: of") and "% of the images fgsm reports" in flag for flag in report.flags)


def test_probabilities_that_saturate_are_told_from_a_rounded_input():
    model = logits_function(lambda x: tf.nn.softmax(1e4 * linear()(x)), from_logits=False)
    flags = measured(model, attacks=["fgsm"]).flags
    assert any(flag.startswith("zero gradients") and "rounded probabilities" in flag for flag in flags)


def test_rounding_has_no_gradient_and_a_black_box_measures_it():
    model = linear(before=lambda images: tf.round(images * 5) / 5)
    with pytest.raises(ValueError, match="no gradient.*black_box=True"):
        measured(model, attacks=["fgsm"])
    lines = []
    report = measured(model, black_box=True, epsilons={"linf": [0.0, 0.4]}, max_samples=20, progress=lines.append)
    assert any("square_linf: at most 9996 queries an image" in line for line in lines), lines
    assert [row.fooling.value for row in report.rows] == [0, 1]
    assert report.flags[-1].startswith("black box") and report.rows[0].attack == "square_linf"
    with pytest.raises(ValueError, match="Square alone"):
        measured(model, black_box=True, attacks=["fgsm"])


def test_tokens_are_refused_also_for_a_black_box():
    model = keras.Sequential([keras.Input((5,), dtype="int32"), keras.layers.Embedding(9, 4)])
    model.add(keras.layers.Flatten())
    model.add(keras.layers.Dense(2, activation="softmax"))
    tokens = RNG.integers(0, 9, (12, 5)), np.arange(12) % 2
    with pytest.raises(ValueError, match="no gradient.*Embedding"):
        evaluate(model, tokens, bounds=(0, 8), attacks=["fgsm"], spectrum=False, progress=None)
    with pytest.raises(ValueError, match="token ids"):
        evaluate(model, tokens, bounds=(0, 8), black_box=True, progress=None)


def scaled_model(scale):
    layers = [keras.Input((6, 6, 1))]
    layers += [keras.layers.Rescaling(scale)] if scale != 1 else []
    model = keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(2)])
    weights = np.stack([-np.ones(36), np.ones(36)], axis=-1).astype("float32")
    model.set_weights([20 / 36 * weights, np.array([10.0, -10.0], "float32")])
    return model


def test_the_same_model_behind_a_rescaling_has_the_same_figures():
    plain = evaluate(scaled_model(1), (IMAGES, LABELS), attacks=["fgsm", "fmn_l2"], progress=None)
    scaled = evaluate(scaled_model(1 / 255), (255 * IMAGES, LABELS), attacks=["fgsm", "fmn_l2"], progress=None)
    assert "found from the images: accuracy 100 %" in plain.pixels
    assert scaled.pixels == "pixels 0..255, found from Rescaling(1/255)"
    assert [row.fooling for row in plain.rows] == [row.fooling for row in scaled.rows]
    np.testing.assert_allclose([row.epsilon for row in scaled.rows], [255 * row.epsilon for row in plain.rows])
    np.testing.assert_allclose(scaled.distances[0].median, 255 * plain.distances[0].median, rtol=1e-4)


@pytest.mark.parametrize(
    ("attack", "epsilon", "flag"),
    [
        ("fgsm", 300.0, "budget: linf 300 is more than the whole range of the pixels, 255"),
        ("fgsm", 8 / 255, "linf 0.0313725 is below 0.5 gray levels of pixels whose range is 255; 0.0313725 of pixels"),
        (
            "fgm",
            0.5,
            "budget: l2 0.5 is below 2 gray levels of pixels whose range is 255; 0.5 of pixels from 0 to 1 is 127.5",
        ),
        ("fgsm", 8.0, ""),
        ("fgm", 30.0, ""),
    ],
)
def test_a_budget_on_another_scale_is_flagged(attack, epsilon, flag):
    model = linear(before=lambda images: images / 255)
    options = {"attacks": [attack], "epsilons": [epsilon], "bounds": (0, 255), "spectrum": False, "progress": None}
    flags = evaluate(model, (255 * IMAGES, LABELS), **options).flags
    assert [one for one in flags if one.startswith("budget")] == [one for one in flags if flag and flag in one]
    assert any(flag in one for one in flags) or not flag


def test_images_of_another_range_are_refused():
    with pytest.raises(ValueError, match="found from Rescaling"):
        evaluate(scaled_model(1 / 255), (IMAGES, LABELS), attacks=["fgsm"], progress=None)
    with pytest.raises(ValueError, match="accuracy does not confirm"):
        evaluate(scaled_model(1), (255 * IMAGES, LABELS), attacks=["fgsm"], progress=None)
    with pytest.raises(ValueError, match="within the bounds"):
        evaluate(scaled_model(1), (255 * IMAGES, LABELS), attacks=["fgsm"], bounds=(0, 1), progress=None)


def test_under_rand_the_report_has_both_verdicts():
    model = linear(before=lambda images: images + tf.random.normal(tf.shape(images), stddev=0.2))
    report = measured(model, attacks=[attacks.AutoAttack(version="rand")], epsilons=[0.03])
    (row,) = report.rows
    clean = row.fooling.total / row.robust.total  # by the mean of the draws, as what is fooled
    assert row.published.value < row.robust.value < clean
    assert f"a clean accuracy of {100 * clean:.1f} % by the mean of 20 draws" in report.quotes[0]
    (shown,) = report.tables()["Leaderboard"]
    assert (shown["clean"].count, shown["clean"].total) == (row.fooling.total, row.robust.total)
    assert report.flags[0].startswith("random outputs") and "published rule" in str(report)
    assert "AutoAttack (rand)" in report.quotes[0] and row.attack == "autoattack_rand_linf"


def test_steady_outputs_cost_two_passes():
    sizes = []

    def logits(images):
        sizes.append(len(images))
        return tf.reshape(images, (len(images), -1))[:, :3]

    logits_fn = logits_function(logits, from_logits=True)
    assert not outputs_flags(logits_fn, tf.random.stateless_uniform((10, 2, 3), (0, 0)), np.zeros(10, int))
    assert sizes == [10, 5, 5]
