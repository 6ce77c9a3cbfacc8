"""Leave out the work of pruned units: slices of the weights, lent to the model for a while.

A pruned unit's rows of query, key and value and its columns of the output projection (a neuron
group's rows of the up and columns of the down projections) are cut out of the projections, so
that the same ``forward`` computes the rest with smaller matrices. No module is copied or replaced:
a parameter is exchanged inside a context and put back. One projection of all three (GPT-2) loses
the places of a pruned head in each of its parts.

Where a layer counts its heads itself, the numbers that its family names are lowered with them; of
an argument that holds something for every head (MPNet's position bias) the layer reads its own.
What a family does not name is not guessed: whoever uses a cut model compares outputs before
relying on it (``fastpass``, ``healing``, ``compact``).

Grouped queries: a key/value group goes only as a whole; single pruned heads of a group that stays
are closed by their gate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from headsweep.model.anatomy import Anatomy, Block, Site
from headsweep.model.mask import HeadMask

PutBack = Callable[[bool], None]
"""Makes a module whole again; True: what was learnt meanwhile is copied into it."""


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

    def make(self) -> PutBack:
        """Give the module the smaller parameter, and return what puts the whole one back."""
        whole = self.parameter
        places = self.places.to(whole.device)
        part = whole.detach().index_select(self.axis, places)
        self._give(nn.Parameter(part, requires_grad=whole.requires_grad))

        def put_back(learnt: bool) -> None:
            if learnt:
                with torch.no_grad():
                    whole.index_copy_(self.axis, places, self.parameter.detach())
            self._give(whole)

        return put_back

    def _give(self, parameter: nn.Parameter) -> None:
        """Exchange the parameter; a projection's own numbers say how large it is."""
        setattr(self.module, self.name, parameter)
        if isinstance(self.module, nn.Linear):
            self.module.out_features, self.module.in_features = self.module.weight.shape
        elif isinstance(self.module, Conv1D):
            self.module.nx, self.module.nf = self.module.weight.shape


@dataclass(frozen=True)
class Lowered:
    """A number of a module's own that is lower where heads are cut out."""

    module: nn.Module
    name: str
    value: int

    def make(self) -> PutBack:
        """Lower the number, and return what raises it again."""
        before = getattr(self.module, self.name)
        setattr(self.module, self.name, self.value)
        return lambda _: setattr(self.module, self.name, before)


@dataclass(frozen=True)
class Read:
    """An argument of a module, [batch, head, ...], of which only some heads are read."""

    module: nn.Module
    name: str
    heads: Tensor  # [kept]

    def make(self) -> PutBack:
        """Let the module read those heads only, and return what lets it read all again."""
        index = [*signature(self.module.forward).parameters].index(self.name)
        read = partial(_read, name=self.name, index=index, heads=self.heads)
        handle = self.module.register_forward_pre_hook(read, with_kwargs=True)
        return lambda _: handle.remove()


def _read(
    _: nn.Module,
    args: tuple[Any, ...],
    named: dict[str, Any],
    name: str,
    index: int,
    heads: Tensor,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a module's arguments with one of them cut to some heads; a hook that pickles."""
    given = args[index] if index < len(args) else named.get(name)
    if given is None:
        return args, named
    part = given.index_select(1, heads.to(given.device))
    if index < len(args):
        return (*args[:index], part, *args[index + 1 :]), named
    return args, named | {name: part}


Change = Cut | Lowered | Read


def shares_kept(site: Site, keep: tuple[bool, ...]) -> list[int]:
    """Return the shares (units, or groups of units with common keys) of which a unit stays.

    A row without any keeps its first share, whose gate is closed.
    """
    group = site.row.group
    found = [i // group for i in range(0, len(keep), group) if any(keep[i : i + group])]
    return found or [0]


def cuts(anatomy: Anatomy, mask: HeadMask) -> list[Change]:
    """Return what is to be changed for a mask; nothing where no share went as a whole."""
    owners = {
        id(parameter): (module, name)
        for module in anatomy.model.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None
    }
    made: list[Change] = []
    kept: dict[tuple[int, int], tuple[Block, Tensor]] = {}  # by parameter and axis: [place], bool
    for site, keep in zip(anatomy.sites, mask.rows, strict=True):
        shares, total = shares_kept(site, keep), site.row.units // site.row.group
        if len(shares) == total:
            continue
        gone = sorted({*range(total)} - {*shares})
        for block in site.blocks:
            every = torch.ones(block.parameter.shape[block.axis], dtype=torch.bool)
            _, stays = kept.setdefault((id(block.parameter), block.axis), (block, every))
            stays[_places(site, block, gone)] = False
        made += _told(site, shares, total)
    for block, stays in kept.values():
        places = stays.nonzero().flatten()
        made.append(Cut(*owners[id(block.parameter)], block.axis, places))
    return made


def _places(site: Site, block: Block, shares: Sequence[int]) -> Tensor:
    """Return the places of a block's numbers that belong to these shares."""
    size = site.row.group // block.group
    return block.places([share * size + i for share in shares for i in range(size)])


def _told(site: Site, shares: Sequence[int], total: int) -> Iterator[Change]:
    """Yield what has to be changed so that a layer knows which shares it has left, if anything."""
    for module, name in site.counts:
        number = getattr(module, name)
        yield Lowered(module, name, number * len(shares) // total)
    size = site.row.group * site.row.queries  # heads of a share, side by side
    heads = torch.tensor([share * size + i for share in shares for i in range(size)])
    for module, name in site.biases:
        yield Read(module, name, heads)


def gates_left(anatomy: Anatomy, mask: HeadMask) -> list[tuple[nn.Module, Tensor]]:
    """Return gates that stay closed in a cut model: [kept unit * width] by gate module."""
    found = []
    for site, keep in zip(anatomy.sites, mask.rows, strict=True):
        group = site.row.group
        left = [keep[i * group + j] for i in shares_kept(site, keep) for j in range(group)]
        if not all(left):
            wide = torch.tensor(left, dtype=torch.float32).repeat_interleave(site.row.width)
            found.append((site.gate, wide.to(site.device)))
    return found


@contextmanager
def cut(made: Sequence[Change], write_back: bool = False) -> Iterator[None]:
    """Change the model, and make it whole again afterwards.

    Args:
        made: what to change, by ``cuts``.
        write_back: copy what was learnt meanwhile into the whole parameters.

    """
    with ExitStack() as stack:
        for one in made:
            stack.callback(one.make(), write_back)
        yield
