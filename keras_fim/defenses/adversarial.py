"""Training on perturbed images, those of an attack or noisy ones, and a watch on catastrophic overfitting."""

import dataclasses
import warnings
from typing import Annotated, Any

import keras
import numpy as np
import tensorflow as tf

from keras_fim import attacks
from keras_fim.arguments import GradientNorm, NotNegative, Positive, PositiveShare, checked, expect, one_of, require
from keras_fim.attacks import draws, problem, samples
from keras_fim.defenses.base import Defense
from keras_fim.defenses.batch import Batch, SameState, attack_task
from keras_fim.typing import Images, Labels
from keras_fim.validation import check_bounds, check_images


@keras.saving.register_keras_serializable("keras_fim")
class AdversarialTraining(Defense):
    r"""Trains on images that an attack has perturbed, against the classifier as it is at that step.

    .. math:: (1 - m)\, L(x) + m\, L(x'), \qquad x' = \operatorname{attack}(x + \eta)

    The attack starts at the image with noise η and goes ε from there; no projection back onto the ball about x. Both
    the noisy image and the result are clipped to the pixel bounds, as in the code of de Jorge et al. (their paper
    leaves the bounds out). The attack changes nothing in the classifier. Batch statistics are kept from the pass that
    the metrics are taken on: of clean images, but of adversarial ones where these are all that it is trained on
    (``mix=1``).

    A training step of the ConvNet costs, in CPU seconds over those of a plain one, 1.9 for N-FGSM, 2.0 for N-FGM
    (1.7 with ``attack_mode="inference"``), 4.6 for OSSA with one Krylov step, 8.1 for PGD with seven steps
    (``results/benchmarks/defense_step_mnist.json``).

    Logged in training: ``adversarial_accuracy``, and ``accuracy`` only where clean images are part of the loss.

    A model may learn to resist its single step and nothing else: `CatastrophicOverfitting` watches for that.

    Args:
        model: A built Keras classifier, or another defense of one.
        attack: Any compiled fixed-budget attack. Iterative ones are cheapest with ``keep_best=False``. Where the model
            normalizes batches and the attack should see their statistics, it has to keep the batch together.
        epsilon: The budget ε >= 0 of the attack.
        noise: The largest norm of η, in the attack's norm, as a multiple of ε; η is uniform in that ball. 0 for none.
        mix: The share m in (0, 1] of the adversarial loss.
        attack_mode: ``"training"``: the attack sees batch statistics, as the loss does. ``"inference"``: it sees the
            moving averages, as users do. This costs less, and attacks of several steps need it where a
            ``tf.distribute`` strategy synchronizes batch normalization, which TensorFlow cannot do inside a loop.
        **options: ``bounds``, ``seed``, of the noise and the attack, and ``name``, as in `Defense`. If the attack was
            given bounds, these are the default.

    Raises:
        ValueError: If an argument is not valid.

    Example:
        >>> from keras_fim import models
        >>> defended = AdversarialTraining(models.convnet(filters=(2, 2)), attacks.PGD(steps=2), epsilon=0.1)
        >>> defended.compile("adam", loss="sparse_categorical_crossentropy")
        >>> history = defended.fit(tf.zeros((4, 28, 28, 1)), tf.range(4), verbose=0).history

    Source:
        Madry et al., Towards deep learning models resistant to adversarial attacks (ICLR 2018).
    """

    _options = ("attack", "epsilon", "noise", "mix", "attack_mode")

    @checked
    def __init__(
        self,
        model: keras.Model,
        attack: attacks.FixedBudgetAttack,
        *,
        epsilon: NotNegative,
        noise: NotNegative = 0.0,
        mix: PositiveShare = 1.0,
        attack_mode: Annotated[str, one_of("training", "inference")] = "training",
        **options: Any,
    ) -> None:
        expect(attack.compiled, "attack", "a compiled attack with a budget", attack)
        if attack.aimed or getattr(attack, "target", None) == "given":
            raise ValueError(f"`attack` should choose its targets: none are given in training. Received: {attack!r}")
        if options.get("bounds") is None and attack.bounds != (0.0, 1.0):
            options["bounds"] = attack.bounds
        super().__init__(model, **{"name": "adversarial_training", **options})
        normalizes = any(isinstance(layer, keras.layers.BatchNormalization) for layer in self.model._flatten_layers())
        why = "because the model normalizes it: no early stops, no restarts and as many steps for each image"
        message = f'`attack` should keep the batch together, {why}; or pass attack_mode="inference"'
        whole = attack_mode != "training" or attack.whole_batch or not normalizes
        require(whole, f"{message}. Received: attack={attack!r}")
        self.attack, self.attack_mode = dataclasses.replace(attack, bounds=self.bounds), attack_mode
        self.epsilon, self.noise, self.mix, self.perturbs = float(epsilon), float(noise), float(mix), mix == 1
        self._adversarial = keras.metrics.SparseCategoricalAccuracy(name="adversarial_accuracy")

    def adversarials(self, images: tf.Tensor, labels: tf.Tensor, again: SameState, seed: tf.Tensor) -> tf.Tensor:
        """Perturbed images, inside the attack's bounds."""
        units = problem.Units(self.bounds)
        task = attack_task(images, labels, self.epsilon, units, seed)
        start = task.images
        if self.noise:
            ball = task._replace(epsilon=self.noise * task.epsilon)
            task = task._replace(images=samples.random_start(ball, self.attack.norm, 2))
        attacked = units.logits_fn(again if self.attack_mode == "training" else self._logits_fn)
        result = self.attack.perturb(attacked, task, self.attack.prepare(attacked, task))
        return units.returned(result.adversarials, start, images)

    def perturb(self, images: tf.Tensor, labels: tf.Tensor, again: SameState, seed: tf.Tensor) -> tf.Tensor:
        """Adversarial images, if it is trained on nothing else."""
        return self.adversarials(images, labels, again, seed) if self.perturbs else images

    def penalty(self, batch: Batch) -> tf.Tensor | None:
        """What turns the clean loss into the mixed one."""
        if self.perturbs:
            self._adversarial.update_state(batch.labels, tf.stop_gradient(batch.logits))
            return None
        points = tf.stop_gradient(self.adversarials(batch.images, batch.labels, batch.again, batch.seed))
        loss, logits = batch.loss(points)
        self._adversarial.update_state(batch.labels, tf.stop_gradient(logits))
        return self.mix * (loss - batch.clean_loss)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; the attack as its name and options."""
        names = [field.name for field in dataclasses.fields(self.attack) if field.name != "progress"]
        options = {name: getattr(self.attack, name) for name in names}
        return {**super().get_config(), "attack": {"class": type(self.attack).__name__, "options": options}}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Defense:
        """A defense from `get_config`.

        Raises:
            ValueError: If the attack is not one of `keras_fim.attacks`.
        """
        kind: Any = getattr(attacks, config["attack"]["class"], None)
        expect(kind is not None, "attack", "one of keras_fim.attacks", received=config["attack"]["class"])
        return super().from_config({**config, "attack": kind(**config["attack"]["options"])}, custom_objects)


@checked
def n_fgsm(model: keras.Model, epsilon: float, *, noise: float = 2.0, **options: Any) -> AdversarialTraining:
    """N-FGSM: noise up to 2 ε in each pixel, then one sign step of ε in l∞.

    Args:
        model: A built Keras classifier, or another defense of one.
        epsilon: The budget ε >= 0 in l∞, on the scale of the images.
        noise: The largest change of a pixel by the noise, as a multiple of ε.
        **options: Further arguments of `AdversarialTraining`.

    Returns:
        `AdversarialTraining`.

    Source:
        de Jorge et al., Make some noise: reliable and efficient single-step adversarial training (NeurIPS 2022).
    """
    return AdversarialTraining(model, attacks.FGSM(), epsilon=epsilon, noise=noise, **{"name": "n_fgsm", **options})


@checked
def n_fgm(model: keras.Model, epsilon: float, *, noise: float = 1.0, **options: Any) -> AdversarialTraining:
    """N-FGM: noise up to ε, then one step of ε along the gradient, both in l2.

    Args:
        model: A built Keras classifier, or another defense of one.
        epsilon: The budget ε >= 0 in l2, on the scale of the images.
        noise: The largest norm of the noise, as a multiple of ε. 2.0 is a little more robust than 1.0 and a little less
            accurate (``n-fgm-noisy`` and ``n-fgm`` in ``results/defenses``).
        **options: Further arguments of `AdversarialTraining`.

    Returns:
        `AdversarialTraining`.

    Source:
        As `n_fgsm`, in l2.
    """
    return AdversarialTraining(model, attacks.FGM(), epsilon=epsilon, noise=noise, **{"name": "n_fgm", **options})


@keras.saving.register_keras_serializable("keras_fim")
class GaussianAugmentation(Defense):
    r"""Trains on images with Gaussian noise, the training of a classifier that `keras_fim.certify` smooths.

    .. math:: L(x + \sigma n), \qquad n \sim \mathcal N(0, I)

    The noise is drawn anew in each step and not clipped to the pixel bounds, as in `keras_fim.certify`; take the same
    σ there. The classifier itself is hardly more robust.

    Logged in training: ``noisy_accuracy``.

    Args:
        model: A built Keras classifier, or another defense of one.
        sigma: The standard deviation σ of the noise, on the scale of the images.
        **options: ``bounds``, ``seed``, of the noise, and ``name``, as in `Defense`.

    Raises:
        ValueError: If ``sigma`` is not a positive number, or as `Defense`.

    Example:
        >>> from keras_fim import models
        >>> defended = GaussianAugmentation(models.convnet(filters=(2, 2)), 0.25)
        >>> defended.compile("adam", loss="sparse_categorical_crossentropy")
        >>> history = defended.fit(tf.zeros((4, 28, 28, 1)), tf.range(4), verbose=0).history

    Source:
        Cohen, Rosenfeld, Kolter, Certified adversarial robustness via randomized smoothing (ICML 2019), section 3.3.
    """

    perturbs = True
    _options = ("sigma",)

    @checked
    def __init__(self, model: keras.Model, sigma: Positive, **options: Any) -> None:
        super().__init__(model, **{"name": "gaussian_augmentation", **options})
        self.sigma = float(sigma)
        self._noisy = keras.metrics.SparseCategoricalAccuracy(name="noisy_accuracy")

    def perturb(self, images: tf.Tensor, labels: tf.Tensor, again: SameState, seed: tf.Tensor) -> tf.Tensor:
        """Noisy images."""
        keys = draws.fold(draws.keys_of(seed, tf.range(tf.shape(images)[0])), 3)
        return images + self.sigma * draws.normal(keys, images.shape[1:], images.dtype)

    def penalty(self, batch: Batch) -> tf.Tensor | None:
        """None; notes the accuracy on the noisy images."""
        self._noisy.update_state(batch.labels, tf.stop_gradient(batch.logits))
        return None


class CatastrophicOverfitting(keras.callbacks.Callback):
    """Says after each epoch whether the model resists single-step attacks only.

    It logs ``fooled_one_step`` and ``fooled_iterative``, the fooling ratios of one step and of ten (PGD) at the same ε
    on a few images, and ``overfits``; where that is 1 it also warns. It is 1 where the second is at least three times
    the first and 0.2 above it, and above 2/3 or 0.2 above what it was in an earlier epoch. A plain model, which both
    attacks fool, is not reported, nor is one that a large ε fools as often as before.

    Args:
        images: The images ``(n, ...)`` to attack: a few hundred that the model is not trained on.
        labels: The labels ``(n,)`` of the images.
        epsilon: The budget ε > 0.
        norm: Either 2 or inf.
        one_step: The attack that the model is trained on; ``None`` for FGSM, or FGM in l2.
        bounds: The smallest and the largest pixel value.
        lowest: The smallest ``fooled_iterative`` of earlier epochs, when an interrupted training continues.

    Raises:
        ValueError: If an argument is not valid.

    Source:
        Wong, Rice, Kolter, Fast is better than free (ICLR 2020), who named it.
    """

    @checked
    def __init__(
        self,
        images: Images,
        labels: Labels,
        *,
        epsilon: NotNegative,
        norm: GradientNorm = np.inf,
        one_step: attacks.FixedBudgetAttack | None = None,
        bounds: tuple[float, float] = (0.0, 1.0),
        lowest: float = np.inf,
    ) -> None:
        super().__init__()
        bounds = check_bounds(bounds)
        self.images, self.labels, self.epsilon = check_images(images, bounds), np.asarray(labels), float(epsilon)
        one_step = one_step or (attacks.FGSM(bounds=bounds) if norm == np.inf else attacks.FGM(bounds=bounds))
        self.attacks = (one_step, attacks.PGD(norm=norm, steps=10, step_size=0.25, bounds=bounds, stop_early=True))
        self.lowest = float(lowest)
        self._lowest = self.lowest  # so far

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forget another training."""
        self._lowest = self.lowest

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Attack, log, and warn."""
        data = self.model, self.images, self.labels
        one_step, iterative = (attack(*data, epsilon=self.epsilon).fooling_ratio for attack in self.attacks)
        one_step_only = iterative >= 3 * one_step and iterative - one_step >= 0.2
        overfits = one_step_only and (iterative > 2 / 3 or iterative - self._lowest >= 0.2)
        self._lowest = min(self._lowest, iterative)
        if logs is not None:
            logs.update(fooled_one_step=one_step, fooled_iterative=iterative, overfits=float(overfits))
        if overfits:
            warnings.warn(
                f"Catastrophic overfitting in epoch {epoch + 1}: {self.attacks[0].name} at {self.epsilon:g} fools "
                f"{one_step:.0%} of the images, {self.attacks[1].name} {iterative:.0%}. More noise, a smaller "
                "epsilon or an iterative attack helps.",
                stacklevel=2,
            )
