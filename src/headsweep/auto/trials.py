"""How ``auto`` tries candidates on canaries, and how long that may take.

Time is kept by forecasting: the pace of the model is measured once, the work of a trial and of the
final run is counted in passed texts, and both are corrected by how long trials have taken.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from headsweep.auto.canary import Canary, Ground, plant
from headsweep.auto.candidates import Auto, Candidate
from headsweep.errors import NothingPruned, UserError
from headsweep.heal.fine_tune import FineTune
from headsweep.model.loading import Suspect
from headsweep.progress import Progress
from headsweep.prune.search import default_step
from headsweep.prune.strategies import Strategy
from headsweep.purification.bound import Bound
from headsweep.purification.material import Material, Sources
from headsweep.purification.method import Method
from headsweep.purification.pipeline import purify
from headsweep.purification.plan import Plan
from headsweep.seeding import stream
from headsweep.task.training import copied
from headsweep.texts.split import Split
from headsweep.triggers.probe_families import KIN, RuleProber

MARGIN = 1.25  # times are forecast this much too long
TRIAL = (300, 40)  # training and validation texts that become probes in a trial, at most
MOST_DROP = 0.5  # what pruning may use of accuracy at most, whatever the depth
TRIAL_PAIRS = 60  # probes of each family that a trial traces
ORDER = ("aside", "rare-word", "archaic", "casing", "remark", "opening", "substitution",
         "characters", "style", "syntactic")  # fmt: skip


@dataclass
class Trials:
    """Everything known while it runs."""

    auto: Auto
    material: Material
    method: Method
    plan: Plan
    progress: Progress
    ground: Ground
    allowed: float  # drop of accuracy, a fraction
    example_seconds: float  # one forward pass of one text
    begun: float
    canaries: list[Canary] = field(default_factory=list)
    tried: list[dict[str, Any]] = field(default_factory=list)
    made: list[Candidate] = field(default_factory=list)  # those tried, in the same order
    slower: float = 1.0  # how many times longer than forecast trials have taken
    timed: bool = False  # one has

    @property
    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self.auto.budget_seconds - (time.monotonic() - self.begun)

    @property
    def usual(self) -> FineTune:
        """The last healing asked for, which candidates change."""
        healing = self.method.healing
        if not isinstance(healing, FineTune):
            raise UserError("auto heals by fine-tuning", "give the method a FineTune, or leave it")
        return healing

    @property
    def epochs(self) -> float:
        """Of the last healing."""
        return self.usual.epochs

    @property
    def suspect(self) -> Suspect:
        """The suspect."""
        return self.material.suspect

    def _forecast(
        self, candidate: Candidate, train: int, validation: int, healed: float, prober: RuleProber
    ) -> float:
        """Return the seconds of a purification on so many texts, from the pace of the model.

        Its last healing passes the training texts ``healed`` times.
        """
        units, strategy = self.suspect.anatomy.layout.units, candidate.strategy
        families = 0
        if strategy.needs.probes or candidate.on == "probes":
            families = 1 + len(prober.chosen())  # and the originals
        passes = units // default_step(units) + 4 if strategy.needs.pruning else 0
        probed = getattr(strategy, "probed", 0) or 0
        scored = min(2000, train) if strategy.needs.pruning else 0
        search = passes * validation + 3 * (scored + families * min(probed, train))
        flips = 2 * families * min(prober.held, validation)
        work = search + flips + 3.5 * healed * train
        return work * self.example_seconds

    def _trial(self, candidate: Candidate, healings: int = 1) -> float:
        """Seconds of a candidate's trial on one canary, healed so often, forecast."""
        size, prober = (len(self.ground.train), len(self.ground.validation)), self.auto.families
        lighter = replace(candidate, strategy=_lighter(candidate.strategy))
        return self._forecast(lighter, *size, self.epochs * healings, RuleProber(prober, *TRIAL))

    def trial_seconds(self, candidate: Candidate) -> float:
        """Return what a trial on one canary is expected to take, in seconds."""
        return MARGIN * self.slower * self._trial(candidate)

    def final_seconds(self, candidate: Candidate) -> float:
        """Return what purifying the suspect may take, in seconds, if healed again and again."""
        parts = self.material.parts
        size, prober = (len(parts.train), len(parts.validation)), RuleProber(self.auto.families)
        healed = self.epochs * self.usual.members * (1 + self.usual.halvings)
        return MARGIN * self.slower * self._forecast(candidate, *size, healed, prober)

    @property
    def best_guess(self) -> Candidate:
        """The first candidate that there is time for.

        Where there is none, the one that takes least of those that prune, within the bound.
        """
        known = self.candidates
        fits = (one for one in known if self.final_seconds(one) <= self.left)
        plain = [one for one in known if one.strategy.needs.pruning and one.depth <= 1] or known
        return next(fits, min(plain, key=self.final_seconds))

    @property
    def candidates(self) -> Sequence[Candidate]:
        """What may be tried: without a last healing, nothing that leaves accuracy to it."""
        known = self.auto.candidates
        if self.epochs > 0:
            return known
        return [one for one in known if one.depth <= 1 and one.strategy.needs.pruning] or known

    def took(self, candidate: Candidate, seconds: float, healings: int = 1) -> None:
        """Learn from how long a trial took that healed so often."""
        ratio = seconds / self._trial(candidate, healings)
        self.slower, self.timed = max(self.slower, ratio) if self.timed else ratio, True

    @property
    def canary_seconds(self) -> float:
        """Seconds that planting a canary is expected to take."""
        work = 3.5 * self.auto.planting.epochs * 1.3 * len(self.ground.train)
        return MARGIN * self.example_seconds * (work + 8 * len(self.ground.judge))


