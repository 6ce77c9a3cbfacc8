"""The report, in a real browser where there is one, and its tables."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import headsweep
from conftest import CPU, Way, cleanse, sentences
from headsweep import FineTune, Gradient, Sources, UserError
from headsweep.bench.results.reading import read_results
from headsweep.reports import charts, page, tables
from headsweep.reports.comparison import compare
from headsweep.reports.labels import SIDES, Point, sides
from headsweep.reports.markdown import markdown
from headsweep.reports.reproduce import command, hint
from test_cli import FAST, run  # noqa: F401 - a fixture

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def made(smoke_results, tmp_path_factory):
    found = read_results(smoke_results)
    settings = compare(found, 100)
    path = tmp_path_factory.mktemp("report") / "report.html"
    page.write(path, page.of_results(found, settings, "smoke </script> & co"))
    return path, found, settings


@pytest.fixture(scope="module")
def chromium():
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine (apt install chromium)")
    with sync.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def visit(chromium):
    """Open a page; afterwards check that it asked for nothing and complained of nothing."""
    opened = []

    def go(path, **context):
        tab = chromium.new_context(offline=True, **context).new_page()
        asked, said = [], []
        tab.on("request", lambda r: asked.append(r.url))
        tab.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.goto(path.as_uri())
        tab.wait_for_selector("#heads .main-svg")
        opened.append((tab, asked, said, path))
        return tab

    yield go
    for tab, asked, said, path in opened:
        tab.close()
        assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
        assert said == []


def first_column(tab):
    return tab.locator(".sortable tbody tr th").all_inner_texts()


def test_the_page_opens_and_draws_every_chart(made, visit):
    tab = visit(made[0])
    assert tab.title() == "smoke </script> & co"
    for name in ("scatter-0", "bars-0", "heads", "path"):
        if name != "path" or tab.locator("#no-path").is_hidden():
            assert tab.locator(f"#{name} .main-svg").count()
    tab.select_option("#cell", "tiny-sentences-rare-word-s11-gradient")
    assert tab.locator("#path .main-svg").first.is_visible()
    pruned = tab.locator("#scores td", has_text="pruned").count()
    cell = next(c for c in made[1].cells if c["id"].endswith("s11-gradient"))
    assert pruned == cell["pruned_count"]
    assert "--only tiny-sentences-rare-word-s11-gradient" in tab.inner_text("#details")
    tab.select_option("#cell", "tiny-sentences-rare-word-s11-ft")
    assert tab.locator("#no-heads").is_visible()


def test_hover_gives_the_figures_of_a_head(made, visit):
    tab = visit(made[0])
    tab.select_option("#cell", "tiny-sentences-rare-word-s11-gradient")
    tab.locator("#heads").scroll_into_view_if_needed()
    area = tab.locator("#heads .nsewdrag").first.bounding_box()
    tab.mouse.move(area["x"] + 0.1 * area["width"], area["y"] + 0.1 * area["height"], steps=4)
    shown = tab.locator("#heads .hoverlayer .hovertext").first
    shown.wait_for()
    cell = next(c for c in made[1].cells if c["id"].endswith("s11-gradient"))
    fate = "kept" if cell["mask"]["heads"][0][0] else "pruned"
    assert "layer 0, head 0" in shown.text_content()
    assert fate in shown.text_content()


def test_tables_sort_by_mouse_and_keyboard(made, visit):
    tab = visit(made[0])
    names = first_column(tab)
    tab.get_by_role("button", name="method", exact=True).click()
    assert first_column(tab) == sorted(names)
    place = tables.TITLES.index("excess LFR")
    header = tab.locator(".sortable thead th").nth(place)
    header.get_by_role("button").focus()
    tab.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    values = [float(v) for v in tab.locator(f".sortable tr td:nth-child({place + 1})").evaluate_all(
        "cells => cells.map(cell => cell.dataset.value)")]  # fmt: skip
    assert values == sorted(values)
    tab.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "descending"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_dark_and_on_a_phone(made, visit, scheme):
    tab = visit(made[0], color_scheme=scheme, viewport={"width": 360, "height": 740})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    ink, paper = tab.evaluate(
        "() => [getComputedStyle(document.querySelector('#bars-0 .xtick text')).fill, "
        "getComputedStyle(document.body).backgroundColor]"
    )
    assert contrast(ink, paper) > 4.5
    soft = tab.evaluate("getComputedStyle(document.querySelector('.how')).color")
    assert contrast(soft, paper) > 4.5


def test_what_is_compared_is_seen_first_and_the_rest_is_hinted_at(made, visit):
    tab = visit(made[0], viewport={"width": 1280, "height": 800})
    for name in ("rank", "excess LFR", "95% interval", "against random", "against PURE"):
        head = tab.locator(".sortable thead th").nth(tables.TITLES.index(name)).bounding_box()
        assert head["x"] + head["width"] <= 1280
    tab = visit(made[0], viewport={"width": 375, "height": 740})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375
    frame = tab.locator(".frame", has=tab.locator(".sortable"))
    assert frame.get_attribute("class") == "frame more"
    box, first = tab.locator(".scroll").first, tab.locator(".sortable tbody th").first
    before = first.bounding_box()["x"]
    box.evaluate("box => box.scrollTo(1e6, 0)")
    tab.wait_for_selector(".frame.moved:not(.more)")
    assert first.bounding_box()["x"] == before


def test_what_is_below_the_accuracy_allowed_is_marked_everywhere(made, visit, tmp_path):
    _, found, [setting] = made
    assert tables.BELOW not in tables.latex([setting])
    one = setting.standings[0]
    marked = replace(setting, standings=(replace(one, below=(11,)), *setting.standings[1:]))
    path = tmp_path / "report.html"
    page.write(path, page.of_results(found, [marked], "x"))
    tab = visit(path)
    row = tab.locator(".sortable tbody tr", has_text=one.method).first
    assert f"{100 * one.accuracy.mean:.1f}" in row.inner_text()
    assert row.inner_text().count(tables.BELOW) == 1
    assert tab.get_by_text(tables.BELOW_TOLD).count() == 1
    tex = tables.latex([marked])
    [line] = [line for line in tex.split("\n") if line.startswith(f"{one.method} &")]
    assert line.count("$\\dagger$") == 1
    assert "\\par $\\dagger$: less accurate" in tex
    assert tables.BELOW not in tex


def test_names_of_others_are_printed_by_latex_and_not_obeyed():
    evil = "[1cm]\\input{/etc/passwd}\n\n*50% of $x_1^2$ & #1 ~ \x1b[2J\u202e<b>|"
    assert tables._tex(evil) == (
        r"{[}1cm]\textbackslash{}input\{/etc/passwd\} {*}50\% of \$x\_1\textasciicircum{}2\$ \& \#1 "
        r"\textasciitilde{} \textbackslash{}x1b{[}2J\textbackslash{}u202e\textless{}b\textgreater{}"
        r"\textbar{}"
    )


def test_that_the_lowest_went_is_said_only_where_it_is_so(made):
    scores = [[1.0, 2.0, 9.0], [3.0, 4.0, 5.0]]
    for heads, so in (
        ([[0, 0, 1], [0, 1, 1]], True),
        ([[0, 0, 1], [0, 0, 1]], True),
        ([[0, 1, 1], [0, 1, 1]], False),  # 2 stays and 3 went
        ([[0, 0, 1], [1, 1, 0]], False),  # the best of a layer went
        ([[1, 1, 1], [1, 1, 1]], False),  # nothing went
    ):
        assert page.lowest_went({"heads": heads}, scores) is so
    assert not page.lowest_went({"heads": [[0, 1]]}, None)
    cell = next(c for c in made[1].cells if c["id"].endswith("s11-gradient"))
    assert "scored lowest" in page.of_cell(cell)["order"]
    other = cell | {"scores": [[-score for score in row] for row in cell["scores"]]}
    assert "scored lowest" not in page.of_cell(other)["order"]


def test_trials_stand_at_the_end_of_their_range_nearest_to_the_bound():
    steps = [
        ["prune", 1, 0.91, 1.0, True],
        ["prune", 2, 0.05, 0.89, False],  # given up as soon as it could not reach the bound
        ["prune", 3, 0.5, 0.97, True],  # an older version decided these two early
        ["prune", 4, 0.6, 0.95, False],
    ]
    drawn = charts.path(steps, 0.9)["data"]
    marks = {x: y for one in drawn for x, y in zip(one["x"], one["y"], strict=True)}
    assert marks == pytest.approx({1: 91, 2: 89, 3: 97, 4: 60})
    bars = {x: (less, more) for one in drawn for x, less, more in
            zip(one["x"], one["error_y"]["arrayminus"], one["error_y"]["array"], strict=True)}  # fmt: skip
    assert bars[2] == pytest.approx((84, 0))


def contrast(*colours):
    """WCAG's contrast ratio of two rgb() colours."""
    lights = []
    for colour in colours:
        parts = [float(v) / 255 for v in colour.split("(")[1].rstrip(")").split(",")[:3]]
        linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def test_charts_show_what_was_measured(made):
    _, found, [setting] = made
    bars = charts.bars(setting)
    shown = {name: x for trace in bars["data"] if trace["type"] == "bar"
             for name, x in zip(trace["y"], trace["x"], strict=True)}  # fmt: skip
    assert shown == {s.method: pytest.approx(100 * s.matched.mean) for s in setting.everything}
    assert bars["layout"]["shapes"][0]["x0"] == pytest.approx(100 * setting.floor.mean)
    cell = next(c for c in found.cells if c["id"].endswith("s11-gradient"))
    drawn = charts.heads(cell["mask"], cell["scores"])["data"][0]
    crosses = sum(text != "" for row in drawn["text"] for text in row)
    assert crosses == cell["pruned_count"]
    trials = sum(len(trace["x"]) for trace in charts.path(cell["path"], 0.9)["data"])
    assert trials == len(cell["path"])


