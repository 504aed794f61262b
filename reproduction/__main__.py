"""``python -m reproduction``: figures and tables of the paper, ``store`` and ``compare``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.argv[0] = "keras-fim"  # so that TensorFlow is imported when it is first used, without its messages

from keras_fim.cli.errors import run_safely
from keras_fim.cli.options import add_option, add_training_options, training_options

__all__ = ["main"]

_PAPER = """Measure figures and tables of the paper on MNIST (figure 4: on all three datasets), beside what the paper
prints, as PNG, CSV and Markdown with a page that shows them all. Models are taken from the stored weights, or trained
and then stored. An interrupted run continues at the first measurement that is missing.

targets: figure1 to figure5, table1, table2, strong, study, all

examples:
  python -m reproduction table1 --quick        100 images, one seed
  python -m reproduction figure2 figure3
  python -m reproduction all
  python -m reproduction store --help          keep a run's weights under a name
  python -m reproduction compare --help        the defenses on a dataset
  python -m reproduction strongest --help      the strongest attack on the defenses that matter
"""
_STORE = """Store the weights of finished runs as float16 under results/models/NAME, and measure the stored weights on
the test images.

examples:
  python -m reproduction store results/runs/mnist-plain results/runs/mnist-fisher
  python -m reproduction store results/runs/mnist-mu0.02-seed0 --name mnist-fisher
"""
_STRONGEST = """Attack the defenses that matter with the strongest attack and all its steps: the accuracy that is left
on 300 test images of MNIST, 100 of the others. Accuracy and cost come from `compare`; the README shows the table of
MNIST. An interrupted run continues where it was.

examples:
  python -m reproduction strongest mnist
  python -m reproduction strongest cifar10 gtsrb
"""
_HASHES = """Write the hashes of a dataset's training images, by which `keras-fim evaluate` recognizes images that the
named weights were trained on.

example:
  python -m reproduction hashes mnist
"""
_COMPARE = """Train the defenses chosen for a dataset, attack all of them alike, and say what each costs: a table as
JSON, CSV and Markdown, and a figure. Models are taken from the stored weights, or trained and then stored. An
interrupted run continues where it was.

examples:
  python -m reproduction compare mnist5k --quick
  python -m reproduction compare mnist --defenses spectral n-fgm --seeds 0
  python -m reproduction compare gtsrb --quick --out results/defenses/gtsrb
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; bad input ends in one line on stderr and exit code 2.

    Args:
        argv: The arguments; ``None`` for those of the process.

    Returns:
        The exit code.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    name = argv[0] if argv and argv[0] in _COMMANDS else ""
    description, add_arguments, run = _COMMANDS[name]
    parser = argparse.ArgumentParser(
        prog=f"python -m reproduction {name}".strip(),
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    add_option(parser, "--data-dir")
    arguments = parser.parse_args(argv[1:] if name else argv)
    return run_safely(lambda: run(arguments))


def _paper_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("targets", nargs="+", metavar="TARGET", help="What to measure.")
    parser.add_argument("--quick", action="store_true", help="Take 100 images, one seed and shorter trainings.")
    parser.add_argument(
        "--out", type=Path, help="Folder for results (default: results/paper, with --quick results/runs/paper)."
    )


def _paper(arguments: argparse.Namespace) -> None:
    from reproduction.bench import FULL, QUICK, PaperBench
    from reproduction.paper import reproduce

    folder = arguments.out or Path("results/runs/paper" if arguments.quick else "results/paper")
    bench = PaperBench(folder, QUICK if arguments.quick else FULL, data_dir=arguments.data_dir)
    for report in reproduce(bench, arguments.targets):
        print(f"\n{report.markdown()}")
    print(f"written to {folder}: README.md shows everything")


def _store_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="Folder of a finished run.")
    parser.add_argument("--name", help="Name of the stored weights, for a single run (default: that of its folder).")


