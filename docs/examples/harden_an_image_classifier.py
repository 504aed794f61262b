"""
Title: Making an image classifier harder to fool
Author: The keras_fim authors
Date created: 2026/11/26
Last modified: 2026/11/26
Description: Measure a Keras classifier under attack, harden it with N-FGM, and measure it again.
Accelerator: None
"""

"""
## Introduction

A classifier with a good test accuracy can be wrong about almost every image after a change that nobody sees. An
attacker computes such changes from the gradient of the loss in the image. In this example we

1. train a small convolutional network on digits,
2. measure what a strong attack leaves of its accuracy,
3. harden the same network with adversarial training in one step from noise
   ([N-FGSM, de Jorge et al. 2022](https://arxiv.org/abs/2202.01181), here in l2),
4. measure it again.

It needs `keras_fim` with its embedded digits: `pip install "keras_fim[demo]"`.
"""

"""
## Setup
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"  # keras_fim computes its gradients with TensorFlow

import keras
from keras import layers

import keras_fim

keras.utils.set_random_seed(0)

"""
## Data

`mnist5k` holds 5,000 real digits. Any `tf.data.Dataset` of images and integer labels would do.
"""

train, test = keras_fim.data.load("mnist5k", batch_size=64)

"""
## A plain classifier
"""

model = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        layers.Conv2D(16, 3, strides=2, activation="relu"),
        layers.Conv2D(32, 3, strides=2, activation="relu"),
        layers.Flatten(),
        layers.Dense(64, activation="relu"),
        layers.Dense(10, activation="softmax"),
    ]
)
model.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(train, epochs=8, shuffle=False, verbose=2)

"""
## How easily is it fooled?

ε is the length (l2) of the change that the attacker may make. `Strong` runs several attacks in turn, each on the images
that are still classified correctly. `quick=True` takes a quarter of its steps; leave it out for figures to quote.
"""


def measure(name):
    evaluation = keras_fim.evaluation.evaluate(
        model,
        test,
        attacks=[keras_fim.attacks.FGM(), keras_fim.attacks.Strong(norm=2, quick=True)],
        epsilons=[1.5],
        max_samples=60,
        bounds=(0, 1),
        spectrum=False,
        name=name,
        progress=None,
    )
    for row in evaluation.rows:
        print(f"{name}: accuracy {evaluation.accuracy}, under {row.attack} at l2 1.5 {row.robust}")
    return evaluation


before = measure("plain")

"""
One step (`fgm`) leaves much more than the strong attack. Quote the second figure.

## Harden it

A defense is a Keras model around the model: `compile` and `fit` as usual. The classifier inside is trained in place.
"""

defense = keras_fim.defenses.n_fgm(model, epsilon=1.5)
defense.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
defense.fit(train, epochs=10, shuffle=False, validation_data=test, verbose=2)

"""
## And now?
"""

after = measure("hardened")
gain = after.headline.robust.value - before.headline.robust.value
print(f"{100 * gain:.0f} more of 100 images withstand the attack")
assert gain > 0.2

"""
## Keep it

What is saved is the plain classifier, and a page with the digits that are still fooled.
"""

model.save("hardened.keras")
after.save("report.html")
