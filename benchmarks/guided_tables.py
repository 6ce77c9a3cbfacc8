"""Print the Markdown tables of docs/guided.md and docs/cycles.md from the cells of ``guided.py``.

python benchmarks/guided_tables.py results/guided-victims
python benchmarks/guided_tables.py results/guided-victims --fill docs/guided.md
python benchmarks/guided_tables.py results/guided-victims --fill docs/cycles.md

A cell of the plan that is not there is printed as ``missing``; models without any cell are left out
and named below the table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from statistics import mean, median, variance
from typing import Any

import numpy as np
from guided_plan import (
    ADAPTIVE,
    AS_LONG,
    AS_LONG_PENALISED,
    BOTH,
    BY_FLIPS,
    BY_VARIANCE,
    COMPARED,
    CYCLES,
    FOLLOWING,
    FRESH,
    HOT_PLAIN,
    HOTTER,
    NORMALISED,
    RANDOM_CYCLES,
    SEEDS,
    SUSPECTS,
    Case,
    Cell,
    by_rank,
    compared,
    cycled,
    cycled_ffn,
    cycled_on_probes,
    deeper,
    followed,
    hot,
    leave_out,
    normalised,
)
from scipy.stats import bootstrap
from suspects import TARGET
from tables import three

Form = dict[str, Any]
Read = Callable[[Cell], Form | None]  # a cell; None where there is none
Row = tuple[str, Form | None, str]  # what it says first, its cell, which stage of it
HEAD = "| ACC | LFR | CFR | matched | floor | excess points (95%) | heads | seconds |"
RULE = "|---" * 8 + "|"
ABSENT = "\nMissing, no cell: "
DEFAULT, ALONE = "default", "its healing alone"
ALL = (*SUSPECTS, *ADAPTIVE, *FRESH)


def sections() -> dict[str, tuple[str, Callable[[Read], list[str]]]]:
    """Return what is printed: the marker in a page, the title, what makes the table."""
    return {
        "cycles": ("Prune-heal cycles", cycling),
        "cycles on every model": ("Cycles on every model", cycling_all),
        "left out": ("Leaving the family out", left_out),
        "due": ("What is due to what", due),
        "deep": ("Beyond the accuracy allowed, before healing", deep),
        "beside": ("Beside other methods", beside),
        "auto": ("auto", automatic),
        "ffn": ("With FFN groups", with_ffn_all),
        "penalty": ("With the attention penalty", with_penalty),
        "followed": ("Following the suspect", following_too),
        "seeds": ("With other seeds", by_seed),
        "hot": ("The default and its parts", hotter),
        "every": ("Every method, over the models", every_method),
        "pairs": ("Every method on every model", every_pair),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--fill", type=Path, metavar="PAGE", help="renew the tables of a page")
    parser.add_argument("--mark", default="", help="of its markers: <!-- every MARK -->")
    args = parser.parse_args()
    read = reader(args.results)
    if args.fill:
        args.fill.write_text(filled(args.fill.read_text("utf-8"), read, args.mark), "utf-8")
        return
    for title, make in sections().values():
        print(f"\n### {title}\n")
        print("\n".join(make(read)))


def filled(page: str, read: Read, mark: str = "") -> str:
    """Return a page with new tables between its markers, ``<!-- every -->`` and so on."""
    for name, (_, make) in sections().items():
        key = f"{name} {mark}".strip()
        begin, end = f"<!-- {key} -->\n", f"\n<!-- end {key} -->"
        if begin in page:
            before, _, rest = page.partition(begin)
            _, found, after = rest.partition(end)
            if not found:
                raise SystemExit(f"the page has no '{end.strip()}'")
            made = [line for line in make(read) if not line.startswith(ABSENT)]
            text = "\n".join(made).strip().replace("dirty-label-", "")
            page = f"{before}{begin}\n{text}\n{end}{after}"
    return page


def reader(results: Path) -> Read:
    """Return what reads a cell; it gives None where there is none."""

    def read(cell: Cell) -> Form | None:
        path = results / f"{cell.name}.json"
        return json.loads(path.read_text("utf-8")) if path.exists() else None

    return read


FAMILY = ", relatives of the trigger among them"
TOLD = {
    "gradient": "`gradient`, one search",
    CYCLES: "cycles",
    RANDOM_CYCLES: "cycles in random order",
    AS_LONG: "healing alone, as long",
    "cycles:on=probes": "cycles that heal on probes",
    "cycles:rank=probes,on=probes": "the same, ranked by probes",
    BY_FLIPS: "the same, ended by their flips",
}


def cycling(read: Read) -> list[str]:
    """Return prune-heal cycles with their controls, before and after the last healing."""

    def rows(name: str) -> list[Row]:
        made = [(cell, read(cell)) for cell in (*cycled(name), *cycled_on_probes(name))]
        there = [(cell, form) for cell, form in made if form is not None]
        found: list[Row] = [("as it is", form, "before") for _, form in there[:1]]
        for cell, form in there:
            told = TOLD[cell.method] + FAMILY * (cell.probes == "family")
            if "pruned" in form:
                found.append((f"{told}, before the last healing", form, "pruned"))
            found.append((told, form, "healed"))
        return found

    return _tables(rows)


Columns = dict[str, Callable[[str], Cell]]  # title: the cell of a model


def cycling_all(read: Read) -> list[str]:
    """Return cycles beside their controls, a row a model."""
    titles = {TOLD[cell.method]: cell.method for cell in cycled(ALL[0])}
    return _grid(read, {title: _picked(cycled, method) for title, method in titles.items()})


def with_ffn_all(read: Read) -> list[str]:
    """Return cycles of heads beside those of FFN groups and both, and Fine-Pruning."""
    columns: Columns = {
        "cycles of heads": _picked(cycled, CYCLES),
        "heads and FFN groups": _picked(cycled_ffn, CYCLES, BOTH),
        "FFN groups": _picked(cycled_ffn, CYCLES, "ffn"),
        "both, in random order": _picked(cycled_ffn, RANDOM_CYCLES, BOTH),
        "Fine-Pruning": _picked(cycled_ffn, "defend:fine-pruning"),
    }
    return _grid(read, columns)


def with_penalty(read: Read) -> list[str]:
    """Return cycles beside those that heal with PURE's attention penalty, and PURE."""
    columns: Columns = {
        "cycles": _picked(cycled, CYCLES),
        "with the penalty": _picked(normalised, NORMALISED),
        "penalty, no pruning": _picked(normalised, AS_LONG_PENALISED),
        "and ranked by variance": _picked(normalised, BY_VARIANCE),
        "PURE": _picked(normalised, "defend:pure"),
        "PURE's order, plain healing": _picked(normalised, "variance"),
    }
    return _grid(read, columns)


