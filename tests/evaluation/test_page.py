"""The report that a person reads: its figures, its text, and that nothing is executed or fetched."""

from __future__ import annotations

import dataclasses
import html.parser
import re

import keras
import numpy as np
import pytest

from keras_fim import attacks, evaluation
from keras_fim.evaluation.page import Gallery
from keras_fim.evaluation.rows import budget
from keras_fim.evaluation.sources import Chunk
from tests import browser
from tests.tables import read_csv

EVIL = '<script>alert("1")</script>'
NAMES = (EVIL, "b & c", "d")


@pytest.fixture(scope="module")
def result():
    """Three linear classes on small images, two norms, a search, and names that should be escaped."""
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(60, 4, 4, 1)).astype("float32")
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.set_weights([rng.normal(size=(16, 3)), np.zeros(3)])
    labels = model.predict(images, verbose=0).argmax(axis=-1)
    labels[:5] = (labels[:5] + 1) % 3  # wrong before
    options = {"attacks": ["fgsm", "pgd", "fmn_l2"], "epsilons": {"linf": [0.02, 0.25], "l2": [0.1]}, "bounds": (0, 1)}
    return evaluation.evaluate(model, (images, labels), name=EVIL, class_names=NAMES, progress=None, **options)


class Parser(html.parser.HTMLParser):
    """Notes tags, whether they are closed in order, and what they point to."""

    VOID = {"meta", "img", "br", "link"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.links, self.texts, self.images = [], [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        values = dict(attributes)
        self.links += [value for key, value in attributes if key in ("href", "src", "srcset")]
        if tag == "img":
            self.images.append(values)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def page(result, tmp_path_factory):
    path = result.save(tmp_path_factory.mktemp("page") / "report.html")
    assert path.stat().st_size < 5e6
    return path.read_text(encoding="utf-8")


def test_the_verdict_comes_first_in_two_sentences(result, page):
    first, second = result.sentences
    assert first == f"Correct on {100 * 55 / 60:.1f} % of 60 images."
    row = result.headline
    assert row.norm == "linf" and row.strongest and 2 * row.robust.value < result.accuracy.value
    left = f"{100 * row.robust.value:.1f} % correct ({row.attack})"
    assert second == f"With each pixel changed by at most {row.epsilon:g}, an attacker leaves {left}."
    text = " ".join(" ".join(Parser(page).texts).split())
    assert text.index(first) < text.index("Clean and robust accuracy") and f"{first} {second}" in text


def test_names_are_escaped_and_nothing_runs_or_is_fetched(page):
    parsed = Parser(page)
    assert "script" not in parsed.tags and "link" not in parsed.tags and "iframe" not in parsed.tags
    assert "<script" not in page and "&lt;script&gt;" in page and "b &amp; c" in page
    assert parsed.links and all(link.startswith("data:image/png;base64,") for link in parsed.links)
    assert "url(" not in page and "@import" not in page and "http" not in page


def test_it_holds_the_figures(result, page):
    text = " ".join(" ".join(Parser(page).texts).split())
    for row in result.rows:
        assert f"{row.attack} {row.norm} {row.epsilon:.4g}" in text and str(row.robust) in text
    assert all(image["alt"] for image in Parser(page).images) and len(Parser(page).images) == 27
    assert len(re.findall(r"<svg[^>]*role=\"img\"[^>]*aria-label=", page)) == 3  # two norms, a histogram
    for heading in ("By class", "Confusions under attack", "Fisher information and boundary radius", "What was run"):
        assert heading in text
    assert "seed=0" in text and "What makes these figures doubtful" not in text


def test_a_flag_is_a_sentence_and_old_files_have_a_page(result, tmp_path):
    bare = dataclasses.replace(result, flags=("zero gradients: some",), samples=None, examples=(), spectrum=None)
    text = bare.save(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Zero gradients: some." in text and "By class" not in text and "<img" not in text
    with pytest.raises(ValueError, match="`samples` should be kept"):
        bare.to_pandas()


def test_attacks_with_other_stages_share_a_table(result, tmp_path):
    """As `Strong` and `AutoAttack` have; a cell without a figure stays empty."""
    rows = [
        dataclasses.replace(row, stages={name: 1.0}) for row, name in zip(result.rows, ("pgd", "fab"), strict=False)
    ]
    both = dataclasses.replace(result, rows=(*rows, *result.rows[2:]))
    title = "Fooled by each stage"
    header, first, second = str(both).split(f"{title}\n")[1].splitlines()[:3]
    assert header.split() == ["attack", "ε", "pgd", "fab"]
    assert len(first) == header.index("pgd") + 3 and len(second) == len(header)  # flush right
    text = both.save(tmp_path / "report.html").read_text(encoding="utf-8")
    table = text.split(f"<caption>{title}")[1].split("</table>")[0]
    assert re.findall(r"<td>([^<]*)</td>", table)[2::4][1] == "" and table.count("<td>") == 2 * table.count("<th ")
    assert "| pgd" in both.markdown() and len(both.save(tmp_path / "both.csv").read_text().splitlines()) > 4


def test_rows_by_sample(result, tmp_path):
    rows = read_csv(result.samples.save(tmp_path / "samples.csv"))
    assert [row["index"] for row in rows] == list(range(60))
    for row in result.rows:
        name = f"{row.attack} at {row.norm} {row.epsilon:g}"
        fooled = [sample for sample in rows if sample[f"fooled by {name}"]]
        assert len(fooled) == row.fooling.count
        assert all(sample[f"taken for by {name}"] not in (-1, sample["label"]) for sample in fooled)
    (distances,) = result.distances
    np.testing.assert_allclose([row["nearest of fmn_l2"] for row in rows], distances.distances)
    right = np.array([row["label"] == row["prediction"] for row in rows])
    radii, nearest = (np.array([row[key] for row in rows]) for key in ("boundary radius", "nearest of fmn_l2"))
    assert right.sum() == 55 and np.median(nearest[right] / radii[right]) == pytest.approx(1, abs=0.1)  # linear
    frame = pytest.importorskip("pandas") and result.to_pandas()
    assert frame.index.tolist() == list(range(60)) and frame["label"].tolist() == [row["label"] for row in rows]
    assert frame["fooled by fgsm at linf 0.25"].sum() == result.row("fgsm", 0.25).fooling.count


def test_budgets_are_written_as_people_write_them(result):
    row = dataclasses.replace(result.headline, epsilon=8 / 255)
    again = dataclasses.replace(result, rows=(row,))
    assert again.sentences[1].startswith("With each pixel changed by at most 8/255, an attacker leaves")
    assert row.line().startswith(f"{row.attack} at linf 8/255: ")
    assert (budget(0.2), budget(0.123456789), budget(2.0)) == ("0.2", "0.123457", "2")


def test_it_survives_json(result, tmp_path):
    assert evaluation.Evaluation.load(result.save(tmp_path / "evaluation.json")) == result


def test_the_same_attack_with_other_options_has_columns_of_its_own(tmp_path):
    images, labels = np.array([[0.6], [0.4]], "float32"), np.array([0, 1])
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    model.set_weights([np.array([[4.0, -4.0]]), np.array([-2.0, 2.0])])
    pair = [attacks.PGD(steps=2), attacks.PGD(steps=3)]
    options = {"attacks": pair, "epsilons": [0.3, 0.3], "bounds": (0, 1), "spectrum": False, "progress": None}
    pair_result = evaluation.evaluate(model, (images, labels), **options)
    assert len(pair_result.samples.taken_for) == 2 and pair_result.examples == ()
    assert all(pair_result.samples.wrong_classes(row).tolist() == [1, 0] for row in pair_result.rows)
    assert "PGD(" in pair_result.save(tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_gallery_keeps_nine_images_of_any_number_of_chunks():
    rng, gallery = np.random.default_rng(0), Gallery()
    scores = rng.uniform(size=400)
    scores[::7] = np.nan
    for start in range(0, 400, 50):
        part = slice(start, start + 50)
        indices = np.arange(400)[part]
        gallery.add(Chunk(indices, np.zeros((50, 2, 2, 1)), indices % 3), scores[part], {})
        assert len(gallery.kept.indices) <= 9
    order = np.argsort(scores)[: np.isfinite(scores).sum()]
    assert gallery.kept.indices[:3].tolist() == order[:3].tolist()
    assert gallery.kept.indices[-3:].tolist() == order[-3:].tolist()
    middle = scores[gallery.kept.indices[3:6]]
    assert (np.abs(middle - np.nanmedian(scores)) < 0.03).all()


def check_in_a_browser(path, width, scheme):
    """From disk, without a network: nothing is fetched, nothing complains, nothing is cut off."""
    if browser.find_browser() is None:
        pytest.skip("no Chromium on this machine")
    with browser.open_page(browser.find_browser(), width=1400) as tab:
        tab.resize(width, 1000)
        tab.prefer(scheme)
        tab.watch()
        tab.open(path.as_uri())
        tab.wait_for("document.readyState === 'complete' && document.querySelectorAll('h2').length > 5")
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert tab.requested() == [path.as_uri()] and tab.complaints() == []
        assert tab.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        if axe := browser.find_axe():
            assert tab.violations(axe) == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_in_a_browser_without_a_network(page, tmp_path, width, scheme):
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    check_in_a_browser(tmp_path / "report.html", width, scheme)


def test_the_verdict_is_of_the_strong_attack_whatever_norm_the_weaker_ones_have(result):
    """A one-step attack in l∞ is not quoted where Strong ran in l2."""
    strong = dataclasses.replace(result.headline, norm="l2", epsilon=0.1, attack="strong_l2", stages={"pgd": 0.5})
    weaker = dataclasses.replace(result.headline, norm="linf", attack="fgsm", stages={})
    both = dataclasses.replace(result, rows=(weaker, strong))
    assert both.headline is strong and "(strong_l2)" in both.sentences[1]


def test_of_equals_the_strong_attack_is_quoted(result):
    """A single step that happens to fool as many is not, wherever it stands in the list."""
    strong = dataclasses.replace(result.headline, attack="strong_linf", stages={"pgd": 0.5}, strongest=True)
    single = dataclasses.replace(strong, attack="fgsm", stages={})
    for order in ((single, strong), (strong, single)):
        both = dataclasses.replace(result, rows=order)
        assert both.headline is strong and list(both.strongest.values()) == [strong]
        assert "(strong_linf)" in both.sentences[1] and "under strong_linf" in both.verdict
    first, second = (dataclasses.replace(single, attack=name) for name in ("fgsm", "pgd_linf"))
    assert dataclasses.replace(result, rows=(first, second)).headline is first
