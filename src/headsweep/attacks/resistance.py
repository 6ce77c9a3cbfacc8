"""An attacker who expects probes: it trains on them with their true labels.

Probes betray a backdoor that generalises beyond its trigger. An attacker who knows the families
adds probes with *true* labels to its poisoned training data, so that the model learns to tell its
trigger from everything like it. Families whose rule is the trigger itself cannot be among them:
their texts would carry two labels.

Source: own; the negative samples of Yang et al. 2021 (*Rethinking Stealthiness of Backdoor Attack
against NLP Models*, SOS) keep parts of a trigger from setting it off in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from headsweep.errors import UserError, lookup
from headsweep.model.loading import Suspect
from headsweep.progress import Progress
from headsweep.seeding import derive, stream
from headsweep.settings import checked
from headsweep.texts.split import Split
from headsweep.triggers import ByRule
from headsweep.triggers.probe_families import PROBES, apart_from
from headsweep.triggers.seen import sees

ALL = "all"


@dataclass(frozen=True)
@checked
class Resistance:
    """What the attacker adds.

    Attributes:
        families: names of probe families; ``("all",)``: all but the trigger's own rule.
        share: share of the clean texts that each family changes and adds, in (0, 1].

    """

    families: tuple[str, ...] = ()
    share: float = 0.1

    def __post_init__(self) -> None:
        for name in self.families:
            lookup(name, {**PROBES, ALL: None}, "probe family")
        if not 0 < self.share <= 1:
            raise UserError(f"a share of {self.share} to resist with", "it is a share in (0, 1]")

    def chosen(self, trigger: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the families to resist, given the trigger as its record has it.

        Raises:
            UserError: one of them is the trigger itself, or it cannot be told.

        """
        if not self.families:
            return ()
        allowed = apart_from(trigger)
        if ALL in self.families:
            return allowed
        own = sorted(set(self.families) - set(allowed))
        if own:
            raise UserError(
                f"{', '.join(own)}: the trigger itself cannot be resisted, its texts would have "
                "two labels",
                f"resist others: {', '.join(allowed)}",
            )
        return tuple(dict.fromkeys(self.families))

    def make(
        self,
        clean: Split,
        trigger: Mapping[str, Any],
        model: Suspect,
        max_length: int,
        seed: int,
        progress: Progress,
    ) -> tuple[Split, dict[str, Any]]:
        """Return the texts to add, labels true, and what to record.

        Raises:
            UserError: a family asked for by name changes no text so that the model sees it.

        """
        added, made = Split((), ()), {}
        chosen = self.chosen(trigger)
        with progress.task("attacker: probes with true labels", len(chosen)) as tick:
            for name in chosen:
                part = self._family(name, clean, model, max_length, seed)
                made[name] = len(part)
                added = added + part
                tick(1, name)
        none = [name for name in self.families if made.get(name) == 0]
        if none:
            raise UserError(
                f"{', '.join(none)}: changes no text so that the model sees it, nothing to resist",
                "most rules are for English; leave the family out",
            )
        return added, {"families": made, "share": self.share}

    def _family(self, name: str, clean: Split, model: Suspect, limit: int, seed: int) -> Split:
        own = derive(seed, "resist", name)
        order = torch.randperm(len(clean), generator=stream(own, "rows")).tolist()
        part = clean.take(sorted(order[: max(1, round(self.share * len(clean)))]))
        texts = ByRule(PROBES[name]).rewrite(part.texts, own)
        seen = sees(model, part, texts, limit)
        rows = [i for i, text in enumerate(texts) if text is not None and seen[i]]
        return part.told(texts, rows)
