"""Robust accuracy by our AutoAttack and `Strong` beside the official AutoAttack (fra31/auto-attack), on stored weights.

    python benchmarks/autoattack.py --official FOLDER --torch-python PYTHON
    python benchmarks/autoattack.py --cells mnist-fisher:l2:1.5 --images 50 --out /tmp/cells.json

FOLDER is a checkout of the official code, of which nothing is kept here; PYTHON is an interpreter with torch. Where one
of them is missing, ours are measured alone. The weights are ported layer by layer, and the logits compared. Both get
the same images: by default the digits embedded in the package, which overlap with MNIST's training images; that does
not matter for a comparison of attacks, but these are no accuracies to quote. A run that was stopped goes on after the
last cell, and the official attack after its last stage. CPU seconds are of one process each, ours after a call on two
images, which compiles.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from keras_fim import data
from keras_fim.attacks import AutoAttack, Strong
from keras_fim.attacks.staged import StagedAttack
from keras_fim.evaluation import samples
from keras_fim.logits import logits_function
from keras_fim.records import read_json, versions, write_json
from keras_fim.training import load_model

CELLS = ["mnist-fisher:l2:1.5", "mnist-fisher:linf:0.1"]
OUT = Path("results/benchmarks/autoattack.json")
WORK = Path("results/runs/autoattack")
NORMS = {"l1": (1.0, "L1"), "l2": (2.0, "L2"), "linf": (np.inf, "Linf")}
WITHOUT_WEIGHTS = {"InputLayer", "Softmax", "Activation"}


def chain_of(model: Any) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """A Keras model that is a chain of layers, in words, and its arrays by name."""
    chain: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    for layer in model.layers:
        kind = type(layer).__name__
        if kind in WITHOUT_WEIGHTS and getattr(getattr(layer, "activation", None), "__name__", "") != "relu":
            continue
        names = [f"weight{len(arrays) + place}" for place in range(len(layer.get_weights()))]
        arrays |= dict(zip(names, layer.get_weights(), strict=True))
        options = {key: float(getattr(layer, key)) for key in ("scale", "offset", "epsilon") if hasattr(layer, key)}
        chain.append({"kind": "ReLU" if kind == "Activation" else kind, "weights": names, **options})
    return chain, arrays


def clocked(attack: StagedAttack, model: Any, images: np.ndarray, labels: np.ndarray, epsilon: float) -> dict[str, Any]:
    """Who stands, and the CPU seconds of each stage."""
    seconds: dict[str, float] = {}

    class Timed(type(attack)):  # type: ignore[misc]
        """The attack, with a look at the clock."""

        def _run(self, stage: str, *arguments: Any) -> Any:
            begin = time.process_time()
            result = super()._run(stage, *arguments)
            seconds[stage] = seconds.get(stage, 0.0) + time.process_time() - begin
            return result

    timed = Timed(norm=attack.norm)
    timed(model, images[:2], labels[:2], epsilon=1e-6)  # nobody is fooled, so that all stages are compiled
    seconds.clear()
    begin = time.process_time()
    result = timed(model, images, labels, epsilon=epsilon)
    total = time.process_time() - begin
    standing = np.flatnonzero(result.was_correct & ~result.success)
    fooled = {name: int((result.details["stage"] == number).sum()) for number, name in enumerate(timed.stages)}
    return {
        "clean": int(result.was_correct.sum()),
        "standing": standing.tolist(),
        "fooled": fooled,
        "cpu_seconds": seconds,
        "total_cpu_seconds": total,
    }


def official(
    arguments: argparse.Namespace, cell: str, model: Any, images: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """The same by the official code, in a process of its own."""
    _, norm, epsilon = cell.split(":")
    chain, arrays = chain_of(model)
    fn = logits_function(model)
    settings = {"chain": chain, "norm": NORMS[norm][1], "epsilon": float(epsilon)}
    stem = arguments.work / f"{cell.replace(':', '_')}_{len(images)}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"images": images, "labels": labels, "logits": fn(images).numpy()}
    np.savez(f"{stem}.npz", settings=json.dumps(settings), **tensors, **arrays)
    script = Path(__file__).with_name("autoattack_official.py")
    command = [arguments.torch_python, script, f"{stem}.npz", arguments.official, f"{stem}.json"]
    subprocess.run([str(part) for part in command], check=True)
    return dict(read_json(f"{stem}.json"))


def missing(arguments: argparse.Namespace) -> str:
    """Why the official attack cannot run, or nothing."""
    if arguments.official is None or not (arguments.official / "autoattack" / "autoattack.py").is_file():
        return "no checkout of fra31/auto-attack: pass --official FOLDER"
    if subprocess.run([arguments.torch_python, "-c", "import torch"], capture_output=True, check=False).returncode:
        return f"{arguments.torch_python} has no torch: pass --torch-python PYTHON"
    return ""


def measure(arguments: argparse.Namespace, cell: str, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """One model at one norm and ε."""
    name, norm, epsilon = cell.split(":")
    model, p = load_model(name), NORMS[norm][0]
    row: dict[str, Any] = {"cell": cell, "images": len(images), "data": arguments.data}
    if reason := missing(arguments):
        print(f"the official AutoAttack does not run: {reason}")
    else:
        row["official"] = official(arguments, cell, model, images, labels)
    for attack in (AutoAttack(norm=p), Strong(norm=p)):
        row[type(attack).__name__] = clocked(attack, model, images, labels, float(epsilon))
    show(row)
    return row


def show(row: dict[str, Any]) -> None:
    """A line for each attack, and who stands under one and not under the other."""
    count = row["images"]
    for name in ("AutoAttack", "Strong"):
        entry = row[name]
        seconds = {stage: round(value, 1) for stage, value in entry["cpu_seconds"].items()}
        robust = f"{len(entry['standing']) / count:6.1%} of {entry['clean'] / count:.1%}"
        print(f"{row['cell']:22} {name:10} robust {robust}, CPU {entry['total_cpu_seconds']:.0f} s {seconds}")
    if "official" in row:
        stages = row["official"]["stages"]
        standing = list(stages.values())[-1]["standing"]
        seconds = {stage: round(entry["cpu_seconds"], 1) for stage, entry in stages.items()}
        print(f"{row['cell']:22} official   robust {len(standing) / count:6.1%}, CPU {seconds}")
        own = row["AutoAttack"]["standing"]
        print(f"  stand under ours only: {sorted(set(own) - set(standing))}, under the official one only: ", end="")
        print(sorted(set(standing) - set(own)), flush=True)


def cell_of(text: str) -> str:
    """A cell as it was typed, if it is one."""
    if re.fullmatch(rf".+:({'|'.join(NORMS)}):\d*\.?\d+(e-?\d+)?", text) is None:
        expected = f"MODEL:NORM:EPSILON with a norm of {', '.join(NORMS)}, such as {CELLS[0]}"
        raise argparse.ArgumentTypeError(f"{text!r} should be {expected}")
    return text


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cells", nargs="+", type=cell_of, default=CELLS, help="MODEL:NORM:EPSILON (default: %(default)s)"
    )
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--data", default="mnist5k")
    parser.add_argument("--official", type=Path, help="a checkout of fra31/auto-attack")
    parser.add_argument("--torch-python", default=sys.executable, help="an interpreter with torch")
    parser.add_argument("--work", type=Path, default=WORK, help="where the official attack keeps its finished stages")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    images, labels = samples(data.load(arguments.data, arguments.images)[1], arguments.images)
    images = np.asarray(images, "float32")
    kept = read_json(arguments.out)["results"] if arguments.out.is_file() else []
    rows = {(row["cell"], row["images"], row["data"]): row for row in kept}
    for cell in arguments.cells:
        key = (cell, len(images), arguments.data)
        if key in rows and ("official" in rows[key] or missing(arguments)):
            show(rows[key])
            continue
        rows[key] = measure(arguments, cell, images, np.asarray(labels))
        write_json(arguments.out, {"results": list(rows.values()), "versions": versions()})


if __name__ == "__main__":
    main()
