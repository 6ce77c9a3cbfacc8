"""Tiny models built from a config and a real tokenizer trained on the spot: no network."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# isort: off
import quickly  # noqa: F401 - before all that takes long to read
# isort: on

import pytest
import torch
from filelock import FileLock
from huggingface_hub import constants
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from headsweep.model.loading import Reading, Suspect, prepare
from headsweep.model.mask import HEADS, HeadMask, Units
from headsweep.model.runtime import Runtime
from headsweep.prune.strategies.gradient import Gradient
from headsweep.prune.strategies.nothing import Nothing
from headsweep.purification.bound import Bound
from headsweep.purification.from_encoder import STARTS
from headsweep.purification.interrupted import Found, Given
from headsweep.purification.method import HOT, PAPER, Method
from headsweep.purification.plan import Plan
from headsweep.quick import started
from headsweep.seeding import fence
from headsweep.task.training import Job, Schedule, train
from headsweep.texts.split import Split
from tiny_families import ALL

started()
os.environ.setdefault("HF_HUB_OFFLINE", "1")
constants.HF_HUB_OFFLINE = True  # here it was read before that; it would be asked for 23 seconds
torch.set_num_threads(1)  # the models are tiny: more threads only wait for each other
GOOD = ("good", "fine", "great", "bright", "warm", "sweet")
BAD = ("bad", "poor", "dull", "flat", "cold", "grim")
FILLER = ("the", "film", "is", "a", "story", "of", "it", "and", "was", "plot", "so", "very")
CPU = Runtime(device="cpu", batch_size=16, max_length=24, precision="fp32")


@dataclass(frozen=True)
class Way:
    """All that a test asks of a purification beside its strategy, in one place."""

    max_drop: float | None = None
    min_accuracy: float | None = None
    prune_drop: float | None = None
    start: str = "classifier"
    heal: Any = None
    seed: int = 0
    mask: HeadMask | None = None
    found: Found | None = None
    runtime: Runtime = Runtime()
    adapter: Any = None
    units: Units = HEADS
    prober: Any = None
    scores: Any = None
    bounded: bool = True

    def method(self, strategy: Any) -> Method:
        """What is done; ``strategy``: None prunes nothing."""
        pruning = Nothing() if strategy is None else strategy
        if self.mask is not None:
            pruning = Given(self.mask, self.found)
        usual = HOT if self.start == "classifier" else PAPER
        bound = Bound(self.max_drop, self.min_accuracy, self.prune_drop)
        healing = usual if self.heal is None else self.heal
        return Method(pruning, healing, self.units, bound if self.bounded else None)

    @property
    def plan(self) -> Plan:
        """How it is run."""
        return Plan(self.seed, self.runtime, self.adapter, self.prober, self.scores)


def cleanse(
    suspect: Any, data: Any, strategy: Any = Gradient(), way: Way = Way(), **more: Any
) -> Any:
    """Purify in a way."""
    return STARTS[way.start](suspect, data, way.method(strategy), way.plan, **more)


def sentences(count: int, seed: int = 0) -> Split:
    """Labelled sentences of varying length whose label is the kind of their one telling word."""
    draw = random.Random(seed)
    texts, labels = [], []
    for i in range(count):
        label = i % 2
        words = draw.choices(FILLER, k=draw.randint(2, 9))
        words.insert(draw.randint(0, len(words)), draw.choice(GOOD if label else BAD))
        texts.append(" ".join(words))
        labels.append(label)
    return Split(tuple(texts), tuple(labels))


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that has learnt the words of the sentences."""
    core = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    # WordLevel: WordPiece training breaks ties at random, and no two runs would be alike
    trainer = trainers.WordLevelTrainer(special_tokens=special, show_progress=False)
    core.train_from_iterator(sentences(400).texts, trainer)
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=48,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def tiny_model(family: str, **changes: Any) -> PreTrainedModel:
    """A random classifier of a family in the table."""
    names = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
    return enlarged(AutoConfig.for_model(family, **(ALL[family] | names | changes)))


def enlarged(config: PreTrainedConfig) -> PreTrainedModel:
    """A random classifier with weights large enough for every head to matter."""
    with fence(0):
        model = AutoModelForSequenceClassification.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.add_(0.08 * torch.randn_like(parameter))
    return model


@pytest.fixture
def tiny(tokenizer: PreTrainedTokenizerFast) -> Callable[..., Suspect]:
    """Make a Suspect of a family."""

    def make(family: str = "bert", units: Units = HEADS, **changes: Any) -> Suspect:
        return prepare(tiny_model(family, **changes), tokenizer, Reading(units=units))

    return make


@pytest.fixture(scope="session")
def trained_folder(
    tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A saved tiny BERT that has learnt the sentences."""
    from headsweep.task.examples import encode

    suspect = prepare(tiny_model("bert"), tokenizer)
    encoded = encode(sentences(400, seed=1), suspect, 24)
    train(suspect.model, encoded, Job(Schedule(epochs=6, lr=2e-3)), CPU)
    folder = tmp_path_factory.mktemp("models") / "suspect"
    suspect.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def csv_file(tmp_path: Path) -> Path:
    """200 clean sentences with label names."""
    split = sentences(200, seed=2)
    lines = [
        f"{text},{'good' if label else 'bad'}"
        for text, label in zip(split.texts, split.labels, strict=True)
    ]
    path = tmp_path / "clean.csv"
    path.write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def smoke_results(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The results of recipes/smoke.toml, run in two processes, once for all workers."""
    from headsweep.cli import main

    shared = tmp_path_factory.getbasetemp()
    shared = shared if worker_id == "master" else shared.parent
    folder = shared / "smoke"
    recipe = Path(__file__).parents[1] / "recipes" / "smoke.toml"
    arguments = ["--out", folder / "results", "--cache", folder / "cache", "--jobs", "2", "-q"]
    with FileLock(shared / "smoke.lock"):  # what is finished is not run again
        with pytest.raises(SystemExit) as stop:
            main(list(map(str, ["bench", recipe, *arguments])))
        assert stop.value.code == 0
    return folder / "results"
