"""The catalogs of attacks and defenses in the documentation, from the package's own lists and docstrings.

``python -m tests.catalogs`` rewrites the tables of the two pages in ``docs/catalog``; a test compares them.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

from keras_fim import attacks, defenses, losses
from keras_fim.attacks.base import AimedAttack
from keras_fim.attacks.catalog import full_name
from keras_fim.attacks.kinds import FixedBudgetAttack
from keras_fim.attacks.lp import norm_name
from keras_fim.evaluation.plans import stated_gradients
from keras_fim.evaluation.report import Row, table
from keras_fim.training import defending

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "catalog"
BEGIN, END = "<!-- table: python -m tests.catalogs -->", "<!-- end of the table -->"
COSTS = ROOT / "results" / "benchmarks" / "defense_step_mnist.json"

ATTACK_WHEN = {
    "Strong": "to quote robust accuracy",
    "AutoAttack": "to compare with the literature",
    "FGSM": "to see whether a model resists one step only; never alone",
    "FGM": "as FGSM, in l2",
    "OSSA": "to reproduce the paper; one step in l2",
    "TSSA": "to compare with OSSA: a second step; in l2",
    "OTCM": "one step toward a class",
    "PGD": "a standard baseline; to train on",
    "BIM": "to compare with older figures",
    "MIM": "adversarial images that transfer to other models",
    "APGD": "many steps without a step size to choose",
    "Square": "models without a gradient; a check for masked gradients",
    "FMN": "how far the nearest adversarial image is, fast",
    "FAB": "how far it is, by the published ensemble's own search",
    "DeepFool": "how far it is, in a few gradients",
    "CarliniWagner": "how far it is in l2, slowly and closely",
    "SigmaZero": "how few values have to change",
    "JSMA": "how few values have to change, as published",
}
_GRADIENTS = {  # their options do not say it
    "OSSA": "one for each class, or 4",
    "TSSA": "two for each class, or 8",
    "JSMA": "one for each class and pair",
}
DEFENSES: dict[str, tuple[Any, str]] = {
    "none": (None, "the baseline"),
    "fisher-trace": (losses.FisherTraceLoss, "to reproduce the paper; resists one step only"),
    "fisher-eigenvalue": (losses.FisherEigenvalueLoss, "to reproduce the paper; resists one step only"),
    "label-smoothing": (None, "the baseline that eq. (4) amounts to; resists one step only"),
    "adversarial-label-smoothing": (defenses.AdversarialLabelSmoothing, "to compare; resists one step only"),
    "n-fgsm": (defenses.n_fgsm, "**recommended** where only l∞ matters"),
    "n-fgm": (defenses.n_fgm, "**recommended**, to begin with"),
    "gaussian": (defenses.GaussianAugmentation, "before `certify`"),
    "pgd": (defenses.AdversarialTraining, "where cost does not matter, or one step overfits"),
    "ossa": (defenses.AdversarialTraining, "to compare"),
    "trades": (defenses.TRADES, "to trade accuracy for robustness by β"),
    "gradient-penalty": (defenses.GradientPenalty, "a penalty without an ε"),
    "spectral": (defenses.SpectralDefense, "eq. (2): the paper's idea, made trainable"),
    "spectral-trace": (defenses.SpectralDefense, "to compare with `spectral`"),
}


def attack_rows() -> list[Row]:
    """A row for each class of attacks."""
    groups: dict[str, list[tuple[str, attacks.Attack]]] = {}
    for name in attacks.attack_names():
        if not name.startswith("cleverhans_") and full_name(name) == name:
            attack = attacks.attack_by_name(name)
            groups.setdefault(type(attack).__name__, []).append((name, attack))
    rows: list[Row] = []
    for kind in sorted(groups, key=list(ATTACK_WHEN).index):
        own = [attack for _, attack in groups[kind]]
        gradients = sorted({stated_gradients(attack) for attack in own})
        queries = all(isinstance(attack, attacks.Square) for attack in own)
        ends = dict.fromkeys((gradients[0], gradients[-1]))
        counted = f"{own[0].queries} queries" if queries else " to ".join(map(str, ends))
        cost = _GRADIENTS.get(kind, counted)
        rows.append(
            {
                "attack": f"`{kind}`",
                "--attacks": ", ".join(f"`{name}`" for name in _short([name for name, _ in groups[kind]])),
                "norms": ", ".join(dict.fromkeys(_norm(attack.norm) for attack in own)),
                "asks": "fooled within ε?" if isinstance(own[0], FixedBudgetAttack) else "how far is the nearest?",
                "target": "yes" if isinstance(own[0], AimedAttack) else "",
                "gradients an image": cost,
                "when": ATTACK_WHEN[kind],
                "source": source(getattr(attacks, kind)),
            }
        )
    return rows


def defense_rows() -> list[Row]:
    """A row for each name that ``--defense`` takes."""
    costs = json.loads(COSTS.read_text(encoding="utf-8"))["costs"]
    rows: list[Row] = []
    for name in defending.NAMES:
        home, when = DEFENSES[name]
        part = defending._PARTS[name]
        norm = part.norm or ("l2 or linf" if "norm" in part.options else "")
        rows.append(
            {
                "--defense": f"`{name}`",
                "in Python": f"`{home.__name__}`" if home else "",
                "norm": norm.replace("linf", "l∞"),
                "cost": f"{costs[name]['cpu']:.1f}" if name in costs else "not measured",
                "when": when,
                "source": source(home) if home else "",
            }
        )
    return rows


def source(described: Any) -> str:
    """The section ``Source`` of a docstring, on one line."""
    text = (inspect.getdoc(described) or "").partition("Source:\n")[2].partition("\n\n")[0]
    text = re.sub(r"`+", "`", " ".join(text.split()))
    return text.replace("As `n_fgsm`, in l2.", "As `n_fgsm`, in l2: de Jorge et al.")


def printed() -> dict[str, str]:
    """The table of each page by the name of the page."""
    rows = {"attacks.md": attack_rows(), "defenses.md": defense_rows()}
    return {name: table(part, markdown=True) for name, part in rows.items()}


def on_the_page(name: str) -> str:
    """The table that a page holds."""
    return _parts(name)[1].strip()


def _parts(name: str) -> tuple[str, str, str]:
    before, _, rest = (FOLDER / name).read_text(encoding="utf-8").partition(BEGIN)
    stored, _, after = rest.partition(END)
    return before, stored, after


def _norm(norm: float) -> str:
    return norm_name(norm).replace("linf", "l∞")


def _short(names: list[str]) -> list[str]:
    return list(dict.fromkeys(re.sub(r"_(l1|l2|linf)$", "", name) for name in names))


def main() -> None:
    """Rewrite the tables of both pages."""
    for name, text in printed().items():
        before, _, after = _parts(name)
        (FOLDER / name).write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
