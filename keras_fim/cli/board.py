"""Show runs in TensorBoard.

Start TensorBoard on a run, or on a folder of runs, and say where to open it. Custom Scalars shows
fooling ratios by epoch, Images curves and adversarial examples, HParams one row for each run. Ctrl-C ends it.

Examples:
  keras-fim board results/runs/mnist-mu0.02-seed0
  keras-fim board results/runs --port 6007
  keras-fim board results/runs/mnist-sweep-seed0 --host 0.0.0.0   to be seen from other machines
"""

import argparse
import contextlib
import threading
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("folder", type=Path, help="Folder of a run, or of several runs.")
    parser.add_argument("--port", type=int, help="Port to listen on; 0 for any (default: the first free from 6006).")
    parser.add_argument("--host", default="localhost", help="Host to listen on (default: %(default)s).")


def run(arguments: argparse.Namespace) -> None:
    """Serve until Ctrl-C."""
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
