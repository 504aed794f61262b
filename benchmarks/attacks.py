"""Speed and strength of the attacks beside those of CleverHans, Foolbox and ART, in one run on one model.

    python benchmarks/attacks.py                        # about 10 minutes on two quiet cores
    python benchmarks/attacks.py --only "PGD-40 linf"   # one row; with --out it takes its place among the others
    python benchmarks/attacks.py --full --memory        # more images, slow peers, a process for each

Needs the extra [peers]. All libraries get the same images, ε, number and length of steps, in batches of 128. Each is
called once before it is timed, and then in turn with the others, so that a change in the machine's speed meets all; the
processor's time (in brackets: its ratio) tells more where others use the machine. Ours is timed with its final look at
what it found, which the peers' functions leave to their callers. Fooling ratios and median distances (infinite for
those that stand) are over the samples that were correct. Evaluations are counted in a separate run on the first images.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from attack_peers import CountedLogits, Logits, Run, targets
from attack_rows import ROWS, Row

from keras_fim import data, plots
from keras_fim.attacks.lp import norms
from keras_fim.evaluation import samples
from keras_fim.records import read_json, versions, write_json
from keras_fim.training import load_model

COUNTED = 16
PEERS = ("foolbox", "adversarial-robustness-toolbox")


def strength(
    row: Row, model: keras.Model, images: np.ndarray, labels: np.ndarray, adversarials: np.ndarray
) -> dict[str, Any]:
    """Fooling ratio and, without ε, the median distance; nothing outside of the bounds or ε counts."""
    if row.epsilon is not None and adversarials.dtype == images.dtype:
        allowed = norms(adversarials - images, row.norm) <= row.epsilon * 1.00001
    else:
        allowed = np.ones(len(images), bool)
    allowed &= ((adversarials >= -1e-6) & (adversarials <= 1 + 1e-6)).reshape(len(adversarials), -1).all(axis=1)
    correct = model.predict(images, verbose=0).argmax(axis=-1) == labels
    predicted = model.predict(adversarials, verbose=0).argmax(axis=-1)
    fooled = allowed & (predicted == targets(labels) if row.targeted else predicted != labels)
    distances = np.where(fooled, norms(adversarials - images, row.norm), np.inf)[correct]
    median = None if row.epsilon is not None else float(np.median(distances))
    return {"fooling_ratio": float(fooled[correct].mean()), "median_distance": median}


def evaluations(row: Row, name: str, model: keras.Model, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Forward and backward passes for each image."""
    counted = CountedLogits(model)
    row.entries[name](counted)(images[:COUNTED], labels[:COUNTED])
    counts = {"forwards": counted.forwards, "backwards": counted.backwards}
    return {key: int(value.numpy()) / len(images[:COUNTED]) for key, value in counts.items()}


def timed(runs: dict[str, Run], images: np.ndarray, labels: np.ndarray, repeats: int) -> dict[str, dict[str, float]]:
    """Images per second of each run and its processor time for an image, medians of calls in turn."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            wall, processor = time.perf_counter(), time.process_time()
            run(images, labels)
            seconds[name].append((time.perf_counter() - wall, time.process_time() - processor))
    medians = {
        name: [statistics.median(values) for values in zip(*pairs, strict=True)] for name, pairs in seconds.items()
    }
    return {
        name: {"images_per_second": len(images) / wall, "processor_milliseconds": 1000 * processor / len(images)}
        for name, (wall, processor) in medians.items()
    }


def measure(row: Row, model: keras.Model, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: every library on the same images."""
    images, labels = pictures(row, arguments)
    logits = Logits(model, compiled=arguments.compiled)
    names = [name for name in row.entries if arguments.full or name not in row.slow]
    runs = {name: row.entries[name](logits) for name in names}
    adversarials = {name: run(images, labels) for name, run in runs.items()}
    speeds = timed(runs, images, labels, arguments.repeats)
    entries = {}
    for name in names:
        entries[name] = {
            **speeds[name],
            **strength(row, model, images, labels, adversarials[name]),
            **evaluations(row, name, model, images, labels),
            "peak_megabytes": memory(row.name, name, arguments) if arguments.memory else None,
        }
    return {
        "row": row.name,
        "epsilon": row.epsilon,
        "images": len(images),
        "entries": entries,
        "ratios": ratios(entries),
    }


