"""CPU time of what the command line answers without TensorFlow, relative to ``python -c pass``.

python benchmarks/command_line.py [--rounds N] [--out FILE]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

from keras_fim import cli
from keras_fim.records import versions, write_json

LIMIT = 0.5  # CPU seconds, for an answer that feels immediate


def cpu_seconds(command: list[str]) -> float:
    """The CPU time of a process and its children."""
    before = os.times()
    subprocess.run(command, capture_output=True, check=False)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="Rounds, in each of which everything runs once.")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/command_line.json"))
    arguments = parser.parse_args()
    program = str(Path(sys.executable).with_name("keras-fim"))
    wrong = [["evalute"], ["verify", "saved", "--verbsoe"], ["train", "--data", "mnist", "--defense", "nfgm"]]
    helps = [[name, "--help"] for name in cli._COMMANDS]
    calls = [[], ["--help"], ["--version"], ["completion", "bash"], *helps, *wrong]
    seconds: dict[str, list[float]] = {"python -c pass": []}
    for _ in range(arguments.rounds):
        seconds["python -c pass"].append(cpu_seconds([sys.executable, "-c", "pass"]))
        for call in calls:
            seconds.setdefault(" ".join(["keras-fim", *call]), []).append(cpu_seconds([program, *call]))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    plain = medians["python -c pass"]
    for name, value in medians.items():
        print(f"{name:50} {value:6.3f} s  {value / plain:5.1f} times python -c pass")
    config = {"rounds": arguments.rounds, "limit": LIMIT}
    write_json(arguments.out, {"config": config, "seconds": medians, "versions": versions()})
    if max(medians.values()) > LIMIT:
        sys.exit(f"some answers take more than {LIMIT} CPU seconds")


if __name__ == "__main__":
    main()
