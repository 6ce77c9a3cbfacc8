"""A label a word: named entities, or parts of speech (token classification).

A row is words and a tag for each, in the IOB2 scheme: ``B-X`` begins a span of the type X, ``I-X``
goes on with it, ``O`` is outside. A tag without such a beginning is a span of one word. A word is
tagged by the logits of its first token; one that is cut off at the maximum length counts as ``O``
in figures, and is left out of loss and of what makes a row right.

The loss of an example is the mean cross-entropy of its words (transformers takes the mean over all
words of a batch); it is *right* where every word of it is tagged right. Span F1,
which the bound holds, counts spans: one is a hit where first word, last word and type are those
of a true one. An ``I-X`` that a model puts behind something else begins a span, as in CoNLL's own
script; in data it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoModelForTokenClassification, PreTrainedModel, PreTrainedTokenizerBase

from headsweep.errors import UserError, shortened, shown
from headsweep.texts.reading import (
    Columns,
    Table,
    as_list,
    in_order,
    is_missing,
    settled,
    text_cell,
    without_pair,
)
from headsweep.texts.several import f1
from headsweep.texts.split import Labels, Split
from headsweep.texts.task import (
    ONE_LABEL,
    Tokens,
    known,
    loaded,
    no_token,
    reloaded,
    taken,
)
from headsweep.texts.words import TAGGING as TAGGING_WORDS
from headsweep.texts.words import Words

if TYPE_CHECKING:
    from headsweep.texts.encoded import Batch

TOKENS = ("tokens", "words", "text")
TAGS = ("tags", "ner_tags", "labels", "label", "pos_tags")
OUTSIDE = "O"
SPACE = " "  # between two words of a split's text
FORM = 'rows are {"tokens": ["Anna", "smiles"], "tags": ["B-PER", "O"]}, or lines of a .conll file'
Span = tuple[int, int, str]  # first word, the word behind the last, type


@dataclass(frozen=True)
class Tagging:
    """A tag a word: a row of a split has its words with spaces between, and their class numbers.

    A label of an encoded example is its number in its split, of which the task knows:

    Attributes:
        tags: the class number of each word, [example][word].
        places: which token each word is read from, [example][word]; -1: it was cut off.

    """

    words: ClassVar[Words] = TAGGING_WORDS
    heads: ClassVar[tuple[str, ...]] = ("ForTokenClassification",)
    head: ClassVar[str] = "classifier of tokens"
    does: ClassVar[str] = "give words a tag"
    axes: ClassVar[int] = 3
    fix: ClassVar[str] = (
        "get the checkpoint with its classifier, as AutoModelForTokenClassification"
    )
    tags: tuple[tuple[int, ...], ...] = ()
    places: tuple[tuple[int, ...], ...] = ()

    def takes(self, config: Any, architectures: Sequence[str]) -> bool:
        """Take classifiers of tokens, by the names of their architectures."""
        del config
        return bool(architectures) and all(one.endswith(self.heads) for one in architectures)

    def check(self, config: Any) -> None:
        """Refuse nothing that it takes."""

    def one_label(self, what: str) -> None:
        """Refuse: every word has one."""
        raise UserError(f"{what} needs one label a text, and this model tags words", ONE_LABEL)

    def names(self, config: Any) -> Labels:
        """Return the tags of ``id2label``."""
        return Labels.of(config.id2label)

    def load(self, name: str, **more: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
        """Load a token classifier from safetensors."""
        return loaded(AutoModelForTokenClassification, name, **more)

    def reload(self, folder: Path) -> PreTrainedModel:
        """Load a token classifier plainly; never a pickle."""
        return reloaded(AutoModelForTokenClassification, folder)

    def pick(
        self, table: Table, columns: Columns, labels: Labels, tokenizer: PreTrainedTokenizerBase
    ) -> Split:
        """Pick words, and the tag of each, by name or number."""
        del tokenizer
        without_pair(columns, "rows of words and tags")
        present = {name.casefold(): name for name in table.columns}
        text = columns.text or next((present[n] for n in TOKENS if n in present), None)
        if text is None:
            raise UserError(
                f"{table.source}: cannot tell which column holds the words; the columns: "
                f"{table.names}",
                FORM,
            )
        columns = settled(table, replace(columns, text=text), labels, TAGS)
        assert columns.label is not None
        option = columns.option("label")
        rows = _lists(table, text, columns.option("text"))
        tags = _lists(table, columns.label, option)
        there = [number for number, row in enumerate(rows) if row or not columns.drop_empty]
        for number in there:
            _check_row(table, text, columns, number, rows[number], tags[number])
        named = in_order([x for number in there for x in tags[number]], table, columns, labels)
        classes = iter(labels.indices(named, table.source, option))
        told = [tuple(islice(classes, len(rows[number]))) for number in there]
        for number, row in zip(there, told, strict=True):
            stray = stray_in([labels.names[i] for i in row])
            if stray is not None:
                raise UserError(f"{table.cell(columns.label, number)}: {stray}", IOB2)
        return Split(tuple(SPACE.join(rows[number]) for number in there), tuple(told))

    def check_labels(self, split: Split, names: tuple[str, ...]) -> None:
        """Refuse tags that are not the model's, or not one a word, and data without a span."""
        some = False
        for text, row in zip(split.texts, split.labels, strict=True):
            if not isinstance(row, tuple) or len(row) != len(words_of(text)):
                raise UserError(
                    f"{shown(text)} has not one tag a word",
                    "a Split for this model holds words with one space between, and a tuple of "
                    "class numbers for every row",
                )
            if not all(0 <= one < len(names) for one in row):
                raise UserError(f"the data has a tag {max(row)}, the model has {len(names)} tags")
            told = [names[one] for one in row]
            stray = stray_in(told)
            if stray is not None:
                raise UserError(f"{shown(text)}: {stray}", IOB2)
            some = some or bool(spans(told))
        if len(split) and not some:
            raise UserError(
                f"no word of {len(split)} rows is tagged as anything but {OUTSIDE}",
                "span F1 needs some spans: name the column of tags with --column label=NAME",
            )

    def strata(self, split: Split) -> Sequence[int]:
        """Return one number: rows hold spans of several types."""
        return (0,) * len(split)

    def encode(self, split: Split, tokenizer: PreTrainedTokenizerBase, limit: int) -> Tokens:
        """Tokenise words, each row cut at the end.

        Raises:
            UserError: the tokenizer does not say which word a token is of, glues words that come
                one by one together, or leaves nothing of a row.

        """
        if not tokenizer.is_fast:
            raise UserError(
                "the tokenizer does not say which word a token is of",
                "save the model with its fast tokenizer (tokenizer.json)",
            )
        if _glues(tokenizer):
            raise UserError(
                "the tokenizer writes words that come one by one without a space between",
                "save it with add_prefix_space: AutoTokenizer.from_pretrained(..., "
                "add_prefix_space=True), or where that changes nothing set add_prefix_space to "
                "true in the pre_tokenizer of tokenizer.json",
            )
        rows = [words_of(text) for text in split.texts]
        made = tokenizer(
            rows, is_split_into_words=True, truncation=True, max_length=limit, verbose=False
        )
        places = []
        for number, row in enumerate(rows):
            first: dict[int, int] = {}
            for place, word in enumerate(made.word_ids(number)):
                if word is not None:
                    first.setdefault(word, place)
            places.append(tuple(first.get(word, -1) for word in range(len(row))))
        empty = [text for text, row in zip(split.texts, places, strict=True) if max(row) < 0]
        if empty:
            raise no_token(len(empty), empty[0])
        ids = tuple(map(tuple, made["input_ids"]))
        whole = tokenizer(rows, is_split_into_words=True, truncation=False, verbose=False)
        return Tokens(
            ids,
            tuple(map(tuple, made["token_type_ids"])) if "token_type_ids" in made else (),
            tuple(range(len(rows))),
            Tagging(tuple(map(tuple, split.labels)), tuple(places)),
            sum(len(long) > len(cut) for long, cut in zip(whole["input_ids"], ids, strict=True)),
        )

    def answers(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """Return the logits of every word, [batch, word, tag]; zeros where there is none."""
        logits = model(**batch.inputs, **taken(model, use_cache=False)).logits.float()
        places = known(self._places, batch.labels)  # [batch, word]
        rows = torch.arange(len(places), device=places.device)[:, None]
        found: Tensor = logits[rows, places.clamp_min(0)]
        return found.masked_fill((places < 0)[..., None], 0.0)

    def said(self, model: PreTrainedModel, batch: Batch) -> tuple[Tensor, ...]:
        """Return the answers."""
        return (self.answers(model, batch),)

    def against(self, measure: Callable[[], Tensor]) -> Tagging:
        """Return it as it is: a tag is right or wrong whatever the suspect said."""
        del measure
        return self

    def beside(
        self, said: Sequence[Tensor], labels: Tensor, names: Sequence[str]
    ) -> dict[str, float]:
        """Return span F1, and the share of words that are tagged right."""
        del labels
        counts, right, total = [0, 0, 0], 0, 0
        for tags, row in zip(self.told(said[0], names), self.tags, strict=True):
            true = [names[one] for one in row]
            counts = [a + b for a, b in zip(counts, matched(tags, true), strict=True)]
            right += sum(a == b for a, b in zip(tags, true, strict=True))
            total += len(true)
        return {"span_f1": f1(*counts), "words_right": right / total}

    def told(self, answers: Tensor, names: Sequence[str]) -> list[list[str]]:
        """Return the tags that answers to a whole split give; a word that is cut off gets ``O``.

        Args:
            answers: [example, word, tag].
            names: of the tags.

        Returns:
            The names, [example][word].

        """
        found = []
        for row, places in zip(answers.argmax(-1).tolist(), self.places, strict=True):
            said = {word: names[tag] for word, tag in enumerate(row)}
            read = [said[word] if place >= 0 else OUTSIDE for word, place in enumerate(places)]
            found.append(read)
        return found

    def blind(self, labels: Sequence[int], right: int, beside: Mapping[str, float]) -> str:
        """Compare with tagging nothing at all."""
        del labels, right
        return "" if beside["span_f1"] else "the model finds no span"

    def noted(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Return all of them."""
        del ids
        return logits

    def attends(self, batch: Batch, last: int | None) -> Tensor:
        """Return the token that the last word is read from, which sees what is before it."""
        del last
        return known(self._places, batch.labels).amax(-1)

    def place(self, ids: Tensor, last: int | None) -> Tensor | None:
        """Return None: an answer is read from several tokens."""
        del ids, last
        return None

    def losses(self, answers: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy of each example's words, [example]."""
        wanted, real = self._of(labels)
        loss = nn.functional.cross_entropy(answers.transpose(1, 2), wanted, reduction="none")
        return (loss * real).sum(-1) / real.sum(-1)

    def margins(self, answers: Tensor, labels: Tensor) -> Tensor:
        """Return the tag's logit minus the best other's of the word where that is least, [example].

        A tie that the tag wins, as the first of the best, counts as won by next to nothing.
        """
        wanted, real = self._of(labels)
        own = answers.gather(-1, wanted[..., None])
        margins = own[..., 0] - answers.scatter(-1, wanted[..., None], -torch.inf).amax(-1)
        won = (margins == 0) & (answers.argmax(-1) == wanted)
        margins = margins.masked_fill(won, torch.finfo(margins.dtype).tiny)
        return margins.masked_fill(~real, torch.inf).amin(-1)

    @cached_property
    def _width(self) -> int:
        """How many words answers hold: no row is read beyond, however long it is."""
        read = (word for row in self.places for word, place in enumerate(row) if place >= 0)
        return 1 + max(read, default=0)

    @cached_property
    def _places(self) -> Tensor:
        return _padded([row[: self._width] for row in self.places], -1)

    @cached_property
    def _tags(self) -> Tensor:
        return _padded([row[: self._width] for row in self.tags], 0)

    def _of(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return tags, and which of them are of words that the model reads, [example, word]."""
        return known(self._tags, labels), known(self._places, labels) >= 0


TAGGING = Tagging()
IOB2 = "tags follow IOB2: B-X begins a span, I-X goes on with it, O is outside"


def _glues(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether words given one by one become other tokens than with a space between.

    Those of GPT-2 and RoBERTa do, unless they were saved to put a space before each.
    """
    apart = tokenizer([["a", "a"]], is_split_into_words=True, add_special_tokens=False)
    running = tokenizer(["a a"], add_special_tokens=False)
    found = apart["input_ids"][0]
    return tokenizer.unk_token_id not in found and found != running["input_ids"][0]


def words_of(text: str) -> list[str]:
    """Return the words of a row of a split."""
    return text.split(SPACE)


def spans(tags: Sequence[str]) -> set[Span]:
    """Return the spans that tags of words mean; an ``I-X`` behind something else begins one."""
    found: set[Span] = set()
    start, kind = 0, ""  # of the span that is open; no kind: none is
    for place, tag in enumerate([*tags, OUTSIDE]):
        name = kind_of(tag)
        if tag.startswith("I-") and name == kind != "":
            continue
        if kind:
            found.add((start, place, kind))
        start, kind = place, name if name != tag else ""
        if tag != OUTSIDE and not kind:
            found.add((place, place + 1, tag))
    return found


def kind_of(tag: str) -> str:
    """Return the type of span that a tag is of: what is behind ``B-`` or ``I-``, or itself."""
    how, _, name = tag.partition("-")
    return name if how in ("B", "I") and name else tag


def matched(said: Sequence[str], true: Sequence[str]) -> tuple[int, int, int]:
    """Return how many spans are found, how many are wrong, and how many true ones are missed."""
    ours, theirs = spans(said), spans(true)
    hits = len(ours & theirs)
    return hits, len(ours) - hits, len(theirs) - hits


def stray_in(tags: Sequence[str]) -> str | None:
    """Return in words which tag goes on with a span that is not open; None: none does."""
    before = OUTSIDE
    for number, tag in enumerate(tags, start=1):
        how, _, name = tag.partition("-")
        if how == "I" and name and before not in (f"B-{name}", tag):
            return f"word {number} has the tag {shortened(tag)} without B-{shortened(name)} before"
        before = tag
    return None


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True, value)


def _lists(table: Table, name: str, option: str) -> list[list[Any]]:
    """Return a column of lists; raises UserError."""
    found = []
    for row, cell in enumerate(table.column(name, option)):
        listed = [] if is_missing(cell) else as_list(cell)
        if listed is None:
            raise UserError(f"{table.cell(name, row)} is no list: {shown(cell)}", FORM)
        found.append(listed)
    return found


def _check_row(
    table: Table, text: str, columns: Columns, number: int, words: list[Any], tags: list[Any]
) -> None:
    """Refuse a row without words, with words that are none, or without a tag for each."""
    option = columns.option("text")
    if not words:
        raise UserError(
            f"{table.cell(text, number)} has no words",
            "remove the row, or leave such rows out with --column drop_empty=yes",
        )
    for word in words:
        told = text_cell(table, text, option, number, word)
        if not told or SPACE in told:
            raise UserError(
                f"{table.cell(text, number)}: {shown(word)} is not one word",
                "give every word by itself, without spaces",
            )
    if len(tags) != len(words):
        raise UserError(
            f"{table.source}: row {table.number(number)} has {len(words)} words and {len(tags)} "
            "tags",
            "give every word one tag",
        )
