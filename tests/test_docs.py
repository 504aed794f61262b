"""The code of the README and the docs runs, and their figures are those of the result files."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import own_images
from keras_fim import cli
from tests import catalogs
from tests.tables import read_csv

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
DOCS = ROOT / "docs"
SOURCES = [path for path in DOCS.rglob("*.md") if not {"reference", "_build"} & set(path.parts)]
PAGES = {str(path.relative_to(DOCS)): path.read_text(encoding="utf-8") for path in SOURCES}
PAGES["README.md"] = (ROOT / "README.md").read_text(encoding="utf-8")
README = PAGES["README.md"]
MODEL = "import keras_fim\nmodel = keras_fim.models.convnet(filters=(2, 2))\n"


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], flags=re.DOTALL)


def quick(program):
    """The same program on fewer digits, with fewer epochs."""
    program = program.replace('data.load("mnist5k")', 'data.load("mnist5k", limit=300, test_limit=60)')
    program = re.sub(r"RobustnessCurve\(test, ", "RobustnessCurve(test, max_samples=20, ", program)
    return re.sub(r"epochs=\d+", "epochs=1", program)


def test_readme_fits_on_one_screen_and_links_to_what_exists():
    assert len(README.splitlines()) <= 120
    for page, text in PAGES.items():
        folder = ROOT if page == "README.md" else (DOCS / page).parent
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert target.startswith("http") or (folder / target).exists(), f"{page} links to {target}"


@pytest.mark.slow
def test_python_blocks_of_the_readme_run_in_order(tmp_path, monkeypatch):
    pytest.importorskip("mlxtend")
    monkeypatch.chdir(tmp_path)
    program = quick("\n".join(blocks("README.md", "python")))
    names = {}
    exec(compile(program, "README.md", "exec"), names)
    assert Path("model.keras").is_file() and Path("hardened.keras").is_file()
    assert names["model"] is names["defense"].model


RUNNABLE = sorted(page for page, text in PAGES.items() if "```python" in text and page != "README.md")


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE)
def test_python_blocks_of_the_docs_run(page, tmp_path, monkeypatch):
    pytest.importorskip("mlxtend")
    monkeypatch.chdir(tmp_path)
    program = MODEL + "\n".join(blocks(page, "python"))
    exec(compile(quick(program), page, "exec"), {})


SESSION = """
import json, sys
for line in sys.stdin:
    exec(json.loads(line), globals())
    print("\\nblock is done", flush=True)
