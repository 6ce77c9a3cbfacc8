"""Tables over all victims, from made-up cells whose means are reckoned by hand."""

from __future__ import annotations

import json
import re
import shutil
from xml.etree import ElementTree

import pytest

from headsweep.bench.results.reading import Results, read_results
from headsweep.errors import UserError
from headsweep.reports import page
from headsweep.reports.across import across, by_victim, interval, summary
from headsweep.reports.comparison import compare
from headsweep.reports.markdown import _across, markdown
from headsweep.reports.victims_picture import picture_of, shown
from test_cli import run  # noqa: F401 - a fixture


def cell(method, attack, left, accuracy=0.80, seed=11, seconds=10.0, **more):
    """A cell of a victim whose excess LFR was 0.5 and ACC 0.8."""
    figures = {"excess_lfr": {"value": left}, "accuracy": {"value": accuracy}}
    return {
        "model": "m", "data": "d", "attack": attack, "method": method, "base": method, "seed": seed,
        "before": {"excess_lfr": {"value": 0.5}, "accuracy": {"value": 0.8}},
        "after": figures, "seconds": {"all": seconds}, "status": "done",
    } | more  # fmt: skip


CELLS = (
    cell("none", "a", 0.20), cell("none", "b", 0.10), cell("none", "c", 0.30),
    cell("gradient", "a", 0.10, 0.79, seed=11), cell("gradient", "a", 0.20, 0.77, seed=12),
    cell("gradient", "b", 0.10, 0.80), cell("gradient", "c", 0.05, 0.78),
    cell("pure", "a", 0.40, status="nothing pruned"),
    cell("ft", "b", 0.45, bound={"min_accuracy": 0.78}, validation={"after": {"accuracy": 0.7}}),
)  # fmt: skip


def texts(table):
    titles, rows = table
    return {
        row[0].text: dict(zip(titles[1:], [e.text for e in row[1:]], strict=True)) for row in rows
    }


def test_what_is_left_of_every_victim_seeds_averaged():
    found = texts(by_victim(across(CELLS)))
    assert next(iter(found)) == "as it is"
    assert found["as it is"] == {"a": "+50.0", "b": "+50.0", "c": "+50.0"}
    assert found["gradient"] == {"a": "+15.0 (-2.0)", "b": "+10.0 (+0.0)", "c": "+5.0 (-2.0)"}
    assert found["pure"] == {"a": "+40.0 (+0.0)‡", "b": "-", "c": "-"}
    assert found["ft"]["b"] == "+45.0 (+0.0)†"


def test_methods_tried_on_fewer_cells_stand_behind_and_say_so():
    easy = [cell("easy", "b", 0.01)]
    found = texts(summary(across([*CELLS, *easy])))
    assert next(iter(found)) == "gradient"
    assert (found["gradient"]["victims"], found["easy"]["victims"]) == ("3", "1 (1 of 4 cells)")


def test_scores_of_other_cells_count_as_time_of_those_that_took_them():
    paid = [cell("paid", "a", 0.1, shared_scores=[{"seconds": 32.0, "cpu_seconds": 1.0}])]
    assert texts(summary(across([*CELLS, *paid])))["paid"]["seconds"] == "42"


def test_methods_are_compared_over_the_victims_of_both():
    found = texts(summary(across(CELLS)))
    assert list(found)[:2] == ["gradient", "none"]  # least left first
    one = found["gradient"]
    assert (one["victims"], one["excess LFR left, mean"], one["worst"]) == ("3", "+10.0", "+15.0")
    assert (one["ACC, mean change"], one["less on"]) == ("-1.3", "2 of 3")
    # on the seed of both 10-20, 10-10, 5-30 points; the least and most of a bootstrap: -25 and 0
    told = re.fullmatch(r"-11\.7 \((\S+) to (\S+)\), ACC -1\.0", one["beside none"])
    assert -25.0 <= float(told[1]) < -11.7 < float(told[2]) <= 0
    assert found["none"]["beside none"] == "-"
    assert found["pure"]["beside none"] == "+20.0, ACC +0.0"  # one victim: no interval
    assert found["ft"]["beside none"] == "+35.0, ACC +0.0"


