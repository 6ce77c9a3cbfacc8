"""Units as plain numbers: how they lie in a model, and masks of them. True = keep."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from headsweep.errors import UserError, lookup
from headsweep.settings import checked, fitting

if TYPE_CHECKING:
    from torch import Tensor

MASK_FORMAT = "headsweep.head-mask/1"
GROUP_FORMAT = "headsweep.head-mask/2"
ATTENTION = {MASK_FORMAT: "heads", GROUP_FORMAT: "groups"}
"""Which units of attention a mask of each format holds, as the key of its JSON form."""
KEYS = {"head": "heads", "group": "groups", "ffn": "ffn"}
"""The key of each kind of unit in the JSON form of a mask, in the flat order of kinds."""
NAMES = {"head": "head", "group": "key/value group", "ffn": "FFN group"}
"""What one unit of each kind is called; an s makes the plural."""
SHORT = {"head": "heads", "group": "kv", "ffn": "ffn"}
"""What begins a line of a small picture."""


Rows = tuple[tuple[bool, ...], ...]
"""Fates of units, ``[layer][unit]``: True = keep."""


@dataclass(frozen=True)
class Row:
    """One layer's units of one kind: plain numbers, no weights.

    Attributes:
        kind: ``head``, a query head; ``group``, a key/value head with all query heads that share
            it; ``ffn``, a group of FFN neurons.
        layer: the layer's number.
        units: how many there are.
        group: how many consecutive units share a key/value head (1: none do).
        width: how many numbers a unit has at its gate.
        queries: how many query heads a unit has.

    """

    kind: str
    layer: int
    units: int
    group: int
    width: int
    queries: int = 1


@dataclass(frozen=True)
class Layout:
    """The units of a model in their flat order."""

    rows: tuple[Row, ...]

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """The flat range of each row."""
        ends = list(accumulate(row.units for row in self.rows))
        return tuple(slice(end - row.units, end) for row, end in zip(self.rows, ends, strict=True))

    @property
    def units(self) -> int:
        """How many units there are."""
        return sum(row.units for row in self.rows)

    @cached_property
    def row_of(self) -> tuple[int, ...]:
        """The row of each unit."""
        return tuple(i for i, row in enumerate(self.rows) for _ in range(row.units))

    def name(self, unit: int) -> str:
        """Return a unit's name, from 0: ``layer.head``, ``layer.kv.group``, ``layer.ffn.group``."""
        index = self.row_of[unit]
        row, place = self.rows[index], unit - self.slices[index].start
        kind = "" if row.kind == "head" else f"{SHORT[row.kind]}."
        return f"{row.layer}.{kind}{place}"

    def split(self, flat: Tensor) -> tuple[Tensor, ...]:
        """Cut the last axis, [..., unit], into one tensor a row."""
        return tuple(flat[..., part] for part in self.slices)

    def everything(self) -> HeadMask:
        """Return the mask that keeps every unit."""
        return self.mask(range(0))

    def mask(self, pruned: Iterable[int]) -> HeadMask:
        """Return the mask that prunes these units, given by flat number, of Python or an array.

        Raises:
            UserError: one is no number, or no unit's.

        """
        try:
            gone = {operator.index(unit) for unit in pruned}
        except (TypeError, ValueError) as error:
            raise UserError(f"a unit is given by its flat number: {error}") from error
        if strange := gone - set(range(self.units)):
            raise UserError(f"unit {min(strange)}: the model has {self.units}, numbered from 0")
        kept: dict[str, Rows] = {}
        for row, part in zip(self.rows, self.slices, strict=True):
            fates = tuple(u not in gone for u in range(part.start, part.stop))
            kept[row.kind] = (*kept.get(row.kind, ()), fates)
        return HeadMask.of(kept)

    def per_query(self, flat: Tensor) -> list[Tensor]:
        """Return what is known of units of attention for each query head, [layer][query head]."""
        rows = zip(self.rows, self.split(flat), strict=True)
        return [part.repeat_interleave(row.queries) for row, part in rows if row.kind != "ffn"]


