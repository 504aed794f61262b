"""Defenses side by side: trained alike, attacked alike, with their cost."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_fim import attacks, data, fisher, plots
from keras_fim.arguments import Count, checked, require
from keras_fim.evaluation import Evaluation, SideBySide, evaluate, masking_report, samples, side_by_side
from keras_fim.evaluation.report import Report, Row
from keras_fim.pixels import PixelRange
from keras_fim.records import versions, written
from keras_fim.training import defending, inputs, outcomes, run, trained
from keras_fim.training.config import TrainingConfig, differences, recipe

_MASKING_SAMPLES = 200
_STRONG = "strong "  # the labels of the strongest attack begin so
_Configs: TypeAlias = Sequence[TrainingConfig]  # of one defense, by seed


@dataclasses.dataclass(frozen=True)
class DefenseRow:
    """The figures of one defense, over its seeds.

    Attributes:
        defense: The name of the defense.
        config: How the model of the first seed was trained.
        seeds: The random seeds of the trainings.
        accuracy: The accuracy on test images, by seed.
        fooling: The fooling ratios by seed, for each attack, norm and ε.
        robust: As ``fooling``, the shares of all attacked images that are classified correctly before and after.
        eigenvalue: The mean of λ_max(G_x), which eq. (2) penalizes, over the attacked images, by seed.
        suspects: The checks of the masking report that fired for the first seed, with their norm.
        cost: Training CPU time relative to plain training: the ratio of a step times the ratio of the epochs.
    """

    defense: str
    config: dict[str, Any]
    seeds: tuple[int, ...]
    accuracy: tuple[float, ...]
    fooling: dict[str, tuple[float, ...]]
    robust: dict[str, tuple[float, ...]]
    eigenvalue: tuple[float, ...]
    suspects: tuple[str, ...]
    cost: float

    def objectives(self) -> list[float]:
        """Error, fooling ratios of the strongest attack, and cost to one decimal, as in the table: means over seeds."""
        strong = [mean(values) for key, values in self.fooling.items() if key.startswith(_STRONG)]
        return [1 - mean(self.accuracy), *strong, round(self.cost, 1)]


@dataclasses.dataclass(frozen=True)
class Comparison(Report):
    """Defenses on one dataset.

    Attributes:
        data: The name of the dataset.
        images: The number of test images that were attacked.
        quick: Whether `keras_fim.attacks.Strong` took a quarter of its steps.
        rows: One row for each defense.
        versions: The versions of the packages that measured this.
    """

    data: str
    images: int
    quick: bool
    rows: tuple[DefenseRow, ...]
    versions: dict[str, str | None] = dataclasses.field(default_factory=versions)

    def tables(self) -> dict[str, list[Row]]:
        """One row for each defense; ratios in %, means over seeds with their range."""
        steps = ", a quarter of the strong attack's steps" if self.quick else ""
        what = f"fooling ratio in %, of the correct among {self.images} test images{steps}; their mean λ_max(G_x)"
        title = f"{self.data}: {what}; over seeds, mean (range)"
        front = self.front()
        return {title: [_table_row(row, row.defense in front) for row in self.rows]}

    def records(self) -> list[dict[str, Any]]:
        """One row for each defense and seed; ratios in [0, 1]."""
        records = []
        for row in self.rows:
            for index, seed in enumerate(row.seeds):
                record = {"defense": row.defense, "seed": seed, "accuracy": row.accuracy[index]}
                record |= {f"{key} fooling": values[index] for key, values in row.fooling.items()}
                record |= {f"{key} robust": values[index] for key, values in row.robust.items()}
                records.append({**record, "eigenvalue": row.eigenvalue[index], "cost": row.cost})
        return records

    def front(self) -> list[str]:
        """The Pareto front: no other defense is as good in all of `DefenseRow.objectives` and better in one."""
        return side_by_side.pareto_front({row.defense: row.objectives() for row in self.rows})

    def figure(self) -> Any:
        """A matplotlib figure: accuracy and robust accuracy, under the strongest attack at each norm's smallest ε."""
        strong = [key for key in self.rows[0].robust if key.startswith(_STRONG)]
        panels = {
            key: {row.defense: (mean(row.accuracy), mean(row.robust[key]), row.cost) for row in self.rows}
            for key in {key.split()[1]: key for key in reversed(strong)}.values()
        }
        return plots.defenses_figure(panels, self.front())


