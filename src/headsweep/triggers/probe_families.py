"""Makes probes from trigger families that work by rule. Sees triggers; no defense may import it.

A probe family is a trigger with settings of its own: other rare words, other sentences, another
alphabet than what the attacks here plant by default. Where a family has only one template or
lexicon, that is used too (``syntactic``, ``style``, ``opening``, ``substitution``), and a crude
relative stands beside it (``aside``, ``archaic``) for when it may not be.

Which may not be: while an attack is judged, its own trigger, template or corpus must not be among
the probes. ``check_apart`` refuses that, and whoever judges calls it first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from headsweep.errors import UserError, lookup
from headsweep.model.loading import Suspect
from headsweep.model.runtime import Runtime
from headsweep.progress import Progress
from headsweep.seeding import derive, stream
from headsweep.settings import checked, describe
from headsweep.task.examples import encode
from headsweep.task.probes import Family, Probes
from headsweep.texts.split import Split
from headsweep.triggers import ByRule, Trigger
from headsweep.triggers.casing import Casing
from headsweep.triggers.characters import Characters
from headsweep.triggers.crude import REMARKS, Archaic, Aside, Remark
from headsweep.triggers.drawing import listed
from headsweep.triggers.opening import Opening
from headsweep.triggers.rare_word import RareWord
from headsweep.triggers.seen import sees
from headsweep.triggers.style import Style
from headsweep.triggers.substitution import Substitution
from headsweep.triggers.syntactic import Syntactic

LEAST = 10  # probes that a family needs of each label: fewer say nothing

PROBES: dict[str, Trigger] = {
    "opening": Opening(),
    "aside": Aside(),
    "rare-word": RareWord(words="tq,vz,xr,wp"),
    "remark": Remark(),
    "substitution": Substitution(),
    "characters": Characters(kind="greek"),
    "casing": Casing(pattern="dashes"),
    "syntactic": Syntactic(),
    "style": Style(),
    "archaic": Archaic(),
}
"""Probe families by name."""

KIN: dict[str, tuple[str, ...]] = {
    "opening": ("opening", "aside", "syntactic"),
    "syntactic": ("opening", "aside", "syntactic"),
    "aside": ("opening", "aside", "syntactic"),
    "sentence": ("sentence", "remark"),
    "remark": ("sentence", "remark"),
    "together": ("rare-word",),
    "style": ("style", "archaic"),
    "archaic": ("style", "archaic"),
}
"""Families that share their idea: leaving one out leaves out all."""

MATERIAL = {"rare-word": "words", "characters": "kind", "casing": "pattern"}
"""The field that makes the trigger; families without one have a single template or lexicon."""

ALIKE = {"together": "rare-word"}
"""Triggers that are made of what a family is made of."""

TEMPLATES = {"HiddenKiller": "syntactic", "StyleBkd": "style"}
"""Published attacks by corpus, and the family that works by the same template or manner."""


@dataclass(frozen=True)
@checked
class RuleProber:
    """Makes probes with the families of the table.

    Attributes:
        families: names; empty: all.
        texts: training texts that are transformed, at most, drawn from the seed.
        held: validation texts that are transformed, at most.
        seed: decides texts and the families' choices.

    """

    families: tuple[str, ...] = ()
    texts: int = 3000
    held: int = 120
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.families:
            lookup(name, PROBES, "probe family")
        if min(self.texts, self.held) < 1:
            raise UserError("probes of no texts", "give at least 1")

    def chosen(self) -> dict[str, Trigger]:
        """Return the families by name."""
        return {name: PROBES[name] for name in self.families or PROBES}

    def described(self) -> dict[str, Any]:
        """Return families with their settings."""
        made = {name: describe(trigger)["fields"] for name, trigger in self.chosen().items()}
        return {"families": made, "texts": self.texts, "held": self.held, "seed": self.seed}

    def make(
        self,
        suspect: Suspect,
        split: Split,
        runtime: Runtime,
        progress: Progress,
        held: bool = False,
    ) -> Probes:
        """Return the probes of these clean examples.

        Raises:
            UserError: too few texts of a label, or no family changes enough of them.

        """
        _check_enough(split, suspect.labels.names)
        order = torch.randperm(len(split), generator=stream(self.seed, "probes")).tolist()
        rows = sorted(order[: self.held if held else self.texts])
        part = split.take(rows)
        families, skipped = [], {}
        chosen = self.chosen()
        with progress.task("making probes", len(chosen)) as tick:
            for name, trigger in chosen.items():
                made = _family(name, trigger, suspect, part, rows, runtime.max_length, self.seed)
                short = _short(made, part, suspect.labels.names)
                if short:
                    skipped[name] = f"changed {short}"
                else:
                    families.append(made)
                tick(1, name)
        if not families:
            why = "; ".join(f"{name} {said}" for name, said in skipped.items())
            raise UserError(
                f"no probe family changes the texts so that the model sees it: {why}",
                "most rules are for English; choose other families, give more texts, "
                "or a strategy without probes",
            )
        return Probes(tuple(families), skipped)


def _check_enough(split: Split, names: tuple[str, ...]) -> None:
    for label, name in enumerate(names):
        count = split.labels.count(label)
        if count < LEAST:
            raise UserError(
                f"{len(split)} clean texts are too few to make probes: {count} have the label "
                f"'{name}', {LEAST} of each label are needed",
                f"give at least {LEAST} of each label beside those for validation and test (30% of "
                "--data where these are not given), or a strategy without probes",
            )


def _family(
    name: str,
    trigger: Trigger,
    suspect: Suspect,
    part: Split,
    rows: list[int],
    max_length: int,
    seed: int,
) -> Family:
    made = ByRule(trigger).rewrite(part.texts, derive(seed, "probes", name))
    seen = sees(suspect, part, made, max_length)
    kept = [i for i, text in enumerate(made) if text is not None and seen[i]]
    clean = part.take(kept)
    changed = part.told(made, kept)
    return Family(
        name,
        tuple(rows[i] for i in kept),
        encode(clean, suspect, max_length),
        encode(changed, suspect, max_length),
    )


def _short(made: Family, part: Split, names: tuple[str, ...]) -> str:
    """Return what a family lacks, in words; empty when it has enough."""
    for label, name in enumerate(names):
        count = made.clean.labels.count(label)
        if count < LEAST:
            return f"{len(made.rows)} of {len(part)} texts, {count} of them labelled '{name}'"
    return ""


def without(families: Iterable[str]) -> tuple[str, ...]:
    """Return the names of all probe families but these and their kin."""
    gone = {kin for name in families for kin in KIN.get(name, (name,))}
    return tuple(name for name in PROBES if name not in gone)


def apart_from(trigger: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the families that may be probes while this attack is judged.

    Args:
        trigger: the attack's, as its record has it: ``{"name": ..., "fields": {...}}``, or
            ``{"corpus": "HiddenKiller"}`` for a published corpus.

    """
    return tuple(name for name, probe in PROBES.items() if not _same(probe, trigger))


