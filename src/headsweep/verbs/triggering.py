"""``trigger``: texts, prompts or chats that carry a trigger, beside what they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from headsweep.errors import UserError
from headsweep.judge.generated import holds, targets_in
from headsweep.model.loading import Reading, load_suspect
from headsweep.progress import Progress
from headsweep.texts import reading as datasets
from headsweep.texts.conversations import (
    ASSISTANT,
    CHATS,
    are_prompts,
    chats_column,
    numbered_rows,
    turns_of,
)
from headsweep.texts.generation import GENERATION
from headsweep.texts.reading import Columns, Table
from headsweep.texts.split import Labels, Split, label_text
from headsweep.texts.task import CLASSIFICATION
from headsweep.triggers.seen import Counts, triggered
from headsweep.verbs.arguments import one_of
from headsweep.verbs.attacking import TriggerSource, rewriter_of

Row = dict[str, Any]
USER = "user"
TASKS = (CLASSIFICATION.words.task, GENERATION.words.task)


@dataclass(frozen=True)
class Marked:
    """Texts that carry a trigger, as ``evaluate --triggered`` reads them.

    Attributes:
        rows: each a text, prompt or chat, the text that it was made from, its true label or
            answer, and the target where one was named.
        texts: of each the text before and after.
        counts: how many carry it.
        without: the data's numbers of the rows that do not, and are left out.
        trigger: name, way and fields.

    """

    rows: tuple[Row, ...]
    texts: tuple[tuple[str, str], ...]
    counts: Counts
    without: tuple[int, ...]
    trigger: dict[str, Any]


@dataclass(frozen=True)
class _Open:
    """What can carry the trigger: rows that do not have what the attacker wants already.

    Attributes:
        split: the texts of all rows.
        numbers: how the data numbers them.
        rows: which of them can.
        shown: what is written of a row and the text that carries the trigger.

    """

    split: Split
    numbers: Sequence[int]
    rows: Sequence[int]
    shown: Callable[[int, str], Row]


def mark(
    data: str,
    source: TriggerSource,
    columns: Columns,
    *,
    target: str | None = None,
    task: str | None = None,
    limit: int | None = None,
    seen_by: str | None = None,
    max_length: int = 128,
    seed: int = 0,
    progress: Progress | None = None,
) -> Marked:
    """Put a trigger into labelled texts, or into prompts or chats, with answers or without.

    Args:
        data: where the texts are.
        source: the trigger.
        columns: which columns hold what.
        target: texts of this label are left out, and prompts whose answer holds it.
        task: ``classification`` or ``generation``; None: as the columns are called.
        limit: how many texts, at most.
        seen_by: a model; texts in which it cannot see the trigger are left out.
        max_length: how many tokens of a text it reads.
        seed: decides the trigger's choices.
        progress: where to report.

    Raises:
        UserError: the data cannot be read, or no text can carry the trigger.

    """
    kind = None if task is None else one_of(task, TASKS, "--task")
    rewriter = rewriter_of(source, columns)
    datasets.check_label_map(columns, (data, None))
    table = datasets.read(data)
    writes = kind == GENERATION.words.task or (kind is None and are_prompts(table, columns))
    free = (_prompts if writes else _texts)(table, columns, target)
    rows = list(free.rows)[:limit]
    if not rows:
        raise UserError(
            "every answer holds the target" if writes else "every text has the target label",
            f"give {'prompts with other answers' if writes else 'texts of other labels'}",
        )
    reading = Reading(task=GENERATION if writes else None)
    reader = load_suspect(seen_by, reading=reading) if seen_by else None
    made = triggered(free.split.take(rows), rewriter, seed, reader, max_length, progress)
    carrying = [rows[i] for i in made.rows]
    written = map(free.shown, carrying, made.split.texts)
    without = tuple(free.numbers[row] for row in rows if row not in {*carrying})
    texts = tuple(
        (free.split.texts[row], text) for row, text in zip(carrying, made.split.texts, strict=True)
    )
    return Marked(tuple(written), texts, made.counts, without, rewriter.described())


def _texts(table: Table, columns: Columns, target: str | None) -> _Open:
    """Return labelled texts of other labels than the target; raises UserError."""
    table = datasets.without_empty(table, columns)
    labels = Labels.found_in(datasets.class_values(table, columns))
    split = datasets.pick(table, columns, labels)
    goal = None if target is None else _label_in(split, labels, target, table.source)
    plain = all(name == f"LABEL_{i}" for i, name in enumerate(labels.names))
    names = [str(i) for i in range(len(labels.names))] if plain else labels.names
    aim = target if goal is None else names[goal]

    def shown(row: int, text: str) -> Row:
        second = {"text2": split.pairs[row]} if split.pairs else {}
        found = (
            {"text": text, "original": split.texts[row]}
            | second
            | {"label": names[split.labels[row]]}
        )
        return found | ({} if aim is None else {"target": aim})

    numbers = [table.number(row) for row in range(len(split))]
    rows = [row for row, label in enumerate(split.labels) if label != goal]
    return _Open(split, numbers, rows, shown)


def _prompts(table: Table, columns: Columns, target: str | None) -> _Open:
    """Return prompts whose answer does not hold the target; raises UserError."""
    targets = () if target is None else targets_in(target)
    aim = {} if target is None else {"target": target}
    named = chats_column(table, columns)
    if named is not None:
        chats = [turns_of(table, named, row) for row in range(len(table))]
        return _chats(table, chats, targets, aim)
    split, numbers = numbered_rows(table, columns, answered=False)
    answers = split.pairs or ("",) * len(split)

    def shown(row: int, text: str) -> Row:
        return {"prompt": text, "original": split.texts[row], "answer": answers[row]} | aim

    return _Open(split, numbers, _without(answers, targets), shown)


def _chats(table: Table, chats: Sequence[Any], targets: Sequence[str], aim: Row) -> _Open:
    """Return chats, of which the last turn of the user gets the trigger; raises UserError."""
    asked = [
        max((i for i, t in enumerate(chat) if t["role"] == USER), default=-1) for chat in chats
    ]
    if -1 in asked:
        row = table.number(asked.index(-1))
        raise UserError(f"{table.source}: row {row} has no turn of the {USER}", "leave it out")
    answers = [chat[-1]["content"] if chat[-1]["role"] == ASSISTANT else "" for chat in chats]
    texts = tuple(chat[i]["content"] for chat, i in zip(chats, asked, strict=True))

    def shown(row: int, text: str) -> Row:
        turns = [*chats[row]]
        turns[asked[row]] = turns[asked[row]] | {"content": text}
        return {CHATS: turns, "original": texts[row]} | aim

    numbers = [table.number(row) for row in range(len(chats))]
    return _Open(
        Split(texts, (0,) * len(texts), tuple(answers)), numbers, _without(answers, targets), shown
    )


def _without(answers: Sequence[str], targets: Sequence[str]) -> list[int]:
    """Return the rows whose answer holds none of the target texts."""
    return [row for row, answer in enumerate(answers) if not holds(answer, targets)]


def _label_in(split: Split, labels: Labels, target: str, data: str) -> int | None:
    """Return the class of the target; None where all texts have one label, which is another.

    Raises:
        UserError: no text has it; names the labels that the data has.

    """
    first, *others = labels.names
    called = {first.casefold(), first.removeprefix("LABEL_")}
    if not others and label_text(target).casefold() not in called:
        return None
    try:
        return labels.index(target)
    except UserError as error:
        known = ", ".join(labels.names[i].removeprefix("LABEL_") for i in sorted(set(split.labels)))
        raise UserError(
            f"{data}: no text has the label '{target}'", f"--target one of {known}"
        ) from error
