"""Several models side by side: their evaluations, and whether the adversarials of one fool another."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_fim.arguments import checked, expect, require
from keras_fim.attacks import Attack, attack_by_name, lp, resolve_epsilons
from keras_fim.evaluation import distances, page, report, sources
from keras_fim.evaluation.measurement import measured, predicted_classes, predictions_of
from keras_fim.evaluation.result import Evaluation
from keras_fim.evaluation.rows import budget, telling
from keras_fim.logits import logits_function
from keras_fim.records import write_text
from keras_fim.typing import Images, Labels, Model
from keras_fim.validation import check_images


@dataclasses.dataclass(frozen=True)
class SideBySide(report.Report):
    """Evaluations of several models on the same images; prints as a table, and ``save("report.html")`` writes a page.

    Attributes:
        results: The evaluations, two or more, of models with different names.
        facts: For each result further columns of the table, such as what its training cost; or nothing.

    Raises:
        ValueError: If there are fewer than two results, names are repeated, or they share no norm and ε.

    Example:
        >>> import numpy as np
        >>> from keras_fim import evaluation, models
        >>> options = {"attacks": ["fgsm"], "epsilons": [0.1], "bounds": (0, 1), "spectrum": False, "progress": None}
        >>> data = np.full((4, 28, 28, 1), 0.5), [0, 1, 2, 3]
        >>> results = [evaluation.evaluate(models.convnet(), data, name=name, **options) for name in ("a", "b")]
        >>> SideBySide(tuple(results)).budgets
        [('linf', 0.1)]
    """

    results: tuple[Evaluation, ...]
    facts: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        names = [result.model for result in self.results]
        expect(len(set(names)) == len(names) > 1, "results", "two or more with different names", received=str(names))
        if not self.budgets:
            measured = "; ".join(f"{result.model}: {list(result.strongest)}" for result in self.results)
            raise ValueError(f"`results` should share a norm and an ε. Received: {measured}")

    @property
    def budgets(self) -> list[tuple[str, float]]:
        """The norms and ε that all models were attacked at, in ascending order."""
        return sorted(set.intersection(*(set(result.strongest) for result in self.results)))

    @property
    def headline(self) -> tuple[str, float]:
        """The smallest ε that leaves less than half of the mean accuracy, or the largest; see `Evaluation.headline`."""
        strong = [key for key in self.budgets if all(result.strongest[key].stages for result in self.results)]
        left = {key: sum(one.strongest[key].robust.value for one in self.results) for key in strong or self.budgets}
        return telling(left, sum(result.accuracy.value for result in self.results))

    def front(self, norm: str, epsilon: float) -> list[str]:
        """The models of the Pareto front: no other is as accurate and as robust, and better in one of both."""
        robust = {result.model: result.strongest[norm, epsilon].robust.value for result in self.results}
        return pareto_front({r.model: (-r.accuracy.value, -robust[r.model]) for r in self.results})

    @property
    def sentences(self) -> tuple[str, str]:
        """The verdict in two sentences."""
        norm, epsilon = self.headline
        left = [result.strongest[norm, epsilon].robust for result in self.results]
        best = int(np.nanargmax([ratio.value for ratio in left]))
        near = [r.model for r, ratio in zip(self.results, left, strict=True) if not _differ(ratio, left[best])]
        near.remove(self.results[best].model)
        accurate = max(self.results, key=lambda result: result.accuracy.value)
        figures: dict[str, Any] = {"best": self.results[best], "left": left[best].value, "near": near}
        figures["clear"] = len(near) + 1 < len(self.results)
        texts = page.rendered("side_by_side.txt", norm=norm, epsilon=epsilon, accurate=accurate, **figures).splitlines()
        return texts[0], texts[1]

    @property
    def flags(self) -> tuple[str, ...]:
        """What makes the comparison or one of its results doubtful, in words."""
        flags = [f"{result.model}: {flag}" for result in self.results for flag in result.flags]
        if len({result.digests["data"] for result in self.results}) > 1:
            flags.append("other images: the models were not measured on the same images")
        for norm, epsilon in self.budgets:
            if len({result.attacks(norm, epsilon) for result in self.results}) > 1:
                flags.append(f"other attacks: at {norm} {budget(epsilon)} not all models met the same attacks")
        return tuple(flags)

    def tables(self) -> dict[str, list[report.Row]]:
        """A row for each model."""
        rows: list[report.Row] = []
        for index, result in enumerate(self.results):
            robust = {f"{norm} {budget(e)}": result.strongest[norm, e].robust for norm, e in self.budgets}
            front = result.model in self.front(*self.headline)
            facts = self.facts[index] if self.facts else {}
            rows.append({"model": result.model, "no attack": result.accuracy, **robust, "on the front": front, **facts})
        return {"": rows}

    def save(self, path: str | Path) -> Path:
        """Write the results aside and rename the file: ``.html`` for a page to read, or as `Report.save`."""
        if Path(path).suffix != ".html":
            return super().save(path)
        points = [(model.model, model.accuracy, model.strongest[key]) for key in self.budgets for model in self.results]
        same = len({model.digests["data"] for model in self.results}) == 1  # only then can classes be compared
        sampled = [(model.samples, model.strongest[self.headline]) for model in self.results]
        classes = [samples.by_class([row]) if samples and same else [] for samples, row in sampled]
        columns = list(zip(*classes, strict=False))
        return write_text(path, page.rendered("side_by_side.html", comparison=self, points=points, classes=columns))


def _differ(one: report.Ratio, other: report.Ratio) -> bool:
    """Whether Fisher's exact test tells two shares from one another at 5 %."""
    from scipy.stats import fisher_exact

    return bool(fisher_exact([[ratio.count, ratio.total - ratio.count] for ratio in (one, other)]).pvalue < 0.05)


