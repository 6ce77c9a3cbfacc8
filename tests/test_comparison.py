"""Comparisons over made-up cells whose answer is known."""

from __future__ import annotations

import base64
import dataclasses
import json
import zlib

import numpy as np
import pytest

from headsweep.bench.results.packing import MOST_BYTES, Packed, _array
from headsweep.bench.results.reading import Results, read_results
from headsweep.errors import UserError
from headsweep.reports import charts
from headsweep.reports.comparison import compare
from headsweep.reports.markdown import _standings
from headsweep.reports.tables import sentences

VALIDATION = np.linspace(-1.0, -0.01, 100).astype("<f4")
TEXTS = 200


def answers(flipped):
    """Answers that flip the first texts, or those that are given, and none on validation."""
    rows = range(flipped) if isinstance(flipped, int) else flipped
    triggered = np.full(TEXTS, -1.0, "<f4")
    triggered[list(rows)] = 1.0
    return Packed(np.zeros(10, "u1"), VALIDATION, triggered)


def cell(method, seed, flipped, base=None, count=None):
    rates = {
        key: {"value": 0.5, "low": 0.4, "high": 0.6}
        for key in ("accuracy", "lfr", "cfr", "matched_lfr", "excess_lfr")
    }
    form = {
        "model": "m",
        "data": "d",
        "attack": "a",
        "method": method,
        "base": base or method,
        "kind": "strategy",
        "seed": seed,
        "victim": f"v{seed}",
        "commit": "abc",
        "code": "c",
        "after": rates,
        "answers": {"after": answers(flipped).to_json()},
        "seconds": {"all": 1.0},
        "cpu_seconds": 1.0,
    }
    return form if count is None else form | {"pruned_count": count}


def results(*cells, floor=20):
    victims = {
        f"v{c['seed']}": {
            "answers": {"twin": answers(floor).to_json()},
            "evaluation": dict.fromkeys(("twin", "suspect"), c["after"]),
        }
        for c in cells
    }
    return Results(cells, victims, {}, (), {})


def find(setting, method, against):
    return next(d for d in setting.differences if (d.method, d.against) == (method, against))


def test_excess_is_counted_over_the_floor():
    [setting] = compare(results(cell("x", 1, 120)), 50)
    assert setting.standings[0].interval.value == pytest.approx(0.5)


def test_a_clear_difference_is_better_and_an_equal_one_is_not():
    cells = [cell("good", 1, 30), cell("same", 1, 150), cell("random", 1, 150)]
    [setting] = compare(results(*cells), 400)
    good = find(setting, "good", "random")
    assert good.value.value == pytest.approx(-0.6)
    assert good.verdict == "better"
    assert good.corrected == pytest.approx(min(1.0, 2 * good.p))  # two tests, the smaller p
    same = find(setting, "same", "random")
    assert (same.p, same.verdict, same.value.value) == (1.0, "not shown", 0.0)
    assert not any(d.method == "random" for d in setting.differences)


def test_worse_is_said_too():
    [setting] = compare(results(cell("bad", 1, 150), cell("pure", 1, 30)), 400)
    assert find(setting, "bad", "pure").verdict == "worse"


def test_differences_are_paired_over_texts():
    """Methods that flip the same texts but ten differ with less doubt than those that share none."""
    shared = [cell("x", 1, range(80)), cell("random", 1, range(90))]
    apart = [cell("x", 1, range(80)), cell("random", 1, range(100, 190))]
    widths = []
    for cells in (shared, apart):
        value = find(compare(results(*cells), 400)[0], "x", "random").value
        assert value.value == pytest.approx(-0.05)
        widths.append(value.high - value.low)
    # by hand: sd of a mean of 200 independent steps of 1 in 10 of 200, or 170 of 200, texts
    by_hand = [3.92 * np.sqrt((share - 0.05**2) / TEXTS) for share in (0.05, 0.85)]
    assert widths == pytest.approx(by_hand, rel=0.15)


def test_the_control_is_the_one_of_nearest_count():
    cells = [
        cell("x", 1, 100, count=18),
        cell("random-20", 1, 150, "random", 20),
        cell("random-40", 1, 60, "random", 40),
    ]
    [setting] = compare(results(*cells), 50)
    assert find(setting, "x", "random").value.value == pytest.approx(-0.25)
    deeper = [cell("x", 1, 100, count=39), *cells[1:]]
    assert find(compare(results(*deeper), 50)[0], "x", "random").value.value > 0


