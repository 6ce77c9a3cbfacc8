"""What CI installs: hashes of all of it, and the audit that says when it audited nothing."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text("utf-8")
LOCKED = dict(re.findall(r"(?m)^([\w.-]+)==(\S+) --hash=sha256:[0-9a-f]{64}$", LOCK))


def program(name):
    """Import a program of .ci, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_line_of_the_lock_has_a_hash_and_torch_is_not_in_it():
    lines = [line for line in LOCK.splitlines() if not line.startswith("#")]
    assert len(lines) == len(LOCKED) > 90
    assert "torch" not in LOCKED


def test_the_lock_has_the_versions_of_the_pins():
    locked = {plain(name): version for name, version in LOCKED.items()}
    pins = re.findall(r"(?m)^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"))
    own = re.findall(r'"([\w.-]+)==([\w.]+)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    of_ci = {plain(name): version for name, version in (*pins, *own) if plain(name) in locked}
    assert len(of_ci) > 20
    assert of_ci == {name: locked[name] for name in of_ci}


def test_the_lock_has_all_that_ci_asks_for():
    """`make lock` after every change of what CI installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    optional = project["project"]["optional-dependencies"]
    extras = re.search(r"EXTRAS +:= ([\w,]+)", (ROOT / "Makefile").read_text("utf-8"))[1] + ",demo"
    asked = [
        *project["project"]["dependencies"],
        *project["dependency-groups"]["dev"],
        *(one for extra in extras.split(",") for one in optional[extra]),
    ]
    names = {plain(re.match(r"[\w.-]+", one)[0]) for one in asked} - {"torch"}
    assert len(names) > 25
    assert names - {plain(name) for name in LOCKED} == set()


def test_the_report_of_pip_becomes_lines_with_hashes():
    one = {"metadata": {"name": "Abc", "version": "1"},
           "download_info": {"archive_info": {"hashes": {"sha256": "f" * 64}}}}  # fmt: skip
    torch = {"metadata": {"name": "torch", "version": "2"}, "download_info": {}}
    text = program("lock").locked({"install": [torch, one]})
    assert text.splitlines()[-1] == f"abc==1 --hash=sha256:{'f' * 64}"
    with pytest.raises(SystemExit, match="abc 1: comes from no file with a hash"):
        program("lock").locked({"install": [one | {"download_info": {}}]})


def test_an_environment_made_without_the_lock_is_made_anew_for_it(tmp_path):
    """`LOCKED=1 make check` looked at no hash where a plain `make test` had run before."""
    (tmp_path / ".base").touch()
    os.utime(tmp_path / ".base", (0, 0))
    asked = ["make", "--dry-run", f"VENV={tmp_path}", "check"]
    env = {name: value for name, value in os.environ.items() if name != "LOCKED"}
    plain_run, locked = (
        subprocess.run(asked, cwd=ROOT, env=env | more, capture_output=True, text=True, check=True)
        for more in ({}, {"LOCKED": "1"})
    )
    assert "--require-hashes" not in plain_run.stdout
    assert f"rm -f {tmp_path}/.base-locked" in plain_run.stdout  # what follows is not by the lock
    assert "--require-hashes" in locked.stdout
    assert "venv --clear" in locked.stdout


def test_an_audit_that_looked_nothing_up_says_so():
    verdict = program("audit").verdict
    skipped = {"name": "a", "skip_reason": "not found"}
    fine = {"name": "b", "version": "1", "vulns": []}
    told = {"id": "PYSEC-1", "aliases": ["CVE-2"], "fix_versions": ["2"]}
    bad = {"name": "c", "version": "1", "vulns": [told]}
    code, said = verdict({"dependencies": [skipped]})
    assert (code, "NOT audited" in said) == (0, True)
    assert verdict({"dependencies": [skipped, fine]}) == (
        0, "headsweep: 1 packages audited, 1 not; 0 advisories")  # fmt: skip
    code, said = verdict({"dependencies": [fine, bad]})
    assert (code, said.splitlines()[1]) == (1, "c 1: PYSEC-1, mended in 2")
    assert verdict({"dependencies": [fine, bad]}, ["CVE-2"])[0] == 0


@pytest.mark.parametrize("answer", ["", "no JSON"])
def test_an_audit_without_an_answer_is_skipped_in_words(monkeypatch, capsys, answer):
    audit = program("audit")
    ended = audit.subprocess.CompletedProcess([], 1, answer, "x\nConnectionError: no network\n")
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: ended)
    assert audit.main([]) == 0
    assert "NOT audited: ConnectionError: no network" in capsys.readouterr().out
