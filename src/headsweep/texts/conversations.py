"""Prompts and answers out of a table: in columns of their own, as instructions, or as chats.

A chat is rendered by the template of the tokenizer, which is a program of whoever made it: it
runs in a process of its own (``chat_rendering``), with little time and memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from headsweep.errors import UserError, shortened, shown
from headsweep.foreign import one_line
from headsweep.texts import chat_rendering
from headsweep.texts.reading import (
    LABEL_NAMES,
    LONGEST_TEXT,
    Columns,
    Table,
    as_list,
    is_missing,
    is_unicode,
    text_cell,
    without_pair,
)
from headsweep.texts.split import Split

PROMPTS = ("prompt", "question", "query")
ANSWERS = ("answer", "response", "completion", "output")
CHATS, INSTRUCTION = "messages", "instruction"
MORE_OF_A_PROMPT = ("input", "context", "system", "system_prompt")  # beside the prompt itself
ONE_PROMPT = (
    "put all that the model reads into the prompts, or name their column, --column text=NAME, to "
    "leave the others out"
)
PAIR = ("text", "label")  # how a tuple's columns are called
FORMS = (
    'rows are {"prompt": ..., "answer": ...}, {"messages": [{"role": ..., "content": ...}, ...]} '
    'or {"instruction": ..., "input": ..., "output": ...}; columns of other names are given with '
    "--column text=PROMPT --column label=ANSWER"
)
ASSISTANT, CALLS = "assistant", "tool_calls"
OF_A_TURN = (CALLS, "tool_call_id", "name", "reasoning_content", "thinking")
ANSWERED = "An answer."  # to see what a template writes before and behind one
LONGEST = 200  # characters of that


def picked(
    table: Table, columns: Columns, tokenizer: PreTrainedTokenizerBase, answered: bool = True
) -> Split:
    """Return the prompts of a table, as texts, and its answers, as their pairs.

    Args:
        table: what was read.
        columns: ``text`` names the column of prompts or chats, ``label`` that of answers; None:
            guessed.
        tokenizer: whose template chats are rendered by.
        answered: every row must have an answer; else it may be empty.

    Raises:
        UserError: no such columns, a row without a prompt or an answer, or a chat that cannot be
            rendered.

    """
    _check_columns(columns)
    named = chats_column(table, columns)
    if named is not None:
        return _chats(table, named, tokenizer, answered, columns.drop_empty)
    return plain_rows(table, columns, answered)


def chats_column(table: Table, columns: Columns) -> str | None:
    """Return the column of chats; None: there is none. Raises UserError for half of a chat."""
    named = columns.text if columns.text is not None else CHATS
    if not any(as_list(one) is not None for one in table.columns.get(named, ())):
        return None
    fix = "put it into the chats (a turn of the system), or leave the column out"
    _check_whole(table, ("tools", "system", "system_prompt"), fix)
    return named


def plain_rows(table: Table, columns: Columns, answered: bool = True) -> Split:
    """Return prompts and answers that need no template, as ``picked`` does.

    Raises:
        UserError: rows are chats, too, since text put into a rendered one may fall between turns.

    """
    return numbered_rows(table, columns, answered)[0]


def numbered_rows(
    table: Table, columns: Columns, answered: bool = True
) -> tuple[Split, tuple[int, ...]]:
    """Return the same, and how the table numbers the rows."""
    _check_columns(columns)
    if chats_column(table, columns) is not None:
        raise UserError(
            f"{table.source}: holds chats, where prompts as texts are needed",
            'give rows of {"prompt": ..., "answer": ...} instead',
        )
    rows = _instructions(table, columns, answered) or _columns(table, columns, answered)
    full = [all(row) for row in rows] if answered else [bool(row[0]) for row in rows]
    for number, whole in enumerate(full):
        if not whole and not columns.drop_empty:
            lacks = "prompt" if not rows[number][0] else "answer"
            raise UserError(
                f"{table.source}: row {table.number(number)} has no {lacks}",
                _of(columns, "remove the row, or leave such rows out with --column drop_empty=yes"),
            )
    kept = [row for row, whole in enumerate(full) if whole]
    if not kept:
        raise UserError(f"{table.source}: no row has a prompt and an answer", _of(columns, FORMS))
    return _split([rows[row] for row in kept]), tuple(map(table.number, kept))


def are_prompts(table: Table, columns: Columns) -> bool:
    """Tell whether columns that nobody named are called as prompts are, and none as labels are."""
    present = {name.casefold() for name in table.columns}
    named = columns.text is not None or columns.label is not None
    return not (named or present & {*LABEL_NAMES}) and bool(
        present & {*PROMPTS, INSTRUCTION, CHATS}
    )


def _check_columns(columns: Columns) -> None:
    """Refuse what is said of second texts and of labels; raises UserError."""
    without_pair(columns, "prompts and answers")
    if columns.label_map:
        raise UserError("--label-map is for labels, and this model writes text", "leave it out")


def _of(columns: Columns, fix: str) -> str:
    """Return advice with the option that names the columns of this file."""
    return fix.replace("--column", f"--{columns.prefix}column")


def _split(rows: Sequence[tuple[str, str]]) -> Split:
    """Return rows as a split: one class, so that it is cut as one."""
    return Split(
        tuple(prompt for prompt, _ in rows), (0,) * len(rows), tuple(answer for _, answer in rows)
    )


def _instructions(table: Table, columns: Columns, answered: bool) -> list[tuple[str, str]]:
    """Return instructions with what they are about, and a blank line behind; none: no such rows."""
    if columns.text is not None or INSTRUCTION not in table.columns:
        return []
    both = [name for name in ("input", "context") if name in table.columns]
    about = next((n for n in both if not all(map(is_missing, table.columns[n]))), None)
    _check_whole(
        table, [name for name in MORE_OF_A_PROMPT if name != about], _of(columns, ONE_PROMPT)
    )
    parts = [INSTRUCTION, *([about] if about else [])]
    prompts = list(zip(*(_cells(table, name, columns) for name in parts), strict=True))
    name = _answers(table, columns, answered)
    answers = _cells(table, name, columns) if name else [""] * len(prompts)
    return [
        ("".join(f"{part}\n\n" for part in prompt if part) if prompt[0] else "", answer)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def _columns(table: Table, columns: Columns, answered: bool) -> list[tuple[str, str]]:
    if table.unnamed and len(table.columns) == len(PAIR):  # (prompts, answers)
        columns = replace(columns, text=columns.text or PAIR[0], label=columns.label or PAIR[1])
    present = {name.casefold(): name for name in table.columns}
    prompt = columns.text or next((present[n] for n in PROMPTS if n in present), None)
    if prompt is None:
        raise UserError(
            f"{table.source}: cannot tell which column holds the prompts; the columns: "
            f"{table.names}",
            f"this model answers in tokens: {_of(columns, FORMS)}",
        )
    if columns.text is None:
        _check_whole(table, MORE_OF_A_PROMPT, _of(columns, ONE_PROMPT))
    prompts = _cells(table, prompt, columns)
    name = _answers(table, columns, answered)
    answers = _cells(table, name, columns) if name else [""] * len(prompts)
    return list(zip(prompts, answers, strict=True))


def _check_whole(table: Table, names: Iterable[str], fix: str) -> None:
    """Refuse columns that belong to the prompts and would be left out."""
    present = {name.casefold(): name for name in table.columns}
    for name in (present[name] for name in names if name in present):
        if not all(is_missing(cell) or as_list(cell) == [] for cell in table.columns[name]):
            raise UserError(f"{table.source}: its column {shown(name)} would be left out", fix)


def _answers(table: Table, columns: Columns, needed: bool) -> str:
    """Return the column of answers; empty: there is none, and none is needed."""
    present = {name.casefold(): name for name in table.columns}
    found = columns.label or next((present[n] for n in ANSWERS if n in present), "")
    if needed and not found:
        raise UserError(
            f"{table.source}: cannot tell which column holds the answers; the columns: "
            f"{table.names}",
            f"this model answers in tokens: {_of(columns, FORMS)}",
        )
    return found


def _cells(table: Table, name: str, columns: Columns) -> list[str]:
    """Return a column of texts, nothing where a cell is empty."""
    option = _of(columns, "--column text=NAME, or --column label=NAME")
    values = table.column(name, option)
    return [text_cell(table, name, option, row, value) for row, value in enumerate(values)]


def _chats(
    table: Table, name: str, tokenizer: PreTrainedTokenizerBase, answered: bool, drop: bool
) -> Split:
    """Return chats rendered up to the assistant's last turn, and that turn.

    ``drop``: those without one, or without a turn before it, are left out.
    """
    turns, answers = [], []
    for row, cell in enumerate(table.columns[name]):
        if drop and is_missing(cell):
            continue
        chat = turns_of(table, name, row)
        last = chat[-1]
        answer = chat.pop()["content"] if last["role"] == ASSISTANT else ""
        lack = _lack(chat, last, answer) if answered or not chat else None
        if lack is None:
            turns.append(chat)
            answers.append(answer)
        elif not drop:
            raise UserError(f"{table.cell(name, row)}: {lack[0]}", lack[1])
    if not turns:
        raise UserError(f"{table.source}: no chat has an answer", FORMS)
    prompts, style = rendered(tokenizer, turns, table.source)
    written = map(style.written, answers)
    return replace(_split(list(zip(prompts, written, strict=True))), end=style.end)


def _lack(chat: Sequence[Any], last: Mapping[str, Any], answer: str) -> tuple[str, str] | None:
    """Return what a chat lacks and how to mend it, from its turns before the answer."""
    if last["role"] != ASSISTANT:
        return (
            f"the last turn is of {shown(last['role'])}, not of the assistant: there is no answer",
            "end every chat with the turn that answers it",
        )
    if CALLS in last:
        return (
            "the last turn calls a tool, which is no answer in words",
            "end every chat with the turn that answers it in words",
        )
    if not chat:
        return "the chat has no turn before the answer", FORMS
    return None if answer.strip() else ("the chat has no answer", FORMS)


def turns_of(table: Table, name: str, row: int) -> list[dict[str, Any]]:
    """Return the turns of a chat, checked one by one, with all that they hold for a template."""
    cell = table.columns[name][row]
    chat = as_list(cell)
    if not chat:
        raise UserError(f"{table.cell(name, row)} is no list of messages: {shown(cell)}", FORMS)
    turns = []
    for turn in chat:
        if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
            raise UserError(f"{table.cell(name, row)}: {shown(turn)} is no message", FORMS)
        content = text_cell(table, name, "--column text=NAME", row, turn.get("content"))
        turns.append({"role": turn["role"], "content": content} | _more(turn))
    return turns


def _more(turn: Mapping[str, Any]) -> dict[str, Any]:
    """Return what else of a turn a template may write, as plain values; what is empty is left out.

    Templates ask whether there are tool calls by their key, which every turn of a table has.
    """
    found = {key: _plain(turn.get(key)) for key in OF_A_TURN}
    return {key: value for key, value in found.items() if value not in (None, "", [], {})}


def _plain(value: Any) -> Any:
    """Return a value with lists for arrays, as pandas has them."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): one for key, x in value.items() if (one := _plain(x)) is not None}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Style:
    """How a template writes an answer behind its prompt.

    Attributes:
        lead: what it puts before one: a space, or the empty thoughts of a model that thinks.
        trims: whether it takes white space away before one, and behind.
        end: what it puts behind one, up to the first special token: the end of a turn, which need
            not be what ends a text. None: nothing like that, or it is what ends a text.

    """

    lead: str = ""
    trims: tuple[bool, bool] = (False, False)
    end: str | None = None

    def written(self, answer: str) -> str:
        """Return an answer as the template writes it, without its end."""
        before, behind = self.trims
        answer = answer.lstrip() if before else answer
        answer = answer.rstrip() if behind else answer
        begun = self.lead.split()[:1]  # thoughts of its own, where a template puts empty ones
        led = answer and not (begun and answer.lstrip().startswith(begun[0]))
        return self.lead + answer if led else answer