def test_a_victim_of_several_seeds_counts_each_seed_once():
    """However many methods were run on which; and only the seeds of both are compared."""
    stronger = {"before": {"excess_lfr": {"value": 0.9}, "accuracy": {"value": 0.8}}}
    more = [cell("gradient", "b", 0.7, seed=12, **stronger), cell("ft", "b", 0.6, seed=13)]
    found = across([*CELLS, *more])
    assert found.before["b"] == pytest.approx((0.5 + 0.9 + 0.5) / 3)
    assert found.apart("gradient")[0] == pytest.approx([-0.1, 0.0, -0.25])
    assert found.apart("ft")[0] == pytest.approx([0.35])
    assert across([*CELLS[:3], cell("ft", "b", 0.6, seed=13)]).apart("ft") == ([], [])


def test_replications_stand_last_however_little_they_left():
    released = [cell("gradient-as-released", name, 0.0) for name in "ab"]
    found = across([*released, *CELLS])
    for table in (summary(found), by_victim(found)):
        assert table[1][-1][0].text == "gradient-as-released"


def test_the_interval_is_that_of_every_draw_of_victims():
    """Of two values there are four draws: means -1, 0, 0 and 1, a quarter each."""
    found = interval([-0.01, 0.01])
    assert (found.low, found.value, found.high) == (-0.01, 0, 0.01)


def test_any_method_may_be_the_one_beside():
    assert "beside gradient" in summary(across(CELLS, "gradient"))[0]
    with pytest.raises(UserError, match="did you mean 'gradient'"):
        across(CELLS, "gradint")


def test_of_one_victim_there_is_no_such_table_and_names_say_what_differs():
    assert across(CELLS[3:5]) is None
    other = [one | {"model": "big"} for one in CELLS[:1]]
    assert set(across([*CELLS[:2], *other]).before) == {"m, a", "m, b", "big, a"}


@pytest.fixture
def two(smoke_results, tmp_path):
    """Smoke results whose second seed is another victim."""
    out = shutil.copytree(smoke_results, tmp_path / "two")
    for path in out.glob("*.json"):
        form = json.loads(path.read_text())
        if form["seed"] == 12:
            path.write_text(json.dumps(form | {"attack": "another"}))
    return out


def test_page_and_markdown_have_the_tables(two, run, tmp_path):  # noqa: F811
    found = read_results(two)
    assert isinstance(found, Results)
    settings = compare(found, 50)
    text, html = markdown(found, settings, beside="gradient"), page.of_results(found, settings, "t")
    wanted = texts(by_victim(across(found.cells)))["gradient"]["another"]
    assert text.startswith("## All victims")
    assert "beside gradient" in text
    assert html.startswith("<!doctype html>")
    assert all(wanted in made for made in (text, html))
    assert html.count('class="sortable"') == 2 + len(settings)
    code, out, _ = run("report", two, "--format", "markdown", "--beside", "pure", "--resamples", 50)
    assert (code, "beside pure" in out) == (0, True)
    code, _, err = run("report", two, "--format", "markdown", "--beside", "pur", "--resamples", 50)
    assert (code, "did you mean 'pure'" in err) == (2, True)


def test_a_report_never_replaces_what_it_reads(two, run):  # noqa: F811
    for path in (next(two.glob("*.json")), next(two.glob("victims/*.json"))):
        before = path.read_bytes()
        code, _, err = run("report", two, "--format", "markdown", "--out", path, "--overwrite")
        assert (code, "is read here and would be replaced" in err) == (2, True)
        assert path.read_bytes() == before


def marks(svg, colour):
    """Where the marks of a colour stand, (x, y), those of the legend left out."""
    tree = ElementTree.fromstring(svg)
    found = []
    for one in tree.iter("{http://www.w3.org/2000/svg}path"):
        place = re.fullmatch(r"translate\(([-\d.]+) ([-\d.]+)\)", one.get("transform", ""))
        if place and one.get("fill") == colour and float(place[2]) > 50:
            found.append((float(place[1]), float(place[2])))
    return found


