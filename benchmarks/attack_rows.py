"""What `attacks.py` compares: same images, ε, steps and step lengths in each library."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from attack_peers import Build, art, cleverhans, foolbox, keras_fim_attack

from keras_fim import attacks


@dataclasses.dataclass(frozen=True)
class Row:
    """One attack in several libraries.

    Attributes:
        name: of the attack.
        norm: of its distances.
        entries: how each library is called; the names of ours start with ``ours``.
        epsilon: the budget; None for an attack that looks for the smallest distance.
        images: how many without ``--full``, and with.
        targeted: whether an adversarial has to be of a given class.
        slow: entries that only ``--full`` runs.
    """

    name: str
    norm: float
    entries: dict[str, Build]
    epsilon: float | None = None
    images: tuple[int, int] = (128, 512)
    targeted: bool = False
    slow: tuple[str, ...] = ()


LINF, L2 = 0.1, 1.5


def one_step() -> list[Row]:
    return [
        Row(
            "FGSM",
            np.inf,
            {
                "ours": keras_fim_attack(attacks.FGSM(), LINF),
                "CleverHans": cleverhans("fast_gradient_method", np.inf, LINF),
                "Foolbox": foolbox("LinfFastGradientAttack", LINF),
                "ART": art("FastGradientMethod", eps=LINF),
            },
            LINF,
        ),
        Row(
            "FGM",
            2,
            {
                "ours": keras_fim_attack(attacks.FGM(), L2),
                "CleverHans": cleverhans("fast_gradient_method", 2, L2),
                "Foolbox": foolbox("L2FastGradientAttack", L2),
                "ART": art("FastGradientMethod", norm=2, eps=L2),
            },
            L2,
        ),
    ]


def pgd(norm: float, prefix: str, epsilon: float) -> Row:
    """40 steps of 2.5 ε / 40 from a random start; ours also where only fooled-or-not is asked."""
    step: dict[str, Any] = {"eps_iter": epsilon / 16, "nb_iter": 40, "rand_init": True}
    return Row(
        f"PGD-40 {prefix.lower()}",
        norm,
        {
            "ours": keras_fim_attack(attacks.PGD(norm=norm), epsilon),
            "ours, fooled or not": keras_fim_attack(attacks.PGD(norm=norm, stop_early=True), epsilon),
            "CleverHans": cleverhans("projected_gradient_descent", norm, epsilon, **step),
            "Foolbox": foolbox(f"{prefix}ProjectedGradientDescentAttack", epsilon, rel_stepsize=1 / 16, steps=40),
            "ART": art(
                "ProjectedGradientDescent",
                norm=norm,
                eps=epsilon,
                eps_step=epsilon / 16,
                max_iter=40,
                num_random_init=1,
            ),
        },
        epsilon,
    )


def iterative() -> list[Row]:
    """ART has disabled its MIM for TensorFlow."""
    return [
        pgd(np.inf, "Linf", LINF),
        pgd(2, "L2", L2),
        Row(
            "BIM",
            np.inf,
            {
                "ours": keras_fim_attack(attacks.BIM(), LINF),
                "CleverHans": cleverhans("basic_iterative_method", np.inf, LINF, eps_iter=LINF / 5, nb_iter=10),
                "Foolbox": foolbox("LinfBasicIterativeAttack", LINF, rel_stepsize=0.2, steps=10),
                "ART": art("BasicIterativeMethod", eps=LINF, eps_step=LINF / 5, max_iter=10),
            },
            LINF,
        ),
        Row(
            "MIM",
            np.inf,
            {
                "ours": keras_fim_attack(attacks.MIM(), LINF),
                "CleverHans": cleverhans("momentum_iterative_method", np.inf, LINF, eps_iter=LINF / 10, nb_iter=10),
                "Foolbox": foolbox("LinfMomentumIterativeFastGradientMethod", LINF, rel_stepsize=0.1, steps=10),
            },
            LINF,
        ),
    ]


def deepfool() -> list[Row]:
    return [
        Row(
            "DeepFool l2",
            2,
            {
                "ours": keras_fim_attack(attacks.DeepFool()),
                "Foolbox": foolbox("L2DeepFoolAttack", steps=50),
                "ART": art("DeepFool", max_iter=50, epsilon=0.02),
            },
            images=(64, 512),
        ),
        Row(
            "DeepFool linf",
            np.inf,
            {
                "ours": keras_fim_attack(attacks.DeepFool(norm=np.inf)),
                "Foolbox": foolbox("LinfDeepFoolAttack", steps=50),
            },
            images=(64, 512),
        ),
    ]


def carlini_wagner() -> list[Row]:
    """Adam with the same rate, first weight, steps and rounds; ART's line search is of another kind, and slow."""
    steps, rounds, rate, weight = 200, 5, 0.05, 1.0
    repaired = attacks.CleverHans(
        "carlini_wagner_l2", max_iterations=steps, binary_search_steps=rounds, learning_rate=rate, initial_const=weight
    )
    return [
        Row(
            "Carlini-Wagner",
            2,
            {
                "ours": keras_fim_attack(
                    attacks.CarliniWagner(steps=steps, search_steps=rounds, learning_rate=rate, initial_weight=weight)
                ),
                "CleverHans": keras_fim_attack(repaired),  # through our adapter: as it stands, it does not run
                "Foolbox": foolbox(
                    "L2CarliniWagnerAttack",
                    binary_search_steps=rounds,
                    steps=steps,
                    stepsize=rate,
                    initial_const=weight,
                ),
                "ART": art(
                    "CarliniL2Method",
                    learning_rate=rate,
                    binary_search_steps=rounds,
                    max_iter=steps,
                    initial_const=weight,
                ),
            },
            images=(32, 128),
            slow=("ART",),
        )
    ]


def jsma() -> list[Row]:
    """Single values to their bound until the given class is predicted."""
    return [
        Row(
            "JSMA",
            0,
            {
                "ours": keras_fim_attack(attacks.JSMA(target="given"), targeted=True),
                "ART": art("SaliencyMapMethod", targeted=True, theta=1.0, gamma=1.0),
            },
            images=(32, 128),
            targeted=True,
        )
    ]


def nearest() -> list[Row]:
    """The smallest distance that a strong iterative attack of each library finds."""
    return [
        Row(
            "nearest l2",
            2,
            {
                "ours": keras_fim_attack(attacks.FMN()),
                "ours, gamma=0.05": keras_fim_attack(attacks.FMN(gamma=0.05)),
                "ours, PGD by budgets": keras_fim_attack(attacks.MinimalDistance(attacks.PGD(norm=2))),
                "Foolbox": foolbox("L2FMNAttack", steps=100),
                "Foolbox, DDN": foolbox("DDNAttack", steps=100),
            },
            images=(64, 256),
        ),
        Row(
            "nearest linf",
            np.inf,
            {
                "ours": keras_fim_attack(attacks.FMN(norm=np.inf)),
                "ours, PGD by budgets": keras_fim_attack(attacks.MinimalDistance(attacks.PGD())),
                "Foolbox": foolbox("LInfFMNAttack", steps=100),
            },
            images=(64, 256),
        ),
    ]


ROWS = [*one_step(), *iterative(), *deepfool(), *carlini_wagner(), *jsma(), *nearest()]
