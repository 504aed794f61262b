"""Random draws depend on the seed, the sample and the place in the attack, and on nothing else."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf

from keras_fim import attacks
from keras_fim.attacks import draws
from keras_fim.logits import logits_function

RANDOM = [
    *[attacks.PGD(norm=p, steps=3, restarts=2) for p in (1, 2, np.inf)],
    *[attacks.APGD(norm=p, steps=6, restarts=2) for p in (2, np.inf)],
    attacks.APGD(loss="dlr_targeted", steps=6, num_targets=2),
    *[attacks.Square(norm=p, queries=20) for p in (2, np.inf)],
    attacks.OTCM(target="random"),
    attacks.Strong(quick=True),
    attacks.AutoAttack(),
]
OTHERS = [
    attacks.FGSM(),
    attacks.FGM(),
    attacks.OSSA(),
    attacks.BIM(norm=1),
    attacks.MIM(),
    attacks.DeepFool(),
    attacks.DeepFool(norm=np.inf),
    attacks.CarliniWagner(steps=30, search_steps=3),
    # with a larger γ one of the points ends so close to the boundary that rounding decides on which side
    *[attacks.FMN(norm=p, steps=20, gamma=0.05) for p in (1, 2, np.inf)],
    *[attacks.FAB(norm=p, steps=20) for p in (1, 2, np.inf)],
    attacks.JSMA(target="random"),
    attacks.MinimalDistance(attacks.PGD(steps=5)),
]


def splitmix(state, count):
    """The reference of the hash, on Python's integers."""
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        yield z ^ (z >> 31)


def test_bits_are_those_of_splitmix64():
    assert next(splitmix(0, 1)) == 0xE220A8397B1DCDAF  # the published first value of seed 0
    for key in (0, 5, -3):
        expected = list(splitmix(key % 2**64, 6))
        assert draws.bits(tf.constant([key], tf.int64), (2, 3)).numpy().ravel().tolist() == expected


@pytest.mark.parametrize("size", [1, 17, 128])
def test_integers_do_not_depend_on_the_batch(size):
    keys = draws.keys_of(7, tf.range(130))
    whole = draws.bits(draws.fold(keys, 2, 5), (4, 3)).numpy()
    parts = [tf.range(130)[start : start + size] for start in range(0, 130, size)]
    mine = [draws.bits(draws.fold(draws.keys_of(7, part), 2, 5), (4, 3)).numpy() for part in parts]
    np.testing.assert_array_equal(np.concatenate(mine), whole)
    assert len(np.unique(whole)) == whole.size


def test_draws_are_distributed_as_they_say():
    keys = draws.keys_of(0, tf.range(300))
    uniform, normal = (draw(keys, (500,), tf.float64).numpy() for draw in (draws.uniform, draws.normal))
    signs, faces = draws.signs(keys, (500,), tf.float32).numpy(), draws.integers(keys, (500,), 6).numpy()
    n = uniform.size
    assert 0 < uniform.min() and uniform.max() < 1
    np.testing.assert_allclose([uniform.mean(), normal.mean(), signs.mean()], [0.5, 0, 0], atol=5 / math.sqrt(n))
    np.testing.assert_allclose([12 * uniform.var(), normal.var(), (normal**4).mean()], [1, 1, 3], rtol=0.03)
    np.testing.assert_allclose(np.bincount(faces.ravel()) / n, 1 / 6, atol=5 / math.sqrt(n))
    for pairs in ((normal[1:], normal[:-1]), (normal[:, 1:], normal[:, :-1])):  # neighbors, of samples and of values
        assert abs(np.corrcoef(*(draw.ravel() for draw in pairs))[0, 1]) < 5 / math.sqrt(n)
    np.testing.assert_allclose(draws.uniform(keys, (500,), tf.float32), uniform, atol=2e-7)


def smooth(size=6):
    """A small float64 classifier, images and labels."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(size, 12)) * 2, rng.normal(size=(12, 4))
    fn = logits_function(lambda x: tf.tanh((x - 0.5) @ first) @ second, from_logits=True)
    images = rng.uniform(size=(30, size))
    return fn, images, fn(tf.constant(images)).numpy().argmax(axis=-1)


@pytest.mark.slow
@pytest.mark.parametrize("attack", RANDOM + OTHERS, ids=lambda attack: attack.name)
def test_adversarials_depend_neither_on_the_batch_size_nor_on_chunks(attack):
    fn, images, labels = smooth()
    budget = {} if isinstance(attack, attacks.MinimalDistanceAttack) else {"epsilon": 0.15 if attack.norm > 2 else 0.4}
    whole = attack(fn, images, labels, **budget).adversarials
    inner = getattr(attack, "attack", attack)
    small = dataclasses.replace(inner, batch_size=7)
    small = attacks.MinimalDistance(small) if inner is not attack else small
    np.testing.assert_allclose(small(fn, images, labels, **budget).adversarials, whole, atol=1e-6)
    chunk = np.arange(11, 30)
    part = attack(fn, images[chunk], labels[chunk], indices=chunk, **budget).adversarials
    np.testing.assert_allclose(part, whole[chunk], atol=1e-6)
    if attack in RANDOM and isinstance(attack, attacks.PGD):
        shifted = attack(fn, images[chunk], labels[chunk], **budget).adversarials
        assert (np.abs(shifted - whole[chunk]) > 1e-3).any()


@pytest.mark.nightly
@pytest.mark.parametrize("attack", [*RANDOM[:-1], *OTHERS[:5]], ids=lambda attack: attack.name)
def test_success_of_a_convolutional_network_hardly_depends_on_the_batch_size(attack, digit_model, digits):
    """Steps by the sign of a float32 gradient are not continuous: a sample in a hundred may end elsewhere."""
    images, labels = digits[2], digits[3]
    epsilon = {1.0: 8.0, 2.0: 0.8, math.inf: 0.06}[attack.norm]
    flags = [
        dataclasses.replace(attack, batch_size=size)(digit_model, images, labels, epsilon=epsilon).success
        for size in (128, 17, 1)
    ]
    assert len(images) == 200 and 0 < flags[0].sum() < 200
    for other in flags[1:]:
        assert (other == flags[0]).mean() >= 0.99


def test_a_seed_is_not_compiled():
    fn, images, labels = smooth()
    points = [
        attacks.PGD(steps=2, seed=seed, batch_size=10 + seed, progress=seed == 3)(fn, images, labels, epsilon=0.2)
        for seed in range(30)
    ]
    assert len(fn._compiled) == 3  # the forward pass, and the two halves
    assert len({result.adversarials.tobytes() for result in points}) == 30


def test_indices_are_checked():
    fn, images, labels = smooth()
    for indices in (np.arange(3), np.linspace(0, 1, 30)):
        with pytest.raises(ValueError, match="`indices` should be 30 integers. Received: shape="):
            attacks.FGSM()(fn, images, labels, epsilon=0.1, indices=indices)


@pytest.mark.parametrize("attack", [attacks.PGD(steps=2), attacks.DeepFool()], ids=lambda attack: attack.name)
def test_a_data_set_is_attacked_batch_by_batch(attack):
    fn, images, labels = smooth()
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(8)
    results = list(attack(fn, batches, epsilon=0.2))
    assert [len(result.success) for result in results] == [8, 8, 8, 6]
    whole = attack(fn, images, labels, epsilon=0.2)
    np.testing.assert_allclose(np.concatenate([result.adversarials for result in results]), whole.adversarials)
