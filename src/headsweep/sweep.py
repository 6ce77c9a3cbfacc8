"""The meter of every search: it tells whether a mask's validation accuracy is at least the bound.

A measurement ends as soon as the answer is certain, whatever the rest would say; so which
examples come first decides the cost. Every example has a probability of being wrong, from its
margin under the last mask that it was seen with. From these and what this mask has shown so far
the outcome is foreseen: where the mask will miss the bound, the examples with the most expected
errors a token come first; where it will hold, those with the most expected right answers a
token, so that the long and the hard ones are never run. The forecast steers the cost, never the
answer.

In bf16 (``Runtime.measure_in``) the answer of an example counts only if its margin is further
from zero than bf16 could have moved it; the others run again in fp32, if they are needed at all.
How far that is, is measured: ``Guard``. A mask that a search returns is decided once more with
four times that limit (``confirm``), and the pipeline measures it whole in fp32.

With ``Runtime.confidence`` examples come in random order and a sequential test decides
(``sequential``); a mask that a search returns is still decided exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from headsweep.errors import UserError
from headsweep.fastpass import FastPass, Found, How, ShortCuts
from headsweep.heads import Anatomy, HeadMask
from headsweep.loading import Runtime
from headsweep.predict import Encoded, Measured
from headsweep.seeding import stream
from headsweep.sequential import decided

CHUNK = 8  # batches chosen at once: more are more alike in length, fewer stop sooner
SOFTNESS = 1.0  # of the step from a margin to a probability, in logits
AUDIT = 32  # examples run in both precisions before any bf16 answer counts
RECHECK = 4  # and under every further mask, beside those that run again
ENOUGH = 384  # examples: bf16 took 1.6 times as long on 128, as long on 300, less on 872
SURE, SURER, EXACT = 1.0, 4.0, math.inf  # times the guard's limit: decide, confirm, accuracy
FP32_COST = 2.5  # of a token, in bf16 tokens


@dataclass(frozen=True)
class Tally:
    """What is known of every example under one mask, [example] each."""

    right: Tensor  # bool
    margin: Tensor  # float32
    seen: Tensor  # bool
    exact: Tensor  # bool: in fp32

    @classmethod
    def empty(cls, size: int) -> Tally:
        """Return a tally of nothing."""
        no = torch.zeros(size, dtype=torch.bool)
        return cls(no, torch.zeros(size), no.clone(), no.clone())

    def add(self, rows: Tensor, found: Found, exact: bool) -> None:
        """Enter what was found of some examples."""
        self.right[rows], self.margin[rows] = found.right, found.margin
        self.seen[rows] = True
        self.exact[rows] = exact

    def certain(self, limit: float) -> Tensor:
        """Return which answers count, [example]: those in fp32, and those of a wide margin."""
        return self.exact | (self.seen & (self.margin.abs() > limit))


class Guard:
    """How far bf16 moves a margin, learnt from examples run in both precisions.

    The limit is 6 times the root mean square of all differences seen, and at least twice the
    largest: none of 10,000 examples is expected to move by that much if differences are near
    normal, and one that is not normal raises the limit as soon as it is seen.
    """

    def __init__(self) -> None:
        self.count, self.squares, self.largest = 0, 0.0, 0.0

    @property
    def limit(self) -> float:
        """The margin, in logits, above which a bf16 answer counts; nothing counts unlearnt."""
        if not self.count:
            return math.inf
        return max(6 * math.sqrt(self.squares / self.count), 2 * self.largest)

    def learn(self, one: Tensor, other: Tensor) -> None:
        """Take in margins of the same examples in both precisions."""
        gap = (one - other).double().abs()
        self.count += len(gap)
        self.squares += float(gap.square().sum())
        self.largest = max(self.largest, float(gap.max()))


class Meter:
    """Measures masks on one fixed set of examples; remembers every answer."""

    def __init__(
        self,
        anatomy: Anatomy,
        encoded: Encoded,
        runtime: Runtime,
        short: ShortCuts = ShortCuts(),
    ) -> None:
        if not len(encoded):
            raise UserError("there are no validation examples to measure masks on")
        self.anatomy, self.size, self.runtime = anatomy, len(encoded), runtime
        self.passes = FastPass(anatomy, encoded, runtime, short)
        able = runtime.measures_in_bf16()
        # a sequential test wants every answer as it comes; a small set is run before it is audited
        self.bf16 = able and runtime.confidence is None and self.size >= ENOUGH
        self.guard = Guard()
        self.tallies: dict[HeadMask, Tally] = {}
        self.wrong = torch.full((self.size,), 0.15)  # probability of each, before anything is seen
        self.examples_run = 0
        self.masks_run = 0

    def accuracy(self, mask: HeadMask) -> Measured:
        """Return the exact accuracy under a mask, in fp32."""
        return self._measure(mask, None, EXACT)

    def decide(self, mask: HeadMask, need: int) -> Measured:
        """Measure until it is settled whether at least ``need`` examples are right."""
        return self._measure(mask, need, SURE)

    def confirm(self, mask: HeadMask, need: int) -> Measured:
        """Decide without a sequential test, four times as wary of bf16; free where it was so."""
        return self._measure(mask, need, SURER)

    def forget(self) -> None:
        """Drop what is known: the weights have changed."""
        self.tallies.clear()
        self.passes.forget()
        self.guard = Guard()

    def _measure(self, mask: HeadMask, need: int | None, sure: float) -> Measured:
        tally = self.tallies.setdefault(mask, Tally.empty(self.size))
        if self._settled(tally, need, sure):
            return self._measured(tally, need, sure)
        self.masks_run += 1
        bf16 = self.bf16 and sure < EXACT
        odds = self.wrong.clone()
        with self.passes.under(mask, bf16):
            if bf16:
                self._audit(mask, tally)
            while not self._settled(tally, need, sure):
                for rows, how in self._next(mask, tally, need, sure, odds):
                    self._run(mask, tally, rows, how)
                    if not self._tests(sure) and self._settled(tally, need, sure):
                        break
        return self._measured(tally, need, sure)

    def _run(self, mask: HeadMask, tally: Tally, rows: Tensor, how: How) -> None:
        found = self.passes.run(rows, mask, how)
        if self.bf16 and not how.bf16:
            both = tally.seen[rows] & ~tally.exact[rows]
            if bool(both.any()):
                self.guard.learn(tally.margin[rows][both], found.margin[both])
        tally.add(rows, found, exact=not how.bf16)
        self.wrong[rows] = torch.sigmoid(-found.margin / SOFTNESS).clamp(0.01, 0.99)
        self.examples_run += len(rows)

    def _audit(self, mask: HeadMask, tally: Tally) -> None:
        """Run some examples, other ones for every mask, in both precisions."""
        count = RECHECK if self.guard.count else AUDIT
        generator = stream(0, "audit", self.masks_run)
        rows = torch.randperm(self.size, generator=generator)[:count]
        rows = rows[~tally.seen[rows]]
        rows = rows[self.passes.texts.lengths[rows].argsort()]
        for part in rows.split(self.passes.batch_size) if len(rows) else ():
            self._run(mask, tally, part, How(bf16=True))
            self._run(mask, tally, part, How())

    def _tests(self, sure: float) -> bool:
        return self.runtime.confidence is not None and sure == SURE

    def _measured(self, tally: Tally, need: int | None, sure: float) -> Measured:
        counts = tally.certain(self._limit(sure))
        right = int((tally.right & counts).sum())
        wrong = int(counts.sum()) - right
        plain = Measured(right, wrong, self.size)
        if need is None or not self._tests(sure) or plain.holds(need) is not None:
            return plain
        assert self.runtime.confidence is not None
        error = 1 - self.runtime.confidence
        return Measured(right, wrong, self.size, decided(right, wrong, self.size, need, error))

    def _limit(self, sure: float) -> float:
        return sure * self.guard.limit if self.bf16 and sure < EXACT else math.inf

    def _settled(self, tally: Tally, need: int | None, sure: float) -> bool:
        found = self._measured(tally, need, sure)
        return found.exact if need is None else found.holds(need) is not None

    def _next(
        self, mask: HeadMask, tally: Tally, need: int | None, sure: float, odds: Tensor
    ) -> Iterator[tuple[Tensor, How]]:
        """Yield the next batches: rows, and how to run them."""
        counts = tally.certain(self._limit(sure))
        bf16 = self.bf16 and sure < EXACT
        level = self.passes.level(mask, bf16)
        again = tally.seen & ~counts
        if bf16:
            level[again] = 0
        depth = len(self.passes.layers)
        cost = self.passes.texts.lengths * (depth - level) / depth
        cost = torch.where(again, cost * FP32_COST, cost) if bf16 else cost
        left = torch.nonzero(~counts).flatten()
        if need is None:
            chosen = left
        elif self._tests(sure):
            order = torch.randperm(self.size, generator=stream(0, "sequential"))
            chosen = order[~counts[order]][: CHUNK * self.passes.batch_size]
        else:
            p = torch.where(again, 0.5, odds) if bf16 else odds
            worth = p if self._will_miss(tally, counts, odds, need) else 1 - p
            order = (cost / worth)[left].argsort(stable=True)
            chosen = left[order[: CHUNK * self.passes.batch_size]]
        in_bf16 = ~again & bf16
        for kind in (True, False):
            for at in level[chosen].unique().tolist():
                part = chosen[(in_bf16[chosen] == kind) & (level[chosen] == at)]
                part = part[self.passes.texts.lengths[part].argsort(stable=True)]
                for rows in part.split(self.passes.batch_size) if len(part) else ():
                    yield rows, How(kind, at, store=kind == bf16)

    def _will_miss(self, tally: Tally, counts: Tensor, odds: Tensor, need: int) -> bool:
        """Foresee whether the mask misses the bound: errors so far, and those to expect."""
        wrong = float((counts & ~tally.right).sum())
        rate = (wrong + 2) / (float(odds[counts].sum()) + 2)
        return wrong + rate * float(odds[~counts].sum()) > self.size - need
