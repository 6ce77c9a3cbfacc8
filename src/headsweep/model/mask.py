"""Units as plain numbers: how they lie in a model, and masks of them. True = keep."""

from __future__ import annotations

import json
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


@dataclass(frozen=True)
class Row:
    """One layer's units of one kind: plain numbers, no weights.

    ``group`` is how many consecutive units share a key/value group (1: none do); ``width`` is
    how many numbers a unit has at its gate.
    """

    kind: str  # "head" or "ffn"
    layer: int
    units: int
    group: int
    width: int


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
        """Return a unit's name, ``layer.head`` or ``layer.ffn.group``, all from 0."""
        index = self.row_of[unit]
        row, place = self.rows[index], unit - self.slices[index].start
        return f"{row.layer}.{place}" if row.kind == "head" else f"{row.layer}.ffn.{place}"

    def split(self, flat: Tensor) -> tuple[Tensor, ...]:
        """Cut the last axis, [..., unit], into one tensor a row."""
        return tuple(flat[..., part] for part in self.slices)

    def everything(self) -> HeadMask:
        """Return the mask that keeps every unit."""
        return self.mask(range(0))

    def mask(self, pruned: Iterable[int]) -> HeadMask:
        """Return the mask that prunes these units, given by flat number."""
        gone = set(pruned)
        kept: dict[str, list[tuple[bool, ...]]] = {"head": [], "ffn": []}
        for row, part in zip(self.rows, self.slices, strict=True):
            kept[row.kind].append(tuple(u not in gone for u in range(part.start, part.stop)))
        return HeadMask(heads=tuple(kept["head"]), ffn=tuple(kept["ffn"]))


@dataclass(frozen=True)
class HeadMask:
    """Which units stay: True = keep.

    ``heads`` is ``[layer][head]``; ``ffn`` is ``[layer][group]``, empty where FFNs are not touched.
    """

    heads: tuple[tuple[bool, ...], ...]
    ffn: tuple[tuple[bool, ...], ...] = ()

    @property
    def rows(self) -> tuple[tuple[bool, ...], ...]:
        """The rows in flat order: heads, then FFN groups."""
        return self.heads + self.ffn

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
        """The pruned heads as (layer, head); FFN groups are left out."""
        return tuple(
            (layer, head)
            for layer, row in enumerate(self.heads)
            for head, keep in enumerate(row)
            if not keep
        )

    @property
    def empties_a_row(self) -> bool:
        """True when a layer would be left without any head (or FFN group)."""
        return any(not any(row) for row in self.rows)

    @property
    def units(self) -> Units:
        """The units that the mask is about."""
        groups = len(self.ffn[0]) if self.ffn else None
        return Units(bool(self.heads), bool(self.ffn), groups)

    def fits(self, layout: Layout) -> bool:
        """Tell whether the mask has the shape of this layout."""
        return [len(row) for row in self.rows] == [row.units for row in layout.rows]

    def to_json(self) -> dict[str, Any]:
        """Return the versioned JSON form (1 = keep)."""
        form: dict[str, Any] = {"format": MASK_FORMAT, "heads": _bits(self.heads)}
        if self.ffn:
            form["ffn"] = _bits(self.ffn)
        return form

    @classmethod
    def from_json(cls, form: Mapping[str, Any] | str) -> HeadMask:
        """Read the JSON form; raise UserError when it is not one."""
        try:
            entries = json.loads(form) if isinstance(form, str) else form
            if entries["format"] != MASK_FORMAT:
                raise UserError(
                    f"a head mask of format '{entries['format']}'", f"this reads {MASK_FORMAT}"
                )
            return cls(_bools(entries["heads"]), _bools(entries.get("ffn", ())))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"not a head mask: {error}", f"expected {MASK_FORMAT}") from error


def _bits(rows: Sequence[Sequence[bool]]) -> list[list[int]]:
    return [[int(keep) for keep in row] for row in rows]


def _bools(rows: Sequence[Sequence[int]]) -> tuple[tuple[bool, ...], ...]:
    if any(keep not in (0, 1) for row in rows for keep in row):
        raise ValueError("every entry is 0 or 1")
    return tuple(tuple(bool(keep) for keep in row) for row in rows)


@dataclass(frozen=True)
@checked
class Units:
    """Which units to gate.

    Attributes:
        heads: the attention heads.
        ffn: groups of FFN neurons.
        ffn_groups: how many groups a layer; None: as many as it has heads, or the nearest number
            that divides its neurons; 0: every neuron is a group of its own.

    """

    heads: bool = True
    ffn: bool = False
    ffn_groups: int | None = None

    def __post_init__(self) -> None:
        if not (self.heads or self.ffn):
            raise UserError("no units to prune", "use heads, ffn, or heads,ffn")
        if self.ffn_groups is not None and self.ffn_groups < 0:
            raise UserError(f"{self.ffn_groups} FFN groups a layer")

    @property
    def names(self) -> str:
        """What the units are called."""
        kinds = ("heads",) * self.heads + ("FFN groups",) * self.ffn
        return " and ".join(kinds)


HEADS = Units()
KINDS = ("heads", "ffn")


def units_of(kinds: Any, where: str = "--units") -> Units:
    """Return the units that a text names, such as ``heads,ffn:12``; raises UserError."""
    if isinstance(kinds, Units):
        return kinds
    text: str = fitting(kinds, str, "units")
    asked = dict(part.strip().partition(":")[::2] for part in text.split(",") if part.strip())
    for part in asked:
        lookup(part, dict.fromkeys(KINDS), f"value of {where}")
    if asked.get("heads"):
        raise UserError(f"{where} {kinds}: heads have no groups", f"{where} heads,ffn:N")
    groups = asked.get("ffn")
    count = fitting(groups, int, f"{where}: the number of FFN groups") if groups else None
    return Units("heads" in asked, "ffn" in asked, count)