def ratios(entries: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Ours over the best peer, figure by figure: speed, processor time, fooling ratio (difference), median distance."""
    peers = [entry for name, entry in entries.items() if not name.startswith("ours")]
    by_name = {}
    for name, entry in entries.items():
        if name.startswith("ours"):
            speed = entry["images_per_second"] / max(peer["images_per_second"] for peer in peers)
            processor = min(peer["processor_milliseconds"] for peer in peers) / entry["processor_milliseconds"]
            fooling = entry["fooling_ratio"] - max(peer["fooling_ratio"] for peer in peers)
            distance = entry["median_distance"]
            best = None if distance is None else min(peer["median_distance"] for peer in peers)
            shorter = None if distance is None else distance / best if best < np.inf else 0.0
            by_name[name] = {
                **{"speed": speed, "processor": processor},
                **{"fooling_ratio": fooling, "median_distance": shorter},
            }
    return by_name


def pictures(row: Row, arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    count = arguments.images or row.images[arguments.full]
    return samples(data.load("mnist", count, test_limit=count)[1])


def memory(row: str, name: str, arguments: argparse.Namespace) -> float:
    """Growth of the peak of resident memory by one call, in a process of its own."""
    options = ["--full"] * arguments.full + ["--compiled"] * arguments.compiled
    options += ["--images", str(arguments.images)] if arguments.images else []
    command = [sys.executable, __file__, "--child", row, name, *options]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(process.stdout.splitlines()[-1])


def child(row_name: str, name: str, arguments: argparse.Namespace) -> None:
    """What `memory` starts."""
    (row,) = [row for row in ROWS if row.name == row_name]
    model, (images, labels) = load_model("mnist-plain"), pictures(row, arguments)
    model.predict(images, verbose=0)
    run = row.entries[name](Logits(model, compiled=arguments.compiled))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(images, labels)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def show(result: dict[str, Any]) -> None:
    print(f"\n{result['row']}  (epsilon {result['epsilon']}, {result['images']} images)")
    for name, entry in result["entries"].items():
        ratio = result["ratios"].get(name)
        print(
            f"  {name:20} {entry['images_per_second']:9.1f} images/s"
            + f"  {entry['processor_milliseconds']:7.2f} ms processor  fooled {entry['fooling_ratio']:6.1%}"
            + (f"  median {entry['median_distance']:.4f}" if entry["median_distance"] is not None else "")
            + f"  {entry['forwards']:.0f} forwards, {entry['backwards']:.0f} backwards"
            + (f"  {entry['peak_megabytes']:.0f} MB" if entry["peak_megabytes"] is not None else "")
            + (f"  {ratio['speed']:.2f} times the fastest peer ({ratio['processor']:.2f})" if ratio else ""),
            flush=True,
        )


def chart(results: list[dict[str, Any]], path: Path) -> None:
    """Images per second, one group of bars for each attack."""
    names = list(dict.fromkeys(name for result in results for name in result["entries"]))
    title = "Images per second of each attack on the MNIST ConvNet, CPU"
    figure, (axes,) = plots.panels(title=title, ylabel="images per second", size=(1.5 + 1.2 * len(results), 4.2))
    width = 0.84 / len(names)
    for index, name in enumerate(names):
        entries = [(at, result["entries"][name]) for at, result in enumerate(results) if name in result["entries"]]
        places = [at + (index - (len(names) - 1) / 2) * width for at, _ in entries]
        hatch = "//" * (index // len(plots.PALETTE))  # colors begin anew
        axes.bar(places, [entry["images_per_second"] for _, entry in entries], width, label=name, hatch=hatch)
    axes.set(yscale="log")
    axes.set_xticks(range(len(results)), [result["row"] for result in results], rotation=20, ha="right")
    axes.grid(visible=False, axis="x")
    axes.legend(ncols=len(names), fontsize="small", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[row.name for row in ROWS], nargs="+", help="these rows")
    parser.add_argument("--images", type=int, help="how many, whatever the row says")
    parser.add_argument("--full", action="store_true", help="more images, and the slow peers")
    parser.add_argument("--compiled", action="store_true", help="give the peers a compiled model, too")
    parser.add_argument("--memory", action="store_true", help="measure each in a process of its own")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="default: results/benchmarks/attacks.json, without --only")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    keras.utils.set_random_seed(arguments.seed)
    if arguments.child:
        return child(*arguments.child, arguments)
    model, results = load_model("mnist-plain"), {}
    out = arguments.out or (None if arguments.only else Path("results/benchmarks/attacks.json"))
    if arguments.only and out and out.is_file():
        results = {row["row"]: row for row in read_json(out)["rows"]}
    for row in ROWS:
        if not arguments.only or row.name in arguments.only:
            results[row.name] = measure(row, model, arguments)
            show(results[row.name])
            if out:  # after each row, so that little is lost
                store(out, [results[row.name] for row in ROWS if row.name in results], arguments)


def store(out: Path, results: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    shown = {key: value for key, value in vars(arguments).items() if key not in ("out", "child")}
    libraries = versions() | {name: importlib.metadata.version(name) for name in PEERS}
    write_json(out, {"config": {"model": "mnist-plain", **shown}, "rows": results, "versions": libraries})
    chart(results, out.with_suffix(".png"))


if __name__ == "__main__":
    main()