"""


@pytest.mark.nightly
@pytest.mark.parametrize("page", ["README.md", "getting_started.md", "guides/serving.md"])
def test_every_block_runs_as_typed(page, tmp_path):
    """Python and shell in order, in one folder, as a newcomer types them; not what needs a clone or a server.

    ``benchmarks/own_images.py`` runs the commands of the page on own images. The other pages have commands that train
    for hours or need a cluster; the test below asks the command line whether it takes them.
    """
    text = f"```python\n{MODEL}```\n{PAGES[page]}" if page.startswith("guides/") else PAGES[page]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    options = {"cwd": tmp_path, "env": {**os.environ, "PATH": path}}
    with subprocess.Popen([sys.executable, "-c", SESSION], stdin=-1, stdout=-1, text=True, **options) as python:
        for language, block in re.findall(r"```(python|bash)\n(.*?)```", text, flags=re.DOTALL):
            if language == "python":
                print(json.dumps(block), file=python.stdin, flush=True)
                assert "block is done\n" in iter(python.stdout.readline, ""), block
                continue
            for line in block.splitlines():
                command = line.partition("#")[0].strip()
                if command.startswith("keras-fim") and command.split()[1] not in ("board", "serve-client"):
                    subprocess.run(command, shell=True, check=True, **options)
    for written in re.findall(r"(?:`|report: )([\w/-]+/report\.html)", PAGES[page]):
        assert (tmp_path / written).is_file(), written


FENCE = re.compile(r"```(\w+)\n(.*?)```", flags=re.DOTALL)


@pytest.mark.parametrize("page", sorted(page for page, text in PAGES.items() if "keras-fim " in text))
def test_the_command_line_takes_every_command_of_the_pages(page):
    """Whole commands in blocks are parsed; a command in a sentence may be a part, whose options have to exist."""
    parser, commands = cli._parsers()
    for _, block in FENCE.findall(PAGES[page]):
        for command in re.findall(r"keras-fim .*", block.replace("\\\n", " ")):
            typed = shlex.split(command.replace("$SLURM_ARRAY_TASK_ID", "1"), comments=True)[1:]
            assert parser.parse_known_args(typed)[1] == [], command
    for command in re.findall(r"`(keras-fim [^`]+)`", FENCE.sub("", PAGES[page])):
        _, name, *rest = command.split()
        if name.islower() and not name.startswith("-"):
            flags = {word.partition("=")[0] for word in rest if word.startswith("--")}
            assert flags <= {"--help", *commands[name]._option_string_actions}, command


def test_commands_on_own_images_are_those_that_were_run():
    """``benchmarks/own_images.py`` reads them from the page and keeps them with the results."""
    run = re.findall(r"^\| `(.+)` \|", (RESULTS / "own_images" / "commands.md").read_text("utf-8"), flags=re.MULTILINE)
    assert own_images.commands() == run and all(f"\n{command}\n" in PAGES["guides/own_images.md"] for command in run)


def test_every_script_that_the_pages_name_is_there():
    for page, text in PAGES.items():
        for script in re.findall(r"python ((?:training|benchmarks|docs)/\S+?\.py)", text):
            assert (ROOT / script).is_file(), (page, script)
        for module in re.findall(r"python -m ((?:tests|reproduction)[.\w]*)", text):
            assert importlib.util.find_spec(module), (page, module)
        for target in re.findall(r"(?m)(?:^|`)make ([a-z]+)(?=`| +#)", text):
            assert f"\n{target}:" in (ROOT / "Makefile").read_text(encoding="utf-8"), (page, target)


def test_demo_table_is_the_stored_one():
    assert (RESULTS / "demo" / "table.md").read_text(encoding="utf-8").strip() in PAGES["guides/training.md"]


NAMED = sorted((ROOT / "keras_fim" / "training" / "weights").glob("*/run.json"))


@pytest.mark.parametrize("record", NAMED, ids=lambda path: path.parent.name)
def test_accuracies_of_the_stored_weights_are_those_of_their_records(record):
    stored = json.loads(record.read_text())["results"]["stored"]
    row = next(line for line in PAGES["guides/training.md"].splitlines() if f"`{record.parent.name}`" in line)
    assert f"{100 * stored['test_accuracy']:.2f} %" in row
    assert stored["bytes"] == (record.parent / "weights.npz").stat().st_size <= 5e6


@pytest.mark.parametrize("name", ["before", "after"])
def test_figures_of_a_hardened_model_are_the_stored_ones(name):
    result = json.loads((RESULTS / "own_images" / f"hardened-robustness-{name}.json").read_text())
    (row,) = result["rows"]
    shares = f"{100 * result['accuracy']['value']:.1f} % | {100 * row['robust']['value']:.1f} %"
    assert f"| {name} | {shares} |" in PAGES["guides/own_images.md"] and row["epsilon"] == 255


@pytest.mark.parametrize(("attack", "label"), [("fgsm_to_5", "one step (FGSM)"), ("apgd_ce_linf_to_5", "APGD")])
def test_figures_of_the_stop_signs_are_the_stored_ones(attack, label):
    rows = [row for row in read_csv(RESULTS / "own_images" / "stop-signs.csv") if row.get("attack") == attack]
    shares = " | ".join(f"{100 * row['fooling ratio']:.1f} %" for row in sorted(rows, key=lambda row: row["ε"]))
    assert f"| {label} | {shares} |" in PAGES["guides/own_images.md"]


def test_six_models_are_named():
    assert len(NAMED) == 6


def test_front_door_figures_are_the_stored_ones():
    result = json.loads((RESULTS / "front_door" / "mnist.json").read_text())
    assert f"{100 * result['mean']:.2f} %" in PAGES["concepts/fisher.md"]
    assert all(f"{100 * run['test_accuracy']:.2f}" in PAGES["concepts/fisher.md"] for run in result["runs"])


def test_serving_figures_are_the_stored_ones():
    cases = json.loads((RESULTS / "benchmarks" / "serving.json").read_text())["cases"]
    assert all(case["ratio"]["fisher"] <= 8 for case in cases.values())
    assert (
        f"{cases['mnist-plain']['ratio']['fisher']:.1f} times the time of `serving_default`"
        in PAGES["guides/serving.md"]
    )
    assert f"{cases['gtsrb-fisher']['ratio']['fisher']:.1f} times on ResNet-14" in PAGES["guides/serving.md"]


RADII = json.loads((RESULTS / "benchmarks" / "radius.json").read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("name", RADII)
def test_radii_are_the_stored_ones(name):
    case = RADII[name]
    row = next(line for line in PAGES["benchmarks.md"].splitlines() if line.startswith(f"| `{Path(name).name}`"))
    boundary, figures = case["boundary radius"], case["calibration"]
    shown = [boundary["rank"], boundary["median"], boundary["q90"], case["KL radius"]["rank"]]
    shown += [
        case["KL radius"]["median"],
        case["Fisher-Rao / √λ"]["rank"],
        case["confidence"]["rank"],
        figures["factor"],
    ]
    cells = [cell.strip() for cell in row.strip("| ").split("|")[1:]]
    assert cells == [*(f"{value:.2f}" for value in shown), f"{100 * figures['held']:.1f} %"]
    assert case["held_by_chance"][0] <= figures["held"] and boundary["rank"] >= 0.8 and figures["num_samples"] >= 190


def test_calibrated_radii_hold_on_no_more_images_than_asked_but_once():
    above = [name for name, case in RADII.items() if case["calibration"]["held"] > case["held_by_chance"][1]]
    assert len(RADII) == 10 and above == ["cifar10-fisher"]


DETECTION = {
    "FGSM, largest ε": ("fgsm", 2),
    "PGD l∞, smallest ε": ("pgd_linf", 0),
    "PGD l∞, largest ε": ("pgd_linf", 2),
    "OSSA, largest ε": ("ossa", 2),
    "DeepFool l2": ("deepfool_l2", 3),
    "Carlini-Wagner l2": ("carlini_wagner_l2", 3),
    "attacker who knows the detector, largest ε": ("adaptive_pgd_linf on {}", 1),
}


@pytest.mark.parametrize("label", DETECTION)
def test_detection_figures_are_the_stored_ones(label):
    attack, index = DETECTION[label]
    cells = []
    for model in ("mnist-plain", "mnist-fisher", "gtsrb-plain", "gtsrb-fisher"):
        rows = json.loads((RESULTS / "detection" / f"{model}.json").read_text())["rows"]
        areas = []
        for kind in ("lambda", "fgsm"):
            row = [row for row in rows if row["attack"] == attack.format(kind)][index]
            areas.append(f"{row['detectors'][kind]['auc']:.2f}")
        cells.append(" / ".join(areas))
    assert f"| {label} | {' | '.join(cells)} |" in PAGES["guides/detection.md"]


def tables(text):
    return [table.strip() for table in re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE)]


@pytest.mark.parametrize("data", ["mnist", "gtsrb", "cifar10"])
def test_comparisons_are_the_stored_ones(data):
    (stored,) = tables((RESULTS / "defenses" / data / "comparison.md").read_text(encoding="utf-8"))
    assert stored in PAGES["benchmarks.md"]


def test_output_of_getting_started_is_the_stored_one():
    stored = json.loads((RESULTS / "getting_started" / "before.json").read_text(encoding="utf-8"))
    page = PAGES["getting_started.md"]
    assert stored["config"]["command"] in page
    assert f"Correct on {100 * stored['accuracy']['value']:.1f} % of {stored['accuracy']['total']} images" in page
    for row in (row for row in stored["rows"] if row["strongest"]):
        ratio = row["robust"]
        shown = f"{100 * ratio['value']:.1f} % [{100 * ratio['low']:.1f}, {100 * ratio['high']:.1f}]"
        assert f"l2 {row['epsilon']:g}: robust accuracy {shown} under {row['attack']}" in page
    front = (RESULTS / "defenses" / "mnist" / "strongest.md").read_text(encoding="utf-8")
    for name, share in (("none", "21.7"), ("N-FGM", "83.0")):
        assert any(name in line and share in line for line in front.splitlines()) and f"{share} %" in page


NOTEBOOKS = sorted(DOCS.glob("notebooks/*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_install_in_colab_and_keep_their_pictures(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert notebook["nbformat"] == 4 and '%pip install --quiet "keras_fim[demo]"' in "".join(cells[0]["source"])
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not any(output["output_type"] == "error" or output.get("name") == "stderr" for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert f"\n{path.stem}\n" in PAGES["notebooks/index.md"] and path.stat().st_size < 400_000


def test_the_three_notebooks_are_there():
    assert len(NOTEBOOKS) == 3


@pytest.mark.parametrize("name", ["attacks.md", "defenses.md"])
def test_catalogs_are_those_of_the_code(name):
    assert catalogs.printed()[name] == catalogs.on_the_page(name), "run: python -m tests.catalogs"


def test_messages_of_the_troubleshooting_page_are_those_of_the_code():
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "keras_fim").rglob("*.py"))
    code = re.sub(r"""["']\s*\n\s*f?["']""", "", code)  # literals that continue on the next line
    rows = re.findall(r"^\| `+ ?(.+?) ?`+ \|", PAGES["guides/troubleshooting.md"], flags=re.MULTILINE)
    assert len(rows) > 10
    for message in rows:
        for part in filter(None, map(str.strip, message.split("..."))):
            pieces = part.split(" should have ")  # what is expected may be put in by a variable
            assert part in code or all(piece in code for piece in pieces), message


def test_tables_of_the_strongest_attack_are_the_stored_ones():
    for path in (RESULTS / "defenses").glob("*/strongest.md"):
        page = README if path.parent.name == "mnist" else PAGES["benchmarks.md"]
        assert path.read_text(encoding="utf-8").strip() in page, path


def test_the_table_beside_the_official_autoattack_is_the_stored_one():
    stored = json.loads((RESULTS / "benchmarks" / "autoattack.json").read_text(encoding="utf-8"))["results"]
    rows = set()
    for row in stored:
        _, norm, epsilon = row["cell"].split(":")
        own, stages = row["AutoAttack"], row.get("official", {}).get("stages", {})
        official = list(stages.values())[-1]["standing"] if stages else None
        robust = [f"{100 * len(row[name]['standing']) / row['images']:.1f}" for name in ("AutoAttack", "Strong")]
        alone = cost = None
        if official is not None:
            alone = f"{len(set(own['standing']) - set(official))} / {len(set(official) - set(own['standing']))}"
            total = sum(stage["cpu_seconds"] for stage in stages.values())
            cost = [f"{row[name]['total_cpu_seconds'] / total:.2f}" for name in ("AutoAttack", "Strong")]
        share = "-" if official is None else f"{100 * len(official) / row['images']:.1f}"
        where = f"{norm} {float(epsilon):.3g}"
        rows.add((str(row["images"]), where, share, *robust, alone or "-", *(cost or ["-", "-"])))
    _, _, table = PAGES["benchmarks.md"].partition("| official | `AutoAttack` |")
    printed = [line.strip("| ").split(" | ") for line in table.partition("\n\n")[0].splitlines()[2:]]
    assert len(printed) >= 8
    for model, *figures in printed:
        assert tuple(figures) in rows, model
