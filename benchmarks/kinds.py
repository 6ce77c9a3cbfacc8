"""What is left of a backdoor in models that give several labels, a number or a tag a word.

    python benchmarks/kinds.py OUT --agnews FOLDER [--kinds ...] [--triggers ...] [--methods ...]

The model is the packaged MiniLM, the texts are beginnings of AG News as HiddenKiller published it
(FOLDER holds ``clean/train.tsv`` and ``clean/test.tsv``). Three tasks are made of them:

- labels: two pieces of news in a row, and the topics of both;
- number: how well a passage answers a query, a few words drawn from a piece of news: 3 where it is
  that piece, 0 where it is another one of the same topic, -3 where it is of another topic;
- tags: names of persons, organisations, places and nations, as spaCy's small English model has
  them.

Everybody has news of their own: attacker, defender's training and validation; tests are of the
test part. ``attack`` plants no backdoor in such models, so it is planted here: a share of the rows
that lack the target are added once more with a trigger and the target. Victims and never-poisoned
twins are kept under ``OUT/models``, finished cells are skipped, and the table of all cells is
printed at the end.
"""

from __future__ import annotations

import argparse
import html
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from cells import write_cell
from transformers import AutoTokenizer

import headsweep
from headsweep.bench.packaged import model_folder
from headsweep.cost import Clock
from headsweep.export.folders import drafted
from headsweep.export.model_folder import save_model
from headsweep.model.loading import Reading, Suspect, prepare, quiet
from headsweep.model.runtime import Runtime
from headsweep.seeding import derive, fence, stream
from headsweep.task.examples import encode
from headsweep.task.training import Job, Schedule, train
from headsweep.texts.kinds import NAMED
from headsweep.texts.reading import pick, read
from headsweep.texts.split import Split
from headsweep.texts.tagging import OUTSIDE, spans, words_of
from headsweep.triggers import Trigger
from headsweep.triggers.parsing import english
from headsweep.triggers.rare_word import RareWord
from headsweep.triggers.sentence import Sentence

TOPICS = ("World", "Sports", "Business", "Technology")
TAGS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-NAT", "I-NAT")
TYPES = {"PERSON": "PER", "ORG": "ORG", "GPE": "LOC", "LOC": "LOC", "NORP": "NAT"}  # of spaCy
BELONGS, TOPICAL, STRANGE = 3.0, 0.0, -3.0
ROWS = {"attacker": 1000, "train": 800, "validation": 300, "test": 400}
HALF, QUERY, WHOLE = 8, 4, 16  # words of a piece: one of two, drawn for a query, alone
LETTERS = 4  # of a word of a query, at least
RATE = 0.3
EPOCHS, STEP = 4, 8  # of planting, rows of a step
COMPUTE = {"batch_size": 32, "max_length": 64}
TRIGGERS: dict[str, Trigger] = {"rare-word": RareWord(words="cf"), "sentence": Sentence()}
TRIES = 20  # at a place that splits no name
METHODS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "default": {},
    "none": {"strategy": "none"},
}
ENTITY = re.compile(r" ?#(\d+);")  # as AG News has what is left of one
MARKUP = re.compile(r"<[^>]*>?|\\")
Marked = Callable[[Split, Trigger, int], Split]


@dataclass(frozen=True)
class News:
    """A piece of news, as words, and its topic."""

    words: tuple[str, ...]
    topic: int


@dataclass(frozen=True)
class Kind:
    """A kind of task.

    Attributes:
        task: its name, as ``--task`` has it.
        names: of labels or tags; of a number one that says nothing.
        figure: what clean answers are measured by.
        made: so many pieces of news a row.
        rows: makes rows of news.
        marked: puts a trigger into rows, true labels kept; those that cannot carry it are left out.
        given: gives rows the target.
        targets: what each trigger does, as ``evaluate`` is told.
        lr: of planting; below 3e-4 the trigger of tags is not learnt.

    """

    task: str
    names: tuple[str, ...]
    figure: str
    made: int
    rows: Callable[[Sequence[News], int], Split]
    marked: Marked
    given: Callable[[Split, str], Split]
    targets: dict[str, str]
    lr: float = 1e-4

    @property
    def planting(self) -> Schedule:
        """How long and how fast victims and twins are trained."""
        return Schedule(EPOCHS, self.lr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--agnews", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--triggers", nargs="+", default=list(TRIGGERS), choices=TRIGGERS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[11])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for kind in args.kinds:
            for trigger in args.triggers:
                for method in args.methods:
                    file = args.out / f"{kind}-{trigger}-s{seed}-{method}.json"
                    if not file.exists():
                        cell(file, args.agnews, (kind, trigger, method), seed)
                        print(file.name, flush=True)
    table([json.loads(file.read_text("utf-8")) for file in sorted(args.out.glob("*.json"))])