def test_no_winner_with_fewer_than_five_seeds():
    def setting(seeds):
        cells = [
            cell(name, seed, flipped)
            for seed in range(seeds)
            for name, flipped in (("good", 25), ("bad", 150))
        ]
        return compare(results(*cells), 200)[0]

    four, five = setting(4), setting(5)
    assert (four.winner, four.speaks_of_seeds) == (None, False)
    assert (five.winner, five.speaks_of_seeds) == ("good", True)
    assert [s.rank for s in five.standings] == [1, 2]


def test_of_two_equal_methods_none_is_named_the_winner():
    cells = [cell(m, seed, n) for seed in range(5) for m, n in (("a", 25), ("b", 25), ("c", 150))]
    [setting] = compare(results(*cells), 200)
    assert [s.rank_interval for s in setting.standings][:2] == [(1, 1), (1, 1)]
    assert setting.winner is None


def test_a_comparison_on_one_shared_seed_is_said_to_be_one():
    cells = [cell("good", seed, 30) for seed in range(5)] + [cell("pure", 3, 150)]
    [setting] = compare(results(*cells), 200)
    assert find(setting, "good", "pure").seeds == (3,)
    assert "Better than PURE: good (on seed 3 only)." in sentences(setting)
    whole = [cell(m, seed, n) for seed in range(5) for m, n in (("good", 30), ("pure", 150))]
    assert "Better than PURE: good." in sentences(compare(results(*whole), 200)[0])


def test_what_was_not_compared_is_not_said():
    def said(*cells):
        return " ".join(sentences(compare(results(*cells), 50)[0]))

    alone = said(cell("x", 1, 50))
    assert "One seed is too few" in alone
    assert "PURE" not in alone
    assert "No method is shown to be better than PURE" in said(cell("x", 1, 9), cell("pure", 1, 9))


def test_five_seeds_speak_of_seeds():
    """Where seeds differ and texts do not, the interval is as wide as the seeds are apart."""

    def width(seeds):
        cells = [cell("x", seed, 200 if seed % 2 else 0) for seed in range(seeds)]
        interval = compare(results(*cells, floor=0), 400)[0].standings[0].interval
        return interval.high - interval.low

    assert width(4) == pytest.approx(0.2)  # nothing is drawn anew: that of the cells themselves
    assert width(6) > 0.5


def test_what_a_victim_was_stands_beside_its_own_seed():
    """Cells come by name, and s10 stands before s2."""
    found = results(cell("a", 10, 30), cell("a", 2, 40))
    for seed, excess in ((10, 0.1), (2, 0.2)):
        own = found.victims[f"v{seed}"]["evaluation"]["suspect"]
        rates = own | {"excess_lfr": own["excess_lfr"] | {"value": excess}}
        found.victims[f"v{seed}"]["evaluation"] = {"twin": own, "suspect": rates}
    (setting,) = compare(found)
    assert setting.seeds == (2, 10)
    assert "(+20.0 / +10.0)" in sentences(setting)[0]


def test_a_method_with_fewer_seeds_is_drawn_over_the_floor_of_its_own():
    found = results(cell("a", 1, 40), cell("a", 2, 60), cell("b", 2, 60))
    form = found.victims["v2"]
    form["answers"]["twin"] = answers(50).to_json()
    (setting,) = compare(found)
    one = next(one for one in setting.standings if one.method == "b")
    low, high = charts._shifted(one)
    matched, excess = one.matched.mean, one.excess.mean
    assert (matched - low, high - matched) == pytest.approx(
        (excess - one.interval.low, one.interval.high - excess)
    )


def test_a_method_with_fewer_seeds_has_no_rank():
    cells = [cell("x", 1, 50), cell("x", 2, 50), cell("once", 1, 10)]
    standings = {s.method: s for s in compare(results(*cells), 50)[0].standings}
    assert standings["once"].rank is None
    assert (standings["x"].rank, standings["x"].excess.deviation) == (1, 0.0)
    assert standings["once"].excess.deviation is None


def test_as_released_forms_are_beside_their_faithful_forms_and_nowhere_else():
    def cells(*seeds):
        return [
            cell(name, seed, flipped, base)
            for seed in seeds
            for name, flipped, base in (
                ("deep", 60, "gradient"),
                ("gradient", 80, "gradient"),
                ("gradient-as-released", 30, None),
                ("pure", 100, None),
            )
            if seed == 1 or name != "gradient-as-released" or seeds == (1,)
        ]

    for seeds in ((1,), (1, 2)):
        [setting] = compare(results(*cells(*seeds)), 100)
        assert [s.method for s in setting.standings] == ["deep", "gradient", "pure"]
        assert [s.rank for s in setting.standings] == [1, 2, 3]
        assert {d.method for d in setting.differences} == {"deep", "gradient"}
        [one] = setting.replications
        assert (one.standing.rank, one.faithful) == (None, "gradient")
        assert one.difference.value == pytest.approx(-0.25)
    [alone] = compare(results(cell("layerwise-as-released", 1, 30)), 50)
    assert alone.replications[0].faithful is None


