"""Fuzzing, a few files a parser; ``python tests/fuzz.py OUT.tsv`` gives each 20,000."""

from __future__ import annotations

import pytest

pytest.importorskip("hypothesis")  # of the development group
import fuzz

CASES = 100


@pytest.mark.parametrize("name", fuzz.PARSERS)
def test_a_parser_returns_or_raises_an_error_of_the_users(name):
    given, _ = fuzz.fuzz(name, CASES)
    assert given == CASES


def test_what_is_wrong_is_noticed_and_made_small(monkeypatch):
    def reads(folder):
        if b"[" in (folder / "mask.json").read_bytes()[1:]:
            raise ZeroDivisionError("here")

    monkeypatch.setitem(fuzz.PARSERS, "x", fuzz.Parser(fuzz.PARSERS["mask"].files, reads))
    with pytest.raises(fuzz.Wrong, match="x: ZeroDivisionError: here"):
        fuzz.fuzz("x", 50)


@pytest.mark.parametrize("name", ["headsweep.json", "mask", "adapter", "index", "config.json"])
def test_a_right_file_is_taken(name):
    """Else the files would fail at their first byte, and nothing behind it would be tried."""
    _, taken = fuzz.fuzz(name, CASES)
    assert taken