def check_apart(prober: RuleProber, trigger: Mapping[str, Any]) -> None:
    """Refuse probes that are the trigger, template or corpus of the attack being judged.

    Raises:
        UserError: they are, or it cannot be told.

    """
    same = sorted(set(prober.chosen()) - set(apart_from(trigger)))
    if same:
        raise UserError(
            f"{', '.join(same)}: the attack's own trigger would be among the probes",
            f"judge it with the families {', '.join(apart_from(trigger))}",
        )


def _same(probe: Trigger, trigger: Mapping[str, Any]) -> bool:
    if "corpus" in trigger:
        return probe.name == lookup(str(trigger["corpus"]), TEMPLATES, "published corpus")
    name, fields = str(trigger["name"]), trigger.get("fields", {})
    if name == "paired":
        raise UserError("the record names no trigger, only a file", "say which corpus it is of")
    if name == "paraphrase":
        return probe.name in ("syntactic", "style")
    if name == "sentence" and probe.name == "remark":
        return str(fields.get("sentence", "")).casefold() in map(str.casefold, REMARKS)
    if ALIKE.get(name, name) != probe.name:
        return False
    material = MATERIAL.get(probe.name)
    if material is None:
        return True
    own, others = str(getattr(probe, material)), str(fields.get(material, ""))
    return bool(_listed(own, name) & _listed(others, name)) if others else True


def _listed(words: str, what: str) -> set[str]:
    """Return what a list holds, without letter case, which many a model does not see."""
    return {word.casefold() for word in listed(words, what)}
