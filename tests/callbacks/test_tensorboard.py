"""What a person sees: the real TensorBoard server, opened in a browser; and the command that starts it."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys

import pytest
import tensorflow as tf
from tensorboard.plugins.hparams import plugin_data_pb2

from keras_fim import attacks, cli
from keras_fim.callbacks import FisherSpectrum, RobustnessCurve
from keras_fim.training import recipe, watching
from tests.browser import find_browser, open_page
from tests.callbacks.conftest import compiled_model


@pytest.fixture(scope="module")
def logs(tmp_path_factory, patterns):
    """Logs of three epochs, and an HParams table of two rows."""
    folder = tmp_path_factory.mktemp("logs")
    measured = [
        RobustnessCurve(patterns, attacks.FGSM(), [0.1, 0.2, 0.3], log_dir=folder, max_samples=40),
        FisherSpectrum(patterns, log_dir=folder, max_samples=20),
    ]
    compiled_model().fit(*patterns, batch_size=16, epochs=3, callbacks=measured, verbose=0)
    for mu in (0.0, 0.02):
        results = {"test_accuracy": 0.9, "robustness": {"fooling/fgsm/eps_0p1": 0.25 + mu}}
        watching.write_row(recipe("mnist5k", mu=mu), folder / "sweep" / f"mu{mu:g}", results)
    return folder


@contextlib.contextmanager
def served(folder):
    """The address at which `keras-fim board` shows a folder."""
    command = [sys.executable, "-m", "keras_fim", "board", str(folder), "--port", "0"]
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a job in the background ignores it, and so do its own
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            yield re.search(r"http://localhost:\d+/", process.stdout.readline()).group()
            process.send_signal(signal.SIGINT)
            assert process.wait(120) == 0
        finally:
            process.kill()


def lines_drawn(title):
    """JavaScript: the number of lines on the chart of that title."""
    return f"""
        deep("tf-custom-scalar-multi-line-chart-card")
          .filter(card => deep("tf-card-heading", card.shadowRoot).some(heading => heading.displayName === "{title}"))
          .flatMap(card => deep("vz-line-chart2", card.shadowRoot))
          .flatMap(chart => deep("path", chart.shadowRoot))
          .filter(path => (path.getAttribute("d") || "").split("L").length > 2).length
    """


@pytest.mark.nightly
def test_charts_pictures_and_table_are_on_the_pages(logs, loopback):
    browser = find_browser()
    if browser is None:
        pytest.skip("no Chromium or Chrome on PATH (Debian: apt-get install chromium)")
    with served(logs) as url, open_page(browser) as page:
        page.open(f"{url}#custom_scalars")
        assert page.wait_for(f"{lines_drawn('fgsm')} >= 3")
        headings = page.evaluate('deep("tf-category-paginated-view").map(category => category.category.name)')
        assert {"Fooling ratio", "Robust accuracy", "Smallest ε", "Fisher information"} <= set(headings)
        page.open(f"{url}?images#images")
        loaded = page.wait_for(
            """
            (images => images.length >= 2 && images.every(image => image.complete && image.naturalWidth > 300)
              && images.length)(deep("tf-image-loader").flatMap(loader => deep("img", loader.shadowRoot)))
            """
        )
        assert loaded == 2
        tags = page.evaluate('deep("tf-image-loader").map(loader => loader.tag)')
        assert set(tags) == {"robustness/curves", "adversarials/fgsm"}
        page.open(f"{url}?hparams#hparams")
        page.wait_for('deep("vaadin-grid-cell-content").some(cell => cell.textContent.includes("sweep/mu0.02"))')
        cells = page.evaluate('deep("vaadin-grid-cell-content").map(cell => cell.textContent.trim())')
        for expected in ("mu", "data", "test_accuracy", "test_fooling/fgsm/eps_0p1", "0.27000", "mnist5k"):
            assert any(cell.startswith(expected) for cell in cells), (expected, cells)


@pytest.mark.slow
def test_hparams_rows_in_event_files(logs, read_events):
    events = read_events(logs / "sweep" / "mu0.02" / "tensorboard" / "hparams")
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert start.group_name == "sweep/mu0.02"
    assert start.hparams["mu"].number_value == 0.02 and start.hparams["data"].string_value == "mnist5k"
    (written,) = events.Tensors("test_fooling/fgsm/eps_0p1")
    assert float(tf.make_ndarray(written.tensor_proto)) == pytest.approx(0.27)


def test_board_says_what_is_wrong(tmp_path, capsys, logs):
    for arguments, message in (
        ([str(tmp_path / "nothing")], "`folder` should be a folder of runs. Received: "),
        ([str(tmp_path)], "`folder` should hold TensorBoard logs, in it or below. Received: "),
        ([str(logs), "--port", "70000"], "`--port` should be from 0 to 65535. Received: 70000"),
    ):
        assert cli.main(["board", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_board_on_a_port_that_is_taken(logs, capsys, loopback):
    with socket.create_server(("localhost", 0)) as taken:
        assert cli.main(["board", str(logs), "--port", str(taken.getsockname()[1])]) == 2
        assert "TensorBoard did not start" in capsys.readouterr().err


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit):
        cli.main(["board", "--help"])
    assert "keras-fim board results/runs --port 6007" in capsys.readouterr().out
