"""``keras-fim evaluate`` on models that this package did not build."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
import typing
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_fim
from keras_fim import cli, evaluation
from tests.tables import read_csv

PACKAGE = Path(keras_fim.__file__).parent


@pytest.fixture(scope="module")
def saved(tmp_path_factory, digits):
    """Nearest-center classifiers of the digits as files: ending in a softmax, and in raw logits on flat images."""
    images, labels = digits[0].reshape(len(digits[0]), -1), digits[1]
    centers = np.stack([images[labels == digit].mean(axis=0) for digit in range(10)])
    weights = [2 * centers.T, -(centers**2).sum(axis=-1)]
    folder = tmp_path_factory.mktemp("models")
    kinds = {
        "softmax": [keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")],
        "logits": [keras.Input((784,)), keras.layers.Dense(10)],
    }
    for name, layers in kinds.items():
        model = keras.Sequential(layers)
        model.set_weights(weights)
        model.save(folder / f"{name}.keras")
    return folder


def command(model, out, *more):
    shared = ("--data", "mnist5k", "--max-samples", "40", "--no-spectrum", "--out", str(out))
    return ["evaluate", "--model", str(model), *shared, *more]


@pytest.mark.slow
def test_a_row_for_the_leaderboard_and_a_sentence_to_quote(saved, tmp_path, capsys):
    options = ("--autoattack", "--epsilons", "l2=0.4", "--max-samples", "10")
    assert cli.main(command(saved / "softmax.keras", tmp_path, *options)) == 0
    printed = capsys.readouterr().out
    result = evaluation.Evaluation.load(tmp_path / "evaluation.json")
    (row,) = result.rows
    assert (row.attack, row.norm, row.epsilon, row.strongest) == ("autoattack_l2", "l2", 0.4, True)
    assert sum(row.stages.values()) == pytest.approx(row.fooling.value) and 0 < row.robust.value < result.accuracy.value
    (quote,) = result.quotes
    expected = f"to quote: softmax has a robust accuracy of {row.robust} at l2 ε = 0.4 under AutoAttack (standard)"
    assert quote.startswith(expected) and f"a clean accuracy of {result.accuracy}, on 10 images" in quote
    assert "Leaderboard" in printed and quote in printed and "fooled by fab_t" in printed


def test_raw_logits_of_flat_images(saved, tmp_path, capsys, monkeypatch):
    options = ("--attacks", "fgsm", "minimal_fgm", "--epsilons", "linf=0.05,0.1")
    arguments = command(saved / "logits.keras", tmp_path, *options)
    assert cli.main(arguments) == 0
    printed, progress = capsys.readouterr()
    loaded = evaluation.Evaluation.load(tmp_path / "evaluation.json")
    assert loaded.model == "logits" and loaded.accuracy.total == 40 and loaded.accuracy.value > 0.6
    assert [row.epsilon for row in loaded.rows] == [0.05, 0.1, 0.5, 1.0, 2.0, 3.0]
    assert str(loaded) in printed and not progress  # no terminal
    last = printed.splitlines()[-3:]
    assert last[0].startswith("Correct on ") and last[0].endswith(" of 40 images.")
    assert last[1].startswith("With each pixel changed by at most 0.")
    assert last[2] == f"report: {tmp_path / 'report.html'}"
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"cells", "samples.csv", "report.html", *(f"evaluation.{x}" for x in ("csv", "json", "md"))}
    rows = read_csv(tmp_path / "samples.csv")
    fooled = [row["fooled by fgsm at linf 0.05"] for row in rows]
    assert len(rows) == 40 and fooled.count(True) == loaded.row("fgsm", 0.05).fooling.count
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert cli.main(arguments) == 0
    progress = capsys.readouterr().err
    assert "fgsm at linf 0.05: fooling ratio" in progress and "(kept)" in progress


def test_a_gate_for_continuous_integration(saved, tmp_path, capsys):
    options = ("--attacks", "fgsm", "--epsilons", "linf=0.1", "--json", "--fail-under")
    arguments = command(saved / "logits.keras", tmp_path, *options)
    assert cli.main([*arguments, "0"]) == 0
    result = json.loads(capsys.readouterr().out)
    (robust,) = [row["robust accuracy"] for row in result["records"] if row.get("attack") == "fgsm"]
    assert 0.1 < robust < 0.9 and result["report"] == str(tmp_path / "report.html") and len(result["sentences"]) == 2
    assert cli.main([*arguments, f"{robust}"]) == 0  # equal is not lower
    with pytest.raises(SystemExit) as exit_:
        cli.main([*arguments, f"{robust + 0.01}"])
    assert exit_.value.code == 3


@pytest.mark.slow
def test_softmax_in_a_fresh_process_is_as_its_logits(saved, tmp_path):
    """The same classifier, measured in another process from another file, has the same figures."""
    options = ("--attacks", "fgsm", "--epsilons", "0.05,0.1")
    program = "import sys; from keras_fim.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.run(
        [sys.executable, "-c", program, *command(saved / "softmax.keras", tmp_path / "softmax", *options)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert process.returncode == 0, process.stderr
    assert "Within ε" in process.stdout
    assert cli.main(command(saved / "logits.keras", tmp_path / "logits", *options)) == 0
    softmax, logits = (evaluation.Evaluation.load(tmp_path / n / "evaluation.json") for n in ("softmax", "logits"))
    assert [row.fooling for row in softmax.rows] == [row.fooling for row in logits.rows]
    assert softmax.rows[1].fooling.count > softmax.rows[0].fooling.count > 0
    assert softmax.digests["model"] != logits.digests["model"]


@pytest.mark.slow
def test_strong_and_masking(saved, tmp_path, capsys):
    more = ("--epsilons", "linf=0.1", "--quick", "--masking")
    model = saved / "softmax.keras"
    assert cli.main(command(model, tmp_path, *more, "--twin", str(model))) == 0
    loaded = evaluation.Evaluation.load(tmp_path / "evaluation.json")
    fgsm, strong = loaded.rows
    assert strong.attack == "strong_linf" and strong.strongest and strong.fooling.count >= fgsm.fooling.count
    masking = json.loads((tmp_path / "masking_linf.json").read_text(encoding="utf-8"))
    assert masking["type"] == "MaskingReport" and len(masking["checks"]) == 9
    assert "masked gradients" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--attacks", "fgsm,deepfol"), "one of ossa, fgsm,"),
        (("--attacks", "squar"), "Received: attack='squar' (did you mean square?)"),
        (("--attacks", "pgd", "--epsilons", "l2=0.5"), "norms of the attacks, which are pgd_linf. Received: ['l2']"),
        (("--attacks", "fgsm,ossa", "--epsilons", "0.1"), "different norms (l2, linf)"),
        (("--attacks", "fgsm", "--epsilons", "linf=x"), "such as l2=0.5,1,2 or linf=8/255. Received: 'linf=x'"),
        (("--attacks", "fgsm", "--epsilons", "linf=0.1", "0.2"), "or be one list"),
        (("--attacks", "fgsm", "--epsilons", "linf=nan"), "Received: epsilon=nan"),
        (("--max-samples", "0"), "should be a positive integer"),
        (("--autoattack", "--quick"), "`--autoattack` should stand without --attacks, --quick"),
        (("--autoattack", "--target", "3"), "`--autoattack` should stand without --attacks, --quick"),
        (("--attacks", "fgsm", "--fail-under", "0.5"), "one norm and one budget, such as --epsilons linf=0.03. Receiv"),
        (("--epsilons", "l2=1", "linf=0.1", "--fail-under", "0.5"), "Received: l2 1, linf 0.1"),
        (("--epsilons", "linf=0.1", "--fail-under", "60"), "`--fail-under` should be from 0 to 1. Received: 60"),
    ],
)
def test_bad_input_is_one_line(more, message, saved, tmp_path, capsys):
    assert cli.main(command(saved / "softmax.keras", tmp_path, *more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_a_report_of_another_model_is_not_written_over(saved, tmp_path, capsys):
    (tmp_path / "evaluation.json").write_text('{"model": "theirs"}')
    assert cli.main(command(saved / "softmax.keras", tmp_path, "--attacks", "fgsm")) == 2
    assert f"Received: {tmp_path}, a report of theirs" in capsys.readouterr().err
    assert (tmp_path / "evaluation.json").read_text() == '{"model": "theirs"}'


def test_models_that_do_not_fit(tmp_path, capsys):
    assert cli.main(command("nothing", tmp_path)) == 2
    assert "one of the stored weights" in capsys.readouterr().err
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(10)])
    model.save(tmp_path / "small.keras")
    assert cli.main(command(tmp_path / "small.keras", tmp_path)) == 2
    assert "should take images (28, 28, 1). Received: a model for (5,)" in capsys.readouterr().err


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["evaluate", "--help"])
    printed = capsys.readouterr().out
    assert "keras-fim evaluate --model path.keras --data mnist --attacks ossa,fgsm,pgd,deepfool" in printed


@keras.saving.register_keras_serializable("keras_fim_tests")
class Listening(keras.layers.Layer):
    """Notes how many functions of the package are on the stack whenever it is called."""

    depths: typing.ClassVar[list[int]] = []

    def call(self, inputs):
        frames = (frame.filename for frame in traceback.extract_stack())
        self.depths.append(sum(str(PACKAGE) in filename for filename in frames))
        return inputs


def test_a_reader_follows_an_image_through_few_functions(tmp_path, monkeypatch):
    layers = [Listening(), keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
    keras.Sequential([keras.Input((28, 28, 1)), *layers]).save(tmp_path / "model.keras")
    monkeypatch.setattr(Listening, "depths", [])
    options = ("--attacks", "fgsm", "--epsilons", "0.1", "--bounds", "0", "1")
    assert cli.main(command(tmp_path / "model.keras", tmp_path / "out", *options)) == 0
    called = [depth for depth in Listening.depths if depth > 6]  # less deep is Keras, which builds what it loads
    assert called[0] <= 14 and max(called) <= 20, Listening.depths
