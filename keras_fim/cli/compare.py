"""The commands that train or attack several models and compare them: ``compare``, ``detect`` and ``demo``."""

import argparse
import sys
from pathlib import Path

from keras_fim.cli.options import SMOKE_TEST, data_options, given, training_options
from keras_fim.training.defending import COMPARED


def compare(arguments: argparse.Namespace) -> None:
    """Compare defenses, and print the table."""
    from keras_fim.data import short_name
    from keras_fim.evaluation.plans import say
    from keras_fim.training.comparison import compare

    folder = arguments.out or Path("results/runs") / f"compare-{short_name(arguments.data)}"
    comparison = compare(
        arguments.data,
        folder,
        [name for text in arguments.defenses or COMPARED for name in text.split(",") if name],
        changes=training_options(arguments, skip=("data", "bounds")),
        on_progress=say,
        **given(arguments, "seeds", "max_samples", "quick", "data_dir", "image_size", "bounds"),
    )
    files = f"{folder}: comparison.md, .csv, .json and .png"
    print(f"\n{comparison}\n\nwritten to {files}\nreport: {folder / 'report.html'}")
    if arguments.quick:
        print(SMOKE_TEST)


def detect(arguments: argparse.Namespace) -> None:
    """Measure the detectors on each model and print its table."""
    from keras_fim.training.detecting import evaluate_detection

    options = given(arguments, "max_samples", "max_adaptive", "false_positive_rate")
    options["on_progress"] = lambda line: print(line, file=sys.stderr, flush=True)
    data = data_options(arguments, arguments.data)
    for name in arguments.models:
        print(f"{evaluate_detection(name, arguments.out, data, **options)}\n", flush=True)


def demo(arguments: argparse.Namespace) -> None:
    """Run the demo and print its table."""
    from keras_fim.training.demo import run_demo

    print(run_demo(arguments.out, arguments.export, **given(arguments, "mu", "epochs", "seed")))
