"""A model server on loopback: the small one of these tests, and TensorFlow Serving where it is installed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from tests.export.conftest import exported  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass
class Server:
    """Where it listens, and its process."""

    address: str
    url: str
    process: subprocess.Popen
    exported: object

    @property
    def alive(self):
        return self.process.poll() is None


@pytest.fixture(scope="session", params=["loopback", "tensorflow_model_server"])
def server(request, exported, tmp_path_factory, loopback):  # noqa: F811
    pytest.importorskip("tensorflow_serving", reason="needs the extra [serving]")
    folder = tmp_path_factory.mktemp("server")
    start = _loopback if request.param == "loopback" else _tensorflow_serving
    with open(folder / "log", "w") as log:
        process, ports = start(exported.path.parent, folder, log)
        try:
            yield Server(f"127.0.0.1:{ports['grpc']}", f"http://127.0.0.1:{ports['rest']}", process, exported)
            assert process.poll() is None, (folder / "log").read_text()
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


def _loopback(models, folder, log):
    command = [sys.executable, str(Path(__file__).with_name("model_server.py")), "digits", str(models)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.Popen(command, text=True, env=environment, **pipes)
    line = process.stdout.readline()
    assert line, (folder / "log").read_text()
    return process, json.loads(line)


def _tensorflow_serving(models, folder, log):
    binary = shutil.which("tensorflow_model_server")
    if not binary:
        pytest.skip("tensorflow_model_server is not on PATH")
    config = (ROOT / "serving" / "models.config").read_text()
    config = config.replace('"mnist"', '"digits"').replace('"/models/mnist"', f'"{models}"')
    (folder / "models.config").write_text(config)
    ports = {"grpc": _free_port(), "rest": _free_port()}
    options = {
        "port": ports["grpc"],
        "rest_api_port": ports["rest"],
        "model_config_file": folder / "models.config",
        "enable_batching": "true",
        "batching_parameters_file": ROOT / "serving" / "batching.config",
        "monitoring_config_file": ROOT / "serving" / "monitoring.config",
    }
    command = [binary, *(f"--{name}={value}" for name, value in options.items())]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
    process = subprocess.Popen(command, text=True, **pipes)
    for _ in range(600):
        time.sleep(0.5)
        try:
            states = requests.get(f"http://127.0.0.1:{ports['rest']}/v1/models/digits", timeout=5).json()
        except (requests.RequestException, ValueError):
            continue
        if any(state["state"] == "AVAILABLE" for state in states.get("model_version_status", [])):
            return process, ports
    raise AssertionError((folder / "log").read_text())


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
