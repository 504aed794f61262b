"""The commands ``train``, ``compare``, ``detect`` and ``demo``, which train models or attack several of them."""

import argparse
import sys
from pathlib import Path
from typing import Any

from keras_fim import distribution
from keras_fim.arguments import require
from keras_fim.cli.options import SMOKE_TEST, data_options, given, training_options
from keras_fim.cli.serving import export_and_verify
from keras_fim.data import short_name
from keras_fim.evaluation import flags, plans, report
from keras_fim.geometry.simplex import label_smoothing_from_mu
from keras_fim.records import read_json
from keras_fim.training import TrainingConfig, comparison, defending, detecting, inputs, outcomes, run, trained
from keras_fim.training.demo import run_demo

_PAPER = ("convnet", "vgg11", "resnet14")


def train(arguments: argparse.Namespace) -> None:
    """Train as the arguments say, for each μ, and print what came out."""
    devices = distribution.strategy()  # before anything else is computed, on several workers
    several = arguments.mu is not None and len(arguments.mu) > 1
    configs = [_config(arguments, mu) for mu in arguments.mu or [None]]
    folder = arguments.out or _default_folder(configs[0], quick=arguments.quick, sweep=several)
    folders = [folder / f"mu{config.mu:g}" if several else folder for config in configs]
    require(len(set(folders)) == len(folders), f"`--mu` should hold different values. Received: {arguments.mu}")
    for config, own in zip(configs, folders, strict=True):
        _train(config, own, arguments, devices)
    if not distribution.is_chief(devices):
        return
    if several:
        print(_table([read_json(own / "run.json") for own in folders]))
    print(f"in TensorBoard: keras-fim board {folder}")
    if arguments.quick:
        print(SMOKE_TEST)


def _train(config: TrainingConfig, folder: Path, arguments: argparse.Namespace, devices: Any) -> None:
    """Train once, as one of the strategies of TensorFlow divides it, and print what came out."""
    print(f"{config.model} on {config.data}: {_why(config, by_default=arguments.mu is None)}")
    if config.defense == TrainingConfig.defense and config.mu:
        print("The paper's loss resists attacks of one step only; --defense n-fgm holds against strong ones.")
    budget = defending.budget(config)
    for flag in flags.budget_flags([budget] if budget else [], config.pixels):
        print(f"warning: {flag}", file=sys.stderr)
    print(f"writing to {folder}")
    robustness = not arguments.no_robustness
    run.train(config, folder, robustness=robustness, devices=devices, **given(arguments, "resume", "data_dir"))
    if not distribution.is_chief(devices):
        return
    results = read_json(folder / "run.json")["results"]
    print(
        f"test accuracy {100 * results['test_accuracy']:.2f} % with the weights of epoch {results['best_epoch']} of "
        f"{results['epochs']}, trained in {results['training_seconds']:.0f} s: {folder / 'model.keras'}"
    )
    if not trained.builds(config.model) and robustness:
        _say_robustness(config, folder, arguments)
    if arguments.export:
        usual = arguments.export == Path("saved_models")
        export_and_verify(folder, arguments.export / short_name(config.data) if usual else arguments.export, arguments)


def _say_robustness(config: TrainingConfig, folder: Path, arguments: argparse.Namespace) -> None:
    """Print accuracy and robust accuracy of the model before and after."""
    results = outcomes.before_and_after(config, folder, progress=plans.say, **given(arguments, "data_dir", "quick"))
    names = [*results, *(["report"] if len(results) > 1 else [])]
    pages = ", ".join(str(folder / "robustness" / f"{name}.html") for name in names)
    print(f"\n{report.table(outcomes.comparison_rows(results))}\nreports: {pages}")


def _table(records: list[dict[str, Any]]) -> str:
    """Accuracy and fooling ratios on test images by μ, as Markdown."""
    rows = []
    for record in records:
        figures = record["results"].get("robustness") or {}
        ratios = {"test accuracy": record["results"]["test_accuracy"]}
        ratios |= {key.removeprefix("fooling/"): figures[key] for key in figures if key.startswith("fooling/")}
        shown = {key: "" if ratio is None else f"{100 * ratio:.2f} %" for key, ratio in ratios.items()}
        rows.append({"mu": f"{record['config']['mu']:g}", **shown})
    return report.table(rows, markdown=True)


