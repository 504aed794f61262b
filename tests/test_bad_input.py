"""Bad input at each public edge: a ValueError that says what was expected and what came."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_fim
from keras_fim import attacks, data, evaluation, export, models
from keras_fim.callbacks import MuSchedule
from keras_fim.training import load_model, recipe

IMAGES, LABELS = np.full((3, 4), 0.5, "float32"), np.array([0, 1, 2])
LOGITS = np.array([[1.0, 2.0, -3.0]] * 3, "float32")


@pytest.fixture(scope="module")
def model():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Softmax()])


def loss(**options):
    return keras_fim.FisherTraceLoss(**options)


def fgsm(model, images=IMAGES, labels=LABELS, epsilon=0.1, **options):
    return attacks.FGSM(**options)(model, images, labels, epsilon=epsilon)


NAN_IMAGES = np.full((3, 4), np.nan)

CASES = {
    "negative mu": (lambda m: loss(mu=-0.1), "`mu` should be a finite number >= 0. Received: mu=-0.1"),
    "mu is NaN": (lambda m: loss(mu=float("nan")), "`mu` should be .* Received: mu=nan"),
    "infinite mu": (lambda m: keras_fim.FisherEigenvalueLoss(mu=np.inf), "`mu` should be .* Received: mu=inf"),
    "variable below 0": (lambda m: loss(mu=keras.Variable(-1.0)), "`mu` should be .* Received: mu=-1.0"),
    "two integers": (
        lambda m: keras_fim.layers.FisherTraceRegularization(mu=tf.constant([1, 2])),
        "`mu` should be a finite number >= 0",
    ),
    "mu is an object": (lambda m: loss(mu=object()), "`mu` should be a finite number >= 0"),
    "an array for a dtype": (
        lambda m: keras_fim.metrics.FoolingRatio(dtype=np.array(["a", "b"])),
        "`dtype` should be of type str . keras.DTypePolicy",
    ),
    "variable of two": (lambda m: loss(mu=keras.Variable([0.1, 0.2])), "`mu` should be a scalar"),
    "logits of a softmax": (
        lambda m: loss(from_logits=True)(LABELS, keras.ops.softmax(tf.constant(LOGITS))),
        "`from_logits` should be False",
    ),
    "unknown penalty": (
        lambda m: keras_fim.geometry.penalized_cross_entropy(LOGITS, tf.constant(LOGITS), 0.1, penalty="Trace"),
        "`penalty` should be",
    ),
    "layer with an infinite limit": (
        lambda m: keras_fim.layers.FisherTraceRegularization(gradient_limit=np.inf),
        "`gradient_limit` should be a positive number",
    ),
    "gradient limit 0": (lambda m: loss(gradient_limit=0), "`gradient_limit` should be a positive .*gradient_limit=0"),
    "label smoothing 1": (lambda m: loss(label_smoothing=1.0), r"`label_smoothing` should be in \[0, 1\)"),
    "seed of more than 64 bits": (lambda m: fgsm(m, seed=-(2**70)), "`seed` should be an integer of 64 bits"),
    "unknown reduction": (lambda m: loss(reduction="median"), "reduction=median"),
    "softmax over one unit": (
        lambda m: loss()([0.0], keras.activations.softmax(tf.constant([[-2.0], [2.0]]), axis=-1)),
        "as of one sigmoid unit. A softmax over one unit is always 1",
    ),
    "class 2 of one unit": (lambda m: loss(from_logits=True)([2], [[1.0]]), "classes 0 and 1 for one unit"),
    "NaN class of one unit": (lambda m: loss(from_logits=True)([np.nan], [[1.0]]), "classes 0 and 1 for one unit"),
    "NaN labels": (lambda m: loss(mu=0.0, from_logits=True)(np.full(3, np.nan), LOGITS), "class indices from 0 to 2"),
    "half a class": (lambda m: loss(from_logits=True)([0, 1, 0.5], LOGITS), "class indices from 0 to 2"),
    "loss of logits taken for probabilities": (lambda m: loss()(LABELS, LOGITS), "from_logits=True"),
    "loss with a label out of range": (
        lambda m: loss(from_logits=True)([0, 1, 3], LOGITS),
        "`y_true` should hold class indices from 0 to 2",
    ),
    "loss with a negative label": (lambda m: loss(from_logits=True)([0, 1, -1], LOGITS), "class indices from 0 to 2"),
    "loss with too few labels": (lambda m: loss(from_logits=True)([0, 1], LOGITS), "y_true of shape .2,."),
    "predictions without a class axis": (lambda m: loss(from_logits=True)([0], [1.0]), "classes.*shape=.1,"),
    "label smoothing out of range": (lambda m: keras_fim.mu_from_label_smoothing(1.0, 10), "`alpha` should be in"),
    "label smoothing of one class": (lambda m: keras_fim.mu_from_label_smoothing(0.1, 1), "`num_classes` .* least 2"),
    "inverse of a negative mu": (lambda m: keras_fim.label_smoothing_from_mu(-1.0, 10), "`mu` should be a finite"),
    "mu of a negative budget": (lambda m: keras_fim.defenses.mu_from_budget(-1.0), "`epsilon` should be a finite"),
    "layer with a negative mu": (lambda m: keras_fim.layers.FisherTraceRegularization(-1.0), "`mu` should be"),
    "layer on one class": (lambda m: keras_fim.layers.FisherTraceRegularization()(np.ones((2, 1))), "classes >= 2"),
    "schedule of mu below 0": (lambda m: MuSchedule(lambda step: -1.0).value(3), "Received: -1.0 at step 3"),
    "schedule without a target": (
        lambda m: MuSchedule(0.1, target=object()).on_train_begin(),
        "`target` should have a keras.Variable `mu`",
    ),
    "negative warm-up": (lambda m: MuSchedule(0.1, warmup_steps=-1), "`warmup_steps` should be at least 0"),
    "image shape without channels": (lambda m: models.convnet((28, 28)), r"`input_shape` should be \(height"),
    "one class in a model": (lambda m: models.resnet14(num_classes=1), "`num_classes` should be at least 2"),
    "images too small for VGG-11": (lambda m: models.vgg11((16, 16, 3)), r"at least \(32, 32, channels\)"),
    "width 0": (lambda m: models.vgg11(width=0), "`width` should be a positive number"),
    "dropout 1": (lambda m: models.vgg11(dropout=1.0), r"`dropout` should be in \[0, 1\)"),
    "two filters for three stages": (lambda m: models.resnet14(filters=(8, 16)), "3 positive integers"),
    "unknown data set": (lambda m: data.load("mnits"), "should be mnist, .*'mnits' .did you mean mnist"),
    "batch size 0": (lambda m: data.load("mnist5k", batch_size=0), "`batch_size` should be a positive integer"),
    "limit 0": (lambda m: data.load("mnist5k", limit=0), "`limit` should be a positive integer"),
    "validation 1": (lambda m: data.load_splits("mnist5k", validation=1.0), r"`validation` should be in \(0, 1\)"),
    "images out of bounds": (lambda m: fgsm(m, IMAGES * 3), "within the bounds .0.0, 1.0.*from 1.5 to 1.5"),
    "uint8 images": (lambda m: fgsm(m, np.ones((3, 4), np.uint8)), "uint8 images; divide them by 255"),
    "NaN images": (lambda m: fgsm(m, NAN_IMAGES), "`images` should be finite"),
    "NaN images for the spectrum": (lambda m: keras_fim.fisher_spectrum(m, NAN_IMAGES), "`images` should be finite"),
    "too many eigenpairs": (
        lambda m: keras_fim.fisher_spectrum(m, IMAGES, 4),
        "^`k` should be from 1 to the number of",
    ),
    "no images": (lambda m: fgsm(m, IMAGES[:0], LABELS[:0]), "should not be empty"),
    "one image without a batch axis": (lambda m: fgsm(m, IMAGES[0], LABELS[:1]), r"should have shape \(batch, ...\)"),
    "label out of range": (lambda m: fgsm(m, labels=[0, 1, 3]), "`labels` should be from 0 to 2. Received: 3"),
    "negative label": (lambda m: fgsm(m, labels=[0, 1, -1]), "`labels` should be from 0 to 2. Received: -1"),
    "fractional label": (lambda m: fgsm(m, labels=[0, 1, 0.5]), "whole numbers. Received: 0.5"),
    "too few labels": (lambda m: fgsm(m, labels=[0]), r"`labels` should have shape \(3,\) or \(3, 3\)"),
    "soft labels": (lambda m: fgsm(m, labels=np.full((3, 3), 1 / 3)), "rows that are not one-hot"),
    "negative epsilon": (lambda m: fgsm(m, epsilon=-0.1), "`epsilon` should be a finite number >= 0"),
    "epsilon is NaN": (lambda m: fgsm(m, epsilon=float("nan")), "`epsilon` should be .* Received: epsilon=nan"),
    "bounds the wrong way": (lambda m: attacks.OSSA(bounds=(1, 0)), r"`bounds` should be \(lowest, highest\)"),
    "attack with batch size 0": (lambda m: attacks.OSSA(batch_size=0), "`batch_size` should be a positive integer"),
    "APGD in l3": (lambda m: attacks.APGD(norm=3), "`norm` should be one of 1, 2, np.inf. Received: norm=3"),
    "APGD with an unknown loss": (lambda m: attacks.APGD(loss="hinge"), "`loss` should be one of .*loss='hinge'"),
    "APGD with rho 2": (lambda m: attacks.APGD(rho=2.0), r"`rho` should be in \[0, 1\]"),
    "Square with no query": (lambda m: attacks.Square(queries=0), "`queries` should be a positive integer"),
    "Square with p 0": (lambda m: attacks.Square(p_init=0.0), r"`p_init` should be in \(0, 1\]"),
    "Strong in l3": (lambda m: attacks.Strong(norm=3), "`norm` should be one of 1, 2, np.inf"),
    "no epsilon": (
        lambda m: evaluation.robustness_curve(m, IMAGES, LABELS, attacks.FGSM(), []),
        "`epsilons` should hold at least one",
    ),
    "empty data set": (
        lambda m: evaluation.samples(tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(2).take(0)),
        "`dataset` should not be empty",
    ),
    "export of a callable": (lambda m: export.saved_model(lambda x: x, "x"), "`model` should be a Keras model"),
    "unknown model": (lambda m: load_model("lenet"), "one of convnet, vgg11, resnet14.*'lenet'"),
    "no module": (lambda m: load_model("no_such:build"), "module of the model 'no_such:build' cannot be imported"),
    "no function": (lambda m: load_model("keras.applications:Lenet"), "'keras.applications:Lenet', which is None"),
    "unknown optimizer": (lambda m: recipe("mnist", optimizer="adamw"), "`optimizer` should be adam or sgd"),
    "no epochs": (lambda m: recipe("mnist", epochs=0), "`epochs` should be a positive integer"),
    "weights that do not exist": (lambda m: load_model("nothing"), "one of the stored weights.*'nothing'"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case, model):
    call, message = CASES[case]
    with pytest.raises(ValueError, match=message):
        call(model)


def test_invalid_labels_inside_of_a_training_step():
    """In a graph values are not known yet: TensorFlow reports the same words when they are."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Softmax()])
    model.compile("sgd", loss=loss())
    with pytest.raises(tf.errors.InvalidArgumentError, match="should hold class indices from 0 to 2"):
        model.fit(IMAGES, np.array([0, 1, 7]), verbose=0)


@pytest.mark.slow
def test_under_xla_which_knows_no_errors_the_loss_is_nan():
    for activation, labels in (("softmax", [0, 1, 7]), ("linear", [0, 1, 2])):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation=activation)])
        model.compile("sgd", loss=loss(), jit_compile=True)
        assert np.isnan(model.fit(IMAGES, np.array(labels), verbose=0).history["loss"][0])


def test_nan_in_training_is_a_nan_loss_as_with_keras():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Softmax()])
    model.compile("sgd", loss=loss())
    assert np.isnan(model.fit(NAN_IMAGES, LABELS, verbose=0).history["loss"][0])