def following_too(read: Read) -> list[str]:
    """Return cycles with the penalty beside those that also follow the suspect."""
    columns: Columns = {
        "cycles": _picked(normalised, NORMALISED),
        "following the suspect": _picked(followed, FOLLOWING),
    }
    return _grid(read, columns)


def hotter(read: Read) -> list[str]:
    """Return the default, its parts and controls, and the cycles on every model."""
    columns = {
        DEFAULT: _picked(hot, "gradient"),
        ALONE: _picked(hot, "none"),
        "random heads, its healing": _picked(hot, "random"),
        "no pruning, healed at 2e-4": _picked(hot, HOTTER),
        "its healing without the penalty": _picked(hot, HOT_PLAIN),
        "cycles": _picked(normalised, NORMALISED),
    }
    return _grid(read, columns)


def by_seed(read: Read) -> list[str]:
    """Return what methods leave of a model with several seeds; where there are two or more."""
    methods = {
        DEFAULT: _picked(hot, "gradient"),
        ALONE: _picked(hot, "none"),
        "cycles": _picked(normalised, NORMALISED),
        "PURE": _picked(normalised, "defend:pure"),
    }
    found: dict[str, dict[str, dict[int, End]]] = {}
    for told, cell in methods.items():
        for name in ALL:
            first = cell(name)
            asked = {seed: _end(read(replace(first, seed=seed))) for seed in (first.seed, *SEEDS)}
            ends = {seed: end for seed, end in asked.items() if end is not None}
            if len(ends) > 1:
                found.setdefault(told, {})[name] = ends
    if not found:
        return ["no model has two seeds"]
    rows = [(name, [_by_seed(models.get(name, {})) for models in found.values()])
            for name in ALL if any(name in models for models in found.values())]  # fmt: skip
    everyone = [list(models.values()) for models in found.values()]
    rows.append(("*mean over models*", [_over(ends) for ends in everyone]))
    rows.append(("*standard deviation of a model's seeds, pooled*", [_spread(e) for e in everyone]))
    first, *others = found.values()
    beside = [_beside(ends, first) for ends in others]
    rows.append(("*beside the first, same models and seeds*", ["", *beside]))
    table = [f"| {name} | {' | '.join(cells)} |" for name, cells in rows]
    return [f"| model | {' | '.join(found)} |", "|---" * (1 + len(found)) + "|", *table]


