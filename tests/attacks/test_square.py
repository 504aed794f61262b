from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_fim import attacks
from keras_fim.attacks.lp import norms
from keras_fim.attacks.square import eta, sides
from keras_fim.logits import logits_function


def asked(shape, queries, *, norm, epsilon, count=6):
    """What Square asks of a model that nothing fools, image by image: (image, query, *shape), and the images."""
    seen = []

    def logits(x):
        tf.py_function(lambda points: seen.append(points.numpy()), [x], [])
        return tf.constant([[1.0, 0.0]]) + tf.zeros([tf.shape(x)[0], 1])

    images = np.full((count, *shape), 0.5)
    attack = attacks.Square(norm=norm, queries=queries)
    attack(logits_function(logits, from_logits=True), images, [0] * count, epsilon=epsilon)
    return np.stack(seen[-queries:], axis=1), images


def test_every_query_in_linf_moves_one_square_of_the_image_to_its_ends():
    points, images = asked((9, 12, 3), 40, norm=np.inf, epsilon=0.25)
    deltas = points - images[:, None]
    np.testing.assert_allclose(np.abs(deltas), 0.25)
    assert (deltas[:, 0] == deltas[:, 0, :1]).all() and (deltas[:, 0] != deltas[:, 0, :, :1]).any()  # stripes
    expected = sides(40, 0.8, 9, 12)
    for image in deltas:  # nothing is better than the stripes for a constant loss: each query is one square from there
        for delta, side in zip(image[1:], expected[1:], strict=True):
            rows, columns, _ = np.nonzero(delta != image[0])
            if len(rows):
                assert np.ptp(rows) < side and np.ptp(columns) < side
    corners = {tuple(np.argwhere(delta != deltas[0, 0])[0]) for delta in deltas[0, 1:] if (delta != deltas[0, 0]).any()}
    assert len(corners) > 10
    assert (deltas[0, 5] != deltas[1, 5]).any()  # each sample has a square of its own


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(9, 12, 3), (28, 28, 1), (4, 3, 2), (2, 2, 1)])
def test_every_query_in_l2_spends_the_budget(shape):
    points, images = asked(shape, 20, norm=2, epsilon=0.4)
    deltas = (points - images[:, None]).reshape(-1, *shape)
    np.testing.assert_allclose(norms(deltas, 2), 0.4, rtol=1e-9)


def test_in_l2_the_budget_of_one_window_moves_to_another():
    points, images = asked((20, 20, 2), 60, norm=2, epsilon=0.4)
    deltas, side = points - images[:, None], sides(60, 0.8, 20, 20, smallest=3)
    for image in deltas:
        for delta, size in zip(image[30:], side[30:], strict=True):
            changed = ~np.isclose(delta, image[0], atol=1e-12).all(axis=-1)
            assert 0 < changed.sum() <= 2 * size**2
            energy = [(part**2).sum(axis=(0, 1)) for part in (delta, image[0])]
            np.testing.assert_allclose(*energy, rtol=1e-9)  # channel by channel


def test_the_pattern_has_two_opposite_peaks():
    for side in (1, 2, 3, 5, 8, 25):
        assert eta(side).shape == (side, side) and np.linalg.norm(eta(side)) == pytest.approx(1)
    pattern = eta(8)
    np.testing.assert_allclose(pattern[:4], -pattern[4:])
    assert pattern.argmax() == np.ravel_multi_index((2, 4), (8, 8))


def test_the_share_of_the_pixels_is_halved_on_the_published_schedule():
    side = sides(10_000, 0.8, 100, 100)
    share = {0: 1, 10: 1, 11: 2, 51: 4, 201: 8, 501: 16, 1001: 32, 2001: 64, 4001: 128, 6001: 256, 8001: 512}
    for query, part in share.items():
        assert side[query] == round(np.sqrt(0.8 / part) * 100)
    odd = sides(500, 0.8, 10, 7, smallest=3)
    assert set(odd % 2) == {1} and odd.max() == 7 and odd.min() == 3


