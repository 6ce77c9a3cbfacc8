"""Every link between the documents leads somewhere, and every command in them is one."""

from __future__ import annotations

import ast
import configparser
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from headsweep.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
PACKAGE = ROOT / "src" / "headsweep"
WALL = "-- the wall"
WORDS = 1500
LONG = {"guide.md", "house.md", "log.md", "CHANGELOG.md"}  # references and diaries


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


def test_no_page_is_longer_than_a_reader_in_a_hurry_reads():
    words = {page: len(page.read_text("utf-8").split()) for page in PAGES}
    assert {page: n for page, n in words.items() if n > WORDS and page.name not in LONG} == {}


def test_every_page_is_listed_where_a_reader_looks_for_it():
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    assert pages - {"README.md"} - set(re.findall(r"\]\(([\w/.-]+\.md)\)", index)) == set()
    site = (ROOT / "mkdocs.yml").read_text("utf-8")
    plain = {page for page in pages if not page.startswith("decisions/")}
    assert plain - set(re.findall(r": ([\w-]+\.md)", site)) == set()


def test_the_guide_has_every_command_and_the_reference_every_option():
    pages = ("guide.md", "benchmarks.md", "generators.md")
    guide, *others = [(ROOT / "docs" / page).read_text("utf-8") for page in pages]
    commands = get_command(app).commands
    assert set(commands) - set(re.findall(r"headsweep (\w+)", guide)) == set()
    options = {o for c in commands.values() for p in c.params for o in p.opts if o[:2] == "--"}
    known = set(re.findall(r"--[a-z0-9-]+", "".join([guide, *others])))
    assert options - known - {"--help"} == set()


def test_the_tests_that_reliability_names_exist():
    pages = [ROOT / "docs" / name for name in ("reliability.md", "security.md")]
    page = "".join(path.read_text("utf-8") for path in pages)
    named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", page)
    assert len(named) > 40
    lost = [
        f"{file}::{test}"
        for file, test in named
        if f"def {test}" not in (ROOT / "tests" / file).read_text("utf-8")
    ]
    assert lost == []


def shown() -> list[tuple[str, str]]:
    """Return the tree of the house, top to bottom: path below the package, caption."""
    page = (ROOT / "docs" / "house.md").read_text("utf-8")
    block = re.search(r"```text\nsrc/headsweep/\n(.*?)```", page, flags=re.DOTALL)
    assert block, "docs/house.md shows no tree of src/headsweep"
    lines: list[tuple[str, str]] = []
    folders: list[str] = []
    for line in block[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2 - 1
        name, _, caption = line.strip().partition(" ")
        path = "".join([*folders[:depth], name])
        folders[depth:] = [name] if name.endswith("/") else []
        lines.append((WALL if WALL in line else path, caption.strip()))
    return lines


def openings() -> dict[str, str]:
    """Return how the docstring of every module begins; a folder's is that of its ``__init__``."""
    files = [file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py"]
    first = {}
    for file in files:
        path = file.relative_to(PACKAGE).as_posix().removesuffix("__init__.py")
        said = ast.get_docstring(ast.parse(file.read_text("utf-8")))
        first[path] = (said or "no docstring").splitlines()[0]
    return first


def contract(name: str, key: str) -> list[str]:
    """Return the parts of the package that a contract names, in its order."""
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    return re.findall(r"headsweep\.(\w+)", contracts[f"importlinter:contract:{name}"][key])


def test_the_tree_shows_every_module_with_a_caption_and_nothing_else():
    lines = [(path, caption) for path, caption in shown() if path != WALL]
    paths = [path for path, _ in lines]
    modules = openings()
    assert {path: said for path, said in modules.items() if path not in paths} == {}
    assert sorted(paths) == sorted(modules), "a line of no module, or a module twice"
    assert [path for path, caption in lines if not caption] == []


def test_a_caption_is_how_the_module_says_it_itself():
    said = openings()
    other = {
        path: said[path]
        for path, caption in shown()
        if path in said and not re.match(rf"{re.escape(caption)}(?!\w)", said[path])
    }
    assert other == {}


def test_the_tree_stands_in_the_order_of_imports_with_the_wall_where_it_is():
    order = [path for path, _ in shown() if path == WALL or path.rstrip("/").count("/") == 0]
    plain = [path.rstrip("/").removesuffix(".py") for path in order if path != "__main__.py"]
    down = contract("layers", "layers")[::-1]
    defense = contract("wall", "source_modules")
    assert [name for name in plain if name != WALL] == down
    assert set(plain[plain.index(WALL) + 1 :]) == set(contract("wall", "forbidden_modules"))
    assert set(defense) <= set(plain[: plain.index(WALL)])
