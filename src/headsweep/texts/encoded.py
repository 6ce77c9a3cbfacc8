"""Texts as token numbers, and batches of them.

Batches hold texts of similar length, each padded to its own longest (the same batch padded to 128
tokens costs several times as much).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from headsweep.texts.task import Task


@dataclass(frozen=True)
class Batch:
    """Examples of similar length: ``index`` says which; ``share``: it is so much of a batch."""

    index: Tensor  # [batch]
    inputs: dict[str, Tensor]  # [batch, token]
    labels: Tensor  # [batch]
    task: Task
    share: float = 1.0

    def __len__(self) -> int:
        return len(self.labels)

    def split(self, size: int) -> list[Batch]:
        """Return it in parts of at most so many examples, padded as it is."""
        if size >= len(self):
            return [self]
        rows = range(0, len(self), size)
        inputs = {name: x.split(size) for name, x in self.inputs.items()}
        return [
            Batch(
                self.index[at : at + size],
                {name: x[number] for name, x in inputs.items()},
                self.labels[at : at + size],
                self.task,
                self.share * len(self.labels[at : at + size]) / len(self),
            )
            for number, at in enumerate(rows)
        ]

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        inputs = {name: x.to(device, non_blocking=True) for name, x in self.inputs.items()}
        labels = self.labels.to(device, non_blocking=True)
        return Batch(self.index, inputs, labels, self.task, self.share)


@dataclass(frozen=True)
class Encoded:
    """Tokenised examples. ``truncated`` counts those cut at the maximum length."""

    ids: tuple[tuple[int, ...], ...]
    kinds: tuple[tuple[int, ...], ...]  # token types; empty where the tokenizer has none
    labels: tuple[int, ...]
    pad: int
    task: Task
    truncated: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def sha256(self) -> str:
        """Return a hash of the token numbers, types and labels, and of what their task knows."""
        told = repr((self.ids, self.kinds, self.labels, self.pad, self.task))
        return hashlib.sha256(told.encode()).hexdigest()

    @cached_property
    def tokens(self) -> int:
        """How many tokens there are, without padding."""
        return sum(map(len, self.ids))

    def batch(self, rows: Sequence[int]) -> Batch:
        """Return these rows as one batch, padded to the longest."""
        ids = [torch.tensor(self.ids[i]) for i in rows]
        inputs = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad),
            "attention_mask": pad_sequence([torch.ones_like(x) for x in ids], batch_first=True),
        }
        if self.kinds:
            kinds = [torch.tensor(self.kinds[i]) for i in rows]
            inputs["token_type_ids"] = pad_sequence(kinds, batch_first=True)
        labels = torch.tensor([self.labels[i] for i in rows])
        return Batch(torch.tensor(rows), inputs, labels, self.task)

    def batches(self, size: int) -> list[Batch]:
        """Return all rows in batches of similar length, the same every time."""
        order = sorted(range(len(self)), key=lambda i: (len(self.ids[i]), i))
        return [self.batch(order[i : i + size]) for i in range(0, len(order), size)]

    def take(self, rows: Sequence[int]) -> Encoded:
        """Return these rows, in this order."""
        return Encoded(
            tuple(self.ids[i] for i in rows),
            tuple(self.kinds[i] for i in rows) if self.kinds else (),
            tuple(self.labels[i] for i in rows),
            self.pad,
            self.task,
        )
