"""Time of a training step of each defense over that of plain training, on the model and the shape of a data set.

    python benchmarks/defense_step.py --data mnist --out results/benchmarks/defense_step_mnist.json

The ratios are of CPU seconds, which other processes disturb least, and of wall-clock seconds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from keras_fim import data
from keras_fim.records import versions, write_json
from keras_fim.training import recipe
from keras_fim.training.defending import NAMES
from keras_fim.training.run import step_costs

KRYLOV = {"direction": "krylov"}
VARIANTS = {
    **{name: (name, {}) for name in NAMES},
    "spectral, Krylov": ("spectral", KRYLOV),
    "spectral, central": ("spectral", {"difference": "central"}),
    "spectral, share 0.5": ("spectral", {"share": 0.5}),
    "spectral, share 0.25": ("spectral", {"share": 0.25}),
    "n-fgm, inference": ("n-fgm", {"attack_mode": "inference"}),
    "pgd, inference": ("pgd", {"attack_mode": "inference"}),
    "spectral+n-fgm": ("spectral+n-fgm", {}),
    "trades, 10 steps": ("trades", {"attack_steps": 10}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=data.names(), default="mnist")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=12, help="rounds of three steps each")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    names = ["none", *(name for name in VARIANTS if name in arguments.only and name != "none")]
    configs = {
        name: recipe(arguments.data, defense=defense, defense_options=options, batch_size=arguments.batch_size)
        for name, (defense, options) in VARIANTS.items()
        if name in names
    }
    costs = step_costs(configs, rounds=arguments.rounds)
    result = {"data": arguments.data, "batch_size": arguments.batch_size, "rounds": arguments.rounds}
    out = arguments.out or Path(f"results/benchmarks/defense_step_{arguments.data}.json")
    write_json(out, {**result, "costs": costs, "versions": versions()})
    print(f"a plain step takes {1000 * costs['none']['seconds']:.0f} ms; the others, times that (CPU, wall):")
    for name, cost in costs.items():
        print(f"{name:30} {cost['cpu']:5.2f} {cost['wall']:5.2f}")


if __name__ == "__main__":
    main()
