"""The two-step spectral attack beside the one-step attack and the strongest ones, at the budgets of figure 3.

    python benchmarks/spectral_attacks.py --out results/benchmarks/spectral_attacks.json

Fooling ratios in l2 of the stored weights, on MNIST's test images. ``TSSA - OSSA`` is in points, with the number of
images that only one of the two fools and the p-value of the exact sign test (McNemar) on these.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from keras_fim import attacks, data
from keras_fim.evaluation import samples
from keras_fim.evaluation.report import table
from keras_fim.logits import logits_function
from keras_fim.records import read_json, versions, write_json
from keras_fim.training.trained import load_model, record_of

MODELS = ("mnist-plain", "mnist-fisher")
EPSILONS = tuple(float(epsilon) for epsilon in np.arange(0.5, 6.25, 0.5))
ATTACKS = {
    "OSSA": attacks.OSSA(),
    "TSSA": attacks.TSSA(),
    "OSSA, two steps": attacks.OSSA(steps=2),
    "FGM": attacks.FGM(),
    "PGD": attacks.PGD(norm=2, steps=20, loss="margin", stop_early=True),
}


def measure(name: str, count: int, strong: int, data_dir: str | None) -> list[dict[str, Any]]:
    """A row for each ε; the strong attack on the first images only."""
    model, source = logits_function(load_model(name)), record_of(name)["config"]["data"]
    images, labels = samples(data.load_splits(source, data_dir=data_dir).test, count)
    fooled = {}
    for title, attack in ATTACKS.items():
        results = attack.sweep(model, images, labels, EPSILONS)
        correct, fooled[title] = results[0].was_correct, [result.success for result in results]
        print(name, title, *(f"{result.fooling_ratio:.3f}" for result in results), flush=True)
    few = attacks.Strong(norm=2).sweep(model, images[:strong], labels[:strong], EPSILONS) if strong else []
    rows = []
    for place, epsilon in enumerate(EPSILONS):
        one, two = fooled["OSSA"][place], fooled["TSSA"][place]
        gained, lost = int((two & ~one).sum()), int((one & ~two).sum())
        row: dict[str, Any] = {"model": name, "images": count, "ε": epsilon}
        row |= {title: float(success[place][correct].mean()) for title, success in fooled.items()}
        row |= {"Strong": few[place].fooling_ratio} if strong else {}
        row |= {"TSSA - OSSA": (gained - lost) / int(correct.sum())}
        row |= {"only TSSA": gained, "only OSSA": lost}
        rows.append({**row, "p": float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0})
    return rows


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, help="Stored weights (default: %(default)s).")
    parser.add_argument("--images", type=int, default=1000, help="Number of images (default: %(default)s).")
    parser.add_argument("--strong", type=int, default=100, help="Images of them for Strong (default: %(default)s).")
    parser.add_argument("--data-dir", help="Folder of TensorFlow Datasets.")
    parser.add_argument("--out", type=Path, help="Where to store the figures; those of other models there are kept.")
    arguments = parser.parse_args()
    rows = read_json(arguments.out)["rows"] if arguments.out and arguments.out.is_file() else []
    for name in arguments.models:
        rows = [row for row in rows if row["model"] != name]
        rows += measure(name, arguments.images, arguments.strong, arguments.data_dir)
        if arguments.out:
            config = {title: repr(attack) for title, attack in ATTACKS.items()} | {"seed": 0}
            write_json(arguments.out, {"config": config, "rows": rows, "versions": versions()})
    shares = {*ATTACKS, "Strong", "TSSA - OSSA"}
    print(table([{key: f"{100 * row[key]:.1f}" if key in shares else row[key] for key in row} for row in rows]))


if __name__ == "__main__":
    main()