def _by_seed(ends: dict[int, End]) -> str:
    return ", ".join(f"{seed}: {end}" for seed, end in ends.items())


def _over(models: Sequence[dict[int, End]]) -> str:
    left = mean(mean(end.left for end in ends.values()) for ends in models)
    change = mean(mean(end.change for end in ends.values()) for ends in models)
    return f"{left:.1f} ({change:+.1f}), {len(models)} models"


def _spread(models: Sequence[dict[int, End]]) -> str:
    pooled = sqrt(mean(variance([end.left for end in ends.values()]) for ends in models))
    return f"{pooled:.1f}"


def _beside(models: dict[str, dict[int, End]], first: dict[str, dict[int, End]]) -> str:
    left, change = _apart(models, first), _apart(models, first, "change")
    return f"{_paired(left)}, ACC {_paired(change)}" if left else ""


def _apart(
    models: dict[str, dict[int, End]], first: dict[str, dict[int, End]], of: str = "left"
) -> list[float]:
    """Return of every model that both have how much more is left, mean of the seeds of both."""
    shared = {name: ends.keys() & first.get(name, {}).keys() for name, ends in models.items()}
    return [
        mean(getattr(models[name][seed], of) - getattr(first[name][seed], of) for seed in seeds)
        for name, seeds in shared.items()
        if seeds
    ]


def _methods() -> Columns:
    """Return every method that sees no probe or is guided by them, the default first."""
    guided = {
        DEFAULT: _picked(hot, "gradient"),
        ALONE: _picked(hot, "none"),
        "no pruning, healed at 2e-4": _picked(hot, HOTTER),
        "random heads, its healing": _picked(hot, "random"),
        "cycles": _picked(normalised, NORMALISED),
        "cycles without the penalty": _picked(cycled, CYCLES),
        "cycles following the suspect": _picked(followed, FOLLOWING),
        "penalty, no pruning": _picked(normalised, AS_LONG_PENALISED),
        "probe-guided, without": _picked(leave_out, "probe-guided", probes="without"),
        "probe-guided, family": _picked(leave_out, "probe-guided", probes="family"),
    }
    others = {_short(method): _picked(lambda name: compared(name, COMPARED), method)
              for method in COMPARED}  # fmt: skip
    return guided | others


def _short(method: str) -> str:
    plain = method.removeprefix("defend:")
    return plain.upper() if plain in ("pure", "fth", "meft", "ft") else plain


@dataclass(frozen=True)
class End:
    """What a purification of a model ended with; lfr in points above the twin, acc of change."""

    left: float
    change: float
    seconds: float
    mark: str

    def reached(self, points: float) -> bool:
        """Tell whether no more points are left, and at most one of accuracy is lost."""
        return self.left <= points and self.change >= -1 - 1e-9

    def __str__(self) -> str:
        return f"{self.left:.0f} ({self.change:+.1f}){self.mark}"


GOAL, GOAL_OF_FAMILY = 15, 5  # points; with relatives of the trigger among the probes


def _ends(read: Read) -> dict[str, dict[str, End]]:
    """Return what every method ended with, by method and model; where it could do nothing too."""
    found: dict[str, dict[str, End]] = {}
    for method, cell in _methods().items():
        ends = {name: _end(read(cell(name))) for name in ALL}
        there = {name: end for name, end in ends.items() if end is not None}
        found |= {method: there} if there else {}
    return found


def _end(form: Form | None) -> End | None:
    if form is None or "before" not in form:
        return None
    took = float(form["seconds"]["all"])
    before = form["before"]
    if "outcome" in form:  # the suspect stays as it is
        return End(100 * before["excess_lfr"]["value"], 0.0, took, NOTHING)
    end, mark = _ending(form)
    change = end["accuracy"]["value"] - before["accuracy"]["value"]
    return End(100 * end["excess_lfr"]["value"], 100 * change, took, mark)


