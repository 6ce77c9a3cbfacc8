"""A batch that memory does not hold is worked on in parts: halved until they fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, Self, TypeVar

import torch


class Whole(Protocol):
    """What can be worked on in parts."""

    def __len__(self) -> int:
        """Return how many examples it has."""

    def split(self, size: int) -> list[Self]:
        """Return it in parts of at most so many."""


class Rows(list[int]):
    """The numbers of what is worked on together, in order."""

    def split(self, size: int) -> list[Rows]:
        """Return them in parts of at most so many."""
        return [Rows(self[at : at + size]) for at in range(0, len(self), size)]


B = TypeVar("B", bound=Whole)
T = TypeVar("T")
NO_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
)


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(told in str(error).lower() for told in NO_MEMORY)


class Fitting:
    """Works on batches in parts that memory holds.

    Attributes:
        most: examples of a part; None: whole batches fit, as far as is known.

    """

    def __init__(self) -> None:
        self.most: int | None = None

    def parts(
        self, batch: B, work: Callable[[B], T], again: Callable[[], None] | None = None
    ) -> list[tuple[B, T]]:
        """Return the parts of a batch, each with what the work gives for it.

        Where memory runs out the whole batch is begun anew in parts of half the size.

        Args:
            batch: what to work on.
            work: is given a part.
            again: called before a batch is begun anew, to undo what its first parts did.

        Raises:
            RuntimeError: memory does not even hold one example.

        """
        while True:
            size = min(self.most or len(batch), len(batch))
            try:
                return [(part, work(part)) for part in batch.split(size)]
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or size == 1:
                    raise
            self.most = -(-size // 2)
            if again is not None:
                again()