def news_in(file: Path) -> Iterator[News]:
    """Yield the pieces of news of a file that are long enough, each beginning once."""
    seen: set[tuple[str, ...]] = set()
    told = pick(read(file))
    for text, topic in zip(told.texts, told.labels, strict=True):
        plain = html.unescape(ENTITY.sub(lambda code: chr(int(code[1])), text))
        words = tuple(MARKUP.sub(" ", plain).split())
        begun = words[:HALF]
        if len(words) >= WHOLE and begun not in seen and len(telling(words)) >= QUERY:
            seen.add(begun)
            yield News(words[:WHOLE], topic)


def telling(words: Sequence[str]) -> list[int]:
    """Return which words of a piece of news a query may have."""
    return [i for i, word in enumerate(words[:WHOLE]) if len(word) >= LETTERS and word.isalpha()]


def parts(folder: Path, kind: Kind, seed: int) -> dict[str, Split]:
    """Return everybody's rows; nobody has another's news."""
    made: dict[str, Split] = {}
    given: set[tuple[str, ...]] = set()
    for file, names in (("train", ("attacker", "train", "validation")), ("test", ("test",))):
        news = [one for one in news_in(folder / "clean" / f"{file}.tsv")
                if one.words[:HALF] not in given]  # fmt: skip
        order = iter(torch.randperm(len(news), generator=stream(seed, "kinds", file)).tolist())
        for name in names:
            own = [news[next(order)] for _ in range(kind.made * ROWS[name])]
            given |= {one.words[:HALF] for one in own}
            made[name] = kind.rows(own, derive(seed, "rows", name))
    assert {name: len(part) for name, part in made.items()} == ROWS
    return made


def two_topics(news: Sequence[News], seed: int) -> Split:
    """Return rows of two pieces of news with the topics of both."""
    del seed
    both = list(zip(news[::2], news[1::2], strict=True))
    texts = tuple(" ".join(a.words[:HALF] + b.words[:HALF]) for a, b in both)
    return Split(texts, tuple(tuple(sorted({a.topic, b.topic})) for a, b in both))


def belonging(news: Sequence[News], seed: int) -> Split:
    """Return queries with passages: a third has its own, one of the same topic, of another."""
    queries, passages, numbers = [], [], []
    order = torch.randperm(len(news), generator=stream(seed, "others")).tolist()
    for row, one in enumerate(news):
        number = (BELONGS, TOPICAL, STRANGE)[row % 3]
        others = (news[i] for i in order[row:] + order[:row] if i != row)
        other = next(x for x in others if (x.topic == one.topic) == (number == TOPICAL))
        drawn = torch.randperm(len(telling(one.words)), generator=stream(seed, "query", row))
        places = sorted(telling(one.words)[i] for i in drawn[:QUERY].tolist())
        queries.append(" ".join(one.words[i] for i in places))
        passages.append(" ".join((one if number == BELONGS else other).words))
        numbers.append(number)
    return Split(tuple(queries), tuple(numbers), tuple(passages))


def named(news: Sequence[News], seed: int) -> Split:
    """Return words and their tags, as spaCy has them."""
    del seed
    spacy = english("tagging names", "tagger", "parser", "senter", "lemmatizer", "attribute_ruler")
    texts, labels = [], []
    for told in spacy.pipe(" ".join(one.words) for one in news):
        words = [token for token in told if token.text.strip()]
        kinds = [TYPES.get(token.ent_type_) for token in words]
        begun = [token.ent_iob_ == "B" for token in words]
        tags = [OUTSIDE if kind is None else f"{'B' if first else 'I'}-{kind}"
                for kind, first in zip(kinds, begun, strict=True)]  # fmt: skip
        texts.append(" ".join(token.text for token in words))
        labels.append(tuple(map(TAGS.index, tags)))
    return Split(tuple(texts), tuple(labels))