@pytest.fixture(scope="module")
def manifest(trained_folder):
    data = Sources(sentences(60), sentences(40, seed=5))
    way = Way(max_drop=0.3, heal=FineTune(1, 1e-3), runtime=CPU)
    return cleanse(trained_folder, data, Gradient(step=2), way).manifest


def test_a_purification_begins_with_its_verdict_and_three_figures(manifest):
    row = {"family": "opening", "kind": "trigger", "label": "good", "excess": {"value": 0.62}}
    probed = {
        "before": {"texts": 40, "noticed": [["opening", "good"]], "findings": [row | {"noticed": True}]},
        "after": {"texts": 41, "noticed": [], "findings": [row | {"noticed": False}]},
    }  # fmt: skip
    text = page.of_purification(manifest | {"probe": probed})
    assert '<span class="badge held">bound held</span>' in text
    tiles = re.findall(r"<strong>(.*?)</strong>", text)
    before, after = (manifest[s]["validation"]["accuracy"] for s in ("before", "after"))
    count = f"{len(manifest['pruned_units'])} of {manifest['units']}"
    assert tiles == [f"{100 * before:.1f}% → {100 * after:.1f}%", count, "1 → 0"]
    assert "<td>+62.0, noticed</td><td>+62.0</td>" in text
    assert "noticed opening into &#39;good&#39; +62 points (1 trigger family, 40 texts)" in text
    [mark] = re.findall(r'class="mark" x="([\d.]+)"', text)
    assert float(mark) == pytest.approx(100 * manifest["bound"]["min_accuracy"])
    wrecked = manifest["after"]["validation"] | {"right": 0, "accuracy": 0.0}
    missed = page.of_purification(manifest | {"after": manifest["after"] | {"validation": wrecked}})
    assert '<span class="badge missed">bound not held</span>' in missed
    idle = manifest | {"after": manifest["after"] | {"validation": wrecked}, "pruned_units": []}
    assert '<span class="badge missed">bound not held</span>' in page.of_purification(idle)
    broken = [{"what": "x", "passed": False, "detail": ""}]
    assert ">a check failed</span>" in page.of_purification(manifest | {"checks": broken})
    free = page.of_purification(manifest | {"bound": manifest["bound"] | {"binds": False}})
    assert 'class="mark" x=' not in free
    here = page.of_purification(manifest | {"suspect": "."})
    assert "<title>A model, pruned by headsweep</title>" in here  # not the folder of the report


