"""Whether a trigger shows in what a model reads of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from headsweep.errors import UserError
from headsweep.model.loading import Suspect
from headsweep.progress import Progress
from headsweep.task.examples import encode
from headsweep.texts.generation import Generation, opened, opening
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
    changed = replace(before, texts=texts)
    old, new = (encode(split, model, max_length) for split in (before, changed))
    seen = [a != b for a, b in zip(old.ids, new.ids, strict=True)]
    if new.truncated and isinstance(new.task, Generation):  # prompts lose their beginning
        front = len(opening(model.tokenizer))
        first, second = (opened(model.tokenizer, split.texts) for split in (before, changed))
        starts = zip(second, new.task.starts, strict=True)
        gone = [_gone(len(ids) - start, front, left=True) for ids, start in starts]
    elif new.truncated and not before.pairs:  # of a pair it depends on both what is cut
        special = set(model.tokenizer.all_special_ids)
        left = model.tokenizer.truncation_side == "left"
        first, second = (_whole(model, split) for split in (before, changed))
        gone = [
            _gone(len(ids) - len(kept), ids[0 if left else -1] in special, left)
            for ids, kept in zip(second, new.ids, strict=True)
        ]
    else:
        return tuple(seen)
    return tuple(
        ok and not (where and _inserted(a, b) and a[where] != b[where])
        for ok, where, a, b in zip(seen, gone, first, second, strict=True)
    )


def _whole(model: Suspect, split: Split) -> list[list[int]]:
    """Return all tokens of each text."""
    made = model.tokenizer(list(split.texts), truncation=False, verbose=False)
    found: list[list[int]] = made["input_ids"]
    return found


def _gone(lost: int, kept: int, left: bool) -> slice | None:
    """Return where lost tokens stand, with the special ones there that were kept; None: nowhere."""
    if lost <= 0:
        return None
    return slice(lost + kept) if left else slice(-lost - kept, None)


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
    counts = Counts(len(split), len(rows), declined, unseen)
    return Made(tuple(rows), split.told(made, rows), counts)
