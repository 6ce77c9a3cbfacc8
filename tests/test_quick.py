"""Processes that start sooner look for garbage as before once they have started."""

from __future__ import annotations

import subprocess
import sys

import pytest

from conftest import sentences

USUAL = "(700, 10, 10)"


def said(program, *arguments):
    """Run a program in a Python of its own; return the lines that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_garbage_is_looked_for_again_once_it_has_started_and_never_in_what_was_read():
    lines = said("""
import gc
from headsweep.quick import started, starting
gc.set_threshold(700, 10, 10)
starting()
starting()
print(gc.get_threshold()[0] > 100_000)
started()
print(gc.get_threshold(), gc.get_freeze_count() > 1000)
gc.set_threshold(500, 5, 5)
started()
print(gc.get_threshold())
""")
    assert lines == ["True", f"{USUAL} True", "(500, 5, 5)"]


@pytest.mark.parametrize(
    ("words", "at_the_end"), [("", "True"), ("['--help']", "False")], ids=["typed", "called"]
)
def test_only_a_command_that_was_typed_starts_so(words, at_the_end):
    """A program of others that calls ``main`` with words keeps its own way."""
    program = f"""
import atexit, gc, sys
sys.argv = ["headsweep", "--help"]
before = gc.get_threshold()
atexit.register(lambda: print("changed", gc.get_threshold() != before))
from headsweep.cli import main
main({words})
"""
    assert said(program)[-1] == f"changed {at_the_end}"


def test_a_command_that_computes_looks_for_garbage_but_not_in_what_was_read(
    trained_folder, tmp_path
):
    data = tmp_path / "data.csv"
    rows = sentences(20)
    told = (f"{text},{y}\n" for text, y in zip(rows.texts, rows.labels, strict=True))
    data.write_text("text,label\n" + "".join(told))
    program = f"""
import atexit, gc, sys
sys.argv = ["headsweep", "evaluate", {str(trained_folder)!r}, "--data", {str(data)!r}, "-q"]
from headsweep.judge import evaluate
real = evaluate.judge
def judge(*given):
    print("at work", gc.get_threshold())
    return real(*given)
evaluate.judge = judge
atexit.register(lambda: print("read", gc.get_freeze_count() > 100_000))
from headsweep.cli import main
main()
"""
    lines = said(program)
    assert f"at work {USUAL}" in lines
    assert lines[-1] == "read True"


def test_a_package_that_is_imported_changes_nothing():
    program = """
import gc
before = gc.get_threshold(), gc.get_freeze_count()
import headsweep.model.mask, headsweep.quick
print(before == (gc.get_threshold(), gc.get_freeze_count()))
"""
    assert said(program) == ["True"]
