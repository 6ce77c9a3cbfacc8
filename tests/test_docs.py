"""Every link between the documents leads somewhere, and every command in them is one."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from headsweep.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"(?m)^#{1,4} (.+)$", page.read_text("utf-8"))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_commands_are_known(page):
    commands = get_command(app).commands
    text = page.read_text("utf-8").replace("\\\n", " ")
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    for line in "".join(blocks).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] != ["headsweep"] or len(words) < 2 or words[1] not in commands:
            continue
        known = {option for p in commands[words[1]].params for option in p.opts}
        asked = {word.strip("[]").partition("=")[0] for word in words}
        assert {word for word in asked if word.startswith("--")} <= known, line


def test_the_tests_that_reliability_names_exist():
    page = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", page)
    assert len(named) > 40
    lost = [
        f"{file}::{test}"
        for file, test in named
        if f"def {test}" not in (ROOT / "tests" / file).read_text("utf-8")
    ]
    assert lost == []
