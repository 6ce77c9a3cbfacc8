"""Removal for good: the weights of pruned units become zero."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from headsweep.model.anatomy import Anatomy
from headsweep.model.mask import HeadMask


def remove(anatomy: Anatomy, mask: HeadMask) -> None:
    """Set every weight that belongs to a pruned unit to zero, in place.

    Query, key and value rows with their biases and output columns. Where single query heads are
    the units, keys and values that several share go only when all of these are pruned. The output
    projection's bias belongs to no unit and stays. Zeroing both value and output is what keeps the
    unit at zero under training (with only the output zeroed, it comes back).
    """
    with torch.no_grad():
        for piece in pieces(anatomy, mask):
            piece.zero_()


@contextmanager
def zeroed(anatomy: Anatomy, mask: HeadMask) -> Iterator[None]:
    """Remove the pruned units, inside this context; their weights are copied and put back."""
    parts = pieces(anatomy, mask)
    before = [part.detach().clone() for part in parts]
    try:
        remove(anatomy, mask)
        yield
    finally:
        with torch.no_grad():
            for part, copy in zip(parts, before, strict=True):
                part.copy_(copy)


def pieces(anatomy: Anatomy, mask: HeadMask) -> list[Tensor]:
    """Return views of all weights that belong to pruned units."""
    return [
        block.of(index)
        for site, keep in zip(anatomy.sites, mask.rows, strict=True)
        for block in site.blocks
        for index in block.removed(keep)
    ]


def already_pruned(anatomy: Anatomy) -> HeadMask:
    """Return the mask of the units whose output (or down) weights are zero as loaded."""
    gone = []
    for site, part in zip(anatomy.sites, anatomy.layout.slices, strict=True):
        last = site.roles["down" if site.row.kind == "ffn" else "output"]
        gone += [part.start + i for i, live in enumerate(last.live()) if not live]
    return anatomy.layout.mask(gone)


def zero_parts(anatomy: Anatomy) -> dict[int, list[str]]:
    """Return of each unit which of its weights are zero throughout, by parameter name.

    Of every projection, not of the output alone: a head without its query, key or value rows has
    lost what it does as well. Biases are left out, since many are zero in a sound model.
    """
    names = {id(parameter): name for name, parameter in anatomy.model.named_parameters()}
    found: dict[int, list[str]] = {}
    for site, part in zip(anatomy.sites, anatomy.layout.slices, strict=True):
        for block in site.blocks:
            if block.parameter.dim() > 1:
                live = block.live().tolist()
                for unit in range(site.row.units):
                    if not live[unit // block.group]:
                        found.setdefault(part.start + unit, []).append(names[id(block.parameter)])
    return found


def left_of(anatomy: Anatomy, mask: HeadMask) -> list[str]:
    """Return the names of parameters in which a pruned unit still has a number that is not zero."""
    names = {id(parameter): name for name, parameter in anatomy.model.named_parameters()}
    return [
        names[id(block.parameter)]
        for site, keep in zip(anatomy.sites, mask.rows, strict=True)
        for block in site.blocks
        if block.live()[block.removed(keep)].any()
    ]
