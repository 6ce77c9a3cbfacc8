"""What a purification leaves behind: weights, manifest, model card; and how to check it.

The folder holds full-shape weights with the pruned units at zero, so that it loads in plain
``from_pretrained`` everywhere, the tokenizer, and ``headsweep.json``: what was pruned, why, and
with which figures, versions and seeds. It is written to a sibling and renamed when complete.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from headsweep.drafts import draft_beside, even_modes
from headsweep.errors import UserError
from headsweep.model.anatomy import Anatomy, locate
from headsweep.model.loading import (
    MANIFEST,
    Suspect,
    described_adapter,
    probe_inputs,
    quiet,
    read_tokenizer,
)
from headsweep.model.mask import HeadMask
from headsweep.model.removal import already_pruned, left_of, zero_parts
from headsweep.predict import needed
from headsweep.texts.split import Labels

OWN_FILES = (MANIFEST, "attack.json", "demo.json")  # a folder with one of these is ours to replace
MANIFEST_FORMAT = "headsweep.manifest/1"
LOGIT_TOLERANCE = 1e-4
READ_BY_LOADERS = (".bin", ".jinja", ".json", ".model", ".pt", ".pth", ".py", ".txt")


def check_free(out: Path, overwrite: bool) -> None:
    """Check, before any work, that an output folder may be written; raises UserError."""
    out = out.absolute()
    if not out.name:
        raise UserError(f"{out}: is no folder to write", "choose another --out")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file", "choose a folder as --out")
    if out.exists() and not overwrite:
        raise UserError(f"{out}: exists already", "choose another --out, or give --overwrite")
    if out.exists() and any(out.iterdir()) and not _is_ours(out):
        raise UserError(
            f"{out}: not a folder that headsweep wrote, so --overwrite leaves it alone",
            "choose another --out, or remove the folder yourself",
        )
    parent = out.parent
    while not parent.exists():
        parent = parent.parent
    try:
        Path(tempfile.mkdtemp(prefix=".headsweep-", dir=parent)).rmdir()
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from error


def _is_ours(folder: Path) -> bool:
    for name in OWN_FILES:
        try:
            form = json.loads((folder / name).read_text(encoding="utf-8"))
            if str(form["format"]).startswith("headsweep."):
                return True
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return False


@contextmanager
def drafted(out: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a sibling folder to write to; rename it to ``out`` when all went well."""
    check_free(out, overwrite)
    out = out.absolute()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with draft_beside(out) as draft:
            yield draft
            even_modes(draft)
            _swap(draft, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}") from error


def _swap(draft: Path, out: Path) -> None:
    """Rename a draft to ``out``; what was there goes, or comes back where that fails."""
    if not out.exists():
        draft.rename(out)
        return
    with draft_beside(out) as aside:
        out.rename(aside / "old")
        try:
            draft.rename(out)
        except BaseException:
            (aside / "old").rename(out)
            raise


def save_model(suspect: Suspect, folder: Path) -> None:
    """Write weights in the checkpoint's own precision, config and tokenizer."""
    model = suspect.model
    floats = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    lasting = {t.data_ptr() for t in model.state_dict().values()}
    saved = [t for t in floats if t.data_ptr() in lasting]
    wide = [t.data for t in saved]
    try:  # the data is swapped, not cast in place: buffers that are not saved keep float32
        for tensor in saved:
            tensor.data = tensor.data.to(suspect.precision)
        with quiet():
            model.save_pretrained(folder)
    finally:
        for tensor, data in zip(saved, wide, strict=True):
            tensor.data = data
        model.config.dtype = torch.float32
    suspect.tokenizer.save_pretrained(folder)


def fingerprint(model: PreTrainedModel) -> Tensor:
    """Return the logits of a fixed batch of token numbers, [example, class]."""
    with torch.inference_mode():
        found: Tensor = model(**probe_inputs(model)).logits
    return found.float().cpu()


def reload(folder: Path) -> PreTrainedModel:
    """Load a folder as any user would, plainly, then widen it to float32."""
    with quiet():
        model = AutoModelForSequenceClassification.from_pretrained(folder, use_safetensors=True)
    loaded: PreTrainedModel = model.float().eval()
    return loaded


def weights_hash(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every weight file."""
    return _hashes(folder, lambda path: path.suffix == ".safetensors")


def other_files_hash(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every other file that loading the folder may read or run.

    A configuration can lead to other weights or to code, and a tokenizer can be turned against
    the model. The model card is for people, who may go on writing it.
    """
    return _hashes(folder, lambda path: path.suffix in READ_BY_LOADERS and path.name != MANIFEST)


def _hashes(folder: Path, wanted: Callable[[Path], bool]) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.is_file() and wanted(path)
    }


