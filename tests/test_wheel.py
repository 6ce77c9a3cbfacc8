"""The wheel holds what it must, and one place says the version."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import headsweep

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the wheel, is not installed (pip install --group dev)")
    out = tmp_path_factory.mktemp("wheel")
    build = ("wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--wheel-dir", str(out))
    done = subprocess.run([sys.executable, "-m", "pip", *build], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [path] = out.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel):
    source = ROOT / "src"
    mine = {path.relative_to(source).as_posix() for path in (source / "headsweep").rglob("*")
            if path.is_file() and "__pycache__" not in path.parts}  # fmt: skip
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == mine
    assert {
        "headsweep/py.typed",
        "headsweep/reports/page.html",
        "headsweep/reports/page.js",
    } <= held


def test_the_wheel_names_version_command_and_licence(wheel):
    [metadata] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    folder = metadata.removesuffix("METADATA")
    text = wheel.read(metadata).decode()
    assert f"\nVersion: {headsweep.__version__}\n" in text
    assert "\nLicense-Expression: Apache-2.0\n" in text
    assert f"{folder}licenses/LICENSE" in wheel.namelist()
    assert "headsweep = headsweep.__main__:main" in wheel.read(f"{folder}entry_points.txt").decode()


def test_one_place_says_the_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "src/headsweep/__init__.py"
    assert "version" not in yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    [first, *_] = re.findall(r"(?m)^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"))
    assert first == re.sub(r"\.dev\d+$", "", headsweep.__version__)
