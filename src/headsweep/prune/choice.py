"""What a strategy decided, and how it came to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from headsweep.errors import UserError
from headsweep.measure.accuracy import Measured
from headsweep.model.mask import HeadMask, Layout

LOOSER = "raise --max-drop (or lower --min-accuracy)"  # what mends a bound that nothing holds


@dataclass(frozen=True)
class Step:
    """One trial of a search: a mask, what is known of its accuracy, whether it held."""

    action: str  # "prune", "restore", "confirm" and the words of strategies
    units: tuple[int, ...]
    pruned: int
    measured: Measured
    held: bool

    def to_json(self, layout: Layout) -> dict[str, Any]:
        """Return the step for a manifest."""
        return {
            "action": self.action,
            "units": [layout.name(unit) for unit in self.units],
            "pruned": self.pruned,
            "accuracy_at_least": self.measured.low,
            "accuracy_at_most": self.measured.high,
            "exact": self.measured.exact,
            "held": self.held,
        }


@dataclass(frozen=True)
class Needs:
    """What a strategy says of itself, so that nobody asks which one it is.

    Attributes:
        probes: its view must carry probes.
        bound: it holds itself to min accuracy; False for controls at a given count and the
            as-released forms.
        pruning: it is there to prune: a choice that prunes nothing is a failure.
        weights: it trains weights, or takes their gradients.
        searches: how many searches over a ranking its work is about; None: nobody can foresee it.
        heads: it ranks heads only.
        mask: one that was given, which the model must fit; ``mask_file``: where it stands.
        count: how many units it prunes, whatever accuracy does; None: it finds that itself.

    """

    probes: bool = False
    bound: bool = True
    pruning: bool = True
    weights: bool = False
    searches: int | None = None
    mask: HeadMask | None = None
    mask_file: str = "the mask given"
    heads: bool = False
    count: int | None = None

    def check(self, layout: Layout) -> None:
        """Check, before anything is measured, that a model's units are those that are asked for.

        Raises:
            UserError: they are of another kind, too few, or other ones than a given mask has.

        """
        if self.heads and any(row.kind == "ffn" for row in layout.rows):
            raise UserError(
                "this strategy ranks heads only, not FFN groups",
                "use --units heads, or a strategy that ranks by gate gradient",
            )
        most = layout.units - len(layout.rows)
        if self.count is not None and not 0 < self.count <= most:
            raise UserError(
                f"count must be between 1 and {most}, not {self.count}",
                "--strategy none (of defend: --with nothing) prunes none"
                if self.count <= 0
                else "every layer keeps one",
            )
        if self.mask is None or self.mask.fits(layout):
            return
        raise UserError(
            f"{self.mask_file}: a mask of {_size(self.mask)}, the model has "
            f"{_size(layout.everything())}",
            "it was made for another model",
        )


def _size(mask: HeadMask) -> str:
    return f"{len(mask.flat)} {mask.names} in {len(mask.rows)} rows"


@dataclass(frozen=True)
class Choice:
    """What a strategy decided: the mask, and how it came to it.

    Attributes:
        mask: the mask; it keeps min accuracy, and every layer keeps a head.
        scores: [unit], low = pruned first; None where the strategy ranks nothing.
        steps: every trial in order.
        record: whatever else belongs in the manifest (JSON values).
        bounded: False when the method does not hold itself to min accuracy (controls at a
            given count, and the as-released forms).
        earlier: how an interrupted run came to it, where it is taken up from one: its strategy,
            scores and steps, as JSON.

    """

    mask: HeadMask
    scores: Tensor | None = None
    steps: tuple[Step, ...] = ()
    record: dict[str, Any] = field(default_factory=dict)
    bounded: bool = True
    earlier: dict[str, Any] | None = None

    def steps_json(self, layout: Layout) -> list[dict[str, Any]]:
        """Return every trial of the search for a manifest."""
        return [step.to_json(layout) for step in self.steps]

    def scores_json(self, layout: Layout) -> list[list[float]] | None:
        """Return the scores for a manifest, [row][unit]; None where nothing was ranked."""
        if self.scores is None:
            return None
        return [part.tolist() for part in layout.split(self.scores)]
