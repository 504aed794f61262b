"""The common look: lines that can be told apart, and labels that do not hide each other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from keras_fim import plots


@pytest.mark.parametrize("count", [2, 5])
def test_few_lines_have_their_names_at_their_ends_apart_and_in_the_panel(count):
    figure, (axes,) = plots.panels(title="message", xlabel="ε", ylabel="%")
    axes.set_ylim(0, 100)
    plots.lines(axes, {f"line {k}": ([0, 1, 2], [0, 50, 99.0]) for k in range(count)})
    heights = sorted(text.xy[1] for text in axes.texts)
    assert len(heights) == count and heights[-1] <= 100 and axes.get_legend() is None
    assert min(np.diff(heights)) > 5 and figure.get_suptitle() == "message"
    looks = {(line.get_color(), line.get_marker()) for line in axes.lines}
    assert len(looks) == count


def test_many_lines_have_a_legend():
    _, (axes,) = plots.panels()
    plots.lines(axes, {str(k): ([0, 1], [k, k]) for k in range(7)})
    assert len(axes.get_legend().get_texts()) == 7 and not axes.texts


def test_colors_differ_for_people_who_see_no_red_or_no_green():
    """Pairs of the palette stay apart after the projections of Viénot, Brettel & Mollon (1999)."""
    to_lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    blind = {
        "protan": np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]]),
        "deutan": np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]]),
    }
    colors = np.array([[int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)] for code in plots.PALETTE]) ** 2.2
    for name, projection in blind.items():
        seen = np.clip(colors @ to_lms.T @ projection.T @ np.linalg.inv(to_lms).T, 0, 1) ** (1 / 2.2)
        for (i, first), (j, second) in itertools.combinations(enumerate(seen), 2):
            assert np.linalg.norm(first - second) > 0.12, (name, plots.PALETTE[i], plots.PALETTE[j])


def test_names_of_defenses_that_are_alike_stay_apart():
    points = {name: (0.99, 0.8, 1.0) for name in ("none", "n-fgm", "pgd", "trades", "spectral", "n-fgsm")}
    _, *others = plots.defenses_figure({"one": points, "two": dict(reversed(points.items()))}, front=["pgd"]).axes
    (panel,) = others
    assert len(panel.texts) == 5 and any(text.get_text() == "pgd, 1.0\u00d7" for text in panel.texts)
    low, high = panel.get_ylim()
    assert min(abs(np.diff(sorted(text.xy[1] for text in panel.texts)))) > 0.05 * (high - low)