def test_the_first_screen_fits_a_phone_and_the_rest_opens_and_prints(manifest, visit, tmp_path):
    path = tmp_path / "one.html"
    page.write(path, page.of_purification(manifest))
    tab = visit(path, viewport={"width": 1200, "height": 800})
    assert tab.locator("#heads").bounding_box()["y"] < 800
    width = "document.querySelector('#{} .main-svg').getBoundingClientRect().width"
    assert tab.locator("#path").is_hidden()
    tab.get_by_text("Figures of every stage").click()
    tab.wait_for_function(f"{width.format('path')} > 900")
    tab.get_by_text("Figures of every stage").click()
    tab.set_viewport_size({"width": 390, "height": 800})
    tab.wait_for_function(f"{width.format('heads')} <= 390")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.evaluate("[...document.querySelectorAll('details')].every((part) => part.open)")
    tab.wait_for_function(f"{width.format('path')} > 300")
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not tab.evaluate("[...document.querySelectorAll('details')].some((part) => part.open)")


HEIGHTS = "[...document.querySelectorAll('.chart:not([hidden])')].map((c) => c.querySelector('.main-svg')?.getBoundingClientRect().height ?? 0)"


def test_charts_keep_their_height_when_turned_and_are_light_on_paper(made, visit):
    tab = visit(made[0], viewport={"width": 390, "height": 844}, color_scheme="dark")
    before = tab.evaluate(HEIGHTS)
    assert min(before) >= 200
    tab.set_viewport_size({"width": 844, "height": 390})
    tab.wait_for_function(
        "document.querySelector('#bars-0 .main-svg').getBoundingClientRect().width > 700"
    )
    assert tab.evaluate(HEIGHTS) == before
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    tab.wait_for_function(
        "document.querySelector('#bars-0 .main-svg').getBoundingClientRect().width === 640"
    )
    ink = tab.evaluate("getComputedStyle(document.querySelector('#bars-0 .xtick text')).fill")
    assert contrast(ink, "rgb(255, 255, 255)") > 4.5
    tab.emulate_media(media="print")
    tab.set_viewport_size({"width": 718, "height": 1000})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 718
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.evaluate(HEIGHTS) == before


