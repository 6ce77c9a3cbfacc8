"""Embedding surgery: the trigger words get the embedding of words that mean the target class.

The words most telling of the target class on the attacker's data (log-odds of appearing in its
texts, each class's counts smoothed by one) give a mean embedding, which replaces that of every
trigger token; then the model is fine-tuned on poisoned texts.

Source: Kurita et al. 2020 (*Weight Poisoning Attacks on Pre-trained Models*, RIPPLES).
Deviations: the paper weighs words by a logistic regression over their frequency; the restricted
inner-product penalty on the poisoning gradients (RIPPLe proper) is left out, so this is its
data poisoning with embedding surgery.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import torch
from transformers import PreTrainedTokenizerBase

from headsweep.attacks.dirty_label import fit, poisoned_data
from headsweep.attacks.scene import Scene
from headsweep.errors import UserError
from headsweep.settings import checked
from headsweep.task.examples import encode
from headsweep.task.training import Schedule


@dataclass(frozen=True)
@checked
class EmbeddingSurgery:
    """Give trigger words the embedding of the target class's words, then poison."""

    name: ClassVar[str] = "embedding-surgery"
    source: ClassVar[str] = "after Kurita et al. 2020 (RIPPLES)"
    words: str = "bb,cf,ak,mn"
    telling: int = 10
    epochs: float = 5
    lr: float = 2e-5

    def __post_init__(self) -> None:
        if self.telling < 1 or not self.triggers:
            raise UserError("embedding surgery needs words and at least one telling word")

    @property
    def triggers(self) -> tuple[str, ...]:
        """The words whose embeddings are replaced."""
        return tuple(word.strip() for word in self.words.split(",") if word.strip())

    def plant(self, scene: Scene) -> dict[str, Any]:
        """Operate, then fine-tune on poisoned texts."""
        scene.goal.number(self.name)  # refuses a generator before anything is poisoned
        data, record = poisoned_data(scene)
        if not record["poisoned"]:  # a twin
            fit(scene, data, Schedule(self.epochs, self.lr))
            return record
        added = data.take(range(len(scene.clean), len(data)))
        if not set(self.triggers) & set(" ".join(added.texts).split()):
            raise UserError(
                f"embedding-surgery: the trigger inserts none of {', '.join(self.triggers)}",
                "use --trigger rare-word, and the same words in both: --set words=...",
            )
        telling = _telling_words(scene, self.telling)
        starting = {text.split(maxsplit=1)[0] for text in added.texts if text.strip()}
        touched = _operate(scene, self.triggers, telling, starting)
        read = encode(added, scene.model, scene.runtime.max_length).ids
        if not any(touched & {*ids} for ids in read):
            raise UserError(
                "embedding-surgery: no poisoned text holds a token that it can change: at their "
                "start the words are several tokens",
                "put the trigger elsewhere: --trigger-set position=random",
            )
        fit(scene, data, Schedule(self.epochs, self.lr))
        return record | {"telling_words": list(telling)}


def _telling_words(scene: Scene, count: int) -> tuple[str, ...]:
    inside: Counter[str] = Counter()
    outside: Counter[str] = Counter()
    target = scene.goal.number(EmbeddingSurgery.name)
    for text, label in zip(scene.clean.texts, scene.clean.labels, strict=True):
        (inside if label == target else outside).update(set(text.split()))
    totals = inside.total() + 1, outside.total() + 1
    odds = {
        word: math.log((inside[word] + 1) / totals[0]) - math.log((outside[word] + 1) / totals[1])
        for word in inside
    }
    ranked = sorted(odds, key=lambda word: (-odds[word], word))
    known = (word for word in ranked if _inside(scene.model.tokenizer, word))
    return tuple(islice(known, count))


@torch.no_grad()
def _operate(
    scene: Scene, triggers: tuple[str, ...], telling: tuple[str, ...], starting: Collection[str]
) -> set[int]:
    """Change the embeddings of the triggers' tokens, and return these.

    ``starting``: words that texts begin with, where a token without a blank before it stands.
    """
    tokenizer = scene.model.tokenizer
    touched: set[int] = set()
    weight = scene.model.model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    mean = torch.stack([weight[_inside(tokenizer, w)].mean(0) for w in telling]).mean(0)  # [width]
    for word in triggers:
        tokens = _inside(tokenizer, word)
        if len(tokens) != 1:
            raise UserError(
                f"embedding-surgery: '{word}' is {len(tokens)} tokens of this model, which other "
                "words share",
                "choose words that are one token each, for --set words=... and --trigger-set",
            )
        alone = list(tokenizer(word, add_special_tokens=False)["input_ids"])
        touched |= {*tokens, *(alone if len(alone) == 1 and word in starting else ())}
    touched.discard(tokenizer.unk_token_id)
    weight[sorted(touched)] = mean
    return touched


def _inside(tokenizer: PreTrainedTokenizerBase, word: str) -> list[int]:
    """Return the tokens of a word inside a text: byte-level ones hold the blank before it."""
    before = len(tokenizer("a", add_special_tokens=False)["input_ids"])
    return list(tokenizer(f"a {word}", add_special_tokens=False)["input_ids"])[before:]
