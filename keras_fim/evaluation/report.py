"""Results as frozen dataclasses that print as aligned tables and are saved as JSON, CSV or Markdown."""

import csv
import dataclasses
import io
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from keras_fim.records import read_json, write_json, write_text

Row: TypeAlias = Mapping[str, Any]
"""A row of a table: values by column; text, numbers, or dataclasses that print."""

_Self = TypeVar("_Self", bound="Report")


@dataclasses.dataclass(frozen=True)
class Report:
    """A result; a subclass has fields and says what its tables are."""

    def tables(self) -> dict[str, list[Row]]:
        """Rows for people, by title."""
        raise NotImplementedError

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
            return write_text(path, _csv(self.records()))
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
        found: _Self = decode(cls, content)
        return found

    def __str__(self) -> str:
        return "\n\n".join(f"{title}\n{table(rows)}" if title else table(rows) for title, rows in self._shown())

    def _shown(self) -> list[tuple[str, list[Row]]]:
        return [(title, rows) for title, rows in self.tables().items() if rows]


def table(rows: Sequence[Row], *, markdown: bool = False) -> str:
    """Rows as an aligned table.

    Args:
        rows: with the same columns.
        markdown: with the bars of Markdown.

    Returns:
        Lines of text.

    Example:
        >>> print(table([{"attack": "fgsm", "fooled": 0.25}, {"attack": "pgd_linf", "fooled": 0.5}]))
        attack    fooled
        fgsm        0.25
        pgd_linf     0.5
    """
    header = list(rows[0])
    cells = [header, *[[shown(row[column]) for column in header] for row in rows]]
    right = [all(_is_number(row[column]) for row in rows) for column in header]
    widths = [max(len(row[index]) for row in cells) for index in range(len(header))]
    lines = [
        [cell.rjust(size) if flush else cell.ljust(size) for cell, size, flush in zip(line, widths, right, strict=True)]
        for line in cells
    ]
    if not markdown:
        return "\n".join("  ".join(line).rstrip() for line in lines)
    rule = [("-" * (max(width, 3) - 1)) + (":" if flush else "-") for width, flush in zip(widths, right, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def encode(value: Any) -> Any:
    """A value of dataclasses, tuples, dicts and numbers as strict JSON knows it; inf and NaN become text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [encode(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def decode(hint: Any, value: Any) -> Any:
    """What `encode` made of a value with this type hint."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = typing.get_type_hints(hint)
        return hint(**{key: decode(hints[key], each) for key, each in value.items()})
    if origin is tuple:
        return tuple(decode(arguments[0], each) for each in value)
    if origin is dict:
        return {decode(arguments[0], key): decode(arguments[1], each) for key, each in value.items()}
    if origin in (typing.Union, types.UnionType):
        return None if value is None else decode(next(each for each in arguments if each is not type(None)), value)
    return float(value) if hint is float else value


def _plain(row: Row) -> dict[str, Any]:
    """A row without dataclasses: their fields become columns, the field ``value`` the column itself."""
    plain: dict[str, Any] = {}
    for column, value in row.items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            for field in dataclasses.fields(value):
                plain[column if field.name == "value" else f"{column} {field.name}"] = getattr(value, field.name)
        else:
            plain[column] = value
    return plain


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def shown(value: Any) -> str:
    """A value as the tables show it."""
    if isinstance(value, bool):
        return "yes" if value else ""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_number(value: Any) -> bool:
    return not isinstance(value, (str, bool))
