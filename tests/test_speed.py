"""The benchmarks' own parts: a reference loop that is wrong would flatter the engine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from conftest import CPU, sentences
from headsweep.cost import peak_memory_mib, reset_peak
from headsweep.measure.accuracy import logits, needed
from headsweep.model.mask import Units
from headsweep.prune.search import candidates, greedy
from headsweep.prune.view import DefenderView
from headsweep.task.examples import encode

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import cells
import sizes
import speed_cases
import speed_reference as reference


def test_a_cell_has_words_for_folders_and_nothing_else_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    form = {"without": f"{out}", "in": [f"{out}/a.json", f"{out}er/b"], "figure": 0.5,
            "command": f"kinds.py {out} --seeds 11"}  # fmt: skip
    cells.write_cell(tmp_path / "one.json", form, {"OUT": out})
    made = json.loads((tmp_path / "one.json").read_text())
    assert made.pop("environment")
    assert made == {"without": "OUT", "in": ["OUT/a.json", f"{out}er/b"], "figure": 0.5,
                    "command": "kinds.py OUT --seeds 11"}  # fmt: skip
    cells.write_cell(tmp_path / "two.json", form, {"OUT": Path()})  # the folder one stands in
    assert json.loads((tmp_path / "two.json").read_text())["figure"] == 0.5


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it is told by Linux")
def test_the_peak_of_what_is_over_is_forgotten():
    held = torch.ones(64 << 20)  # 256 MiB
    del held
    before = peak_memory_mib()
    reset_peak()
    assert peak_memory_mib() < before - 128


def test_the_reference_removes_the_heads_that_gates_close(tiny):
    suspect = tiny("bert", max_position_embeddings=128)
    encoded = encode(sentences(24), suspect, 24)
    mask = suspect.anatomy.layout.mask([0, 3, 5])
    expected = logits(suspect.anatomy, encoded, CPU, mask).argmax(-1)
    right = int((expected == torch.tensor(encoded.labels)).sum())
    made = reference.without_heads(suspect.model, mask.pruned)
    assert reference.right_answers(made, reference.padded(encoded, 10)) == right
    assert suspect.model.bert.encoder.layer[0].attention.self.query.weight.shape == (32, 32)


@pytest.mark.parametrize("drop", [0.0, 0.05, 0.2])
def test_the_reference_loop_chooses_as_the_stepwise_search(tiny, drop):
    suspect = tiny("bert", max_position_embeddings=128, num_hidden_layers=4)
    encoded = encode(sentences(60), suspect, 24)
    own = DefenderView(suspect.anatomy, encoded, encoded, 0.0, 0, CPU)
    bound = own.accuracy(own.layout.everything()) - drop
    view = DefenderView(suspect.anatomy, encoded, encoded, bound, 0, CPU)
    scores = torch.rand(16, generator=torch.Generator().manual_seed(1))
    order = candidates(scores, view)
    found, masks = reference.search(
        suspect.model, reference.padded(encoded), order, needed(bound, 60), 3
    )
    choice = greedy(view, scores, 3)
    assert tuple(sorted(found)) == choice.mask.pruned
    assert masks == len(choice.steps)


def test_random_texts_carry_the_models_own_answers():
    model, encoded = speed_cases.random_bert(2, 4, 32, 60, 10)
    setting = speed_cases.Setting(model, encoded, encoded, 0.9, CPU)
    view = setting.view()
    assert view.accuracy(view.layout.everything()) == 1.0
    assert 0 < sum(encoded.labels) < 60


def test_counted_operations_fall_with_heads_and_unread_tokens():
    model, encoded = speed_cases.random_bert(2, 4, 32, 20, 10)
    setting = speed_cases.Setting(model, encoded, encoded, 0.9, CPU)
    layout = setting.view().layout
    plain, whole, half = (
        speed_cases.flops(setting, mask)
        for mask in (None, layout.everything(), layout.mask([0, 1, 4, 5]))
    )
    assert half < whole < plain


@pytest.mark.parametrize(("family", "share", "gone"), [("bert", 0.5, 4), ("llama", 0.25, 1)])
def test_sizes_draws_the_share_it_says(tiny, family, share, gone):
    """Of two groups a layer one of four goes in all, where every layer by itself would lose none."""
    layout = tiny(family).anatomy.layout
    assert len(sizes.drawn(layout, share).pruned) == gone == share * layout.units


def test_sizes_times_every_form_that_is_written(trained_folder, tmp_path):
    pytest.importorskip("onnxruntime")
    data, rows = tmp_path / "data.csv", sentences(64)
    told = (f"{text},{y}\n" for text, y in zip(rows.texts, rows.labels, strict=True))
    data.write_text("text,label\n" + "".join(told))
    found = sizes.measured(trained_folder, data, Units(), 0.5, rounds=1)
    forms = ["zeroed", "compact", "compact, ONNX", "compact, eight bits"]
    assert [row["form"] for row in found] == forms
    assert all(row["batch_1"] > 0 < row["batch_32"] for row in found)
    assert found[1]["parameters"] < found[0]["parameters"] == 1
