"""How much memory a purification takes at most: told before it begins, refused where it cannot fit.

Counted in numbers of four bytes, since weights are widened to float32; those that nothing trains,
and copies of them, in the bytes that they are held in (``model.narrow``):

- the weights; where they are held narrow the largest once more, widened as it is used;
- while healing: gradients and AdamW's two averages of what is trained, and what the healing keeps
  beside of what may change, in the processor's memory (``Healing.copies``: the weights it begins
  from, the sum of a soup, the best try so far). Adapters train thin matrices, and change the
  projections of the layers alone; of a model that is held narrow a soup keeps the thin matrices;
- the same for whatever is trained before: a copy that a strategy trains to rank heads, a fresh
  classifier with its encoder (``--start encoder``). What takes most counts;
- the saved model, loaded again beside the one in memory and compared with it, when nothing is
  trained any more: what takes most of the two counts;
- what one batch of the longest texts keeps for the backward pass, about 17 numbers a token, layer
  and width (Korthikanti et al. 2022, *Reducing Activation Recomputation in Large Transformer
  Models*, section 4.1, without the attention map, which fused kernels do not keep), as often as
  a step keeps passes of it (CROW two, each with all its layers), and logits, of one pass.

What cannot be made smaller by halving batches is refused: weights, gradients and copies.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from headsweep.errors import ShortOfMemory
from headsweep.heal.fine_tune import Copies
from headsweep.model.narrow import WIDE, bytes_held
from headsweep.model.runtime import Runtime, free_bytes
from headsweep.purification.method import Method

A_TOKEN = 17  # numbers a layer and width
PROGRAM = 1 << 30  # bytes of Python, torch and the rest
MORE = "take a machine with more memory, or a smaller model"
TOLD = 4 << 30  # bytes: less is not worth a line
ONCE = "--heal members=1 --heal beyond=1 --heal halvings=0"
SCRATCH = Copies(3, kept=1)  # a copy that is trained, and the weights to go back to
LEANER = (
    (Copies(3), False, "one healing,", ONCE),
    (Copies(3, rank=8), True, "one healing of adapters,", f"--heal lora=8 {ONCE}"),
    (Copies(), True, "pruning alone,", "--heal epochs=0"),
)
"""What holds less, whether the weights are frozen, and how it is asked for."""
IN_A_LAYER = re.compile(r"\.\d+\.")  # of the names of tensors


@dataclass(frozen=True)
class Size:
    """How large a model is.

    Attributes:
        weights: how many numbers.
        layers: how many layers.
        width: of a token between them.
        answers: numbers that a model answers a token with: its vocabulary, or its classes a text.
        projections: how many of the weights are those of projections in the layers.
        sides: inputs and outputs of these, in all.
        held: bytes of a weight, where nothing trains it.
        largest: how many numbers the largest matrix has.
        stored: bytes of a weight of the saved model, loaded again.

    """

    weights: int
    layers: int
    width: int
    answers: int
    projections: int = 0
    sides: int = 0
    held: int = WIDE
    largest: int = 0
    stored: int = WIDE

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]], config: Any, generates: bool) -> Size:
        """Return what a configuration and the shapes of all tensors, by name, say."""
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        flat = [s for n, s in shapes.items() if len(s) == 2 and IN_A_LAYER.search(n)]
        return cls(
            sum(map(math.prod, shapes.values())),
            _layers(text),
            int(getattr(text, "hidden_size", 0) or 0),
            int(getattr(text, "vocab_size", 0) or 0) if generates else 0,
            sum(map(math.prod, flat)),
            sum(map(sum, flat)),
            bytes_held(config),
            max((math.prod(shape) for shape in shapes.values() if len(shape) == 2), default=0),
            bytes_held(config),
        )

    @property
    def widened(self) -> Size:
        """The same with all weights in float32, as where they are trained."""
        return replace(self, held=WIDE)

    @property
    def narrow(self) -> bool:
        """Whether weights are held in less."""
        return self.held < WIDE

    @property
    def taken(self) -> int:
        """How many bytes the weights take, the one that is widened included."""
        return self.held * self.weights + WIDE * self.largest * self.narrow

    @property
    def saved(self) -> int:
        """How many bytes a saved model takes that is loaded again."""
        return self.stored * self.weights

    def beside(self, copies: Copies) -> int:
        """Return how many bytes a healing holds beside the weights, copies of these left out."""
        if not copies.rank:
            return WIDE * copies.trained * self.weights
        thin = copies.rank * self.sides
        return WIDE * (1 + copies.trained + copies.members * self.narrow) * thin

    def copied(self, copies: Copies) -> int:
        """Return how many bytes a healing's copies of weights and their sum take."""
        changed = self.projections if copies.rank else self.weights
        return (self.held * copies.kept + WIDE * copies.sums * (not self.narrow)) * changed


