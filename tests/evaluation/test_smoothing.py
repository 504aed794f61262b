from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import binomtest, norm

import keras_fim
from keras_fim import attacks, evaluation
from keras_fim.evaluation.smoothing import smoothed, smoothed_classes
from keras_fim.logits import logits_function

SIGMA = 0.5


def half_spaces(images):
    """Two classes that part where 3 a + 4 b = 1, at the distance |3 a + 4 b - 1| / 5."""
    margin = images @ tf.constant([[3.0], [4.0]], images.dtype) - 1
    return tf.concat([margin, -margin], axis=-1)


MODEL = logits_function(half_spaces, from_logits=True)
DISTANCES = np.array([-1.0, -0.5, -0.25, 0.1, 0.4, 0.8])
IMAGES = np.float32([0.12, 0.16] + DISTANCES[:, None] * [0.6, 0.8])  # from the plane along its normal


def test_of_a_linear_model_the_radius_is_the_distance_as_the_draws_grow():
    """The class has the probability Φ(d / σ), so that σ Φ⁻¹ of it is d."""
    gaps = []
    for draws in (1_000, 30_000):
        result = keras_fim.certify(MODEL, IMAGES, SIGMA, num_draws=draws)
        np.testing.assert_array_equal(result.classes, DISTANCES < 0)
        assert (result.radius <= np.abs(DISTANCES)).all()  # each with probability 0.999
        assert (result.probability <= norm.cdf(np.abs(DISTANCES) / SIGMA)).all()
        gaps.append(np.abs(DISTANCES) - result.radius)
    assert (gaps[1] < gaps[0]).all() and gaps[1].max() < 0.05


def test_the_bound_is_that_of_clopper_and_pearson():
    result = keras_fim.certify(MODEL, IMAGES, SIGMA, num_draws=500, alpha=0.05)
    votes = np.array([[binomtest(k, 500, alternative="greater").proportion_ci(0.95).low for k in range(501)]])
    hits = np.abs(votes - result.probability[:, None]).argmin(axis=-1)
    np.testing.assert_allclose(votes[0][hits], result.probability, rtol=1e-9)
    np.testing.assert_allclose(result.radius, SIGMA * norm.ppf(result.probability), rtol=1e-9)
    assert (np.abs(hits / 500 - norm.cdf(np.abs(DISTANCES) / SIGMA)) < 0.1).all()


def test_it_abstains_next_to_the_boundary():
    result = keras_fim.certify(MODEL, np.float32([[0.12, 0.1601]]), SIGMA, num_draws=1_000)
    assert result.classes == [-1] and result.radius == [0] and result.probability < 0.5


def test_draws_depend_on_the_seed_and_the_index_and_on_nothing_else():
    options = {"sigma": SIGMA, "num_selection": 7, "num_draws": 50}
    whole = keras_fim.certify(MODEL, IMAGES, **options).probability
    for size in (1, 4, 100, 400):  # fewer than the images, and several draws of an image at a time
        np.testing.assert_array_equal(keras_fim.certify(MODEL, IMAGES, **options, batch_size=size).probability, whole)
    part = keras_fim.certify(MODEL, IMAGES[2:4], **options, indices=[2, 3])
    np.testing.assert_array_equal(part.probability, whole[2:4])
    assert (keras_fim.certify(MODEL, IMAGES, **options, seed=1).probability != whole).any()


def test_the_selection_is_not_used_for_the_bound():
    seen = []

    def watched(images):
        tf.py_function(lambda x: seen.append(x.numpy().copy()), [images], [])
        return half_spaces(images)

    keras_fim.certify(logits_function(watched, from_logits=True), IMAGES[:1], SIGMA, num_selection=20, num_draws=30)
    points = np.concatenate(seen[1:])[:, 0]  # the first call asks for the number of classes
    assert len(np.unique(points)) >= 50


def test_noise_leaves_the_range_and_images_do_not():
    noisy = []

    def watched(images):
        tf.py_function(lambda x: noisy.append(float(tf.reduce_max(tf.abs(x)))), [images], [])
        return half_spaces(images)

    model = logits_function(watched, from_logits=True)
    keras_fim.certify(model, IMAGES[:2] * 0 + 0.5, 3.0, num_draws=20, bounds=(0, 1))
    assert max(noisy) > 1.5
    with pytest.raises(ValueError, match="within the bounds"):
        keras_fim.certify(model, IMAGES[:2] * 0 + 1.5, 3.0, bounds=(0, 1))


def test_answers_that_are_not_finite_count_for_no_class():
    broken = logits_function(lambda x: tf.where(x[:, :1] > 0.2, np.nan, half_spaces(x)), from_logits=True)
    result = keras_fim.certify(broken, np.float32([[0.2, -9.0]]), SIGMA, num_draws=1_000)
    assert result.classes == [-1] and 0.4 < result.probability[0] < 0.5  # half of the draws, all of them class 1


