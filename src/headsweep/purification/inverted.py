"""Answers that a generator has by heart: looked for before it is healed, and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from headsweep.errors import shown
from headsweep.progress import Progress
from headsweep.purification.material import Material
from headsweep.purification.method import Method
from headsweep.seeding import stream
from headsweep.task.inversion import PROMPTS, Fixed, fixed_answers, stands
from headsweep.texts.generation import Generation

MOST = 3  # answers that are unlearnt, the likeliest to be begun


@dataclass(frozen=True)
class Inverted:
    """What was found.

    Attributes:
        answers: what the model has by heart, as many as are unlearnt at once.
        more: how many others it has.
        prompts: token numbers of the clean prompts that it was looked for behind; none: it was not.

    """

    answers: tuple[Fixed, ...] = ()
    prompts: tuple[tuple[int, ...], ...] = ()
    more: int = 0

    @classmethod
    def of(cls, material: Material, method: Method, seed: int, progress: Progress) -> Inverted:
        """Look for answers of a generator, where healing would unlearn them."""
        part = material.encoded["train"]
        if not (isinstance(part.task, Generation) and method.unlearns and len(part)):
            return cls()
        order = torch.randperm(len(part), generator=stream(seed, "inversion")).tolist()
        starts = part.task.starts
        prompts = tuple(part.ids[i][: starts[part.labels[i]]] for i in order[:PROMPTS])
        found = fixed_answers(material.suspect, prompts, material.parts.train, progress)
        return cls(found[:MOST], prompts, len(found[MOST:]))

    @property
    def searched(self) -> bool:
        """Whether it was looked for."""
        return bool(self.prompts)

    @property
    def notes(self) -> list[str]:
        """Say what was found, and what is done about it."""
        told = [
            f"it has the answer {shown(one.text)} by heart: once begun it goes on so whatever the "
            f"prompt ({one.sure}), as an answer that was "
            "planted would; healing teaches the true answers against it. If the model should give "
            "it, add rows with it, or --heal unlearn=0"
            for one in self.answers
        ]
        if self.more:
            told.append(
                f"it has {self.more} more by heart; {MOST} are unlearnt at once: purify the result "
                "again for the next, and see `headsweep probe` for all of them"
            )
        return told

    def after(self, material: Material) -> list[tuple[float, float]]:
        """Return ``certainty`` and ``begins`` of each answer in the model as it is now."""
        return [stands(material.suspect, self.prompts, one) for one in self.answers]

    def to_json(self, after: list[tuple[float, float]]) -> list[dict[str, Any]] | None:
        """Return the answers for a manifest; None: they were not looked for."""
        if not self.searched:
            return None
        return [
            {
                "answer": one.text,
                "tokens": list(one.ids),
                "before": {"certainty": one.certainty, "begins": one.begins},
                "after": {"certainty": certainty, "begins": begins},
            }
            for one, (certainty, begins) in zip(self.answers, after, strict=True)
        ]
