from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_fim import attacks, defenses
from keras_fim.defenses.batch import SameState, class_indices
from keras_fim.logits import logits_function
from tests import oracles

IMAGES = np.random.default_rng(0).uniform(size=(20, 6)).astype("float32")
LABELS = np.arange(20) % 4
WIDE = (-100.0, 100.0)


def classifier(*, batch_norm=False, **options):
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(8, activation="tanh", **options)
    norm = [keras.layers.BatchNormalization(momentum=0.9)] if batch_norm else []
    return keras.Sequential([keras.Input((6,)), hidden, *norm, keras.layers.Dense(4, activation="softmax")])


def compiled(model, rate=0.5):
    model.compile(keras.optimizers.SGD(rate), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def step(model, rate=0.5, images=IMAGES):
    """What one training step reports, as numbers."""
    return compiled(model, rate).train_on_batch(images, LABELS, return_dict=True)


def assert_same_weights(own, theirs, **tolerance):
    for mine, other in zip(own.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, **{"rtol": 1e-4, "atol": 1e-5, **tolerance})


def adversarials(defense, seed=5):
    labels = tf.constant(LABELS)
    return defense.adversarials(tf.constant(IMAGES), labels, SameState(logits_function(defense.model)), seed).numpy()


@pytest.mark.slow
@pytest.mark.parametrize(
    "attack",
    [
        attacks.FGSM(),
        attacks.PGD(norm=2, steps=3, random_start=False, keep_best=False),
        attacks.OSSA(method="krylov", max_steps=1),
    ],
    ids=lambda attack: attack.name,
)
def test_a_step_is_a_plain_one_on_the_images_of_the_attack(attack):
    plain, model = classifier(), classifier()
    points = attack(plain, IMAGES, LABELS, epsilon=0.2).adversarials
    step(defenses.AdversarialTraining(model, attack, epsilon=0.2))
    assert np.abs(points - IMAGES).max() > 0.05
    step(plain, images=points)
    assert_same_weights(model, plain)


def test_noise_is_not_projected_but_stays_in_the_bounds():
    for make, norm, noise in ((defenses.n_fgsm, np.inf, 2), (defenses.n_fgm, 2, 1)):
        defense = make(classifier(), 0.1)
        shifts = np.linalg.norm(adversarials(defense) - IMAGES, axis=-1, ord=norm)
        assert (
            shifts.max() <= (1 + noise) * 0.1 + 1e-6
            and shifts.max() > (1 + noise / 2) * 0.1 + 1e-6
            and defense.noise == noise
        )
        assert 0 <= adversarials(defense).min() and adversarials(defense).max() <= 1
        assert np.abs(adversarials(defense) - adversarials(defense, seed=6)).max() > 0.01


@pytest.mark.slow
def test_without_budget_it_is_plain_training():
    plain, model = (classifier(batch_norm=True) for _ in range(2))
    for trained in (plain, defenses.AdversarialTraining(model, attacks.FGSM(), epsilon=0.0)):
        compiled(trained).fit(IMAGES, LABELS, 10, epochs=5, shuffle=False, verbose=0)
    assert_same_weights(model, plain)


def test_attack_may_see_the_moving_averages():
    model = classifier(batch_norm=True)
    compiled(model).fit(IMAGES, LABELS, verbose=0)  # one step: the averages are far from the batch's statistics
    seen = adversarials(defenses.AdversarialTraining(model, attacks.FGM(), epsilon=0.3, attack_mode="inference"))
    np.testing.assert_allclose(seen, attacks.FGM()(model, IMAGES, LABELS, epsilon=0.3).adversarials, atol=1e-5)
    assert np.abs(seen - adversarials(defenses.AdversarialTraining(model, attacks.FGM(), epsilon=0.3))).max() > 1e-3


@pytest.mark.slow
def test_mixed_loss_and_the_statistics_of_the_clean_pass():
    plain, model = (classifier(batch_norm=True, kernel_regularizer="l2", activity_regularizer="l2") for _ in range(2))
    defense = defenses.AdversarialTraining(model, attacks.FGM(), epsilon=0.5, mix=0.25)
    points = adversarials(defense)
    clean, adversarial = (step(plain, 0.0, images)["loss"] for images in (IMAGES, points))
    assert adversarial > clean + 0.05
    assert step(defense, 0.0)["loss"] == pytest.approx(0.75 * clean + 0.25 * adversarial, rel=1e-5)
    once = classifier(batch_norm=True)
    step(once, 0.0)
    assert_same_weights(model, once)  # rate 0: the averages are all that has changed, and only by the clean batch


@pytest.mark.slow
def test_trades_finds_the_worst_neighbor():
    """Of a linear model in two dimensions, against a search over the whole circle."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, activation="softmax")])
    images = np.random.default_rng(0).normal(size=(4, 2)).astype("float32")
    angles = np.linspace(0, 2 * np.pi, 400)
    circle = 0.5 * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    p = oracles.softmax(logits_function(model)(tf.constant(images)).numpy())[:, None]
    around = (images[:, None] + circle).reshape(-1, 2).astype("float32")
    q = oracles.softmax(logits_function(model)(tf.constant(around)).numpy()).reshape(4, 400, 3)
    worst = (p * np.log(p / q)).sum(axis=-1).max(axis=-1)
    seen = []
    for image, divergence in zip(images, worst, strict=True):
        actual = []
        for seed in range(8):
            defense = defenses.TRADES(model, epsilon=0.5, norm=2, bounds=WIDE, seed=seed, attack_steps=20)
            defense.compile(keras.optimizers.SGD(0.0), loss="sparse_categorical_crossentropy")
            logs = defense.train_on_batch(image[None], np.array([0]), return_dict=True)
            actual.append(logs["divergence"] / divergence)
        seen.append(max(actual))
        assert logs["penalty"] == pytest.approx(6 * logs["divergence"])
    assert 0.99 < min(seen) and max(seen) < 1.001


def test_adversarial_label_smoothing_is_the_cross_entropy_with_its_labels():
    model = classifier()
    p = model.predict(IMAGES, verbose=0)
    targets = 0.7 * np.eye(4)[LABELS] + 0.3 * np.eye(4)[p.argmin(axis=-1)]
    expected = -(targets * np.log(p)).sum(axis=-1).mean()
    logs = step(defenses.AdversarialLabelSmoothing(model, 0.3), 0.0)
    assert logs["loss"] == pytest.approx(expected, rel=1e-5)
    assert logs["penalty"] == pytest.approx(0.3 * logs["logit_gap"])


def test_gradient_penalty_agrees_with_double_backpropagation(mlp, points):
    labels = np.array([0, 1, 2, 3, 0])
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            inner.watch(points)
            loss = keras.losses.sparse_categorical_crossentropy(labels, mlp(points))
        exact = tf.reduce_mean(tf.reduce_sum(inner.gradient(loss, points) ** 2, axis=-1))
    gradients = outer.gradient(exact, mlp.trainable_variables)
    start = mlp.get_weights()
    defense = defenses.GradientPenalty(mlp, 0.03, step=1e-6, bounds=(-5, 5))  # in units of the range
    defense.compile(keras.optimizers.SGD(1.0), loss=lambda y_true, y_pred: 0.0 * tf.reduce_sum(y_pred, axis=-1))
    logs = defense.train_on_batch(points, labels, return_dict=True)
    assert logs["squared_gradient"] / 100 == pytest.approx(float(exact), rel=1e-3)
    for before, after, gradient in zip(start, mlp.get_weights(), gradients, strict=True):
        np.testing.assert_allclose((before - after) / 3, gradient, rtol=1e-2, atol=1e-3 * np.abs(gradient).max())


ACCURACIES = {  # that are logged where a step is trained on other images than those given
    **dict.fromkeys(["n-fgsm", "spectral on n-fgm"], "adversarial_accuracy"),
    "gaussian": "noisy_accuracy",
}
MAKERS = {
    "adversarial": lambda model: defenses.AdversarialTraining(
        model, attacks.PGD(norm=2, steps=2, keep_best=False), epsilon=0.3, noise=0.5, mix=0.5, seed=3
    ),
    "n-fgsm": lambda model: defenses.n_fgsm(model, 0.1),
    "trades": lambda model: defenses.TRADES(model, 2.0, epsilon=0.2, attack_steps=1, seed=1),
    "adversarial label smoothing": lambda model: defenses.AdversarialLabelSmoothing(model, 0.2),
    "gaussian": lambda model: defenses.GaussianAugmentation(model, 0.2, seed=3),
    "gradient penalty": lambda model: defenses.GradientPenalty(model, 0.5, step=0.05),
    "spectral on n-fgm": lambda model: defenses.SpectralDefense(defenses.n_fgm(model, 0.3), 0.7),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAKERS)
def test_saved_and_loaded_it_goes_on(kind, tmp_path):
    defense = MAKERS[kind](classifier(batch_norm=True))
    logs = step(defense)
    accuracy = ACCURACIES.get(kind, "accuracy")
    assert {accuracy, "loss"} <= set(logs) and np.isfinite(list(logs.values())).all()
    assert set(defense.evaluate(IMAGES, LABELS, return_dict=True, verbose=0)) == {"accuracy", "loss"}
    defense.save(tmp_path / "defense.keras")
    loaded = keras.models.load_model(tmp_path / "defense.keras")
    own, theirs = (wrapper.get_config() for wrapper in (loaded, defense))
    own["model"] = theirs["model"] = None
    assert own == theirs and type(loaded) is type(defense)
    for wrapper in (defense, loaded):
        wrapper.train_on_batch(IMAGES, LABELS)
    assert_same_weights(loaded, defense)
    assert loaded.model is not defense.model and type(loaded.model) is keras.Sequential


@pytest.mark.slow
def test_defense_of_a_defense_does_both():
    model = classifier()
    outer = defenses.SpectralDefense(defenses.n_fgm(model, 0.3, noise=0), 0.5)
    points = attacks.FGM()(model, IMAGES, LABELS, epsilon=0.3).adversarials
    expected = step(defenses.SpectralDefense(classifier(), 0.5), 0.0, points)
    actual = step(outer, 0.0)
    assert outer.model is model and outer.inner.model is model
    assert len(outer.trainable_variables) == len(model.trainable_variables)
    assert actual["eigenvalue"] == pytest.approx(expected["eigenvalue"], rel=1e-4)
    assert actual["loss"] == pytest.approx(expected["loss"], rel=1e-4)


def valley(x):
    """Two classes; the second is predicted only near 0.45: the gradient at 0.5 leads a long step across."""
    return tf.concat([50 * ((x - 0.45) ** 2 - 0.001), 0 * x], axis=-1)


@pytest.mark.slow
def test_overfitting_to_one_step_is_noticed():
    images = np.full((20, 1), 0.5, "float32")
    watch = defenses.CatastrophicOverfitting(images, np.zeros(20), epsilon=0.1)
    watch.set_model(logits_function(valley, from_logits=True))
    logs = {}
    with pytest.warns(UserWarning, match="epoch 3: fgsm at 0.1 fools 0% of the images, pgd_linf 100%"):
        watch.on_epoch_end(2, logs)
    assert logs == {"fooled_one_step": 0, "fooled_iterative": 1, "overfits": 1}
    trained_on = attacks.PGD(steps=1, step_size=1.0, random_start=False)
    watch = defenses.CatastrophicOverfitting(images, np.zeros(20), epsilon=0.1, one_step=trained_on)
    assert watch.attacks[0] is trained_on
    watch.set_model(logits_function(lambda x: tf.concat([x - 0.45, 0 * x], axis=-1), from_logits=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.on_epoch_end(3, logs)  # falls to both
    assert logs == {"fooled_one_step": 1, "fooled_iterative": 1, "overfits": 0}


@pytest.mark.slow
def test_overfitting_is_a_collapse_not_a_large_epsilon():
    images = np.repeat([[0.5], [0.9]], 10, axis=0).astype("float32")  # nothing fools the second half
    watch = defenses.CatastrophicOverfitting(images, np.zeros(20), epsilon=0.1)
    seen = []
    for shift in (0.0, 1.0, 0.0):  # iterative 0.5, 0, 0.5
        watch.set_model(logits_function(lambda x, s=shift: valley(x) + [s, 0.0], from_logits=True))
        logs = {}
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            watch.on_epoch_end(len(seen), logs)
        seen.append((logs["fooled_one_step"], logs["fooled_iterative"], logs["overfits"], len(told)))
    assert seen == [(0, 0.5, 0, 0), (0, 0, 0, 0), (0, 0.5, 1, 1)]
    resumed = defenses.CatastrophicOverfitting(images, np.zeros(20), epsilon=0.1, lowest=0.0)
    resumed.set_model(logits_function(valley, from_logits=True))
    for begins in (False, True):  # the epochs before still count
        if begins:
            resumed.on_train_begin()
        with pytest.warns(UserWarning, match="epoch 4: fgsm at 0.1 fools 0% of the images, pgd_linf 50%"):
            resumed.on_epoch_end(3, logs)


def test_labels_of_any_form():
    for targets in (LABELS, LABELS[:, None].astype("float32"), np.eye(4)[LABELS]):
        np.testing.assert_array_equal(class_indices(tf.constant(targets), 4), LABELS)
    for targets, received in ((tf.zeros((3, 5)), r"shape=\(3, 5\)"), (None, "y=None")):
        message = r"`y` should hold class indices \(batch,\) or rows \(batch, 4\). Received: " + received
        with pytest.raises(ValueError, match=message):
            class_indices(targets, 4)


BOUNDED = {
    "n-fgm": lambda **options: defenses.n_fgm(classifier(), 0.3, **options),
    "n-fgsm": lambda **options: defenses.n_fgsm(classifier(), 0.1, **options),
    "mixed": lambda **options: defenses.n_fgm(classifier(), 0.3, mix=0.5, **options),
    "trades": lambda **options: defenses.TRADES(classifier(), epsilon=0.1, attack_steps=1, **options),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOUNDED)
def test_images_outside_the_bounds_are_not_clipped_in_silence(kind):
    message = (
        r"Images should be within the bounds \(0.0, 1.0\). Received values outside: rescale them, or pass `bounds`"
    )
    for images in (2 * IMAGES - 1, np.where(IMAGES > 0.9, np.nan, IMAGES)):
        defense = BOUNDED[kind]()
        start = defense.get_weights()
        with pytest.raises(ValueError, match=f"^{message}\\.$"):  # one line, of a compiled step
            step(defense, images=images)
        for before, after in zip(start, defense.get_weights(), strict=True):
            np.testing.assert_array_equal(before, after)
    defense = BOUNDED[kind](bounds=(-1, 1))
    assert np.isfinite(step(defense, images=2 * IMAGES - 1)["loss"])


def test_images_outside_the_bounds_in_eager_training():
    defense = defenses.n_fgm(classifier(), 0.3)
    defense.compile("sgd", loss="sparse_categorical_crossentropy", run_eagerly=True)
    with pytest.raises(ValueError, match="Images should be within the bounds"):
        defense.fit(255 * IMAGES, LABELS, verbose=0)


def test_noise_and_steps_use_the_bounds_that_are_given():
    defense = defenses.n_fgm(classifier(), 3.0, bounds=(-1, 1))
    assert -1 <= adversarials(defense).min() < -0.5 and 0.99 < adversarials(defense).max() <= 1


@pytest.mark.parametrize("make", [defenses.SpectralDefense, lambda model: defenses.n_fgm(model, 0.3, noise=0)])
def test_gradients_of_several_batches_may_be_accumulated(make):
    """Two halves make the step of the whole batch."""
    defense, whole = make(classifier()), make(classifier())
    start = defense.get_weights()
    optimizer = keras.optimizers.SGD(0.5, gradient_accumulation_steps=2)
    defense.compile(optimizer, loss="sparse_categorical_crossentropy")
    defense.train_on_batch(IMAGES[:10], LABELS[:10])
    for before, after in zip(start, defense.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    defense.train_on_batch(IMAGES[10:], LABELS[10:])
    step(whole)
    assert_same_weights(defense.model, whole.model)
    assert max(np.abs(b - a).max() for b, a in zip(start, defense.get_weights(), strict=True)) > 1e-3


def test_accumulated_batches_draw_anew():
    drawn = []
    for count in (None, 2):
        defense = defenses.n_fgm(classifier(), 0.3)
        defense.compile(keras.optimizers.SGD(0.0, gradient_accumulation_steps=count), loss="mse")
        seeds = []
        for _ in range(4):
            seeds.append(int(defense._step_seed()))
            defense.train_on_batch(IMAGES, np.eye(4)[LABELS])
        drawn.append(seeds)
    assert drawn[0] == drawn[1] and len(set(drawn[0])) == 4


WEIGHTED = [defenses.SpectralDefense, defenses.AdversarialLabelSmoothing, defenses.GradientPenalty]


@pytest.mark.parametrize("make", WEIGHTED)
def test_optimizer_leaves_a_weight_that_is_a_variable(make):
    weight = keras.Variable(0.5)
    defense = compiled(make(classifier(), weight))
    defense.fit(IMAGES, LABELS, epochs=3, verbose=0)
    assert float(weight.numpy()) == 0.5 and len(defense.trainable_variables) == len(defense.model.trainable_variables)
    weight.assign(0.25)
    logs = defense.train_on_batch(IMAGES, LABELS, return_dict=True)
    assert logs["penalty"] == pytest.approx(0.25 * logs[defense.trackers()[1].name])


def test_fit_takes_its_arguments_in_the_order_of_keras_and_a_single_callback():
    epochs = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epochs.append((epoch, sorted(logs))))
    compiled(defenses.GradientPenalty(classifier())).fit(IMAGES, LABELS, 10, 2, 0, callback)
    assert [epoch for epoch, _ in epochs] == [0, 1] and "penalty" in epochs[0][1]
    with pytest.raises(TypeError, match="batches"):
        compiled(defenses.GradientPenalty(classifier())).fit(IMAGES, LABELS, batches=3)


class Subclassed(keras.Model):
    """Returns logits; Keras knows neither its shapes nor its last layer."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(4)

    def call(self, images, training=False):
        return self.dense(images)


def linear_end():
    hidden = keras.layers.Dense(4)
    return keras.Sequential([keras.Input((6,)), hidden, keras.layers.Activation("linear", dtype="float32")])


def subclassed():
    model = Subclassed()
    model(IMAGES)
    return logits_function(model, from_logits=True)


@pytest.mark.slow
@pytest.mark.parametrize("make", [linear_end, subclassed])
@pytest.mark.parametrize("targets", [LABELS, np.eye(4)[LABELS]], ids=["indices", "rows"])
def test_models_that_return_logits(make, targets):
    kind = keras.losses.SparseCategoricalCrossentropy if targets.ndim == 1 else keras.losses.CategoricalCrossentropy
    for defense in (defenses.n_fgm(make(), 0.3), defenses.SpectralDefense(defenses.n_fgm(make(), 0.3), 0.1)):
        defense.compile("sgd", loss=kind(from_logits=True), metrics=["accuracy"])
        logs = defense.fit(IMAGES, targets, verbose=0).history
        assert np.isfinite([value[0] for value in logs.values()]).all()
        np.testing.assert_array_equal(defense.logits(tf.constant(IMAGES)), defense.model(IMAGES))


def test_what_a_model_returns_survives_the_file(tmp_path):
    """That of one whose rows do not sum to 1, which is refused unless it is said."""
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, activation="exponential")])
    with pytest.raises(ValueError, match="should return probabilities"):
        defenses.n_fgm(model, 0.3)
    defense = defenses.n_fgm(logits_function(model, from_logits=False), 0.3)
    loaded = defenses.AdversarialTraining.from_config(defense.get_config())
    assert loaded._logits_fn.form == "probabilities"


