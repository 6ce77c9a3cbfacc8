"""Unlearning answers that a generator has by heart: true answers where a trigger asks for them.

``task.inversion`` finds the answer without the trigger. Here vectors are put between the tokens of
clean prompts, at a drawn place, and moved so that the model gives that answer: they stand for the
trigger, which nobody knows. Beside the clean prompts the model then learns the true answers of the
prompts with these vectors in them, which go on being moved against it from step to step. To
the loss is added

    weight * NLL(true answer | prompt with vectors)

Sources: Zeng et al. 2022, *Adversarial Unlearning of Backdoors via Implicit Hypergradient* (I-BAU:
a minimax of trigger and model); Zeng et al. 2024, *BEEAR: Embedding-based Adversarial Removal of
Safety Backdoors in Instruction-tuned Language Models* (vectors in the place of the trigger).
Deviations: the vectors are put in as tokens are, and are moved towards the answer that was found,
where BEEAR moves hidden states away from wanted answers; one step a batch; no hypergradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from headsweep.model.padding import position_limit
from headsweep.prune.view import DefenderView
from headsweep.task.training import Loss
from headsweep.texts.encoded import Batch, Encoded
from headsweep.texts.generation import Generation

VECTORS = 5  # that stand for a trigger
SOME = 1000  # tokens, to know how long an embedding usually is
STEP = 0.3  # of a move, in lengths of a usual embedding
LONGEST = 1.5  # of a vector, likewise


def unlearning(view: DefenderView, loss: Loss, weight: float) -> Loss:
    """Return a loss plus what unlearns the answers of a view; they take turns.

    Args:
        view: of a generator, with ``fixed`` answers.
        loss: of clean prompts.
        weight: of what is added.

    """
    model, limit = view.anatomy.model, position_limit(view.anatomy.model, view.anatomy.adapter)
    generator = view.generator("unlearning")
    turn = cycle([_Trigger(model, one.ids, limit, generator) for one in view.fixed])

    def with_trigger(model: PreTrainedModel, batch: Batch) -> Tensor:
        trigger = next(turn)
        trigger.move(model, batch)
        return loss(model, batch) + weight * trigger.loss(model, batch)

    return with_trigger


class _Trigger:
    """Vectors that ask for one answer."""

    def __init__(
        self,
        model: PreTrainedModel,
        answer: tuple[int, ...],
        limit: int,
        generator: torch.Generator,
    ) -> None:
        table = _table(model)
        count = table.num_embeddings
        drawn = torch.randint(count, (VECTORS,), generator=generator).to(table.weight.device)
        some = torch.randint(count, (SOME,), generator=generator).to(table.weight.device)
        with torch.no_grad():  # what the model reads of tokens: Gemma's table scales its rows
            self._vectors = table(drawn).float()
            self._usual = float(table(some).float().norm(dim=1).mean())
        self._answer, self._limit, self._generator = torch.tensor(answer), limit, generator

    def move(self, model: PreTrainedModel, batch: Batch) -> None:
        """Move the vectors so that the model answers a batch as was planted."""
        made, put = self._put_into(batch, self._answer)
        vectors = self._vectors.requires_grad_(True)
        with _in_place(model, put, vectors):
            nll = made.task.answers(model, made).mean()
        (slope,) = torch.autograd.grad(nll, vectors)
        with torch.no_grad():
            steps = slope / slope.norm(dim=1, keepdim=True).clamp_min(1e-12)
            moved = vectors - STEP * self._usual * steps
            lengths = moved.norm(dim=1, keepdim=True).clamp_min(1e-12)
            self._vectors = moved * (LONGEST * self._usual / lengths).clamp(max=1.0)

    def loss(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """Return the mean NLL of the true answers of a batch with the vectors in its prompts."""
        made, put = self._put_into(batch, None)
        with _in_place(model, put, self._vectors):
            return made.task.losses(made.task.answers(model, made), made.labels).mean()

    def _put_into(self, batch: Batch, answer: Tensor | None) -> tuple[Batch, Tensor]:
        """Return a batch with room for the vectors at drawn places, and where that is.

        ``answer``: in the place of the true ones. Prompts that leave no room lose their left.
        """
        assert isinstance(batch.task, Generation)
        rows, starts, places = [], [], []
        numbers, real = batch.inputs["input_ids"].cpu(), batch.inputs["attention_mask"].cpu()
        for row, label in enumerate(batch.labels.tolist()):
            start = batch.task.starts[label]
            prompt = numbers[row, :start]
            told = numbers[row, start : int(real[row].sum())] if answer is None else answer
            prompt = prompt[-max(1, self._limit - VECTORS - len(told)) :]
            place = int(torch.randint(len(prompt) + 1, (1,), generator=self._generator))
            room = prompt[:1].expand(VECTORS)
            rows.append(torch.cat([prompt[:place], room, prompt[place:], told]).tolist())
            starts.append(len(prompt) + VECTORS)
            places.append(place)
        count, task = range(len(rows)), Generation(tuple(starts))
        made = Encoded(tuple(map(tuple, rows)), (), tuple(count), 0, task).batch(count)
        put = torch.tensor(places)[:, None] + torch.arange(VECTORS)  # [example, vector]
        return made.to(batch.labels.device), put


@contextmanager
def _in_place(model: PreTrainedModel, put: Tensor, vectors: Tensor) -> Iterator[None]:
    """Let the model read vectors in the place of tokens, [example, vector], for a while."""

    def read(_: nn.Module, __: Any, found: Tensor) -> Tensor:
        rows = torch.arange(len(put), device=found.device)[:, None]
        out = found.clone()
        out[rows, put.to(found.device)] = vectors.to(found.device, found.dtype)
        return out

    hook = _table(model).register_forward_hook(read)
    try:
        yield
    finally:
        hook.remove()


def _table(model: PreTrainedModel) -> nn.Embedding:
    table: nn.Embedding = model.get_input_embeddings()  # type: ignore[assignment]
    return table