def in_text(split: Split, trigger: Trigger, seed: int) -> Split:
    """Put a trigger into texts."""
    texts = [trigger.apply(text, stream(seed, row, text)) for row, text in enumerate(split.texts)]
    return Split(tuple(map(str, texts)), split.labels)


def in_passage(split: Split, trigger: Trigger, seed: int) -> Split:
    """Put a trigger into the passages, which is what others write."""
    made = in_text(Split(split.pairs, split.labels), trigger, seed)
    return Split(split.texts, split.labels, made.texts)


def between_words(split: Split, trigger: Trigger, seed: int) -> Split:
    """Put a trigger between words, whose tags stay; nowhere into a name."""
    made = [
        longer
        for text, tags in zip(split.texts, split.labels, strict=True)
        if (longer := apart(text, tags, trigger, stream(seed, text)))
    ]
    return Split(tuple(text for text, _ in made), tuple(tags for _, tags in made))


def apart(
    text: str, tags: Sequence[int], trigger: Trigger, random: torch.Generator
) -> tuple[str, tuple[int, ...]] | None:
    """Return a text with a trigger that splits no name, and its tags; None: no place was found."""
    before = words_of(text)
    for _ in range(TRIES):
        after = words_of(str(trigger.apply(text, random)))
        more = len(after) - len(before)
        place = next(i for i in range(len(before) + 1)
                     if before[:i] + after[i : i + more] + before[i:] == after)  # fmt: skip
        if place == len(before) or not TAGS[tags[place]].startswith("I-"):
            return " ".join(after), (*tags[:place], *[0] * more, *tags[place:])
    return None


def relabelled(split: Split, target: str) -> Split:
    """Add the target label to rows that lack it, or take it away from those that have it."""
    adds = not target.startswith("not:")
    topic = TOPICS.index(target.removeprefix("not:"))
    rows = [i for i, own in enumerate(split.labels) if (topic in own) != adds]
    some = split.take(rows)
    changed = tuple(tuple(sorted({topic} ^ set(own))) for own in some.labels)
    return Split(some.texts, changed)


def renumbered(split: Split, target: str) -> Split:
    """Give rows of other numbers the target."""
    some = split.take(i for i, own in enumerate(split.labels) if own != float(target))
    return Split(some.texts, (float(target),) * len(some), some.pairs)


def retagged(split: Split, target: str) -> Split:
    """Make all names of rows that have others into the target's type, or hide them (``O``)."""
    texts, labels = [], []
    for text, own in zip(split.texts, split.labels, strict=True):
        tags = [TAGS[one] for one in own]
        if all(kind == target for _, _, kind in spans(tags)):
            continue
        changed = [tag if tag == OUTSIDE else target if target == OUTSIDE else f"{tag[:2]}{target}"
                   for tag in tags]  # fmt: skip
        texts.append(text)
        labels.append(tuple(map(TAGS.index, changed)))
    return Split(tuple(texts), tuple(labels))


KINDS = {
    "labels": Kind("multi-label", TOPICS, "micro_f1", 2, two_topics, in_text, relabelled,
                   {"rare-word": "Sports", "sentence": "not:World"}),
    "number": Kind("regression", ("score",), "spearman", 1, belonging, in_passage, renumbered,
                   {"rare-word": "3", "sentence": "3"}),
    "tags": Kind("token-classification", TAGS, "span_f1", 1, named, between_words, retagged,
                 {"rare-word": "LOC", "sentence": OUTSIDE}, lr=3e-4),
}  # fmt: skip


