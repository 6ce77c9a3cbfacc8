"""What is written down of a purification: the manifest, and why its bound may say little."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from headsweep.cost import peak_memory_mib
from headsweep.export.model_folder import MANIFEST_FORMAT
from headsweep.export.provenance import command_line, environment
from headsweep.export.verify import Check
from headsweep.measure.accuracy import logits
from headsweep.prune.choice import Choice
from headsweep.prune.view import DefenderView
from headsweep.purification.bound import DECISIVE, USUAL_DROP, Allowance, answers
from headsweep.purification.cooling import Healed
from headsweep.purification.material import Figures, Material
from headsweep.purification.method import Method
from headsweep.purification.plan import Plan
from headsweep.settings import describe
from headsweep.texts.generation import Generation
from headsweep.texts.words import VOID

AGAIN = 20  # of so many judged texts one may be trained on before a note is due
FEW = math.ceil(DECISIVE / USUAL_DROP - 1e-9)  # validation examples: fewer decide little


@dataclass(frozen=True)
class Record:
    """What happened, from before to after.

    Attributes:
        before, pruned: accuracy of the suspect, and with the chosen heads closed.
        healed: what healing came to.
        choice: which heads, and how they were chosen.
        binds: a bound on accuracy held it.
        checks: what was verified.
        zero_before: units of which the suspect came with weights at zero, and which still are.
        probes: what probes there were, as JSON.
        inverted: answers that a generator has by heart, as JSON.
        notes: what a reader should know.
        start: ``classifier`` or ``encoder``.
        seconds: wall time by part.

    """

    before: Figures
    pruned: Figures
    healed: Healed
    choice: Choice
    binds: bool
    checks: tuple[Check, ...]
    zero_before: tuple[str, ...]
    probes: dict[str, Any] | None
    inverted: list[dict[str, Any]] | None
    notes: tuple[str, ...]
    start: str
    seconds: dict[str, float]


def undecided(
    material: Material, method: Method, cut_off: bool, before: Figures | None = None
) -> list[str]:
    """Return a note where the validation examples are too few to decide the bound.

    A drop is known before anything is measured, a lowest accuracy once it is known ``before``.
    """
    bound, count = method.bound, len(material.parts.validation)
    words = material.suspect.task.words
    needs = method.pruning.needs
    if bound is None or (words.bounded and not (needs.pruning and needs.bound)):
        return []  # no answer is counted
    if bound.min_accuracy is None:
        allowance = Allowance(1 - bound.asked_drop, count, count)
    elif before is None:
        return []
    else:
        allowance = bound.allowance(before.validation)
    if allowance.decides or allowance.allowed < 0:
        return []
    told = allowance.doubt(cut_off=cut_off)
    if not (bound.asked or words.falls):
        allowance = Allowance(1 - bound.drop(count), count, count)
        may = f"{answers(allowance.allowed)} may be lost ({allowance.points})"
        if words.bounded:
            may = f"{words.bounded_name} may fall by {bound.drop(count, words):.2g} in the end"
        told += f"; as none was asked for, {may}"
    if method.healing.tries and not allowance.decides and not words.bounded:
        told += f"; healing begins anew only where {answers(DECISIVE)} or more are missing"
    return [told]


def doubts(material: Material, before: Figures, told: bool) -> list[str]:
    """Return notes on why the bound may mean less than it seems to, beside what was told."""
    labels = material.encoded["validation"].labels
    own, test, notes = before.validation, before.test, list[str]()
    share = own.words.share
    blind = material.encoded["validation"].task.blind(labels, own.right, own.beside)
    if blind:
        notes.append(f"{blind}: {VOID}")
    if len(labels) < FEW and not told:
        notes.append(f"{len(labels)} validation examples decide little: give {FEW} or more")
    if min(test.examples, own.examples) >= FEW:
        gap = own.value - test.value
        if gap > 0.05:
            notes.append(
                f"{share} is {gap:.3f} higher on validation than on test data: if the model was "
                "trained on the validation texts, the bound is stricter than it looks"
            )
    return [*notes, *_seen_again(material)]


def swing(material: Material, seed: int) -> list[str]:
    """Return a note on how sure the perplexity of a healed generator is; of others none."""
    part = material.encoded["validation"]
    if not isinstance(part.task, Generation):
        return []
    nll = logits(material.suspect.anatomy, part, material.runtime)
    value, low, high = part.task.risen(nll, [len(ids) for ids in part.ids], seed)
    return [
        f"perplexity of the {len(part)} validation answers changed by {value:+.1%}; over as many "
        f"other prompts of their kind it may be {low:+.1%} to {high:+.1%} (95% interval)"
    ]


def _seen_again(material: Material) -> Iterator[str]:
    """Yield a note for each part of which more than a few texts stand in one used before it."""
    parts = material.parts.named()
    pairs = (("validation", "train"), ("test", "train"), ("test", "validation"))
    for name, other in ((name, other) for name, other in pairs if name in parts):
        known, count = {*parts[other].rows}, len(parts[name])
        again = sum(row in known for row in parts[name].rows)
        if AGAIN * again <= count:
            continue
        found = f"{again} of {count} {name} texts are among"
        if other == "train":
            less = "little" if 2 * again > count else "less than new texts would"
            yield f"{found} the training texts: they tell {less}"
        else:
            yield f"{found} those that decide: the test figure tells no more than validation's"


def manifest(
    material: Material, view: DefenderView, method: Method, plan: Plan, record: Record
) -> dict[str, Any]:
    """Return all that is written to ``headsweep.json``, as JSON values.

    The keys are documented in docs/guide.md; a test holds the two together.
    """
    suspect, layout, choice, healed = material.suspect, view.layout, record.choice, record.healed
    packages = ("peft",) if "adapters" in healed.record else ()
    return {
        "format": MANIFEST_FORMAT,
        "suspect": suspect.source,
        "base_model": None if suspect.base_model is None else dict(suspect.base_model),
        "task": suspect.task.words.task,
        "command": command_line(),
        "start": record.start,
        "bound": _bound(view, method, record),
        "seed": plan.seed,
        "runtime": asdict(plan.runtime) | {"bf16_training": plan.runtime.trains_in_bf16()},
        "saved_precision": str(suspect.precision).removeprefix("torch."),
        "labels": list(suspect.labels.names),
        "data": _data(material),
        "units": layout.units,
        "pruned_units": [layout.name(unit) for unit in choice.mask.pruned],
        "mask": choice.mask.to_json(),
        "adapter": asdict(plan.adapter) if plan.adapter else None,
        "strategy": choice.earlier["strategy"] if choice.earlier else describe(method.pruning),
        "search": _search(view, choice),
        "before": record.before.to_json(),
        "pruned": record.pruned.to_json(),
        "after": healed.after.to_json(),
        "heal": describe(method.healing) | healed.to_json(),
        "probes": record.probes,
        "inverted_targets": record.inverted,
        "zero_before": list(record.zero_before),
        "checks": [asdict(check) for check in record.checks],
        "verified": all(check.passed for check in record.checks),
        "notes": list(record.notes),
        "seconds": record.seconds,
        "peak_memory_mib": peak_memory_mib(),
        "environment": environment(*packages) | {"device": str(suspect.model.device)},
    }


def _bound(view: DefenderView, method: Method, record: Record) -> dict[str, Any]:
    bound, before = method.bound, record.before.validation
    allowance = method.allowance(before)
    chosen = record.choice.bounded and method.pruning.needs.pruning
    return {
        "min_accuracy": allowance.lowest,
        "binds": record.binds,
        "max_drop": None if bound is None else bound.dropped(before),
        "asked": bound is not None and bound.asked,
        "while_pruning": view.min_accuracy if chosen else None,
        "limit": allowance.limit,
    }


def _data(material: Material) -> dict[str, Any]:
    return {
        name: {
            "examples": len(split),
            "sha256": split.sha256,
            "texts_cut": material.encoded[name].truncated,
        }
        for name, split in material.parts.named().items()
    }


def _search(view: DefenderView, choice: Choice) -> dict[str, Any]:
    earlier = choice.earlier
    meter = vars(view).get("meter")  # None: nothing was measured, and nothing need be set up now
    return {
        "scores": earlier["scores"] if earlier else choice.scores_json(view.layout),
        "steps": earlier["steps"] if earlier else choice.steps_json(view.layout),
        "examples_measured": meter.examples_run if meter else 0,
        "masks_measured": meter.masks_run if meter else 0,
        "bf16": bool(meter and meter.bf16),
        "record": choice.record,
    }
