"""The command ``board``, which needs nothing of what is heavy here."""

import argparse
import contextlib
import threading
from pathlib import Path

from keras_fim.arguments import require


def board(arguments: argparse.Namespace) -> None:
    """Serve TensorBoard until Ctrl-C."""
    folder: Path = arguments.folder
    name, logs = repr(str(folder)), next(folder.rglob("events.out.tfevents.*"), None)
    require(folder.is_dir(), f"`folder` should be a folder of runs. Received: {name}, which does not exist")
    require(logs, f"`folder` should hold TensorBoard logs, in it or below. Received: {name}")
    port = [] if arguments.port is None else ["--port", str(arguments.port)]
    require(not port or 0 <= arguments.port < 65536, f"`--port` should be from 0 to 65535. Received: {arguments.port}")
    from tensorboard import program

    server = program.TensorBoard()
    server.configure([None, "--logdir", str(folder), "--host", arguments.host, *port])
    try:
        url = server.launch()
    except program.TensorBoardServerException as error:
        raise ValueError(f"TensorBoard did not start: {error}") from error
    print(f"TensorBoard of {folder} at {url} (Ctrl-C ends it)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
