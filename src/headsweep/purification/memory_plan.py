"""How much memory a purification takes at most: told before it begins, refused where it cannot fit.

Counted in numbers of four bytes, since weights are widened to float32:

- the weights;
- while healing: their gradients and AdamW's two averages, and what the healing keeps beside
  (``Healing.copies``: the weights it begins from, the sum of a soup, the best try so far);
- what one batch of the longest texts keeps for the backward pass, about 17 numbers a token, layer
  and width (Korthikanti et al. 2022, *Reducing Activation Recomputation in Large Transformer
  Models*, section 4.1, without the attention map, which fused kernels do not keep), and logits.

What cannot be made smaller by halving batches is refused: weights, gradients and copies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from headsweep.errors import UserError
from headsweep.model.runtime import Runtime, free_bytes
from headsweep.purification.method import Method

NUMBER = 4  # bytes
A_TOKEN = 17  # numbers a layer and width
PROGRAM = 1 << 30  # bytes of Python, torch and the rest
TOLD = 4 << 30  # bytes: less is not worth a line
LEANER = (
    (3, "one healing (--heal members=1 --heal beyond=1 --heal halvings=0)"),
    (0, "pruning alone (--heal epochs=0)"),
)
"""What keeps fewer copies of the weights, with how many."""


@dataclass(frozen=True)
class Size:
    """How large a model is.

    Attributes:
        weights: how many numbers.
        layers: how many layers.
        width: of a token between them.
        answers: numbers that a model answers a token with: its vocabulary, or its classes a text.

    """

    weights: int
    layers: int
    width: int
    answers: int

    @classmethod
    def of(cls, weights: int, config: Any, generates: bool) -> Size:
        """Read what a configuration says beside the number of weights."""
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        return cls(
            weights,
            int(getattr(text, "num_hidden_layers", 0) or 0),
            int(getattr(text, "hidden_size", 0) or 0),
            int(getattr(text, "vocab_size", 0) or 0) if generates else 0,
        )


@dataclass(frozen=True)
class Needs:
    """How many bytes a purification takes at most, by what for."""

    weights: int
    healing: int
    batch: int

    @property
    def fixed(self) -> int:
        """What no smaller batch saves."""
        return self.weights + self.healing

    @property
    def all(self) -> int:
        """The peak."""
        return self.fixed + self.batch + PROGRAM

    def __str__(self) -> str:
        parts = f"weights {told(self.weights)}, healing {told(self.healing)}, a batch "
        return f"up to {told(self.all)} of memory ({parts}{told(self.batch)})"


def needs(size: Size, method: Method, runtime: Runtime) -> Needs:
    """Return what a method takes of memory on a model of this size."""
    whole = NUMBER * size.weights
    tokens = runtime.batch_size * runtime.max_length
    a_token = A_TOKEN * size.layers * size.width + 2 * size.answers
    return Needs(whole, whole * method.healing.copies, NUMBER * tokens * a_token)


def check_fits(size: Size, method: Method, runtime: Runtime) -> str:
    """Return a line on the memory that a large model takes, nothing of a small one.

    Raises:
        UserError: it cannot fit into what is free.

    """
    asked, free = needs(size, method, runtime), free_bytes(runtime.torch_device)
    if asked.fixed + PROGRAM > free:
        raise UserError(
            f"{size.weights / 1e6:,.0f} million weights take {asked}, {told(free)} are free",
            _smaller(size, method, free),
        )
    if asked.all < TOLD:
        return ""
    more = "" if asked.all <= free else "; batches are halved where memory ends"
    return f"{asked}, {told(free)} are free{more}"


def _smaller(size: Size, method: Method, free: int) -> str:
    """Return what would fit, or how much memory is needed at least."""
    whole, least = NUMBER * size.weights, ""
    for copies, way in LEANER:
        if copies < method.healing.copies:
            takes = (1 + copies) * whole + PROGRAM
            if takes <= free:
                return f"{way} takes {told(takes)} and a batch"
            least = f": {way} still takes {told(takes)}"
    return f"take a machine with more memory, or a smaller model{least}"


def told(size: int) -> str:
    """Return bytes in GiB."""
    return f"{size / (1 << 30):,.1f} GiB"
