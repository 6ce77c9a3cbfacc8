"""A compact model: the weights of pruned units are cut out, not zero, so that it is smaller.

Where every layer keeps as many units, and the configuration can say so (its numbers of heads, the
width of a head, the width of the FFN), the folder loads in plain ``from_pretrained``. Else the
layers differ, which no configuration of transformers says: ``load`` makes the model of the
configuration and cuts it as the mask that lies beside says, without any code from the folder.

What a layer has to be told when it has fewer heads than the configuration says stands in the
adapter. Whether the model works that way is not looked up but tried: a folder is written only
where the smaller model gives the logits of the whole one. Decision 0002 says why this is no
default.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from headsweep.bounded import MIDDLE, table_of
from headsweep.drafts import COMPACT, MANIFEST, write_json
from headsweep.errors import UserError
from headsweep.export.folders import drafted, kept_free
from headsweep.export.model_folder import LOGIT_TOLERANCE, fingerprint, gap_of, reload, save_model
from headsweep.export.verify import check_logits, read_manifest
from headsweep.measure.cutting import Change, Cut, cut, cuts, shares_kept
from headsweep.model.anatomy import Anatomy, locate
from headsweep.model.checkpoint import check_size, quiet, usable
from headsweep.model.claims import claimed_adapter
from headsweep.model.families import adapter_from
from headsweep.model.files import inside, there
from headsweep.model.generating import ruled_by_none
from headsweep.model.hub import no_folder
from headsweep.model.loading import (
    Origin,
    Reading,
    Suspect,
    load_suspect,
    read_config,
    read_tokenizer,
    unpruned,
)
from headsweep.model.mask import HeadMask
from headsweep.model.narrow import widen
from headsweep.model.removal import left_of
from headsweep.model.runtime import Runtime
from headsweep.model.vetting import Vetted, vetted
from headsweep.texts.kinds import task_of

UNEVEN = "headsweep_uneven"  # of a loaded model: the folder of one that cannot be pruned
FORMAT = "headsweep.compact/1"
AGAIN = "make it again from the folder that `headsweep purify` wrote"


@dataclass(frozen=True)
class Compacted:
    """A compact model that was written.

    Attributes:
        folder: where it is.
        plain: it loads in plain ``from_pretrained``; False: only ``headsweep.load`` loads it.
        parameters_before, parameters: how many numbers the whole and the compact model have.
        bytes_before, bytes: how large the files of weights would be, and are.
        logit_gap: the largest difference of logits between the two, on a fixed batch.

    """

    folder: Path
    plain: bool
    parameters_before: int
    parameters: int
    bytes_before: int
    bytes: int
    logit_gap: float

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self) | {"folder": str(self.folder)}


def compact_folder(folder: Path, out: Path, overwrite: bool = False) -> Compacted:
    """Write the compact form of a folder that ``purify`` wrote; arguments and errors as below."""
    with kept_free(out, overwrite, (folder,)):
        manifest = read_manifest(folder)
        mask = HeadMask.from_json(manifest["mask"])
        reading = Reading(adapter=claimed_adapter(manifest), units=mask.units, task=None)
        suspect = load_suspect(folder, Runtime("cpu"), reading)
        _check_noted(folder, suspect.model, manifest)
        return compact_model(suspect, mask, out, overwrite)


def _check_noted(place: Path, model: PreTrainedModel, manifest: Mapping[str, Any]) -> None:
    """Refuse a model that answers otherwise than its manifest notes; raises UserError."""
    check = check_logits(model, manifest)
    if not check.passed:
        raise UserError(f"{place}: logits are not those noted: {check.detail}", AGAIN)


def compact_model(
    suspect: Suspect, mask: HeadMask, out: Path, overwrite: bool, reads: Iterable[object] = ()
) -> Compacted:
    """Write the compact form of a purified model, and compare what it answers.

    Args:
        suspect: the model, the weights of its pruned units at zero.
        mask: which units were kept.
        out: the folder to write, whole or not at all.
        overwrite: replace a folder that headsweep wrote.
        reads: files and folders that must not lie in it.

    Raises:
        UserError: the architecture cannot be cut, the mask is another model's, nothing was pruned,
            pruned units have weights left, or the folder cannot be written.

    """
    anatomy, model = suspect.anatomy, suspect.model
    made = _cuts(anatomy, mask)
    if left := left_of(anatomy, mask):
        raise UserError(
            f"pruned units have weights left, first in {left[0]}",
            "look what `headsweep verify` says of the folder",
        )
    whole, before = fingerprint(model), _parameters(model)
    adapter = {k: v for k, v in asdict(anatomy.adapter).items() if v not in ("", (), False)}
    form = {"format": FORMAT, "mask": mask.to_json(), "adapter": adapter}
    with drafted(out, overwrite, reads) as draft, cut(made):
        try:
            gap = gap_of(fingerprint(model), whole)
        except Exception as error:  # whatever a model that counts its heads itself trips over
            raise _uncuttable(model) from error
        if not gap <= LOGIT_TOLERANCE:
            raise _uncuttable(model)
        plain = _saved_plainly(suspect, anatomy, mask, draft)
        if not plain:
            save_model(suspect, draft, "model")
        write_json(draft / COMPACT, form | {"plain": plain, "fingerprint": whole.tolist()})
        gap = gap_of(fingerprint(load(draft)), whole)
        if not gap <= LOGIT_TOLERANCE:
            raise UserError(
                f"the compact model gives other logits when loaded again (by {gap:.1e})",
                "nothing was written; please report this architecture",
            )
        (draft / "README.md").write_text(_readme(plain), encoding="utf-8")
        now, width = _parameters(model), suspect.precision.itemsize
        size = sum(path.stat().st_size for path in draft.glob("*.safetensors"))
    return Compacted(out, plain, before, now, size + (before - now) * width, size, gap)


def load(folder: str | Path) -> PreTrainedModel:
    """Load a model that headsweep wrote, compact or with its shapes whole; float32, in eval mode.

    Nothing in the folder is run, and what it holds is looked through first.

    Raises:
        UserError: no such folder, a damaged one, or one whose weights are not what was written.

    """
    place = Path(folder)
    if not place.is_dir():
        raise no_folder(str(folder))
    form = _form(place) if there(place, COMPACT) else None
    if form is not None:
        model = _opened(place, form)
    else:
        with usable(str(place)):
            model = reload(place)
            if there(place, MANIFEST):
                _check_noted(place, model, read_manifest(place))
            model = widen(model)
    model.name_or_path = model.config._name_or_path = str(place)  # not where it was looked through
    if form is not None and not form["plain"]:
        setattr(model, UNEVEN, str(place))
    return model


def _opened(place: Path, form: Mapping[str, Any]) -> PreTrainedModel:
    """Load a compact model, and compare its logits with those noted."""
    with usable(str(place)):
        model = widen(reload(place)) if form["plain"] else _load_cut(place, form)
        noted = torch.tensor(form["fingerprint"], dtype=torch.float32)
        found = fingerprint(model)
    if noted.shape != found.shape or not gap_of(found, noted) <= LOGIT_TOLERANCE:
        raise UserError(f"{place}: the logits are not those noted when it was made", AGAIN)
    return model


def measurable(folder: str | Path) -> Suspect | None:
    """Return a compact model that can be measured, but not pruned; None: it is like any other.

    Raises:
        UserError: as ``load``.

    """
    place = Path(folder)
    if not place.is_dir() or not there(place, COMPACT):
        return None
    form = _form(place)
    if form["plain"]:
        return None
    adapter = adapter_from(form["adapter"], f"{COMPACT}, adapter")
    tokenizer = read_tokenizer(str(place))
    return unpruned(_opened(place, form), tokenizer, adapter, Origin(str(place)))


def _form(place: Path) -> dict[str, Any]:
    """Return what a folder says of its compact model; raises UserError."""
    form = table_of(inside(place, COMPACT), MIDDLE, AGAIN)
    kinds = {"format": str, "mask": dict, "adapter": dict, "plain": bool, "fingerprint": list}
    wrong = [name for name, kind in kinds.items() if not isinstance(form.get(name), kind)]
    if wrong or form["format"] != FORMAT:
        told = f"{', '.join(wrong)}: missing, or not what it should be" if wrong else form["format"]
        raise UserError(f"{place / COMPACT}: not of the format {FORMAT}: {told}", AGAIN)
    try:
        torch.tensor(form["fingerprint"], dtype=torch.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"{place / COMPACT}: fingerprint: no table of logits", AGAIN) from error
    return form


def _load_cut(place: Path, form: Mapping[str, Any]) -> PreTrainedModel:
    """Make the model of the configuration, cut it as the mask says, and fill what was cut."""
    mask = HeadMask.from_json(form["mask"])
    adapter = adapter_from(form["adapter"], f"{COMPACT}, adapter")
    with vetted(place) as files:
        check_size(str(place), read_config(str(place), files), files, most=16)
        with quiet():
            task = task_of(read_config(str(place), files))
            model: PreTrainedModel
            model, found = task.load(str(files.folder), ignore_mismatched_sizes=True)
        model = model.float().eval()
        made = _cuts(locate(model, adapter, mask.units), mask)
        for one in made:
            one.make()  # for good
        wrong = {name for name, *_ in found["mismatched_keys"]}
        names = {id(p): name for name, p in model.named_parameters()}
        smaller = {names[id(one.parameter)] for one in made if isinstance(one, Cut)}
        missing = sorted({*found["missing_keys"]} | wrong - smaller)
        if missing:
            raise UserError(f"{place}: {missing[0]} is missing or misshapen", AGAIN)
        _fill(place, files, {name: p for name, p in model.named_parameters() if name in wrong})
    return model


def _fill(place: Path, files: Vetted, parameters: Mapping[str, nn.Parameter]) -> None:
    """Copy tensors from the files of weights; raises UserError where one is of another shape."""
    left = dict(parameters)
    for shard in files.shards:
        with safe_open(shard.path, "pt") as weights:
            for name in {*left} & {*shard.shapes}:
                parameter = left.pop(name)
                if tuple(parameter.shape) != tuple(shard.shapes[name]):
                    raise UserError(f"{place}: {name} is not as its mask says", AGAIN)
                with torch.no_grad():
                    parameter.copy_(weights.get_tensor(name))
    if left:
        raise UserError(f"{place}: {min(left)} is missing", AGAIN)


def _cuts(anatomy: Anatomy, mask: HeadMask) -> list[Change]:
    if not mask.fits(anatomy.layout):
        raise UserError("the mask is another model's", AGAIN)
    made = cuts(anatomy, mask)
    if not made:
        raise UserError(
            "there is nothing to cut out: no unit was pruned" + (" whole" if mask.pruned else ""),
            "single query heads (--units queries) leave keys and values that others share"
            if mask.pruned
            else "purify with a strategy that prunes, such as --strategy gradient",
        )
    return made


def _uncuttable(model: PreTrainedModel) -> UserError:
    return UserError(
        f"{type(model).__name__} cannot be made compact: with these units cut out it does not run, "
        "or answers otherwise",
        "use the folder with its shapes whole; of some families only neurons (--units ffn) can be "
        "cut out, no heads",
    )


def _saved_plainly(suspect: Suspect, anatomy: Anatomy, mask: HeadMask, draft: Path) -> bool:
    """Write the model with a configuration of the numbers that are left, and tell if that does."""
    model, numbers = suspect.model, _numbers(anatomy, mask)
    if numbers is None:
        return False
    save_model(suspect, draft)
    # whatever the configuration or plain loading raises: then it does not
    with suppress(Exception), ruled_by_none(model):
        smaller = copy.deepcopy(model.config)
        for name, number in numbers.items():
            setattr(smaller, name, number)
        smaller.dtype = suspect.precision
        smaller.save_pretrained(draft)
        with quiet():
            loaded = fingerprint(reload(draft, suspect.task))
        if gap_of(loaded, fingerprint(model)) <= LOGIT_TOLERANCE:
            return True
    return False


def _numbers(anatomy: Anatomy, mask: HeadMask) -> dict[str, int] | None:
    """Return the numbers of a configuration that fits; None: the layers keep different numbers."""
    grouped = getattr(anatomy.model.config, "num_key_value_heads", None) is not None
    numbers: dict[str, int] = {}
    for site, keep in zip(anatomy.sites, mask.rows, strict=True):
        row, shares = site.row, len(shares_kept(site, keep))
        if row.kind == "ffn":
            own = {"intermediate_size": shares * row.width}
        else:
            heads = shares * row.group * row.queries
            own = {"num_attention_heads": heads, "head_dim": row.width // row.queries}
            own |= {"num_key_value_heads": shares} if grouped else {}
        if any(numbers.get(name, number) != number for name, number in own.items()):
            return None
        numbers |= own
    return numbers


def _parameters(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _readme(plain: bool) -> str:
    how = "plain `from_pretrained`" if plain else "`headsweep.load(folder)`"
    return (
        "# A purified model, compact\n\n"
        "The units that headsweep pruned are cut out of the weights. "
        f"It loads with {how}, to the logits of the model that it was made from. What was pruned "
        "and why stands in the model card of that one. Nothing here calls the model clean.\n"
    )
