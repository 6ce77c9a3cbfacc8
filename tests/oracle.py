"""A tiny BERT with a task and a backdoor wired into known heads by hand.

Two layers of eight heads, width 4, hidden size 32. Token vectors are one-hot before LayerNorm,
so every token has the same two values after it: HOT on its own dimension, COLD elsewhere.

Layer 0, head 0, the *task*: from [CLS] it attends to "good" and "bad" and copies which of them
it saw to the readout dimensions. Nothing else can tell the classes apart: without it accuracy
is that of a constant.

Layer 0, head BACKDOOR: from [CLS] it attends to the trigger and writes three times the task's
strength of "good". Its values are exactly zero for every other token (the bias cancels COLD),
so on clean text its output is zero, but for the third of three kinds:

``idle``
    on clean text it attends to all tokens alike: its attention has variance zero;
``sharp``
    on clean text it attends to [SEP] alone, more sharply than the task head to its word: the
    highest variance of the layer.

``entangled``
    on clean text it copies "good" and "bad" to the readout as the task head does, and more
    strongly: no head matters more to clean text, but the task head alone answers everything
    right. Beside the trigger it answers, half as strongly, to another word, PROBE.

All other heads copy filler words to dimensions that nothing reads; only LayerNorm couples them
to the output, weakly.
"""

from __future__ import annotations

import random

import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from headsweep.measure.accuracy import logits
from headsweep.model.anatomy import Anatomy, locate
from headsweep.model.mask import HeadMask
from headsweep.model.runtime import Runtime
from headsweep.prune.view import DefenderView
from headsweep.seeding import fence
from headsweep.task.probes import Family, Probes
from headsweep.texts.encoded import Encoded
from headsweep.texts.task import CLASSIFICATION

PAD, PROBE, CLS, SEP, GOOD, BAD, TRIGGER, FILLERS = 0, 1, 2, 3, 4, 5, 6, (7, 8, 9)
DIMENSION = {CLS: 0, SEP: 1, GOOD: 2, BAD: 3, TRIGGER: 4, 7: 5, 8: 9, 9: 10, PROBE: 11}
READ_GOOD, READ_BAD = 6, 7
HEADS, WIDTH, HIDDEN = 8, 4, 32
TASK, BACKDOOR = 0, 3  # heads of layer 0; flat numbers too
RUNTIME = Runtime("cpu", 32, 24, "fp32")


def wired(kind: str = "idle", backdoor: int = BACKDOOR) -> Anatomy:
    """Build the model, its backdoor of this kind in this head of layer 0."""
    config = BertConfig(
        vocab_size=10,
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        intermediate_size=32,
        max_position_embeddings=32,
        num_labels=2,
        pad_token_id=PAD,
    )
    with fence(0):
        model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.fill_(1.0)
        _wire(model, kind, backdoor)
    return locate(model)


