"""Train a model so that it is harder to fool.

Train the paper's model of a dataset, or harden your own. We recommend --defense n-fgm, which holds against strong
attacks at about twice the cost of plain training. Without --defense the loss is the paper's, CE + mu * sum(1/p), which
resists attacks of one step only.

Everything is written to one folder: run.json (configuration, versions, test accuracy), model.keras (the weights that
are best on the validation part), history.csv, tensorboard/, and checkpoints to resume from. Options that are not given
have the values that suit the dataset.

Examples:
  keras-fim train --data mnist --defense n-fgm          the defense that we recommend
  keras-fim train --model my.keras --data photos/ --defense n-fgm     harden a model on your own images
  keras-fim train --data mnist                          the paper's loss, with a mu that suits its classes
  keras-fim train --data mnist --mu 0                   the same model on plain cross-entropy
  keras-fim train --data mnist --mu 0 0.005 0.01 0.02   one after another, for one table in TensorBoard
  keras-fim train --data mnist --defense spectral       on the largest eigenvalue of the Fisher information, eq. (2)
  keras-fim train --data mnist --defense spectral+n-fgm --epsilon 1.5
  keras-fim train --data cifar10 --out runs/a --resume  continue an interrupted run
  keras-fim train --data gtsrb --quick                  one epoch on 2,000 images, to see that everything works
  keras-fim train --model package.module:build --data photos/ --image-size 64 --defense n-fgm --epsilon 4/255
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_fim.cli import export
from keras_fim.cli.errors import run_safely
from keras_fim.cli.options import (
    DATASETS,
    SMOKE_TEST,
    add_bounds,
    add_data_dir,
    add_image_size,
    add_training_options,
    defense,
    number,
    training_options,
)
from keras_fim.records import read_json
from keras_fim.training.config import TrainingConfig
from keras_fim.training.defending import NAMES, default_options

if TYPE_CHECKING:
    import tensorflow as tf

_PAPER = ("convnet", "vgg11", "resnet14")


def add_arguments(parser: argparse.ArgumentParser, *, data_name: str | None = None) -> None:
    """Add the options of this command.

    Args:
        parser: The parser of the command.
        data_name: The default of ``--data``; ``None`` makes it required.
    """
    default = "" if data_name is None else f" (default: {data_name})"
    parser.add_argument("--data", default=data_name, required=data_name is None, help=f"Dataset{default}: {DATASETS}.")
    text = f"Defense, or several joined by +: {', '.join(NAMES)} (recommended: n-fgm; default: fisher-trace)."
    parser.add_argument("--defense", type=defense, help=text)
    budget = (
        "Budget of adversarial training, in the norm of the defense, such as 0.5 or 8/255 (default: what suits the "
        "images, such as 2 in l2 on MNIST and 8/255 of the range in linf on your own)."
    )
    parser.add_argument("--epsilon", type=number, help=budget)
    text = "Another option of the defense, such as step=0.05, noise=1, norm=linf, attack_steps=10."
    parser.add_argument("--option", dest="options", metavar="KEY=VALUE", type=_option, action="append", help=text)
    parser.add_argument(
        "--mu",
        type=float,
        nargs="+",
        help="Weight of the defense's penalty; 0 for none. With several values, one run follows another "
        "(default: what suits the defense and the number of classes; 0.02 for the paper's loss with ten).",
    )
    add_training_options(parser, data_name=data_name)
    add_image_size(parser)
    add_bounds(parser, "what its rescaling says, or 0 to 1")
    add_data_dir(parser)
    parser.add_argument("--out", type=Path, help="Folder for everything the run writes (default: results/runs/...).")
    parser.add_argument(
        "--export",
        type=Path,
        nargs="?",
        const=Path("saved_models"),
        metavar="FOLDER",
        help="Export the trained model as the next version in FOLDER (saved_models/DATA if left out) and verify it.",
    )
    parser.add_argument("--resume", action="store_true", help="Continue the run in --out after its last epoch.")
    text = "Do not attack the model after each epoch for TensorBoard."
    parser.add_argument("--no-robustness", action="store_true", help=text)
    parser.add_argument("--quick", action="store_true", help="Train one epoch on 2,000 images and test on 1,000.")


def run(arguments: argparse.Namespace) -> None:
    """Train as the arguments say, for each μ, and print what came out."""
    from keras_fim import distribution

    devices = distribution.strategy()  # before anything else is computed, on several workers
    several = arguments.mu is not None and len(arguments.mu) > 1
    configs = [_config(arguments, mu) for mu in arguments.mu or [None]]
    folder = arguments.out or _default_folder(configs[0], quick=arguments.quick, sweep=several)
    folders = [folder / f"mu{config.mu:g}" if several else folder for config in configs]
    if len(set(folders)) < len(folders):
        raise ValueError(f"`--mu` should hold different values. Received: {arguments.mu}")
    for config, own in zip(configs, folders, strict=True):
        _train(config, own, arguments, devices)
    if not distribution.is_chief(devices):
        return
    if several:
        print(_table([read_json(own / "run.json") for own in folders]))
    print(f"in TensorBoard: keras-fim board {folder}")
    if arguments.quick:
        print(SMOKE_TEST)


def _train(
    config: TrainingConfig, folder: Path, arguments: argparse.Namespace, devices: tf.distribute.Strategy
) -> None:
    from keras_fim.data import short_name
    from keras_fim.distribution import is_chief
    from keras_fim.training.run import train
    from keras_fim.training.trained import builds

    print(f"{config.model} on {config.data}: {_why(config, given=arguments.mu is not None)}")
    if config.defense == TrainingConfig.defense and config.mu:
        print("The paper's loss resists attacks of one step only; --defense n-fgm holds against strong ones.")
    print(f"writing to {folder}")
    robustness = not arguments.no_robustness
    shared: dict[str, Any] = {"data_dir": arguments.data_dir, "robustness": robustness, "devices": devices}
    train(config, folder, resume=arguments.resume, **shared)
    if not is_chief(devices):
        return
    results = read_json(folder / "run.json")["results"]
    print(
        f"test accuracy {100 * results['test_accuracy']:.2f} % with the weights of epoch {results['best_epoch']} of "
        f"{results['epochs']}, trained in {results['training_seconds']:.0f} s: {folder / 'model.keras'}"
    )
    if not builds(config.model) and robustness:
        _say_robustness(config, folder, arguments)
    if arguments.export:
        usual = arguments.export == Path("saved_models")
        exported = arguments.export / short_name(config.data) if usual else arguments.export
        export.export_and_verify(folder, exported, arguments)


def _say_robustness(config: TrainingConfig, folder: Path, arguments: argparse.Namespace) -> None:
    """Print accuracy and robust accuracy of the model before and after."""
    from keras_fim.evaluation.progress import say
    from keras_fim.evaluation.report import table
    from keras_fim.training.hardening import before_and_after, comparison_rows

    options: dict[str, Any] = {"data_dir": arguments.data_dir, "quick": arguments.quick}
    results = before_and_after(config, folder, progress=say, **options)
    names = [*results, *(["report"] if len(results) > 1 else [])]
    pages = ", ".join(str(folder / "robustness" / f"{name}.html") for name in names)
    print(f"\n{table(comparison_rows(results))}\nreports: {pages}")


def _table(records: list[dict[str, Any]]) -> str:
    """Accuracy and fooling ratios on test images by μ, as Markdown."""
    from keras_fim.evaluation.report import table

    measured = [record["results"].get("robustness") or {} for record in records]
    keys = [key for key in measured[0] if key.startswith("fooling/")]
    rows = []
    for record, figures in zip(records, measured, strict=True):
        ratios = {"test accuracy": record["results"]["test_accuracy"]}
        ratios |= {key.removeprefix("fooling/"): figures.get(key) for key in keys}
        shown = {key: "" if ratio is None else f"{100 * ratio:.2f} %" for key, ratio in ratios.items()}
        rows.append({"mu": f"{record['config']['mu']:g}", **shown})
    return table(rows, markdown=True)


def main(data_name: str, argv: list[str] | None = None) -> None:
    """Entry point of the scripts in ``training/``: this command with a default data set.

    Args:
        data_name: The default of ``--data``.
        argv: The arguments; ``None`` for those of the process.

    Raises:
        SystemExit: Always, with the exit code.
    """
    script = f"python training/train_{data_name}.py"
    calls = ("--quick", "--defense n-fgm", "--mu 0 --out runs/plain", "--resume")
    examples = "Examples:\n" + "".join(f"  {script} {call}\n" for call in calls)
    description = str(__doc__).partition("Examples:")[0] + examples
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, data_name=data_name)
    arguments = parser.parse_args(argv)
    sys.exit(run_safely(lambda: run(arguments)))


def _option(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not (key and sign):
        raise argparse.ArgumentTypeError(f"should be KEY=VALUE. Received: {text!r}")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def _config(arguments: argparse.Namespace, mu: float | None) -> TrainingConfig:
    from keras_fim.training.inputs import described_recipe

    given = training_options(arguments, skip=("data", "mu", "bounds"))
    quick = {"epochs": 1, "limit": 2000, "test_limit": 1000, "warmup_epochs": 0.0} if arguments.quick else {}
    options = dict(arguments.options or [])
    if arguments.epsilon is not None:
        options["epsilon"] = arguments.epsilon
    weight = {} if mu is None else {"mu": mu}
    changes = {**quick, **given, **weight, "defense_options": options}
    return described_recipe(
        arguments.data, size=arguments.image_size, bounds=arguments.bounds, data_dir=arguments.data_dir, **changes
    )


def _default_folder(config: TrainingConfig, *, quick: bool, sweep: bool) -> Path:
    usual = config.defense == TrainingConfig.defense
    from keras_fim.data import short_name

    own = [] if config.model in _PAPER else [Path(config.model).name.removesuffix(".keras").replace(":", "-")]
    parts = [*own, short_name(config.data), *([] if usual else [config.defense])]
    if sweep:
        parts.append("sweep")
    elif config.mu:
        parts.append(f"mu{config.mu:g}")
    elif usual:
        parts.append("plain")
    parts.extend(_named(config))
    if config.label_smoothing:
        parts.append(f"smoothing{config.label_smoothing:g}")
    return Path("results/runs") / "-".join([*parts, f"seed{config.seed}", *(["quick"] if quick else [])])


def _named(config: TrainingConfig) -> list[str]:
    """The ε that was given, and every option that is not as usual: runs that differ by one have different folders."""
    given = config.defense_options
    usual = default_options(config.defense, config.facts, {}, config.bounds)
    named = {key: given[key] for key in sorted(given) if key == "epsilon" or given[key] != usual[key]}
    values = {key: f"{value:.3g}" if isinstance(value, (int, float)) else value for key, value in named.items()}
    return [f"{'eps' if key == 'epsilon' else key.replace('_', '-')}{value}" for key, value in values.items()]


def _why(config: TrainingConfig, *, given: bool) -> str:
    from keras_fim.geometry.penalty import label_smoothing_from_mu

    if config.defense != TrainingConfig.defense:
        weights = {"mu": config.mu, "label smoothing": config.label_smoothing}
        facts = {**{key: value for key, value in weights.items() if value}, **config.defense_options}
        return ", ".join([config.defense, *(f"{key} = {value}" for key, value in facts.items())])
    if not config.mu:
        return "plain cross-entropy (mu = 0)"
    num_classes = config.facts.num_classes
    alpha = label_smoothing_from_mu(config.mu, num_classes)
    effect = f"mu = {config.mu:g} has the optimum of label smoothing {alpha:.3f} at {num_classes} classes"
    return effect if given else f"{effect}, as the paper's 0.02 has at 10; change it with --mu (0 for plain training)"
