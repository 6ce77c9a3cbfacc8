"""The demo on a tiny model in the place of the packaged one: what it writes, and what it calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import CPU, sentences
from headsweep import demo, inspect
from headsweep.bench.packaged import Texts
from headsweep.export.verify import verify
from headsweep.progress import Silent


@pytest.fixture
def small(trained_folder, monkeypatch):
    """Let the demo plant its backdoor in a tiny model, with a few made-up sentences."""
    counts = (60, 40, 80, 60, 40)
    texts = Texts(*(sentences(count, seed=10 + i) for i, count in enumerate(counts)))
    monkeypatch.setattr(demo, "model_folder", lambda: trained_folder)
    monkeypatch.setattr(demo, "film_reviews", lambda seed, sizes, longest: texts)


def test_what_is_kept_names_the_folder_that_the_victim_lies_in(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = demo.run(CPU, 0, Silent(), Path("out"), overwrite=False)
    out = tmp_path / "out"
    told = [json.loads((out / "purified" / "headsweep.json").read_text("utf-8")),
            json.loads((out / "demo.json").read_text("utf-8"))["manifest"]]  # fmt: skip
    assert [form["suspect"] for form in told] == [str(out / "suspect")] * 2
    assert inspect(report.manifest["suspect"], compute=CPU).heads == report.manifest["units"]
    assert all(check.passed for check in verify(out / "purified"))
    kept = [path for path in out.rglob("*") if path.suffix in (".json", ".md", ".svg")]
    assert len(kept) > 5
    assert [path for path in kept if "/.out." in path.read_text("utf-8")] == []  # as drafts begin


def test_where_nothing_is_kept_no_folder_is_named(small):
    report = demo.run(CPU, 0, Silent(), None, overwrite=False)
    assert report.manifest["suspect"] == "all-MiniLM-L6-v2 with the demo's backdoor"
    assert report.kept is None
