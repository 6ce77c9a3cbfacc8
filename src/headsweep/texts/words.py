"""What the figures of every kind of task are called where people read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RISE = 0.1  # nats a token: a tenth more of perplexity, which healing must not cost an answer
SHARE = 0.1  # of an answer's own negative log-likelihood, where that is more than RISE
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
        bounded: which of these the bound holds too, beside the share; empty: none.

    """

    task: str
    hub: str
    share: str = "accuracy"
    key: str = "accuracy"
    meaning: str = ""
    figures: Mapping[str, str] = field(default_factory=dict)
    bounded: str = ""

    @property
    def bounded_name(self) -> str:
        """The figure that the bound holds beside the share, in words."""
        return self.figures[self.bounded]


CLASSIFICATION = Words("classification", "text-classification")
GENERATION = Words(
    "generation",
    "text-generation",
    meaning=(
        "Accuracy is the share of answers whose negative log-likelihood rose by at most "
        f"{RISE} nats a token, or {SHARE:.0%} where that is more, above that of the model before. "
        "What the model writes to other prompts, and how good it is at anything else, was not "
        "measured."
    ),
    figures={"perplexity": "perplexity", "exact_match": "answers exactly given"},
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
)
KINDS = (CLASSIFICATION, SEVERAL, REGRESSION, TAGGING, GENERATION)
WORDS = {words.task: words for words in KINDS}
"""By the name of the kind."""


def words_of(manifest: Mapping[str, Any]) -> Words:
    """Return the words of a manifest's kind; older ones name none."""
    return WORDS.get(str(manifest.get("task")), CLASSIFICATION)


def share_of(figures: Mapping[str, Any]) -> float:
    """Return which share of so many examples is right, as a manifest has it."""
    return float(figures["right"] / figures["examples"])
