"""A purified folder checked against its manifest, with nothing but the folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from headsweep.bounded import MIDDLE, table_of
from headsweep.drafts import COMPACT, MANIFEST
from headsweep.errors import UserError, shown
from headsweep.export.consistency import EVERY_LAYER, NO_OTHER, all_zero, contradictions
from headsweep.export.model_folder import (
    LOGIT_TOLERANCE,
    MANIFEST_FORMAT,
    fingerprint,
    gap_of,
    reload,
    why_not,
)
from headsweep.export.provenance import other_files_hash, tensors_hash, weights_hash
from headsweep.model.anatomy import Anatomy, locate
from headsweep.model.checkpoint import usable
from headsweep.model.claims import claimed_adapter
from headsweep.model.families import FAMILIES, Adapter
from headsweep.model.files import inside, there
from headsweep.model.loading import read_tokenizer
from headsweep.model.mask import HeadMask
from headsweep.model.removal import already_pruned, left_of, zero_parts
from headsweep.texts.kinds import task_of


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a manifest; raises UserError when there is none or it is of another format."""
    if not there(folder, MANIFEST):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder", "give one that `headsweep purify` wrote")
        if there(folder, COMPACT):
            raise UserError(
                f"{folder}: a compact model has no evidence of its own",
                "give the folder that it was made from",
            )
        raise UserError(f"{folder}: no {MANIFEST}", "give a folder that `headsweep purify` wrote")
    path, fix = folder / MANIFEST, "get the folder from its source again"
    try:
        manifest = table_of(inside(folder, MANIFEST), MIDDLE, fix)
    except UserError as error:
        raise UserError(f"{path}: not a manifest: {error.what}", fix) from error
    found = manifest.get("format")
    if found != MANIFEST_FORMAT:
        raise UserError(
            f"{path}: not a manifest: format {shown(found)}",
            f"this version reads {MANIFEST_FORMAT}",
        )
    wrong = [name for name, kind in NEEDED.items() if not isinstance(manifest.get(name), kind)]
    if wrong:
        told = f"{path}: {', '.join(wrong)}: missing, or not what it should be"
        raise UserError(told, "the manifest is damaged: get the folder from its source again")
    return manifest


NEEDED: dict[str, type] = {
    "mask": dict,
    "pruned_units": list,
    "zero_before": list,
    "weights_sha256": dict,
    "fingerprint": list,
    "labels": list,
    "before": dict,
    "after": dict,
    "search": dict,
    "strategy": dict,
    "checks": list,
    "verified": bool,
    "bound": dict,
    "other_files_sha256": dict,
    "tensors_sha256": dict,
}
"""What every manifest has, and of which kind."""


@dataclass(frozen=True)
class Check:
    """One thing that was verified."""

    what: str
    passed: bool
    detail: str = ""

    @classmethod
    def of(cls, what: str, passed: bool, failed: str) -> Check:
        """Return a check with what is to be said where it failed, and nothing where it passed."""
        return cls(what, passed, "" if passed else failed)


def verify(folder: Path) -> list[Check]:
    """Check a purified folder against its manifest, with nothing but the folder.

    What did not hold when it was made does not hold now. Beside that: its files are the ones
    written, plain loading gives every tensor as it was written, every weight of every pruned unit
    is zero, and no other unit is without its weights (but those that the suspect came with so);
    labels and tokenizer are there, and the logits are those noted when it was made.
    """
    manifest = read_manifest(folder)
    mask = HeadMask.from_json(manifest["mask"])
    checks = [*_check_noted(manifest), *_check_files(folder, manifest)]
    plainly = "loads in plain from_pretrained"
    try:
        model = reload(folder)
    except UserError as error:  # plain loading would have gone where nobody should follow
        return [*checks, Check(plainly, False, error.what)]
    except Exception as error:  # whatever plain loading raises is the finding
        return [*checks, Check(plainly, False, why_not(folder, error))]
    with usable(str(folder)):
        return checks + _check_model(folder, model, manifest, mask)


def _check_model(
    folder: Path, model: PreTrainedModel, manifest: Mapping[str, Any], mask: HeadMask
) -> list[Check]:
    anatomy = locate(model, _adapter(model, manifest), mask.units)
    checks = [Check("loads in plain from_pretrained", True)]
    same = "every tensor is the one written"
    checks.append(_same(same, tensors_hash(model), manifest["tensors_sha256"]))
    checks += [_check_labels(model, manifest), _check_tokenizer(folder)]
    names = [anatomy.layout.name(unit) for unit in range(anatomy.layout.units)]
    before = [unit for unit, name in enumerate(names) if name in manifest["zero_before"]]
    if mask.fits(anatomy.layout):
        checks += [_check_list(mask, names, manifest), _check_before(anatomy, before, manifest)]
    return checks + check_weights(anatomy, mask, before) + [check_logits(model, manifest)]