def every_method(read: Read) -> list[str]:
    """Return means over models and the distance to the first method, a row a method."""
    found = _ends(read)
    name_of_first, first = next(iter(found.items()), ("", {}))
    lines = ["| method | models | excess, mean | worst | ACC, mean | at the goal | seconds | "
             f"beside *{name_of_first}*, same models (95%) | less on |",
             "|---" * 9 + "|"]  # fmt: skip
    for method, ends in found.items():
        left, change, took = zip(
            *((end.left, end.change, end.seconds) for end in ends.values()), strict=True
        )
        apart = [ends[name].left - first[name].left for name in ends if name in first]
        told = "" if ends is first else _paired(apart)
        less = "" if ends is first else f"{sum(each < 0 for each in apart)} of {len(apart)}"
        goal = GOAL_OF_FAMILY if method.endswith("family") else GOAL
        reached = sum(end.reached(goal) for end in ends.values())
        lines.append(
            f"| {method} | {len(ends)} | {mean(left):.1f} | {max(left):.1f} | {mean(change):+.1f} "
            f"| {reached} | {median(took):.0f} | {told} | {less} |"
        )
    return lines


def _paired(apart: Sequence[float]) -> str:
    """Return the mean of paired differences with its bootstrapped interval over models."""
    if not apart:
        return ""
    told = f"{mean(apart):+.1f}"
    if len(set(apart)) < 3:
        return told
    made = bootstrap((apart,), np.mean, rng=0, method="percentile").confidence_interval
    return f"{told} ({made.low:+.1f} to {made.high:+.1f})"


def every_pair(read: Read) -> list[str]:
    """Return what every method left of every model, a row a method."""
    found = _ends(read)
    names = [name for name in ALL if any(name in ends for ends in found.values())]
    short = [name.removeprefix("dirty-label-") for name in names]
    before = {name: _as_it_is(read, name) for name in names}
    lines = [f"| method | {' | '.join(short)} |", "|---" * (1 + len(names)) + "|",
             f"| as it is | {' | '.join(before.values())} |"]  # fmt: skip
    for method, ends in found.items():
        told = [str(ends[name]) if name in ends else "missing" for name in names]
        lines.append(f"| {method} | {' | '.join(told)} |")
    legend = (
        f"{PUT_BACK} the last healing missed the bound: before it. {MISSED} ended below the bound. "
        f"{NOTHING} no head could go."
    )
    return [*lines, "", legend]


def _as_it_is(read: Read, name: str) -> str:
    forms = (read(cell(name)) for cell in _methods().values())
    form = next(form for form in forms if form and "before" in form)
    return f"{100 * form['before']['excess_lfr']['value']:.0f}"


def _picked(
    cells: Callable[[str], Iterable[Cell]], method: str, units: str = "heads", probes: str = ""
) -> Callable[[str], Cell]:
    """Return what finds a model's cell of this method."""

    def pick(name: str) -> Cell:
        return next(
            cell
            for cell in cells(name)
            if (cell.method, cell.units) == (method, units) and probes in ("", cell.probes)
        )

    return pick


def _grid(read: Read, columns: Columns) -> list[str]:
    """Return excess and change of ACC, a row a model that has more than the first column.

    Below, means, and the difference to the first column over the models that have both.
    """
    found = {name: {title: read(cell(name)) for title, cell in columns.items()} for name in ALL}
    beyond = {name: list(made.values())[1:] for name, made in found.items()}
    found = {name: made for name, made in found.items() if any(map(_judged, beyond[name]))}
    titles = [title for title in columns if any(_judged(made[title]) for made in found.values())]
    lines = [f"| model | excess as it is | {' | '.join(titles)} |",
             "|---" * (2 + len(titles)) + "|"]  # fmt: skip
    kept: dict[str, dict[str, tuple[float, float]]] = {title: {} for title in titles}
    for name, made in found.items():
        before = next(form for form in made.values() if form and _judged(form))["before"]
        told = []
        for title in titles:
            form, end = made[title], _end(made[title])
            if form is None or end is None or not _judged(form):
                told.append(_why(form))
                continue
            kind = "units" if "ffn" in form.get("mask", {}) else "heads"
            count = f", {heads(form)} {kind}" if "pruned_count" in form else ""
            left = points(_ending(form)[0])
            told.append(f"{left}, ACC {end.change:+.1f}{count}{end.mark}")
            kept[title][name] = (end.left, end.change)
        lines.append(f"| {name} | {points(before)} | {' | '.join(told)} |")
    first = kept[titles[0]] if titles else {}
    shared = {title: kept[title].keys() & first.keys() for title in titles[1:]}
    beside = [
        _mean([_less(kept[title][name], first[name]) for name in names])
        for title, names in shared.items()
    ]
    lines.append(f"| *mean* | | {' | '.join(_mean(list(kept[t].values())) for t in titles)} |")
    lines.append(f"| *beside the first column* | | | {' | '.join(beside)} |")
    return [*lines, *_absent([name for name in ALL if name not in found])]