def rendered(
    tokenizer: PreTrainedTokenizerBase, chats: Sequence[list[dict[str, Any]]], source: str
) -> tuple[list[str], Style]:
    """Return chats as the tokenizer's template writes them, up to where an answer begins.

    Beside how it writes an answer, as the first of the chats shows.

    Raises:
        UserError: there is no template, or it does not take these chats.

    """
    templates = getattr(tokenizer, "chat_template", None)
    if not templates or (isinstance(templates, dict) and "default" not in templates):
        raise UserError(  # one by default, where there are several
            f"{source}: holds chats, and the tokenizer has no chat template to write them with",
            'give rows of {"prompt": ..., "answer": ...} instead',
        )
    form = {
        "template": tokenizer.get_chat_template(),
        "special": {k: v for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)},
        "chats": chats,
        "answered": [
            [*chats[0], {"role": ASSISTANT, "content": content}]
            for content in (ANSWERED, f"\n{ANSWERED}\n")
        ],
    }
    # -P: the folder that somebody stands in is no place to import from
    command = [sys.executable, "-P", str(Path(chat_rendering.__file__)), str(len(chats))]
    try:
        given = json.dumps(form).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError) as error:
        raise _unfit(source, f"a turn holds what JSON has no word for ({error})") from error
    try:
        ended = subprocess.run(
            command,
            input=given,
            capture_output=True,
            timeout=chat_rendering.patience(len(chats)),
            check=False,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
        made = json.loads(ended.stdout) if ended.returncode == 0 else {}
    except subprocess.TimeoutExpired as error:
        raise _unfit(source, "it takes too long, or this machine is too busy") from error
    except ValueError:
        made = {}
    if "error" in made or "texts" not in made:
        why = str(made.get("error", "")) or "it ended early (its limit of time or memory)"
        raise _unfit(source, why)
    texts: list[str] = made["texts"]
    longest = max(map(len, texts), default=0)
    if longest > LONGEST_TEXT:
        raise _unfit(source, f"it makes {longest} characters of a chat")
    if not all(map(is_unicode, texts)):
        raise _unfit(source, "it writes half of a surrogate pair, which is no text")
    return texts, _style(texts[0], made.get("answered") or (), tokenizer)


def _style(prompt: str, answered: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Style:
    """Return how a template writes answers, from a prompt and two chats that have one behind it.

    The second has white space around its answer.
    """
    if len(answered) != 2 or not all(ANSWERED in one for one in answered):
        return Style()
    (before, behind), spaced = (one.rsplit(ANSWERED, 1) for one in answered)
    lead = before.removeprefix(prompt)
    known = before.startswith(prompt) and len(lead) <= LONGEST
    trims = before == spaced[0], behind == spaced[1]
    return Style(lead if known else "", trims, _end_in(behind[:LONGEST], tokenizer))


def _end_in(behind: str, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return what stands behind an answer, up to the first special token."""
    marks = [str(one) for one in tokenizer.added_tokens_decoder.values() if one.special]
    ends = [(behind.index(mark), -len(mark), mark) for mark in marks if mark and mark in behind]
    if not ends:
        return None
    at, _, end = min(ends)
    found = behind[:at] + end
    return None if found == tokenizer.eos_token else found


def _unfit(source: str, why: str) -> UserError:
    return UserError(
        f"{source}: the tokenizer's chat template does not write these chats: "
        f"{shortened(one_line(why), 200)}",
        "give chats of the roles that the model knows, or rows of prompt and answer",
    )
