"""The bound on accuracy in answers, against counts by hand and scipy's sign test."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from scipy.stats import binomtest

from headsweep.cli import show
from headsweep.cli.running import Job
from headsweep.measure.accuracy import Accuracy
from headsweep.purification.bound import DECISIVE, Allowance, Bound
from headsweep.purification.material import Sources
from headsweep.reports.verdict import verdict
from headsweep.texts.reading import Columns
from headsweep.texts.words import REGRESSION, SEVERAL, TAGGING


def test_fewer_answers_than_decisive_are_what_chance_does():
    chance = {k: binomtest(k, k, 0.5, alternative="greater").pvalue for k in range(1, 9)}
    assert min(k for k, p in chance.items() if p < 0.05) == DECISIVE


@pytest.mark.parametrize(
    ("examples", "drop", "allowed", "decides", "enough"),
    [
        (60, 0.02, 1, False, 250),  # 1.2 answers
        (60, 0.09, 5, True, 56),  # 5.4
        (249, 0.02, 4, False, 250),  # 4.98
        (250, 0.02, 5, True, 250),
        (60, 0.0, 0, False, 0),  # no number of examples can
    ],
)
def test_what_a_drop_is_worth(examples, drop, allowed, decides, enough):
    bound = Allowance(1 - drop, examples, examples)
    assert (bound.allowed, bound.decides, bound.enough) == (allowed, decides, enough)
    told = bound.doubt(cut_off=True)
    assert ("--validation FILE" in told) == (enough > 0)


def test_the_advice_decides():
    told = Allowance(0.98, 60, 60).doubt(cut_off=True)
    for way in ("about 1,700 rows", "--validation FILE with 250 examples", "--max-drop 0.09"):
        assert way in told
    assert "rows" not in Allowance(0.98, 60, 60).doubt(cut_off=False)
    assert int(1700 * 0.15 * 0.02) == int(250 * 0.02) == int(60 * 0.09) == DECISIVE


def test_a_miss_is_worth_another_healing_where_chance_does_not_do_it():
    few, many = Allowance(0.9, 57, 60), Allowance(0.9, 950, 1000)  # 54 and 900 must be right
    assert [few.worth_healing_again(right) for right in (53, 50, 49)] == [False, False, True]
    assert [many.worth_healing_again(right) for right in (900, 899)] == [False, True]


@pytest.mark.parametrize(("examples", "lost"), [(30, 3), (49, 4), (60, 5), (249, 5), (1000, 20)])
def test_a_drop_that_nobody_asked_for_is_one_that_can_be_decided(examples, lost):
    before = Accuracy(examples, examples)
    assert Bound().allowance(before).allowed == lost
    assert Bound().while_pruning(before) == pytest.approx(0.98)
    asked = Bound(max_drop=0.02)
    assert asked.lowest(before) == asked.while_pruning(before) == pytest.approx(0.98)
    lowest = Bound(min_accuracy=0.9)
    assert lowest.lowest(before) == lowest.while_pruning(before) == 0.9


@pytest.mark.parametrize(("words", "own"), [(SEVERAL, 0.8), (TAGGING, 0.9), (REGRESSION, 0.7)])
def test_healing_is_held_to_the_figure_that_is_bounded_and_to_no_share(words, own):
    def at(right, figure):
        return Accuracy(60, right, {words.bounded: figure}, words)

    bound = Bound(0.05).allowance(at(30, own))
    assert bound.limit == pytest.approx(own - 0.05)
    for right in (0, 30):
        assert bound.held_by(at(right, own - 0.049))
        assert not bound.held_by(at(right, own - 0.051))
        assert not bound.missed_by_chance(at(right, own - 0.051))  # so it heals again, cooler
    none = at(0, own)  # right altogether is no row: what may be lost of the figure is the same
    assert Bound(0.05).allowance(none).limit == pytest.approx(own - 0.05)
    assert Bound(min_accuracy=0.4).allowance(at(30, own)).limit == pytest.approx(own - 0.1)
    few, many = (Bound().drop(count, words) for count in (60, 1000))
    assert (few, many) == (pytest.approx(5 / 60), 0.02)


def made(
    right, lowest=0.9, examples=100, failed=(), binds=True, before=95, pruned=("0.1",), **more
):
    before = {"right": before, "examples": examples, "accuracy": before / examples}
    return {
        "suspect": "./suspect",
        "pruned_units": pruned,
        "before": {"validation": before},
        "after": {"validation": before | {"right": right}},
        "bound": {"min_accuracy": lowest, "binds": binds} | more,
        "checks": [{"what": what, "passed": False, "detail": ""} for what in failed],
    }


@pytest.mark.parametrize(
    ("manifest", "told"),
    [
        (made(93), "bound held: 2 of 100 validation answers lost (2.0 points), 5 allowed (5.0 "),
        (made(95), "bound held: 0 of 100 validation answers lost, 5 allowed (5.0 points)"),
        (made(98), "bound held: 3 of 100 validation answers won (3.0 points), 5 allowed"),
        (made(90), "bound held: 5 of 100"),
        (
            made(89),
            "bound not held: 6 of 100 validation answers lost (6.0 points), 5 allowed (5.0 ",
        ),
        (made(89), "or --max-drop 0.06"),
        (
            made(92, 0.94),
            "bound not held: 3 of 100 validation answers lost (3.0 points), 1 allowed",
        ),
        (made(92, 0.94), "too few to tell a loss from chance: about 3,400 rows"),
        (made(60, 0.94), "a lower learning rate"),
        (made(60, binds=False), "no bound on accuracy: 35 of 100 validation answers lost"),
        (made(95, failed=["every layer keeps a unit"]), "but not so: every layer keeps a unit"),
        (  # 1 of 18 is 5.6 points, whatever the bound was in points
            made(17, 1 - 0.1, 18, before=18),
            "1 of 18 validation answers lost (5.6 points), 1 allowed (5.6 points)",
        ),
        (
            made(58, 1 - 5 / 60, 60, before=60, max_drop=5 / 60, asked=False),
            "2 of 60 validation answers lost (3.3 points), 5 allowed (8.3 points), as no bound was "
            "asked for",
        ),
        (made(93, max_drop=0.02, asked=False), "5 allowed (5.0 points)"),
        (made(93, max_drop=0.1, asked=True), "5 allowed (5.0 points)"),
        (made(95, pruned=[]), "nothing pruned; bound held: 0 of 100"),
        (made(60, pruned=[], binds=False), "nothing pruned; no bound on accuracy: 35 of 100"),
    ],
)
def test_the_verdict(manifest, told):
    found = verdict(manifest, "out")
    assert told in f"{found.told}; {found.mend}"
    assert "\n" not in found.told + found.mend


def test_the_verdict_is_green_only_where_something_went_and_all_held():
    kinds = {name: verdict(manifest, "out").kind for name, manifest in {
        "held": made(93), "missed": made(89), "nothing": made(95, pruned=[]),
        "but": made(95, failed=["every layer keeps a unit"]),
    }.items()}  # fmt: skip
    assert kinds == {"held": "held", "missed": "missed", "nothing": "nothing", "but": "missed"}
    assert {kind: show.STYLES[kind].split()[-1] for kind in kinds.values()} == {
        "held": "green", "missed": "red", "nothing": "yellow"
    }  # fmt: skip


def test_the_next_command_can_be_pasted():
    columns = Columns(text="a b", label_map=(("pos", "positive"),))
    sources = Sources("my clean.csv", test="test.csv", columns=columns)
    of, more = Path("my out"), {"task": "classification", "adapter": Path("a.toml")}
    job = Job("./suspect", sources, of, overwrite=False, as_json=False, quiet=False, **more)
    run = {"runtime": {"max_length": 64}}
    lines = show.commands(made(93) | run | {"start": "classifier"}, job)
    assert [shlex.split(line)[:3] for line in lines] == [
        ["headsweep", "verify", "my out"], ["headsweep", "evaluate", "my out"]
    ]  # fmt: skip
    rest = ["--data", "test.csv", "--suspect", "./suspect", "--task", "classification"]
    rest += ["--adapter", "a.toml", "--compute", "max_length=64", "--column", "text=a b"]
    rest += ["--label-map", "pos=positive"]
    assert shlex.split(lines[1])[3:] == rest
    job = Job("./suspect", Sources("c.csv"), Path("o"), overwrite=False, as_json=False, quiet=False)
    run["runtime"]["max_length"] = 128  # the usual
    (_, line) = show.commands(made(93) | run | {"start": "encoder"}, job)
    assert line == "headsweep evaluate o --data c.csv"
    job = Job("-s", Sources("-c.csv"), Path("-o"), overwrite=False, as_json=False, quiet=False)
    made_of = made(93) | run | {"start": "classifier", "suspect": "-s"}
    assert show.commands(made_of, job) == [  # a leading dash would be an option
        "headsweep verify ./-o", "headsweep evaluate ./-o --data ./-c.csv --suspect ./-s"
    ]  # fmt: skip


def test_a_lowest_accuracy_is_mended_by_a_lower_one():
    """--max-drop was advised, which goes with no --min-accuracy."""
    asked = Allowance(0.95, 98, 100, absolute=True)
    assert asked.mended(cut_off=False).endswith("--min-accuracy 0.93 would decide it")
    asked = Allowance(0.95, 98, 100)
    assert asked.mended(cut_off=False).endswith("--max-drop 0.05 would decide it")
    assert Bound(min_accuracy=0.9).allowance(Accuracy(98, 100)).absolute
    assert not Bound(max_drop=0.02).allowance(Accuracy(98, 100)).absolute
