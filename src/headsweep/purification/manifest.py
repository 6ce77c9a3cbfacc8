"""What is written down of a purification: the manifest, and why its bound may say little."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from headsweep.cost import peak_memory_mib
from headsweep.export.model_folder import MANIFEST_FORMAT
from headsweep.export.provenance import command_line, environment
from headsweep.heal.fine_tune import cooler_of
from headsweep.model.mask import Layout
from headsweep.prune.choice import Choice
from headsweep.prune.view import DefenderView
from headsweep.purification.bound import DECISIVE, Bound, answers
from headsweep.purification.material import Material, Sources
from headsweep.purification.plan import Plan

FEW = 200  # validation examples: fewer decide little


def undecided(
    material: Material, plan: Plan, sources: Sources, before: dict[str, Any] | None = None
) -> list[str]:
    """Return a note where the validation examples are too few to decide the bound.

    A drop is known before anything is measured, a lowest accuracy once it is known ``before``.
    """
    count = len(material.parts.validation)
    free = plan.max_drop is None and plan.min_accuracy is None
    if plan.min_accuracy is None:
        bound = Bound(1 - plan.asked_drop, count, count)
    elif before is None:
        return []
    else:
        bound = Bound.under(plan.min_accuracy, before["validation"])
    if not plan.bounded or bound.decides or bound.allowed < 0:
        return []
    told = bound.doubt(cut_off=sources.validation is None)
    if free:
        bound = Bound(1 - plan.drop(count), count, count)
        points = f"{100 * bound.drop:.1f} points"
        told += f"; as none was asked for, {answers(bound.allowed)} may be lost ({points})"
    again = cooler_of(plan.healing) is not None and not bound.decides
    if again:
        told += f"; healing begins anew only where {answers(DECISIVE)} or more are missing"
    return [told]


def doubts(material: Material, before: dict[str, Any], told: bool) -> list[str]:
    """Return notes on why the bound may mean less than it seems to, beside what was told."""
    labels = material.parts.validation.labels
    own, notes = before["validation"], []
    most = max(labels.count(label) for label in set(labels))
    if own["right"] <= most:
        notes.append(
            f"accuracy before pruning is {own['accuracy']:.3f}, no better than always giving one "
            f"answer ({most / len(labels):.3f}): the bound protects nothing"
        )
    if len(labels) < FEW and not told:
        notes.append(f"{len(labels)} validation examples decide little: give {FEW} or more")
    test = before.get("test")
    if test and min(test["examples"], own["examples"]) >= FEW:
        gap = own["accuracy"] - test["accuracy"]
        if gap > 0.05:
            notes.append(
                f"accuracy is {gap:.3f} higher on validation than on test data: if the model was "
                "trained on the validation texts, the bound is stricter than it looks"
            )
    return notes


def steps(choice: Choice, layout: Layout) -> list[dict[str, Any]]:
    """Return every trial of a search."""
    return [step.to_json(layout) for step in choice.steps]


def scores(choice: Choice, layout: Layout) -> list[list[float]] | None:
    """Return a choice's scores, [row][unit]."""
    if choice.scores is None:
        return None
    return [part.tolist() for part in layout.split(choice.scores)]


def manifest(
    material: Material, view: DefenderView, plan: Plan, choice: Choice, bound: dict[str, Any]
) -> dict[str, Any]:
    """Return what is known once heads are chosen, as JSON values."""
    suspect, layout = material.suspect, view.layout
    found = plan.found if plan.mask is not None else None
    drop = plan.drop(len(material.parts.validation))
    return {
        "format": MANIFEST_FORMAT,
        "suspect": suspect.source,
        "command": command_line(),
        "start": plan.start,
        "bound": bound
        | {
            "max_drop": drop if plan.min_accuracy is None else None,
            "while_pruning": view.min_accuracy if choice.bounded else None,
        },
        "seed": plan.seed,
        "runtime": asdict(plan.runtime) | {"bf16_training": plan.runtime.trains_in_bf16()},
        "saved_precision": str(suspect.precision).removeprefix("torch."),
        "labels": list(suspect.labels.names),
        "data": {
            name: {
                "examples": len(split),
                "sha256": split.sha256,
                "texts_cut": material.encoded[name].truncated,
            }
            for name, split in material.parts.named().items()
        },
        "units": layout.units,
        "pruned_units": [layout.name(unit) for unit in choice.mask.pruned],
        "mask": choice.mask.to_json(),
        "adapter": asdict(plan.adapter) if plan.adapter else None,
        "search": {
            "scores": found.scores if found else scores(choice, layout),
            "steps": found.steps if found else steps(choice, layout),
            "examples_measured": view.meter.examples_run,
            "masks_measured": view.meter.masks_run,
            "bf16": view.meter.bf16,
            "record": choice.record,
        },
        "peak_memory_mib": peak_memory_mib(),
        "environment": environment() | {"device": str(suspect.model.device)},
    }
