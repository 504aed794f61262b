"""What the command line answers without TensorFlow."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import keras_fim
from keras_fim import cli, data
from keras_fim.attacks import attack_names
from keras_fim.cli import options
from keras_fim.training import TrainingConfig
from keras_fim.training.config import RECIPES, descriptions, recipe

ROOT = Path(__file__).parents[2]


def test_help_and_wrong_names_need_no_tensorflow():
    program = """
import sys
sys.argv[0] = "keras-fim"
from keras_fim.cli import main, _COMMANDS
wrong = ["nothing"], ["verify", "a", "b"], ["verify", "a", "--verbsoe"], ["train", "--data", "a", "--defense", "nfgm"]
for arguments in (["--help"], ["completion", "bash"], *wrong, *([name, "--help"] for name in _COMMANDS)):
    try:
        assert main(arguments) == 0
    except SystemExit as end:
        assert end.code == (2 if arguments in wrong else 0)
print({"tensorflow", "keras", "numpy", "matplotlib", "scipy"} & set(sys.modules))
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert finished.stdout.endswith("set()\n"), finished.stderr
    assert "there is no command 'nothing'. The commands are evaluate, train" in finished.stderr
    assert "error: there is no argument 'b'" in finished.stderr
    assert "error: there is no option '--verbsoe'; did you mean --verbose?" in finished.stderr
    assert "there is no defense 'nfgm'; did you mean n-fgm?\nSee keras-fim train --help." in finished.stderr


def test_the_first_answers(capsys):
    assert cli.main([]) == 0 and "Measure how robust a model is" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"keras-fim {keras_fim.__version__}\n"
    with pytest.raises(SystemExit, match="2"):
        cli.main(["evalute"])
    assert "'evalute'; did you mean evaluate? The commands" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command, error",
    [
        (["-m", "keras_fim", "verify", "nothing"], "`path` should be a version"),
        ([str(ROOT / "training" / "train_mnist.py"), "--model", "nothing"], "The model should be a .keras file"),
        (["-m", "reproduction", "table9"], "`targets` should be of figure1"),
    ],
    ids=["command", "script", "reproduction"],
)
def test_tensorflow_starts_without_noise(command, error):
    finished = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert finished.returncode == 2 and len(finished.stderr.splitlines()) == 1, finished.stderr
    assert finished.stderr.startswith(f"error: {error}")


def test_help_of_a_script_needs_no_tensorflow():
    script = str(ROOT / "training" / "train_mnist.py")
    program = f"""
import runpy, sys
for sys.argv in (["train_mnist.py", "--help"], ["train_mnist.py", "--mu", "much"]):
    try:
        runpy.run_path({script!r}, run_name="__main__")
    except SystemExit as end:
        print("tensorflow" in sys.modules, end.code)
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert finished.stdout.startswith("usage: train_mnist.py [-h]") and finished.stdout.endswith("False 0\nFalse 2\n")
    assert finished.stderr == "error: argument --mu: invalid float value: 'much'\nSee train_mnist.py --help.\n"


def test_a_program_of_the_user_run_as_a_module_finds_what_keras_has_to_know(tmp_path):
    """`python -m theirs` is not our command line: classes are registered before a model is loaded."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "__init__.py").write_text("import keras_fim\n", "utf-8")
    program = "import keras; print(keras.saving.get_registered_object('keras_fim>FisherTraceLoss'))\n"
    (tmp_path / "theirs" / "load.py").write_text(program, "utf-8")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "theirs.load"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment)
    assert "FisherTraceLoss" in finished.stdout, finished.stderr


def test_every_training_option_has_a_description_and_a_flag(capsys):
    texts = descriptions()
    assert set(texts) == set(TrainingConfig.__dataclass_fields__)
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for name in texts.keys() - {"model_options", "defense_options", "image_shape", "class_names"}:
        assert f"--{name.replace('_', '-')}" in printed
    assert texts["weight_decay"].removesuffix(".") in printed and texts["batch_size"].removesuffix(".") in printed


@pytest.mark.parametrize("data", ["mnist", "cifar10", "gtsrb"])
def test_the_scripts_show_the_defaults_of_their_dataset(data, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.train_script(data, ["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for key, value in recipe(data).as_dict().items():
        if key in ("epochs", "batch_size", "optimizer", "learning_rate", "model", "validation"):
            text = f"{value:g}" if isinstance(value, float) else value
            assert re.search(rf"--{key.replace('_', '-')} [A-Z_]+ [^-]*\(default: {text}\)", printed), key


def test_every_option_with_a_default_says_so(capsys):
    parser, commands = cli._parsers()
    for command in commands.values():
        for action in command._actions:
            if action.default not in (None, False, argparse.SUPPRESS) and action.option_strings:
                assert "default" in action.help, f"{command.prog} {action.option_strings[0]}"


def test_the_tables_name_what_there_is():
    """Every named dataset has a recipe, every command its options and its help, and no help is left over."""
    assert set(RECIPES) == {*data.names(), "a new model", "a trained model"}
    files = {path.stem for path in (Path(cli.__file__).parent / "help").glob("*.txt")}
    assert set(cli._COMMANDS) == files == set(options._TABLE["commands"])


def test_evaluate_help_names_the_attacks(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["evaluate", "--help"])
    printed = capsys.readouterr().out
    assert "default: strong and one step" in " ".join(printed.split()) and "--quick" in printed
    named = printed.partition("attacks: ")[2].partition(";")[0].replace("\n", " ").split(", ")
    names = {name.removesuffix("_l1").removesuffix("_l2").removesuffix("_linf") for name in attack_names()}
    assert {name for name in named if name not in names} == set()


def test_warnings_are_one_line(capsys):
    import warnings

    from keras_fim.cli.errors import run_safely

    assert run_safely(lambda: warnings.warn("look here", stacklevel=1)) == 0
    assert capsys.readouterr().err == "warning: look here\n"