def test_frozen_classifier_and_export(tmp_path):
    model = classifier()
    model.trainable = False
    defense = compiled(defenses.SpectralDefense(model))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras says that there is nothing to train
        assert defense.train_on_batch(IMAGES, LABELS, return_dict=True)["eigenvalue"] > 0
    defense.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(served.serve(tf.constant(IMAGES)), model(IMAGES), rtol=1e-5)


def with_method():
    model = classifier()
    model.logits = lambda images, training=False: images
    return model


BAD = {
    "not a model": (lambda: defenses.SpectralDefense(len), "`model` should be a built Keras model. Received"),
    "not built": (lambda: defenses.SpectralDefense(keras.Sequential()), "`model` should be a built Keras model"),
    "logits by a method": (lambda: defenses.GradientPenalty(with_method()), "has a method `logits`"),
    "negative mu": (lambda: defenses.SpectralDefense(classifier(), -1.0), "`mu` should be a finite number >= 0"),
    "penalty": (lambda: defenses.SpectralDefense(classifier(), penalty="norm"), "`penalty` should be one of eig"),
    "direction": (lambda: defenses.SpectralDefense(classifier(), direction="x"), "`direction` should be one of grad"),
    "difference": (lambda: defenses.SpectralDefense(classifier(), difference="x"), "`difference` should be one of one"),
    "krylov steps": (lambda: defenses.SpectralDefense(classifier(), krylov_steps=0), "`krylov_steps` should be a pos"),
    "half a step": (lambda: defenses.SpectralDefense(classifier(), krylov_steps=1.5), "`krylov_steps` should be of t"),
    "step": (lambda: defenses.SpectralDefense(classifier(), step=0.0), "`step` should be a positive number"),
    "share": (lambda: defenses.SpectralDefense(classifier(), share=1.5), r"`share` should be in \(0, 1\]"),
    "attack without a budget": (
        lambda: defenses.AdversarialTraining(classifier(), attacks.DeepFool(), epsilon=0.1),
        "`attack` should be of type FixedBudgetAttack. Received: attack=DeepFool",
    ),
    "attack that breaks up the batch": (
        lambda: defenses.AdversarialTraining(classifier(batch_norm=True), attacks.PGD(stop_early=True), epsilon=0.1),
        "`attack` should keep the batch together.*attack_mode=.inference.. Received: attack=PGD",
    ),
    "eigenvectors that break up the batch": (
        lambda: defenses.AdversarialTraining(classifier(batch_norm=True), attacks.OSSA(method="krylov"), epsilon=0.1),
        "`attack` should keep the batch together",
    ),
    "attack without targets": (
        lambda: defenses.AdversarialTraining(classifier(), attacks.OTCM(target="given"), epsilon=0.1),
        "`attack` should choose its targets: none are given in training. Received: OTCM",
    ),
    "epsilon": (lambda: defenses.n_fgsm(classifier(), -0.1), "`epsilon` should be a finite number >= 0"),
    "noise": (lambda: defenses.n_fgm(classifier(), 0.1, noise=-1), "`noise` should be a finite number >= 0"),
    "mix": (lambda: defenses.n_fgm(classifier(), 0.1, mix=0), r"`mix` should be in \(0, 1\]. Received: mix=0"),
    "attack mode": (lambda: defenses.n_fgm(classifier(), 0.1, attack_mode="x"), "`attack_mode` should be one of train"),
    "alpha": (lambda: defenses.AdversarialLabelSmoothing(classifier(), 1.0), r"`alpha` should be in \[0, 1\)"),
    "norm": (lambda: defenses.TRADES(classifier(), epsilon=1.0, norm=1), "`norm` should be one of 2, np.inf"),
    "alpha in a variable": (
        lambda: defenses.AdversarialLabelSmoothing(classifier(), keras.Variable(5.0)),
        r"`alpha` should be in \[0, 1\). Received: alpha=5.0",
    ),
    "half an attack step": (
        lambda: defenses.TRADES(classifier(), epsilon=1.0, attack_steps=2.5),
        "`attack_steps` should be of type int. Received: attack_steps=2.5",
    ),
    "attack steps": (lambda: defenses.TRADES(classifier(), epsilon=1.0, attack_steps=0), "`attack_steps` should be"),
    "step size": (lambda: defenses.TRADES(classifier(), epsilon=1.0, step_size=0), "`step_size` should be a positive"),
    "norm of the watch": (
        lambda: defenses.CatastrophicOverfitting(IMAGES, LABELS, epsilon=0.1, norm=1),
        "`norm` should be one of 2, np.inf. Received: norm=1",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_fits_on_images_whose_shape_the_pipeline_lost():
    batches = tf.data.Dataset.from_generator(
        lambda: iter([(IMAGES, LABELS)] * 2), output_signature=(tf.TensorSpec(None), tf.TensorSpec([None], tf.int64))
    )
    own, usual = (compiled(defenses.n_fgm(classifier(), epsilon=0.5, seed=3)) for _ in range(2))
    own.fit(batches, epochs=1, verbose=0)
    usual.fit(tf.data.Dataset.from_tensors((IMAGES, LABELS)).repeat(2), epochs=1, verbose=0)
    assert_same_weights(own, usual)


def test_penalties_around_each_other_are_logged_apart():
    model = defenses.SpectralDefense(defenses.GradientPenalty(classifier(), mu=0.3), mu=0.5)
    logs = compiled(model).fit(IMAGES, LABELS, verbose=0).history
    assert logs["penalty"][0] > 0 and logs["eigenvalue_penalty"][0] == pytest.approx(0.5 * logs["eigenvalue"][0])