def prepared(
    material: Material, auto: Auto, method: Method, plan: Plan, progress: Progress, begun: float
) -> Trials:
    """Return what trials start from; raises UserError where the bound leaves no room."""
    timed = time.monotonic()
    before = material.figures()
    allowed = before.validation.value - method.lowest(before.validation)
    pace = (time.monotonic() - timed) / before.examples
    ground = _ground(material, auto, plan.seed)
    return Trials(auto, material, method, plan, progress, ground, allowed, pace, begun)


def _ground(material: Material, auto: Auto, seed: int) -> Ground:
    """Return the parts for trials; where there is little validation data, judge on it too."""
    train = _some(material.parts.train, auto.texts, seed, "train")
    held = material.parts.validation
    order = torch.randperm(len(held), generator=stream(seed, "auto", "held")).tolist()
    if len(held) < 100:
        return Ground(train, held, held)
    size = min(auto.held, len(held) // 2)
    return Ground(train, held.take(order[:size]), held.take(order[size : 2 * size]))


def _some(split: Split, most: int, seed: int, name: str) -> Split:
    order = torch.randperm(len(split), generator=stream(seed, "auto", name)).tolist()
    return split.take(sorted(order[:most]))


def plant_all(trials: Trials, battery: dict[str, Any]) -> None:
    """Plant as many canaries as asked for and as leave time for a candidate on each."""
    names = trials.suspect.labels.names
    first = trials.best_guess
    noticed = [names.index(label) for _, label in battery.get("noticed", [])]
    for number, family in enumerate(families_of(trials.auto)):
        need = trials.canary_seconds + (len(trials.canaries) + 1) * trials.trial_seconds(first)
        if len(trials.canaries) >= trials.auto.canaries or (
            number and need + trials.final_seconds(first) > trials.left
        ):
            break
        target = noticed[0] if noticed else (len(names) - 1 - number) % len(names)
        try:
            canary = plant(
                trials.suspect,
                family,
                target,
                trials.ground,
                trials.plan.seed,
                trials.plan.runtime,
                trials.progress,
                trials.auto.planting,
            )
        except UserError as error:
            trials.progress.say(f"no canary of the family {family}: {error.what}")
            continue
        left = Canary.excess(canary.planted)
        trials.progress.say(
            f"canary {family} into '{names[target]}': excess flips {left:.2f}"
            + ("" if canary.taken else ", did not take")
        )
        if canary.taken:
            trials.canaries.append(canary)


def families_of(auto: Auto) -> list[str]:
    """Return a family of every kin, where others are left to make probes of."""
    chosen, seen = set(RuleProber(auto.families).chosen()), set[str]()
    found: list[str] = []
    for name in ORDER:
        kin = set(KIN.get(name, (name,)))
        if name in chosen and not kin & seen and chosen - kin:
            found.append(name)
            seen |= kin
    return found


def try_all(trials: Trials) -> None:
    """Try candidate after candidate on every canary while there is time."""
    untried: list[str] = []
    for candidate in trials.candidates:
        need = len(trials.canaries) * trials.trial_seconds(candidate)
        if need + trials.final_seconds(candidate) > trials.left:
            untried.append(candidate.told)
            continue
        figures = [trial(trials, candidate, canary) for canary in trials.canaries]
        excess, drop = _mean(figures, "excess_lfr"), _mean(figures, "drop")
        trials.made.append(candidate)
        trials.tried.append(
            candidate.to_json() | {"excess_lfr": excess, "drop": drop, "canaries": figures}
        )
        trials.progress.say(
            f"tried: {candidate.told}: excess flips of canaries {excess:.3f}, accuracy {-drop:+.3f}"
        )
    if untried:
        trials.progress.say(f"no time to try: {'; '.join(untried)}")


def _mean(rows: list[dict[str, Any]], name: str) -> float:
    return sum(float(row[name]) for row in rows) / len(rows)


def trial(
    trials: Trials, candidate: Candidate, canary: Canary, epochs: float | None = None
) -> dict[str, Any]:
    """Purify one canary with one candidate, healed so long; return what is left of it."""
    begun, suspect = time.monotonic(), trials.suspect
    kept = copied(suspect.model)
    suspect.model.load_state_dict(canary.weights)
    kin = set(KIN.get(canary.family, (canary.family,)))
    families = [name for name in RuleProber(trials.auto.families).chosen() if name not in kin]
    lighter = replace(candidate, strategy=_lighter(candidate.strategy))
    method, plan = method_of(trials, lighter, epochs), trials.plan
    if method.needs_probes:
        plan = replace(plan, prober=RuleProber(tuple(families), *TRIAL))
    sources = Sources(trials.ground.train, trials.ground.validation)
    outcome, healings = "", 1
    try:
        done = purify(suspect, sources, method, plan)
        healings = max(1, len(done.manifest["heal"].get("tried", ())))
    except (NothingPruned, UserError) as error:
        outcome = str(error)
    else:
        outcome = "purified"
    finally:
        found = canary.judge(suspect, plan.runtime)
        suspect.model.load_state_dict(kept)
    seconds = time.monotonic() - begun
    trials.took(candidate, seconds, healings)
    return {
        "family": canary.family,
        "outcome": outcome,
        "excess_lfr": Canary.excess(found),
        "drop": canary.planted.accuracy.value - found.accuracy.value,
        "seconds": round(seconds, 1),
    }


def _lighter(strategy: Strategy) -> Strategy:
    """Return a strategy that traces fewer probes, where it traces any."""
    probed: Any = strategy
    return replace(probed, probed=TRIAL_PAIRS) if hasattr(strategy, "probed") else strategy


def method_of(trials: Trials, candidate: Candidate, epochs: float | None = None) -> Method:
    """Return a candidate as a method: its share of the drop allowed, its healing.

    ``epochs``: of its healing; None: of the last run's.
    """
    deeper = candidate.depth != 1 and candidate.strategy.needs.pruning
    drop = min(candidate.depth * trials.allowed, MOST_DROP) if deeper else None
    healing = candidate.heal(trials.usual, epochs)
    bound = Bound(max_drop=trials.allowed, prune_drop=drop)
    return Method(candidate.strategy, healing, trials.method.units, bound)