def _judged(form: Form | None) -> bool:
    return form is not None and "healed" in form


def _less(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return one[0] - other[0], one[1] - other[1]


def _ending(form: Form) -> tuple[Form, str]:
    """Return the figures that a purification ends with, and its mark.

    Cells older than the rule hold the figures after a last healing that would be put back now.
    """
    if _held(form):
        back = form.get("pruned") == form["healed"]
        return form["healed"], PUT_BACK * (back and str(form["method"]).startswith("cycles"))
    if str(form["method"]).startswith("cycles"):  # purify puts their weights back
        return form["pruned"], PUT_BACK
    return form["healed"], MISSED


PUT_BACK = "°"  # the last healing missed the bound: as before it
MISSED = "†"  # ended below the bound
NOTHING = "‡"  # no head could go


def _held(form: Form) -> bool:
    """Tell whether a purification ended within the bound on validation accuracy."""
    return bool(form["after"]["validation"]["accuracy"] >= form["bound"]["min_accuracy"] - 1e-9)


def _mean(found: Sequence[tuple[float, float]]) -> str:
    if not found:
        return "none"
    left, change = (sum(each) / len(found) for each in zip(*found, strict=True))
    return f"{left:+.1f}, ACC {change:+.1f} ({len(found)} models)"


def left_out(read: Read) -> list[str]:
    """Return the excess of every model, family beside without, and the full figures of both."""
    lines = ["| model | as it is: ACC / LFR / CFR | excess | `family`: excess (95%) | "
             "`without`: ACC / LFR / CFR | excess (95%) | heads | probes flip |",
             "|---" * 8 + "|"]  # fmt: skip
    absent = []
    for name in ALL:
        made = {cell.probes: read(cell) for cell in leave_out(name)}
        any_made = next((form for form in made.values() if form and "before" in form), None)
        if any_made is None:
            absent.append(name)
            continue
        before = any_made["before"]
        family = "none left" if "family" not in Case(name).probers() else excess(made["family"])
        apart = made["without"]
        lines.append(
            f"| {name} | {three(before)} | {points(before)} | {family} | "
            f"{three((apart or {}).get('healed'))} | {excess(apart)} | {heads(apart)} | "
            f"{flips(apart)} |"
        )
    told = "probes flip: held-out ones into the target, mean over families, before and after."
    return [*lines, "", told, *_absent(absent)]


def due(read: Read) -> list[str]:
    """Return what pruning and healing do apart and together, for every model that has a cell."""

    def rows(name: str) -> list[Row]:
        both = next(leave_out(name))
        clean = replace(both, on="clean", part="ablation")
        found = read(both)
        return [
            ("as it is", found, "before"),
            ("pruning alone", found, "pruned"),
            ("clean healing alone", read(_none(name, "clean")), "healed"),
            ("probe healing alone", read(_none(name, "probes")), "healed"),
            ("pruning, clean healing", read(clean), "healed"),
            ("pruning, probe healing", found, "healed"),
            ("the same, consistency 1", read(replace(both, consistency=1.0)), "healed"),
            *((f"{cell.method}, probe healing", read(cell), "healed") for cell in by_rank(name)),
        ]

    return _tables(rows)


def deep(read: Read) -> list[str]:
    """Return what deeper pruning leaves, and whether healing brings accuracy back."""

    def rows(name: str) -> list[Row]:
        if name not in SUSPECTS:
            return []  # only these are in the plan
        both = next(leave_out(name))
        plain = ("probe-guided, probe healing, drop 0.02", read(both), "healed")
        return [plain, *((_deep(cell, read(cell)), read(cell), "healed") for cell in deeper(name))]

    return _tables(rows)


def _deep(cell: Cell, form: Form | None) -> str:
    """Return what a cell of ``deeper`` is, and its accuracy on validation texts."""
    family = " of the family" if cell.probes == "family" else ""
    told = f"{cell.method}, {'probe' if cell.on == 'probes' else 'clean'} healing{family}, drop "
    told += f"{cell.prune_drop:g}"
    found = (form or {}).get("after", {}).get("validation")
    if not found:
        return told
    held = "holds" if form and _held(form) else "below"
    return f"{told} (validation {found['accuracy']:.3f}: {held})"


def beside(read: Read) -> list[str]:
    """Return every method with its own healing, the guided one first."""

    def rows(name: str) -> list[Row]:
        both = next(leave_out(name))
        own: list[Row] = [
            ("as it is", read(both), "before"),
            ("probe-guided, probe healing", read(both), "healed"),
            ("probe-guided, clean healing", read(replace(both, on="clean")), "healed"),
        ]
        others: list[Row] = [
            (cell.method.removeprefix("defend:"), read(cell), "healed")
            for cell in compared(name, COMPARED)
        ]
        return own + sorted(others, key=_by_excess)

    return _tables(rows)


def automatic(read: Read) -> list[str]:
    """Return what auto left, and what it chose."""
    lines = ["| model | probes | ACC / LFR / CFR | excess (95%) | heads | seconds | chosen |",
             "|---" * 7 + "|"]  # fmt: skip
    absent = []
    for name in ALL:
        conditions = [c for c in ("without", "family") if c in Case(name).probers()]
        made = [(c, read(Cell(Case(name), "auto", "probes", c, "auto"))) for c in conditions]
        if not any(form for _, form in made):
            absent.append(name)
            continue
        for condition, form in made:
            chosen = (form or {}).get("auto", {}).get("chosen", {}).get("told", "")
            lines.append(
                f"| {name} | {condition} | {three((form or {}).get('healed'))} | {excess(form)} | "
                f"{heads(form)} | {seconds(form)} | {chosen} |"
            )
    return [*lines, *_absent(absent)]


def _none(name: str, on: str) -> Cell:
    return Cell(Case(name), "none", on, "without" if on == "probes" else "no-probes", "ablation")


def _tables(rows_of: Callable[[str], list[Row]]) -> list[str]:
    lines: list[str] = []
    absent = []
    for name in ALL:
        rows = rows_of(name)
        if not any(form for _, form, _ in rows):
            absent += [name] if rows else []
            continue
        lines += [f"{name}\n", f"| |{HEAD[1:]}", "|---" + RULE]
        lines += [line(*row) for row in rows] + [""]
    return [*lines, *_absent(absent)]


def line(title: str, form: Form | None, stage: str) -> str:
    """Return a row of a table; it says what is missing, and what could not be done."""
    found = (form or {}).get(stage)
    if found is None:
        return f"| {title} |" + f" {_why(form)} |" + " |" * 7
    values = [f"{found[name]['value']:.3f}" for name in FIGURES]
    count = "0" if stage == "before" else heads(form)
    took = seconds(form) if stage == "healed" else ""
    return f"| {title} | {' | '.join(values)} | {points(found)} | {count} | {took} |"


FIGURES = ("accuracy", "lfr", "cfr", "matched_lfr", "floor_lfr")


def points(found: Form) -> str:
    """Return excess LFR in points with its interval."""
    one = found["excess_lfr"]
    return f"{100 * one['value']:+.1f} ({100 * one['low']:+.1f} to {100 * one['high']:+.1f})"


def excess(form: Form | None) -> str:
    """Return what a cell left, or why there is no figure."""
    found = (form or {}).get("healed")
    return points(found) if found else _why(form)


def flips(form: Form | None) -> str:
    """Return how often held-out probes flip into the target, before and after."""
    found = ((form or {}).get("probes") or {}).get("validation_flips") or {}
    means = [
        sum(list(by_label.values())[TARGET] for by_label in stage.values()) / len(stage)
        for stage in (found.get("before"), found.get("after"))
        if stage
    ]
    return " to ".join(f"{mean:.2f}" for mean in means)


def heads(form: Form | None) -> str:
    """Return how many heads or units went."""
    return "" if form is None else str(form.get("pruned_count", 0))


def seconds(form: Form | None) -> str:
    """Return how long a cell took, judging included."""
    return f"{form['seconds']['all']:.0f}" if form and "seconds" in form else ""


def _why(form: Form | None) -> str:
    if form is None:
        return "missing"
    return "none could go" if "outcome" in form else "none went"


def _by_excess(row: Row) -> tuple[bool, float]:
    found = (row[1] or {}).get("healed")
    return found is None, found["excess_lfr"]["value"] if found else 0.0


def _absent(names: Sequence[str]) -> list[str]:
    return [f"{ABSENT}{', '.join(names)}."] if names else []


if __name__ == "__main__":
    main()
