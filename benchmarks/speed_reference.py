"""The plain loop that the engine is compared with, in the manner of published pruning scripts.

A deep copy of the model for every mask, heads physically removed from it, every text padded to
128 tokens, attention weights computed and kept (eager attention), the whole validation set; a
group of heads a trial, then one head back at a time. Written for this comparison; no line is
taken from any script. What such scripts often do besides is left out in their favour: tokenising
again, gradients (here: inference mode), and loading the model from disk for every mask.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from headsweep.texts.encoded import Encoded

LENGTH = 128


def padded(encoded: Encoded, batch_size: int = 32) -> list[dict[str, Tensor]]:
    """Return batches in the order of the file, every text padded to 128 tokens."""
    made = []
    for start in range(0, len(encoded), batch_size):
        rows = range(start, min(start + batch_size, len(encoded)))
        ids = torch.full((len(rows), LENGTH), encoded.pad)
        mask = torch.zeros(len(rows), LENGTH, dtype=torch.long)
        for place, row in enumerate(rows):
            found = encoded.ids[row][:LENGTH]
            ids[place, : len(found)] = torch.tensor(found)
            mask[place, : len(found)] = 1
        labels = torch.tensor([encoded.labels[row] for row in rows])
        made.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return made


def without_heads(model: PreTrainedModel, gone: Sequence[int]) -> PreTrainedModel:
    """Return a copy of a BERT classifier with these heads (flat numbers) cut out."""
    made = copy.deepcopy(model)
    made.set_attn_implementation("eager")
    heads, pruned = model.config.num_attention_heads, set(gone)
    width = model.config.hidden_size // heads
    for number, layer in enumerate(made.bert.encoder.layer):
        left = [h for h in range(heads) if number * heads + h not in pruned]
        places = torch.cat([torch.arange(h * width, (h + 1) * width) for h in left])
        attention = layer.attention
        for name in ("query", "key", "value"):
            old = getattr(attention.self, name)
            new = nn.Linear(old.in_features, len(places))
            new.weight.data, new.bias.data = old.weight.data[places], old.bias.data[places]
            setattr(attention.self, name, new)
        attention.output.dense.weight.data = attention.output.dense.weight.data[:, places]
    return made


def right_answers(model: PreTrainedModel, batches: Sequence[dict[str, Tensor]]) -> int:
    """Return how many texts a model gets right, all attention weights kept until the batch ends."""
    right = 0
    with torch.inference_mode():
        for batch in batches:
            inputs = {k: x for k, x in batch.items() if k != "labels"}
            found = model(**inputs, output_attentions=True)
            assert len(found.attentions) == model.config.num_hidden_layers
            right += int((found.logits.argmax(-1) == batch["labels"]).sum())
    return right


def search(
    model: PreTrainedModel,
    batches: Sequence[dict[str, Tensor]],
    order: Sequence[int],
    need: int,
    step: int,
) -> tuple[list[int], int]:
    """Prune ``step`` heads a trial, then back off one by one; return also how many masks."""
    gone: list[int] = []
    masks = 0
    for start in range(0, len(order), step):
        trial = [*gone, *order[start : start + step]]
        masks += 1
        if right_answers(without_heads(model, trial), batches) >= need:
            gone = trial
            continue
        while len(trial) > len(gone):
            trial = trial[:-1]
            if len(trial) == len(gone):
                break
            masks += 1
            if right_answers(without_heads(model, trial), batches) >= need:
                return trial, masks
        break
    return gone, masks


def epoch(model: PreTrainedModel, batches: Sequence[dict[str, Tensor]], lr: float = 3e-5) -> None:
    """Fine-tune a model on padded batches, fp32, as a plain trainer does."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    model.train()
    for batch in batches:
        model(**batch).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
