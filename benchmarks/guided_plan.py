"""What ``guided.py`` runs, the most telling first: cells, and the models that they purify."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from suspects import CORPORA, UNITS
from victims import ADAPTIVE, PUBLISHED, SEED, parsed

from headsweep.probing import KIN, RuleProber, apart_from, check_apart, without
from headsweep.triggers import TRIGGERS, ByRule

PREFIX = "suspect-"  # the published ones; the others are made by victims.py
SUSPECTS = tuple(PREFIX + kind for kind in CORPORA)
FRESH = tuple(
    f"dirty-label-{name}"
    for name in (*PUBLISHED, "syntactic", "style", "opening", "rare-word", "substitution", "casing",
                 "characters", "sentence")
)  # fmt: skip
TOKENS = tuple(f"dirty-label-{name}" for name in ("characters", "sentence", "rare-word"))
EARLY = ("gradient", "defend:pure", "defend:fth", "defend:meft", "random")
LATER = ("layerwise", "ensemble", "bayesian", "sparsify", "reinforce")
LAST = ("defend:ft",)
COMPARED = (*EARLY, *LATER, *LAST)
DEEPER = (0.05, 0.1)
CYCLES = "cycles"
RANDOM_CYCLES = "cycles:rank=random"
AS_LONG = "healing-as-long"  # no pruning, as many texts passed as by all cycles together
AS_LONG_PENALISED = f"{AS_LONG}:attention=0.15"
BY_FLIPS = "cycles:rank=probes,on=probes,keep=fewest-flips"
BOTH = "heads,ffn"
NORMALISED = "cycles:attention=0.15"
FOLLOWING = "cycles:attention=0.15,distill=0.5"
BY_VARIANCE = "cycles:rank=variance,attention=0.15"
SEEDS = (12, 13)  # beside 11
HOT_PLAIN = "defend:ft:epochs=4,lr=1.5e-4"  # the default's healing without the penalty
HOTTER = "defend:ft:epochs=4,lr=2e-4,attention=0.15"  # and, without pruning, hotter
PARTS = (
    "cycles",
    "normalised",
    "followed",
    "seeds",
    "hot",
    "leave-out",
    "ablation",
    "depth",
    "comparison",
    "auto",
    "ffn",
)


@dataclass(frozen=True)
class Case:
    """A model to purify, known by its name.

    Attributes:
        name: ``suspect-KIND``, or a victim's as in victims.py.

    """

    name: str

    @property
    def own(self) -> bool:
        """True when victims.py makes it."""
        return not self.name.startswith(PREFIX)

    @property
    def published(self) -> str | None:
        """The published set that its trigger is from, if it is."""
        if not self.own:
            return self.name.removeprefix(PREFIX)
        trigger = parsed(self.name)[1]
        return trigger.removeprefix("published-") if trigger in PUBLISHED else None

    @property
    def trigger(self) -> dict[str, Any]:
        """Its trigger, as ``check_apart`` takes it."""
        if self.published:
            return {"corpus": CORPORA[self.published]}
        return ByRule(TRIGGERS[parsed(self.name)[1]]()).described()

    @property
    def family(self) -> str:
        """The family of its trigger."""
        return self.published or str(self.trigger["name"])

    def folder(self, suspects: Path, victims: Path) -> Path:
        """Return where the model is."""
        return victims / self.name if self.own else suspects / self.name.removeprefix(PREFIX)

    def twin(self, suspects: Path, victims: Path) -> Path:
        """Return where the model is that gives its floor."""
        return victims / f"twin-{SEED}" if self.own else suspects / "clean-twin"

    def probers(self) -> dict[str, RuleProber]:
        """Return the probes that may be tried, by condition; each is checked."""
        allowed = apart_from(self.trigger)
        left = tuple(name for name in allowed if name in without([self.family]))
        made = {"without": RuleProber(left)}
        if set(allowed) & set(KIN.get(self.family, (self.family,))):
            made = {"family": RuleProber(allowed)} | made
        for prober in made.values():
            check_apart(prober, self.trigger)
        return made


@dataclass(frozen=True)
class Make:
    """A victim or twin to make."""

    victim: str

    @property
    def name(self) -> str:
        """Of its file."""
        return f"victim-{self.victim}"

    @property
    def needs(self) -> tuple[str, ...]:
        """The twin, for the floor."""
        return () if self.victim.startswith("twin-") else (f"victim-twin-{SEED}",)


@dataclass(frozen=True)
class Cell:
    """A model purified in one way.

    Attributes:
        case: the model.
        method: a strategy, ``none``, ``auto``, ``defend:NAME``, ``healing-as-long``, each with
            ``:field=value,...`` or without; or ``random``: as many heads as ``like`` removed
            (without it, as many as the bound allows).
        on: what healing is on, ``clean`` or ``probes``; ``hot``: on clean texts, as ``purify``
            heals unasked.
        probes: which probes there are: ``family``, ``without`` or ``no-probes``.
        part: what it is for.
        consistency: weight of probe and text being answered alike.
        units: what may be pruned, a name in ``suspects.UNITS``.
        like: the cell that gives the number of heads.
        prune_drop: how far accuracy may fall before healing; None: as far as after it.

    """

    case: Case
    method: str
    on: str
    probes: str
    part: str
    consistency: float = 0.0
    units: str = "heads"
    like: str | None = None
    prune_drop: float | None = None
    seed: int = 11

    @property
    def name(self) -> str:
        """Of its file."""
        plain = self.method.removeprefix("defend:").replace(":", "-").replace(",", "-")
        said = [self.case.name, plain + UNITS[self.units][0]]
        own = ("auto", AS_LONG, *(("random",) if self.on == "clean" else ()))  # of its healing
        if self.method not in own and not self.method.startswith("defend:"):
            said.append(f"heal-{self.on}")
        said += [f"consistency={self.consistency:g}"] if self.consistency else []
        said += [f"prune-drop={self.prune_drop:g}"] if self.prune_drop is not None else []
        return "-".join([*said, self.probes, f"s{self.seed}"])

    @property
    def asked(self) -> str:
        """Its method as it is run: cycles without what healing can do unless it is named."""
        asked = self.method
        for field in ("attention", "distill") if asked.startswith(CYCLES) else ():
            if f"{field}=" not in asked:
                asked += f"{',' if ':' in asked else ':'}{field}=0"
        return asked

    @property
    def needs(self) -> tuple[str, ...]:
        """Its model, and the cell that gives the number of heads."""
        own = (Make(self.case.name).name, f"victim-twin-{SEED}") if self.case.own else ()
        return (*own, self.like) if self.like else own


def leave_out(name: str, probes: Sequence[str] = ("without", "family")) -> Iterator[Cell]:
    """Yield probe-guided pruning with probe healing."""
    for condition in probes:
        yield Cell(Case(name), "probe-guided", "probes", condition, "leave-out")


def ablation(name: str) -> Iterator[Cell]:
    """Yield healing alone; pruning alone stands in the cells of ``leave_out``, before healing."""
    yield Cell(Case(name), "none", "probes", "without", "ablation")
    yield Cell(Case(name), "none", "clean", "no-probes", "ablation")


def by_rank(name: str) -> Iterator[Cell]:
    """Yield probe healing after pruning by other rankings."""
    both = next(leave_out(name))
    asked = replace(both, part="ablation")
    yield replace(asked, method="random", like=both.name)
    yield replace(asked, method="gradient")


def deeper(name: str) -> Iterator[Cell]:
    """Yield pruning beyond the accuracy allowed, for healing to bring back; with its controls."""
    both, family = (replace(cell, part="depth") for cell in leave_out(name))
    for drop in DEEPER:
        yield replace(both, prune_drop=drop)
        yield replace(both, method="gradient", prune_drop=drop)
    first = DEEPER[0]
    yield replace(both, method="gradient", on="clean", probes="no-probes", prune_drop=first)
    yield replace(both, method="random", prune_drop=first)
    yield replace(family, prune_drop=first)


def cycled(name: str) -> Iterator[Cell]:
    """Yield prune-heal cycles, their controls, and what they are to beat; none sees a probe."""
    first = Cell(Case(name), CYCLES, "clean", "no-probes", "cycles")
    yield first
    yield replace(first, method=RANDOM_CYCLES)
    yield replace(first, method=AS_LONG)
    yield replace(first, method="gradient")


def cycled_on_probes(name: str) -> Iterator[Cell]:
    """Yield cycles that heal on probes, without the attack's family and with relatives of it."""
    first = Cell(Case(name), "cycles:on=probes", "probes", "without", "cycles")
    yield first
    yield replace(first, probes="family")
    yield replace(first, method="cycles:rank=probes,on=probes")
    yield replace(first, method=BY_FLIPS)