def rounded(size=8):
    """A linear classifier of rounded pixels, whose gradient is zero everywhere; its optimal l∞ distance is about ε."""
    weights = tf.constant(np.random.default_rng(0).normal(size=(size * size, 2)), tf.float32)

    def logits(x):
        flat = tf.reshape(x, [-1, size * size])
        return (tf.round(flat * 20) / 20 + 0 * flat) @ weights

    images = np.random.default_rng(1).uniform(0.4, 0.6, size=(8, size, size, 1)).astype("float32")
    fn = logits_function(logits, from_logits=True)
    scores, slope = fn(tf.constant(images)).numpy(), weights.numpy() @ [1, -1]
    return fn, images, scores.argmax(axis=-1), np.abs(scores @ [1, -1]) / np.abs(slope).sum()


@pytest.mark.slow
def test_it_needs_no_gradient():
    fn, images, labels, optimum = rounded()
    epsilon = 2 * optimum.max() + 0.05
    for attack in (attacks.PGD(restarts=2), attacks.APGD(), attacks.BIM()):
        assert attack(fn, images, labels, epsilon=epsilon).fooling_ratio < 0.3
    assert attacks.Square(queries=500)(fn, images, labels, epsilon=epsilon).fooling_ratio == 1
    strong = attacks.Strong(quick=True)
    shares = strong.shares(strong(fn, images, labels, epsilon=epsilon))
    assert shares["square"] > 0.7 and sum(shares.values()) == 1


@pytest.mark.parametrize("norm", [2, np.inf])
def test_only_samples_that_stand_are_asked_about(norm):
    count = tf.Variable(0)
    weights = tf.constant(np.random.default_rng(0).normal(size=(4, 3)), tf.float32)

    def logits(x):
        count.assign_add(tf.shape(x)[0])
        return tf.reshape(x, [-1, 4]) @ weights

    fn = logits_function(logits, from_logits=True)
    images = np.full((7, 2, 2, 1), 0.5, "float32")
    labels = fn(tf.constant(images)).numpy().argmax(axis=-1)
    attack = attacks.Square(norm=norm, queries=10)
    attack(fn, images, labels, epsilon=1e-6)
    for wrong, epsilon, queries in ((0, 1e-6, 70), (3, 1e-6, 40), (7, 1e-6, 0), (0, 0.0, 0)):
        count.assign(0)
        given = np.where(np.arange(7) < wrong, (labels + 1) % 3, labels)
        result = attack(fn, images, given, epsilon=epsilon)
        assert int(count) == 7 + queries + 1  # the images, and one to learn the number of classes
        np.testing.assert_array_equal(result.adversarials[:wrong], images[:wrong])
    count.assign(0)
    assert attack(fn, images, labels, epsilon=10.0).success.sum() > 3
    assert int(count) < 8 + 50


@pytest.mark.slow
def test_more_queries_fool_more_and_a_seed_repeats_them(digit_model, digits):
    images, labels = digits[2][:60], digits[3][:60]
    few, many, again, other = (
        attacks.Square(norm=2, queries=queries, seed=seed)(digit_model, images, labels, epsilon=1.5)
        for queries, seed in ((5, 0), (100, 0), (100, 0), (100, 1))
    )
    assert few.success.sum() < many.success.sum()
    np.testing.assert_array_equal(many.adversarials, again.adversarials)
    assert (many.adversarials != other.adversarials).any()


@pytest.mark.parametrize("norm, epsilon", [(np.inf, 0.05), (2, 0.6), (1, 3.0)])
def test_channels_first_are_attacked_as_channels_last(norm, epsilon):
    """The same squares lie on the same pixels."""
    generator = np.random.default_rng(0)
    images = generator.uniform(size=(12, 6, 7, 3)).astype("float32")
    weights = tf.constant(generator.normal(size=(6 * 7 * 3, 3)).astype("float32"))
    last = logits_function(lambda x: tf.reshape(x, [-1, 6 * 7 * 3]) @ weights, from_logits=True)
    first = logits_function(lambda x: last(tf.transpose(x, (0, 2, 3, 1))), from_logits=True)
    labels, attack = last(images).numpy().argmax(axis=-1), attacks.Square(norm=norm, queries=30)
    expected = attack(last, images, labels, epsilon=epsilon)
    result = attack(first, images.transpose(0, 3, 1, 2), labels, epsilon=epsilon)
    assert 0 < expected.success.mean() < 1
    np.testing.assert_array_equal(result.success, expected.success)
    np.testing.assert_allclose(result.adversarials, expected.adversarials.transpose(0, 3, 1, 2), atol=1e-6)
