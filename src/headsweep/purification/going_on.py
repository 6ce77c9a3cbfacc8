"""Training that goes on after a purification, with the pruned heads held at zero.

A ``Trainer`` knows nothing of pruned heads. Where every head has keys and values of its own, zeros
on both sides of a head leave it without a gradient, and plain training leaves it alone. Where heads
share them (grouped queries), a head whose group lives on gets a gradient at its output, and has
weights again after the first step; what an optimizer adds of its own (noise, say) does the same
anywhere. The callback sets pruned heads to zero after every step, before anything is logged,
evaluated or saved.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from headsweep.drafts import MANIFEST
from headsweep.errors import UserError, shown
from headsweep.export.verify import read_manifest
from headsweep.model.anatomy import Anatomy, locate
from headsweep.model.claims import claimed_adapter
from headsweep.model.families import FAMILIES, Adapter
from headsweep.model.joined import has_adapters
from headsweep.model.mask import HeadMask
from headsweep.model.removal import left_of, remove
from headsweep.purification.interrupted import mask_in
from headsweep.purification.purified import Purified

TAKES = "it takes what purify gave, a folder it was saved to, a mask, or a mask's file"


class PrunedHeadsCallback(TrainerCallback):
    """Keeps pruned heads at zero while a ``transformers.Trainer`` trains.

    Args:
        source: what ``purify`` gave, a folder that it was saved to, a ``HeadMask``, or the JSON
            file of one. The model that is trained need not be the same object, but must have the
            same heads.
        adapter: how the heads of an unknown architecture are found; None: as the folder says.

    Raises:
        UserError: no such folder or mask; when training begins: the mask is another model's, or
            the model has adapters of peft, which add to pruned heads what no mask reaches.

    """

    def __init__(
        self, source: Purified | HeadMask | str | Path, adapter: Adapter | None = None
    ) -> None:
        self.mask, claimed = _mask_and_adapter(source)
        self.adapter = adapter or claimed
        self._anatomy: Anatomy | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **more: Any,
    ) -> None:
        """Find the pruned heads in the model, and set them to zero."""
        del args, state, control, more
        self._anatomy = _located(model, self.mask, self.adapter)
        remove(self._anatomy, self.mask)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Set them to zero again, after the optimizer has moved them."""
        del args, state, control, more
        if self._anatomy is not None:
            remove(self._anatomy, self.mask)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Check that they are; let go of the model."""
        del args, state, control, more
        anatomy, self._anatomy = self._anatomy, None
        if anatomy is None:
            return
        remove(anatomy, self.mask)  # the best checkpoint may have been loaded in between
        left = left_of(anatomy, self.mask)
        if left:
            raise RuntimeError(f"pruned heads have weights left after training: {left[0]}")


def _mask_and_adapter(source: Any) -> tuple[HeadMask, Adapter | None]:
    """Return what was pruned, and how its architecture is laid out where that is known."""
    if isinstance(source, HeadMask):
        return source, None
    if isinstance(source, Purified):
        return source.mask, source.suspect.anatomy.adapter
    if not isinstance(source, str | Path):
        raise UserError(f"PrunedHeadsCallback cannot be given {shown(source)}", TAKES)
    path = Path(source)
    if path.is_file():
        return mask_in(path)[0], None
    if not path.is_dir():
        raise UserError(f"{path}: no such folder or file", TAKES)
    manifest = read_manifest(path)
    return HeadMask.from_json(manifest["mask"]), claimed_adapter(manifest)


def _located(model: Any, mask: HeadMask, adapter: Adapter | None) -> Anatomy:
    """Return the model that is trained with its heads found; raises UserError."""
    inner = getattr(model, "module", model)  # as data parallelism wraps it
    if has_adapters(inner):
        raise UserError(
            "the model has adapters of peft: what they add gives pruned heads weights again",
            "merge them first (merge_and_unload), or train the model itself",
        )
    if not isinstance(inner, PreTrainedModel):
        raise UserError(
            f"pruned heads cannot be found in a {type(inner).__name__}",
            "train a model of transformers",
        )
    known = None if inner.config.model_type in FAMILIES else adapter
    anatomy = locate(inner, known, mask.units)
    if not mask.fits(anatomy.layout):
        raise UserError(
            f"the mask is another model's: it has {len(mask.flat)} units, the model has "
            f"{anatomy.layout.units}",
            f"give the folder of the model that is trained, with its {MANIFEST}",
        )
    return anatomy
