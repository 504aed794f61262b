"""The words that names and prose should not use, and the files that still use them.

``python -m tests.language`` rewrites ``language_exceptions.txt``, which may only shrink. With paths of files behind it,
the command prints their words.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXCEPTIONS = Path(__file__).with_name("language_exceptions.txt")
FOLDERS = ("keras_fim", "training", "reproduction", "benchmarks", "tests", "docs", "serving", ".ci")
PAGES = ("README.md", "CONTRIBUTING.md")
KINDS = (".py", ".md", ".ipynb")
UNREAD = ("tests/language.py", "tests/test_language.py")  # they hold the words

NAMES = {"each", "found", "chosen", "known", "ours"}
PHRASES = ("of the choice", r"\blest\b", r"\bas there\b", "(is|are|was|were) not to be had", "who was fooled by what")
_ISE = (
    "normal|penal|serial|optim|regular|linear|initial|general|summar|minim|maxim|organ|real|recogn|standard|synchron|"
    "visual|emphas|vector|parametr|quant|discret|random|character|categor|util|final|special|factor|token|author|custom|"
    "local|symmetr|digit|neutral|rasteri|stabil|priorit|marginal|diagonal|factori|memor|apolog|critic|equal|polar|whiten"
)
SPELLINGS = (
    rf"(?:{_ISE})is(?:e|ed|es|er|ers|ing|able|ation|ations)(?![a-z])",
    "(?:de|of)fences?(?![a-z])|licence|pretence",
    "colour|behaviour|favour|neighbour|honour|labour|rumour|vapour|endeavour",
    "centre|fibre|theatre|grey|analyse|catalogue|artefact|judgement|ageing|whilst|amongst|sceptic|aluminium|mould",
    r"programme(?!d|r)|(?:label|model|cancel|travel|signal|tunnel)l(?:ed|ing)|fulfil(?!l)|learnt|spelt|practise",
)
_ANY = "|".join(f"(?:{pattern})" for pattern in (*PHRASES, *SPELLINGS))
_TEXT = re.compile(_ANY.replace(" ", r"\s+"), re.IGNORECASE)  # a phrase may go on in the next line


def files(root: Path = ROOT) -> list[Path]:
    """Every file that is read, relative to the root."""
    paths = [root / page for page in PAGES]
    for folder in FOLDERS:
        paths += [path for path in (root / folder).rglob("*") if path.suffix in KINDS]
    existing = {path.relative_to(root) for path in paths if path.is_file()}
    return sorted(path for path in existing if path.as_posix() not in UNREAD)


def hits(text: str, python: bool) -> list[tuple[int, str]]:
    """The lines and words of a text that should be others."""
    words = [(text.count("\n", 0, match.start()) + 1, match.group()) for match in _TEXT.finditer(text)]
    names = [binding for binding in _bindings(text) if binding[1] in NAMES] if python else []
    return sorted(words + names, key=lambda hit: hit[0])


def _bindings(text: str) -> Iterator[tuple[int, str]]:
    """The lines on which Python source binds a name, and the names."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Name(id=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.ExceptHandler(name=str(name)) | ast.alias(asname=str(name)):
                yield node.lineno, name


def hits_of(path: Path) -> list[tuple[int, str]]:
    """The hits in a file, given relative to the root; those in its name are on line 0."""
    in_name = [(0, word) for _, word in hits(path.as_posix(), python=False)]
    return in_name + hits((ROOT / path).read_text(encoding="utf-8"), python=path.suffix == ".py")


def count() -> dict[str, int]:
    """The number of hits in each file that has any."""
    counts = {path.as_posix(): len(hits_of(path)) for path in files()}
    return {path: number for path, number in counts.items() if number}


def listed() -> dict[str, int]:
    """The committed list of exceptions."""
    lines = EXCEPTIONS.read_text(encoding="utf-8").split("\n") if EXCEPTIONS.exists() else []
    return {path: int(number) for path, number in (line.rsplit(" ", 1) for line in lines if line)}


def growth(before: dict[str, int], now: dict[str, int]) -> list[str]:
    """The files that keep a list from being replaced: those that grew, or new ones that hold more than others lost."""
    grown = [path for path, number in now.items() if path in before and number > before[path]]
    if not grown and sum(now.values()) > sum(before.values()):
        return [path for path in now if path not in before]
    return grown


def report(paths: list[str]) -> str:
    """The hits of some files, a line each."""
    return "\n".join(f"{path}:{line}: {' '.join(word.split())}" for path in paths for line, word in hits_of(Path(path)))


def main(paths: list[str]) -> int:
    """Print the hits of some files; without any, rewrite the list of exceptions."""
    if paths:
        print(report(paths))
        return 0
    before, now = listed(), count()
    if EXCEPTIONS.exists() and (worse := growth(before, now)):
        print(f"{report(worse)}\nThe list of exceptions may only shrink: mend these files.")
        return 1
    EXCEPTIONS.write_text("".join(f"{path} {number}\n" for path, number in now.items()), encoding="utf-8")
    print(f"{EXCEPTIONS.name}: {len(now)} files, {sum(now.values())} words (before: {sum(before.values())})")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
