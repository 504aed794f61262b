"""Evaluations of several models side by side."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_fim.evaluation.report import Report, Row
from keras_fim.evaluation.result import Evaluation, way
from keras_fim.evaluation.rows import budget
from keras_fim.records import write_text


@dataclasses.dataclass(frozen=True)
class SideBySide(Report):
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
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(f"`results` should be two or more with different names. Received: {names}")
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
        judged = strong or self.budgets
        keys = [key for key in judged if key[0] == max(norm for norm, _ in judged)]
        accuracy = sum(result.accuracy.value for result in self.results)
        left = {key: sum(result.strongest[key].robust.value for result in self.results) for key in keys}
        return next((key for key in keys if 2 * left[key] < accuracy), keys[-1])

    def front(self, norm: str, epsilon: float) -> list[str]:
        """The models of the Pareto front: no other is as accurate and as robust, and better in one of both."""
        return pareto_front(
            {
                result.model: (-result.accuracy.value, -result.strongest[norm, epsilon].robust.value)
                for result in self.results
            }
        )

    @property
    def sentences(self) -> tuple[str, str]:
        """The verdict in two sentences."""
        norm, epsilon = self.headline
        left = [result.strongest[norm, epsilon].robust for result in self.results]
        best = int(np.nanargmax([ratio.value for ratio in left]))
        near = [r.model for r, ratio in zip(self.results, left, strict=True) if ratio.high >= left[best].low]
        near.remove(self.results[best].model)
        doubt = f"; within the uncertainty of that: {', '.join(near)}" if near else ""
        accurate = max(self.results, key=lambda result: result.accuracy.value)
        return (
            f"With {way(norm, epsilon)}, an attacker leaves most correct of {self.results[best].model}, "
            f"{100 * left[best].value:.1f} %{doubt}.",
            f"Without an attack {accurate.model} is the most accurate, {100 * accurate.accuracy.value:.1f} %.",
        )

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

    def tables(self) -> dict[str, list[Row]]:
        """A row for each model."""
        rows: list[Row] = []
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
        from keras_fim.evaluation.page import comparison_page

        return write_text(path, comparison_page(self))


def pareto_front(points: Mapping[str, Sequence[float]]) -> list[str]:
    """The names of the points that no other dominates: at most as large in all coordinates, and smaller in one.

    Example:
        >>> pareto_front({"a": (0, 2), "b": (1, 1), "c": (1, 2)})
        ['a', 'b']
    """
    return [
        name
        for name, point in points.items()
        if not any(
            all(a <= b for a, b in zip(other, point, strict=True)) and tuple(other) != tuple(point)
            for other in points.values()
        )
    ]