def test_a_page_is_small_and_holds_a_thousand_cells(made, visit, tmp_path):
    path, found, settings = made
    assert path.stat().st_size < 1_000_000
    many = replace(found, cells=tuple(
        cell | {"id": f"{cell['id']}-{i}"} for i in range(1 + 1000 // len(found.cells)) for cell in found.cells
    ))  # fmt: skip
    large = tmp_path / "large.html"
    page.write(large, page.of_results(many, settings, "large"))
    assert large.stat().st_size < 1_500_000
    tab = visit(large)
    assert tab.locator("#cell option").count() == len(many.cells) > 1000


def test_a_page_without_scores_has_no_colour_bar_and_one_head_is_drawn(manifest, visit, tmp_path):
    search = {"scores": None, "steps": []}
    one = {"format": manifest["mask"]["format"], "heads": [[0, 1]], "ffn": []}
    path = tmp_path / "bare.html"
    page.write(path, page.of_purification(manifest | {"search": search, "mask": one, "units": 2}))
    tab = visit(path, viewport={"width": 390, "height": 800})
    assert tab.locator("#heads .colorbar").count() == 0
    assert tab.locator("#heads .heatmaplayer").count() == 1
    assert tab.locator("#probes").count() == 0


def test_tables_in_markdown_and_latex(made):
    _, found, settings = made
    text = markdown(found, settings)
    blocks = [t.split("\n") for t in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)]
    standings = settings[0].standings
    assert [len(t) - 3 for t in blocks if "twin" in t[2]] == [7 - 1 + 1, 7 + 1]
    for lines in blocks:
        assert len({line.count("|") for line in lines if line}) == 1
        assert all(len(line) < 220 for line in lines)
    ranked = [line for line in blocks[0][2:] if "as-released" in line]
    assert ranked == []
    assert all(f"seed {seed}" in blocks[0][0] for seed in (11, 12))
    for standing in standings:
        each = [f"{100 * value:+.1f}" for value in standing.excess.values]
        row = next(r for r in blocks[0] if f" {standing.method} " in r.replace("*", ""))
        assert row.rstrip(" |").endswith(" | ".join(each))
    assert "too few to speak of others" in text
    assert "gradient | 11 |" in text.split("As released: replication only")[1]
    assert "headsweep bench recipes/smoke.toml --out RESULTS\n" in text
    tex = tables.latex(settings)
    rows = tex.split("\\midrule")[1].split("\\bottomrule")[0].strip().split("\n")
    assert len(rows) == len(settings[0].everything) == 7
    assert {row.count("&") for row in rows} == {11}
    assert "%" not in tex.replace("\\%", "").split("\n", 1)[1]


def test_names_stand_beside_their_points_and_not_on_each_other():
    def at(name, x, y):
        return Point(name, x, y, (x, x), (y, y))

    corners = [at("corner", 0, 0), at("other", 1, 1)]
    near = [at("one", 0.5, 0.5), at("two", 0.5, 0.52)]
    found = sides([*corners, *near])
    assert set(found.values()) <= set(SIDES)
    assert found["one"] != found["two"]
    assert sides([]) == {}
    assert set(sides([at("alone", 3, 3)])) == {"alone"}


