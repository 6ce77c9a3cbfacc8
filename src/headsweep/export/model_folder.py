"""What a purification leaves behind: weights, manifest, model card; and how to check it.

The folder holds full-shape weights with the pruned units at zero, so that it loads in plain
``from_pretrained`` everywhere, the tokenizer, and ``headsweep.json``: what was pruned, why, and
with which figures, versions and seeds. It is written to a sibling and renamed when complete.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headsweep.model.checkpoint import other_shapes, quiet
from headsweep.model.generating import ruled_by_none
from headsweep.model.loading import Suspect, read_config
from headsweep.model.narrow import hold
from headsweep.model.padding import probe_inputs
from headsweep.model.vetting import vetted
from headsweep.texts.kinds import task_of
from headsweep.texts.task import Task

MANIFEST_FORMAT = "headsweep.manifest/1"
LOGIT_TOLERANCE, ORDINARY = 1e-4, 30.0  # of logits up to that size; larger ones round more


def save_model(suspect: Suspect, folder: Path, names: Literal["file", "model"] = "file") -> None:
    """Write weights in the checkpoint's own precision, config and tokenizer.

    ``names``: tensors are called, and split, as in files of the architecture that others read, or
    as in the model (of most architectures that is the same).
    """
    model = suspect.model
    floats = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    lasting = {t.data_ptr() for t in model.state_dict().values()}
    saved = [t for t in floats if t.data_ptr() in lasting]
    wide = [t.data for t in saved]
    config, beside = model.config, model.config.output_attentions
    try:  # the data is swapped, not cast in place: buffers that are not saved keep float32
        config.output_attentions = False  # with fast kernels it could not be saved
        for tensor in saved:
            tensor.data = tensor.data.to(suspect.precision)
        with quiet(), ruled_by_none(model):
            model.save_pretrained(folder, save_original_format=names == "file")
    finally:
        for tensor, data in zip(saved, wide, strict=True):
            tensor.data = data
        config.dtype = torch.float32
        config._output_attentions = beside
    suspect.tokenizer.save_pretrained(folder)


def fingerprint(model: PreTrainedModel) -> Tensor:
    """Return the logits of a fixed batch of token numbers, or what its task notes of them."""
    inputs, task = probe_inputs(model), task_of(model.config, [type(model).__name__])
    with torch.inference_mode():
        found: Tensor = model(**inputs).logits.float()
        return task.noted(found, inputs["input_ids"]).cpu()


def gap_of(found: Tensor, noted: Tensor) -> float:
    """Return the largest difference of logits, which is to be at most ``LOGIT_TOLERANCE``.

    Where the largest is above ``ORDINARY``, as numbers of a regression may be, all are scaled down
    to it: float32 rounds in proportion.
    """
    return float((found - noted).abs().max()) / max(1.0, float(noted.abs().max()) / ORDINARY)


def why_not(folder: Path, error: Exception) -> str:
    """Return why a folder does not load, in one line; transformers prints a table of its own."""
    try:
        with vetted(folder) as files, quiet():
            task = task_of(read_config(str(folder), files))
            _, found = task.load(str(files.folder), ignore_mismatched_sizes=True)
        misfits = sorted(found["mismatched_keys"])
    except Exception:  # the same that is asked about
        misfits = []
    return other_shapes(misfits) if misfits else " ".join(str(error).split())[:200]


def reload(folder: Path, task: Task | None = None) -> PreTrainedModel:
    """Load a folder as any user would, but that it is looked through first; it computes in float32.

    ``task``: what it is for; None: as its configuration says.
    """
    with vetted(folder) as files, quiet():
        model = (task or task_of(read_config(str(folder), files))).reload(files.folder)
    loaded: PreTrainedModel = hold(model).eval()
    return loaded
