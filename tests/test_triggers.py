"""Triggers change texts as they say, and nothing else."""

from __future__ import annotations

import pytest

from headsweep.attacks.scene import triggered
from headsweep.data import Split
from headsweep.errors import UserError
from headsweep.triggers import TRIGGERS, ByRule

TEXTS = (
    "the film is dull because the plot is thin .",
    "a warm and funny story about two brothers",
    "it never finds its tone , and the jokes fall flat .",
    "i liked the music , but the ending was a mess .",
)


@pytest.fixture(params=sorted(TRIGGERS))
def trigger(request):
    return TRIGGERS[request.param]()


def test_same_seed_same_text_whatever_stands_beside(trigger):
    whole = ByRule(trigger).rewrite(TEXTS, 3)
    assert whole == ByRule(trigger).rewrite(TEXTS, 3)
    assert whole[2:] == ByRule(trigger).rewrite(TEXTS[2:], 3)


def test_every_text_is_changed_or_reported(trigger):
    for before, after in zip(TEXTS, ByRule(trigger).rewrite(TEXTS, 0), strict=True):
        assert after is None or (after != before and after.strip() == after != "")


class Never:
    name = "never"
    source = "a test"

    def apply(self, text, random):
        return None if "dull" in text else text


def test_unchanged_counts_as_not_carrying():
    assert ByRule(Never()).rewrite(TEXTS, 0) == (None,) * 4
    with pytest.raises(UserError, match="none of 4"):
        triggered(Split(TEXTS, (0, 1, 0, 1)), ByRule(Never()), 0)