def _store(arguments: argparse.Namespace) -> None:
    from reproduction.storing import store_run

    if arguments.name and len(arguments.runs) > 1:
        raise ValueError(f"`--name` should go with one run. Received: {len(arguments.runs)} runs")
    for path in arguments.runs:
        name = arguments.name or path.name
        results = store_run(path, name, data_dir=arguments.data_dir)["results"]
        stored = results["stored"]
        print(
            f"{name}: test accuracy {100 * stored['test_accuracy']:.2f} % as float16 "
            f"({100 * results['test_accuracy']:.2f} % before), {stored['bytes'] / 1e6:.2f} MB"
        )


def _hashes_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", help="Dataset: mnist, gtsrb or cifar10.")


def _hashes(arguments: argparse.Namespace) -> None:
    from keras_fim import data
    from keras_fim.training.trained import STORED_HASHES, image_hashes, write_hashes

    hashes = image_hashes(data.load(arguments.data, 500, data_dir=arguments.data_dir)[0])
    print(f"{len(hashes)} hashes: {write_hashes(STORED_HASHES / f'{arguments.data}.npy', hashes)}")


def _strongest_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="+", choices=["mnist", "gtsrb", "cifar10"], help="Datasets.")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="Seeds (default: those that were compared).")
    parser.add_argument("--out", type=Path, default=Path("results/defenses"), help="Results (default: %(default)s).")


def _strongest(arguments: argparse.Namespace) -> None:
    from reproduction.strongest import strongest
    from reproduction.workbench import Workbench

    for name in arguments.data:
        bench = Workbench(arguments.out / name, data_dir=arguments.data_dir)
        text = strongest(bench, name, arguments.seeds)
        print(f"\n{name}\n\n{text}\n\nwritten to {bench.folder}: strongest.md and .json")


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", help="Dataset: mnist, gtsrb, cifar10 or mnist5k.")
    parser.add_argument("--defenses", nargs="+", metavar="NAME", help="Contestants (default: those of the dataset).")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="Seeds (default: those of the contestant).")
    parser.add_argument("--max-samples", type=int, metavar="N", help="Number of test images to attack.")
    parser.add_argument("--quick", action="store_true", help="Take a quarter of the strong attack's steps.")
    add_training_options(parser, ("epochs", "limit"))
    parser.add_argument(
        "--out",
        type=Path,
        help="Folder for results (default: results/defenses/DATA; of a smaller trial RUNS/defenses/DATA).",
    )
    parser.add_argument("--runs", type=Path, default=Path("results/runs"), help="Runs (default: %(default)s).")


def _compare(arguments: argparse.Namespace) -> None:
    from reproduction.contest import contest
    from reproduction.contestants import DEFAULTS, IMAGES
    from reproduction.workbench import Workbench

    if arguments.data not in DEFAULTS:
        raise ValueError(f"`data` should be one of {', '.join(DEFAULTS)}. Received: data={arguments.data!r}")
    usual = DEFAULTS[arguments.data]
    names = dict.fromkeys(["none", *(arguments.defenses or usual)])
    defenses = {name: tuple(dict.fromkeys(arguments.seeds or usual.get(name, (0,)))) for name in names}
    changes = training_options(arguments, skip=("data",))
    trial = arguments.defenses or arguments.seeds or arguments.max_samples is not None or arguments.quick or changes
    folder = arguments.out or (arguments.runs if trial else Path("results")) / "defenses" / arguments.data
    max_samples = IMAGES[arguments.data] if arguments.max_samples is None else arguments.max_samples
    if max_samples < 1:
        raise ValueError(f"`--max-samples` should be a positive integer. Received: {max_samples}")
    bench = Workbench(folder, runs=arguments.runs, data_dir=arguments.data_dir)
    comparison = contest(
        bench, arguments.data, defenses, max_samples=max_samples, quick=arguments.quick, changes=changes
    )
    print(f"\n{comparison}\n\nwritten to {bench.folder}: comparison.md, .csv, .json and .png")


_COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[Any], None]]] = {
    "": (_PAPER, _paper_arguments, _paper),
    "store": (_STORE, _store_arguments, _store),
    "hashes": (_HASHES, _hashes_arguments, _hashes),
    "strongest": (_STRONGEST, _strongest_arguments, _strongest),
    "compare": (_COMPARE, _compare_arguments, _compare),
}

if __name__ == "__main__":
    sys.exit(main())
