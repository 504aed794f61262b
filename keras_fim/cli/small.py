"""The commands ``compare``, ``board``, ``detect`` and ``demo``."""

import argparse
import contextlib
import sys
import threading
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


def board(arguments: argparse.Namespace) -> None:
    """Serve TensorBoard until Ctrl-C."""
    folder: Path = arguments.folder
    if not folder.is_dir():
        raise ValueError(f"`folder` should be a folder of runs. Received: {str(folder)!r}, which does not exist")
    if next(folder.rglob("events.out.tfevents.*"), None) is None:
        raise ValueError(f"`folder` should hold TensorBoard logs, in it or below. Received: {str(folder)!r}")
    if arguments.port is not None and not 0 <= arguments.port < 65536:
        raise ValueError(f"`--port` should be from 0 to 65535. Received: {arguments.port}")
    from tensorboard import program

    port = [] if arguments.port is None else ["--port", str(arguments.port)]
    server = program.TensorBoard()
    server.configure([None, "--logdir", str(folder), "--host", arguments.host, *port])
    try:
        url = server.launch()
    except program.TensorBoardServerException as error:
        raise ValueError(f"TensorBoard did not start: {error}") from error
    print(f"TensorBoard of {folder} at {url} (Ctrl-C ends it)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


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
