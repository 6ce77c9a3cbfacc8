"""The picture of the README: drawn from its figures, and what stands beside it says the same.

After another run of the demo, ``python tests/test_picture.py demo-out/demo.json`` keeps what the
picture needs in docs/figures and draws it again; the words in the README are changed by hand.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from headsweep.reports.picture import MEASURES, MODELS, percent, picture

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
SVG = "{http://www.w3.org/2000/svg}"


def kept(form):
    """What the picture shows of a report: the mask, and every rate with its interval."""
    names = (*(name for name, _ in MEASURES), "excess_lfr")
    rates = {
        model: {name: {p: form[model][name][p] for p in ("value", "low", "high")} for name in names}
        for model, _ in MODELS
    }
    heads = form["manifest"]["mask"]["heads"]
    return {"format": form["format"], "manifest": {"mask": {"heads": heads}}} | rates


def write(form):
    (FIGURES / "demo.json").write_text(json.dumps(form) + "\n", encoding="utf-8")
    (FIGURES / "demo.svg").write_text(picture(form), encoding="utf-8")


@pytest.fixture(scope="module")
def form():
    return json.loads((FIGURES / "demo.json").read_text("utf-8"))


def test_the_committed_picture_is_drawn_from_the_committed_figures(form):
    assert (FIGURES / "demo.svg").read_text("utf-8") == picture(form)
    assert kept(form) == form


def test_a_square_for_every_head_and_a_bar_as_long_as_its_rate(form):
    tree = ElementTree.fromstring(picture(form))
    heads = form["manifest"]["mask"]["heads"]
    squares = [one for one in tree.iter(f"{SVG}rect") if one.get("width") == one.get("height") == "18"]  # fmt: skip
    assert [one.get("class") == "kept" for one in squares] == [
        bool(k) for row in heads for k in row
    ]
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


if __name__ == "__main__":
    write(kept(json.loads(Path(sys.argv[1]).read_text("utf-8"))))
