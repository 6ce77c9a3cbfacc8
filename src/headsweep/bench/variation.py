"""How one method of a grid departs from the others: healing, depth, probes, a matched count.

In a recipe these are keys of ``[[method]]``:

    heal = { lr = 2e-4 }    # over [defend.heal], field by field; of strategies
    max_drop = 0.01         # in the place of the bound of [defend]
    prune_drop = 0.1        # over that of [defend]
    match = "gradient"      # of random heads: as many as that method pruned of the same victim
    probes = "without"      # which probe families the view carries (headsweep.bench.probing)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headsweep.bench.probing import Families, read_probes
from headsweep.document import Section
from headsweep.heal.fine_tune import FineTune
from headsweep.model.mask import HEADS, Units, units_of
from headsweep.purification.bound import Bound
from headsweep.purification.gone import HEALING, refuse_gone
from headsweep.settings import Settings, configure, pair, plain_fields


@dataclass(frozen=True)
class Variation:
    """What a method has of its own.

    Attributes:
        heal: fields of its healing that differ from the grid's, as ``field=value``.
        max_drop: how far accuracy may fall; None: as the grid says.
        prune_drop: how far it may fall while heads are chosen; None: as the grid says.
        match: the method whose number of heads it takes, on every victim and seed; None: none.
        probes: which probe families its view carries; empty: none.
        units: what a strategy may prune.

    """

    heal: tuple[str, ...] = ()
    max_drop: float | None = None
    prune_drop: float | None = None
    match: str | None = None
    probes: Families = ()
    units: Units = HEADS


KEYS = ("heal", "max_drop", "prune_drop", "match", "probes", "units")
MATCHING = "random"  # the control: it alone takes a number of heads


def healing_of(section: Section, usual: FineTune = FineTune()) -> FineTune:
    """Return the healing that a table describes, over another one."""
    refuse_gone(section, HEALING)
    return section.filled(lambda settings: healed(usual, settings))


def healed(usual: FineTune, settings: Settings) -> FineTune:
    """Return a healing with some of its fields set anew."""
    own = settings if isinstance(settings, Mapping) else dict(map(pair, settings))
    kind = type(usual)
    return configure(kind, {name: getattr(usual, name) for name in plain_fields(kind)} | dict(own))


def read_variation(section: Section, kind: str) -> Variation:
    """Read what a ``[[method]]`` has of its own; raises UserError."""
    own = section.section("heal")
    if own.values and kind == "defense":
        raise section.mistake("heal", "a defense brings its own healing", "set it in its fields")
    healing_of(own)
    drop, deeper = section.get("max_drop", float), section.get("prune_drop", float)
    for key, value in (("max_drop", drop), ("prune_drop", deeper)):
        with section.blamed(key):
            Bound(**{key: value})
    kinds = section.get("units", str)
    if kinds is not None and kind == "defense":
        raise section.mistake("units", "a defense says itself what it prunes", "leave it out")
    with section.blamed("units"):
        units = HEADS if kinds is None else units_of(kinds, "units")
    match, probes = _match(section, kind), read_probes(section)
    return Variation(tuple(own.settings()), drop, deeper, match, probes, units)


def _match(section: Section, kind: str) -> str | None:
    match = section.get("match", str)
    if match is None:
        return None
    if section.get(kind, str) != MATCHING:
        raise section.mistake("match", "only random heads are matched", 'defense = "random"')
    if "count" in section.section("fields").values:
        raise section.mistake("match", "count and match both give the number", "leave one out")
    return match
