"""What answers at once: help, version, completion and early mistakes load nothing heavy."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import headsweep
from conftest import CPU
from headsweep.cli import app

HEAVY = ("torch", "transformers", "numpy", "scipy", "pandas", "accelerate", "safetensors")
COMMANDS = sorted(typer.main.get_command(app).commands)
RUN = f"""
import json, sys
from headsweep.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
heavy = [name for name in {HEAVY} if name in sys.modules]
print(json.dumps([code, heavy]), file=sys.stderr)
"""
ALL_HELPS = f"""
import json, sys
from headsweep.cli import main
for command in {COMMANDS}:
    try:
        main([command, "--help"])
    except SystemExit as stop:
        assert stop.code == 0, command
print(json.dumps([name for name in {HEAVY} if name in sys.modules]), file=sys.stderr)
"""


def python(program, *arguments, folder=None, **variables):
    """Run a program in a Python of its own; return both outputs, the last line of errors read."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | variables,
        check=True,
        timeout=120,
    )
    *errors, last = done.stderr.splitlines()
    return done.stdout, "\n".join(errors), json.loads(last)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("--help", 0, "purify"),
        ("--version", 0, headsweep.__version__),
        ("purfy", 2, "purify"),
        ("purify --help", 0, "--max-drop"),
        ("purify --max-dorp 0.1", 2, "--max-drop"),
        ("purify ./suspect", 2, "--data"),
        ("purify ./suspect --data clean.csv --out out --max-drop 7", 2, "0.07 or 7%"),
    ],
)
def test_an_answer_that_needs_no_model_loads_nothing_heavy(line, code, said):
    out, errors, (ended, heavy) = python(RUN, *line.split())
    assert said in out + errors
    assert ended == code
    assert heavy == []


@pytest.mark.parametrize(
    ("words", "offered"), [("headsweep pur", "purify"), ("headsweep purify --max-d", "--max-drop")]
)
def test_completion_loads_nothing_heavy(words, offered):
    asked = {"_HEADSWEEP_COMPLETE": "complete_bash", "COMP_WORDS": words}
    out, _, (_, heavy) = python(RUN, COMP_CWORD=str(words.count(" ")), **asked)
    assert offered in out.split()
    assert heavy == []


def test_the_help_of_every_command_loads_nothing_heavy():
    out, _, heavy = python(ALL_HELPS)
    assert out.count("Usage: headsweep") == len(COMMANDS) > 10
    assert heavy == []


@pytest.mark.parametrize(
    "line",
    [
        "purify ./suspect --data nope.csv --out out",
        "purify ./suspect --data clean.csv --validation nope.csv --out out",
        "defend ./suspect --with ft --data clean.csv --test nope.csv --out out",
        "evaluate ./suspect --data nope.csv",
        "evaluate ./suspect --data clean.csv --triggered nope.csv --target 1",
        "probe ./suspect --data nope.csv",
        "detect ./suspect --with strip --data clean.csv --validation nope.csv",
        "trigger rare-word --data nope.csv --out t.csv",
        "attack ./encoder --trigger rare-word --target 1 --data nope.csv --out out",
        "trigger style --original nope.csv --transformed clean.csv --data clean.csv --out t.csv",
        "bench nope.csv --out out",
    ],
)
def test_a_missing_file_is_told_at_once(tmp_path, line):
    (tmp_path / "clean.csv").write_text("text,label\ngood,1\nbad,0\n")
    _, errors, (ended, heavy) = python(RUN, *line.split(), folder=tmp_path)
    assert "nope.csv" in errors
    assert ended == 2
    assert heavy == []


@pytest.mark.parametrize(
    "line",
    [
        "purify ./suspect --data clean.csv --out there",
        "defend ./suspect --with ft --data clean.csv --out there",
        "attack ./encoder --trigger rare-word --target 1 --data clean.csv --out there",
        "trigger rare-word --data clean.csv --out clean.csv",
        "probe ./suspect --data clean.csv --sarif clean.csv",
        "report ./results --out clean.csv",
    ],
)
def test_what_would_be_overwritten_is_told_at_once(tmp_path, line):
    (tmp_path / "clean.csv").write_text("text,label\ngood,1\nbad,0\n")
    (tmp_path / "there").mkdir()
    _, errors, (ended, heavy) = python(RUN, *line.split(), folder=tmp_path)
    assert "overwrite" in errors
    assert ended == 2
    assert heavy == []


def test_the_package_loads_nothing_until_asked():
    program = f"""
import json, sys
import headsweep
print(headsweep.__version__, len(dir(headsweep)))
print(json.dumps([name for name in {HEAVY} if name in sys.modules]), file=sys.stderr)
"""
    out, _, heavy = python(program)
    assert out.split()[0] == headsweep.__version__
    assert heavy == []


def test_every_public_name_is_the_one_of_its_module():
    lazy = {name for name in headsweep.__all__ if not name.startswith("_")}
    assert lazy == set(imported_for_types())
    for name, module in imported_for_types().items():
        assert getattr(headsweep, name) is getattr(importlib.import_module(module), name)
    assert set(headsweep.__all__) <= set(dir(headsweep))


def imported_for_types() -> dict[str, str]:
    """Name and module of what ``headsweep/__init__.py`` imports for type checkers."""
    tree = ast.parse(Path(headsweep.__file__).read_text(encoding="utf-8"))
    (block,) = (n for n in tree.body if isinstance(n, ast.If))
    found = [n for n in block.body if isinstance(n, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in found for alias in node.names}


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'headsweep' has no attribute 'purfy'"):
        headsweep.purfy  # noqa: B018 - raises
    with pytest.raises(ImportError, match="purfy"):
        from headsweep import purfy  # noqa: F401


def test_no_module_bears_the_name_of_what_the_package_gives():
    """Importing a submodule sets its name on the package: it would stand where that was."""
    folder = Path(headsweep.__file__).parent
    modules = {path.stem for path in folder.iterdir()}
    assert "purification" in modules
    assert not modules & set(headsweep.__all__)


def test_purify_is_still_the_function_after_it_has_run(trained_folder, csv_file):
    pruning, healing = headsweep.Gradient(step=4), headsweep.FineTune(0)
    method = headsweep.Method(pruning, healing, bound=headsweep.Bound(max_drop=0.4))
    headsweep.purify(str(trained_folder), csv_file, method, headsweep.Plan(runtime=CPU))
    assert callable(headsweep.purify)
    assert headsweep.purify.__module__ == "headsweep.verbs.purifying"


def test_what_only_the_packaged_model_needs_of_transformers_is_asked_for_there():
    """transformers has GgufConfig since 5.17, and no command but one reads the packaged model."""
    _, _, last = python(
        "import json, sys, transformers\n"
        "def none(name): raise AttributeError(name)\n"
        "transformers.__class__.GgufConfig = property(lambda self: none('GgufConfig'))\n"
        "import headsweep.verbs.methods\n"
        "from headsweep.model import smollm\n"
        "from pathlib import Path\n"
        "try: smollm._convert(Path('x'), Path('y'))\n"
        "except headsweep.UserError as error: told = str(error)\n"
        "print(json.dumps(told), file=sys.stderr)"
    )
    assert "transformers 5.17 or newer" in last
