"""The probes that a method asked for, and how often they flip answers before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from headsweep.errors import UserError
from headsweep.progress import Progress
from headsweep.prune.flips import flip_rates
from headsweep.purification.material import Material
from headsweep.purification.plan import Plan
from headsweep.task.probes import Prober, Probes

Flips = dict[str, dict[str, float]]  # by family and label


@dataclass(frozen=True)
class Probed:
    """Probes of training and validation texts; None: none were asked for, or can be made."""

    prober: Prober | None = None
    train: Probes | None = None
    validation: Probes | None = None

    @classmethod
    def of(cls, material: Material, plan: Plan, progress: Progress) -> Probed:
        """Make the probes that a plan asks for.

        Raises:
            UserError: none can be made of the training texts.

        """
        if plan.prober is None:
            return cls()
        suspect, parts, runtime = material.suspect, material.parts, plan.runtime
        suspect.task.one_label("a method with probes")
        train = plan.prober.make(suspect, parts.train, runtime, progress)
        try:
            held = plan.prober.make(suspect, parts.validation, runtime, progress, held=True)
        except UserError as error:
            progress.say(f"note: no probes of the validation texts: {error.what}")
            return cls(plan.prober, train)
        return cls(plan.prober, train, held)

    @property
    def gaps(self) -> list[str]:
        """Notes on families that no probes could be made of."""
        skipped = self.train.skipped if self.train is not None else {}
        return [f"no probes of the family {name}: {why}" for name, why in skipped.items()]

    def flips(self, material: Material) -> Flips:
        """Return of each family how often validation probes flip into each label."""
        if self.validation is None:
            return {}
        found = flip_rates(material.suspect.anatomy, self.validation, material.runtime)
        names = material.suspect.labels.names
        return {
            family: dict(zip(names, rates.tolist(), strict=True)) for family, rates in found.items()
        }

    def to_json(self, before: Flips, after: Flips) -> dict[str, Any] | None:
        """Return them for a manifest, with the flips before and after."""
        if self.prober is None:
            return None
        parts = {"train": self.train, "validation": self.validation}
        made = {name: part.to_json() for name, part in parts.items() if part is not None}
        flips = {"validation_flips": {"before": before, "after": after}}
        return {"prober": self.prober.described()} | made | flips
