"""What the figures of every kind of task are called where people read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

RISE = 0.1  # nats a token: a tenth more of perplexity, which healing must not cost an answer
SHARE = 0.1  # of an answer's own negative log-likelihood, where that is more than RISE
VOID = "the bound protects nothing"  # so a note ends on a suspect that is no better than a guess
SLACK = 0.4  # standard deviations of the true numbers that an error may rise by


@dataclass(frozen=True)
class Words:
    """The words of one kind of task.

    Attributes:
        task: the kind, as manifests have it.
        hub: what the Hub calls it.
        share: the share of examples that are right.
        key: the same in JSON.
        meaning: what that share is, where its name does not say; a sentence.
        figures: what else is told of examples, by its name in JSON.
        bounded: which of these the bound holds after healing, in the place of the share; empty:
            it holds the share. A search counts on the share whatever the task; healing moves
            every example, many of them to the better, and an example that is wrong by one label
            or one word counts as one that is wrong altogether.
        falls: that figure is better the lower it is. It may rise by a share of itself then; others
            may fall by as much as the share of right examples.
        target: what an attacker wants of such a model, as ``evaluate --target`` takes it.
        order: that figure sees only the order of answers, not that all of them have moved. The loss
            of healing sees it; what changes weights without a loss is held to the share too.

    """

    task: str
    hub: str
    share: str = "accuracy"
    key: str = "accuracy"
    meaning: str = ""
    figures: Mapping[str, str] = field(default_factory=dict)
    bounded: str = ""
    falls: bool = False
    order: bool = False
    target: str = "LABEL"

    @property
    def bounded_name(self) -> str:
        """The figure that the bound holds in the place of the share, in words."""
        return self.figures[self.bounded]

    @property
    def held_name(self) -> str:
        """What the bound holds after healing, in words: that figure, or the share."""
        return self.bounded_name if self.bounded else self.share

    @property
    def most_or_least(self) -> str:
        """How the limit of that figure is read: ``at most`` or ``at least``."""
        return "at most" if self.falls else "at least"

    def limit(self, own: float, drop: float) -> float:
        """Return how bad that figure may become where it was ``own`` and may lose ``drop``."""
        return own * (1 + drop) if self.falls else own - drop

    def within(self, found: float | None, limit: float) -> bool:
        """Tell whether that figure is as good as it must be, to rounding."""
        if found is None:
            return False
        return found <= limit + 1e-9 if self.falls else found >= limit - 1e-9


CLASSIFICATION = Words("classification", "text-classification")
GENERATION = Words(
    "generation",
    "text-generation",
    share="share kept",
    meaning=(
        "The share kept is that of answers whose negative log-likelihood rose by at most "
        f"{RISE} nats a token, or {SHARE:.0%} where that is more, above that of the model before: "
        "it bounds what is pruned. Perplexity bounds what healing leaves. "
        "What the model writes to other prompts, and how good it is at anything else, was not "
        "measured."
    ),
    figures={"perplexity": "perplexity", "exact_match": "answers exactly given"},
    bounded="perplexity",
    falls=True,
    target="TEXT",
)
REGRESSION = Words(
    "regression",
    "text-classification",
    share="share kept",
    key="kept",
    meaning=(
        "The share kept is that of the examples whose error rose by at most "
        f"{SLACK} standard deviations of the true numbers above that of the model before."
    ),
    figures={"spearman": "Spearman correlation", "mean_absolute_error": "mean absolute error"},
    bounded="spearman",
    order=True,
    target="NUMBER",
)
SEVERAL = Words(
    "multi-label",
    "text-classification",
    share="exact match",
    key="exact_match",
    meaning="Exact match is the share of texts that get all their labels and no other.",
    figures={"micro_f1": "micro-F1"},
    bounded="micro_f1",
)
TAGGING = Words(
    "token-classification",
    "token-classification",
    share="rows all right",
    key="all_right",
    meaning="A row is all right where every word of it is tagged right.",
    figures={"span_f1": "span F1", "words_right": "words tagged right"},
    bounded="span_f1",
    target="TAG",
)
KINDS = (CLASSIFICATION, SEVERAL, REGRESSION, TAGGING, GENERATION)
WORDS = {words.task: words for words in KINDS}
"""By the name of the kind."""


def words_of(manifest: Mapping[str, Any]) -> Words:
    """Return the words of a manifest's kind.

    Older manifests name no kind, or held generators to the share, which they called accuracy.
    """
    words = WORDS.get(str(manifest.get("task")), CLASSIFICATION)
    if words.bounded and limit_of(manifest) is None:
        share = words.key if words is GENERATION else words.share
        return replace(words, bounded="", falls=False, share=share)
    return words


def limit_of(manifest: Mapping[str, Any]) -> float | None:
    """Return the limit of the figure that is bounded in the place of the share; None: of none."""
    bound = manifest.get("bound", {})
    limit: float | None = bound.get("limit", bound.get("least"))  # as older ones call it
    return limit


def void_of(manifest: Mapping[str, Any]) -> str:
    """Return in words why the bound of a manifest protects nothing; empty: it does."""
    return next((str(one) for one in manifest.get("notes") or () if str(one).endswith(VOID)), "")


def share_of(figures: Mapping[str, Any]) -> float:
    """Return which share of so many examples is right, as a manifest has it."""
    return float(figures["right"] / figures["examples"])
