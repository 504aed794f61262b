"""What an evaluation says of a model."""

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_fim.attacks import MinimalDistanceAttack, lp
from keras_fim.evaluation import page, smoothing
from keras_fim.evaluation.distances import DistanceSummary
from keras_fim.evaluation.measurement import Outcome
from keras_fim.evaluation.plans import Plan
from keras_fim.evaluation.report import Ratio, Report, Row, share, wilson
from keras_fim.evaluation.rows import AttackRow, named, telling
from keras_fim.evaluation.spectrum import RADIUS, SpectrumSummary
from keras_fim.records import write_text

_FURTHER = {RADIUS: RADIUS, "λ_max(G_x)": "λ_max(G_x)", "classes": "certified class", "radius": "certified radius"}
_CONFUSIONS = 10


@dataclasses.dataclass(frozen=True)
class PerSample(Report):
    """A row for each sample; ``save("samples.csv")`` writes them.

    Attributes:
        index: The positions in the dataset.
        label: The true classes.
        prediction: The classes predicted without an attack; -1 where the model answers with NaN.
        confidence: The predicted probability of ``prediction``.
        taken_for: For each attack and ε, such as ``"fgsm at linf 0.1"``, the wrong class that a sample was given; -1 if
            it was not fooled, or wrong before.
        figures: Further columns by name: the boundary radius and λ_max, and for each attack that looks for the nearest
            adversarial its distance (inf without one, 0 if the sample was wrong before); and of the smoothed classifier
            the certified class, -1 for none, and radius.
        files: The names of the images' files, or nothing.
    """

    index: tuple[int, ...]
    label: tuple[int, ...]
    prediction: tuple[int, ...]
    confidence: tuple[float, ...]
    taken_for: dict[str, tuple[int, ...]]
    figures: dict[str, tuple[float, ...]]
    files: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, clean: dict[str, Any], pairs: Sequence[tuple[Plan, Outcome]], figures: Sequence[Any], files: Sequence[str]
    ) -> "PerSample":
        """The rows by sample: of untouched images, of attacks (``pairs``), and of the cells' ``figures``."""
        several = len({plan.attack.name for plan, _ in pairs}) < len(pairs)  # of one attack with other options
        taken_for, further = {}, {}
        for (attack, epsilons), outcome in pairs:
            name = repr(attack) if several else attack.name
            for epsilon, classes in zip(epsilons, outcome.taken_for, strict=True):
                taken_for[named(name, lp.norm_name(attack.norm), epsilon)] = tuple(classes.tolist())
            if isinstance(attack, MinimalDistanceAttack):
                further[f"nearest of {name}"] = outcome.distances
        for key, name in _FURTHER.items():
            further.update((name, columns[key]) for columns in figures if key in columns)
        index, label, prediction, confidence = (tuple(column.tolist()) for column in clean.values())
        names = tuple(str(files[position]) for position in index) if len(files) else ()
        lists = {name: tuple(column.tolist()) for name, column in further.items()}
        return cls(index, label, prediction, confidence, taken_for, lists, names)

    def tables(self) -> dict[str, list[Row]]:
        """A row for each sample."""
        columns: dict[str, Any] = {"index": self.index, **({"file": self.files} if self.files else {})}
        columns |= {name: getattr(self, name) for name in ("label", "prediction", "confidence")}
        for name, classes in self.taken_for.items():
            columns |= {f"fooled by {name}": [wrong >= 0 for wrong in classes], f"taken for by {name}": classes}
        columns |= self.figures
        return {"": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]}

    def wrong_classes(self, row: AttackRow) -> np.ndarray:
        """``taken_for`` of a row, int64 ``(n,)``."""
        names = [named(name, row.norm, row.epsilon) for name in (row.attack, row.options)]
        return np.array(next(self.taken_for[name] for name in names if name in self.taken_for))

    def by_class(self, rows: Iterable[AttackRow]) -> list[tuple[int, list[Ratio]]]:
        """For each class the accuracy without an attack, and under the attacks of some rows."""
        labels, right = np.array(self.label), np.array(self.label) == np.array(self.prediction)
        standing = [right & (self.wrong_classes(row) < 0) for row in rows]
        classes = np.unique(labels).tolist()
        return [(label, [share(mask, labels == label) for mask in (right, *standing)]) for label in classes]

    def confusions(self, row: AttackRow) -> list[tuple[tuple[int, int], int]]:
        """The true and the wrong class that an attack most often turns it into, and how often."""
        labels, wrong = np.array(self.label), self.wrong_classes(row)
        pairs = zip(labels[wrong >= 0].tolist(), wrong[wrong >= 0].tolist(), strict=True)
        return collections.Counter(pairs).most_common(_CONFUSIONS)


