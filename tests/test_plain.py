"""Ours and plain transformers, one text at a time: the same answers, however texts are batched.

As a program, ``python tests/test_plain.py TEXTS.tsv`` prints the table of docs/reliability.md: tiny
models of every family, trained on half of the file's labelled texts and judged on the other half.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from tokenizers import processors
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from conftest import CPU, Way, cleanse, sentences, tiny_model
from headsweep import Sources
from headsweep.errors import UserError
from headsweep.heal.fine_tune import FineTune
from headsweep.measure.accuracy import logits
from headsweep.model.loading import load_suspect
from headsweep.model.padding import position_limit
from headsweep.model.runtime import Runtime
from headsweep.prune.strategies.random import Random
from headsweep.task.examples import encode
from headsweep.texts.split import Split
from tiny_families import CONFIGS


def plainly(folder: Path, split: Split, limit: int) -> torch.Tensor:
    """Logits [example, class] of plain transformers, which sees one text at a time, unpadded."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    kinds = getattr(model.config, "type_vocab_size", 2 * (model.config.model_type == "xlnet"))
    rows = []
    for text in split.texts:
        inputs = tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")
        inputs = {k: v for k, v in inputs.items() if k != "token_type_ids" or kinds > 1}
        with torch.inference_mode():
            rows.append(model(**inputs).logits[0].float())
    return torch.stack(rows)


def ours(folder: Path, split: Split, limit: int, batch_size: int) -> torch.Tensor:
    """Logits [example, class] as headsweep computes them."""
    runtime = Runtime("cpu", batch_size, limit, "fp32")
    suspect = load_suspect(folder, runtime)
    return logits(suspect.anatomy, encode(split, suspect, limit), runtime)


def save(folder: Path, family: str, tokenizer, **changes) -> Path:
    tiny_model(family, **changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def variant(tokenizer, pad: str | None = "[PAD]", eos: str | None = None, side: str = "right"):
    """A copy that pads with another token, ends texts in another, or pads on another side."""
    other = copy.deepcopy(tokenizer)
    other.pad_token, other.eos_token, other.padding_side = pad, eos, side
    other.init_kwargs["padding_side"] = side  # without which transformers 5 does not save it
    if eos is not None:
        end = (eos, other.convert_tokens_to_ids(eos))
        other.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {eos}", special_tokens=[end]
        )
    return other


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_answers_as_plain_transformers(family, side, tokenizer, tmp_path):
    split = sentences(40, seed=3)
    folder = save(tmp_path / family, family, variant(tokenizer, side=side))
    plain = plainly(folder, split, 24)
    for batch_size in (1, 7, 32):
        found = ours(folder, split, 24, batch_size)
        assert torch.allclose(found, plain, atol=1e-5)
        assert found.argmax(-1).equal(plain.argmax(-1))


@pytest.mark.parametrize(
    ("pad", "eos", "own"),
    [
        ("[SEP]", "[SEP]", 3),  # padding is the end of text, as the configuration says too
        ("[SEP]", "[SEP]", None),  # the configuration says nothing
        (None, "[SEP]", None),  # neither says anything
        ("[PAD]", "[SEP]", 3),  # they disagree, and texts end in the configuration's
        ("[PAD]", "[SEP]", 7),  # they disagree
        ("[PAD]", None, -1),  # early Llamas: -1 for none
    ],
)
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_a_decoder_is_read_at_its_own_last_token(family, pad, eos, own, tokenizer, tmp_path):
    split = sentences(40, seed=3)
    changes = {} if own == -1 and family == "gpt2" else {"pad_token_id": own}
    folder = save(tmp_path / "model", family, variant(tokenizer, pad, eos), **changes)
    plain = plainly(folder, split, 24)
    for batch_size in (1, 32):
        assert torch.allclose(ours(folder, split, 24, batch_size), plain, atol=1e-5)


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "camembert", "mpnet", "bert"])
def test_an_encoders_configuration_stays_as_it_was(family, tokenizer, tmp_path):
    """RoBERTa's positions count from its padding number: another one is another model."""
    folder = save(tmp_path / "suspect", family, variant(tokenizer, "[MASK]"), pad_token_id=1)
    runtime = Runtime("cpu", 16, 24, "fp32")
    data = Sources(sentences(60), sentences(40, seed=5), sentences(40, seed=6))
    plan = Way(heal=FineTune(epochs=0), runtime=runtime, bounded=False)
    done = cleanse(folder, data, Random(count=2), plan)
    out = done.save(tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["pad_token_id"] == 1
    found = encode(done.held, done.suspect, 24)
    plain = plainly(out, done.held, 24)
    assert torch.allclose(logits(done.suspect.anatomy, found, runtime), plain, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "distilbert", "electra", "roberta", "deberta-v2"])
