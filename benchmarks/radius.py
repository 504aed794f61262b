"""How well scores of an image tell how far its nearest adversarial is, before and after calibration.

    python benchmarks/radius.py --out results/benchmarks/radius.json

For the stored weights, on their own data: the l2 distance to the nearest change of the predicted class that FMN or
DeepFool finds, beside the boundary radius, the radius derived from λ_max (``kl_radius``), 1/√λ_max, the Fisher-Rao
distance to the boundary over √λ_max, and the confidence. Printed are the rank correlation with that distance, and of
the radii the median and the 90th percentile of their ratio to it. The factor is fitted on validation images, for 90 %;
``held`` is the share of other, test images whose adversarial lies beyond the calibrated radius, with the interval in
which it should be by chance (95 %).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binom, spearmanr

from keras_fim import data
from keras_fim.evaluation import boundary_radius, calibrate, samples
from keras_fim.evaluation.measurement import probabilities
from keras_fim.evaluation.radius import radius_and_distance
from keras_fim.evaluation.report import table
from keras_fim.fisher import fisher_spectrum
from keras_fim.logits import logits_function
from keras_fim.records import versions, write_json
from keras_fim.training.trained import load_model, record_of

MODELS = ("mnist-plain", "mnist-fisher", "cifar10-plain", "cifar10-fisher", "gtsrb-plain", "gtsrb-fisher")
DEFENDED = ("mnist-n-fgm-noisy", "mnist-spectral", "cifar10-n-fgm", "gtsrb-n-fgm")
MODELS += tuple(f"results/models/defense-{name}-seed0" for name in DEFENDED)
SHARE, TINY = 0.9, 1e-30


def scores(model: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """What is said of each image: radii, whose ratio to the distance means something, and other scores."""
    logits_fn = logits_function(model)
    root = np.sqrt(np.maximum(fisher_spectrum(model, images).eigenvalues[:, 0].numpy().astype(np.float64), TINY))
    first, second = np.sort(probabilities(logits_fn, images).astype(np.float64), axis=-1)[:, :-3:-1].T
    angle = 2 * np.arcsin(np.maximum(np.sqrt(first) - np.sqrt(second), 0) / np.sqrt(2))
    return {
        "boundary radius": boundary_radius(model, images).radius,
        "KL radius": np.minimum(np.sqrt(2 * np.log(2)) / root, np.sqrt(images[0].size)),
        "Fisher-Rao / √λ": angle / root,
        "1 / √λ": 1 / root,
        "confidence": first,
    }


def measure(name: str, count: int, data_dir: str | None) -> dict[str, Any]:
    """The figures of one model."""
    model, source = load_model(name), record_of(name)["config"]["data"]
    splits = data.load_splits(source, data_dir=data_dir)
    validation, (images, _) = samples(splits.validation, count, seed=1)[0], samples(splits.test, count, seed=1)
    calibration = calibrate(model, validation, share=SHARE, bounds=(0, 1))
    radius, distance = radius_and_distance(model, images, bounds=(0, 1))
    defined, hit = ~np.isnan(radius), np.isfinite(distance)
    row: dict[str, Any] = {"images": count, "without_radius": int((~defined).sum()), "not_fooled": int((~hit).sum())}
    for score, values in scores(model, images).items():
        kept = defined & hit
        row[score] = {"rank": float(spearmanr(values[kept], distance[kept]).statistic)}
        if score != "confidence":
            median, high = np.quantile(values[kept] / distance[kept], (0.5, 0.9)).tolist()
            row[score] |= {"median": median, "q90": high}
    held = calibration.factor * radius[defined] <= distance[defined]
    low, high = binom.interval(0.95, len(held), SHARE)
    row["calibration"] = {**calibration.as_dict(), "held": float(held.mean())}
    return row | {"held_by_chance": [low / len(held), high / len(held)]}


def rows(cases: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each model and score."""
    lines = []
    for name, case in cases.items():
        for score in [key for key, value in case.items() if isinstance(value, dict) and "rank" in value]:
            figures = {key: f"{value:.2f}" for key, value in case[score].items()}
            lines.append({"model": name, "score": score, "rank": "", "median": "", "q90": ""} | figures)
        factor, (low, high) = case["calibration"]["factor"], case["held_by_chance"]
        held = f"{factor:.2f} held on {100 * case['calibration']['held']:.1f} % ({100 * low:.1f}-{100 * high:.1f})"
        calibrated = {key: f"{factor * case['boundary radius'][key]:.2f}" for key in ("median", "q90")}
        lines.append({"model": name, "score": f"boundary radius x {held}", "rank": ""} | calibrated)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--images", type=int, default=200, help="for the calibration, and as many to test it")
    parser.add_argument("--data-dir")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/radius.json"))
    arguments = parser.parse_args()
    cases = {name: measure(name, arguments.images, arguments.data_dir) for name in arguments.models}
    config = {"images": arguments.images, "share": SHARE, "norm": "l2", "seed": 1}
    write_json(arguments.out, {"config": config, "cases": cases, "versions": versions()})
    print(table(rows(cases)))


if __name__ == "__main__":
    main()
