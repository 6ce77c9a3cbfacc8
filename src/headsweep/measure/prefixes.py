"""Run a model from one of its layers upwards, and only where the classifier reads.

Nothing here knows an architecture. A layer that is skipped has its ``forward`` exchanged for one
that hands over stored hidden states; embeddings, masks and positions are computed as ever. In
the last layer, what follows attention is computed for the one token that the classifier reads:
a pre-hook on the output projection and on the FFN's up projections keeps that token alone, and
the residual connection spreads it over a row of which nobody reads the rest. Whether either is
true of a model is for the caller to check (``fastpass`` compares logits before using them).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headsweep.model.anatomy import Anatomy, gate_of, layers_of, ups
from headsweep.model.mask import HeadMask
from headsweep.texts.encoded import Batch


@contextmanager
def watched(
    layers: Sequence[nn.Module], levels: Sequence[int], keep: Callable[[int, Tensor], None]
) -> Iterator[set[int]]:
    """Call ``keep(level, hidden)`` with the input of layer ``level``, [batch, token, width].

    Yields a set that gets the number of parts of each layer's output; 0: it is no tuple.
    """
    parts: set[int] = set()

    def hook(level: int) -> Callable[..., None]:
        def see(_: nn.Module, __: Any, output: Any) -> None:
            whole = isinstance(output, Tensor)
            parts.add(0 if whole else len(output))
            keep(level, output if whole else output[0])

        return see

    with ExitStack() as stack:
        for level in levels:
            stack.callback(layers[level - 1].register_forward_hook(hook(level)).remove)
        yield parts


@contextmanager
def resumed(
    layers: Sequence[nn.Module], level: int, hidden: Tensor, parts: int = 0
) -> Iterator[None]:
    """Make the layers below ``level`` return ``hidden``, [batch, token, width], at no cost.

    ``parts``: of how many parts is the tuple that a layer of this model returns; 0: no tuple.
    """
    made = (hidden, *[None] * (parts - 1)) if parts else hidden

    def give(*_: Any, **__: Any) -> Any:
        return made

    skipped = layers[:level]
    before = [layer.__dict__.get("forward") for layer in skipped]
    for layer in skipped:
        setattr(layer, "forward", give)  # noqa: B010 - an instance's own, over the class's
    try:
        yield
    finally:
        for layer, own in zip(skipped, before, strict=True):
            delattr(layer, "forward")
            if own is not None:
                setattr(layer, "forward", own)  # noqa: B010


class OneToken:
    """Keeps in the last layer, behind attention, the token that the classifier reads."""

    def __init__(self, anatomy: Anatomy) -> None:
        last, adapter = layers_of(anatomy)[-1], anatomy.adapter
        self.modules = [gate_of(last, adapter), *ups(last, adapter)]
        self.anatomy = anatomy

    @contextmanager
    def only(self, batch: Batch) -> Iterator[None]:
        """Run a batch for this token only, inside this context.

        Raises:
            ValueError: an answer is read from several tokens.

        """
        place = batch.task.place(batch.inputs["input_ids"], self.anatomy.last)
        if place is None:
            raise ValueError("an answer is read from several tokens")
        rows = torch.arange(len(place), device=place.device)

        def keep(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            x, *rest = args
            here = rows.to(x.device), place.to(x.device)  # of a model on several
            return (x if x.shape[1] == 1 else x[here].unsqueeze(1), *rest)

        with ExitStack() as stack:
            for module in self.modules:
                stack.callback(module.register_forward_pre_hook(keep).remove)
            yield


@dataclass
class Stored:
    """Hidden states of some examples at one level under one prefix of a mask."""

    states: Tensor  # [token of all examples, width]
    have: Tensor  # [example], bool


Key = tuple[int, str, tuple[tuple[bool, ...], ...]]


class Prefixes:
    """Hidden states by level and by the mask below it, the least recently used forgotten first.

    Args:
        lengths: [example], tokens of each.
        budget: bytes at most.
        depth: layers of the model.

    """

    def __init__(self, lengths: Tensor, budget: int, depth: int) -> None:
        self.lengths, self.budget = lengths, budget
        self.starts = lengths.cumsum(0) - lengths
        self.tokens = int(lengths.sum())
        self.depth = depth
        self.entries: OrderedDict[Key, Stored] = OrderedDict()
        self.one = 0  # bytes of an entry, known with the first

    @staticmethod
    def key(anatomy: Anatomy, mask: HeadMask, level: int, precision: str) -> Key:
        """Return under which key the input of layer ``level`` is stored."""
        rows = zip(anatomy.layout.rows, mask.rows, strict=True)
        return level, precision, tuple(keep for row, keep in rows if row.layer < level)

    def levels(self, width: int, dtype: torch.dtype) -> range:
        """Return the levels worth storing: all, or every so many, so that two masks fit."""
        self.one = self.tokens * width * dtype.itemsize
        room = self.budget // max(1, 2 * self.one)
        if room < 1 or self.depth < 2:
            return range(0)
        stride = -(-(self.depth - 1) // room)
        return range(stride, self.depth, stride)

    def get(self, key: Key) -> Stored | None:
        """Return what is stored, now the most recently used."""
        found = self.entries.get(key)
        if found is not None:
            self.entries.move_to_end(key)
        return found

    def put(self, key: Key, rows: Tensor, hidden: Tensor) -> None:
        """Store the hidden states of these examples, [batch, token, width]."""
        stored = self.get(key)
        if stored is None:
            while self.entries and (len(self.entries) + 1) * self.one > self.budget:
                self.entries.popitem(last=False)
            states = torch.empty(
                self.tokens, hidden.shape[-1], dtype=hidden.dtype, device=hidden.device
            )
            have = torch.zeros(len(self.lengths), dtype=torch.bool)
            stored = self.entries[key] = Stored(states, have)
        places, real = self._places(rows, hidden.shape[1])
        stored.states[places[real].to(hidden.device)] = hidden[real.to(hidden.device)]
        stored.have[rows] = True

    def take(self, stored: Stored, rows: Tensor, longest: int) -> Tensor:
        """Return the hidden states of examples, [batch, token, width]; padding holds anything."""
        places, _ = self._places(rows, longest)
        return stored.states[places.to(stored.states.device)]

    def _places(self, rows: Tensor, longest: int) -> tuple[Tensor, Tensor]:
        inside = torch.arange(longest)
        real = inside < self.lengths[rows][:, None]
        places = self.starts[rows][:, None] + inside
        return torch.where(real, places, self.starts[rows][:, None]), real

    def clear(self) -> None:
        """Forget everything."""
        self.entries.clear()

    @property
    def bytes(self) -> int:
        """How much is stored."""
        return len(self.entries) * self.one