def test_an_encoder_that_names_no_padding_by_minus_one_is_read(family, tokenizer, tmp_path):
    split = sentences(20, seed=3)
    folder = save(tmp_path / "suspect", family, variant(tokenizer), pad_token_id=-1)
    for batch_size in (1, 16):
        found = ours(folder, split, 24, batch_size)
        assert torch.allclose(found, plainly(folder, split, 24), atol=1e-5)


def test_a_note_on_padding_is_of_the_tokenizer_as_it_is_now(tokenizer, tmp_path):
    """Texts end in [SEP], with which the tokenizer padded: it pads with another token now."""
    own = variant(tokenizer, "[SEP]", "[SEP]")
    folder = save(tmp_path / "model", "llama", own, pad_token_id=None)
    suspect, texts = load_suspect(folder, CPU), list(sentences(6).texts)
    assert suspect.tokenizer.pad_token_id == suspect.model.config.pad_token_id != 3
    batch = suspect.tokenizer(texts, padding=True, return_tensors="pt")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        together = suspect.model(**inputs).logits
    alone = ours(folder, sentences(6), 24, 1)
    assert torch.allclose(together, alone, atol=1e-5)
    assert not any("wrong token" in note for note in suspect.notes)


@pytest.mark.parametrize("pad", [0, 1, 5])
@pytest.mark.parametrize("family", CONFIGS)
def test_texts_as_long_as_the_model_can_read_are_read(family, pad, tokenizer, tmp_path):
    tokenizer = variant(tokenizer)
    tokenizer.model_max_length = 10**6
    folder = save(tmp_path / family, family, tokenizer, pad_token_id=pad)
    suspect = load_suspect(folder, CPU)
    limit = position_limit(suspect.model, suspect.anatomy.adapter)
    offset = suspect.model.base_model.embeddings.padding_idx + 1 if limit < 48 else 0
    assert limit == 48 - offset
    long = Split(("the film " * 100, "a film"), (0, 1))
    assert torch.allclose(ours(folder, long, 1000, 2), plainly(folder, long, limit), atol=1e-5)


def test_a_padding_number_without_an_embedding_names_the_way_out(tokenizer, tmp_path):
    added = copy.deepcopy(tokenizer)
    added.add_special_tokens({"pad_token": "<new>"})
    folder = save(
        tmp_path / "model", "llama", added, vocab_size=added.convert_tokens_to_ids("<new>")
    )
    with pytest.raises(UserError, match="padding token has number") as caught:
        load_suspect(folder, CPU)
    assert "resize_token_embeddings" in str(caught.value)


def test_texts_that_end_in_a_chosen_padding_token_are_refused(tokenizer, tmp_path):
    bare = variant(tokenizer, None)
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    folder = save(tmp_path / "model", "llama", bare, pad_token_id=None)
    suspect = load_suspect(folder, CPU)
    token = suspect.tokenizer.pad_token
    assert suspect.notes[0] == f"padding token set to {token}"
    with pytest.raises(UserError, match="1 texts end in the token"):
        encode(Split((f"a film {token}", "a film"), (0, 1)), suspect, 24)


def main(path: str) -> None:
    """Print the table of docs/reliability.md from a file of labelled texts."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from headsweep.task.training import Job, Schedule, train
    from headsweep.texts.reading import load

    split = load(path)
    half = len(split) // 2
    core = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    core.train_from_iterator(
        split.texts, trainers.WordLevelTrainer(vocab_size=4000, special_tokens=special)
    )
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", eos_token="[SEP]"
    )
    shown, rest = split.take(range(half)), split.take(range(half, len(split)))
    truth = torch.tensor(rest.labels)
    print(
        "| family | texts | plain, one at a time | ours, batch 1 | ours, batch 32 | other answers |"
    )
    print("|---|---|---|---|---|---|")
    for family in CONFIGS:
        with TemporaryDirectory() as place:
            folder = (
                save(Path(place), family, tokenizer, vocab_size=4000, max_position_embeddings=96)
                if family not in ("gpt2",)
                else save(Path(place), family, tokenizer, vocab_size=4000, n_positions=96)
            )
            runtime = Runtime("cpu", 32, 64, "fp32")
            suspect = load_suspect(folder, runtime)
            job = Job(Schedule(epochs=8, lr=2e-3), 0)
            train(suspect.model, encode(shown, suspect, 64), job, runtime)
            suspect.model.save_pretrained(folder)
            plain = plainly(folder, rest, 64)
            one, many = (ours(folder, rest, 64, size) for size in (1, 32))
        right = [int((x.argmax(-1) == truth).sum()) for x in (plain, one, many)]
        other = int((plain.argmax(-1) != many.argmax(-1)).sum())
        other += int((plain.argmax(-1) != one.argmax(-1)).sum())
        cells = " | ".join(f"{count / len(rest):.1%}" for count in right)
        print(f"| {family} | {len(rest)} | {cells} | {other} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
