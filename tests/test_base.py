"""A trusted base mixed in, against weights mixed by hand."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from conftest import CPU, Way, cleanse, sentences, tiny_model
from headsweep.errors import UserError
from headsweep.heal.fine_tune import FineTune
from headsweep.model.base import mix_in
from headsweep.model.loading import Reading, prepare
from headsweep.model.removal import pieces
from headsweep.prune.choice import Choice
from headsweep.prune.strategies.gradient import Gradient
from headsweep.purification.unfinished import runs_in
from headsweep.task.training import copied
from test_generation import generator
from test_healing import pruned_view
from test_loading import altered

WORDS = "embeddings.word_embeddings.weight"
MIXED = FineTune(epochs=0, base="", mix=0.3)


@pytest.fixture
def base(tmp_path):
    """An encoder without a classifier, saved as one finds them."""
    torch.manual_seed(7)
    model = AutoModel.from_config(tiny_model("bert").config)
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base", model


def test_every_tensor_moves_towards_the_base_and_pruned_heads_stay_zero(tiny, base):
    folder, encoder = base
    view, mask = pruned_view(tiny)
    before = copied(view.anatomy.model)
    replace(MIXED, base=str(folder)).heal(view, Choice(mask))
    theirs = encoder.state_dict()
    own = dict(view.anatomy.model.named_parameters())
    assert not any(piece.any() for piece in pieces(view.anatomy, mask))
    moved = 0
    for name, parameter in own.items():
        other = theirs.get(name.removeprefix("bert."))
        if other is None or not name.startswith("bert."):
            assert torch.equal(parameter, before[name]), name
            continue
        by_hand = 0.7 * before[name] + 0.3 * other
        kept = parameter != 0 if "attention" in name else torch.ones_like(parameter, dtype=bool)
        assert torch.allclose(parameter[kept], by_hand[kept], atol=1e-6), name
        moved += 1
    assert moved == len(theirs.keys() & {n.removeprefix("bert.") for n in own})


def test_a_soup_mixes_once(tiny, base):
    view, mask = pruned_view(tiny)
    again, _ = pruned_view(tiny)
    soup = FineTune(epochs=0.25, lr=1e-9, members=2, base=str(base[0]), mix=0.5)
    soup.heal(view, Choice(mask))
    replace(MIXED, base=str(base[0]), mix=0.5).heal(again, Choice(mask))
    one, other = view.anatomy.model.state_dict(), again.anatomy.model.state_dict()
    assert all(torch.allclose(one[n], other[n], atol=1e-6) for n in one)


def test_a_purification_says_that_a_base_was_trusted(trained_folder, base):
    heal = FineTune(1, base=str(base[0]), mix=0.1)
    done = cleanse(
        trained_folder, sentences(60), Gradient(step=2), Way(0.9, heal=heal, runtime=CPU)
    )
    assert done.manifest["heal"]["fields"]["base"] == str(base[0])
    assert any("which is trusted" in note for note in done.manifest["notes"])


@pytest.mark.parametrize("members", [1, 2])
def test_the_manifest_says_which_files_were_mixed_in(trained_folder, base, members):
    """Only the name of the base stood there, under which other weights may lie tomorrow."""
    heal = FineTune(0.1, base=str(base[0]), members=members)
    done = cleanse(
        trained_folder, sentences(60), Gradient(step=2), Way(0.5, heal=heal, runtime=CPU)
    )
    whole = (base[0] / "model.safetensors").read_bytes()
    by_hand = {"model.safetensors": hashlib.sha256(whole).hexdigest()}
    assert done.manifest["heal"]["base_weights"] == by_hand


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"vocab_size": 130}, "its vocab_size is 130"),
        ({"hidden_size": 64}, "its hidden_size is 64"),
        ({"num_hidden_layers": 3}, "its num_hidden_layers is 3"),
        ({"hidden_act": "relu"}, "its hidden_act is relu, the model's gelu"),
        ({"intermediate_size": 96}, "intermediate.dense.weight is"),
    ],
)
def test_a_base_of_another_shape_is_refused_before_the_search(
    trained_folder, tmp_path, changes, told
):
    AutoModel.from_config(tiny_model("bert", **changes).config).save_pretrained(tmp_path / "other")
    heal = FineTune(1, base=str(tmp_path / "other"))
    with pytest.raises(UserError, match=told):
        cleanse(trained_folder, sentences(60), Gradient(step=2), Way(0.5, heal=heal, runtime=CPU))


def test_a_base_of_another_architecture_is_refused(trained_folder, tmp_path):
    AutoModel.from_config(tiny_model("roberta").config).save_pretrained(tmp_path / "other")
    heal = FineTune(1, base=str(tmp_path / "other"))
    with pytest.raises(UserError, match="its model_type is roberta"):
        cleanse(trained_folder, sentences(60), Gradient(step=2), Way(0.5, heal=heal, runtime=CPU))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_writes_tokens_is_mixed_too(family, tokenizer, tmp_path):
    """Of an untied one it stayed the suspect's, under a note that said "every weight"."""
    model, base = (generator(family, tie_word_embeddings=False) for _ in range(2))
    with torch.no_grad():
        for one in base.parameters():
            one.add_(0.1 * torch.randn_like(one))
    other = tmp_path / "base"
    base.save_pretrained(other)
    own = prepare(model, tokenizer, Reading(task=None))
    before = {name: one.clone() for name, one in model.named_parameters()}
    mix_in(own.anatomy, own.anatomy.layout.everything(), str(other), 0.25)
    theirs = dict(base.named_parameters())
    assert "lm_head.weight" in before
    for name, one in model.named_parameters():
        torch.testing.assert_close(one, 0.75 * before[name] + 0.25 * theirs[name])
    AutoModel.from_pretrained(other).save_pretrained(tmp_path / "bare")
    _, notes = FineTune(1, base=str(tmp_path / "bare")).fitted(own)
    assert "every weight but 1 that it lacks (lm_head.weight, ...)" in notes[0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: {n: x for n, x in t.items() if "layer.1." not in n}, "lacks 16 weights"),
        (lambda t: t | {WORDS: t[WORDS] * float("nan")}, "hold NaN or infinity, first in"),
        (lambda t: t | {WORDS: t[WORDS][:, 1:].contiguous()}, "has the shape"),
    ],
)
def test_a_base_is_checked_as_any_model_is(trained_folder, base, tmp_path, change, told):
    """What it lacked was mixed in as drawn at random, and NaN blamed on the healing."""
    other = altered(base[0], tmp_path / "other", change)
    heal = FineTune(1, base=str(other))
    with pytest.raises(UserError, match=told):
        cleanse(trained_folder, sentences(60), Gradient(step=2), Way(0.5, heal=heal, runtime=CPU))