@pytest.mark.slow
def test_no_step_within_the_radius_changes_what_the_smoothed_digits_are(digit_model, digits):
    """The step goes where the model itself changes fastest; the smoothed classifier says the same or abstains."""
    images, labels = digits[2][:20], digits[3][:20]
    options = {"sigma": 0.2, "num_draws": 1_000, "alpha": 0.01, "bounds": (0, 1)}
    result = keras_fim.certify(digit_model, images, **options)
    assert result.accuracy(labels) > 0.4 and result.accuracy(labels, 0.3) < result.accuracy(labels)
    attack = attacks.FGM(bounds=(-9, 9))
    sure = np.flatnonzero(result.radius > 0)
    for share, certain in ((1.0, True), (12.0, False)):
        moved = [
            attack(digit_model, images[[i]], result.classes[[i]], epsilon=share * result.radius[i]).adversarials
            for i in sure
        ]
        again = keras_fim.certify(digit_model, np.concatenate(moved), **{**options, "bounds": (-9, 9)}).classes
        changed = (again != result.classes[sure]) & (again >= 0)
        assert changed.any() != certain


def test_the_smoothed_function_is_the_mean_of_the_probabilities_over_draws():
    """Of two half-spaces the mean tends to an integral that the noise along their normal alone decides."""
    function, rng = smoothed(MODEL, SIGMA, num_draws=20_000), np.random.default_rng(0)
    p = tf.nn.softmax(function(tf.constant(IMAGES))).numpy()
    margins = 5 * (DISTANCES + SIGMA * rng.normal(size=(1_000_000, 1)))
    np.testing.assert_allclose(p[:, 0], (1 / (1 + np.exp(-2 * margins))).mean(axis=0), atol=0.01)
    np.testing.assert_allclose(function(tf.constant(IMAGES[2:4])), function(tf.constant(IMAGES))[2:4], rtol=1e-4)
    np.testing.assert_array_equal(smoothed_classes(MODEL, IMAGES, SIGMA), DISTANCES < 0)


@pytest.mark.slow
def test_no_attack_leaves_less_than_what_is_certified(digit_model, digits):
    """PGD on the smoothed classifier, at the radii of the certificates: it fools many, and none that is certified."""
    images, labels = digits[2][:20], digits[3][:20]
    result = keras_fim.certify(digit_model, images, 0.25, num_draws=1_000, bounds=(0, 1))
    attack, function = attacks.PGD(norm=2, steps=10), smoothed(digit_model, 0.25, num_draws=16)
    left = []
    for radius in (0.2, 0.4, 2.0):
        attacked = attack(function, images, labels, epsilon=radius).adversarials
        standing = smoothed_classes(digit_model, attacked, 0.25, num_draws=500) == labels
        certified = (result.classes == labels) & (result.radius >= radius)
        assert standing[certified].all() and standing.mean() >= result.accuracy(labels, radius)
        left.append(standing.mean())
    assert result.accuracy(labels, 0.2) > 0.2 and left[2] < left[0]  # the attack does something


def test_an_evaluation_certifies_and_says_so(tmp_path):
    """As `certify` does, kept in cells, in the rows by sample and on the page."""
    labels = (DISTANCES > 0).astype(int)
    labels[0] = 1 - labels[0]
    options = {"attacks": ["fgsm"], "epsilons": [0.1], "bounds": (-9, 9), "folder": tmp_path, "spectrum": False}
    lines, smoothing = [], {"certify_sigma": SIGMA, "num_draws": 1_000}
    result = evaluation.evaluate(MODEL, (IMAGES, labels), progress=lines.append, **smoothing, **options)
    certificates = keras_fim.certify(MODEL, IMAGES, SIGMA, num_draws=1_000, bounds=(-9, 9))
    np.testing.assert_allclose(result.samples.figures["certified radius"], certificates.radius)
    np.testing.assert_array_equal(result.samples.figures["certified class"], certificates.classes)
    certified = result.certified
    expected = [certificates.accuracy(labels, radius) for radius in certified.radii]
    assert [ratio.value for ratio in certified.accuracy] == expected
    assert certified.num_abstained == (certificates.classes < 0).sum() and certified.radii[1] == SIGMA / 2
    again = evaluation.evaluate(MODEL, (IMAGES, labels), progress=None, **smoothing, **options)
    assert again.certified == certified
    assert any(line.startswith("certificates: at most 6 images left") for line in lines)
    page = result.save(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "What is certain" in page and "Certified accuracy against the certified radius in l2" in page
    assert evaluation.Evaluation.load(result.save(tmp_path / "evaluation.json")).certified == certified
    with pytest.raises(ValueError, match="`certify_sigma` should be a positive number or None"):
        evaluation.evaluate(MODEL, (IMAGES, labels), certify_sigma=-1.0, progress=None, **options)


def test_certified_accuracy():
    result = keras_fim.certify(MODEL, IMAGES, SIGMA, num_draws=2_000)
    assert result.accuracy(DISTANCES < 0) == 1 and result.accuracy(DISTANCES > 0) == 0
    assert result.accuracy(DISTANCES < 0, radius=0.3) == 4 / 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.0}, "`sigma` should be a positive number. Received: sigma=0.0"),
        ({"alpha": 1.0}, r"`alpha` should be in \(0, 1\). Received: alpha=1.0"),
        ({"num_draws": 0}, "`num_draws` should be a positive integer. Received: num_draws=0"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        keras_fim.certify(MODEL, IMAGES, **{"sigma": SIGMA, **options})