def tensors_hash(model: PreTrainedModel) -> dict[str, str]:
    """Return the SHA-256 of every tensor of a model, in float32 where it holds fractions."""
    return {
        name: hashlib.sha256(_bytes(tensor)).hexdigest()
        for name, tensor in model.state_dict().items()
    }


def _bytes(tensor: Tensor) -> bytes:
    wide = tensor.float() if tensor.is_floating_point() else tensor
    return wide.detach().cpu().contiguous().numpy().tobytes()


def environment() -> dict[str, str]:
    """Return the versions that decide a result."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("headsweep", "torch", "transformers", "safetensors", "accelerate", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found | {"threads": str(torch.get_num_threads())}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a manifest; raises UserError when there is none or it is of another format."""
    path = folder / MANIFEST
    if not path.exists():
        raise UserError(f"{folder}: no {MANIFEST}", "give a folder that `headsweep purify` wrote")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a manifest") from error
    if found != MANIFEST_FORMAT:
        raise UserError(f"{path}: format '{found}'", f"this version reads {MANIFEST_FORMAT}")
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
    "other_files_sha256": dict,
    "tensors_sha256": dict,
    "fingerprint": list,
    "labels": list,
    "before": dict,
    "after": dict,
    "search": dict,
    "strategy": dict,
    "checks": list,
    "verified": bool,
    "bound": dict,
}
"""What every manifest has, and of which kind."""


@dataclass(frozen=True)
class Check:
    """One thing that was verified."""

    what: str
    passed: bool
    detail: str = ""


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
    try:
        model = reload(folder)
        anatomy = locate(model, described_adapter(manifest), mask.units)
    except UserError:
        raise
    except Exception as error:  # whatever plain loading raises is the finding
        return [*checks, Check("loads in plain from_pretrained", False, str(error)[:200])]
    checks.append(Check("loads in plain from_pretrained", True))
    same = "every tensor is the one written"
    checks.append(_same(same, tensors_hash(model), manifest["tensors_sha256"]))
    checks += [_check_labels(model, manifest), _check_tokenizer(folder)]
    names = [anatomy.layout.name(unit) for unit in range(anatomy.layout.units)]
    before = [unit for unit, name in enumerate(names) if name in manifest["zero_before"]]
    if mask.fits(anatomy.layout):
        listed = [names[unit] for unit in mask.pruned]
        told = Check("mask and list of pruned units agree", listed == manifest["pruned_units"])
        checks.append(told)
    return checks + check_weights(anatomy, mask, before) + [_check_logits(model, manifest)]


def _check_noted(manifest: Mapping[str, Any]) -> list[Check]:
    """Return what did not hold when the folder was made, or that everything did."""
    try:
        failed = [
            Check(f"when it was made: {check['what']}", False, str(check["detail"]))
            for check in manifest["checks"]
            if check["passed"] is not True
        ]
        bound, after = manifest["bound"], manifest["after"]["validation"]
        kept = not bound["binds"] or _enough(after, bound["min_accuracy"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{MANIFEST}: lacks its checks, bound or figures ({error})",
            "the manifest is damaged: get the folder from its source again",
        ) from error
    if failed:
        return failed
    sound = manifest["verified"] and kept
    return [Check("every check held when it was made", sound, "its own figures say otherwise")]


def _enough(figures: Mapping[str, Any], lowest: float) -> bool:
    return bool(figures["right"] >= needed(lowest, figures["examples"]))


def _check_files(folder: Path, manifest: Mapping[str, Any]) -> list[Check]:
    weights, others = manifest["weights_sha256"], manifest["other_files_sha256"]
    return [
        _same("weight files are the ones written", weights_hash(folder), weights),
        _same("the other files are the ones written", other_files_hash(folder), others),
    ]


def _same(what: str, found: Mapping[str, str], noted: Mapping[str, str]) -> Check:
    """Check that things have the hashes noted: none changed, none missing, none more."""
    apart = [name for name in {**noted, **found} if found.get(name) != noted.get(name)]
    return Check(what, not apart, f"not so: {_few(apart)}")


def _few(names: Iterable[str]) -> str:
    told = list(names)
    more = f" and {len(told) - 3} more" if len(told) > 3 else ""
    return ", ".join(told[:3]) + more


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
        Check(
            f"all weights of the {len(mask.pruned)} pruned units are zero",
            not live,
            f"not in {_few(live)}",
        ),
        Check("no other unit is zero", not more, f"{len(more)} more: {lost}"),
        Check("every layer keeps a unit", not already_pruned(anatomy).empties_a_row),
    ]


def _check_labels(model: PreTrainedModel, manifest: Mapping[str, Any]) -> Check:
    found = list(Labels.of(model.config.id2label).names)
    return Check("labels are those noted", found == manifest["labels"], f"now {', '.join(found)}")


