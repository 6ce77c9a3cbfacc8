from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tokenizers.normalizers import Replace

from conftest import CPU, sentences
from headsweep.errors import UserError
from headsweep.measure.accuracy import Measured, logits, needed
from headsweep.model.runtime import Runtime
from headsweep.task.examples import encode
from headsweep.texts.encoded import Encoded
from headsweep.texts.split import Split
from headsweep.texts.task import CLASSIFICATION


def test_logits_come_in_order_and_padding_does_not_matter(tiny):
    for family in ("bert", "llama"):
        suspect = tiny(family)
        encoded = encode(sentences(30), suspect, 24)
        together = logits(suspect.anatomy, encoded, CPU)
        alone = logits(suspect.anatomy, encoded, Runtime("cpu", 1, 24))
        assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("pairs", [(), ("\u200b", "film", "\u200b")])
def test_a_text_that_becomes_no_token_is_shown(tiny, pairs):
    suspect = tiny("llama")
    backend = suspect.tokenizer.backend_tokenizer
    bare = type(suspect.tokenizer)(tokenizer_object=type(backend).from_str(backend.to_str()))
    bare.backend_tokenizer.normalizer = Replace("\u200b", "")
    bare.backend_tokenizer.post_processor = None
    split = Split(("the film", "\u200b", "\u200b\u200b"), (0, 1, 0), pairs)
    texts = [split.texts[1]] if not pairs else [split.texts[2]]
    assert bare(*[[text] for text in texts])["input_ids"] == [[]]  # as plain transformers has it
    count = "2 texts become" if not pairs else "1 text becomes"
    shown = "'" + "\\u200b" * len(texts[0]) + "'"
    with pytest.raises(UserError) as told:
        encode(split, replace(suspect, tokenizer=bare), 24)
    assert told.value.what.startswith(f"{count} no token, the first is {shown}")
    assert len(encode(split.take([0]), replace(suspect, tokenizer=bare), 24)) == 1


def test_batches_are_padded_to_their_own_longest_and_hold_every_row(tiny):
    encoded = encode(sentences(50), tiny(), 24)
    batches = encoded.batches(8)
    for batch in batches:
        mask = batch.inputs["attention_mask"]
        assert mask.sum(1).max() == mask.shape[1]
    assert sorted(torch.cat([b.index for b in batches]).tolist()) == list(range(50))


def test_measured_bounds():
    found = Measured(right=60, wrong=10, total=100)
    assert (found.low, found.high) == (0.6, 0.9)
    assert found.holds(60) is True
    assert found.holds(91) is False
    assert found.holds(75) is None
    assert needed(0.85, 100) == 85
    assert needed(0.851, 100) == 86
    assert needed(0.9 - 0.02, 100) == 88


def test_texts_over_the_limit_are_cut_and_counted(tiny):
    suspect = tiny()
    long = Split(("the film " * 100, "a film"), (0, 1))
    encoded = encode(long, suspect, 1000)
    assert encoded.truncated == 1
    assert max(map(len, encoded.ids)) == 48  # the model's own limit
    roberta = tiny("roberta")
    assert max(map(len, encode(long, roberta, 1000).ids)) == 47  # padding offset, pad id 0
    assert logits(roberta.anatomy, encode(long, roberta, 1000), CPU).isfinite().all()


def test_pairs_reach_the_model(tiny):
    suspect = tiny()
    encoded = encode(Split(("a film",), (1,), ("a plot",)), suspect, 24)
    assert encoded.kinds[0] == (0, 0, 0, 0, 1, 1, 1)


def test_a_foreign_tokenizer_is_noticed(tiny):
    suspect = tiny(vocab_size=20)
    with pytest.raises(UserError, match="beyond the model's 20 embeddings"):
        encode(sentences(20), suspect, 24)


def test_take_keeps_the_order():
    encoded = Encoded(((1,), (2,), (3,)), (), (0, 1, 0), 0, CLASSIFICATION)
    assert encoded.take([2, 0]).ids == ((3,), (1,))
    assert encoded.take([2, 0]).labels == (0, 0)
