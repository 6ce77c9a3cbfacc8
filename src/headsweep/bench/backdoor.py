"""The attacks of a grid: ones that are made, and suspects that are given with their twin.

An attack that is made has a trigger by rule, a published corpus (``transformed``), or a pool of
poisoned texts (``poison``: rows to add as they stand, which triggered test texts go with); it may
``resist`` probe families (``headsweep.attacks.resistance``). One that is given has a folder, the
folder of a clean twin, and triggered test texts: nothing is trained but the defense.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from headsweep.attacks import ATTACKS
from headsweep.attacks.resistance import Resistance
from headsweep.document import Section
from headsweep.errors import lookup
from headsweep.settings import configure
from headsweep.task.training import Schedule
from headsweep.triggers import TRIGGERS, ByRule
from headsweep.triggers.pool import UNNAMED

CORPUS = ("original", "transformed", "key", "triggered", "poison")
GIVEN = ("given", "twin")
MADE = ("method", "rate", "fields", "trigger", "trigger_fields", "original", "transformed", "key",
        "poison", "resist", "resist_share")  # fmt: skip
LATER = ("family", "resist", *GIVEN)  # change no key where they are not set
PLACES = ("original", "transformed", "triggered", "poison", *GIVEN)  # their contents count
ASIDE = ("name", "data")  # decide nothing


@dataclass(frozen=True)
class Backdoor:
    """An attack.

    Attributes:
        name: for tables and file names.
        method: the attack's name, with ``fields`` as ``field=value``.
        target: the label wanted.
        rate: share of the poisoned classes' texts; None, of a pool: all its rows.
        trigger: a trigger by rule with its ``trigger_fields``; None: a published corpus.
        original, transformed, key: the corpus, as ``headsweep attack`` takes it.
        poison: a pool of poisoned texts, as ``headsweep attack`` takes it.
        triggered: triggered test texts; None: the trigger is put into the test part.
        triggered_labels: what their labels mean.
        family: the trigger that a corpus or given texts were made with.
        resist: the probes with true labels that the attacker trains on too.
        given: the folder of a suspect that is there already; None: it is made.
        twin: the folder of its never-poisoned twin.
        data: the data sets that it is made on; empty: all of the grid.

    """

    name: str
    method: str
    target: str
    rate: float | None
    fields: tuple[str, ...] = ()
    trigger: str | None = None
    trigger_fields: tuple[str, ...] = ()
    original: str | None = None
    transformed: str | None = None
    key: str | None = None
    poison: str | None = None
    triggered: str | None = None
    triggered_labels: Literal["true", "target"] = "true"
    family: str | None = None
    resist: Resistance = Resistance()
    given: str | None = None
    twin: str | None = None
    data: tuple[str, ...] = ()

    @property
    def decides(self) -> dict[str, Any]:
        """Return what decides a victim, contents of files apart; what is not set adds nothing."""
        usual = {name: getattr(type(self), name) for name in LATER}
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in (*PLACES, *ASIDE)
            and (name not in LATER or getattr(self, name) != usual[name])
        }

    @property
    def described(self) -> Mapping[str, Any]:
        """Return the trigger as records have it, without reading a file."""
        if self.trigger is None:
            return {"name": self.family or UNNAMED, "fields": {}}
        return ByRule(configure(TRIGGERS[self.trigger], self.trigger_fields)).described()


def read_backdoor(section: Section) -> Backdoor:
    """Read an ``[[attack]]``; raises UserError."""
    known = ("name", "target", "family", "triggered", "triggered_labels", "data")
    section.only(*known, *MADE, *GIVEN)
    read = _given if "given" in section.values else _made
    family, means = section.get("family", str), section.get("triggered_labels", str, "true")
    if family is not None:
        with section.blamed("family"):
            lookup(family, TRIGGERS, "trigger")
    with section.blamed("triggered_labels"):
        lookup(means or "true", {"true": 0, "target": 0}, "meaning of labels")
    common = {"target": section.need("target", str), "triggered_labels": means}
    return read(section, common | {"data": tuple(map(str, section.get("data", list) or ()))})


def _given(section: Section, common: dict[str, Any]) -> Backdoor:
    for key in MADE:
        if key in section.values:
            raise section.mistake(key, f"{key} is of an attack that is made", "leave it out")
    files: dict[str, Any] = {key: section.need(key, str) for key in (*GIVEN, "triggered")}
    name = section.get("name", str, "given") or ""
    return Backdoor(name, "given", rate=0.0, family=section.get("family", str), **files, **common)


def _made(section: Section, common: dict[str, Any]) -> Backdoor:
    if "twin" in section.values:
        raise section.mistake("twin", "a twin is given with its suspect", 'given = "FOLDER"')
    method = section.get("method", str, "dirty-label") or ""
    with section.blamed("method"):
        chosen = lookup(method, ATTACKS, "attack")
    fields = section.section("fields")
    planted = fields.filled(lambda settings: configure(chosen, settings))
    with section.blamed("fields"):
        Schedule(planted.epochs, planted.lr)
    trigger, own = _trigger(section)
    rate = section.get("rate", float, None if "poison" in section.values else 0.3)
    if rate is not None and not 0 < rate <= 1:
        raise section.mistake("rate", f"a poisoning rate of {rate}", "it is a share in (0, 1]")
    files: dict[str, Any] = {key: section.get(key, str) for key in CORPUS}
    made = Backdoor(
        section.get("name", str, trigger or "published") or "",
        method,
        rate=rate,
        fields=tuple(fields.settings()),
        trigger=trigger,
        trigger_fields=own,
        family=section.get("family", str),
        resist=_resistance(section),
        **files,
        **common,
    )
    with section.blamed("resist"):
        made.resist.chosen(made.described)
    return made


def _trigger(section: Section) -> tuple[str | None, tuple[str, ...]]:
    trigger, fields = section.get("trigger", str), section.section("trigger_fields")
    if trigger is not None:
        with section.blamed("trigger"):
            kind = lookup(trigger, TRIGGERS, "trigger")
        fields.filled(lambda settings: configure(kind, settings))
        if "family" in section.values:
            raise section.mistake("family", "a trigger by rule is its own family", "leave it out")
    texts = [key for key in ("transformed", "poison") if section.get(key, str) is not None]
    if (trigger is not None) + len(texts) != 1:
        fix = "give one of them: trigger, transformed or poison"
        raise section.mistake(texts[0] if texts else "trigger", "an attack has one trigger", fix)
    if "poison" in section.values and section.get("triggered", str) is None:
        fix = 'triggered = "FILE", with triggered_labels = "target" where all carry its label'
        raise section.mistake("poison", "no test text can get the trigger of a pool", fix)
    return trigger, tuple(fields.settings())


def _resistance(section: Section) -> Resistance:
    names, share = section.get("resist", list), section.get("resist_share", float)
    if share is not None and not names:
        raise section.mistake("resist_share", "nothing is resisted", 'resist = ["all"]')
    if names and not all(isinstance(name, str) for name in names):
        raise section.mistake("resist", f"resist cannot be {names}", 'names, as in ["all"]')
    with section.blamed("resist"):
        families = Resistance(tuple(names or ())).families
    with section.blamed("resist_share"):
        return Resistance(families, Resistance.share if share is None else share)
