"""Pass examples through a masked model for little more than the arithmetic costs.

What is left out, each only where a check on this very model finds the same logits:

- the work of pruned units (``compact``);
- the last layer behind attention, but for the token that the classifier reads (``resume``);
- layers whose input is known from an earlier mask that is the same below them (``resume``).

Several masks can go through as one batch: what all of them prune is cut, the rest of their
difference is a gate of its own for each example, and layers below the first difference are taken
from what is stored.

A check runs some examples under a mask that prunes a unit of every row, and a whole key/value
group where it has several, with and without; a difference above ``TOLERANCE`` of the largest
logit turns the short cut off. So logits are those of the plain pass to float rounding, and an
architecture that does something unforeseen is measured in full. What fails only later, under
another mask, turns all of them off (``give_up``).

Memory: token numbers, one batch of activations, the slices of one mask, and the budget for
hidden states. Out of memory: the store is emptied, the batch halved, and the pass goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from headsweep.measure.cutting import cut, cuts, gates_left, shares_kept
from headsweep.measure.prefixes import OneToken, Prefixes, resumed, watched
from headsweep.model.anatomy import Anatomy, layers_of
from headsweep.model.gates import hooked, masked
from headsweep.model.mask import HeadMask, Layout
from headsweep.model.runtime import Runtime
from headsweep.task.examples import forward
from headsweep.task.fitting import out_of_memory
from headsweep.texts.encoded import Batch, Encoded

CPU_BATCH = 16  # examples: as fast a token as 32, with less padding when examples are picked
BF16_BATCH = 32  # where masks are measured in bf16: a seventh less time than 16 with AMX
BF16_MULTIPLE = 16  # tokens: oneDNN makes and keeps a kernel for every shape; fewer are faster
TOLERANCE = 1e-4  # of the largest logit; rounding differs by about 1e-6


class Texts:
    """All examples of a set as one padded matrix, from which batches are cut."""

    def __init__(self, encoded: Encoded, device: torch.device) -> None:
        self.device = device
        self.lengths = torch.tensor([len(ids) for ids in encoded.ids])
        self.labels, self.task = torch.tensor(encoded.labels), encoded.task
        self.ids = self._matrix(encoded.ids, encoded.pad)
        self.kinds = self._matrix(encoded.kinds, 0) if encoded.kinds else None

    def _matrix(self, rows: Sequence[tuple[int, ...]], pad: int) -> Tensor:
        return pad_sequence([torch.tensor(row) for row in rows], True, pad)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Tensor, multiple: int = 1) -> Batch:
        """Return these examples, padded to their own longest, on the device.

        Or to the next multiple, as far as the longest text of all goes.
        """
        lengths = self.lengths[rows]
        longest = min(-(-int(lengths.max()) // multiple) * multiple, self.ids.shape[1])
        real = torch.arange(longest) < lengths[:, None]
        inputs = {"input_ids": self.ids[rows, :longest], "attention_mask": real.long()}
        if self.kinds is not None:
            inputs["token_type_ids"] = self.kinds[rows, :longest]
        if self.device.type == "cuda":
            inputs = {name: x.pin_memory() for name, x in inputs.items()}
        return Batch(rows, inputs, self.labels[rows], self.task).to(self.device)


@dataclass(frozen=True)
class ShortCuts:
    """What may be left out."""

    pruned: bool = True
    unread: bool = True
    prefixes: bool = True


class How(NamedTuple):
    """How to pass a batch: in bf16 or fp32, from which layer, storing states for later or not."""

    bf16: bool = False
    level: int = 0
    store: bool = False


class Found(NamedTuple):
    """What a model says of examples: right where the task's margin is above zero."""

    right: Tensor  # [example], bool
    margin: Tensor  # [example], float32


