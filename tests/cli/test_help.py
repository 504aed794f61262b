"""What the command line answers without TensorFlow."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

from keras_fim import cli
from keras_fim.attacks import attack_names
from keras_fim.training import TrainingConfig
from keras_fim.training.config import descriptions


def test_help_and_wrong_names_need_no_tensorflow():
    program = """
import sys
sys.argv[0] = "keras-fim"
from keras_fim.cli import main, _COMMANDS
for arguments in (["--help"], ["nothing"], *([name, "--help"] for name in _COMMANDS)):
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code == (2 if arguments == ["nothing"] else 0)
print({"tensorflow", "keras", "numpy", "matplotlib", "scipy"} & set(sys.modules))
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert finished.stdout.endswith("set()\n"), finished.stderr
    assert "there is no command 'nothing'. The commands are evaluate, train" in finished.stderr


def test_the_first_answers(capsys):
    assert cli.main([]) == 0 and "Measure how robust a model is" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"keras-fim {importlib.metadata.version('keras_fim')}\n"
    with pytest.raises(SystemExit, match="2"):
        cli.main(["evalute"])
    assert "'evalute'; did you mean evaluate? The commands" in capsys.readouterr().err


def test_tensorflow_starts_without_noise():
    command = [sys.executable, "-m", "keras_fim", "verify", "nothing"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 2 and len(finished.stderr.splitlines()) == 1, finished.stderr
    assert finished.stderr.startswith("error: `path` should be a version")


def test_every_training_option_has_a_description_and_a_flag(capsys):
    texts = descriptions()
    assert set(texts) == set(TrainingConfig.__dataclass_fields__)
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for name in texts.keys() - {"model_options", "defense_options", "image_shape", "class_names"}:
        assert f"--{name.replace('_', '-')}" in printed
    assert texts["weight_decay"] in printed and texts["batch_size"] in printed


def test_evaluate_help_names_the_attacks(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["evaluate", "--help"])
    printed = capsys.readouterr().out
    assert "default: strong and one step" in " ".join(printed.split()) and "--quick" in printed
    named = printed.partition("attacks: ")[2].partition(";")[0].replace("\n", " ").split(", ")
    known = {name.removesuffix("_l1").removesuffix("_l2").removesuffix("_linf") for name in attack_names()}
    assert {name for name in named if name not in known} == set()


def test_warnings_are_one_line(capsys):
    import warnings

    from keras_fim.cli.errors import run_safely

    assert run_safely(lambda: warnings.warn("look here", stacklevel=1)) == 0
    assert capsys.readouterr().err == "warning: look here\n"
