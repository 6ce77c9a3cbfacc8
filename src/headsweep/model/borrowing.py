"""A model borrowed and put back: its mode, its backend, its gradients, what it shows of itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from headsweep.errors import UserError
from headsweep.model.anatomy import Anatomy, layers_of
from headsweep.model.checkpoint import quiet
from headsweep.texts.encoded import Batch
from headsweep.texts.task import taken


def uncached(model: PreTrainedModel) -> dict[str, bool]:
    """Return the argument that keeps a decoder from filling a cache; nothing for others."""
    return taken(model, use_cache=False)


def attentions(anatomy: Anatomy, inputs: Mapping[str, Tensor]) -> Any:
    """Return the model's output with every layer's attention, [batch, head, token, token].

    Needs ``eager``.

    Raises:
        UserError: the model gives none, or none of that shape.

    """
    given = anatomy.model(**inputs, output_attentions=True)
    found = getattr(given, "attentions", None) or ()
    batch, tokens = inputs["input_ids"].shape
    whole = (batch, int(anatomy.model.config.num_attention_heads), tokens, tokens)
    shapes = [None if layer is None else tuple(layer.shape) for layer in found]
    if shapes == [whole] * len(layers_of(anatomy)):
        return given
    raise no_attention()


def no_attention() -> UserError:
    """Return what to say of a model whose attention cannot be read."""
    return UserError(
        "this model gives no attention weights of every head of every layer over all tokens, "
        "which this method needs",
        "choose another method; a healing that needs them does without by --heal attention=0",
    )


@contextmanager
def eager(anatomy: Anatomy) -> Iterator[None]:
    """Compute attention so that its weights can be read; hand the backend back as it was."""
    model = anatomy.model
    before = model.config._attn_implementation
    with quiet():
        model.set_attn_implementation("eager")
    if model.config._attn_implementation != "eager":  # Falcon's own classes cannot be exchanged
        model.config._attn_implementation_internal = "eager"
    try:
        yield
    finally:
        with quiet():
            model.set_attn_implementation(before)
        model.config._attn_implementation_internal = before


@contextmanager
def evaluating(anatomy: Anatomy, training: bool = False) -> Iterator[None]:
    """Switch dropout off inside; ``training``: on, where the model has any."""
    before = anatomy.model.training
    anatomy.model.train(training)
    try:
        yield
    finally:
        anatomy.model.train(before)


@contextmanager
def unit_outputs(anatomy: Anatomy) -> Iterator[list[list[Tensor]]]:
    """Collect what enters every gate in a forward pass, in site order; see ``by_text``.

    Once for each layer that the weights are applied in: ALBERT's layers share them.
    """
    found: list[list[Tensor]] = [[] for _ in anatomy.sites]

    def begin(*_: Any) -> None:
        for passes in found:
            passes.clear()

    def keep(place: int, args: tuple[Any, ...]) -> None:
        row = anatomy.sites[place].row
        found[place].append(args[0].detach()[..., : row.units * row.width])

    with ExitStack() as stack:
        stack.callback(anatomy.model.register_forward_pre_hook(begin).remove)
        for place, site in enumerate(anatomy.sites):
            hook = site.gate.register_forward_pre_hook(
                lambda _, args, place=place: keep(place, args)
            )
            stack.callback(hook.remove)
        yield found


def by_text(x: Tensor, batch: Batch) -> Tensor:
    """Return what entered a gate as [batch, token, width].

    OPT's FFN flattens the first two; Longformer adds padding behind the texts.

    Raises:
        UserError: there are fewer tokens than the texts have (Funnel).

    """
    tokens = batch.inputs["attention_mask"]
    if x.dim() == 3 and x.shape[1] > tokens.shape[1]:
        x = x[:, : tokens.shape[1]]
    if x.shape[:-1].numel() != tokens.numel():
        raise UserError(
            "this model joins neighbouring tokens between its layers, so what a head gives to each "
            "token cannot be measured",
            "choose another strategy, as gradient",
        )
    return x.reshape(*tokens.shape, -1)


@contextmanager
def frozen(anatomy: Anatomy, but: list[nn.Parameter] | None = None) -> Iterator[None]:
    """Take gradients for these parameters only, with the model in eval mode."""
    model = anatomy.model
    wanted = {id(p) for p in but or []}
    before = [(p, p.requires_grad) for p in model.parameters()]
    training = model.training
    model.eval()
    for p, _ in before:
        p.requires_grad_(id(p) in wanted)
    try:
        yield
    finally:
        model.train(training)
        for p, wants in before:
            p.requires_grad_(wants)
