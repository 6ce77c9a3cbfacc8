"""Every Python block of the pages, run in order as somebody would who types them in."""

from __future__ import annotations

import re
import shutil
import warnings
from pathlib import Path

import pytest

from test_commands import files  # noqa: F401 - a fixture
from test_purified import Hub

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/python.md")
NEEDS = ("pandas", "plotly")  # what a page uses that is not always installed


def blocks(page):
    """Return line and source of the Python blocks of a page."""
    text = (ROOT / page).read_text("utf-8")
    found = re.finditer(r"(?m)^```python\n(.*?)^```", text, flags=re.DOTALL)
    return [(text.count("\n", 0, match.start()) + 2, match[1]) for match in found]


@pytest.mark.parametrize("page", PAGES)
def test_every_python_block_of_a_page_runs(page, files, tmp_path, monkeypatch):  # noqa: F811
    place = shutil.copytree(files, tmp_path / "place")
    monkeypatch.chdir(place)
    monkeypatch.setattr("headsweep.purification.purified.HfApi", lambda **_: Hub())
    names: dict[str, object] = {}
    for line, source in blocks(page):
        for needed in NEEDS:
            if f"import {needed}" in source:
                pytest.importorskip(needed)
        code = compile("\n" * (line - 1) + source, str(ROOT / page), "exec")
        with warnings.catch_warnings():
            if "Trainer(" in source:
                warnings.simplefilter("ignore")  # of transformers and torch, about this machine
            exec(code, names)
    assert blocks(page)
    if page == "docs/python.md":
        assert "evaluating: begun" in (place / "run.log").read_text("utf-8")
        assert names["by_name"].mask.pruned == names["by_object"].mask.pruned


@pytest.fixture(autouse=True)
def quiet_logger():
    """Take away what a page adds to the logger."""
    from headsweep.progress import LOG

    before, level = LOG.handlers[:], LOG.level
    yield
    for handler in LOG.handlers[:]:
        if handler not in before:
            LOG.removeHandler(handler)
            handler.close()
    LOG.setLevel(level)


def test_the_page_shows_every_verb():
    text = "".join(source for _, source in blocks("docs/python.md"))
    from test_verbs import VERBS

    shown = {verb for verb in VERBS if f"headsweep.{verb}(" in text}
    assert shown | {"report"} == {*VERBS}
