"""The table of a setting, for the page and for LaTeX, and what is said beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headsweep.foreign import one_line
from headsweep.judge.statistics import Rate
from headsweep.reports.charts import group_of
from headsweep.reports.comparison import Difference, Setting, Spread, Standing
from headsweep.reports.resampling import ENOUGH

TITLES = (
    "method",
    "rank",
    "excess LFR",
    "95% interval",
    "ACC",
    "pruned",
    "against random",
    "against PURE",
    "excess LFR by seed",
    "LFR",
    "matched LFR",
    "CFR",
    "group",
    "seeds",
    "seconds",
)
BELOW = "†"
BELOW_TOLD = f"{BELOW}: less accurate on validation texts than allowed, on some seed."


@dataclass(frozen=True)
class Entry:
    """One field of a table: what is written, and what it is sorted by."""

    text: str
    value: float | str


NOTHING = Entry("-", 1e9)


def rows(setting: Setting) -> list[list[Entry]]:
    """Return a row for each method, in the order of ``TITLES``."""
    found = {(d.method, d.against): d for d in setting.differences}
    return [
        _row(s, found.get((s.method, "random")), found.get((s.method, "pure")))
        for s in setting.everything
    ]


def _row(one: Standing, random: Difference | None, pure: Difference | None) -> list[Entry]:
    low, high = one.rank_interval or (0, 0)
    return [
        Entry(one.method, one.method),
        NOTHING if one.rank is None else Entry(f"{one.rank} ({low} to {high})", one.rank),
        Entry(points(one.excess), one.excess.mean),
        Entry(between(one.interval), one.interval.low),
        Entry(accuracy(one), one.accuracy.mean),
        NOTHING if one.pruned is None else Entry(pruned(one), one.pruned.mean),
        _difference(random),
        _difference(pure),
        Entry(each(one.excess), one.excess.mean),
        _percent(one.lfr),
        _percent(one.matched),
        _percent(one.cfr),
        Entry(group_of(one.base, one.kind), group_of(one.base, one.kind)),
        Entry(", ".join(map(str, one.seeds)), len(one.seeds)),
        Entry(f"{one.seconds.mean:.0f}", one.seconds.mean),
    ]


def below(setting: Setting) -> str:
    """Return what the mark of results below the accuracy allowed means; empty where none is."""
    return BELOW_TOLD if any(one.below for one in setting.everything) else ""


def accuracy(one: Standing) -> str:
    """Return ACC, marked where a result is below the accuracy allowed."""
    return percent(one.accuracy) + BELOW * bool(one.below)


def _percent(spread: Spread) -> Entry:
    return Entry(percent(spread), spread.mean)


def percent(spread: Spread) -> str:
    """Return a mean with its standard deviation, in percent."""
    sd = "" if spread.deviation is None else f" ± {100 * spread.deviation:.1f}"
    return f"{100 * spread.mean:.1f}{sd}"


def points(spread: Spread) -> str:
    """Return a signed mean with its standard deviation, in points."""
    sd = "" if spread.deviation is None else f" ± {100 * spread.deviation:.1f}"
    return f"{100 * spread.mean:+.1f}{sd}"


def each(spread: Spread) -> str:
    """Return the value of every seed, in points."""
    return " / ".join(f"{100 * value:+.1f}" for value in spread.values)


def between(rate: Rate) -> str:
    """Return the ends of an interval, in points."""
    return f"{100 * rate.low:+.1f} to {100 * rate.high:+.1f}"


def pruned(one: Standing) -> str:
    """Return how many units went, of how many."""
    of = "" if one.units is None else f" of {one.units}"
    return "-" if one.pruned is None else f"{one.pruned.mean:.0f}{of}"


def _difference(found: Difference | None) -> Entry:
    if found is None:
        return NOTHING
    value = found.value
    shown = f"p\u00a0{found.corrected:.3f}: {found.verdict}"
    text = f"{100 * value.value:+.1f} ({between(value)}), {shown}"
    return Entry(text, value.value)


def sentences(setting: Setting) -> list[str]:
    """Return what the setting shows, plainly."""
    seeds = ", ".join(map(str, setting.seeds))
    own = f" ({each(setting.before)})" if len(setting.seeds) > 1 else ""
    said = [
        f"Seeds {seeds}. Floor LFR {percent(setting.floor)}%; excess LFR of the victims "
        f"{points(setting.before)}{own} points."
    ]
    compared = {d.against for d in setting.differences}
    for against, name in (("random", "the random control"), ("pure", "PURE")):
        if against not in compared:
            continue
        for verdict in ("better", "worse"):
            some = [
                d.method + _on(d, setting)
                for d in setting.differences
                if (d.against, d.verdict) == (against, verdict)
            ]
            if some:
                said.append(f"{verdict.capitalize()} than {name}: {', '.join(some)}.")
            elif verdict == "better":
                said.append(f"No method is shown to be better than {name}.")
    for one in setting.standings:
        if one.stuck:
            seeds = ", ".join(map(str, one.stuck))
            said.append(
                f"{one.method} found nothing to prune on seed {seeds}: the victim as it was."
            )
    lower = [
        f"{one.method} (seed {', '.join(map(str, one.below))})"
        for one in setting.standings
        if one.below
    ]
    if lower:
        said.append(f"Less accurate on validation texts than allowed: {', '.join(lower)}.")
    if setting.winner:
        said.append(f"Least excess LFR in 95% of resamples: {setting.winner}.")
    elif not setting.speaks_of_seeds:
        few = "One seed is" if len(setting.seeds) == 1 else f"{len(setting.seeds)} seeds are"
        said.append(
            f"{few} too few to speak of others: intervals and comparisons are about these "
            "victims, and no winner is named."
        )
    return said


def _on(one: Difference, setting: Setting) -> str:
    """Return on which seeds two were compared, where these are too few beside the setting's."""
    few = len(one.seeds) < ENOUGH <= len(setting.seeds)
    return f" (on seed {', '.join(map(str, one.seeds))} only)" if few else ""