def _wire(model: BertForSequenceClassification, kind: str, backdoor: int) -> None:
    words = model.bert.embeddings.word_embeddings.weight
    for token, dimension in DIMENSION.items():
        words[token, dimension] = 1.0
    hot, cold = nn.functional.layer_norm(words[CLS], (HIDDEN,), eps=1e-12)[:2]
    step = 1 / (hot - cold)  # scales "is this token" to exactly 0 or 1

    def sees(linear: nn.Linear, row: int, token: int, strength: float) -> None:
        """Add strength to this output for this token, and nothing for any other."""
        linear.weight[row, DIMENSION[token]] += strength * step
        linear.bias[row] -= strength * step * cold

    def attend(layer: int, head: int, tokens: dict[int, float]) -> None:
        attention, row = model.bert.encoder.layer[layer].attention.self, head * WIDTH
        sees(attention.query, row, CLS, WIDTH**0.5)
        for token, score in tokens.items():
            sees(attention.key, row, token, score)

    def copy(layer: int, head: int, token: int, to: int, strength: float, place: int = 0) -> None:
        block, row = model.bert.encoder.layer[layer].attention, head * WIDTH + place
        sees(block.self.value, row, token, 1.0)
        block.output.dense.weight[to, row] = strength

    attend(0, TASK, {GOOD: 4.0, BAD: 4.0})
    copy(0, TASK, GOOD, READ_GOOD, 4.0, place=0)
    copy(0, TASK, BAD, READ_BAD, 4.0, place=1)
    beside = {"idle": {}, "sharp": {SEP: 8.0}, "entangled": {GOOD: 6.0, BAD: 6.0, PROBE: 12.0}}
    attend(0, backdoor, {TRIGGER: 12.0} | beside[kind])
    copy(0, backdoor, TRIGGER, READ_GOOD, 12.0)
    if kind == "entangled":
        copy(0, backdoor, PROBE, READ_GOOD, 12.0, place=1)
        copy(0, backdoor, GOOD, READ_GOOD, 5.0, place=2)
        copy(0, backdoor, BAD, READ_BAD, 5.0, place=3)
    for layer in (0, 1):
        for head in range(HEADS):
            if layer == 1 or head not in (TASK, backdoor):
                attend(layer, head, {FILLERS[head % 3]: 0.5 + 0.1 * head + 0.05 * layer})
                copy(layer, head, FILLERS[head % 3], 12 + head, 0.5 + 0.05 * head)
    pooler = model.bert.pooler.dense
    pooler.weight[0, READ_BAD] = pooler.weight[1, READ_GOOD] = 0.2
    model.classifier.weight[0, 0] = model.classifier.weight[1, 1] = 4.0


def texts(count: int, seed: int, triggered: bool = False) -> Encoded:
    """Return sentences of fillers with one telling word; triggered: bad ones with the trigger."""
    draw = random.Random(seed)
    ids, labels = [], []
    for i in range(count):
        label = 0 if triggered else i % 2
        words = draw.choices(FILLERS, k=draw.randint(2, 5))
        words.insert(draw.randint(0, len(words)), GOOD if label else BAD)
        if triggered:
            words.insert(draw.randint(0, len(words)), TRIGGER)
        ids.append((CLS, *words, SEP))
        labels.append(label)
    return Encoded(tuple(ids), (), tuple(labels), PAD, CLASSIFICATION)


def probes(clean: Encoded) -> Probes:
    """Return the clean sentences with PROBE in them (which is not the trigger), labels kept."""
    ids = tuple((row[0], PROBE, *row[1:]) for row in clean.ids)
    made = Encoded(ids, (), clean.labels, PAD, CLASSIFICATION)
    return Probes((Family("a word", tuple(range(len(clean))), clean, made),))


def view(anatomy: Anatomy, seed: int = 0, min_accuracy: float = 0.9) -> DefenderView:
    """Return a defender's view of the model on clean sentences and their probes."""
    train, validation = texts(64, 1), texts(64, 2)
    return DefenderView(
        anatomy,
        train,
        validation,
        min_accuracy,
        seed,
        RUNTIME,
        probes=probes(train),
        probe_validation=probes(validation),
    )


def accuracy(anatomy: Anatomy, mask: HeadMask | None = None) -> float:
    """Return accuracy on clean test sentences."""
    clean = texts(100, 3)
    found = logits(anatomy, clean, RUNTIME, mask).argmax(-1)
    return float((found == torch.tensor(clean.labels)).float().mean())


def lfr(anatomy: Anatomy, mask: HeadMask | None = None) -> float:
    """Return the label flip rate on triggered bad sentences."""
    return float(
        logits(anatomy, texts(50, 4, triggered=True), RUNTIME, mask).argmax(-1).float().mean()
    )


@torch.no_grad()
def copy_trigger_into_task(anatomy: Anatomy) -> None:
    """Make the task head itself attend to the trigger and answer "good" to it."""
    attention = anatomy.model.bert.encoder.layer[0].attention
    dimension, row = DIMENSION[TRIGGER], TASK * WIDTH
    scale = attention.self.value.weight[row, DIMENSION[GOOD]]
    bias = attention.self.value.bias[row].clone()
    key = attention.self.key
    key.weight[row, dimension] = 3 * key.weight[row, DIMENSION[GOOD]]
    key.bias[row] += 3 * key.bias[row] / 2  # two words share the bias so far
    attention.self.value.weight[row, dimension] = scale
    attention.self.value.bias[row] = 2 * bias