def _config(arguments: argparse.Namespace, mu: float | None) -> TrainingConfig:
    told = training_options(arguments, skip=("data", "mu", "bounds"))
    quick = {"epochs": 1, "limit": 2000, "test_limit": 1000, "warmup_epochs": 0.0} if arguments.quick else {}
    options = dict(arguments.options or [])
    if arguments.epsilon is not None:
        options["epsilon"] = arguments.epsilon
    changes = {**quick, **told, **({} if mu is None else {"mu": mu}), "defense_options": options}
    return inputs.described_recipe(data_options(arguments, arguments.data), **changes)


def _default_folder(config: TrainingConfig, *, quick: bool, sweep: bool) -> Path:
    own = "" if config.model in _PAPER else trained.name_of(config.model).replace(":", "-")
    usual = config.defense == TrainingConfig.defense
    weight = f"mu{config.mu:g}" if config.mu else "plain" if usual else ""
    parts = [own, short_name(config.data), "" if usual else config.defense, "sweep" if sweep else weight]
    parts += [*_named(config), f"smoothing{config.label_smoothing:g}" if config.label_smoothing else ""]
    parts += [f"seed{config.seed}", "quick" if quick else ""]
    return Path("results/runs") / "-".join(filter(None, parts))


def _named(config: TrainingConfig) -> list[str]:
    """The ε that was given, and every option that is not as usual: runs that differ by one have different folders."""
    options = config.defense_options
    usual = defending.default_options(config.defense, config.facts, {}, config.bounds)
    named = {key: options[key] for key in sorted(options) if key == "epsilon" or options[key] != usual[key]}
    values = {key: f"{value:.3g}" if isinstance(value, (int, float)) else value for key, value in named.items()}
    return [f"{'eps' if key == 'epsilon' else key.replace('_', '-')}{value}" for key, value in values.items()]


def _why(config: TrainingConfig, *, by_default: bool) -> str:
    """What a run is trained with; ``by_default`` says that its μ was not given."""
    if config.defense != TrainingConfig.defense:
        weights = {"mu": config.mu, "label smoothing": config.label_smoothing}
        facts = {**{key: value for key, value in weights.items() if value}, **config.defense_options}
        return ", ".join([config.defense, *(f"{key} = {value}" for key, value in facts.items())])
    if not config.mu:
        return "plain cross-entropy (mu = 0)"
    num_classes = config.facts.num_classes
    alpha = label_smoothing_from_mu(config.mu, num_classes)
    why = ", as the paper's 0.02 has at 10; change it with --mu (0 for plain training)" if by_default else ""
    return f"mu = {config.mu:g} has the optimum of label smoothing {alpha:.3f} at {num_classes} classes{why}"


def compare(arguments: argparse.Namespace) -> None:
    """Compare defenses, and print the table."""
    folder = arguments.out or Path("results/runs") / f"compare-{short_name(arguments.data)}"
    compared = comparison.compare(
        arguments.data,
        folder,
        [name for text in arguments.defenses or defending.COMPARED for name in text.split(",") if name],
        changes=training_options(arguments, skip=("data", "bounds")),
        on_progress=plans.say,
        **given(arguments, "seeds", "max_samples", "quick", "data_dir", "image_size", "bounds"),
    )
    print(f"\n{compared}\n\nwritten to {folder}: comparison.md, .csv, .json and .png\nreport: {folder / 'report.html'}")
    if arguments.quick:
        print(SMOKE_TEST)


def detect(arguments: argparse.Namespace) -> None:
    """Measure the detectors on each model and print its table."""
    options = given(arguments, "max_samples", "max_adaptive", "false_positive_rate")
    options["on_progress"] = lambda line: print(line, file=sys.stderr, flush=True)
    data = data_options(arguments, arguments.data)
    for name in arguments.models:
        print(f"{detecting.evaluate_detection(name, arguments.out, data, **options)}\n", flush=True)


def demo(arguments: argparse.Namespace) -> None:
    """Run the demo and print its table."""
    print(run_demo(arguments.out, arguments.export, **given(arguments, "mu", "epochs", "seed")))