class FastPass:
    """Runs chosen examples of one set under masks. Used by one thread, on one model."""

    def __init__(
        self,
        anatomy: Anatomy,
        encoded: Encoded,
        runtime: Runtime,
        short: ShortCuts = ShortCuts(),
    ) -> None:
        self.anatomy, self.runtime = anatomy, runtime
        self.texts = Texts(encoded, anatomy.model.device)
        self.layers = layers_of(anatomy)
        self.one_token = OneToken(anatomy)
        on_cpu = anatomy.model.device.type == "cpu"
        self.batch_size = min(runtime.batch_size, CPU_BATCH) if on_cpu else runtime.batch_size
        self.multiple = BF16_MULTIPLE if on_cpu else 1
        self.parts = 0
        self.prefixes = Prefixes(self.texts.lengths, 0, len(self.layers))
        self.short = self._checked(short)
        if self.short.prefixes:
            self.prefixes.budget = runtime.cache_now
        self.tokens_run = 0.0  # layers' worth of tokens, as a share of the depth

    def give_up(self) -> bool:
        """Turn all short cuts off, since one of them failed; return whether any was on."""
        none = ShortCuts(False, False, False)
        on, self.short = self.short != none, none
        self.prefixes.clear()
        self.prefixes.budget = 0
        return on

    def forget(self) -> None:
        """Drop stored hidden states: the weights have changed."""
        self.prefixes.clear()

    @contextmanager
    def under(self, *masks: HeadMask, bf16: bool = False) -> Iterator[None]:
        """Put the model under one mask or several; ``run`` of the same masks works inside."""
        model, device = self.anatomy.model, self.anatomy.model.device
        mask = kept_by_any(masks)
        training = model.training
        with ExitStack() as stack:
            stack.callback(model.train, training)
            model.eval()
            if not self.short.pruned:
                stack.enter_context(masked(self.anatomy, mask))
            else:
                stack.enter_context(cut(cuts(self.anatomy, mask)))
                for gate, wide in gates_left(self.anatomy, mask):
                    stack.enter_context(hooked(gate, wide))
            stack.enter_context(torch.inference_mode())
            if bf16:  # open for the whole pass: the weights are cast once
                stack.enter_context(torch.autocast(device.type, torch.bfloat16))
            yield

    def level(self, *masks: HeadMask, bf16: bool) -> Tensor:
        """Return up to which layer every example's states are known under all masks, [example]."""
        found = torch.zeros(len(self.texts), dtype=torch.long)
        mask, most = masks[0], first_difference(self.anatomy, masks)
        for level in self._known(mask, bf16):
            if level > most:
                break
            stored = self.prefixes.get(self._key(mask, level, bf16))
            if stored is not None:
                found[stored.have] = level
        return found

    def _known(self, mask: HeadMask, bf16: bool) -> list[int]:
        return sorted(
            level
            for level in {key[0] for key in self.prefixes.entries}
            if self._key(mask, level, bf16) in self.prefixes.entries
        )

    def _key(
        self, mask: HeadMask, level: int, bf16: bool
    ) -> tuple[int, str, tuple[tuple[bool, ...], ...]]:
        return Prefixes.key(self.anatomy, mask, level, "bf16" if bf16 else "fp32")

    def run(self, rows: Tensor, mask: HeadMask, how: How = How()) -> Found:
        """Pass examples through under one mask; see ``run_all``."""
        return self.run_all(rows, (mask,), how)[0]

    def run_all(self, rows: Tensor, masks: Sequence[HeadMask], how: How = How()) -> list[Found]:
        """Pass examples through under every mask; halve the batch where memory runs out.

        Raises:
            RuntimeError: memory does not even hold one example.

        """
        how = how if self.prefixes.budget else How(how.bf16)
        if len(rows) <= self.batch_size:
            try:
                return self._run(rows, masks, how)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or len(rows) == 1:
                    raise
            self.prefixes.clear()
            self.prefixes.budget = 0
            self.batch_size = -(-len(rows) // 2)
        parts = [self.run_all(part, masks, how) for part in rows.split(self.batch_size)]
        return [
            Found(*(torch.cat(part) for part in zip(*found, strict=True)))
            for found in zip(*parts, strict=True)
        ]

    def _run(self, rows: Tensor, masks: Sequence[HeadMask], how: How) -> list[Found]:
        every = rows.repeat(len(masks))  # [mask * example]
        batch = self.texts.batch(every, self.multiple if how.bf16 else 1)
        depth = len(self.layers)
        with ExitStack() as stack:
            device = self.texts.device.type
            stack.enter_context(torch.autocast(device, torch.bfloat16, enabled=how.bf16))
            longest = batch.inputs["input_ids"].shape[1]
            if how.level:
                stored = self.prefixes.entries[self._key(masks[0], how.level, how.bf16)]
                hidden = self.prefixes.take(stored, every, longest)
                stack.enter_context(resumed(self.layers, how.level, hidden, self.parts))
            if how.store and self.prefixes.budget and len(masks) == 1:
                self._store(stack, rows, masks[0], how)
            for gate, wide in self._gates_between(masks):
                stack.enter_context(hooked(gate, wide.repeat_interleave(len(rows), 0)))
            if self.short.unread:
                stack.enter_context(self.one_token.only(batch))
            logits = forward(self.anatomy.model, batch)
        self.tokens_run += float(self.texts.lengths[every].sum()) * (depth - how.level) / depth
        found = judged(logits, batch)
        size = len(rows)
        return [Found(*(x[at : at + size] for x in found)) for at in range(0, len(every), size)]

    def _gates_between(self, masks: Sequence[HeadMask]) -> list[tuple[nn.Module, Tensor]]:
        """Return the gates in which masks differ, [mask, kept unit * width], by gate module."""
        if len(masks) == 1:
            return []
        common, found = kept_by_any(masks), []
        for number, site in enumerate(self.anatomy.sites):
            keep, group = common.rows[number], site.row.group
            if all(mask.rows[number] == keep for mask in masks):
                continue
            shares = shares_kept(site, keep) if self.short.pruned else range(len(keep) // group)
            units = [share * group + i for share in shares for i in range(group)]
            values = torch.tensor([[float(mask.rows[number][u]) for u in units] for mask in masks])
            wide = values.repeat_interleave(site.row.width, dim=-1)
            found.append((site.gate, wide.to(site.device)))
        return found

    def _store(self, stack: ExitStack, rows: Tensor, mask: HeadMask, how: How) -> None:
        width = int(self.anatomy.model.config.hidden_size)
        wanted = [n for n in self.prefixes.levels(width, torch.float32) if n > how.level]

        def keep(at: int, hidden: Tensor) -> None:
            self.prefixes.put(self._key(mask, at, how.bf16), rows, hidden)

        stack.enter_context(watched(self.layers, wanted, keep))

    def _checked(self, short: ShortCuts) -> ShortCuts:
        """Return the short cuts that leave this model's logits as they are."""
        mask = telling(self.anatomy.layout)
        order = self.texts.lengths.argsort()
        rows = order[[0, len(order) // 2]] if len(order) > 1 else order
        batch = self.texts.batch(rows)
        none = ShortCuts(False, False, False)
        self.short = none
        with self.under(mask):
            plain = forward(self.anatomy.model, batch)

        def same(**chosen: bool) -> bool:
            self.short = replace(none, **chosen)
            try:
                with self.under(mask), ExitStack() as stack:
                    if self.short.unread:
                        stack.enter_context(self.one_token.only(batch))
                    found = forward(self.anatomy.model, batch)
            except Exception:  # whatever an unforeseen architecture trips over
                return False
            return close(found, plain)

        found = ShortCuts(
            short.pruned and same(pruned=True),
            short.unread and same(unread=True),
            short.prefixes and self._resumes(mask, batch, plain),
        )
        self.short = none
        return found

    def _resumes(self, mask: HeadMask, batch: Batch, plain: Tensor) -> bool:
        """Tell whether going on from every layer's stored input gives the same logits."""
        self.short = ShortCuts(False, False, False)
        states: dict[int, Tensor] = {}
        levels = range(1, len(self.layers))
        try:
            with self.under(mask):
                with watched(self.layers, levels, states.__setitem__) as parts:
                    forward(self.anatomy.model, batch)
                self.parts = max(parts)
                size = batch.inputs["input_ids"].shape
                if any(x.shape[:2] != size or size[0] == size[1] for x in states.values()):
                    return False  # they lie token first, as XLNet's, or nobody can tell
                for level in levels:
                    with resumed(self.layers, level, states[level], self.parts):
                        if not close(forward(self.anatomy.model, batch), plain):
                            return False
        except Exception:  # as above
            return False
        return len(states) == len(levels)


def telling(layout: Layout) -> HeadMask:
    """Return a mask that does to every row what any mask may: some go, alone or as a group."""
    gone: list[int] = []
    for row, part in zip(layout.rows, layout.slices, strict=True):
        if row.units > row.group:  # the last unit, or the last group of common keys
            gone += range(part.stop - row.group, part.stop)
        if row.group > 1:  # and one of a group that stays
            gone.append(part.start)
    return layout.mask(gone)


def kept_by_any(masks: Sequence[HeadMask]) -> HeadMask:
    """Return the mask that prunes what every mask prunes."""

    def union(rows: Sequence[tuple[tuple[bool, ...], ...]]) -> tuple[tuple[bool, ...], ...]:
        return tuple(tuple(map(any, zip(*row, strict=True))) for row in zip(*rows, strict=True))

    kinds = masks[0].kinds
    return HeadMask.of({kind: union([mask.kinds[kind] for mask in masks]) for kind in kinds})


def first_difference(anatomy: Anatomy, masks: Sequence[HeadMask]) -> int:
    """Return the lowest layer in which masks differ; the number of layers where none does."""
    layers = [row.layer for row in anatomy.layout.rows]
    differ = (
        layer
        for layer, *rows in zip(layers, *(mask.rows for mask in masks), strict=True)
        if any(row != rows[0] for row in rows)
    )
    return min(differ, default=max(layers) + 1)


def judged(answers: Tensor, batch: Batch) -> Found:
    """Return which examples are right, and their margins, on the CPU."""
    margins = batch.task.margins(answers, batch.labels)
    return Found((margins > 0).cpu(), margins.cpu())


def close(found: Tensor, plain: Tensor) -> bool:
    """Tell whether logits are the same to rounding."""
    if found.shape != plain.shape:
        return False
    limit = TOLERANCE * max(1.0, float(plain.abs().max()))
    return float((found - plain).abs().max()) <= limit
