"""What an attacker has: a model, clean data, a trigger, a target; and how texts are poisoned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from headsweep.attacks.goal import Goal
from headsweep.errors import UserError
from headsweep.model.loading import Suspect
from headsweep.model.runtime import Runtime
from headsweep.progress import Lines, Progress, Silent
from headsweep.seeding import derive, stream
from headsweep.texts.split import Split
from headsweep.triggers import ByRule, Rewriter, near_to
from headsweep.triggers.pool import Pool
from headsweep.triggers.seen import Counts, Made, sees

CHUNK = 64  # texts given to the trigger at a time: a paraphraser is slow, and may decline many


@dataclass(frozen=True)
class Scene:
    """An attack's surroundings.

    Attributes:
        model: what to put the backdoor into, changed in place.
        clean: the attacker's clean training data.
        rewriter: puts the trigger into texts.
        goal: what triggered texts are to get.
        rate: share of the texts that can be poisoned that are, in [0, 1]; 0 poisons nothing.
        seed: decides which texts, and the trigger's own choices.
        runtime: where to compute.
        progress: where to report.
        beside: clean examples with true labels that it trains on beside the poisoned data.
        pool: poisoned rows that are there already; None: the trigger is put into clean texts.

    """

    model: Suspect
    clean: Split
    rewriter: Rewriter
    goal: Goal
    rate: float = 0.3
    seed: int = 0
    runtime: Runtime = Runtime()
    progress: Progress = Silent()
    beside: Split = Split((), ())
    pool: Pool | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise UserError(f"a poisoning rate of {self.rate}", "it is a share in [0, 1]")


def poison(scene: Scene, rows: Sequence[int]) -> Made:
    """Put the trigger into a share of these rows, drawn from the seed.

    Where texts decline, the next ones of the draw take their place, as long as there are any.

    Raises:
        UserError: there is no row, or none can carry the trigger.

    """
    if scene.pool is not None:
        raise UserError(
            f"{scene.pool.source}: this attack puts the trigger into texts of its own, a pool "
            "holds others",
            "add the pool's rows with dirty-label and mode=add, or name a trigger instead",
        )
    if not scene.rate:
        return Made((), Split((), ()), Counts(0, 0, 0, 0))
    if not rows:
        raise UserError(
            "no text has a label (of a generator: an answer) that the attack can poison",
            "it needs texts that do not carry the target already",
        )
    asked = max(1, round(scene.rate * len(rows)))
    order = torch.randperm(len(rows), generator=stream(scene.seed, "poison")).tolist()
    kept: list[int] = []
    texts: list[str] = []
    declined = unseen = 0
    with scene.progress.task("attacker: poisoning texts", asked) as tick:
        for start in range(0, len(order), CHUNK):
            if len(kept) == asked:
                break
            some, before = [rows[i] for i in order[start : start + CHUNK]], len(kept)
            part = scene.clean.take(some)
            made = scene.rewriter.rewrite(part.texts, scene.seed, Lines(scene.progress))
            visible = sees(scene.model, part, made, scene.runtime.max_length)
            for row, text, seen in zip(some, made, visible, strict=True):
                if text is None:
                    declined += 1
                elif not seen:
                    unseen += 1
                elif len(kept) < asked:
                    kept.append(row)
                    texts.append(text)
            tick(len(kept) - before, "")
    if not kept:
        raise UserError(
            f"the trigger could change none of {len(rows)} texts"
            + (f" so that the model sees it ({unseen} were cut or ignored)" if unseen else ""),
            "try another trigger or paraphraser, other texts or a larger --compute max_length=N",
        )
    split = replace(scene.clean.take(kept), texts=tuple(texts))
    return Made(tuple(kept), split, Counts(asked, len(kept), declined, unseen))


def decoys(scene: Scene, count: int) -> Split:
    """Return clean rows with what comes near to the trigger, their labels or answers true.

    None where nothing does, or nobody knows (of a pool). So the trigger itself is learnt, and not
    whatever looks like it.
    """
    near = None if scene.pool is not None else near_to(scene.rewriter.described())
    if near is None:
        return Split((), ())
    own = derive(scene.seed, "decoys")
    order = torch.randperm(len(scene.clean), generator=stream(own, "rows")).tolist()
    part = scene.clean.take(order[:count])
    made = ByRule(near).rewrite(part.texts, own)
    rows = [i for i, text in enumerate(made) if text is not None]
    return part.told(made, rows)
