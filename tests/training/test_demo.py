from __future__ import annotations

import json

import pytest
import tensorflow as tf

from keras_fim import cli
from keras_fim.training import demo


@pytest.mark.nightly
def test_demo_ends_with_table_plot_logs_results_and_saved_model(tmp_path, capsys):
    command = ["demo", "--epochs", "1", "--out", str(tmp_path / "demo"), "--export", str(tmp_path / "exported")]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    for words in ("accuracy", "under FGSM, linf 0.1", "under OSSA, l2 2", "under STRONG, l2 1.5", "SavedModel:"):
        assert words in printed
    assert "1/3 plain: training on 3,800 digits" in printed and "is taken for a" in printed
    assert len(printed.splitlines()) < 60
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert set(results) == {"plain", "Fisher trace, μ=0.02", "N-FGM"} and results["plain"]["versions"]["tensorflow"]
    assert all(row["robust"]["total"] == 200 for result in results.values() for row in result["rows"])
    assert all((tmp_path / "demo" / name / "report.html").stat().st_size > 10_000 for name in ("plain", "n-fgm"))
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "Robustness of 3 models side by side" in page and "N-FGM (front)" in page
    assert list((tmp_path / "demo").glob("*/tensorboard/*/events.out.*"))
    assert "serving_default" in tf.saved_model.load(str(tmp_path / "exported" / "1")).signatures


def test_second_demo_starts_afresh_and_touches_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "plain").mkdir()
    for name in ("plain/run.json", "results.json", "precious.txt"):
        (tmp_path / name).write_text("{}")

    def stop(config, folder, resume, verbose):
        raise InterruptedError(str(folder))

    monkeypatch.setattr(demo, "train", stop)
    with pytest.raises(InterruptedError):
        demo.run_demo(tmp_path, tmp_path / "exported")
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "mine").touch()
    with pytest.raises(ValueError, match="Received: a folder without run.json"):
        demo.run_demo(tmp_path, tmp_path / "exported")


def test_demo_without_a_defense_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`mu` should be positive"):
        demo.run_demo(tmp_path, tmp_path, mu=0.0)