def _check_tokenizer(folder: Path) -> Check:
    try:
        read_tokenizer(str(folder))
    except UserError as error:
        return Check("the tokenizer loads", False, error.what)
    return Check("the tokenizer loads", True)


def _check_logits(model: PreTrainedModel, manifest: Mapping[str, Any]) -> Check:
    found = fingerprint(model)
    try:
        noted = torch.tensor(manifest["fingerprint"], dtype=torch.float32)
    except (TypeError, ValueError):
        noted = torch.empty(0)
    if noted.shape != found.shape:
        return Check("logits are those noted", False, "what is noted is no table of its logits")
    gap = float((found - noted).abs().max())
    return Check("logits are those noted", gap <= LOGIT_TOLERANCE, f"largest difference {gap:.1e}")


def model_card(manifest: Mapping[str, Any]) -> str:
    """Return the model card in the Hub's format: what was done, and what was not proven."""
    before, after = manifest["before"], manifest["after"]
    name = Path(manifest["suspect"]).name
    units, total = manifest["pruned_units"], manifest["units"]
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-classification",
        "tags:",
        "- headsweep",
        "- backdoor-defense",
        "- pruned",
        "---",
        "",
        f"# {name}, pruned by headsweep",
        "",
        f"{len(units)} of {total} prunable units (attention heads, or FFN groups) of `{name}` "
        f"were set to zero with the strategy `{manifest['strategy']['name']}`; "
        f"{_healed(manifest)}.",
        "",
        "| clean data | before | after |",
        "|---|---|---|",
    ]
    lines += [
        f"| accuracy, {part} ({before[part]['examples']} examples) "
        f"| {before[part]['accuracy']:.3f} | {after[part]['accuracy']:.3f} |"
        for part in ("validation", "test")
        if part in before
    ]
    lines += ["", *_allowed(manifest)]
    lines += [
        "## What this does not prove",
        "",
        "Nobody gave this tool the trigger, so it could not measure whether a backdoor was there "
        "or is gone. Pruning can fail: a backdoor can sit in heads that clean accuracy needs, in "
        "the feed-forward layers or the embeddings, and fine-tuning can bring it back. An "
        "attacker who knows the method can place it where pruning looks last. **This card does "
        "not call the model clean.**",
        "",
        "## How it was made",
        "",
        "Pruned heads as layer.head, FFN groups as layer.ffn.group, all from 0: "
        f"{', '.join(units[:200]) or 'none'}{' ...' if len(units) > 200 else ''}.",
        "",
        f"`{MANIFEST}` beside this file holds {_searched(manifest)}"
        "seeds, versions and hashes; `headsweep verify` checks the folder against it. "
        "The licence of the original model applies.",
        "",
    ]
    return "\n".join(lines)


def _searched(manifest: Mapping[str, Any]) -> str:
    trials = "every trial of the search with its accuracy, "
    search = manifest["search"]
    return trials * bool(search["steps"]) + "the scores, " * (search["scores"] is not None)


def _allowed(manifest: Mapping[str, Any]) -> list[str]:
    """Return what accuracy was allowed, and the checks that failed."""
    bound = manifest["bound"]
    lowest, pruning = bound["min_accuracy"], bound.get("while_pruning")
    told = f"Allowed: a validation accuracy of {lowest:.4f} at least"
    if not bound.get("binds", True):
        told = "No bound on accuracy held this method"
    elif pruning is not None and pruning != lowest:
        told += f", of {pruning:.4f} while heads were chosen, before healing"
    failed = [f"{check['what']}: {check['detail']}" for check in manifest["checks"]
              if not check["passed"]]  # fmt: skip
    lines = [f"{told}.", ""]
    return [*lines, f"**Not held: {'; '.join(failed)}.**", ""] if failed else lines


def _healed(manifest: Mapping[str, Any]) -> str:
    fields = manifest["heal"]["fields"]
    if fields.get("epochs") == 0:
        return "it was not fine-tuned afterwards"
    told = ", ".join(f"{name} {value}" for name, value in fields.items() if value is not None)
    texts = "clean data and probes of it" if fields.get("on") == "probes" else "clean data"
    tried = manifest["heal"].get("tried", [])
    lr = manifest["heal"].get("lr", 0)
    cooled = f", begun anew for accuracy, kept: lr {lr:g}" if len(tried) > 1 else ""
    return f"then it was healed on {texts} ({manifest['heal']['name']}: {told}{cooled})"


def command_line() -> str:
    """Return how this program was called, for the manifest."""
    name = Path(sys.argv[0]).name
    return " ".join(["headsweep" if name == "__main__.py" else name, *sys.argv[1:]])