@dataclass(frozen=True)
class HeadMask:
    """Which units stay: True = keep.

    Attributes:
        heads: ``[layer][query head]``; empty where key/value groups are the units.
        ffn: ``[layer][FFN group]``; empty where FFNs are not touched.
        groups: ``[layer][key/value group]``; empty where query heads are the units.

    """

    heads: Rows
    ffn: Rows = ()
    groups: Rows = ()

    @classmethod
    def of(cls, kinds: Mapping[str, Rows]) -> HeadMask:
        """Return the mask with these rows by kind.

        Raises:
            UserError: attention is counted in two ways at once.

        """
        if kinds.get("head") and kinds.get("group"):
            raise UserError(
                "a head mask of both query heads and key/value groups", "a mask holds one of them"
            )
        return cls(**{KEYS[kind]: rows for kind, rows in ({"head": ()} | dict(kinds)).items()})

    @property
    def kinds(self) -> dict[str, Rows]:
        """The rows by kind of unit, in flat order: attention's, then the FFNs'."""
        found = {kind: getattr(self, key) for kind, key in KEYS.items()}
        return {kind: rows for kind, rows in found.items() if rows}

    @property
    def rows(self) -> Rows:
        """The rows in flat order."""
        return self.heads + self.groups + self.ffn

    @property
    def names(self) -> str:
        """What the units are called, as ``heads and FFN groups``."""
        return " and ".join(f"{NAMES[kind]}s" for kind in self.kinds)

    @property
    def flat(self) -> tuple[bool, ...]:
        """Every unit's fate in flat order."""
        return tuple(keep for row in self.rows for keep in row)

    @property
    def pruned(self) -> tuple[int, ...]:
        """The flat numbers of the pruned units."""
        return tuple(unit for unit, keep in enumerate(self.flat) if not keep)

    @property
    def pruned_heads(self) -> tuple[tuple[int, int], ...]:
        """The pruned heads as (layer, head), where heads are the units; both from 0."""
        return _pruned(self.heads)

    @property
    def pruned_groups(self) -> tuple[tuple[int, int], ...]:
        """The pruned key/value groups as (layer, group), where they are the units; both from 0."""
        return _pruned(self.groups)

    @property
    def empties_a_row(self) -> bool:
        """True when a layer would be left without any head (or FFN group)."""
        return any(not any(row) for row in self.rows)

    @property
    def units(self) -> Units:
        """The units that the mask is about."""
        groups = len(self.ffn[0]) if self.ffn else None
        return Units(bool(self.heads or self.groups), bool(self.ffn), groups, bool(self.heads))

    def fits(self, layout: Layout) -> bool:
        """Tell whether the mask has the units of this layout, in kind and number."""
        own = [(kind, len(row)) for kind, rows in self.kinds.items() for row in rows]
        return own == [(row.kind, row.units) for row in layout.rows]

    def to_json(self) -> dict[str, Any]:
        """Return the versioned JSON form (1 = keep): format 1 holds heads, format 2 groups."""
        form: dict[str, Any] = {"format": GROUP_FORMAT if self.groups else MASK_FORMAT}
        form[ATTENTION[form["format"]]] = _bits(self.groups or self.heads)
        if self.ffn:
            form["ffn"] = _bits(self.ffn)
        return form

    @classmethod
    def from_json(cls, form: Mapping[str, Any] | str) -> HeadMask:
        """Read the JSON form; raise UserError when it is not one."""
        try:
            entries = json.loads(form) if isinstance(form, str) else form
            if entries["format"] not in ATTENTION:
                raise UserError(
                    f"a head mask of format '{entries['format']}'", f"this reads {READ}"
                )
            entries[ATTENTION[entries["format"]]]  # which must be there, if only as an empty list
            kinds = {kind: _bools(entries.get(key, ())) for kind, key in KEYS.items()}
            mask = cls.of(kinds)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"not a head mask: {error}", f"expected {READ}") from error
        if mask.groups and entries["format"] != GROUP_FORMAT:
            raise UserError(
                f"a head mask of {MASK_FORMAT} with groups", f"those are {GROUP_FORMAT}"
            )
        return mask


READ = " or ".join(ATTENTION)


def rows_by_kind(form: Mapping[str, Any]) -> dict[str, list[list[int]]]:
    """Return the rows of a mask's JSON form by kind of unit, in flat order; those it has."""
    return {kind: form[key] for kind, key in KEYS.items() if form.get(key)}


def _pruned(rows: Rows) -> tuple[tuple[int, int], ...]:
    return tuple(
        (layer, unit) for layer, row in enumerate(rows) for unit, keep in enumerate(row) if not keep
    )


def _bits(rows: Sequence[Sequence[bool]]) -> list[list[int]]:
    return [[int(keep) for keep in row] for row in rows]


def _bools(rows: Sequence[Sequence[int]]) -> Rows:
    if any(keep not in (0, 1) for row in rows for keep in row):
        raise ValueError("every entry is 0 or 1")
    return tuple(tuple(bool(keep) for keep in row) for row in rows)


@dataclass(frozen=True)
@checked
class Units:
    """Which units to gate.

    Attributes:
        heads: the attention heads. Where several query heads share a key/value head (grouped
            queries), they are one unit with it.
        ffn: groups of FFN neurons.
        ffn_groups: how many groups a layer; None: as many as it has heads, or the nearest number
            that divides its neurons; 0: every neuron is a group of its own.
        queries: every query head is a unit of its own, also where several share a key/value head.

    """

    heads: bool = True
    ffn: bool = False
    ffn_groups: int | None = None
    queries: bool = False

    def __post_init__(self) -> None:
        if not (self.heads or self.ffn):
            raise UserError("no units to prune", "use heads, ffn, or heads,ffn")
        if self.ffn_groups is not None and self.ffn_groups < 0:
            raise UserError(f"{self.ffn_groups} FFN groups a layer")


HEADS = Units()
QUERIES = Units(queries=True)
KINDS = ("heads", "queries", "ffn")


def units_of(kinds: Any, where: str = "--units") -> Units:
    """Return the units that a text names, such as ``heads,ffn:12``; raises UserError."""
    if isinstance(kinds, Units):
        return kinds
    text: str = fitting(kinds, str, "units")
    asked = dict(part.strip().partition(":")[::2] for part in text.split(",") if part.strip())
    for part in asked:
        lookup(part, dict.fromkeys(KINDS), f"value of {where}")
    if asked.get("heads") or asked.get("queries"):
        raise UserError(f"{where} {kinds}: heads have no groups", f"{where} heads,ffn:N")
    if {"heads", "queries"} <= {*asked}:
        raise UserError(
            f"{where} {kinds}: heads and single query heads are two ways to count the same",
            "leave one out",
        )
    groups = asked.get("ffn")
    count = fitting(groups, int, f"{where}: the number of FFN groups") if groups else None
    return Units(bool({"heads", "queries"} & {*asked}), "ffn" in asked, count, "queries" in asked)