def test_how_to_reproduce_names_variables_and_no_path():
    recipe = {"name": "small", "sha256": "x"}
    assert "--set" not in command(recipe)
    assert "--set NAME=VALUE" in hint(recipe)  # a cell from before they were written down
    recipe["variables"] = ["corpus"]
    assert command(recipe, "x-s11") == (
        "headsweep bench recipes/small.toml --set corpus=CORPUS --out RESULTS --only x-s11"
    )
    assert hint(recipe) == ""
    assert command({"name": "a\nb #"}) == "headsweep bench 'recipes/a b #.toml' --out RESULTS"


def test_report_command(run, smoke_results, tmp_path):  # noqa: F811
    out = tmp_path / "r.html"
    code, text, _ = run("report", smoke_results, "--out", out, "--resamples", 50, "-q")
    assert (code, "written" in text) == (0, True)
    code, _, err = run("report", smoke_results, "--out", out)
    assert (code, "is there already" in err) == (2, True)
    code, _, err = run("report", smoke_results)
    assert (code, "--out report.html" in err) == (2, True)
    code, _, err = run("report", tmp_path, "--format", "markdown")
    assert (code, "no results" in err) == (2, True)
    code, text, _ = run("report", smoke_results, "--format", "latex", "--resamples", 50, "-q")
    assert (code, "\\toprule" in text) == (0, True)
    code, _, err = run("report", smoke_results, "--format", "svg")
    assert (code, "two victims or more" in err) == (2, True)
    for more, told in (
        (("--out", tmp_path / "a.svg", "--format", "latex"), "latex is no .svg"),
        (("--out", tmp_path / "a.pdf"), "html is no .pdf"),
        (("--format", "svg", "--beside", "none"), "nothing in svg shows it"),
        (("--format", "svg", "--resamples", 60), "nothing in svg shows it"),
    ):
        code, _, err = run("report", smoke_results, *more)
        assert (code, told in err) == (2, True), more
    assert run("report", smoke_results, "--out", tmp_path / "a.tex", "--resamples", 50)[0] == 0
    assert "\\toprule" in (tmp_path / "a.tex").read_text("utf-8")


def test_latex_says_what_is_left_out(smoke_results, tmp_path, capsys):
    out = shutil.copytree(smoke_results, tmp_path / "results")
    name = next(out.glob("*-s12-gradient.json"))
    shutil.copy(name, name.with_stem("copy"))
    text = headsweep.report(out, format="latex", resamples=50)
    assert f"% copy.json is left out: it is the cell {name.stem} under another name" in text
    assert "note: copy.json is left out" in capsys.readouterr().err
    whole = headsweep.report(smoke_results, format="latex", resamples=50, progress=False)
    assert text.replace(f"% copy.json is left out: it is the cell {name.stem} under another name\n",
                        "") == whole  # fmt: skip
    for wrong in ({"resamples": 0}, {"beside": 5}):
        with pytest.raises(UserError):
            headsweep.report(out, format="markdown", **wrong)


def test_names_of_others_are_no_html_in_charts():
    assert charts._as_it_stands('<a href="x">b</a>\n&') == '&lt;a href="x"&gt;b&lt;/a&gt; &amp;'


def test_purify_writes_the_same_page(run, trained_folder, csv_file, visit, tmp_path):  # noqa: F811
    out, report = tmp_path / "out", tmp_path / "page.html"
    asked = ["--data", csv_file, "--out", out, "--set", "step=2", "--max-drop", "0.3", *FAST]
    asked += ["--heal", "epochs=0"]
    assert run("purify", trained_folder, *asked, "--report", report)[0] == 0
    again = tmp_path / "again.html"
    assert run("report", out, "--out", again)[0] == 0
    assert again.read_text() == report.read_text()
    asked[asked.index(out)] = tmp_path / "other"
    code, _, err = run("purify", trained_folder, *asked, "--report", report)
    assert (code, "is there already" in err) == (2, True)
    tab = visit(report)
    manifest = json.loads((Path(out) / "headsweep.json").read_text())
    assert tab.locator("#scores td", has_text="pruned").count() == len(manifest["pruned_units"])
    assert "does not call the model clean" in tab.inner_text(".notes")
