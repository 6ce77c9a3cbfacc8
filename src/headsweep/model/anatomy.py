"""Heads: where they are in a model, gates that close them, masks, and removal for good.

A *unit* is a query head or, where asked for, a group of FFN neurons. A *gate* multiplies the
unit's slice at the input of the projection that its output goes through (attention's output
projection; the FFN's down projection). This works on every architecture and under every
attention backend, and a closed gate equals zeroed weights to float rounding. transformers 5
has neither ``prune_heads`` nor a working ``head_mask``, so nothing here relies on them.

Units are numbered flat: first the heads, layer by layer, then the FFN groups, layer by layer.
A *row* is one layer's heads or one layer's FFN groups.

Sources: gates as in Michel et al. 2019 (*Are Sixteen Heads Really Better than One?*, section
2.3). Grouped queries (Ainslie et al. 2023): the unit is the query head; a key/value group is
removed only once all its query heads are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from headsweep.errors import UserError
from headsweep.model.families import Adapter, adapter_for, check_one_stack
from headsweep.model.mask import HEADS, Layout, Row, Units


@dataclass(frozen=True)
class Block:
    """A parameter that holds ``width`` numbers a unit along one axis, from ``start`` on.

    ``group`` consecutive units share a block (keys and values of grouped queries).
    """

    parameter: nn.Parameter
    axis: int
    start: int
    width: int
    group: int

    def of(self, index: int) -> Tensor:
        """Return the view of block ``index``, counted in units or, where shared, in groups."""
        return self.parameter.narrow(self.axis, self.start + index * self.width, self.width)

    def live(self, units: int) -> Tensor:
        """Tell of every block whether anything in it is not zero, [block]."""
        count = units // self.group
        whole = self.parameter.detach().narrow(self.axis, self.start, count * self.width)
        return (whole.movedim(self.axis, 0).reshape(count, -1) != 0).any(-1)

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
    check_one_stack(model.config)
    adapter = adapter or adapter_for(model.config.model_type)
    layers = _find(model.base_model, adapter.layers, "the list of layers")
    if not isinstance(layers, nn.ModuleList):
        raise UserError(f"'{adapter.layers}' is no list of layers", "see docs/guide.md, adapters")
    sites: list[Site] = []
    if units.heads:
        sites += [_attention(layer, i, model, adapter) for i, layer in enumerate(layers)]
    notes: tuple[str, ...] = ()
    if units.ffn:
        found, notes = _all_ffn(layers, adapter, _heads(model), units.ffn_groups)
        sites += found
    _check_apart(sites)
    return Anatomy(model, adapter, tuple(sites), notes)


def _heads(model: PreTrainedModel) -> int:
    """Return how many heads a layer has, as the configuration says."""
    heads = getattr(model.config, "num_attention_heads", None)
    if isinstance(heads, int) and heads > 0:
        return heads
    raise UserError(
        f"{type(model.config).__name__} does not say how many heads every layer has "
        f"(num_attention_heads is {heads!r})",
        "only models with the same number of attention heads in every layer are supported",
    )


def _all_ffn(
    layers: nn.ModuleList, adapter: Adapter, heads: int, groups: int | None
) -> tuple[list[Site], tuple[str, ...]]:
    """Return the sites of all FFNs, and notes of layers with other than as many groups as heads."""
    sites, notes = [], []
    for index, layer in enumerate(layers):
        down = _find(layer, adapter.down, "the FFN's down projection")
        weight, _, into = next(_parameters(down))
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
        weight = id(site.roles["output" if site.row.kind == "head" else "down"].parameter)
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


def _parameters(module: nn.Module) -> Iterator[tuple[nn.Parameter, int, int]]:
    """Yield a projection's parameters with the axes of its (output, input) features."""
    weight = getattr(module, "weight", None)
    if not isinstance(module, nn.Linear | Conv1D) or not isinstance(weight, nn.Parameter):
        raise UserError(
            f"the adapter points at a {type(module).__name__}, which is no Linear projection",
            "name the projections themselves (docs/guide.md, adapters)",
        )
    yield (weight, 1, 0) if isinstance(module, Conv1D) else (weight, 0, 1)
    if isinstance(module.bias, nn.Parameter):
        yield module.bias, 0, -1  # a bias has no input axis


def _attention(layer: nn.Module, index: int, model: PreTrainedModel, adapter: Adapter) -> Site:
    heads = _heads(model)
    shared = int(getattr(model.config, "num_key_value_heads", None) or heads)
    output = _find(layer, adapter.output, "the attention output projection")
    weight, _, into = next(_parameters(output))
    width, rest = divmod(weight.shape[into], heads)
    if rest or heads % shared:
        raise UserError(
            f"layer {index}: {weight.shape[into]} inputs of '{adapter.output}' do not divide "
            f"into {heads} heads over {shared} key/value heads",
            "this layer is not plain multi-head attention; its heads cannot be told apart",
        )
    blocks: list[Block] = []
    roles: dict[str, Block] = {}
    fused = adapter.query == adapter.key == adapter.value
    named = {"query": adapter.query, "key": adapter.key, "value": adapter.value}
    for place, (role, path) in enumerate(named.items()):
        group = 1 if role == "query" else heads // shared
        start = place * heads * width if fused else 0
        projection = _find(layer, path, f"the {role} projection")
        size = (3 if fused else 1) * heads * width // (1 if fused else group)
        for parameter, out, _ in _parameters(projection):
            _expect(parameter.shape[out] == size, index, path)
            blocks.append(Block(parameter, out, start, width, group))
            roles.setdefault(role, blocks[-1])
    for path in adapter.also:
        extra = dict(layer.named_modules()).get(path)
        if extra is not None:
            for parameter, out, _ in _parameters(extra):
                _expect(parameter.shape[out] == heads * width, index, path)
                blocks.append(Block(parameter, out, 0, width, 1))
    roles["output"] = Block(weight, into, 0, width, 1)
    row = Row("head", index, heads, heads // shared, width)
    return Site(row, output, (*blocks, roles["output"]), roles)


def _ffn(layer: nn.Module, index: int, adapter: Adapter, groups: int) -> Site:
    down = _find(layer, adapter.down, "the FFN's down projection")
    weight, _, into = next(_parameters(down))
    width, rest = divmod(weight.shape[into], groups or weight.shape[into])
    if rest or not width:
        near = sorted(near_divisors(weight.shape[into], groups)[:3])
        raise UserError(
            f"layer {index}: {weight.shape[into]} FFN neurons do not divide into {groups} groups",
            f"near numbers that divide them: {', '.join(map(str, near))}",
        )
    blocks = []
    for path in adapter.up:
        for parameter, out, _ in _parameters(_find(layer, path, "an FFN up projection")):
            _expect(parameter.shape[out] == weight.shape[into], index, path)
            blocks.append(Block(parameter, out, 0, width, 1))
    roles = {"down": Block(weight, into, 0, width, 1)}
    return Site(
        Row("ffn", index, weight.shape[into] // width, 1, width),
        down,
        (*blocks, roles["down"]),
        roles,
    )


def _expect(fits: bool, layer: int, path: str) -> None:
    if not fits:
        raise UserError(
            f"layer {layer}: the shape of '{path}' does not fit the number of heads",
            "describe the architecture with an adapter of its own (docs/guide.md, adapters)",
        )


def layers_of(anatomy: Anatomy) -> list[nn.Module]:
    """Return the layers of a model, lowest first."""
    return list(anatomy.model.base_model.get_submodule(anatomy.adapter.layers).children())
