"""Certified accuracy of smoothed classifiers, beside what an attack on the smoothed classifier leaves.

    python benchmarks/smoothing.py --out results/benchmarks/smoothing.json

For each σ a ConvNet that was trained on MNIST with that noise is smoothed with it. The training is that of ``keras-fim
train --data mnist --defense gaussian --option sigma=0.25 --epochs 6``; it is skipped where ``--runs`` holds its result.
Printed are, at each l2 radius, the share of test images that are certified to be classified correctly within it (N
draws, with probability 1 - α for each image), and the share that is classified correctly after PGD on the smoothed
classifier, whose gradients are means over draws, judged on other draws. The first is never the larger one: it holds for
every attack.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from keras_fim import attacks, certify, data
from keras_fim.evaluation import samples, wilson
from keras_fim.evaluation.report import table
from keras_fim.evaluation.smoothing import smoothed, smoothed_classes
from keras_fim.records import read_json, versions, write_json
from keras_fim.training import recipe, train
from keras_fim.training.trained import load_model

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)


def trained(sigma: float, runs: Path, data_dir: str | None) -> Any:
    """A ConvNet that was trained on noisy digits."""
    config = recipe("mnist", defense="gaussian", defense_options={"sigma": sigma}, epochs=6)
    return load_model(train(config, runs / f"gaussian-{sigma:g}", resume=True, data_dir=data_dir))


def measure(sigma: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of one σ."""
    model = trained(sigma, arguments.runs, arguments.data_dir)
    images, labels = samples(data.load("mnist", data_dir=arguments.data_dir)[1], arguments.images)
    certificates = certify(model, images, sigma, num_draws=arguments.draws, alpha=arguments.alpha, bounds=(0, 1))
    function = smoothed(model, sigma, num_draws=arguments.attack_draws)
    attack = attacks.PGD(norm=2, steps=arguments.steps, batch_size=50)
    rows, before = [], smoothed_classes(model, images, sigma) == labels
    for radius in (radius for radius in RADII if radius <= 4 * sigma):
        result = attack(function, images, labels, epsilon=radius)
        standing = before & (smoothed_classes(model, result.adversarials, sigma) == labels)
        certified = (certificates.classes == labels) & (certificates.radius >= radius)
        rows.append(
            {
                "sigma": sigma,
                "radius": radius,
                "certified": int(certified.sum()),
                "standing": int(standing.sum()),
                "fooled though certified": int((certified & ~standing).sum()),
            }
        )
    abstained = int((certificates.classes < 0).sum())
    plain = float((np.argmax(model.predict(images, verbose=0), axis=-1) == labels).mean())
    return {"rows": rows, "images": len(labels), "abstained": abstained, "accuracy without noise": plain}


def lines(cases: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each σ and radius."""
    return [
        {
            "σ": f"{row['sigma']:g}",
            "l2 radius": f"{row['radius']:g}",
            "certified accuracy": wilson(row["certified"], case["images"]),
            "under PGD on the smoothed classifier": wilson(row["standing"], case["images"]),
            "fooled though certified": str(row["fooled though certified"]),
        }
        for case in cases.values()
        for row in case["rows"]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sigmas", nargs="+", type=float, default=[0.25, 0.5])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--draws", type=int, default=10_000, help="for each certificate")
    parser.add_argument("--alpha", type=float, default=0.001)
    parser.add_argument("--steps", type=int, default=20, help="of PGD")
    parser.add_argument("--attack-draws", type=int, default=32, help="whose mean is a gradient")
    parser.add_argument("--runs", type=Path, default=Path("results/runs"))
    parser.add_argument("--data-dir")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/smoothing.json"))
    arguments = parser.parse_args()
    names = ("images", "draws", "alpha", "steps", "attack_draws")
    config = {name: getattr(arguments, name) for name in names} | {"seed": 0}
    stored = read_json(arguments.out) if arguments.out.is_file() else {}
    cases = stored["cases"] if stored.get("config") == config else {}
    for sigma in arguments.sigmas:
        cases[f"{sigma:g}"] = measure(sigma, arguments)
        write_json(arguments.out, {"config": config, "cases": cases, "versions": versions()})
    print(table(lines(cases)))


if __name__ == "__main__":
    main()
