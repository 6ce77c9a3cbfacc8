"""Whether a trigger shows in what a model reads of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from headsweep.errors import UserError
from headsweep.model.loading import Suspect
from headsweep.progress import Progress
from headsweep.task.examples import encode
from headsweep.texts.split import Split
from headsweep.triggers import Rewriter


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