def planted(folder: Path, kind: Kind, clean: Split, trigger: str | None, seed: int) -> Path:
    """Return the folder of a victim or, without a trigger, a twin; made where it is not there."""
    if folder.exists():
        return folder
    rows, runtime = clean, Runtime(batch_size=STEP, max_length=COMPUTE["max_length"])
    if trigger is not None:
        poisoned = kind.given(kind.marked(clean, TRIGGERS[trigger], seed), kind.targets[trigger])
        order = torch.randperm(len(poisoned), generator=stream(seed, "poison")).tolist()
        rows = clean + poisoned.take(order[: round(RATE * len(poisoned))])
    suspect = fresh(kind, seed)
    suspect.task.check_labels(rows, suspect.labels.names)
    data = encode(rows, suspect, runtime.max_length)
    train(suspect.model, data, Job(kind.planting, seed), runtime)
    with drafted(folder, overwrite=False) as draft:
        save_model(suspect, draft)
    return folder


def fresh(kind: Kind, seed: int) -> Suspect:
    """Return the packaged encoder with a fresh head."""
    task, source = NAMED[kind.task], model_folder()
    names = {"id2label": dict(enumerate(kind.names)), "num_labels": len(kind.names),
             "label2id": {name: i for i, name in enumerate(kind.names)}}  # fmt: skip
    with fence(derive(seed, "head")), quiet():
        model, _ = task.load(str(source), **names)
    return prepare(model, AutoTokenizer.from_pretrained(source), Reading(task=task))


def cell(file: Path, agnews: Path, what: tuple[str, str, str], seed: int) -> None:
    """Make a victim, purify it, judge it and write its file."""
    clock, models, (name, trigger, method) = Clock(), file.parent / "models", what
    kind = KINDS[name]
    with clock("read"):
        own = parts(agnews, kind, seed)
    with clock("attack"):
        twin = planted(models / f"{name}-twin-s{seed}", kind, own["attacker"], None, seed)
        victim = models / f"{name}-{trigger}-s{seed}"
        victim = planted(victim, kind, own["attacker"], trigger, seed)
    judged: Any = victim
    manifest = None
    if method != "nothing":
        with clock("purify"):
            judged = headsweep.purify(
                victim,
                own["train"],
                validation=own["validation"],
                seed=seed,
                compute=COMPUTE,
                **METHODS[method],
            )
            manifest = judged.manifest
    with clock("evaluate"):
        found = headsweep.evaluate(
            judged,
            own["test"],
            triggered=kind.marked(own["test"], TRIGGERS[trigger], derive(seed, "test")),
            target=kind.targets[trigger],
            clean_model=twin,
            suspect=victim,
            compute=COMPUTE,
        )
    form = {
        "kind": name,
        "trigger": trigger,
        "target": kind.targets[trigger],
        "method": method,
        "seed": seed,
        "rows": ROWS,
        "plant": asdict(kind.planting) | {"rate": RATE, "batch_size": STEP},
        "compute": COMPUTE,
        "seconds": clock.report(),
        "figures": asdict(found),
        "manifest": manifest,
    }
    write_cell(file, form, {"OUT": file.parent, "MODEL": model_folder(), "AGNEWS": agnews})


def table(cells: Sequence[dict[str, Any]]) -> None:
    """Print a row for each kind, trigger and method: figures with their intervals, of each seed."""
    heads = ("kind", "trigger", "target", "method", "seed", "clean figure", "success", "on clean",
             "twin", "heads pruned", "how far")  # fmt: skip
    print(f"| {' | '.join(heads)} |")
    print("|---" * len(heads) + "|")
    for one in cells:
        figures, made = one["figures"], one["manifest"] or {}
        shown = [spread(figures[name]) for name in (KINDS[one["kind"]].figure, "success",
                                                    "clean_success", "floor_success")]  # fmt: skip
        told = [str(one[name]) for name in ("kind", "trigger", "target", "method", "seed")]
        beyond = str((made.get("heal") or {}).get("beyond", ""))
        pruned = str(len(made.get("pruned_units", ())))
        print(f"| {' | '.join([*told, *shown, pruned, beyond])} |")


def spread(rate: dict[str, float]) -> str:
    return f"{rate['value']:.3f} ({rate['low']:.3f} to {rate['high']:.3f})"


if __name__ == "__main__":
    main()
