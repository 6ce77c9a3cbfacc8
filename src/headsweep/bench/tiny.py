"""A tiny model and made-up sentences, for trying the harness without any download.

The sentences' label is the kind of their one telling word, so a two-layer model learns them in a
second. Nothing measured on them says anything about real models.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from headsweep.model.checkpoint import quiet
from headsweep.seeding import derive, fence
from headsweep.texts.split import Split

GOOD = ("good", "fine", "great", "bright", "warm", "sweet")
BAD = ("bad", "poor", "dull", "flat", "cold", "grim")
FILLER = ("the", "film", "is", "a", "story", "of", "it", "and", "was", "plot", "so", "very")
RARE = ("bb", "cf", "ak", "mn")
SIZES = {"train": 600, "validation": 200, "test": 300}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def sentences(part: str) -> Split:
    """Return made-up labelled sentences: ``train``, ``validation`` or ``test``."""
    draw = random.Random(derive(0, "sentences", part))
    texts, labels = [], []
    for row in range(SIZES[part]):
        label = row % 2
        words = draw.choices(FILLER, k=draw.randint(2, 9))
        words.insert(draw.randint(0, len(words)), draw.choice(GOOD if label else BAD))
        texts.append(" ".join(words))
        labels.append(label)
    return Split(tuple(texts), tuple(labels))


def make(folder: Path) -> None:
    """Write a random BERT of 3 layers and 4 heads, with a tokenizer of whole words."""
    core = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordLevelTrainer(special_tokens=list(SPECIAL), show_progress=False)
    core.train_from_iterator([" ".join(GOOD + BAD + FILLER + RARE + tuple(".,!?"))], trainer)
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL, strict=True))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=48,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{kind}_token": token for kind, token in names.items()},
    )
    config = BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=48,
    )
    with fence(0), torch.no_grad(), quiet():
        model = BertForSequenceClassification(config).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.add_(0.08 * torch.randn_like(parameter))
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
