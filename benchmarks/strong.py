"""How many images each strong attack fools, beside the same attacks of ART, on the stored MNIST models.

    python benchmarks/strong.py                                     # about an hour on two busy cores
    python benchmarks/strong.py --models mnist-plain --images 50    # prints, and stores only with --out

Needs the extra [peers]. Both libraries get the same images, ε, numbers of steps and queries: PGD on the margin (5
restarts of 40 steps; ours only), APGD on the cross-entropy and on the difference of logits ratio (100 steps, one random
start), Square (1000 queries), each alone on all images, and `Strong`, whose stages take what the ones before left. The
defended model's twin is the plain one. Ratios are over the samples that were correct. Seconds are of one call, ours
after one on two images that compiles; ours stop at the first point that fools.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.metadata
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_fim import data
from keras_fim.attacks import ART, Attack, FixedBudgetAttack, Strong
from keras_fim.evaluation import samples
from keras_fim.records import versions, write_json
from keras_fim.training import load_model

BUDGETS = {"l2": (2.0, 1.5), "linf": (np.inf, 0.1)}
MODELS = ["mnist-plain", "mnist-fisher"]
OUT = Path("results/benchmarks/strong.json")


def art_apgd(classifier: Any, epsilon: float, *, norm: float, loss: str | None) -> Any:
    """ART's Auto-PGD as published; ``None`` for the cross-entropy, since its own needs what Keras 3 no longer has."""
    attack = importlib.import_module("art.attacks.evasion").AutoProjectedGradientDescent
    options = {"eps": epsilon, "eps_step": 2 * epsilon, "max_iter": 100, "nb_random_init": 1, "batch_size": 128}
    return attack(classifier, norm=norm, loss_type=loss, **options)


def art_square(classifier: Any, epsilon: float, *, norm: float) -> Any:
    """ART's Square."""
    attack = importlib.import_module("art.attacks.evasion").SquareAttack
    return attack(classifier, norm=norm, eps=epsilon, max_iter=1000, p_init=0.8, batch_size=128)


def contestants(norm: float, twin: keras.Model | None) -> dict[str, Attack]:
    """The attacks by name: those of `Strong` alone, itself, and ART's."""
    strong = Strong(norm=norm, twin=twin)
    stages = {name: attack for name, attack in strong.attacks().items() if name != "transfer"}
    alone = {name: a.fooling_only() if isinstance(a, FixedBudgetAttack) else a for name, a in stages.items()}
    theirs = {
        "ART apgd_ce": functools.partial(art_apgd, norm=norm, loss=None),
        "ART apgd_dlr": functools.partial(art_apgd, norm=norm, loss="difference_logits_ratio"),
        "ART square": functools.partial(art_square, norm=norm),
    }
    return {**alone, "strong": strong, **{name: ART(make, norm=norm, label=name) for name, make in theirs.items()}}


def measure(name: str, key: str, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """All attacks on one model in one norm."""
    model, (norm, epsilon) = load_model(name), BUDGETS[key]
    entries: dict[str, dict[str, Any]] = {}
    for title, attack in contestants(norm, None if name == "mnist-plain" else load_model("mnist-plain")).items():
        keras.utils.set_random_seed(0)
        if attack.compiled or isinstance(attack, Strong):
            attack(model, images[:2], labels[:2], epsilon=epsilon)
        start = time.perf_counter()
        result = attack(model, images, labels, epsilon=epsilon)
        entries[title] = {"fooling_ratio": result.fooling_ratio, "seconds": time.perf_counter() - start}
        if isinstance(attack, Strong):
            entries[title]["shares"] = attack.shares(result)
        show(name, key, title, entries[title])
    return {
        **{"model": name, "norm": key, "epsilon": epsilon, "images": len(images)},
        **{"correct": int(result.was_correct.sum()), "entries": entries, "lead_over_art": lead(entries)},
    }


def lead(entries: dict[str, dict[str, Any]]) -> dict[str, float]:
    """By how much more we fool than ART with the same attack."""
    names = [title.removeprefix("ART ") for title in entries if title.startswith("ART ")]
    return {name: entries[name]["fooling_ratio"] - entries[f"ART {name}"]["fooling_ratio"] for name in names}


def show(model: str, key: str, title: str, entry: dict[str, Any]) -> None:
    """One line."""
    shares = "  ".join(f"{name} {share:.1%}" for name, share in entry.get("shares", {}).items() if share)
    figures = f"fooled {entry['fooling_ratio']:6.1%} {entry['seconds']:8.1f} s"
    print(f"{model:13} {key:5} {title:13} {figures}  {shares}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--norms", nargs="+", default=list(BUDGETS), choices=list(BUDGETS))
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--out", type=Path, help=f"default: {OUT}, where nothing else is chosen")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    whole = (arguments.models, arguments.norms, arguments.images) == (MODELS, list(BUDGETS), 300)
    out = arguments.out or (OUT if whole else None)
    images, labels = samples(data.load("mnist", arguments.images, test_limit=arguments.images)[1])
    results = []
    for name in arguments.models:
        for key in arguments.norms:
            results.append(measure(name, key, images, labels))
            print("  lead over ART:", {other: f"{ahead:+.1%}" for other, ahead in results[-1]["lead_over_art"].items()})
            if out:  # after each, so that little is lost
                store(out, results, arguments)


def store(out: Path, results: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    config = {key: value for key, value in vars(arguments).items() if key != "out"}
    peer = "adversarial-robustness-toolbox"
    libraries = versions() | {peer: importlib.metadata.version(peer)}
    write_json(out, {"config": {**config, "seed": 0}, "results": results, "versions": libraries})


if __name__ == "__main__":
    main()