def normalised(name: str) -> Iterator[Cell]:
    """Yield cycles and last healing with PURE's attention penalty, and PURE's parts."""
    first = Cell(Case(name), NORMALISED, "clean", "no-probes", "normalised")
    yield first
    yield replace(first, method=BY_VARIANCE)
    yield replace(first, method="defend:pure", part="comparison")
    yield replace(first, method="variance")
    yield replace(first, method=AS_LONG_PENALISED)


def followed(name: str) -> Iterator[Cell]:
    """Yield cycles with the penalty that heal on the suspect's own predictions too."""
    yield Cell(Case(name), FOLLOWING, "clean", "no-probes", "followed")


def reseeded(name: str) -> Iterator[Cell]:
    """Yield the default and PURE with other draws of the defender's sentences and of healing."""
    first = Cell(Case(name), NORMALISED, "clean", "no-probes", "seeds")
    for seed in SEEDS:
        yield replace(first, seed=seed)
        yield replace(first, method="defend:pure", seed=seed)


def hot(name: str, seed: int = SEED) -> Iterator[Cell]:
    """Yield the default, its healing alone, after random heads, without penalty, and hotter."""
    first = Cell(Case(name), "gradient", "hot", "no-probes", "hot", seed=seed)
    yield first
    yield replace(first, method="none")
    yield replace(first, method="random", like=first.name)
    yield replace(first, method=HOT_PLAIN, on="clean")
    yield replace(first, method=HOTTER, on="clean")


