"""The bound on accuracy in answers: whether so many examples can decide it, and what came of it.

A bound is held or missed as the answers are counted, however few they are: nothing loosens it.
But a loss of fewer than five answers is nothing that chance would not do. Were every answer that
changed lost and none won, chance does that with four answers once in 16 times (a sign test), with
five once in 32. Two points of 60 validation examples are one answer. So where a bound allows fewer
than five,

- that is said before anything long begins, with what would decide it; and
- healing begins anew, cooler, only when five answers or more are missing. Over fewer it would cool
  by chance until one try is lucky, and a cooler healing forgets less of a backdoor.

Of a task whose bound holds a figure in the end (``Words.bounded``: perplexity, micro-F1, ...) the
answers are counted while heads are chosen, and healing is held to that figure instead. A hot
healing moves every answer, many of them to the better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from headsweep.errors import UserError
from headsweep.measure.accuracy import Accuracy, Floor, needed
from headsweep.purification.material import HELD_SHARE
from headsweep.settings import checked
from headsweep.texts.words import CLASSIFICATION, Words

USUAL_DROP = 0.02
MOST_DROP = 0.1  # taken without being asked
DECISIVE = 5  # answers lost and none won: the fewest that chance does less than once in 20 times


@dataclass(frozen=True)
@checked
class Bound:
    """How much validation accuracy a purification may cost.

    Attributes:
        max_drop: how far it may fall below what it was, as a fraction; None: 0.02, and of a few
            examples as many answers as can be told from chance (``drop``).
        min_accuracy: the lowest allowed instead; None: use ``max_drop``.
        prune_drop: how far it may fall while heads are chosen, for healing to bring it back within
            the other two; None: these hold there too.

    Raises:
        UserError: a value that is no fraction.

    """

    max_drop: float | None = None
    min_accuracy: float | None = None
    prune_drop: float | None = None

    def __post_init__(self) -> None:
        if self.max_drop is not None and not 0 <= self.max_drop < 1:
            raise UserError(f"max drop {self.max_drop} is not a fraction", "for example 0.02")
        if self.prune_drop is not None and not 0 <= self.prune_drop < 1:
            raise UserError(f"prune drop {self.prune_drop} is not a fraction", "for example 0.1")
        if self.min_accuracy is not None and not 0 <= self.min_accuracy <= 1:
            raise UserError(
                f"min accuracy {self.min_accuracy} is not a fraction", "for example 0.85"
            )

    @property
    def asked_drop(self) -> float:
        """How far accuracy may fall, whatever the number of examples: 0.02 where nobody says."""
        return USUAL_DROP if self.max_drop is None else self.max_drop

    @property
    def asked(self) -> bool:
        """True when somebody said how far accuracy may fall."""
        return self.max_drop is not None or self.min_accuracy is not None

    @property
    def goes_deeper(self) -> bool:
        """True when pruning may cost more than is allowed in the end."""
        if self.prune_drop is None:
            return False
        return self.min_accuracy is not None or self.prune_drop > self.asked_drop

    def drop(self, examples: int, words: Words = CLASSIFICATION) -> float:
        """Return how far accuracy may fall in the end, on so many validation examples.

        As was asked. Where nothing was, 0.02; but of fewer than 250 examples that is less than
        chance does in any healing, so that no result would hold it but by luck: five answers then,
        at most 0.1. Heads are chosen within 0.02 all the same, and perplexity, to which every
        token counts, may always rise by 0.02 of itself.
        """
        if self.max_drop is not None or words.falls:
            return self.asked_drop
        return max(USUAL_DROP, min(MOST_DROP, DECISIVE / examples))

    def lowest(self, before: Accuracy) -> float:
        """Return the lowest validation accuracy allowed, from that before pruning.

        Raises:
            UserError: the suspect itself is below it.

        """
        drop = self.drop(before.examples, before.words)
        lowest = before.value - drop if self.min_accuracy is None else self.min_accuracy
        if needed(lowest, before.examples) > before.right:
            raise UserError(
                f"min accuracy {lowest:.4f} is above the suspect's own {before.value:.4f} on "
                "validation data",
                "lower --min-accuracy, or use --max-drop",
            )
        return max(lowest, 0.0)

    def dropped(self, before: Accuracy) -> float | None:
        """Return that drop below what the suspect had; None: the lowest was given instead."""
        return self.drop(before.examples, before.words) if self.min_accuracy is None else None

    def allowance(self, before: Accuracy) -> Allowance:
        """Return what may be lost in the end, from what the suspect had; raises likewise."""
        return Allowance.under(self.lowest(before), before, self.dropped(before))

    def while_pruning(self, before: Accuracy) -> float:
        """Return the lowest validation accuracy allowed while heads are chosen; raises likewise."""
        lowest = self.lowest(before)
        if self.prune_drop is None and self.min_accuracy is not None:
            return lowest
        drop = self.asked_drop if self.prune_drop is None else self.prune_drop
        return max(before.value - drop, 0.0)


@dataclass(frozen=True)
class Allowance:
    """The lowest share of right examples, beside what the suspect had on the same examples.

    ``limit``: the worst of the figure that a task holds in the place of the share
    (``Words.limit``); None: there is none. ``absolute``: that share itself was asked for, not how
    far it may fall.
    """

    lowest: float
    right: int
    examples: int
    limit: float | None = None
    words: Words = CLASSIFICATION
    absolute: bool = False

    @classmethod
    def under(cls, lowest: float, before: Accuracy, drop: float | None = None) -> Allowance:
        """Return the bound below what a suspect has.

        ``drop``: how far the figure may fall that is held in the place of the share; None: as far
        as the share.
        """
        own, words, absolute = before.bounded, before.words, drop is None
        drop = before.value - lowest if drop is None else drop
        limit = None if own is None else words.limit(own, drop)
        return cls(lowest, before.right, before.examples, limit, words, absolute)

    @property
    def worst(self) -> float:
        """The worst allowed of what healing is held to: that figure, or the share."""
        return self.lowest if self.limit is None else self.limit

    @property
    def floor(self) -> Floor:
        """The same as a healing is held to it."""
        return Floor(self.need, self.limit)

    def held_by(self, got: Accuracy) -> bool:
        """Tell whether this holds all that is bounded."""
        return self.floor.held_by(got)

    def missed_by_chance(self, got: Accuracy) -> bool:
        """Tell whether no more is missing than a few answers, which chance may have done."""
        return self.limit is None and not self.worth_healing_again(got.right)

    @property
    def need(self) -> int:
        """How many answers must be right."""
        return needed(self.lowest, self.examples)

    @property
    def allowed(self) -> int:
        """How many answers may be lost."""
        return self.right - self.need

    @property
    def drop(self) -> float:
        """How far accuracy may fall, as a fraction."""
        return self.right / self.examples - self.lowest

    @property
    def points(self) -> str:
        """The share of answers that may be lost, in words."""
        return f"{100 * self.allowed / self.examples:.1f} points"

    @property
    def decides(self) -> bool:
        """True when a loss of more than is allowed can be told from chance."""
        return self.allowed >= DECISIVE

    def worth_healing_again(self, right: int) -> bool:
        """Tell whether so many right answers miss the bound by more than chance may."""
        return self.need - right >= (1 if self.decides else DECISIVE)

    @property
    def wider(self) -> float:
        """The least drop, in whole points, that so many examples can decide."""
        return math.ceil(100 * DECISIVE / self.examples) / 100

    @property
    def enough(self) -> int:
        """How many examples can decide this drop; 0: none can."""
        return math.ceil(DECISIVE / self.drop - 1e-9) if self.drop > 1e-9 else 0

    def doubt(self, *, cut_off: bool) -> str:
        """Return what is wrong with a bound that does not decide, and what would mend it."""
        return (
            f"{self.examples} validation examples: a bound of {self.drop:.2g} is "
            f"{answers(self.allowed)}, {self.mended(cut_off=cut_off)}"
        )

    def looser(self, drop: float) -> str:
        """Return the option that allows so much to be lost, as the bound was asked for."""
        if not self.absolute:
            return f"--max-drop {drop:g}"
        return (
            f"--min-accuracy {math.floor(100 * (self.right / self.examples - drop) + 1e-9) / 100:g}"
        )

    def mended(self, *, cut_off: bool) -> str:
        """Return what would decide it.

        ``cut_off``: the examples were cut off from the data, so that more rows would do.
        """
        ways = []
        if self.enough:
            ways += [f"about {_rounded(self.enough / HELD_SHARE):,} rows"] * cut_off
            ways += [f"--validation FILE with {self.enough:,} examples"]
        ways += [self.looser(self.wider)] * (self.wider < 0.5)
        mend = f": {one_of_these(ways)} would decide it" if ways else ""
        return f"too few to tell a loss from chance{mend}"


def answers(count: int) -> str:
    """Return a number of answers in words."""
    return f"{count} answer" + "s" * (count != 1)


def one_of_these(ways: Sequence[str]) -> str:
    """Return a list for reading: ``a, b or c``."""
    *most, last = ways
    return f"{', '.join(most)} or {last}" if most else last


def _rounded(count: float) -> int:
    """Round up to two digits."""
    unit = int(10 ** max(0, math.floor(math.log10(count)) - 1))
    return math.ceil(count / unit - 1e-9) * unit
