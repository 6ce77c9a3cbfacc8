"""The report as Markdown: tables narrow enough for a page of a repository."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from headsweep.bench.results.reading import Results
from headsweep.foreign import in_markdown, plain
from headsweep.reports.across import LEGEND, PAIRED, Across, across, by_victim, summary
from headsweep.reports.charts import group_of
from headsweep.reports.comparison import Difference, Replication, Setting, Spread, Standing
from headsweep.reports.reproduce import steps
from headsweep.reports.tables import (
    BELOW_TOLD,
    accuracy,
    between,
    percent,
    points,
    pruned,
    sentences,
)

BAR = re.compile(r"(?<!\\)\|")  # which would end a field
HOW = (
    "Rates in percent, mean ± standard deviation over seeds. Excess LFR, in points: matched LFR "
    "minus the LFR of the never-poisoned twin on the same texts; 0 is the goal.",
    "95% intervals: paired bootstrap over texts, the shift of matched LFR chosen again in each "
    "resample. In brackets behind a rank: the ranks of 95% of resamples.",
    "Differences: mean excess LFR of the method minus that of the other on the same seeds and "
    "texts, below 0 in the method's favour. The random control is the one with the nearest head "
    "count; for a method that prunes no heads, the smallest. p: Holm's correction over all "
    "differences of the setting; never below 2 in the number of resamples, times the differences. "
    "*Better* and *worse* only where interval and p agree. A control has its own number of heads "
    "and one draw a seed, which no interval here covers.",
)


def markdown(
    results: Results,
    settings: Sequence[Setting],
    figures: Mapping[str, Sequence[str]] | None = None,
    beside: str | None = None,
) -> str:
    """Return the report.

    Args:
        results: what was measured.
        settings: how it compares, victim by victim.
        figures: lines of Markdown to stand first in a setting, by its name.
        beside: the method that others are compared with over all victims; None: the usual one.

    """
    lines = _across(across(results.cells, beside))
    for setting in settings:
        said = (f"- {in_markdown(one)}" for one in sentences(setting))
        lines += [f"## {in_markdown(setting.name)}", "", *said, ""]
        lines += (figures or {}).get(setting.name, ())
        lines += _standings(setting) + _differences(setting)
        lines += _replications(setting) + _rates(setting)
    lines += ["## How to read the tables", "", *(f"- {line}" for line in HOW), ""]
    lines += ["## How to reproduce", "", *steps(results)]
    if results.notes:
        lines += ["", "## Notes", "", *(f"- {in_markdown(note)}" for note in results.notes)]
    return plain("\n".join(lines).rstrip() + "\n")


def _across(found: Across | None) -> list[str]:
    """Return the tables over all victims, where there are several."""
    if found is None:
        return []
    lines = ["## All victims", "", f"{LEGEND} {PAIRED}", ""]
    for titles, rows in (summary(found), by_victim(found)):
        fields = [[in_markdown(row[0].text), *(entry.text for entry in row[1:])] for row in rows]
        lines += table([*map(in_markdown, titles)], fields)
    return lines


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> list[str]:
    """Return a table whose columns after the first ``words`` stand to the right."""
    sides = ["---"] * words + ["--:"] * (len(titles) - words)
    body = [[BAR.sub(r"\|", field) for field in row] for row in (titles, sides, *rows)]
    return ["| " + " | ".join(row) + " |" for row in body] + [""]


def _standings(setting: Setting) -> list[str]:
    """Return the methods by rank under the floor, with every seed where there are few."""
    each = () if setting.speaks_of_seeds or len(setting.seeds) == 1 else setting.seeds
    titles = ["method", "group", "rank", "pruned", "ACC", "excess LFR", "95% interval"]
    titles += [f"seed {seed}" for seed in each]
    twin = ["*never-poisoned twin*", "*floor*", "", "", percent(setting.twin_accuracy), "0", ""]
    rows = [twin + [""] * len(each)]
    for one in setting.standings:
        low, high = one.rank_interval or (0, 0)
        rows.append(
            [
                f"**{in_markdown(one.method)}**"
                if group(one) == "strategy"
                else in_markdown(one.method),
                group(one),
                "" if one.rank is None else f"{one.rank} ({low} to {high})",
                pruned(one),
                accuracy(one),
                points(one.excess),
                between(one.interval),
                *_seeds(one, each),
            ]
        )
    heading = "### Excess LFR, least first"
    more = f"; every seed by itself to the right, {len(each)} being few" if each else ""
    caption = f"Strategies in bold; `nothing` is the victim itself{more}."
    if any(one.below for one in setting.standings):
        caption += f" {BELOW_TOLD}"
    return [heading, "", caption, "", *table(titles, rows, words=2)]


def _seeds(one: Standing, each: Sequence[int]) -> list[str]:
    values = dict(zip(one.seeds, one.excess.values, strict=True))
    return [f"{100 * values[seed]:+.1f}" if seed in values else "-" for seed in each]


def group(one: Standing) -> str:
    """Return the group of a method, the undefended victim being one of its own."""
    return "victim" if one.base == "nothing" else group_of(one.base, one.kind)


def _differences(setting: Setting) -> list[str]:
    found = {(d.method, d.against): d for d in setting.differences}
    against = [name for name in ("random", "pure") if any(n == name for _, n in found)]
    titles = ["method"]
    if "random" in against:
        titles += ["minus random control", "p", "", "control"]
    if "pure" in against:
        titles += ["minus PURE", "p", ""]
    rows = []
    for one in setting.standings:
        both = [found.get((one.method, name)) for name in against]
        if any(both):
            parts = zip(against, both, strict=True)
            rows.append(
                [in_markdown(one.method), *(x for n, d in parts for x in _difference(d, n))]
            )
    if not rows:
        return []
    return ["### Against the random control and PURE", "", *table(titles, rows)]


def _difference(found: Difference | None, against: str) -> list[str]:
    if found is None:
        return [""] * (4 if against == "random" else 3)
    verdict = "" if found.verdict == "not shown" else f"**{found.verdict}**"
    value = f"{100 * found.value.value:+.1f} ({between(found.value)})"
    p = "< 0.001" if found.corrected < 0.001 else f"{found.corrected:.3f}"
    names = [in_markdown(", ".join(found.others))] if against == "random" else []
    return [value, p, verdict, *names]


def _replications(setting: Setting) -> list[str]:
    if not setting.replications:
        return []
    titles = ["as released", "seeds", "pruned", "ACC", "excess LFR", "95% interval"]
    titles += ["faithful form", "minus faithful form"]
    rows = [_replication(one) for one in setting.replications]
    said = (
        "What the released scripts do, where it differs from the paper: for replication only, "
        "neither ranked nor among the comparisons above. The last column is over the same seeds."
    )
    if any(one.standing.below for one in setting.replications):
        said += f" {BELOW_TOLD}"
    return ["### As released: replication only", "", said, "", *table(titles, rows, words=2)]


def _replication(one: Replication) -> list[str]:
    standing, found = one.standing, one.difference
    less = "-" if found is None else f"{100 * found.value:+.1f} ({between(found)})"
    return [
        in_markdown(standing.method.removesuffix("-as-released")),
        ", ".join(map(str, standing.seeds)),
        pruned(standing),
        accuracy(standing),
        points(standing.excess),
        between(standing.interval),
        in_markdown(one.faithful or "-"),
        less,
    ]


def _rates(setting: Setting) -> list[str]:
    """Return LFR, CFR and costs of every method, folded away."""
    titles = ["method", "LFR", "matched LFR", "CFR", "seconds", "processor seconds"]
    twin = ["*never-poisoned twin*", percent(setting.floor), percent(setting.floor)]
    rows = [[*twin, percent(setting.twin_cfr), "", ""]]
    rows += [
        [
            in_markdown(one.method),
            percent(one.lfr),
            percent(one.matched),
            percent(one.cfr),
            *(_plain(spread) for spread in (one.seconds, one.cpu_seconds)),
        ]
        for one in setting.everything
    ]
    head = "<details><summary>LFR, matched LFR, clean flip rate and time of every method</summary>"
    return [head, "", *table(titles, rows), "</details>", ""]


def _plain(spread: Spread) -> str:
    return f"{spread.mean:.0f}"
