"""Leave out the work of pruned units: slices of the weights, lent to the model for a while.

A pruned unit's rows of query, key and value and its columns of the output projection (a neuron
group's rows of the up and columns of the down projections) are cut out of the Linear layers, so
that the same ``forward`` computes the rest with smaller matrices. No module is copied or
replaced: the parameter of a Linear is exchanged inside a context and put back.

Grouped queries: a key/value group goes only as a whole; single pruned heads of a group that stays
are closed by their gate. Fused projections (GPT-2) and models that count their heads themselves
(DeBERTa, MPNet) cannot be cut this way: ``cuts`` refuses the first, and whoever uses the others
compares outputs before relying on it (``fastpass``, ``healing``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from headsweep.model.anatomy import Anatomy, Block, Site
from headsweep.model.mask import HeadMask


@dataclass(frozen=True)
class Cut:
    """A parameter of a module of which only some places along an axis are used."""

    module: nn.Module
    name: str
    axis: int
    places: Tensor  # [kept], flat places along the axis

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter as it is in the module now."""
        found = getattr(self.module, self.name)
        assert isinstance(found, nn.Parameter)
        return found


def shares_kept(site: Site, keep: tuple[bool, ...]) -> list[int]:
    """Return the shares (units, or groups of units with common keys) of which a unit stays.

    A row without any keeps its first share, whose gate is closed.
    """
    group = site.row.group
    found = [i // group for i in range(0, len(keep), group) if any(keep[i : i + group])]
    return found or [0]


def cuts(anatomy: Anatomy, mask: HeadMask) -> list[Cut] | None:
    """Return what to cut for a mask; None where a projection cannot be cut."""
    owners = {
        id(parameter): (module, name)
        for module in anatomy.model.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None
    }
    made = []
    for site, keep in zip(anatomy.sites, mask.rows, strict=True):
        shares = shares_kept(site, keep)
        if len(shares) * site.row.group == site.row.units:
            continue
        for block in site.blocks:
            module, name = owners[id(block.parameter)]
            if not isinstance(module, nn.Linear) or not block.whole:
                return None
            made.append(Cut(module, name, block.axis, _places(site, block, shares)))
    return made


def _places(site: Site, block: Block, shares: list[int]) -> Tensor:
    """Return the places of a block's numbers that belong to these shares."""
    size = site.row.group // block.group
    return block.places([share * size + i for share in shares for i in range(size)])


def gates_left(anatomy: Anatomy, mask: HeadMask) -> list[tuple[nn.Module, Tensor]]:
    """Return gates that stay closed in a cut model: [kept unit * width] by gate module."""
    found = []
    for site, keep in zip(anatomy.sites, mask.rows, strict=True):
        group = site.row.group
        left = [keep[i * group + j] for i in shares_kept(site, keep) for j in range(group)]
        if not all(left):
            wide = torch.tensor(left, dtype=torch.float32).repeat_interleave(site.row.width)
            found.append((site.gate, wide.to(anatomy.model.device)))
    return found


@contextmanager
def cut(made: list[Cut], write_back: bool = False) -> Iterator[None]:
    """Lend the model its smaller parameters; put the whole ones back afterwards.

    Args:
        made: what to cut, by ``cuts``.
        write_back: copy what was learnt meanwhile into the whole parameters.

    """
    before = [one.parameter for one in made]
    try:
        with torch.no_grad():
            for one, whole in zip(made, before, strict=True):
                part = whole.index_select(one.axis, one.places.to(whole.device))
                smaller = nn.Parameter(part, requires_grad=whole.requires_grad)
                setattr(one.module, one.name, smaller)
        yield
    finally:
        with torch.no_grad():
            for one, whole in zip(made, before, strict=True):
                if write_back:
                    places = one.places.to(whole.device)
                    whole.index_copy_(one.axis, places, one.parameter.detach())
                setattr(one.module, one.name, whole)