HOW = (
    "Means over seeds ± standard deviation, in percent; excess LFR in points (matched LFR minus "
    "the LFR of a never-poisoned twin; 0 is the goal). Intervals: paired bootstrap over texts, the "
    "shift of matched LFR chosen again in each resample. 'Against' is the difference of excess LFR "
    "to PURE and to the random control with the nearest head count, its 95% interval, and p with "
    "Holm's correction; better only where both say so. As-released forms only replicate scripts: "
    "they have no rank and are compared with nothing but their faithful forms."
)


PLAIN = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "_": r"\_",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after the end of a row it would begin an argument, and a star would be one
    "*": "{*}",
    "±": r"$\pm$",
    "\u00a0": "~",
    BELOW: r"$\dagger$",
}


def latex(settings: Sequence[Setting], notes: Sequence[str] = ()) -> str:
    """Return the tables as LaTeX (package booktabs), the main columns only.

    ``notes``: what a reader must know of the choice of cells, as comments.
    """
    columns = [TITLES.index(name) for name in TITLES if name not in ("group", "seeds", "seconds")]
    lines = ["% needs \\usepackage{booktabs}", *(f"% {one_line(note)}" for note in notes)]
    for setting in settings:
        lines += [
            "\\begin{table}",
            f"\\caption{{{_tex(setting.name)}. {_tex(' '.join(sentences(setting)))}}}",
            f"\\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
            "\\toprule",
            " & ".join(_tex(TITLES[i]) for i in columns) + r" \\",
            "\\midrule",
        ]
        for row in rows(setting):
            lines.append(" & ".join(_tex(row[i].text) for i in columns) + r" \\")
        lines += ["\\bottomrule", "\\end{tabular}"]
        lines += [f"\\par {_tex(note)}"] if (note := below(setting)) else []
        lines += ["\\end{table}", ""]
    return "\n".join(lines)


def _tex(text: str) -> str:
    """Return a text, which may be of others, as LaTeX prints it: one line, no sign obeyed."""
    return "".join(PLAIN.get(sign, sign) for sign in one_line(text))
