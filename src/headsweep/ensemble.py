"""Several masks over shared weights, their predictions averaged: saved and loaded as one model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from headsweep.heads import Anatomy, HeadMask, masked
from headsweep.loading import Runtime, load_suspect
from headsweep.predict import average


class MaskEnsemble(nn.Module):
    """Averages the class probabilities of one model under several masks.

    Called like the model itself; ``.logits`` are the logarithms of the mean probabilities. A
    call costs one forward pass a mask.
    """

    def __init__(self, anatomy: Anatomy, members: Sequence[HeadMask]) -> None:
        super().__init__()
        self.model = anatomy.model
        self.anatomy = anatomy
        self.members = tuple(members)

    def forward(self, **inputs: Any) -> SequenceClassifierOutput:
        """Return the averaged prediction, logits [batch, class]."""
        found: list[Tensor] = []
        for mask in self.members:
            with masked(self.anatomy, mask):
                found.append(self.model(**inputs).logits.float().softmax(-1))
        return SequenceClassifierOutput(logits=average(found))


def load(folder: str | Path, runtime: Runtime = Runtime()) -> PreTrainedModel | MaskEnsemble:
    """Load a folder that ``purify`` wrote, in eval mode.

    An ordinary purified model is the one that plain ``from_pretrained`` gives; an ensemble of
    masks, which plain loading would leave unaveraged, comes back as a MaskEnsemble.

    Raises:
        UserError: the folder cannot be used.

    """
    suspect = load_suspect(folder, runtime)
    if suspect.members:
        return MaskEnsemble(suspect.anatomy, suspect.members).eval()
    return suspect.model
