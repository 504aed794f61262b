"""The documentation: ``python -m sphinx -W docs site`` builds it offline, without importing TensorFlow."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))
_program, sys.argv[0] = sys.argv[0], "keras-fim"  # as the command line does, so that nothing imports TensorFlow
from keras_fim import __all__ as public  # noqa: E402
from keras_fim import __version__, cli  # noqa: E402

sys.argv[0] = _program

project, author, release = "keras_fim", "the keras_fim authors", __version__
copyright = "the keras_fim authors. Apache-2.0"
extensions = ["sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinx-mathjax-offline", "myst_nb", "autoapi.extension"]
exclude_patterns = ["examples", "_build"]
html_theme, html_title = "furo", f"keras_fim {release}"
html_theme_options = {"navigation_with_keys": True}
html_favicon = "images/favicon.svg"
default_role, smartquotes = "py:obj", False

myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the nightly part `docs` runs the notebooks

autoapi_dirs = ["../keras_fim"]
autoapi_root = "reference/api"
autoapi_options = ["members", "imported-members", "show-module-summary"]
autoapi_ignore = ["*/cli/*", "*/training/weights/*", "*/gtsrb/*", "*/__main__.py"]
autoapi_member_order = "groupwise"
autoapi_keep_files = False
autoapi_add_toctree_entry = False
autodoc_typehints = "none"
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_custom_sections = [("Source", "returns_style"), ("Logged in training", "returns_style")]
napoleon_use_ivar = True

linkcheck_timeout, linkcheck_retries = 20, 2


def _skip(app: object, what: str, name: str, item: object, skip: bool, options: object) -> bool:
    """Leave out what is not public: the modules inside of a package, whose names the package offers."""
    if what in ("module", "package"):
        parts = name.split(".")
        return skip or len(parts) > 2 or (len(parts) == 2 and parts[1] not in (*public, "fisher"))
    return skip or (name.count(".") == 1 and what != "data" and name.split(".")[1] not in public)


def _command_page() -> str:
    """The reference of the command line, from its parsers."""
    parts = ["# Command line", "Generated from `keras-fim COMMAND --help`. `keras-fim` alone lists the commands."]
    for name, command in cli._parsers()[1].items():
        text, _, examples = (command.description or "").partition("Examples:\n")
        summary = cli._help(name).partition("\n")[0]
        parts += [f"## `keras-fim {name}`", summary, _paragraphs(text)]
        parts.append(f"```text\n{re.sub('(?m)^  ', '', examples).rstrip()}\n```")
        for action in command._actions:
            if action.option_strings != ["-h", "--help"]:
                parts.append(f"`{_signature(action)}`\n: {_help(action)}")
    return "\n\n".join(parts) + "\n"


def _paragraphs(text: str) -> str:
    return re.sub(r"(?m)([<>*_])", r"\\\1", text.strip())


def _signature(action: argparse.Action) -> str:
    name = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    if action.nargs == 0 or not action.option_strings:
        return name
    value = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.metavar or action.dest.upper()
    return f"{name} {' '.join(value) if isinstance(value, tuple) else value}{' ...' if action.nargs == '+' else ''}"


def _help(action: argparse.Action) -> str:
    text = (action.help or "") % {**vars(action), "prog": "keras-fim"}
    return re.sub(r"([<>*_])", r"\\\1", text) + (" **Required.**" if action.required and action.option_strings else "")


def setup(app: object) -> None:
    """Write the generated page and hide what is not public."""
    page = DOCS / "reference" / "cli.md"
    page.parent.mkdir(exist_ok=True)
    text = _command_page()
    if not page.exists() or page.read_text(encoding="utf-8") != text:
        page.write_text(text, encoding="utf-8")
    app.connect("autoapi-skip-member", _skip)  # type: ignore[attr-defined]
