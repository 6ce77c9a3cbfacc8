"""Consistency between layers, also where a trigger may stand: fine-tuning as CROW does it.

Source: Min et al. 2024, *CROW: Eliminating Backdoors from Large Language Models via Internal
Consistency Regularization*, arXiv 2411.12768. A trigger makes the hidden states of a generator jump
from one layer to the next. So to the loss is added

    alpha * mean over consecutive layers and tokens of 1 - cos(h of a layer, h of the next)

of inputs whose embeddings were moved by ``epsilon`` along the sign of the gradient of that mean
(FGSM, one step): the worst place nearby stands for the trigger that nobody knows.

The paper's are epsilon 0.1, alpha 5.5 (11 against refusals), about 100 clean prompts and three
epochs with LoRA. Our reading, where it leaves a choice: the loss itself is of inputs as they are;
layers are all hidden states that transformers gives, the embeddings first and the last one behind
the last norm; the mean is taken over the tokens of each text that are no padding, of prompt and
answer alike, then over texts; and the whole weights are trained, at 2e-5.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from headsweep.errors import UserError
from headsweep.heal.fine_tune import Copies
from headsweep.heal.whole import WholeOnce
from headsweep.measure.accuracy import FREE, Floor
from headsweep.model.borrowing import uncached
from headsweep.model.loading import Suspect
from headsweep.model.removal import pieces
from headsweep.prune.choice import Choice
from headsweep.prune.view import DefenderView
from headsweep.settings import checked
from headsweep.task.training import Job, Schedule, mean_loss, train
from headsweep.texts.encoded import Batch

STEP = 9.5  # passes of a text that a step costs: three forward, about three backward at twice that


@dataclass(frozen=True)
@checked
class LayerConsistency(WholeOnce):
    """Fine-tune on clean examples with consistency between layers added to the loss.

    Attributes:
        epochs, lr: of the fine-tuning.
        alpha: weight of the consistency.
        epsilon: how far every number of an embedding is moved.

    """

    name: ClassVar[str] = "consistency between layers"
    epochs: float = 3
    lr: float = 2e-5
    alpha: float = 5.5
    epsilon: float = 0.1

    def __post_init__(self) -> None:
        Schedule(self.epochs, self.lr)
        if not (0 <= self.alpha < math.inf and 0 <= self.epsilon < math.inf):
            raise UserError(
                f"alpha={self.alpha} and epsilon={self.epsilon}", "give numbers of 0 or more"
            )

    @property
    def trains(self) -> bool:
        """False where there are no epochs."""
        return self.epochs > 0

    @property
    def copies(self) -> Copies:
        """Gradients and the two averages of AdamW; a pass for the loss, one with moved embeddings.

        The pass that finds where to move them is let go before both.
        """
        return Copies(3, graphs=2) if self.trains else Copies()

    def work(self, examples: int) -> float:
        """Return how many forward passes of a text it costs, about."""
        return STEP * self.epochs * examples

    def fitted(self, suspect: Suspect) -> tuple[LayerConsistency, list[str]]:
        """Return it as it is: what has hidden states can be healed so, classifiers too.

        Raises:
            UserError: an encoder and a decoder have no layers in one row.

        """
        if suspect.model.config.is_encoder_decoder:
            raise no_states()
        return self, []

    def heal(self, view: DefenderView, choice: Choice, floor: Floor = FREE) -> dict[str, Any]:
        """Fine-tune the view's model in place; nothing is chosen by ``floor``.

        Raises:
            UserError: the model gives no hidden states of every token.

        """
        del floor

        def loss(model: PreTrainedModel, batch: Batch) -> Tensor:
            moved = worst(model, batch, self.epsilon)
            with embeddings_moved(model, moved):
                apart = inconsistency(model, batch)
            return mean_loss(model, batch) + self.alpha * apart

        held = pieces(view.anatomy, choice.mask)
        job = Job(Schedule(self.epochs, self.lr), view.seed, "healing", loss, held)
        losses = train(view.anatomy.model, view.train, job, view.runtime, view.progress)
        return {"losses": losses, "lr": self.lr}


def inconsistency(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Return how far hidden states turn from layer to layer: 1 - cosine, a mean over a batch.

    Raises:
        UserError: the model gives no hidden states of every token, all of one width.

    """
    given = model.base_model(**batch.inputs, **uncached(model), output_hidden_states=True)
    states: tuple[Tensor, ...] = getattr(given, "hidden_states", None) or ()
    real = batch.inputs["attention_mask"].bool()
    if len(states) < 2 or {(*real.shape, states[0].shape[-1])} != {tuple(s.shape) for s in states}:
        raise no_states()
    pairs = pairwise(states)
    turned = [1 - nn.functional.cosine_similarity(a.float(), b.float(), dim=-1) for a, b in pairs]
    by_token = torch.stack(turned).mean(0) * real  # [text, token]
    return (by_token.sum(-1) / real.sum(-1)).mean()


def no_states() -> UserError:
    """Return what to say of a model whose layers do not all give states of the same tokens."""
    return UserError(
        "this model gives no hidden states of every token after every layer",
        "choose another baseline",
    )


def worst(model: PreTrainedModel, batch: Batch, epsilon: float) -> Tensor:
    """Return by how much to move embeddings, [text, token, width], to turn hidden states most.

    Along the sign of the gradient; nothing where a token is padding. Gradients of weights are not
    touched.
    """
    found: list[Tensor] = []

    def begin(_: nn.Module, args: tuple[Any, ...], made: Tensor) -> Tensor:
        del args
        found.append(made.detach().requires_grad_())
        return found[-1].clone()  # CTRL scales it in place

    hook = model.get_input_embeddings().register_forward_hook(begin)
    try:
        with torch.enable_grad():
            apart = inconsistency(model, batch)
    finally:
        hook.remove()
    (gradient,) = torch.autograd.grad(apart, found[0])
    return epsilon * gradient.sign()


@contextmanager
def embeddings_moved(model: PreTrainedModel, moved: Tensor) -> Iterator[None]:
    """Add to the embeddings of a batch inside."""
    table = model.get_input_embeddings()
    hook = table.register_forward_hook(lambda *passed: passed[-1] + moved)
    try:
        yield
    finally:
        hook.remove()
