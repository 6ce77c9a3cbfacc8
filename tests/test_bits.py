"""Checkpoints of every precision: without healing, each bit outside the pruned units stays."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import CPU, Way, cleanse, sentences, tiny_model
from headsweep.errors import UserError
from headsweep.export.verify import verify
from headsweep.heal.fine_tune import FineTune
from headsweep.model.loading import load_suspect
from headsweep.prune.strategies.random import Random
from test_architectures import WORKING, odd

WIDTHS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}
WAY = Way(runtime=CPU, heal=FineTune(0), bounded=False, seed=3)


def tensors(folder):
    found = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    return found


def same_bits(one, other):
    """Where two tensors of one precision have the same bits."""
    return one.view(WIDTHS[one.dtype]) == other.view(WIDTHS[other.dtype])


@pytest.mark.parametrize("dtype", WIDTHS, ids=str)
@pytest.mark.parametrize("kind", ["whole", "sharded", "grouped", "shared layers"])
def test_every_bit_outside_the_pruned_units_stays(tokenizer, tmp_path, dtype, kind):
    """In the precision, names and shapes of the suspect; one -0.0 and one subnormal among them."""
    entries, adapter = WORKING["albert"]
    made = {"grouped": lambda: tiny_model("llama"), "shared layers": lambda: odd("albert", entries)}
    model = made.get(kind, lambda: tiny_model("bert"))().to(dtype)
    with torch.no_grad():
        weights = model.get_input_embeddings().weight
        weights[7, 0], weights[7, 1] = -0.0, torch.finfo(dtype).smallest_normal / 2
    suspect, out = tmp_path / "suspect", tmp_path / "out"
    model.save_pretrained(suspect, max_shard_size="20KB" if kind == "sharded" else "1GB")
    tokenizer.save_pretrained(suspect)
    assert (len(list(suspect.glob("*.safetensors"))) > 1) is (kind == "sharded")
    way = Way(**vars(WAY) | {"adapter": adapter if kind == "shared layers" else None})
    done = cleanse(suspect, sentences(60), Random(count=2), way)
    done.save(out)
    before, after = tensors(suspect), tensors(out)
    assert {n: (x.dtype, x.shape) for n, x in before.items()} == {
        n: (x.dtype, x.shape) for n, x in after.items()
    }
    changed = {n: ~same_bits(before[n], after[n]) for n in before}
    assert all(not after[n][where].any() for n, where in changed.items())  # only to zero
    touched = [n for n, where in changed.items() if where.any()]
    assert touched
    assert all("attention" in n or "attn" in n for n in touched)
    own, units = len(done.mask.flat), len(done.mask.pruned)
    outputs = [n for n in touched if n.endswith(("dense.weight", "o_proj.weight"))]
    share = sum(int(changed[n].sum()) for n in outputs)
    rows = len(done.mask.rows)
    whole = sum(after[n].numel() for n in outputs) * rows // max(1, len(outputs))
    assert share == pytest.approx(whole * units / own, rel=0.02)  # so many columns, no more
    assert all(check.passed for check in verify(out))


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "int8", "float64"])
def test_weights_that_cannot_be_saved_as_they_were_are_refused(trained_folder, tmp_path, name):
    folder = shutil.copytree(trained_folder, tmp_path / "suspect")
    dtype, path = getattr(torch, name), folder / "model.safetensors"
    small = {n: x.to(dtype) if x.dim() > 1 else x for n, x in load_file(path).items()}
    save_file(small, path, {"format": "pt"})
    with pytest.raises(UserError, match=r"is stored as [FI]\d+.*\n  fix: .*full precision") as said:
        load_suspect(folder, CPU)
    assert len(str(said.value).splitlines()) == 2


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8"])
def test_a_quantised_model_is_refused_in_a_line(trained_folder, tmp_path, method):
    folder = shutil.copytree(trained_folder, tmp_path / "suspect")
    config = json.loads((folder / "config.json").read_text())
    told = config | {"quantization_config": {"quant_method": method, "bits": 4}}
    (folder / "config.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match="the weights are quantised") as said:
        load_suspect(folder, CPU)
    assert len(str(said.value).splitlines()) == 2
