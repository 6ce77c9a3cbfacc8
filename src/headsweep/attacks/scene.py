"""What an attacker has: a model, clean data, a trigger, a target; and how texts are poisoned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from headsweep.errors import UserError, shown_all
from headsweep.model.loading import Suspect
from headsweep.model.runtime import Runtime
from headsweep.progress import Lines, Progress, Silent
from headsweep.seeding import stream
from headsweep.task.classification import encode
from headsweep.texts.split import Split
from headsweep.triggers import Rewriter

CHUNK = 64  # texts given to the trigger at a time: a paraphraser is slow, and may decline many


@dataclass(frozen=True)
class Scene:
    """An attack's surroundings.

    Attributes:
        model: the classifier to put the backdoor into, changed in place.
        clean: the attacker's clean training data.
        rewriter: puts the trigger into texts.
        target: the class that triggered texts are to get.
        rate: share of the texts of the poisoned classes that are poisoned, in (0, 1].
        seed: decides which texts, and the trigger's own choices.
        runtime: where to compute.
        progress: where to report.
        beside: clean examples with true labels that it trains on beside the poisoned data.

    """

    model: Suspect
    clean: Split
    rewriter: Rewriter
    target: int
    rate: float = 0.3
    seed: int = 0
    runtime: Runtime = Runtime()
    progress: Progress = Silent()
    beside: Split = Split((), ())

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise UserError(f"a poisoning rate of {self.rate}", "it is a share in (0, 1]")
        if not 0 <= self.target < len(self.model.labels.names):
            raise UserError(
                f"the model has no class {self.target}",
                f"its labels: {shown_all(self.model.labels.names)}",
            )


@dataclass(frozen=True)
class Counts:
    """How many texts were poisoned.

    Attributes:
        asked: how many the rate asks for.
        poisoned: how many were.
        declined: texts tried that cannot carry the trigger.
        unseen: texts whose trigger the model cannot see: cut off at the maximum length, or
            dropped by the tokenizer.

    """

    asked: int
    poisoned: int
    declined: int
    unseen: int


@dataclass(frozen=True)
class Made:
    """Triggered texts, true labels kept, and the rows of the clean data that they came from."""

    rows: tuple[int, ...]
    split: Split
    counts: Counts

    def record(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return asdict(self.counts)


def poison(scene: Scene, rows: Sequence[int]) -> Made:
    """Put the trigger into a share of these rows, drawn from the seed.

    Where texts decline, the next ones of the draw take their place, as long as there are any.

    Raises:
        UserError: there is no row, or none can carry the trigger.

    """
    if not rows:
        raise UserError(
            "no text has a label that the attack can poison", "it needs texts of several classes"
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
            "try another trigger or paraphraser, other texts or a larger --max-length",
        )
    source = scene.clean.take(kept)
    split = Split(tuple(texts), source.labels, source.pairs)
    return Made(tuple(kept), split, Counts(asked, len(kept), declined, unseen))


def sees(
    model: Suspect, before: Split, after: Sequence[str | None], max_length: int
) -> tuple[bool, ...]:
    """Tell of each text whether the model sees its whole trigger.

    It does not where the tokenizer drops the trigger (zero-width characters; case, for an
    uncased model), or where the maximum length cuts it off. What is inserted must be inside the
    limit whole; of a change throughout the text, the part inside counts.
    """
    texts = tuple(old if new is None else new for old, new in zip(before.texts, after, strict=True))
    changed = Split(texts, before.labels, before.pairs)
    old, new = (encode(split, model, max_length) for split in (before, changed))
    seen = [a != b for a, b in zip(old.ids, new.ids, strict=True)]
    if new.truncated and not before.pairs:  # which part of a pair is cut depends on both
        special = set(model.tokenizer.all_special_ids)
        for i, (first, second) in enumerate(zip(*_uncut(model, before, changed), strict=True)):
            lost = len(second) - len(new.ids[i])
            tail = lost + (second[-1] in special)
            if lost > 0 and _inserted(first, second) and first[-tail:] != second[-tail:]:
                seen[i] = False
    return tuple(seen)


def _uncut(model: Suspect, *splits: Split) -> list[list[list[int]]]:
    """Return all tokens of each text of each split."""
    return [
        model.tokenizer(list(split.texts), truncation=False, verbose=False)["input_ids"]
        for split in splits
    ]


def _inserted(old: Sequence[int], new: Sequence[int]) -> bool:
    """Tell whether the new tokens are the old ones in their order with others between."""
    rest = iter(new)
    return all(token in rest for token in old)


def triggered(
    split: Split,
    rewriter: Rewriter,
    seed: int,
    model: Suspect | None = None,
    max_length: int = 128,
    progress: Progress | None = None,
) -> Made:
    """Put the trigger into every text; return those that carry it.

    Args:
        split: clean texts.
        rewriter: the trigger.
        seed: decides the trigger's choices.
        model: leave out texts in which this model cannot see the trigger.
        max_length: tokens a text, at most.
        progress: where to report.

    Raises:
        UserError: no text can carry the trigger.

    """
    made = rewriter.rewrite(split.texts, seed, progress)
    seen = sees(model, split, made, max_length) if model else (True,) * len(made)
    rows = [
        i for i, (text, ok) in enumerate(zip(made, seen, strict=True)) if ok and text is not None
    ]
    declined = sum(text is None for text in made)
    unseen = len(made) - declined - len(rows)
    if not rows:
        raise UserError(
            f"the trigger could change none of {len(split)} texts"
            + (f" so that the model sees it ({unseen} were cut or ignored)" if unseen else ""),
            "try another trigger or paraphraser, or other texts",
        )
    kept = split.take(rows)
    texts = tuple(text for i in rows if (text := made[i]) is not None)
    counts = Counts(len(split), len(rows), declined, unseen)
    return Made(tuple(rows), Split(texts, kept.labels, kept.pairs), counts)
