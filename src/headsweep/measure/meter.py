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

Several masks of which the first that holds is wanted (``first_to_hold``: those of a back-off)
can go through as one batch, ``together`` at a time. Each mask is still decided by itself; those
behind the first that holds were run in vain. So it pays where a batch leaves the processor idle,
as on a GPU; on a CPU it does not (docs/performance.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headsweep.errors import UserError
from headsweep.measure.accuracy import Measured
from headsweep.measure.fastpass import BF16_BATCH, FastPass, Found, How, ShortCuts
from headsweep.model.anatomy import Anatomy
from headsweep.model.mask import HeadMask
from headsweep.model.runtime import Runtime
from headsweep.progress import Progress, Silent
from headsweep.seeding import stream
from headsweep.task.fitting import out_of_memory
from headsweep.texts.encoded import Encoded

CHUNK = 8  # batches chosen at once: more are more alike in length, fewer stop sooner
SOFTNESS = 1.0  # of the step from a margin to a probability, in logits
AUDIT = 32  # examples run in both precisions before any bf16 answer counts
RECHECK = 4  # and under every further mask, beside those that run again
ENOUGH = 384  # examples: bf16 took 1.6 times as long on 128, as long on 300, less on 872
SURE, SURER, EXACT = 1.0, 4.0, math.inf  # times the guard's limit: decide, confirm, accuracy
TOGETHER = 4  # masks in one batch, on a GPU
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
        if not exact:  # what is known in fp32 stays
            new = ~self.exact[rows]
            rows, found = rows[new], Found(*(x[new] for x in found))
        self.right[rows], self.margin[rows] = found.right, found.margin
        self.seen[rows] = True
        self.exact[rows] = exact

    def certain(self, limit: float) -> Tensor:
        """Return which answers count, [example]: those in fp32, and those of a wide margin."""
        return self.exact | (self.seen & (self.margin.abs() > limit))


@dataclass(frozen=True)
class Runs:
    """Masks that go through as one batch, and what is known of each."""

    masks: Sequence[HeadMask]
    tallies: Sequence[Tally]


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
        gap = (one - other).cpu().double().abs()
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
        progress: Progress | None = None,
    ) -> None:
        if not len(encoded):
            raise UserError("there are no validation examples to measure masks on")
        self.anatomy, self.size, self.runtime = anatomy, len(encoded), runtime
        self.progress = progress or Silent()
        self.passes = FastPass(anatomy, encoded, runtime, short)
        able = runtime.measures_in_bf16()
        self.bf16 = able and self.size >= ENOUGH  # a small set is run before it is audited
        on_cpu = anatomy.model.device.type == "cpu"
        if self.bf16 and on_cpu:
            self.passes.batch_size = min(runtime.batch_size, BF16_BATCH)
        self.together = 1 if on_cpu else TOGETHER
        self.guard = Guard()
        self.tallies: dict[HeadMask, Tally] = {}
        self.wrong = torch.full((self.size,), 0.15)  # probability of each, before anything is seen
        self.examples_run = 0
        self.masks_run = 0

    def accuracy(self, mask: HeadMask) -> Measured:
        """Return the exact accuracy under a mask, in fp32."""
        return self._measure((mask,), None, EXACT)[0]

    def decide(self, mask: HeadMask, need: int) -> Measured:
        """Measure until it is settled whether at least ``need`` examples are right."""
        return self._measure((mask,), need, SURE)[0]

    def confirm(self, mask: HeadMask, need: int) -> Measured:
        """Decide four times as wary of bf16; free where it was so."""
        return self._measure((mask,), need, SURER)[0]

    def first_to_hold(self, masks: Sequence[HeadMask], need: int) -> list[Measured]:
        """Decide masks in turn until one holds; return what was measured of each up to it.

        At most ``together`` of them go through as one batch. The answers are the same for any
        number, to float rounding.
        """
        found: list[Measured] = []
        for at in range(0, len(masks), self.together):
            for measured in self._measure(masks[at : at + self.together], need, SURE):
                found.append(measured)
                if measured.holds(need):
                    return found
        return found

    def forget(self) -> None:
        """Drop what is known: the weights have changed."""
        self.tallies.clear()
        self.passes.forget()
        self.guard = Guard()

    def _measure(self, masks: Sequence[HeadMask], need: int | None, sure: float) -> list[Measured]:
        """Settle masks up to the first that holds, as one batch; return what is known of each."""
        tallies = [self.tallies.setdefault(mask, Tally.empty(self.size)) for mask in masks]
        self.masks_run += len(self._racing(tallies, need, sure))
        try:
            self._race(masks, tallies, need, sure)
        except UserError:
            raise
        except Exception as error:  # whatever an unforeseen architecture trips over
            if out_of_memory(error) or not self._give_up(error):
                raise
            self._race(masks, tallies, need, sure)
        return [self._measured(tally, sure) for tally in tallies]

    def _race(
        self, masks: Sequence[HeadMask], tallies: Sequence[Tally], need: int | None, sure: float
    ) -> None:
        """Run examples until every mask before the first that holds is settled."""
        racing = self._racing(tallies, need, sure)
        bf16, audited = self.bf16 and sure < EXACT, False
        odds = self.wrong.clone()
        while racing:
            now, some = racing, [masks[i] for i in racing]
            runs = Runs(some, [tallies[i] for i in racing])
            with self.passes.under(*some, bf16=bf16):
                if bf16 and not audited:
                    self._audit(runs)
                    audited = True
                while racing == now:
                    self._advance(runs, need, sure, odds)
                    racing = self._racing(tallies, need, sure)

    def _give_up(self, error: Exception) -> bool:
        """Go on without short cuts and in fp32; return False where nothing was left out."""
        on = self.passes.give_up() or self.bf16
        self.bf16 = False
        if on:
            reason = " ".join(str(error).split())[:200]
            self.progress.say(f"note: a short cut fails, masks are measured in full: {reason}")
        return on

    def _racing(self, tallies: Sequence[Tally], need: int | None, sure: float) -> list[int]:
        """Return which masks are open, before the first that holds."""
        found = []
        for i, tally in enumerate(tallies):
            if not self._settled(tally, need, sure):
                found.append(i)
            elif need is not None and self._measured(tally, sure).holds(need):
                break
        return found

    def _advance(self, runs: Runs, need: int | None, sure: float, odds: Tensor) -> None:
        """Run the next batches, chosen for the first mask, until it is settled or they end."""
        for rows, how in self._next(runs, need, sure, odds):
            self._run(runs, rows, how)
            if self._settled(runs.tallies[0], need, sure):
                break

    def _run(self, runs: Runs, rows: Tensor, how: How) -> None:
        found = self.passes.run_all(rows, runs.masks, how)
        for tally, one in zip(runs.tallies, found, strict=True):
            if self.bf16 and not how.bf16:
                both = tally.seen[rows] & ~tally.exact[rows]
                if bool(both.any()):
                    self.guard.learn(tally.margin[rows][both], one.margin[both])
            tally.add(rows, one, exact=not how.bf16)
        self.wrong[rows] = torch.sigmoid(-found[0].margin / SOFTNESS).clamp(0.01, 0.99)
        self.examples_run += len(rows) * len(found)

    def _audit(self, runs: Runs) -> None:
        """Run some examples, other ones every time, in both precisions."""
        count = RECHECK if self.guard.count else AUDIT
        generator = stream(0, "audit", self.masks_run)
        rows = torch.randperm(self.size, generator=generator)[:count]
        seen = torch.stack([tally.seen for tally in runs.tallies]).any(0)
        rows = rows[~seen[rows]]
        rows = rows[self.passes.texts.lengths[rows].argsort()]
        for part in rows.split(self.passes.batch_size) if len(rows) else ():
            self._run(runs, part, How(bf16=True))
            self._run(runs, part, How())

    def _measured(self, tally: Tally, sure: float) -> Measured:
        counts = tally.certain(self._limit(sure))
        right = int((tally.right & counts).sum())
        return Measured(right, int(counts.sum()) - right, self.size)

    def _limit(self, sure: float) -> float:
        return sure * self.guard.limit if self.bf16 and sure < EXACT else math.inf

    def _settled(self, tally: Tally, need: int | None, sure: float) -> bool:
        found = self._measured(tally, sure)
        return found.exact if need is None else found.holds(need) is not None

    def _next(
        self, runs: Runs, need: int | None, sure: float, odds: Tensor
    ) -> Iterator[tuple[Tensor, How]]:
        """Yield the next batches: rows, and how to run them."""
        tally = runs.tallies[0]
        counts = tally.certain(self._limit(sure))
        bf16 = self.bf16 and sure < EXACT
        level = self.passes.level(*runs.masks, bf16=bf16)
        again = tally.seen & ~counts
        if bf16:
            level[again] = 0
        depth = len(self.passes.layers)
        cost = self.passes.texts.lengths * (depth - level) / depth
        cost = torch.where(again, cost * FP32_COST, cost) if bf16 else cost
        left = torch.nonzero(~counts).flatten()
        if need is None:
            chosen = left
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
