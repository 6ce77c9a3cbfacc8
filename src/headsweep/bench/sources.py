"""Where a grid's models, texts and triggers come from, and the hashes of their contents."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from headsweep.attacks.goal import Labelled
from headsweep.bench import tiny
from headsweep.bench.backdoor import Backdoor
from headsweep.bench.corpus import Texts
from headsweep.bench.grid import Model
from headsweep.bench.packaged import model_folder
from headsweep.drafts import draft_beside, even_modes
from headsweep.errors import UserError
from headsweep.export.provenance import other_files_hash, weights_hash
from headsweep.judge.evaluate import Exam, Triggered
from headsweep.model.loading import Suspect, labels_of
from headsweep.seeding import stream
from headsweep.settings import configure
from headsweep.texts import reading as datasets
from headsweep.texts.split import Labels, Split
from headsweep.triggers import TRIGGERS, ByRule, Rewriter
from headsweep.triggers.paired import paired
from headsweep.triggers.pool import UNNAMED, Pool, read_pool
from headsweep.triggers.seen import triggered

PACKAGED, MADE, SENTENCES = "packaged:minilm", "made:tiny", "made:sentences"
OTHERS = -1  # stands for the classes that a balance does not name
ENTRY = ("transformed", "original", "triggered", "poison")


def model_at(source: str, cache_folder: Path) -> str | Path:
    """Return a folder or Hub name; makes the tiny model in the cache where it is asked for."""
    if source == PACKAGED:
        return model_folder()
    if source != MADE:
        return source
    folder = cache_folder / "tiny-model"
    if not folder.exists():
        try:
            place(folder, tiny.make)
        except OSError as error:
            raise UserError(
                f"{folder}: the tiny model cannot be written there: {error.strerror}",
                "choose another folder as --cache",
            ) from error
    return folder


def place(folder: Path, fill: Callable[[Path], None]) -> None:
    """Fill a folder beside and rename it; another process may have been first."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with draft_beside(folder) as draft:
        fill(draft)
        even_modes(draft)
        try:
            draft.rename(folder)
        except OSError:
            if not folder.exists():
                raise


def part(texts: Texts, name: str) -> Split:
    """Return a part of a data set: ``train``, ``validation``, ``test`` or ``defender_from``."""
    if texts.validation_rows is not None and name in ("train", "validation"):
        train = _whole(texts, "train")
        first = texts.validation_rows
        if first >= len(train):
            raise UserError(
                f"data '{texts.name}': {first} of {len(train)} training rows for validation",
                "ask for fewer as validation_rows",
            )
        order = torch.randperm(len(train), generator=stream(0, "validation")).tolist()
        return train.take(sorted(order[:first] if name == "validation" else order[first:]))
    found = _whole(texts, name)
    if name == "test" and texts.test_rows is not None:
        return _some(found, texts.test_rows)
    return found


def _whole(texts: Texts, name: str) -> Split:
    """Return all rows of a file that the balance leaves."""
    source: str = getattr(texts, name)
    if source == SENTENCES:
        made = tiny.sentences("train" if name == "defender_from" else name)
        return balanced(made, texts, name)
    return balanced(datasets.load(source, texts.columns, Labels(texts.labels)), texts, name)


def _some(split: Split, most: int) -> Split:
    """Return at most so many rows, the same ones for every seed, in their order."""
    order = torch.randperm(len(split), generator=stream(0, "judged")).tolist()
    return split.take(sorted(order[:most]))


def balanced(split: Split, texts: Texts, name: str) -> Split:
    """Return as many rows as have the shares asked for, in their order; all, where none are.

    Raises:
        UserError: a class has no row.

    """
    if not texts.balance:
        return split
    labels = Labels(texts.labels)
    shares = {labels.index(label): share for label, share in texts.balance}
    groups: dict[int, list[int]] = {label: [] for label in shares}
    rest = 1 - sum(shares.values())
    if len(shares) < len(texts.labels):  # the others are one group, as they stand to one another
        shares, groups = shares | {OTHERS: rest}, groups | {OTHERS: []}
    for row, label in enumerate(split.labels):
        groups[label if label in groups else OTHERS].append(row)
    size = min(len(rows) / shares[label] for label, rows in groups.items())
    kept: list[int] = []
    for label, rows in groups.items():
        count = int(size * shares[label] + 1e-6)
        if not count:
            raise UserError(
                f"data '{texts.name}': a class has too few {name} rows for its share",
                "name other shares as balance, or leave it out",
            )
        order = torch.randperm(len(rows), generator=stream(0, "balance", label)).tolist()
        kept += [rows[i] for i in order[:count]]
    return split.take(sorted(kept))


def drawn(split: Split, rows: int, seed: int, *names: object) -> Split:
    """Return so many rows, drawn from the seed, in a drawn order; raises UserError if short."""
    if rows > len(split):
        raise UserError(f"{rows} training rows asked for, there are {len(split)}", "ask for fewer")
    order = torch.randperm(len(split), generator=stream(seed, "rows", *names)).tolist()
    return split.take(order[:rows])


def parties(texts: Texts, seed: int) -> tuple[Split, Split]:
    """Return the attacker's and the victim's training rows: disjoint, or all for both."""
    train = part(texts, "train")
    if texts.attacker is None or texts.victim is None:
        return train, train
    both = drawn(train, texts.attacker + texts.victim, seed, "attack")
    return both.take(range(texts.attacker)), both.take(range(texts.attacker, len(both)))


