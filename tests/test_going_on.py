"""Training that goes on: transformers' Trainer brings pruned heads back, the callback does not."""

from __future__ import annotations

import json
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import Dataset
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from conftest import CPU, sentences, tiny_model
from headsweep import FineTune, Plan, PrunedHeadsCallback, UserError, purify
from headsweep.export.verify import check_weights
from headsweep.model.anatomy import locate
from headsweep.model.mask import QUERIES, HeadMask
from headsweep.model.removal import left_of, remove

MASK = HeadMask(((True, False, True, False), (True, True, True, False)))


@pytest.fixture(scope="module")
def done(trained_folder):
    return purify(
        trained_folder,
        sentences(80),
        plan=Plan(1, CPU),
        mask=MASK,
        heal=FineTune(0),
        max_drop=0.9,
        progress=False,
    )


@pytest.fixture(scope="module")
def folder(done, tmp_path_factory):
    return done.save(tmp_path_factory.mktemp("purified") / "out")


class Rows(Dataset):
    """A few tokenised sentences."""

    def __init__(self, tokenizer):
        split = sentences(24, seed=7)
        self.rows = [
            tokenizer(text, padding="max_length", max_length=16) | {"labels": label}
            for text, label in zip(split.texts, split.labels, strict=True)
        ]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {name: torch.tensor(value) for name, value in self.rows[index].items()}


def trained(model, tokenizer, out, callbacks, **more):
    """Train it for three steps, so roughly that everything that can move does."""
    arguments = TrainingArguments(
        str(out),
        max_steps=3,
        learning_rate=0.05,
        per_device_train_batch_size=8,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        logging_strategy="no",
        **({"save_strategy": "no"} | more),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers and torch, about this machine
        trainer = Trainer(model, arguments, train_dataset=Rows(tokenizer), callbacks=callbacks)
        trainer.train()
    return trainer.model


def left(model):
    return left_of(locate(model, units=QUERIES), MASK)


@pytest.mark.parametrize("kind", ["purified", "folder", "text", "mask", "file"])
def test_pruned_heads_stay_at_zero(kind, done, folder, tokenizer, tmp_path):
    file = tmp_path / "mask.json"
    file.write_text(json.dumps(MASK.to_json()))
    source = {"purified": done, "folder": folder, "text": str(folder), "mask": MASK, "file": file}
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    callback = PrunedHeadsCallback(source[kind])
    model = trained(model, tokenizer, tmp_path / "run", [callback])
    assert left(model) == []
    assert all(check.passed for check in check_weights(locate(model), MASK, []))
    moved = [n for n, weight in model.state_dict().items() if not torch.equal(weight, before[n])]
    assert any("attention.self.query.weight" in name for name in moved)


@pytest.mark.parametrize("held", [False, True])
def test_where_heads_share_values_they_come_back_without_it(held, tokenizer, tmp_path):
    model = tiny_model("llama")  # two heads a group: head 1 goes, its values stay for head 0
    remove(locate(model, units=QUERIES), MASK)
    assert left(model) == []
    callbacks = [PrunedHeadsCallback(MASK)] if held else []
    trained(model, tokenizer, tmp_path / "run", callbacks)
    assert (left(model) == []) is held


def test_checkpoints_hold_zeros_too(done, folder, tokenizer, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    callback = PrunedHeadsCallback(done)
    out = tmp_path / "run"
    trained(model, tokenizer, out, [callback], save_strategy="steps", save_steps=2)
    kept = AutoModelForSequenceClassification.from_pretrained(out / "checkpoint-2")
    assert left(kept) == []


def test_weights_that_were_there_when_training_begins_go(done):
    model = tiny_model("bert")
    assert left(model) != []
    callback = PrunedHeadsCallback(MASK)
    callback.on_train_begin(None, None, None, model=SimpleNamespace(module=model))
    assert left(model) == []
    with torch.no_grad():
        locate(model).sites[1].roles["query"].of(3).fill_(0.5)
    assert left(model) != []
    callback.on_step_end(None, None, None)
    assert left(model) == []
    callback.on_train_end(None, None, None)
    callback.on_step_end(None, None, None)  # after the end it holds nothing


def test_what_it_cannot_hold_is_refused(done, tmp_path):
    for source, said in (
        (7, "PrunedHeadsCallback cannot be given 7"),
        (tmp_path / "none", "no such folder or file"),
        (tmp_path, "no headsweep.json"),
    ):
        with pytest.raises(UserError, match=said):
            PrunedHeadsCallback(source)
    other = tiny_model("bert", num_hidden_layers=3)
    for model, said in (
        (other, "the mask is another model's: it has 8 units, the model has 12"),
        (torch.nn.Linear(2, 2), "pruned heads cannot be found in a Linear"),
        (SimpleNamespace(peft_config={}), "adapters of peft"),
    ):
        with pytest.raises(UserError, match=said):
            PrunedHeadsCallback(done).on_train_begin(None, None, None, model=model)
