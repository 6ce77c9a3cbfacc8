"""``inspect`` and ``verify``: what a model consists of, and whether a folder is what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, overload

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from headsweep.drafts import MANIFEST
from headsweep.errors import UserError
from headsweep.export.verify import Check
from headsweep.export.verify import verify as check_folder
from headsweep.model.claims import claimed_units, claims
from headsweep.model.families import Adapter
from headsweep.model.findings import Findings, findings_of
from headsweep.model.loading import Reading, Suspect
from headsweep.model.mask import QUERIES, HeadMask, Row
from headsweep.model.removal import already_pruned
from headsweep.model.runtime import Runtime
from headsweep.purification.material import open_suspect
from headsweep.purification.purified import Purified
from headsweep.settings import fitting
from headsweep.verbs.arguments import Fields, adapter_of, base_of, in_memory, runtime_of


@dataclass(frozen=True)
class Layer:
    """The heads of a layer, all counted from 0.

    Attributes:
        layer: its number.
        heads, key_value_heads: how many query heads, and how many key/value heads they share.
        head_width: numbers a head.
        pruned: the query heads whose output weights are zero.
        pruned_groups: the key/value heads all of whose query heads are pruned.

    """

    layer: int
    heads: int
    key_value_heads: int
    head_width: int
    pruned: tuple[int, ...]
    pruned_groups: tuple[int, ...]


@dataclass(frozen=True)
class Inspected:
    """What a model consists of.

    Attributes:
        model: where it came from.
        architecture, model_type: its class, and the name of its family.
        parameters: how many numbers it has.
        precision: the precision of its checkpoint.
        task: what it is for: ``classification``, ``multi-label``, ``regression``,
            ``token-classification`` or ``generation``.
        labels: the names of its classes; none where it answers in tokens or numbers.
        layers: the heads, layer by layer.
        mask: which query heads and FFN groups have weights left; True: they have.
        notes: what was added to make it usable, and what it says of itself.

    """

    model: str
    architecture: str
    model_type: str
    parameters: int
    precision: str
    task: str
    labels: tuple[str, ...]
    layers: tuple[Layer, ...]
    mask: HeadMask
    notes: tuple[str, ...]

    @property
    def heads(self) -> int:
        """How many heads there are."""
        return sum(layer.heads for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        ffn = [
            {"layer": i, "groups": len(kept), "pruned": [g for g, k in enumerate(kept) if not k]}
            for i, kept in enumerate(self.mask.ffn)
        ]
        return {
            "model": self.model,
            "architecture": self.architecture,
            "model_type": self.model_type,
            "parameters": self.parameters,
            "precision": self.precision,
            "task": self.task,
            "labels": list(self.labels),
            "heads": self.heads,
            "gates_checked": True,
            "notes": list(self.notes),
            "layers": [
                {name: list(x) if isinstance(x, tuple) else x for name, x in vars(layer).items()}
                for layer in self.layers
            ],
            "ffn": ffn,
        }


@overload
def inspect(
    model: str | Path | PreTrainedModel | Suspect | Purified,
    *,
    security: Literal[False] = False,
    task: str | None = None,
    base_model: str | Path | None = None,
    adapter: Adapter | str | Path | None = None,
    device: str = "auto",
    compute: Runtime | Fields = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Inspected: ...


@overload
def inspect(
    model: str | Path, *, security: Literal[True], base_model: str | Path | None = None
) -> Findings: ...


def inspect(
    model: str | Path | PreTrainedModel | Suspect | Purified,
    *,
    security: bool = False,
    task: str | None = None,
    base_model: str | Path | None = None,
    adapter: Adapter | str | Path | None = None,
    device: str = "auto",
    compute: Runtime | Fields = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Inspected | Findings:
    """Return layers, heads, key/value groups and what is pruned already; check that gates work.

    With ``security`` nothing is loaded: what the folder holds that is refused, left out or never
    read is returned as ``Findings``; of the other arguments ``base_model`` alone has a meaning,
    whose files are looked at as well.

    Args:
        model: a folder, a name on the Hub, a purified model, or a loaded classifier.
        security: look at files instead, which must be a folder or a name on the Hub.
        task: what it is for, by name, where its configuration leaves that open.
        base_model: the model that it is an adapter of: a folder, or a name on the Hub.
        adapter: how an unknown architecture is laid out: an object, or its TOML file.
        device: a torch device; ``"auto"``: accelerate chooses.
        compute: how to compute, as ``{"batch_size": 8}``, or ``Runtime``.
        tokenizer: the tokenizer of a loaded classifier.

    Raises:
        UserError: whatever makes the model unusable.

    """
    if security:
        if not isinstance(model, str | Path):
            raise UserError("security looks at files", "give a folder, or a name on the Hub")
        return findings_of(model, base_of(base_model))
    one, runtime = in_memory(model), runtime_of(device, compute)
    stored = one if isinstance(one, str | Path) else None
    units = QUERIES if stored is None else claimed_units(stored)
    base = base_of(base_model)
    reading = Reading(
        adapter=adapter_of(adapter), units=units, task=task, base_model=base, frozen=True
    )
    said = () if stored is None else claims(stored)
    try:
        opened = open_suspect(one, reading, runtime, tokenizer)
    except UserError:
        if units == QUERIES:
            raise
        opened = open_suspect(one, replace(reading, units=QUERIES), runtime, tokenizer)
        said = (*said, f"the units that {MANIFEST} names are none of this model's")
    pruned = already_pruned(opened.anatomy)
    heads = zip(opened.anatomy.layout.rows, pruned.heads, strict=False)  # FFN rows come after
    layers = tuple(_layer(row, keep) for row, keep in heads)
    return Inspected(
        opened.source,
        type(opened.model).__name__,
        str(opened.model.config.model_type),
        sum(p.numel() for p in opened.model.parameters()),
        str(opened.precision).removeprefix("torch."),
        opened.task.words.task,
        tuple(opened.labels.names),
        layers,
        pruned,
        (*opened.notes, *said),
    )


def _layer(row: Row, keep: Sequence[bool]) -> Layer:
    """Return what a row of query heads is, and what of it has no weights left."""
    groups = range(0, row.units, row.group)
    return Layer(
        row.layer,
        row.units,
        len(groups),
        row.width,
        tuple(head for head, stays in enumerate(keep) if not stays),
        tuple(i // row.group for i in groups if not any(keep[i : i + row.group])),
    )


def verify(folder: str | Path) -> list[Check]:
    """Check the weights of a purified folder against its manifest, with nothing but the folder.

    Returns:
        What was checked: ``what``, ``passed``, and a ``detail`` where it did not hold.

    Raises:
        UserError: no folder that ``purify`` wrote, or a damaged manifest.

    """
    return check_folder(Path(fitting(folder, Path, "folder")))
