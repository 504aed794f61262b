"""The command ``board``."""

import argparse
import contextlib
import threading
from pathlib import Path


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
