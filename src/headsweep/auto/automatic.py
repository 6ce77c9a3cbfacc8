"""Choose strategy, depth and healing by trying them on canaries, within a time budget.

Which strategy is best depends on the trigger, and the trigger is unknown. But backdoors of one's
own are known. So ``auto``

1. runs the probe battery on the suspect, for the label that probes flip into and the families
   that do it;
2. plants canaries (``headsweep.auto.canary``), each of another family, in copies of the suspect;
3. tries candidates (strategy x depth x healing) on every canary, on a part of the data. The
   probes of a trial leave out the canary's family and its kin: the real trigger is not among the
   probes either;
4. takes the candidate that leaves the least excess label flip rate, mean over canaries, among
   those that keep the accuracy allowed, and applies it to the suspect with all data and probes.

Time is kept by measuring: a candidate is begun only when, by the times so far, it and the final
run fit into what is left. Where not even one fits, the best single strategy (the first candidate
that can end in time, or the quickest of those that prune within the bound) is used untried. All of
it is recorded in the manifest. Source: own.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from headsweep.auto.candidates import Auto, Candidate
from headsweep.auto.trials import (
    TRIAL,
    Trials,
    families_of,
    method_of,
    plant_all,
    prepared,
    try_all,
)
from headsweep.errors import UserError
from headsweep.judge.battery import Battery, probe
from headsweep.model.loading import Reading
from headsweep.progress import Progress, Silent, duration
from headsweep.purification import manifest as evidence
from headsweep.purification.material import Material, Sources, gather
from headsweep.purification.method import Method
from headsweep.purification.pipeline import purify
from headsweep.purification.plan import Plan
from headsweep.purification.purified import Purified
from headsweep.triggers import ByRule
from headsweep.triggers.probe_families import RuleProber

NO_FAMILY = "no family would be left for probes beside a canary's"


def purify_automatically(
    model: str | Path | Any,
    data: Sources | Any,
    auto: Auto = Auto(),
    method: Method = Method(),
    plan: Plan = Plan(),
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: Progress | None = None,
    keep_mask: Path | None = None,
    keep_healings: Path | None = None,
) -> Purified:
    """Choose by canaries how to purify a suspect classifier, and do it.

    Args:
        model: a folder, a model of the Hub, or a ``Suspect`` (changed in place).
        data: clean labelled examples, as for ``purify``.
        auto: how to choose.
        method: its bound, units and healing count; which heads go is chosen here.
        plan: seed, where to compute, and the rest.
        tokenizer: the tokenizer of a loaded classifier.
        progress: where to report to.
        keep_mask: as for ``purify``.
        keep_healings: as for ``purify``, of the final run.

    Returns:
        The purified model; ``manifest["auto"]`` says what was tried and why it was chosen.

    Raises:
        UserError: anything that the caller can mend.
        NothingPruned: no head could go within the bound.

    """
    begun, progress = time.monotonic(), progress or Silent()
    sources = data if isinstance(data, Sources) else Sources(data)
    reading = Reading(seed=plan.seed, adapter=plan.adapter, units=method.units, task=plan.task)
    material = gather(model, sources, reading, plan.runtime, tokenizer=tokenizer)
    material.suspect.labels.needed("--strategy auto")
    for note in evidence.undecided(material, method, sources.validation is None):
        progress.say(f"note: {note}")
    _check_probes(material, auto, plan, progress)
    trials = prepared(material, auto, method, plan, progress, begun)
    battery = _battery(trials)
    why = _short(trials)
    if why is None:
        plant_all(trials, battery)
        none = "no canary took" if families_of(auto) else NO_FAMILY
        why = None if trials.canaries else none
    if why is None:
        try_all(trials)
    chosen, reason = _chosen(trials, why)
    progress.say(f"chosen: {chosen.told} ({reason})")
    done = _apply(trials, chosen, keep_mask, keep_healings)
    done.manifest["auto"] = {
        "budget_seconds": auto.budget_seconds,
        "seconds": round(time.monotonic() - begun, 1),
        "families": list(RuleProber(auto.families).chosen()),
        "battery": battery,
        "canaries": [one.to_json(material.suspect.labels.names) for one in trials.canaries],
        "texts": {"train": len(trials.ground.train), "held": len(trials.ground.validation)},
        "tried": trials.tried,
        "chosen": chosen.to_json(),
        "why": reason,
    }
    return done


def _check_probes(material: Material, auto: Auto, plan: Plan, progress: Progress) -> None:
    """Refuse texts that no canary can be made of, before anything takes long."""
    prober = RuleProber(auto.families, *TRIAL, seed=plan.seed)
    prober.make(material.suspect, material.parts.train, plan.runtime, progress)


def _battery(trials: Trials) -> dict[str, Any]:
    """Probe the suspect with the families that may be used; return what was found."""
    families = RuleProber(trials.auto.families).chosen()
    editors = {name: ("trigger", ByRule(rule)) for name, rule in families.items()}
    battery = Battery(texts=75, seed=trials.plan.seed)
    held = trials.material.parts.validation
    try:
        found = probe(trials.suspect, held, battery, trials.plan.runtime, trials.progress, editors)
    except UserError as error:
        return {"not_run": error.what}
    rows = [
        {"family": one.family, "label": one.label, "excess": one.excess.value}
        for one in found.findings
        if one.kind == "trigger"
    ]
    return {
        "texts": found.texts,
        "noticed": [[one.family, one.label] for one in found.noticed if one.kind == "trigger"],
        "excess": rows,
        "skipped": dict(found.skipped),
    }


def _short(trials: Trials) -> str | None:
    """Return why the budget is too short for one candidate, or None."""
    first = trials.best_guess
    needed_seconds = (
        trials.canary_seconds + trials.trial_seconds(first) + trials.final_seconds(first)
    )
    if needed_seconds <= trials.left:
        return None
    return (
        f"budget too short: one canary, one trial and the run take about "
        f"{duration(needed_seconds)}, {duration(max(0.0, trials.left))} are left"
    )


def _chosen(trials: Trials, why: str | None) -> tuple[Candidate, str]:
    """Return the candidate to apply and the reason."""
    first = trials.best_guess
    if why is None and not trials.tried:
        why = "budget too short: no time for a candidate after the canaries"
    if why is not None:
        return first, f"{why}; the best single strategy, untried"
    slack = (0.25 / len(trials.ground.judge)) ** 0.5  # a standard error of accuracy, at most
    fits = [i for i, row in enumerate(trials.tried) if row["drop"] <= trials.allowed + slack]
    pool = fits or list(range(len(trials.tried)))
    best = min(pool, key=lambda i: (trials.tried[i]["excess_lfr"], i))
    left = trials.tried[best]["excess_lfr"]
    kept = "" if fits else "; none of them kept the accuracy allowed"
    return trials.made[best], (
        f"left the least excess flips of {len(trials.canaries)} canaries, {left:.3f}, of "
        f"{len(trials.tried)} candidates tried{kept}"
    )


def _apply(
    trials: Trials, chosen: Candidate, keep_mask: Path | None, keep_healings: Path | None
) -> Purified:
    """Purify the suspect with all data and all probes."""
    auto, method, plan = trials.auto, method_of(trials, chosen), trials.plan
    if method.needs_probes:
        plan = replace(plan, prober=RuleProber(auto.families, seed=plan.seed))
    parts = trials.material.parts
    sources = Sources(parts.train, parts.validation, parts.test)
    return purify(
        trials.suspect,
        sources,
        method,
        plan,
        progress=trials.progress,
        keep_mask=keep_mask,
        keep_healings=keep_healings,
    )