def test_a_picture_of_all_victims_stands_at_the_figures_of_the_tables():
    found = across(CELLS)
    assert shown(found) == ["ft", "gradient", "none", "pure"]
    svg = picture_of(found)
    gradient = marks(svg, "#d55e00")  # left and cost of a, b, c and of their mean
    assert len(gradient) == 8
    left, cost = [x for x, _ in gradient[::2]], [x for x, _ in gradient[1::2]]
    rate = (left[0] - left[1]) / 5  # a is at 15 points, b at 10
    assert left[2] == pytest.approx(left[1] - 5 * rate, abs=0.2)
    assert left[3] == pytest.approx(left[1], abs=0.2)  # the mean of 15, 10 and 5
    assert cost[0] == cost[2] < cost[3] < cost[1]  # -2.0, -2.0, their mean, 0.0
    assert len(marks(svg, "#cc79a7")) == 2  # pure was tried on one victim: no mean
    none = [x for x, _ in marks(svg, "#009e73")[::2]]  # no mean: it lacks a seed
    assert none == pytest.approx([left[1] + (p - 10) * rate for p in (20, 10, 30)], abs=0.2)
    assert "3 victims, mean: 50.0 points before; gradient 10.0 at -1.3 of ACC." in svg
    assert ">ft†</text>" in svg
    assert "<desc>†: less accurate on validation texts than allowed, on some seed</desc>" in svg


def test_a_picture_draws_six_methods_and_says_what_it_leaves_out():
    more = [cell(f"m{i}", victim, 0.3) for i in range(5) for victim in "abc"]
    more += [cell("pure-as-released", "a", 0.0, base="pure-as-released")]
    found = across([*CELLS, *more])
    assert shown(found) == ["gradient", "m0", "m1", "m2", "m3", "none"]
    svg = picture_of(found, ["3 cells of another version (<x>) are left out"])
    assert "4 more methods are not drawn; 3 cells of another version (&lt;x&gt;)" in svg


def test_a_victim_may_be_called_mean_and_no_method_need_have_all():
    some = [cell("one", "mean", 0.2), cell("two", "b", 0.1)]
    svg = picture_of(across(some))
    assert "Excess LFR of 2 victims, mean: 50.0 points before." in svg
    assert svg.count('text-anchor="end"') == 3


def test_methods_that_each_lack_another_victim_are_both_tried_on_fewer():
    some = [
        c for c in CELLS if (c["method"], c["attack"]) not in (("none", "a"), ("gradient", "b"))
    ]
    found = texts(summary(across(some)))
    assert found["none"]["victims"] == "2 (2 of 4 cells)"
    assert found["gradient"]["victims"] == "2 (3 of 4 cells)"


def test_what_is_below_the_bound_is_marked_where_methods_are_summed_up():
    found = texts(summary(across(CELLS)))
    assert found["ft"]["ACC, mean change"] == "+0.0†"
    assert found["pure"]["ACC, mean change"] == "+0.0‡"
    assert found["gradient"]["ACC, mean change"] == "-1.3"


def test_names_of_others_are_no_markdown():
    evil = "![i](https://e.example/i.png) <b>\n# Heading\n| x"
    named = [one | {"attack": f"{evil}{one['attack']}", "method": f"{evil}{one['method']}"}
             for one in CELLS]  # fmt: skip
    told = "\n".join(_across(across(named)))
    assert "![i](" not in told
    assert "<b>" not in told
    assert "\n# " not in told
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in told.split("\n") if line[:1] == "|"}
    assert widths == {9, 5}


def test_a_picture_of_one_victim_is_refused():
    with pytest.raises(UserError, match="two victims or more"):
        picture_of(across(CELLS[3:5]))


def test_a_picture_of_controls_alone_is_refused():
    alone = [one | {"method": "nothing"} for one in CELLS]
    with pytest.raises(UserError, match="nothing was done"):
        picture_of(across(alone))


def test_long_names_stay_inside_the_picture():
    long = [one | {"method": one["method"] + "-as-released" * 2, "attack": one["attack"] * 40}
            for one in CELLS]  # fmt: skip
    svg = picture_of(across(long))
    width, height = map(float, re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups())
    words = re.findall(r'<text x="([\d.]+)" y="([\d.]+)"([^>]*)>([^<]*)<', svg)
    for x, y, how, text in words:
        start = float(x) - 7.5 * len(text) * ("end" in how)
        assert start >= 0
        assert float(y) < height
        if "anchor" not in how:
            assert start + 7.5 * len(text) <= width + 30, text
    lines = {y for _, y, how, text in words if "as-released" in text}
    assert len(lines) == 2


def test_names_that_others_wrote_are_escaped_in_the_picture():
    named = [one | {"attack": f"<b>{one['attack']}"} for one in CELLS]
    assert "<b>" not in picture_of(across(named))
