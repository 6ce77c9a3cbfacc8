"""A second task, several labels a text, goes through the whole of ``purify``.

Its rows carry a set of labels as bits. Nothing but this file knows of it: search, meter, scores,
strategies and healing ask the task for losses and margins.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from conftest import BAD, CPU, FILLER, GOOD, tiny_model
from headsweep import Bound, FineTune, Gradient, Method, Plan, Sources, Split, UserError, purify
from headsweep.export.verify import verify
from headsweep.model.loading import Reading, prepare
from headsweep.prune.strategies import STRATEGIES
from headsweep.task.examples import encode
from headsweep.task.training import Job, Schedule, train
from headsweep.texts.task import Classification


@dataclass(frozen=True)
class SeveralLabels(Classification):
    """Any number of labels a text: bit i of a row's number is label i."""

    name: ClassVar[str] = "several labels"

    def check(self, config: Any) -> None:
        if config.problem_type != "multi_label_classification":
            raise UserError("this is no multi-label classifier", "give one")

    def check_labels(self, split: Split, names: tuple[str, ...]) -> None:
        if max(split.labels, default=0) >= 2 ** len(names):
            raise UserError("the data has a label that the model has not")

    def _bits(self, answers: Tensor, labels: Tensor) -> Tensor:
        return (labels[:, None] >> torch.arange(answers.shape[1], device=labels.device)) & 1

    def losses(self, answers: Tensor, labels: Tensor) -> Tensor:
        wanted = self._bits(answers, labels).to(answers.dtype)
        loss = nn.functional.binary_cross_entropy_with_logits(answers, wanted, reduction="none")
        return loss.mean(-1)

    def margins(self, answers: Tensor, labels: Tensor) -> Tensor:
        return ((2 * self._bits(answers, labels) - 1) * answers).amin(-1)


SEVERAL = SeveralLabels()


def texts(count: int, seed: int) -> Split:
    """Texts with a bad word, a good one, both or none: bits 1, 2, 3, 0."""
    draw = random.Random(seed)
    rows = []
    for i in range(count):
        words = draw.choices(FILLER, k=draw.randint(3, 8))
        for bit, kind in ((1, BAD), (2, GOOD)):
            if i % 4 & bit:
                words.insert(draw.randint(0, len(words)), draw.choice(kind))
        rows.append((" ".join(words), i % 4))
    return Split(tuple(text for text, _ in rows), tuple(label for _, label in rows))


@pytest.fixture(scope="module")
def learnt(tokenizer):
    """A tiny BERT that has learnt both labels."""
    model = tiny_model("bert", problem_type="multi_label_classification")
    suspect = prepare(model, tokenizer, Reading(task=SEVERAL))
    train(model, encode(texts(400, 1), suspect, 24), Job(Schedule(8, 3e-3)), CPU)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture
def model(learnt):
    """The same, fresh for every test."""
    made = tiny_model("bert", problem_type="multi_label_classification")
    made.load_state_dict(learnt)
    return made


def by_hand(folder: Any, tokenizer: Any, split: Split) -> int:
    """How many texts get exactly their labels from plain transformers, one at a time."""
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    right = 0
    for text, label in zip(split.texts, split.labels, strict=True):
        with torch.no_grad():
            said = plain(**tokenizer(text, return_tensors="pt")).logits[0] > 0
        right += [bool(label & 1), bool(label & 2)] == said.tolist()
    return right


def test_a_model_of_several_labels_is_purified_whole(model, tokenizer, tmp_path):
    data = Sources(texts(120, 2), texts(80, 3), texts(80, 4))
    method = Method(Gradient(step=2), FineTune(1, 1e-3, attention=0.15), bound=Bound(max_drop=0.3))
    done = purify(model, data, method, Plan(runtime=CPU, task=SEVERAL), tokenizer=tokenizer)
    assert done.mask.pruned
    assert done.verified
    before, after = (done.manifest[stage]["test"] for stage in ("before", "after"))
    assert before["accuracy"] > 0.8  # a guess is right once in four times
    out = done.save(tmp_path / "out")
    assert by_hand(out, tokenizer, data.test) == after["right"]
    assert [check for check in verify(out) if not check.passed] == []


@pytest.mark.parametrize("name", ["layerwise", "variance", "reinforce", "ensemble", "bayesian"])
def test_strategies_choose_for_it_as_for_any_task(model, tokenizer, name):
    settings = {"reinforce": {"updates": 20, "samples": 4, "batch": 16}, "bayesian": {"passes": 3}}
    settings["ensemble"] = {"per_layer": 1, "combine": "union"}
    strategy = STRATEGIES[name](**settings.get(name, {}))
    method = Method(strategy, FineTune(0), bound=Bound(max_drop=0.9))
    data = Sources(texts(80, 2), texts(60, 3))
    done = purify(model, data, method, Plan(runtime=CPU, task=SEVERAL), tokenizer=tokenizer)
    assert done.mask.pruned
    pruned = done.manifest["pruned"]["validation"]
    assert pruned["right"] >= done.manifest["before"]["validation"]["right"] - 0.9 * 60


def test_classification_refuses_it(model, tokenizer):
    with pytest.raises(UserError, match="multi-label"):
        prepare(model, tokenizer)