@dataclasses.dataclass(frozen=True)
class Evaluation(Report):
    """How robust a model is; prints as tables that end in a verdict.

    Attributes:
        model: The model's name.
        pixels: The range of the pixel values, and how it is known.
        flags: What makes the figures worthless or weak, in words; empty if nothing does.
        accuracy: The accuracy on the images as they are.
        mean_confidence: The mean of the largest predicted probability, of images with an answer that is not NaN.
        rows: One for each attack and ε.
        distances: One for each attack that looks for the nearest adversarial.
        spectrum: The Fisher information, or None if it was not asked for.
        digests: Of the model and of the data: equal ones are the same.
        versions: Of the packages that measured.
        samples: A row for each sample, or None from a file of an older version.
        examples: Images that are easily fooled, typical, and hardly fooled; empty if the inputs are no images.
        class_names: The names of the classes, or nothing.
        certified: The certified accuracy of the smoothed classifier, or None if it was not asked for.
    """

    model: str
    pixels: str
    flags: tuple[str, ...]
    accuracy: Ratio
    mean_confidence: float
    rows: tuple[AttackRow, ...]
    distances: tuple[DistanceSummary, ...]
    spectrum: SpectrumSummary | None
    digests: dict[str, str]
    versions: dict[str, str | None] = dataclasses.field(repr=False)
    samples: PerSample | None = dataclasses.field(default=None, repr=False)
    examples: tuple[page.Example, ...] = dataclasses.field(default=(), repr=False)
    class_names: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    certified: smoothing.CertifiedAccuracy | None = None

    def row(self, attack: str, epsilon: float) -> AttackRow:
        """The row of an attack, by name, at an ε.

        Raises:
            ValueError: If there is none.
        """
        for row in self.rows:
            if row.attack == attack and np.isclose(row.epsilon, epsilon, rtol=1e-6, atol=0):
                return row
        measured = ", ".join(f"{row.attack} at {row.epsilon:g}" for row in self.rows)
        raise ValueError(f"`attack` and `epsilon` should be of {measured}. Received: {attack} at {epsilon:g}")

    @property
    def strongest(self) -> dict[tuple[str, float], AttackRow]:
        """By norm and ε, in ascending order, the row of the attack that fools most.

        Of equals it is the first one of `keras_fim.attacks.Strong` and `AutoAttack`, or else the first one. Attacks
        that aim at a class count only where there are no others.
        """
        rows = [row for row in self.rows if row.strongest] or self.rows
        ascending = sorted(reversed(rows), key=lambda row: (row.fooling.count, bool(row.stages)))
        return dict(sorted({(row.norm, row.epsilon): row for row in ascending}.items()))

    def attacks(self, norm: str, epsilon: float) -> frozenset[str]:
        """The names of the attacks at a norm and ε."""
        return frozenset(row.attack for row in self.rows if (row.norm, row.epsilon) == (norm, epsilon))

    @property
    def headline(self) -> AttackRow:
        """The strongest row at the smallest ε that leaves less than half of the accuracy, or else at the largest ε.

        It is of `keras_fim.attacks.Strong` or `AutoAttack` if one of them ran, and of l∞ if that was measured, or else
        of l2.
        """
        judged = {key: row for key, row in self.strongest.items() if row.stages} or self.strongest
        return judged[telling({key: row.robust.value for key, row in judged.items()}, self.accuracy.value)]

    @property
    def sentences(self) -> tuple[str, str]:
        """The verdict in two sentences."""
        first, second = page.rendered("sentences.txt", result=self).splitlines()
        return first, second

    @property
    def verdict(self) -> str:
        """The robust accuracy that may be quoted: for each norm and ε that of the attack here that fools most."""
        return page.rendered("verdict.txt", result=self)

    @property
    def quotes(self) -> list[str]:
        """A sentence to quote for each norm and ε of `keras_fim.attacks.AutoAttack`, with what it was measured on."""
        return page.rendered("quotes.txt", result=self).splitlines()

    def tables(self) -> dict[str, list[Row]]:
        """Accuracy; attacks; distances; spectrum."""
        clean: Row = {"model": self.model, "accuracy": self.accuracy, "mean confidence": self.mean_confidence}
        unique = len({row.options for row in self.rows}) == len({row.attack for row in self.rows})
        attacks, stages, leaderboard = list[Row](), list[Row](), list[Row]()
        for row in self.rows:
            budget = {"attack": row.attack if unique else row.options, "norm": row.norm, "ε": row.epsilon}
            shares = {"fooling ratio": row.fooling, "robust accuracy": row.robust, "strongest": row.strongest}
            attacks.append({**budget, **shares, "unconfirmed": row.num_unconfirmed})
            if row.stages and (total := row.fooling.total):
                by_stage = {stage: wilson(round(share * total), total) for stage, share in row.stages.items()}
                stages.append({"attack": row.attack, "ε": row.epsilon, **by_stage})
            if row.attack.startswith("autoattack_"):
                budget = {"model": self.model, "norm": row.norm, "ε": row.epsilon, "images": row.robust.total}
                correct = wilson(row.fooling.total, row.robust.total)
                version = {"version": "standard" if row.published is None else "rand", "clean": correct}
                robust = {"robust": row.robust, "published rule": row.published or row.robust, "flags": len(self.flags)}
                shown = {f"fooled by {stage}": f"{100 * share:.1f} %" for stage, share in row.stages.items()}
                leaderboard.append({**budget, **version, **robust, **shown})
        return {
            f"On {self.accuracy.total} images, with 95 % intervals": [clean],
            "Leaderboard": leaderboard,
            "Within ε": attacks,
            "Fooled by each stage": stages,
            "Nearest adversarials": [row for summary in self.distances for row in summary.tables()[""]],
            "Certified, of the smoothed classifier": [] if self.certified is None else self.certified.tables()[""],
            "Fisher information": [] if self.spectrum is None else self.spectrum.tables()[""],
        }

    def save(self, path: str | Path) -> Path:
        """Write the result aside and rename it.

        Args:
            path: ``.html`` for a page to read, in one file that needs no network; ``samples.csv`` for a row for each
                sample; otherwise as `Report.save`.

        Returns:
            The path.

        Raises:
            ValueError: If the suffix is another.
        """
        if Path(path).name == "samples.csv" and self.samples is not None:
            return self.samples.save(path)
        if Path(path).suffix != ".html":
            return super().save(path)
        several = len({row.options for row in self.rows}) > len({row.attack for row in self.rows})
        ascending = sorted(self.rows, key=lambda row: row.epsilon)
        points = [(row.options if several else row.attack, self.accuracy, row) for row in ascending]
        return write_text(path, page.rendered("report.html", result=self, points=points))

    def to_pandas(self) -> Any:
        """The rows by sample as a ``pandas.DataFrame``, which has to be installed.

        Raises:
            ValueError: If the result was loaded from a file of an older version, which has no such rows.
        """
        import pandas

        if self.samples is None:
            raise ValueError("`samples` should be kept with the evaluation. Received: None; measure again")
        return pandas.DataFrame(self.samples.records()).set_index("index")

    def __str__(self) -> str:
        return f"{super().__str__()}\n\n{self.verdict}"