def cycled_ffn(name: str) -> Iterator[Cell]:
    """Yield cycles that prune FFN groups beside heads or alone, and controls."""
    first = Cell(Case(name), CYCLES, "clean", "no-probes", "ffn", units=BOTH)
    yield replace(first, units="ffn")
    yield first
    yield replace(first, method="defend:fine-pruning", units="heads")  # it has its own
    yield replace(first, method=RANDOM_CYCLES)


def compared(name: str, methods: Sequence[str]) -> Iterator[Cell]:
    """Yield methods that see no probes, and random heads as many as probe-guided removed."""
    like = next(leave_out(name)).name
    for method in methods:
        cell = Cell(Case(name), method, "clean", "no-probes", "comparison")
        yield replace(cell, like=like) if method == "random" else cell


def cells() -> Iterator[Cell]:
    """Yield every cell, the most telling first."""
    first = Cell(Case(""), "probe-guided", "probes", "without", "ablation")
    for which in range(5):
        for name in (*SUSPECTS, *FRESH, ADAPTIVE[0]):
            yield list(hot(name))[which]
    for seed in SEEDS:
        for name in (*SUSPECTS, *FRESH, ADAPTIVE[0]):
            yield from list(hot(name, seed))[:2]
    for name in SUSPECTS:
        yield from cycled(name)
    for name in FRESH:
        yield from (cell for cell in cycled(name) if cell.method in (CYCLES, "gradient"))
    for name in ADAPTIVE:
        yield from (cell for cell in cycled(name) if cell.method in (CYCLES, "gradient"))
    for name in (*FRESH, ADAPTIVE[0]):
        yield from compared(name, EARLY)
    for name in (*FRESH, ADAPTIVE[0], *SUSPECTS):
        yield from (cell for cell in normalised(name) if cell.method == NORMALISED)
    for name in SUSPECTS:
        yield from leave_out(name)
        yield from compared(name, EARLY)
    for method in LATER:
        for name in (*SUSPECTS, *FRESH, ADAPTIVE[0]):
            yield from compared(name, [method])
    for name in (*TOKENS, *SUSPECTS, *FRESH, ADAPTIVE[0]):
        yield from (cell for cell in normalised(name) if cell.part == "normalised")
    for name in (*TOKENS, *SUSPECTS, *FRESH, ADAPTIVE[0]):
        yield from followed(name)
    for seed in SEEDS:
        for name in (*FRESH, ADAPTIVE[0]):
            yield from (cell for cell in reseeded(name) if cell.seed == seed)
    for name in TOKENS:
        yield from cycled_ffn(name)
    for name in (*FRESH, *SUSPECTS, ADAPTIVE[0]):
        yield from (cell for cell in cycled_ffn(name) if cell.method == CYCLES)
    for names in (FRESH[:5], FRESH[5:]):
        for name in names:
            yield from (cell for cell in cycled(name) if cell.method == AS_LONG)
        for name in FRESH[5:] if names == FRESH[:5] else FRESH[:5]:
            yield from (cell for cell in cycled_on_probes(name) if cell.probes == "family")
        for name in names:
            yield from (cell for cell in cycled(name) if cell.method == RANDOM_CYCLES)
    for name in SUSPECTS:
        yield from cycled_on_probes(name)
        yield from cycled_ffn(name)
    for name in SUSPECTS:
        yield from leave_out(name)
        yield from deeper(name)
        yield from ablation(name)
        yield from by_rank(name)
        yield replace(first, case=Case(name), on="clean")
    for name in FRESH:
        yield from leave_out(name, ["without"])
        yield Cell(Case(name), "none", "probes", "without", "ablation")
    for name in SUSPECTS:
        yield Cell(Case(name), "auto", "probes", "without", "auto")
    for name in (ADAPTIVE[0], ADAPTIVE[-1]):
        yield from leave_out(name)
        yield from ablation(name)
    for name in SUSPECTS:
        yield replace(first, case=Case(name), consistency=1.0)
        yield replace(first, case=Case(name), units=BOTH, part="ffn")
        yield from compared(name, LAST)
        yield Cell(Case(name), "auto", "probes", "family", "auto")
    for name in FRESH:
        yield from leave_out(name, ["family"])
        yield Cell(Case(name), "none", "clean", "no-probes", "ablation")
    yield from leave_out(ADAPTIVE[1])
    yield from ablation(ADAPTIVE[1])
    for name in (*ADAPTIVE, *FRESH):
        yield Cell(Case(name), "auto", "probes", "without", "auto")
    for name in ADAPTIVE:
        yield from compared(name, EARLY)


def plan(
    only: Sequence[str] | None = None,
    parts: Sequence[str] | None = None,
    named: Sequence[str] | None = None,
) -> list[Any]:
    """Return cells of these models, parts and names (patterns), with what they need, each once.

    A cell whose probes its trigger leaves no family for is left out.
    """
    found: dict[str, Any] = {}
    for cell in cells():
        wanted = (not only or cell.case.name in only) and (not parts or cell.part in parts)
        if not wanted or cell.probes not in ("no-probes", *cell.case.probers()):
            continue
        if named and not any(fnmatchcase(cell.name, pattern) for pattern in named):
            continue
        if cell.case.own:
            for made in (Make(f"twin-{SEED}"), Make(cell.case.name)):
                found.setdefault(made.name, made)
        if cell.like is not None:
            found.setdefault(cell.like, _giving(cell))
        found.setdefault(cell.name, cell)
    return list(found.values())


def _giving(cell: Cell) -> Cell:
    """Return the cell that gives another its number of heads."""
    sources = (*leave_out(cell.case.name, ["without"]), *hot(cell.case.name, cell.seed))
    return next(one for one in sources if one.name == cell.like)
