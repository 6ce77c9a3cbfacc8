"""What an interrupted choice kept is taken up again to the same end, and never another run's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from conftest import CPU, sentences
from headsweep import FineTune, Plan, Sources, UserError, purify
from headsweep.checkpoint import Checkpoint
from headsweep.strategies.cycles import Cycles
from oracle import view, wired

CYCLES = Cycles(step=2, lr=1e-3, epochs=0.5, most=5)


def test_a_file_is_for_its_key_alone(tmp_path):
    file = Checkpoint(tmp_path / "deep" / "kept.safetensors")
    assert file.load("a") is None
    file.save("a", {"number": 3}, {"x": torch.arange(3)})
    state, tensors = file.load("a")
    assert state == {"number": 3}
    assert tensors["x"].tolist() == [0, 1, 2]
    assert [path.name for path in file.path.parent.iterdir()] == ["kept.safetensors"]
    with pytest.raises(UserError, match="other settings, data or model"):
        file.load("b")
    file.path.write_bytes(file.path.read_bytes()[:40])
    with pytest.raises(UserError, match="damaged"):
        file.load("a")
    file.clear()
    assert file.load("a") is None
    with pytest.raises(UserError, match="cannot be written"):
        Checkpoint(tmp_path / "deep" / "kept" / ("x" * 300)).save("a", {}, {})


@pytest.mark.parametrize("after", [1, 3])
def test_cycles_go_on_where_they_were_interrupted(tmp_path, monkeypatch, after):
    from headsweep.strategies import cycles

    whole = CYCLES.choose(view(wired("idle"), min_accuracy=0.5))
    real, calls = cycles._judged, []

    def stopping(*args):
        calls.append(args)
        if len(calls) == after + 1:
            raise KeyboardInterrupt
        return real(*args)

    file = Checkpoint(tmp_path / "kept.safetensors")
    own = replace(view(wired("idle"), min_accuracy=0.5), kept=file)
    monkeypatch.setattr(cycles, "_judged", stopping)
    with pytest.raises(KeyboardInterrupt):
        CYCLES.choose(own)
    assert file.path.exists()
    left = own.anatomy.model.state_dict()
    assert all(torch.equal(left[n], x) for n, x in wired("idle").model.state_dict().items())
    calls.clear()
    monkeypatch.setattr(cycles, "_judged", lambda *args: calls.append(args) or real(*args))
    again = CYCLES.choose(replace(view(wired("idle"), min_accuracy=0.5), kept=file))
    assert len(calls) == len(whole.steps) - after
    assert again.mask == whole.mask
    assert again.steps == whole.steps
    assert again.record == whole.record
    assert torch.equal(again.scores, whole.scores)
    assert all(torch.equal(again.weights[n], x) for n, x in whole.weights.items())


@pytest.mark.parametrize("changed", ["strategy", "seed", "bound", "model"])
def test_another_run_does_not_go_on_from_it(tmp_path, changed):
    file = Checkpoint(tmp_path / "kept.safetensors")
    CYCLES.choose(replace(view(wired("idle")), kept=file))
    strategy = replace(CYCLES, step=1) if changed == "strategy" else CYCLES
    model = wired("sharp" if changed == "model" else "idle")
    bound = 0.8 if changed == "bound" else 0.9
    other = replace(view(model, int(changed == "seed"), bound), kept=file)
    with pytest.raises(UserError, match="other settings, data or model"):
        strategy.choose(other)


def test_cycles_are_judged_as_they_will_be_saved(tmp_path):
    own = replace(view(wired("idle"), min_accuracy=0.5), precision=torch.float16)
    weights = CYCLES.choose(own).weights
    assert all(torch.equal(x, x.half().float()) for x in weights.values() if x.is_floating_point())


def test_the_pipeline_hands_it_on(trained_folder, tmp_path):
    """A purification interrupted in its healing takes up the cycles whole."""

    @dataclass(frozen=True)
    class Broken(FineTune):
        def heal(self, view, choice):
            raise KeyboardInterrupt

    data = Sources(sentences(200, 11), sentences(120, 5), sentences(60, 6))
    file = Checkpoint(tmp_path / "kept.safetensors")
    plan = Plan(max_drop=0.3, heal=FineTune(0.5, 1e-4), runtime=CPU, kept=file)
    strategy = replace(CYCLES, lr=1e-4, most=2)
    whole = purify(trained_folder, data, strategy, replace(plan, kept=None))
    with pytest.raises(KeyboardInterrupt):
        purify(trained_folder, data, strategy, replace(plan, heal=Broken(0.5, 1e-4)))
    again = purify(trained_folder, data, strategy, plan)
    after = again.model.state_dict()
    assert all(torch.equal(after[n], x) for n, x in whole.model.state_dict().items())
