"""Heads: where they are in a model, gates that close them, masks, and removal for good.

A *unit* is an attention head or, where asked for, a group of FFN neurons. In models with grouped
queries (Ainslie et al. 2023) it is a key/value group: a key/value head with all query heads that
share it, which lie side by side at attention's output. So what goes takes its keys and values with
it. Asked for single query heads (``Units.queries``), or where a layer has but one key/value head,
without which nothing of attention would be left, the unit is the query head; there keys and values
go once all query heads of theirs have gone.

A *gate* multiplies the unit's slice at the input of the projection that its output goes through
(attention's output projection; the FFN's down projection). This works on every architecture and
under every attention backend, and a closed gate equals zeroed weights to float rounding.
transformers 5 has neither ``prune_heads`` nor a working ``head_mask``, so nothing here relies on
them.

Units are numbered flat: first the heads, layer by layer, then the FFN groups, layer by layer.
A *row* is one layer's heads or one layer's FFN groups.

Source: gates as in Michel et al. 2019 (*Are Sixteen Heads Really Better than One?*, section 2.3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from headsweep.errors import UserError
from headsweep.model.families import Adapter, adapter_for
from headsweep.model.mask import HEADS, Layout, Row, Units


@dataclass(frozen=True)
class Block:
    """A parameter that holds ``width`` numbers a unit along one axis, from each of ``starts`` on.

    ``group`` consecutive units share a start (keys and values of grouped queries).
    """

    parameter: nn.Parameter
    axis: int
    starts: tuple[int, ...]
    width: int
    group: int = 1

    def of(self, index: int) -> Tensor:
        """Return the view of block ``index``, counted in units or, where shared, in groups."""
        return self.within(self.parameter, index)

    def within(self, tensor: Tensor, index: int) -> Tensor:
        """Return the view of block ``index`` in a tensor of the parameter's shape."""
        return tensor.narrow(self.axis, self.starts[index], self.width)

    def places(self, indices: Sequence[int]) -> Tensor:
        """Return the flat places of these blocks along the axis, [block * width]."""
        starts = torch.tensor([self.starts[index] for index in indices])
        return (starts[:, None] + torch.arange(self.width)).flatten()

    def live(self) -> Tensor:
        """Tell of every block whether anything in it is not zero, [block]."""
        count = len(self.starts)
        places = self.places(range(count)).to(self.parameter.device)
        found = self.parameter.detach().index_select(self.axis, places)
        return (found.movedim(self.axis, 0).reshape(count, -1) != 0).any(-1)

    def removed(self, keep: Sequence[bool]) -> list[int]:
        """Return the blocks all of whose units are pruned."""
        shares = range(0, len(keep), self.group)
        return [i // self.group for i in shares if not any(keep[i : i + self.group])]


@dataclass(frozen=True)
class Site:
    """One row of units in a model: its gate's module and the weights that belong to it."""

    row: Row
    gate: nn.Module
    blocks: tuple[Block, ...]
    roles: Mapping[str, Block]  # weights only, by "query", "key", "value", "output", "down"
    counts: tuple[tuple[nn.Module, str], ...] = ()  # numbers that go with its heads, by name
    biases: tuple[tuple[nn.Module, str], ...] = ()  # arguments, [batch, head, ...], by name

    @property
    def device(self) -> torch.device:
        """Where its layer lies: a model may be spread over several devices."""
        return self.blocks[0].parameter.device


@dataclass(frozen=True)
class Anatomy:
    """A model with its units found."""

    model: PreTrainedModel
    adapter: Adapter
    sites: tuple[Site, ...]
    notes: tuple[str, ...] = ()  # what was decided beside what was asked for

    @cached_property
    def layout(self) -> Layout:
        """The units as plain numbers."""
        return Layout(tuple(site.row for site in self.sites))

    @property
    def last(self) -> int | None:
        """The number of padding, where the model reads the last token; else None.

        It is the configuration's, which is what transformers' own classifiers go by.
        """
        if not self.adapter.reads_last:
            return None
        number = self.model.config.get_text_config().pad_token_id
        return -1 if number is None else int(number)


def locate(model: PreTrainedModel, adapter: Adapter | None = None, units: Units = HEADS) -> Anatomy:
    """Find the units of a model: its heads, its FFN neurons, or both.

    Raises:
        UserError: unknown architecture, a path that leads nowhere, or shapes that are not
            those of heads.

    """
    adapter = adapter or adapter_for(model.config.model_type)
    _fit(model)
    layers = _layers(model, adapter)
    sites: list[Site] = []
    notes: tuple[str, ...] = ()
    if units.heads:
        counts = [_counts(layer, i, model, adapter) for i, layer in enumerate(layers)]
        kind, notes = _kind(counts, units.queries)
        sites += [
            _attention(layer, i, adapter, own, kind)
            for i, (layer, own) in enumerate(zip(layers, counts, strict=True))
        ]
        notes += _kept(adapter, model)
    if units.ffn:
        found, more = _all_ffn(layers, model, adapter, units.ffn_groups)
        sites, notes = sites + found, notes + more
    _check_apart(sites)
    return Anatomy(model, adapter, tuple(sites), notes)


def _fit(model: PreTrainedModel) -> None:
    """Make a model like the others whose architecture has no place for a gate."""
    if model.config.model_type == "xlnet":
        from headsweep.model.xlnet import fit  # loads transformers' XLNet

        fit(model)


def _layers(model: PreTrainedModel, adapter: Adapter) -> list[nn.Module]:
    """Return the layers that a path leads to, lowest first; ``*``: in every entry of a list."""
    found: list[nn.Module] = [model.base_model]
    for part in adapter.layers.split(".*"):
        lists = [_find_list(root, part.lstrip("."), adapter.layers) for root in found]
        found = [layer for layers in lists for layer in layers]
    return found


def _find_list(root: nn.Module, path: str, whole: str) -> nn.ModuleList:
    layers = _find(root, path, "the list of layers")
    if not isinstance(layers, nn.ModuleList):
        raise UserError(f"'{whole}' is no list of layers", "see docs/guide.md, adapters")
    return layers


def _kept(adapter: Adapter, model: PreTrainedModel) -> tuple[str, ...]:
    """Return notes of what pruning heads leaves as it is, where it is not only biases."""
    notes = []
    if adapter.stay:
        notes.append(
            f"what computes the {' and '.join(adapter.stay)} of a pruned head stays, since this "
            "architecture mixes it over all heads: the value and the output go"
        )
    if getattr(model.config, "is_encoder_decoder", False):
        notes.append(f"of the two stacks of layers, only '{adapter.layers}' is pruned")
    return tuple(notes)


def _heads(layer: nn.Module, model: PreTrainedModel, adapter: Adapter) -> int:
    """Return how many heads a layer has."""
    heads = _number(layer, adapter.heads, model, "num_attention_heads")
    if isinstance(heads, int) and heads > 0:
        return heads
    raise UserError(
        f"{type(model.config).__name__} does not say how many heads every layer has "
        f"(num_attention_heads is {heads!r})",
        "only models with the same number of attention heads in every layer are supported",
    )


def _number(layer: nn.Module, path: str, model: PreTrainedModel, name: str) -> Any:
    """Return a number of a layer's own where a path leads to it, else the configuration's."""
    if not path:
        return getattr(model.config, name, None)
    owner, _, last = path.rpartition(".")
    return getattr(_find(layer, owner, f"the module that has {last}"), last, None)


def _all_ffn(
    layers: Sequence[nn.Module], model: PreTrainedModel, adapter: Adapter, groups: int | None
) -> tuple[list[Site], tuple[str, ...]]:
    """Return the sites of all FFNs, and notes of layers with other than as many groups as heads."""
    if not (adapter.up and adapter.down):
        raise UserError(
            f"'{model.config.model_type}' has no FFN neurons that can be pruned: they lie in "
            "several experts, or outside the layers",
            "use --units heads",
        )
    sites, notes = [], []
    for index, layer in enumerate(layers):
        heads = _heads(layer, model, adapter)
        weight, _, into = next(_down(layer, adapter))
        count = near_divisors(weight.shape[into], heads)[0] if groups is None else groups
        if groups is None and count != heads:
            notes.append(
                f"{count} FFN groups a layer: {weight.shape[into]} neurons do not divide into "
                f"as many groups as there are heads, {heads}"
            )
        sites.append(_ffn(layer, index, adapter, count))
    return sites, tuple(dict.fromkeys(notes))


def near_divisors(number: int, wanted: int) -> list[int]:
    """Return the divisors of a number, the nearest to what is wanted first; ties: the lower."""
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    return sorted(divisors, key=lambda d: (abs(d - wanted), d))


def _check_apart(sites: Sequence[Site]) -> None:
    """Check that no two rows are of the same weights, so that each can be pruned by itself."""
    owner: dict[int, Row] = {}
    for site in sites:
        weight = id(site.roles["down" if site.row.kind == "ffn" else "output"].parameter)
        first = owner.setdefault(weight, site.row)
        if first is not site.row:
            raise UserError(
                f"layers {first.layer} and {site.row.layer} share their weights, so that one "
                "cannot be pruned without the other",
                "name each layer that has weights of its own once (docs/guide.md, adapters)",
            )


def _find(root: nn.Module, path: str, what: str) -> nn.Module:
    try:
        return root.get_submodule(path)
    except AttributeError as error:
        raise UserError(
            f"{type(root).__name__} has no '{path}', where {what} should be",
            "the adapter does not fit this architecture: describe it (docs/guide.md, adapters)",
        ) from error


Parameters = Iterator[tuple[nn.Parameter, int, int]]
"""The parameters of a projection, each with the axes of its (output, input) features."""


def _projection(layer: nn.Module, path: str, what: str) -> Parameters:
    """Yield the parameters of the projection that a path leads to, or the one that it is itself."""
    bare = _bare(layer, path)
    if bare is None:
        yield from _parameters(_find(layer, path, what))
    else:
        yield bare


def _bare(layer: nn.Module, path: str) -> tuple[nn.Parameter, int, int] | None:
    """Return a parameter that is no module's weight, or None: [head, ...] or [input, head, width].

    Its outputs and its inputs, whichever are the heads', lie along the same axis.
    """
    owner, _, name = path.rpartition(".")
    module = dict(layer.named_modules()).get(owner)
    found = None if module is None else module._parameters.get(name)
    if found is None:
        return None
    return found, found.dim() // 3, found.dim() // 3


def _parameters(module: nn.Module) -> Parameters:
    """Yield a module's parameters with the axes of its (output, input) features."""
    weight = getattr(module, "weight", None)
    if not isinstance(module, nn.Linear | Conv1D) or not isinstance(weight, nn.Parameter):
        raise UserError(
            f"the adapter points at a {type(module).__name__}, which is no Linear projection",
            "name the projections themselves (docs/guide.md, adapters)",
        )
    yield (weight, 1, 0) if isinstance(module, Conv1D) else (weight, 0, 1)
    if isinstance(module.bias, nn.Parameter):
        yield module.bias, 0, -1  # a bias has no input axis


def _counts(
    layer: nn.Module, index: int, model: PreTrainedModel, adapter: Adapter
) -> tuple[int, int]:
    """Return how many query heads and how many key/value heads a layer has."""
    heads = _heads(layer, model, adapter)
    shared = int(_number(layer, adapter.groups, model, "num_key_value_heads") or heads)
    weight, _, into = next(_output(layer, adapter))
    if shared < 1 or weight.shape[into] % heads or heads % shared:
        raise UserError(
            f"layer {index}: {weight.shape[into]} inputs of '{adapter.output}' do not divide "
            f"into {heads} heads over {shared} key/value heads",
            "this layer is not plain multi-head attention; its heads cannot be told apart",
        )
    return heads, shared


def _kind(counts: Sequence[tuple[int, int]], single: bool) -> tuple[str, tuple[str, ...]]:
    """Return the kind of unit of attention of a whole model, and a note where it is not as asked.

    Args:
        counts: query heads and key/value heads, by layer.
        single: every query head is to be a unit of its own.

    """
    if single or all(heads == shared for heads, shared in counts):
        return "head", ()
    if all(shared > 1 for _, shared in counts):
        return "group", ()
    return "head", (
        "all query heads of a layer share one key/value head, which therefore stays: single query "
        "heads are the units",
    )


def _output(layer: nn.Module, adapter: Adapter) -> Parameters:
    return _projection(layer, adapter.output, "the attention output projection")


def _down(layer: nn.Module, adapter: Adapter) -> Parameters:
    return _projection(layer, adapter.down, "the FFN's down projection")


def gate_of(layer: nn.Module, adapter: Adapter) -> nn.Module:
    """Return the module of a layer at whose input the gates of its heads are."""
    if adapter.gate:
        return _find(layer, adapter.gate, "the gate")
    if _bare(layer, adapter.output) is not None:
        raise UserError(
            f"'{adapter.output}' is a parameter of {type(layer).__name__}, no module, so that no "
            "gate can be put before it",
            "name as gate a module that what the heads give goes into (docs/guide.md, adapters)",
        )
    return _find(layer, adapter.output, "the attention output projection")


def _attention(
    layer: nn.Module, index: int, adapter: Adapter, counts: tuple[int, int], kind: str
) -> Site:
    heads, shared = counts
    queries = heads // shared if kind == "group" else 1  # of a unit
    units = heads // queries
    weight, _, into = next(_output(layer, adapter))
    blocks: list[Block] = []
    roles: dict[str, Block] = {}
    for role, (path, slots, count) in _slots(adapter, heads, shared).items():
        for parameter, out, _ in _projection(layer, path, f"the {role} projection"):
            width, rest = divmod(parameter.shape[out], count)
            _expect(not rest, index, path)
            joined = queries if role == "query" else 1  # slots that lie side by side
            starts = tuple(slot * width for slot in slots[::joined])
            block = Block(parameter, out, starts, width * joined, units // len(starts))
            roles.setdefault(role, block)
            blocks += () if role in adapter.stay else (block,)
    there = {name for name, _ in (*layer.named_modules(), *layer.named_parameters())}
    for path in (path for path in adapter.also if path in there):
        for parameter, out, _ in _projection(layer, path, "a projection"):
            width, rest = divmod(parameter.shape[out], units)
            _expect(not rest, index, path)
            blocks.append(Block(parameter, out, _row(units, width), width))
    width = roles["value"].width * queries
    _expect(weight.shape[into] >= units * width, index, adapter.output)
    roles["output"] = Block(weight, into, _row(units, width), width)
    numbers = width * (weight.shape[2] if weight.dim() > 2 else 1)  # [input, head, width]
    row = Row(kind, index, units, units // shared, numbers, queries)
    return Site(
        row,
        gate_of(layer, adapter),
        (*blocks, roles["output"]),
        roles,
        tuple(_owned(layer, adapter.counts, _is_count)),
        tuple(_owned(layer, adapter.biases, _is_argument)),
    )


def _owned(
    layer: nn.Module, paths: Sequence[str], fits: Callable[[nn.Module, str], bool]
) -> Iterator[tuple[nn.Module, str]]:
    """Yield the modules that paths lead to, with the last name of each, where they have it."""
    there = dict(layer.named_modules())
    for path in paths:
        owner, _, name = path.rpartition(".")
        if owner in there and fits(there[owner], name):
            yield there[owner], name


def _is_count(module: nn.Module, name: str) -> bool:
    number = vars(module).get(name)
    return isinstance(number, int) and not isinstance(number, bool)


def _is_argument(module: nn.Module, name: str) -> bool:
    return name in signature(module.forward).parameters


def _row(count: int, width: int, offset: int = 0) -> tuple[int, ...]:
    """Return the starts of blocks one after the other."""
    return tuple(offset + i * width for i in range(count))


def _slots(
    adapter: Adapter, heads: int, shared: int
) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """Return of each role its projection's path, the slots of its blocks there, and of how many.

    A slot is as wide as a head's rows.
    """
    group = heads // shared
    queries, keys = range(heads), range(shared)
    paths = {adapter.query, adapter.key, adapter.value}
    if len(paths) == 2:
        raise UserError(
            f"of query, key and value two are at one place: {', '.join(sorted(paths))}",
            "one path for each, or one for all three (docs/guide.md, adapters)",
        )
    if len(paths) == 3:
        return {
            "query": (adapter.query, tuple(queries), heads),
            "key": (adapter.key, tuple(keys), shared),
            "value": (adapter.value, tuple(keys), shared),
        }
    path, count = adapter.value, heads + 2 * shared
    if not adapter.interleaved:
        return {
            "query": (path, tuple(queries), count),
            "key": (path, tuple(heads + key for key in keys), count),
            "value": (path, tuple(heads + shared + key for key in keys), count),
        }
    return {  # of each group: its queries, its key, its value
        "query": (path, tuple(q // group * (group + 2) + q % group for q in queries), count),
        "key": (path, tuple(key * (group + 2) + group for key in keys), count),
        "value": (path, tuple(key * (group + 2) + group + 1 for key in keys), count),
    }


def ups(layer: nn.Module, adapter: Adapter) -> list[nn.Module]:
    """Return the FFN up projections that a layer has, of those that the adapter names."""
    there = dict(layer.named_modules())
    return [there[path] for path in adapter.up if path in there]


def _ffn(layer: nn.Module, index: int, adapter: Adapter, groups: int) -> Site:
    weight, _, into = next(_down(layer, adapter))
    neurons = weight.shape[into]
    width, rest = divmod(neurons, groups or neurons)
    if rest or not width:
        near = sorted(near_divisors(neurons, groups)[:3])
        raise UserError(
            f"layer {index}: {neurons} FFN neurons do not divide into {groups} groups",
            f"near numbers that divide them: {', '.join(map(str, near))}",
        )
    if not ups(layer, adapter):
        _find(layer, adapter.up[0], "an FFN up projection")
    blocks = []
    for module in ups(layer, adapter):
        for parameter, out, _ in _parameters(module):
            size = parameter.shape[out]
            _expect(size in (neurons, 2 * neurons), index, ", ".join(adapter.up))
            for offset in range(0, size, neurons):  # a gate and the neurons, or these alone
                starts = _row(neurons // width, width, offset)
                blocks.append(Block(parameter, out, starts, width))
    roles = {"down": Block(weight, into, _row(neurons // width, width), width)}
    row, down = Row("ffn", index, neurons // width, 1, width), layer.get_submodule(adapter.down)
    return Site(row, down, (*blocks, roles["down"]), roles)


def _expect(fits: bool, layer: int, path: str) -> None:
    if not fits:
        raise UserError(
            f"layer {layer}: the shape of '{path}' does not fit the number of heads",
            "describe the architecture with an adapter of its own (docs/guide.md, adapters)",
        )


def layers_of(anatomy: Anatomy) -> list[nn.Module]:
    """Return the layers of a model, lowest first."""
    return _layers(anatomy.model, anatomy.adapter)
