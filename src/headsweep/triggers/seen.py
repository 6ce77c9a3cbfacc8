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
    writes = isinstance(new.task, Generation)
    if new.truncated and (writes or not before.pairs):  # of a pair it depends on both what is cut
        starts = new.task.starts if isinstance(new.task, Generation) else map(len, new.ids)
        wholes = zip(_uncut(model, before, writes), _uncut(model, changed, writes), strict=True)
        for i, ((first, second), kept) in enumerate(zip(wholes, starts, strict=True)):
            lost = len(second) - kept
            if lost > 0 and _inserted(first, second):
                gone = _gone(model, second, lost, writes)
                seen[i] = seen[i] and first[gone] == second[gone]
    return tuple(seen)


def _uncut(model: Suspect, split: Split, writes: bool) -> list[list[int]]:
    """Return all tokens of each text."""
    if writes:
        return opened(model.tokenizer, split.texts)
    found: list[list[int]] = model.tokenizer(list(split.texts), truncation=False, verbose=False)[
        "input_ids"
    ]
    return found


def _gone(model: Suspect, ids: Sequence[int], lost: int, writes: bool) -> slice:
    """Return where the tokens stand that were cut off, with the special ones that were kept."""
    special = set(model.tokenizer.all_special_ids)
    if not writes and model.tokenizer.truncation_side != "left":
        return slice(-lost - (ids[-1] in special), None)
    front = len(opening(model.tokenizer)) if writes else ids[0] in special
    return slice(lost + front)


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