def test_an_adapter_is_no_base(trained_folder, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    heal = FineTune(1, base=str(tmp_path))
    with pytest.raises(UserError, match="not a base to mix in") as caught:
        cleanse(trained_folder, sentences(60), Gradient(step=2), Way(0.5, heal=heal, runtime=CPU))
    assert "merge it first" in caught.value.fix


def test_a_run_goes_on_with_the_base_that_it_began_with(trained_folder, base, tmp_path):
    folder, _ = base
    heal = FineTune(1, 1e-3, base=str(folder), attention=0)
    way = Way(0.5, heal=heal, runtime=CPU)
    kept = tmp_path / "kept"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            cleanse(trained_folder, sentences(60), Gradient(step=2), way, keep=kept, look=_stop)
    assert len(runs_in(kept)) == 1
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {WORDS: tensors[WORDS] + 1}, folder / "model.safetensors")
    with pytest.raises(KeyboardInterrupt):
        cleanse(trained_folder, sentences(60), Gradient(step=2), way, keep=kept, look=_stop)
    assert len(runs_in(kept)) == 2


def _stop(*_):
    raise KeyboardInterrupt


def test_a_share_is_a_fraction():
    with pytest.raises(UserError, match="mix as 0 to 1"):
        FineTune(mix=1.5)