def _layers(config: Any) -> int:
    """Return how many layers a configuration names, those of a decoder beside an encoder too."""
    names = ["num_hidden_layers"]
    if getattr(config, "is_encoder_decoder", False):
        more = ("decoder_layers", "num_decoder_layers")
        names += [name for name in more if getattr(config, name, None)][:1]
    found = (getattr(config, name, 0) for name in names)
    return sum(one for one in found if isinstance(one, int))


@dataclass(frozen=True)
class Needs:
    """How many bytes a purification takes at most, by what for.

    ``apart``: in the processor's memory, where it computes on another device; ``saving``: what was
    saved is loaded again and compared, when nothing is trained any more.
    """

    weights: int
    training: int
    batch: int
    apart: int = 0
    saving: int = 0

    @property
    def fixed(self) -> int:
        """What no smaller batch saves."""
        return self.weights + max(self.training, self.saving)

    @property
    def all(self) -> int:
        """The peak."""
        return self.weights + max(self.training + self.batch, self.saving) + PROGRAM

    def __str__(self) -> str:
        parts = f"weights {told(self.weights)}, training {told(self.training)}, a batch "
        again = f", {told(self.saving)} for what was saved, loaded again"
        last = again if self.saving > self.training + self.batch else ""
        apart = f", and {told(self.apart)} of the processor's" if self.apart else ""
        return f"up to {told(self.all)} of memory ({parts}{told(self.batch)}{last}){apart}"


def needs(size: Size, method: Method, runtime: Runtime, *, fresh: bool = False) -> Needs:
    """Return what a method takes of memory on a model of this size.

    ``fresh``: a classifier is put on it and trained with it first, and the encoder kept as it was.
    """
    size = size if method.frozen and not fresh else size.widened
    phases = [method.healing.copies]
    phases += [Copies()] * method.pruning.needs.pruning  # gates are scored in batches of their own
    phases += [SCRATCH] * method.pruning.needs.weights + [Copies(3)] * fresh
    rows = max(one.graphs * (one.batch or runtime.batch_size) for one in phases)
    answered = max(one.batch or runtime.batch_size for one in phases)
    kept = rows * A_TOKEN * size.layers * size.width + 2 * answered * size.answers  # a token each
    training = max(map(size.beside, phases))
    apart = max(map(size.copied, phases)) + WIDE * size.weights * fresh
    if runtime.torch_device.type == "cpu":
        training = max(size.beside(one) + size.copied(one) for one in phases)
        training, apart = training + WIDE * size.weights * fresh, 0
        return Needs(size.taken, training, WIDE * runtime.max_length * kept, 0, size.saved)
    return Needs(size.taken, training, WIDE * runtime.max_length * kept, max(apart, size.saved))


def check_fits(size: Size, method: Method, runtime: Runtime, *, fresh: bool = False) -> str:
    """Return a line on the memory that a large model takes, nothing of a small one.

    Raises:
        ShortOfMemory: it cannot fit into what is free.

    """
    asked, free = needs(size, method, runtime, fresh=fresh), free_bytes(runtime.torch_device)
    here = free_bytes(torch.device("cpu")) if asked.apart else 0
    if asked.fixed + PROGRAM > free or asked.apart > here:
        beside = f" and {told(here)} of the processor's" if asked.apart else ""
        raise ShortOfMemory(
            f"{size.weights / 1e6:,.0f} million weights take {asked}, "
            f"{told(free)}{beside} are free",
            MORE if fresh else _smaller(size, method, asked, free, here or None),
        )
    if asked.all + asked.apart < TOLD:
        return ""
    more = "" if asked.all <= free else "; batches are halved where memory ends"
    return f"{asked}, {told(free)} are free{more}"


def _smaller(size: Size, method: Method, asked: Needs, free: int, here: int | None) -> str:
    """Return what would fit, or how much memory is needed at least.

    ``here``: what is free of the processor's memory, where it computes on another device.
    """
    least = ""
    for copies, frozen, way, options in LEANER:  # none of which keeps copies
        leaner = size if frozen else size.widened
        saving = leaner.saved if here is None else 0
        takes = leaner.taken + max(leaner.beside(copies), saving)
        if takes < asked.fixed + asked.apart and (here is None or leaner.saved <= here):
            takes += PROGRAM
            by_gates = not copies.trained or method.pruning.needs.weights
            told_by = f"{way} `purify {'--strategy gradient ' * by_gates}{options}`,"
            if takes <= free:
                return f"{told_by} takes {told(takes)} and a batch"
            least = f": {told_by} still takes {told(takes)}"
    return f"{MORE}{least}"


def told(size: int) -> str:
    """Return bytes in GiB."""
    return f"{size / (1 << 30):,.1f} GiB"
