"""The picture of the README: drawn from its figures, and what stands beside it says the same."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from headsweep.reports.picture import DARK, LIGHT, percent, picture

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def form():
    return json.loads((FIGURES / "demo.json").read_text("utf-8"))


@pytest.fixture
def program(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "picture", raising=False)
    import picture as module

    return module


def test_the_committed_pictures_are_drawn_from_the_committed_figures(form, program):
    drawn = program.files(program.reduced(form))
    assert {name: (FIGURES / name).read_text("utf-8") == text for name, text in drawn.items()} == {
        "demo.json": True, "demo-light.svg": True, "demo-dark.svg": True
    }  # fmt: skip


@pytest.mark.parametrize("colours", [LIGHT, DARK])
def test_a_square_for_every_head_and_a_bar_as_long_as_its_rate(form, colours):
    tree = ElementTree.fromstring(picture(form, colours))
    heads = form["manifest"]["mask"]["heads"]
    squares = [one for one in tree.iter(f"{SVG}rect") if one.get("width") == one.get("height") == "18"]  # fmt: skip
    assert [one.get("fill") != "none" for one in squares] == [bool(k) for row in heads for k in row]
    bars = [float(one.get("width")) for one in tree.iter(f"{SVG}rect")
            if one.get("height") == "18" and one.get("width") != "18"]  # fmt: skip
    rates = [form[model][key]["value"] for key in ("lfr", "accuracy")
             for model in ("suspect", "purified", "twin")]  # fmt: skip
    assert [bar / bars[0] for bar in bars] == pytest.approx([r / rates[0] for r in rates], abs=1e-3)


def test_the_readme_says_what_the_picture_shows(form):
    readme = (ROOT / "README.md").read_text("utf-8")
    [block] = re.findall(r"<!-- result -->\n(.*?)<!-- /result -->", readme, flags=re.DOTALL)
    heads = form["manifest"]["mask"]["heads"]
    gone = sum(row.count(0) for row in heads)
    before, after = form["suspect"]["excess_lfr"]["value"], form["purified"]["excess_lfr"]["value"]
    for figure in (
        f"{gone} of {sum(map(len, heads))} heads",
        *(percent(form[model][key]) for model in ("suspect", "purified") for key in ("lfr", "accuracy")),
        f"{1 - after / before:.0%}",
    ):  # fmt: skip
        assert figure in block, figure
    outside = re.sub(r"```text\n.*?```", "", readme.replace(block, ""), flags=re.DOTALL)
    assert not re.search(r"\d\.\d ?%|\d\.\d points", outside)