def pareto_front(points: Mapping[str, Sequence[float]]) -> list[str]:
    """The names of the points that no other dominates: at most as large in all coordinates, and smaller in one.

    Example:
        >>> pareto_front({"a": (0, 2), "b": (1, 1), "c": (1, 2)})
        ['a', 'b']
    """
    values = np.array(list(points.values()))
    dominated = [((values <= point).all(axis=-1) & (values < point).any(axis=-1)).any() for point in values]
    return [name for name, worse in zip(points, dominated, strict=True) if not worse]


@dataclasses.dataclass(frozen=True)
class TransferRow:
    """How one model does on the adversarials of another.

    Attributes:
        attack: the attack's name.
        options: the attack's options, as its ``repr`` shows them.
        norm: ``"l0"``, ``"l1"``, ``"l2"`` or ``"linf"``.
        epsilon: the budget; None for the nearest adversarials.
        source: name of the model that was attacked.
        target: name of the model that is tested on what came out.
        fooled: share of the samples that ``source`` had right on which the attack fooled it.
        accuracy: of these adversarials, of samples that *both* models had right, the share that ``target`` has right
            still; so whatever is missing to 100 % the attack has done.
        accuracy_of_all: the same share of all these adversarials, ``target`` right before or not; this is how we read
            the paper's table 2.
    """

    attack: str
    options: str
    norm: str
    epsilon: float | None
    source: str
    target: str
    fooled: report.Ratio
    accuracy: report.Ratio
    accuracy_of_all: report.Ratio


@dataclasses.dataclass(frozen=True)
class Transfer(report.Report):
    """Adversarials of each of two models, tested on the other; prints as a table.

    Attributes:
        rows: two for each attack: first ``source``'s adversarials on ``target``, then the other way.
        num_samples: number of samples.
    """

    rows: tuple[TransferRow, ...]
    num_samples: int

    def tables(self) -> dict[str, list[report.Row]]:
        """A row for each attack and direction."""
        rows = list[report.Row]()
        for row in self.rows:
            epsilon = "nearest" if row.epsilon is None else f"{row.epsilon:g}"
            made = {"attack": row.attack, "norm": row.norm, "ε": epsilon, "adversarials of": row.source}
            tested = {"tested on": row.target, "accuracy": row.accuracy, "of all": row.accuracy_of_all}
            rows.append({**made, "fool it": row.fooled, **tested})
        return {"": rows}


@checked
def transfer(
    source: Model,
    target: Model,
    images: Images,
    labels: Labels,
    attacks: Sequence[Attack | str],
    *,
    epsilons: Mapping[str, float] | None = None,
    names: tuple[str, str] = ("source", "target"),
) -> Transfer:
    """Test each of two models on the adversarials of the other.

    Args:
        source: any classifier that `keras_fim.logits.logits_function` takes.
        target: another for the same images.
        images: ``(batch, ...)`` within the attacks' bounds.
        labels: the true classes, ``(batch,)`` or one-hot.
        attacks: attacks or their names.
        epsilons: One budget by attack name or norm, such as ``{"ossa": 1.0}``. Other attacks take the nearest
            adversarials; one with a budget is searched for its smallest ε.
        names: of the two models, for the table.

    Returns:
        `Transfer`, with two rows for each attack. Only adversarials that fool the model they were made for count.

    Raises:
        ValueError: as the attacks; if there is none, the names are equal, or a budget is for none of the attacks.

    Example:
        >>> import tensorflow as tf
        >>> near, far = (
        ...     logits_function(lambda x, t=t: tf.stack([x[:, 0] - t, t - x[:, 0]], axis=-1), from_logits=True)
        ...     for t in (0.5, 0.3)
        ... )
        >>> rows = transfer(near, far, [[0.6], [0.9]], [0, 0], ["fgsm"]).rows
        >>> rows[0].accuracy.value, rows[1].accuracy.value  # what crosses 0.5 is still above 0.3, not vice versa
        (1.0, 0.0)
    """
    require(len(attacks), "`attacks` should hold at least one attack. Received: none")
    expect(len(set(names)) == 2, "names", "two different names", names)
    selected = [attack_by_name(attack) for attack in attacks]
    budgets = resolve_epsilons(selected, epsilons or {}, defaults=False)
    models = [logits_function(model, check_images(images)) for model in (source, target)]
    parts, rows = list(sources.chunks((images, labels))), []
    truth = np.concatenate([chunk.labels for chunk in parts])
    before = [np.concatenate([predicted_classes(model, chunk.images) for chunk in parts]) for model in models]
    for attack, given in zip(selected, budgets, strict=True):
        asked, epsilon = (attack, given[0]) if given else (distances.searching(attack), None)
        described = asked.name, repr(asked), lp.norm_name(asked.norm), epsilon
        for here, there in ((0, 1), (1, 0)):
            inspect = predictions_of(models[there])
            outcome = measured(models[here], asked, given[:1] or [np.inf], (images, labels), inspect)
            fooled, right = outcome.fooled[0], outcome.seen[0] == truth
            both = fooled & (before[there] == truth)
            shares = report.share(fooled, outcome.was_correct), report.share(right, both), report.share(right, fooled)
            rows.append(TransferRow(*described, names[here], names[there], *shares))
    return Transfer(tuple(rows), len(truth))
