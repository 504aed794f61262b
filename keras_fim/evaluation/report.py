"""Results as frozen dataclasses that print as tables and are saved as files, and the intervals of their figures."""

import abc
import csv
import dataclasses
import io
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np

from keras_fim.arguments import Count, InnerShare, checked, expect
from keras_fim.records import read_json, write_json, write_text

Row: TypeAlias = Mapping[str, Any]  # a row of a table: values by column; text, numbers, or dataclasses that print

_Self = TypeVar("_Self", bound="Report")


@dataclasses.dataclass(frozen=True)
class Interval:
    """A figure and its confidence interval.

    Attributes:
        value: the figure on the samples at hand.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


@dataclasses.dataclass(frozen=True)
class Ratio(Interval):
    """A share of samples and its confidence interval.

    Attributes:
        value: ``count / total``; NaN of nothing.
        low: lower end of Wilson's 95 % interval.
        high: its upper end.
        count: samples that count.
        total: samples that could.
    """

    count: int
    total: int

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclasses.dataclass(frozen=True)
class Report(abc.ABC):
    """A result; a subclass has fields and says what its tables are."""

    @abc.abstractmethod
    def tables(self) -> dict[str, list[Row]]:
        """Rows for people, by title."""

    def records(self) -> list[dict[str, Any]]:
        """Rows for programs: plain numbers at full precision; by default those of the tables."""
        tables = self._shown()
        titled = len(tables) > 1
        return [{**({"table": title} if titled else {}), **_plain(row)} for title, rows in tables for row in rows]

    def markdown(self) -> str:
        """The tables as Markdown."""
        parts = [f"{f'### {title}' if title else ''}\n\n{table(rows, markdown=True)}" for title, rows in self._shown()]
        return "\n\n".join(part.strip() for part in parts) + "\n"

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON: numbers, text, lists and dicts."""
        return {field.name: encode(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def save(self, path: str | Path) -> Path:
        """Write the result aside and rename it.

        Args:
            path: ``.json`` keeps everything and can be loaded; ``.csv`` the rows for programs; ``.md`` the tables.

        Returns:
            The path.

        Raises:
            ValueError: if the suffix is another.
        """
        path = Path(path)
        if path.suffix == ".json":
            return write_json(path, {"type": type(self).__name__, **self.as_dict()})
        if path.suffix == ".csv":
            return write_text(path, csv_text(self.records()))
        if path.suffix == ".md":
            return write_text(path, self.markdown())
        raise ValueError(f"`path` should end in .json, .csv or .md. Received: path={str(path)!r}")

    @classmethod
    def load(cls: type[_Self], path: str | Path) -> _Self:
        """What `save` wrote to a ``.json`` file.

        Args:
            path: the file.

        Returns:
            An equal result.

        Raises:
            ValueError: if it holds another type of result.
        """
        content = read_json(path)
        if not isinstance(content, dict) or content.pop("type", None) != cls.__name__:
            raise ValueError(f"`path` should hold a {cls.__name__} that `save` wrote. Received: path={str(path)!r}")
        return typing.cast(_Self, decode(cls, content))

    def __str__(self) -> str:
        return "\n\n".join(f"{title}\n{table(rows)}" if title else table(rows) for title, rows in self._shown())

    def _shown(self) -> list[tuple[str, list[Row]]]:
        return [(title, rows) for title, rows in self.tables().items() if rows]


def table(rows: Sequence[Row], *, markdown: bool = False) -> str:
    """Rows as an aligned table.

    Args:
        rows: Of a column that a row does not have, its cell stays empty.
        markdown: Whether to draw the bars of Markdown.

    Returns:
        Lines of text.

    Example:
        >>> print(table([{"attack": "fgsm", "fooled": 0.25}, {"attack": "pgd_linf", "fooled": 0.5}]))
        attack    fooled
        fgsm        0.25
        pgd_linf     0.5
    """
    header = columns(rows)
    cells = [header, *([shown(row.get(column)) for column in header] for row in rows)]
    right = [not any(isinstance(row.get(column), (str, bool)) for row in rows) for column in header]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    sides = [f"{'>' if flush else '<'}{width}" for flush, width in zip(right, widths, strict=True)]
    lines = [[format(cell, side) for cell, side in zip(line, sides, strict=True)] for line in cells]
    if not markdown:
        return "\n".join("  ".join(line).rstrip() for line in lines)
    rule = [("-" * (max(width, 3) - 1)) + (":" if flush else "-") for width, flush in zip(widths, right, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as the content of a CSV file; what a row does not have is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def columns(rows: Sequence[Row]) -> list[str]:
    """The columns of all rows, in the order in which they first appear."""
    return list(dict.fromkeys(column for row in rows for column in row))


def encode(value: Any) -> Any:
    """A value of dataclasses, tuples, dicts and numbers as strict JSON knows it; inf and NaN become text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def decode(hint: Any, value: Any) -> Any:
    """What `encode` made of a value with this type hint."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = typing.get_type_hints(hint)
        return hint(**{key: decode(hints[key], item) for key, item in value.items()})
    if origin is tuple:
        return tuple(decode(arguments[0], item) for item in value)
    if origin is dict:
        return {decode(arguments[0], key): decode(arguments[1], item) for key, item in value.items()}
    if origin in (typing.Union, types.UnionType):
        return None if value is None else decode(next(item for item in arguments if item is not type(None)), value)
    return float(value) if hint is float else value


def _plain(row: Row) -> dict[str, Any]:
    """A row without dataclasses: their fields become columns, the field ``value`` the column itself."""
    plain: dict[str, Any] = {}
    for column, value in row.items():
        fields = vars(value) if dataclasses.is_dataclass(value) else {"value": value}
        plain |= {column if name == "value" else f"{column} {name}": part for name, part in fields.items()}
    return plain


def shown(value: Any) -> str:
    """A value as the tables show it."""
    if value is None or isinstance(value, bool):
        return "yes" if value else ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@checked
def wilson(count: int, total: int, *, confidence: InnerShare = 0.95) -> Ratio:
    r"""A share with Wilson's score interval.

    .. math:: \frac{\hat p + z^2 / 2n \pm z \sqrt{\hat p (1 - \hat p) / n + z^2 / 4 n^2}}{1 + z^2 / n}

    A share of independent samples is binomial, and this interval holds its level even where the share is near 0 or 1;
    there the bootstrap gives [0, 0] or [1, 1], whatever the number of samples.

    Args:
        count: samples that count, 0 to ``total``.
        total: samples that could.
        confidence: level in (0, 1).

    Returns:
        `Ratio`; NaN with the interval [0, 1] of nothing.

    Raises:
        ValueError: if the counts or the level are out of range.

    Example:
        >>> print(wilson(0, 100))
        0.0 % [0.0, 3.7]

    Source:
        Wilson, Probable inference, the law of succession, and statistical inference (JASA 1927).
    """
    expect(0 <= count <= total, "count", f"from 0 to total={total}", count)
    if total == 0:
        return Ratio(math.nan, 0.0, 1.0, 0, 0)
    from scipy.stats import binomtest

    interval = binomtest(int(count), int(total)).proportion_ci(confidence, method="wilson")
    return Ratio(count / total, float(interval.low), float(interval.high), int(count), int(total))


def share(counted: Any, among: Any) -> Ratio:
    """`wilson` of masks: how many of the samples ``among`` are ``counted``."""
    return wilson(int((counted & among).sum()), int(np.sum(among)))


@checked
def bootstrap(
    statistic: Callable[..., float],
    *samples: Sequence[Any] | np.ndarray,
    confidence: InnerShare = 0.95,
    resamples: Count = 1000,
    seed: int = 0,
) -> Interval:
    """A statistic of samples with its percentile bootstrap interval.

    Samples are drawn again with replacement, the same ones from each array: two models that were measured on the same
    images are compared image by image. For plain shares use `wilson`.

    Args:
        statistic: a function of as many arrays as are given; may return inf or NaN (NaN draws are left out).
        *samples: arrays of one length n, one entry for each sample.
        confidence: level in (0, 1).
        resamples: number of draws.
        seed: of the draws.

    Returns:
        `Interval`; its ends are order statistics, so they may be inf. NaN ends if every draw was NaN.

    Raises:
        ValueError: if there is no sample, the lengths differ, or an option is out of range.

    Example:
        >>> found = bootstrap(np.mean, np.arange(100.0))
        >>> round(found.value, 1), 40 < found.low < found.value < found.high < 60
        (49.5, True)

    Source:
        Efron, Bootstrap methods: another look at the jackknife (Annals of Statistics 1979).
    """
    arrays = [np.asarray(column) for column in samples]
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"`samples` should be arrays of one length, at least 1. Received: lengths {sorted(lengths)}")
    (count,), generator = lengths, np.random.default_rng(seed)
    draws = (generator.integers(count, size=count) for _ in range(resamples))
    values = np.array([statistic(*(array[draw] for array in arrays)) for draw in draws], np.float64)
    values, tails = values[~np.isnan(values)], np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    # an interpolation between inf and inf would be NaN
    low, high = np.quantile(values, tails, method="inverted_cdf") if len(values) else (np.nan, np.nan)
    return Interval(float(statistic(*arrays)), float(low), float(high))