def spread(values: Sequence[float], form: str = ".1f", *, scale: float = 1.0) -> str:
    """The mean and range of a figure over seeds, such as ``12.3 (11.9-12.8)``; a single value alone."""
    numbers: Any = np.asarray(values, float) * scale
    mean, low, high = (format(float(value), form) for value in (numbers.mean(), numbers.min(), numbers.max()))
    return mean if len(numbers) == 1 else f"{mean} ({low}-{high})"


def _table_row(row: DefenseRow, on_front: bool) -> Row:
    return {
        "defense": row.defense,
        "accuracy": spread(row.accuracy, ".2f", scale=100),
        **{key: spread(values, scale=100) for key, values in row.fooling.items()},
        "λ_max": spread(row.eigenvalue, ".2g"),
        "cost": f"{row.cost:.1f}",
        "on the front": on_front,
        f"masked gradients? (seed {row.seeds[0]})": ", ".join(row.suspects) or "no sign",
        "seeds": len(row.seeds),
    }


def mean(values: Any) -> float:
    """The mean in float64."""
    return float(np.asarray(values, np.float64).mean())


@checked
def compare(
    data_name: str,
    folder: str | Path,
    defenses: Sequence[str] = defending.COMPARED,
    *,
    seeds: Sequence[int] = (0,),
    max_samples: Count = 500,
    quick: bool = False,
    changes: Mapping[str, Any] | None = None,
    data_dir: str | None = None,
    image_size: int | None = None,
    bounds: Sequence[float] | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Train defenses on one dataset, attack all of them alike, and write a table, a figure and a page.

    Trainings and attacks are kept in ``folder``, so that an interrupted comparison goes on where it stopped. After each
    defense, ``comparison.json``, ``.csv``, ``.md`` and ``comparison.png`` there hold the rows so far, and
    ``report.html`` every model with its cost.

    Args:
        data_name: The name of the dataset.
        folder: The folder for results, runs and finished measurements.
        defenses: Names as ``keras-fim train --defense`` takes them. Plain training, with which the others are
            compared, is added.
        seeds: The random seeds of the trainings of each defense.
        max_samples: The number of test images to attack, the same number per class as far as possible.
        quick: Whether `keras_fim.attacks.Strong` takes a quarter of its steps.
        changes: Attributes of `TrainingConfig` that replace those of the recipe.
        data_dir: The folder in which TensorFlow Datasets keeps its data.
        image_size: Height and width of the images, for a model that takes any.
        bounds: The smallest and the largest pixel value; ``None`` for what a leading rescaling of the model says.
        on_progress: A function that gets a line of text at each step.

    Returns:
        `Comparison`.

    Raises:
        ValueError: If the dataset or a name is unknown, or there are no seeds or images.
    """
    require(seeds, "`seeds` should not be empty. Received: no seed")
    own = inputs.described_recipe(inputs.DataOptions(data_name, data_dir, image_size, bounds), **(changes or {}))
    names = dict.fromkeys(["none", *defenses])
    configs = {name: [_config(own, changes or {}, name, seed) for seed in dict.fromkeys(seeds)] for name in names}
    folder, pixels = Path(folder), PixelRange(*own.pixels)
    test = data.load(data_name, 500, data_dir=data_dir, test_limit=max_samples, image_shape=own.image_shape)[1]
    images = samples(inputs.in_range(test, pixels.bounds))
    usual = outcomes.default_epsilons(own.facts.image_shape, pixels.bounds)
    epsilons = {norm: values[1:2] for norm, values in usual.items()}  # one for each norm, the second smallest
    work = _Work(folder, images, epsilons, pixels, quick, data_dir, on_progress or (lambda line: None))
    empty = Comparison(data_name, len(images[1]), quick, ())
    rows = _finished(empty, folder, configs)
    missing = {name: group[0] for name, group in configs.items() if name == "none" or name not in rows}
    costs = run.step_costs(missing) if len(missing) > 1 else {"none": {"cpu": 1.0}}
    for name, group in configs.items():
        if name not in rows:
            cost = costs[name]["cpu"] * group[0].epochs / configs["none"][0].epochs
            rows[name] = work.row(name, group, configs["none"], cost)
        comparison = dataclasses.replace(empty, rows=tuple(rows[key] for key in configs if key in rows))
        write(comparison, folder)
    return comparison


def _config(own: TrainingConfig, changes: Mapping[str, Any], defense: str, seed: int) -> TrainingConfig:
    told = {"defense": defense, "image_shape": own.image_shape, "bounds": own.bounds, **changes, "seed": seed}
    return recipe(own.data, facts=own.facts, trained=not trained.builds(own.model), **told)


def write(comparison: Comparison, folder: Path) -> None:
    """Write the table as JSON, CSV and Markdown, the figure, and the page of all models that were measured here."""
    for suffix in ("json", "csv", "md"):
        comparison.save(folder / f"comparison.{suffix}")
    with written(folder / "comparison.png") as unfinished:
        comparison.figure().savefig(unfinished, dpi=120, format="png")
    models = {f"{row.defense}-seed{seed}": row for row in comparison.rows for seed in row.seeds}
    files = {name: folder / "evaluations" / f"{name}.json" for name in models}
    results = {name: Evaluation.load(file) for name, file in files.items() if file.is_file()}
    if len(results) > 1:
        costs = tuple({"training cost": round(models[name].cost, 1)} for name in results)
        SideBySide(tuple(results.values()), costs).save(folder / "report.html")


@dataclasses.dataclass(frozen=True)
class _Work:
    """What a comparison measures all defenses with."""

    folder: Path
    images: tuple[np.ndarray, np.ndarray]
    epsilons: Mapping[float, tuple[float, ...]]
    pixels: PixelRange
    quick: bool
    data_dir: str | None
    say: Callable[[str], None]

    def row(self, name: str, configs: _Configs, plain: _Configs, cost: float) -> DefenseRow:
        """Train and measure one defense for each seed; the plain model of the same seed is the attacks' twin."""
        models = [self._model(config) for config in configs]
        twins = [None if name == "none" else self._model(config) for config in plain]
        measured = [self._evaluated(*seed) for seed in zip(configs, models, twins, strict=True)]
        options: dict[str, Any] = {"twin": twins[0], "max_samples": _MASKING_SAMPLES, "bounds": self.pixels}
        reports = {norm: masking_report(models[0], self.images, norm=norm, **options) for norm in self.epsilons}
        checks = [(norm, check) for norm, report in reports.items() for check in report.checks]
        spectra = (fisher.fisher_spectrum(model, self.images[0], bounds=self.pixels.bounds) for model in models)
        by_attack = {
            f"{row.attack.removesuffix(f'_{row.norm}')} {row.norm} {row.epsilon:.3g}": (row, *others)
            for row, *others in zip(*(evaluation.rows for evaluation in measured), strict=True)
        }
        return DefenseRow(
            defense=name,
            config=configs[0].as_dict(),
            seeds=tuple(config.seed for config in configs),
            accuracy=tuple(evaluation.accuracy.value for evaluation in measured),
            fooling={label: tuple(row.fooling.value for row in rows) for label, rows in by_attack.items()},
            robust={label: tuple(row.robust.value for row in rows) for label, rows in by_attack.items()},
            eigenvalue=tuple(mean(spectrum.eigenvalues) for spectrum in spectra),
            suspects=tuple(f"{check.name} (l{norm:g})" for norm, check in checks if check.verdict == "suspect"),
            cost=cost,
        )

    def _model(self, config: TrainingConfig) -> keras.Model:
        folder = self.folder / "runs" / f"{config.defense}-seed{config.seed}"
        return trained.load_model(run.train(config, folder, resume=True, data_dir=self.data_dir))

    def _evaluated(self, config: TrainingConfig, model: keras.Model, twin: keras.Model | None) -> Evaluation:
        strong = [attacks.Strong(norm=norm, twin=twin, quick=self.quick) for norm in self.epsilons]
        name = f"{config.defense}-seed{config.seed}"
        options: dict[str, Any] = {"attacks": [attacks.OSSA(), attacks.FGSM(), *strong], "epsilons": self.epsilons}
        options |= {"bounds": self.pixels, "spectrum": False, "max_samples": None, "name": name}
        options |= {"class_names": config.facts.class_names, "folder": self.folder / "cells" / name}
        options["progress"] = lambda line: self.say(line and f"{config.defense}, seed {config.seed}: {line}")
        result = evaluate(model, self.images, **options)
        result.save(self.folder / "evaluations" / f"{name}.json")
        return result


def _finished(empty: Comparison, folder: Path, configs: Mapping[str, _Configs]) -> dict[str, DefenseRow]:
    """The rows of an earlier call with the same settings, by name of the defense."""
    try:
        earlier = Comparison.load(folder / "comparison.json")
    except (OSError, ValueError, KeyError, TypeError):  # none, or the file of another version
        return {}
    rows: dict[str, DefenseRow] = {}
    if dataclasses.replace(earlier, rows=(), versions=empty.versions) != empty:
        return rows
    for row in earlier.rows:
        group = configs.get(row.defense, ())
        if row.seeds == tuple(config.seed for config in group) and not differences(row.config, group[0]):
            rows[row.defense] = row
    return rows
