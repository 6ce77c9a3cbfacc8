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

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from headsweep.errors import UserError
from headsweep.families import Adapter, adapter_for, check_one_stack

MASK_FORMAT = "headsweep.head-mask/1"
ZEROED = 1e-4  # of the largest logit: gates and zeroed weights are the same to rounding


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

    ``heads`` is [layer][head]; ``ffn`` is [layer][group], empty where FFNs are not touched.
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


@dataclass(frozen=True)
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


def read_places(anatomy: Anatomy, ids: Tensor) -> Tensor:
    """Return the place of the token that the classifier reads, [batch], of ids [batch, token].

    The first token; or for a decoder the last that is not the configuration's padding number, as
    transformers' own classifiers find it.
    """
    if not anatomy.adapter.reads_last:
        return torch.zeros(len(ids), dtype=torch.long, device=ids.device)
    places = torch.arange(ids.shape[1], device=ids.device)
    real = ids != anatomy.model.config.get_text_config().pad_token_id
    found: Tensor = (places * real).argmax(-1)
    return found


@contextmanager
def gates(anatomy: Anatomy, values: Tensor) -> Iterator[None]:
    """Multiply every unit's output by its gate, inside this context.

    Args:
        anatomy: the model.
        values: [unit], or [batch, unit] for a gate of its own for each example.

    """
    _check_width(anatomy, values)
    with ExitStack() as stack:
        for site, value in zip(anatomy.sites, anatomy.layout.split(values), strict=True):
            wide = value.repeat_interleave(site.row.width, dim=-1)  # [(batch,) unit * width]
            stack.enter_context(hooked(site.gate, wide))
        yield


@contextmanager
def masked(anatomy: Anatomy, mask: HeadMask) -> Iterator[None]:
    """Close the gates of the pruned units, inside this context; full rows cost nothing."""
    if not mask.fits(anatomy.layout):
        raise UserError(
            f"a head mask of {len(mask.flat)} units for a model of {anatomy.layout.units}",
            "the mask was made for another model, or for other units",
        )
    device = anatomy.model.device
    with ExitStack() as stack:
        for site, keep in zip(anatomy.sites, mask.rows, strict=True):
            if not all(keep):
                value = torch.tensor(keep, dtype=torch.float32, device=device)
                wide = value.repeat_interleave(site.row.width)
                stack.enter_context(hooked(site.gate, wide))
        yield


def _check_width(anatomy: Anatomy, values: Tensor) -> None:
    if values.shape[-1] != anatomy.layout.units:
        raise ValueError(f"{values.shape[-1]} gates for {anatomy.layout.units} units")


@contextmanager
def hooked(module: nn.Module, wide: Tensor) -> Iterator[None]:
    """Multiply the input of a module by [width] or [batch, width], inside this context."""

    def close(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *rest = args  # [batch, token, unit * width]
        factor = wide.to(x.dtype)
        return (x * (factor.unsqueeze(1) if factor.dim() == 2 else factor), *rest)

    handle = module.register_forward_pre_hook(close)
    try:
        yield
    finally:
        handle.remove()


def remove(anatomy: Anatomy, mask: HeadMask) -> None:
    """Set every weight that belongs to a pruned unit to zero, in place.

    Query, key and value rows with their biases and output columns; a shared key/value group
    only when all its query heads are pruned. The output projection's bias belongs to no unit
    and stays. Zeroing both value and output is what keeps the unit at zero under training
    (with only the output zeroed, it comes back).
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
        last = site.roles["output" if site.row.kind == "head" else "down"]
        gone += [part.start + i for i, live in enumerate(last.live(site.row.units)) if not live]
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
                live = block.live(site.row.units).tolist()
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
        if block.live(site.row.units)[block.removed(keep)].any()
    ]


@torch.no_grad()
def check_gates(anatomy: Anatomy, inputs: Mapping[str, Tensor]) -> None:
    """Check that gates reach the model, and that closing them is what removal does.

    A mask that silently never reaches the model is the classic failure of this field, so this
    runs on every load: one forward pass a row on a tiny input, and three more.

    Raises:
        UserError: the model cannot read the input, its output did not change or is not finite,
            or the weights of a unit are not where the adapter says.

    """
    model = anatomy.model
    training = model.training
    model.eval()
    try:
        before = _read(model, inputs)
        _read(model, _padded(inputs, model.config.pad_token_id))
        _check_reach(anatomy, inputs, before)
        _check_places(anatomy, inputs, float(before.abs().max()))
    finally:
        model.train(training)


def _read(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the logits of a first batch, if the model can read one."""
    try:
        logits: Tensor = model(**inputs).logits
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever an unforeseen architecture trips over
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{type(model).__name__} cannot read a small batch of token numbers with their "
            f"attention mask: {reason}",
            "only classifiers that read padded texts of any length are supported",
        ) from error
    if not logits.isfinite().all():
        raise UserError(
            "the model's output is not finite (NaN or infinity)",
            "the checkpoint is broken, or holds NaN weights: get it again",
        )
    return logits


def _padded(inputs: Mapping[str, Tensor], pad: int | None) -> dict[str, Tensor]:
    """Return the inputs with the last text cut to half by padding."""
    made = {name: tensor.clone() for name, tensor in inputs.items()}
    half = made["input_ids"].shape[1] // 2
    made["input_ids"][-1, half:] = pad or 0
    made["attention_mask"][-1, half:] = 0
    return made


def _check_reach(anatomy: Anatomy, inputs: Mapping[str, Tensor], before: Tensor) -> None:
    """Check that closing all gates of any one row changes the output."""
    for site, part in zip(anatomy.sites, anatomy.layout.slices, strict=True):
        closed = torch.ones(anatomy.layout.units, device=before.device)
        closed[part] = 0
        with gates(anatomy, closed):
            after = anatomy.model(**inputs).logits
        if torch.equal(before, after):
            raise UserError(
                f"closing every {site.row.kind} of layer {site.row.layer} changes nothing",
                "either the layer's weights are zero already, or the adapter points at a "
                "module that the model does not run (docs/guide.md, adapters)",
            )


def _check_places(anatomy: Anatomy, inputs: Mapping[str, Tensor], scale: float) -> None:
    """Check that removing one unit a row, or one key/value group, does what its gates do.

    Another unit in every row, so that no one place hides a wrong order. The weights are zeroed
    for one forward pass and put back.
    """
    layout, units = anatomy.layout, list[int]()
    for number, (row, part) in enumerate(zip(layout.rows, layout.slices, strict=True)):
        size = row.group if row.group < row.units else 1
        start = part.start + number % (row.units // size) * size
        units += range(start, start + size)
    mask = layout.mask(units)
    with masked(anatomy, mask):
        gated = anatomy.model(**inputs).logits
    with zeroed(anatomy, mask):
        gap = float((anatomy.model(**inputs).logits - gated).abs().max())
    if not gap <= ZEROED * scale:
        raise UserError(
            "zeroing the weights of a head does not do what closing its gate does (logits "
            f"differ by {gap:.1e}): the layout of the projections does not fit the adapter",
            "query, key and value must be apart, or the thirds of one projection; heads that "
            "are interleaved in it are not supported (docs/guide.md, adapters)",
        )