def _adapter(model: PreTrainedModel, manifest: Mapping[str, Any]) -> Adapter | None:
    """Return the manifest's adapter for an architecture that has no row; the row counts else."""
    return None if model.config.model_type in FAMILIES else claimed_adapter(manifest)


def _check_noted(manifest: Mapping[str, Any]) -> list[Check]:
    """Return what did not hold when the folder was made, or that everything did."""
    try:
        failed = [
            Check(f"when it was made: {check['what']}", False, str(check["detail"]))
            for check in manifest["checks"]
            if check["passed"] is not True
        ]
        against = contradictions(manifest)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise UserError(
            f"{MANIFEST}: lacks its checks, bound or figures ({error})",
            "the manifest is damaged: get the folder from its source again",
        ) from error
    told = f"its own figures say otherwise: {'; '.join(against[:3])}"
    return failed or [Check.of("every check held when it was made", not against, told)]


def _check_files(folder: Path, manifest: Mapping[str, Any]) -> list[Check]:
    weights, others = manifest["weights_sha256"], manifest["other_files_sha256"]
    return [
        _same("weight files are the ones written", weights_hash(folder, weights), weights),
        _same("the other files are the ones written", other_files_hash(folder, others), others),
    ]


def _same(what: str, found: Mapping[str, str], noted: Mapping[str, str]) -> Check:
    """Check that things have the hashes noted: none changed, none missing, none more."""
    apart = [name for name in {**noted, **found} if found.get(name) != noted.get(name)]
    return Check.of(what, not apart, f"not so: {_few(apart)}")


def _few(names: Iterable[str]) -> str:
    told = list(names)
    more = f" and {len(told) - 3} more" if len(told) > 3 else ""
    return ", ".join(told[:3]) + more


def _check_list(mask: HeadMask, names: Sequence[str], manifest: Mapping[str, Any]) -> Check:
    by_mask, listed = [names[unit] for unit in mask.pruned], manifest["pruned_units"]
    apart = [str(name) for name in (*by_mask, *listed) if (name in by_mask) != (name in listed)]
    told = f"in one of them only: {_few(apart)}" if apart else "they are listed in another order"
    return Check.of("mask and list of pruned units agree", by_mask == listed, told)


def _check_before(anatomy: Anatomy, before: Sequence[int], manifest: Mapping[str, Any]) -> Check:
    """Check that what is said to have been zero before is, or it would excuse any unit."""
    zero, noted = zero_parts(anatomy), manifest["zero_before"]
    names = {anatomy.layout.name(unit) for unit in before if unit in zero}
    alive = [str(name) for name in noted if name not in names]
    told = f"not in {_few(alive)}"
    return Check.of("what was zero before the purification is zero", not alive, told)


def check_weights(anatomy: Anatomy, mask: HeadMask, before: Sequence[int]) -> list[Check]:
    """Check that exactly the pruned units, and those zero before, are zero.

    Of a pruned unit every number: query, key and value rows with their biases, output columns; of
    a shared key/value group once all its units are pruned. A unit that was kept has weights in
    every projection.
    """
    if not mask.fits(anatomy.layout):
        return [Check("mask fits the model", False, f"{anatomy.layout.units} units in the model")]
    live = left_of(anatomy, mask)
    fine = {*mask.pruned, *before}
    more = {unit: parts for unit, parts in zero_parts(anatomy).items() if unit not in fine}
    lost = _few(f"{anatomy.layout.name(unit)} in {parts[0]}" for unit, parts in more.items())
    return [
        Check.of(all_zero(len(mask.pruned)), not live, f"not in {_few(live)}"),
        Check.of(NO_OTHER, not more, f"{len(more)} more: {lost}"),
        Check(EVERY_LAYER, not already_pruned(anatomy).empties_a_row),
    ]


def _check_labels(model: PreTrainedModel, manifest: Mapping[str, Any]) -> Check:
    found = list(task_of(model.config, [type(model).__name__]).names(model.config).names)
    same = found == manifest["labels"]
    return Check.of("labels are those noted", same, f"now {', '.join(found)}")


def _check_tokenizer(folder: Path) -> Check:
    try:
        read_tokenizer(str(folder))
    except UserError as error:
        return Check("the tokenizer loads", False, error.what)
    return Check("the tokenizer loads", True)


def check_logits(model: PreTrainedModel, manifest: Mapping[str, Any]) -> Check:
    """Check that a model answers as was noted when it was written."""
    found = fingerprint(model)
    try:
        noted = torch.tensor(manifest["fingerprint"], dtype=torch.float32)
    except (TypeError, ValueError):
        noted = torch.empty(0)
    if noted.shape != found.shape:
        return Check("logits are those noted", False, "what is noted is no table of its logits")
    gap = gap_of(found, noted)
    return Check("logits are those noted", gap <= LOGIT_TOLERANCE, f"largest difference {gap:.1e}")