def test_what_prunes_no_heads_is_compared_with_the_smallest_control():
    some = [
        cell("random-20", 1, 150, "random", 20) | {"units": 72},
        cell("random-40", 1, 60, "random", 40) | {"units": 72},
        cell("neurons", 1, 100, count=4000) | {"units": 9216},
        cell("x", 1, 100, count=44) | {"units": 72},
    ]
    [setting] = compare(results(*some), 50)
    assert find(setting, "neurons", "random").others == ("random-20",)
    assert find(setting, "x", "random").others == ("random-40",)


def test_seeds_on_which_nothing_went_count_as_none_and_are_said():
    stuck = cell("x", 2, 150) | {"status": "nothing pruned"}
    [setting] = compare(results(cell("x", 1, 30, count=40), stuck), 50)
    [one] = setting.standings
    assert (one.pruned.values, one.stuck) == ((40.0, 0.0), (2,))
    assert "x found nothing to prune on seed 2" in " ".join(sentences(setting))


def test_a_score_taken_from_another_cell_is_in_the_time_all_the_same():
    shared = [{"name": "attention_variance", "seconds": 3.0, "cpu_seconds": 2.0}]
    [setting] = compare(results(cell("x", 1, 30) | {"shared_scores": shared}), 50)
    [one] = setting.standings
    assert (one.seconds.mean, one.cpu_seconds.mean) == (4.0, 3.0)


def test_results_of_one_version_are_taken(smoke_results, tmp_path):
    import shutil

    out = shutil.copytree(smoke_results, tmp_path / "results")
    other = out / "tiny-sentences-rare-word-s12-ft.json"
    other.write_text(json.dumps(json.loads(other.read_text()) | {"code": "0" * 64}))
    (out / "half.json").write_text("{")
    (out / "failed").mkdir()
    (out / "failed/x.json").write_text('{"error": "why\\nand more"}')
    found = read_results(out)
    assert len(found.cells) == 12
    assert list(found.left_out.values()) == [1]
    assert (found.unreadable, found.failed) == (("half.json",), {"x": "why"})
    assert any("another version" in note for note in found.notes)
    everything = read_results(out, any_version=True)
    assert (len(everything.cells), everything.mixed) == (13, True)
    (out / "victims/tiny-sentences-rare-word-s12.json").unlink()
    assert len(read_results(out).cells) == 7
    with pytest.raises(UserError, match="no results"):
        read_results(tmp_path)


def test_smoke_results_compare_as_the_cells_say(smoke_results):
    found = read_results(smoke_results)
    [setting] = compare(found, 100)
    for standing in setting.standings:
        assert standing.interval.value == pytest.approx(standing.excess.mean)
    assert {d.against for d in setting.differences} == {"random", "pure"}
    assert dataclasses.asdict(setting)["seeds"] == (11, 12)


def test_what_ends_below_the_accuracy_allowed_is_said():
    def ended(method, seed, accuracy):
        own = {"bound": {"min_accuracy": 0.85}, "validation": {"after": {"accuracy": accuracy}}}
        return cell(method, seed, 30) | own

    cells = [ended("low", 1, 0.849), ended("low", 2, 0.9), ended("held", 1, 0.85)]
    [setting] = compare(results(*cells), 50)
    assert {one.method: one.below for one in setting.standings} == {"low": (1,), "held": ()}
    assert "Less accurate on validation texts than allowed: low (seed 1)." in sentences(setting)
    [low] = [line for line in _standings(setting) if line.startswith("| **low**")]
    assert "50.0 ± 0.0†" in low


def test_where_all_resamples_are_alike_the_interval_is_that_of_the_cells():
    sure = cell("x", 1, TEXTS)
    sure["after"] = sure["after"] | {"excess_lfr": {"value": 1.0, "low": 0.9, "high": 1.0}}
    [setting] = compare(results(sure, floor=0), 50)
    found = setting.standings[0].interval
    assert (found.value, found.low, found.high) == (1.0, 0.9, 1.0)


def test_packed_answers_are_unpacked_within_bounds():
    """A few kilobytes of zeros would take all memory; what is cut off is no table of answers."""
    whole = zlib.compress(np.arange(9, dtype="<f4").tobytes(), 9)
    assert _array(base64.b64encode(whole).decode(), "<f4").tolist() == [*range(9)]
    bomb = zlib.compress(bytes(MOST_BYTES + 1), 9)
    for held in (bomb, whole[:-3]):
        with pytest.raises(ValueError, match="not packed answers: cut off, or more than"):
            _array(base64.b64encode(held).decode(), "<f4")