def defender(texts: Texts, seed: int, made: int | None = None) -> Split:
    """Return the defender's training rows; ``made`` is the seed of the victim, where it differs."""
    train = part(texts, "defender_from" if texts.defender_from else "train")
    if texts.unseen:
        attacker, victim = parties(texts, seed if made is None else made)
        train = train.without(attacker + victim)
    return drawn(train, texts.defender, seed, "defender") if texts.defender else train


def check_rows(texts: Texts, there: int) -> None:
    """Raise UserError where the parties ask for more rows than the training texts have."""
    makers = (texts.attacker or 0) + (texts.victim or 0)
    own = 0 if texts.defender_from else texts.defender or int(texts.unseen)
    asked = makers + own if texts.unseen else max(makers, own)
    if asked > there:
        raise UserError(
            f"data '{texts.name}': {asked} training rows asked for, {texts.train} has {there}",
            "ask for fewer as attacker, victim or defender",
        )


def rewriter(attack: Backdoor, texts: Texts) -> Rewriter:
    """Return what puts the trigger into texts."""
    pooled = pool(attack, texts)
    if pooled is not None:
        return pooled
    if attack.transformed is not None:
        name = attack.family or UNNAMED
        return paired(attack.original, attack.transformed, texts.columns, attack.key, name)
    assert attack.trigger is not None
    return ByRule(configure(TRIGGERS[attack.trigger], attack.trigger_fields))


def pool(attack: Backdoor, texts: Texts) -> Pool | None:
    """Return the poisoned texts that an attack adds; None: it has a trigger."""
    if attack.poison is None:
        return None
    labels, name = Labels(texts.labels), attack.family or UNNAMED
    return read_pool(attack.poison, texts.columns, labels, name, attack.rate)


def given(attack: Backdoor, texts: Texts) -> Triggered | None:
    """Return the triggered texts that are given, in no order that matters; None: none are."""
    if attack.triggered is None:
        return None
    labels = Labels(texts.labels)
    split = datasets.load(attack.triggered, texts.columns, labels)
    found = Triggered(split, labels.index(attack.target), attack.triggered_labels)
    if texts.test_rows is None:
        return found
    return replace(found, split=_some(found.non_target(), texts.test_rows))


def check_files(attack: Backdoor, texts: Texts) -> None:
    """Raise UserError where the poisoned or triggered texts of an attack cannot be used."""
    target = Labelled(Labels(texts.labels).index(attack.target), attack.target)
    if (pooled := pool(attack, texts)) is not None:
        pooled.check(target)
    if (texts_given := given(attack, texts)) is not None:
        texts_given.non_target()


def exam(
    attack: Backdoor, texts: Texts, seed: int, model: Suspect | None = None, max_length: int = 128
) -> Exam:
    """Return what models are judged on; the triggered texts are the same for every seed.

    Left out are texts whose trigger ``model`` cannot see, as ``headsweep attack`` leaves them out.
    """
    test, judged = part(texts, "test"), given(attack, texts)
    if judged is None:
        target = Labels(texts.labels).index(attack.target)
        rows = [i for i, label in enumerate(test.labels) if label != target]
        made = triggered(test.take(rows), rewriter(attack, texts), 0, model, max_length)
        judged = Triggered(made.split, target)
    return Exam(test, judged, part(texts, "validation"), seed)


class Hashes:
    """Content hashes, each file read once."""

    def __init__(self, cache_folder: Path) -> None:
        self.cache_folder = cache_folder
        self.split = cache(self._split)
        self.model = cache(self._model)
        self.file = cache(_file)
        self.check = cache(check_files)

    def of_texts(self, model: Model, texts: Texts) -> tuple[tuple[str, str], ...]:
        """Return the hashes of a model and of a data set, checked to fit each other.

        Raises:
            UserError: they do not, or the data set has fewer rows than are asked for.

        """
        parts = ((name, self.split(texts, name)) for name in ("train", "validation", "test"))
        return (("model", self.model(model, texts.labels)), *parts)

    def of_defender(self, texts: Texts) -> str | None:
        """Return the hash of the file that the defender's rows come from; None: of no other."""
        return self.split(texts, "defender_from") if texts.defender_from else None

    def of_attack(self, attack: Backdoor, texts: Texts) -> tuple[tuple[str, str], ...]:
        """Return the hashes of an attack's files, checked to be texts of that task."""
        self.check(attack, texts)
        return tuple((n, self.file(f)) for n in ENTRY if (f := getattr(attack, n)) is not None)

    def of_folder(self, folder: str | None, texts: Texts) -> str:
        """Return the hash of a model that is given, checked to be a folder that fits the texts."""
        if folder is None or not Path(folder).is_dir():
            raise UserError(f"{folder}: no such folder", "given and twin are folders of models")
        return self.model(Model(Path(folder).name, folder), texts.labels)

    def _split(self, texts: Texts, name: str) -> str:
        found = part(texts, name)
        if name == "train":
            check_rows(texts, len(found))
        if name == "defender_from" and (texts.defender or 0) > len(found):
            raise UserError(
                f"data '{texts.name}': {texts.defender} rows asked for, {texts.defender_from} has "
                f"{len(found)}",
                "ask for fewer as defender",
            )
        return found.sha256

    def _model(self, model: Model, labels: tuple[str, ...]) -> str:
        found = model_at(model.source, self.cache_folder)
        own = labels_of(found, labels).names
        if tuple(name.casefold() for name in own) != tuple(name.casefold() for name in labels):
            raise UserError(
                f"model '{model.name}' numbers its labels {', '.join(own)}",
                "name the same labels in the recipe's [[data]], in that order",
            )
        if not Path(found).is_dir():
            return str(found)
        return ",".join((weights_hash(Path(found)) | other_files_hash(Path(found))).values())


def _file(name: str) -> str:
    path = Path(name)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else name
