"""What a purification takes of memory: counted by hand, and refused where it cannot fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import AutoConfig

from conftest import CPU, sentences
from headsweep import Bound, FineTune, Gradient, Method, Plan, UserError, purify
from headsweep.cli import main
from headsweep.heal.fine_tune import Copies
from headsweep.model.limits import limit_left
from headsweep.model.loading import measured
from headsweep.model.runtime import Runtime, free_bytes
from headsweep.progress import Silent
from headsweep.prune.strategies.nothing import Nothing
from headsweep.prune.strategies.sparsify import Sparsify
from headsweep.purification import memory_plan as memory
from headsweep.purification.memory_plan import ONCE, PROGRAM, Size, check_fits, needs
from headsweep.purification.method import HOT
from headsweep.texts.reading import write

GIB = 1 << 30
SMOL = Size(134_515_008, 30, 576, 49_152)
ONE = Method(healing=FineTune())


def free(monkeypatch, size: float) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _: int(size))


def test_copies_are_those_that_healing_holds():
    """Gradient and two averages; a soup's start and its sum; the first and the best try."""
    assert FineTune(0, halvings=3, members=3).copies == Copies()
    assert FineTune().copies == Copies(3)
    assert FineTune(members=3).copies == Copies(3, 1, sums=1, members=3)
    assert FineTune(beyond=2.0).copies == Copies(3, 1, sums=1, members=1)
    assert FineTune(members=3, how="greedy").copies == Copies(3, 4, sums=1, members=3)
    assert FineTune(batch=8).copies == Copies(3, batch=8)
    assert FineTune(halvings=1).copies == Copies(3, 2)
    assert HOT.copies == Copies(3, 3, sums=1, members=3)


def test_the_sum_is_that_of_its_parts():
    found = needs(SMOL, ONE, replace(CPU, batch_size=16, max_length=48))
    assert found.weights == 4 * 134_515_008
    assert found.training == 3 * found.weights
    assert found.batch == 4 * 16 * 48 * (17 * 30 * 576 + 2 * 49_152)
    assert found.saving == found.weights  # loaded again, when nothing is trained any more
    assert found.all == found.weights + found.training + found.batch + PROGRAM
    alone = needs(SMOL, Method(Nothing(), FineTune(0)), replace(CPU, batch_size=1, max_length=8))
    assert alone.all == 2 * found.weights + PROGRAM


def test_the_batch_that_healing_asks_for_counts():
    usual = needs(SMOL, ONE, CPU).batch
    for batch in (1, 256):
        healed = Method(Nothing(), FineTune(batch=batch))
        assert needs(SMOL, healed, CPU).batch == usual * batch / CPU.batch_size
        pruned = Method(healing=FineTune(batch=batch))  # whose heads are scored before
        assert needs(SMOL, pruned, CPU).batch == usual * max(1, batch / CPU.batch_size)
    before = Method(Sparsify(), FineTune(batch=1))  # which trains in batches of its own
    assert needs(SMOL, before, CPU).batch == usual


def test_what_is_trained_before_healing_is_counted():
    """A copy that is trained to rank heads, and a fresh classifier, with its encoder as it was."""
    whole, alone, thin = SMOL.weights * 4, FineTune(0), FineTune(lora=8)
    assert needs(SMOL, Method(Sparsify(), alone), CPU).training == 4 * whole
    assert needs(SMOL, Method(Sparsify(), thin), CPU).training == 4 * whole
    assert needs(SMOL, Method(Gradient(), alone), CPU, fresh=True).training == 4 * whole
    assert needs(SMOL, Method(Sparsify(), alone), CPU, fresh=True).training == 5 * whole
    assert needs(SMOL, Method(Gradient(), HOT), CPU).training == 7 * whole


def test_weights_are_counted_from_headers(trained_folder):
    shapes, config = measured(trained_folder)
    from headsweep.model.loading import load_suspect

    model = load_suspect(trained_folder, CPU).model
    size = Size.of(shapes, config, False)
    assert size.weights == sum(p.numel() for p in model.parameters())
    assert config.num_hidden_layers == size.layers
    assert size.answers == 0
    assert Size.of(shapes, config, True).answers == config.vocab_size
    linear = [m.weight for m in model.bert.encoder.modules() if isinstance(m, nn.Linear)]
    assert size.projections == sum(weight.numel() for weight in linear)
    assert size.sides == sum(sum(weight.shape) for weight in linear)


def test_layers_of_a_decoder_beside_an_encoder_count():
    for kind, more in (("bart", {"encoder_layers": 3, "decoder_layers": 4}),
                       ("t5", {"num_layers": 3, "num_decoder_layers": 4})):  # fmt: skip
        assert Size.of({}, AutoConfig.for_model(kind, **more), False).layers == 7
    odd = AutoConfig.for_model("bert", is_encoder_decoder=True, num_decoder_layers=[1])
    assert Size.of({}, odd, False).layers == 12


def test_adapters_are_what_they_train_and_copies_of_what_they_change():
    """Two matrices, their gradients and two averages; two weights of [4, 6] and [6, 4] twice."""
    size = Size(1000, 1, 4, 0, projections=48, sides=20)
    assert (size.beside(Copies(3, 2)), size.copied(Copies(3, 2))) == (4 * 3000, 4 * 2000)
    soup = Copies(3, 1, rank=8, sums=1, members=3)
    assert (size.beside(soup), size.copied(soup)) == (4 * 4 * 8 * 20, 4 * 2 * 48)
    assert size.beside(Copies(rank=8)) == 4 * 8 * 20


def test_a_frozen_model_is_counted_as_it_is_held():
    """Two bytes a weight, and the largest once more in four; thin matrices are float32."""
    size = Size(1000, 1, 4, 0, projections=48, sides=20, held=2, largest=100)
    alone = FineTune(lora=8, halvings=1)
    found = needs(size, Method(Gradient(), alone), CPU)
    assert found.weights == 2 * 1000 + 4 * 100
    assert found.training == 4 * 4 * 8 * 20 + 2 * 2 * 48
    soup = needs(size, Method(Gradient(), FineTune(lora=8, members=3)), CPU)
    assert soup.weights == found.weights
    assert soup.training == 4 * (4 + 3) * 8 * 20 + 2 * 48  # their matrices, and where they began
    for healing in (FineTune(), FineTune(lora=8, members=2, how="greedy")):
        assert needs(size, Method(Gradient(), healing), CPU).weights == 4 * 1000
    assert needs(replace(size, held=4), Method(Gradient(), alone), CPU).weights == 4 * 1000


def test_copies_lie_in_the_processors_memory(monkeypatch):
    """Of what another device computes: told apart, and refused apart."""
    monkeypatch.setattr(Runtime, "torch_device", torch.device("cuda"))
    room = {"cuda": 64 * GIB, "cpu": 64 * GIB}
    monkeypatch.setattr(memory, "free_bytes", lambda device: room[device.type])
    found = needs(SMOL, Method(healing=HOT), CPU)
    assert found.fixed == (1 + 3) * 4 * SMOL.weights
    assert found.apart == 4 * 4 * SMOL.weights
    assert "and 2.0 GiB of the processor's" in check_fits(SMOL, Method(healing=HOT), CPU)
    room["cpu"] = GIB
    with pytest.raises(
        UserError, match=r"64\.0 GiB and 1\.0 GiB of the processor's are free"
    ) as one:
        check_fits(SMOL, Method(healing=HOT), CPU)
    assert one.value.fix.startswith("one healing")


def test_a_gpu_need_not_hold_what_the_processor_loads_again(monkeypatch):
    monkeypatch.setattr(Runtime, "torch_device", torch.device("cuda"))
    room = {"cuda": 24 * GIB, "cpu": 64 * GIB}
    monkeypatch.setattr(memory, "free_bytes", lambda device: room[device.type])
    seven = Size(7 * 10**9, 32, 4096, 0, sides=2_500_000, held=2, largest=131_072_000, stored=2)
    with pytest.raises(UserError) as one:
        check_fits(seven, Method(healing=HOT), CPU)
    assert one.value.fix.startswith(f"one healing of adapters, `purify --heal lora=8 {ONCE}`, take")
    once = FineTune(lora=8)
    assert "of the processor's" in check_fits(seven, Method(Nothing(), once), CPU)


def test_what_is_loaded_again_is_told_where_it_takes_most(monkeypatch):
    free(monkeypatch, 64 * GIB)
    alone = Method(Nothing(), FineTune(0))
    line = check_fits(replace(SMOL, weights=10**9), alone, replace(CPU, max_length=8))
    assert "3.7 GiB for what was saved, loaded again" in line


def test_a_small_model_says_nothing_and_a_large_one_its_peak(monkeypatch):
    free(monkeypatch, 64 * GIB)
    assert check_fits(replace(SMOL, weights=10**7, layers=2), ONE, CPU) == ""
    line = check_fits(SMOL, Method(healing=HOT), CPU)
    assert line.startswith("up to 5.6 GiB of memory (weights 0.5 GiB, training 3.5 GiB, a batch")
    assert line.endswith("64.0 GiB are free")
    free(monkeypatch, 5.25 * GIB)
    assert "batches are halved" in check_fits(SMOL, Method(healing=HOT), CPU)


def test_what_cannot_fit_is_refused_with_what_would(monkeypatch):
    seven = replace(SMOL, weights=7 * 10**9, layers=32, width=4096, sides=2_500_000)
    hot = Method(healing=HOT)
    free(monkeypatch, 128 * GIB)
    with pytest.raises(UserError, match="7,000 million weights take up to") as one:
        check_fits(seven, hot, CPU)
    assert "members=1" in one.value.fix
    free(monkeypatch, 64 * GIB)
    with pytest.raises(UserError) as one:
        check_fits(
            seven, hot, CPU
        )  # 7e9 numbers of four bytes, again when they were saved, and a GiB
    assert one.value.fix.startswith(
        f"one healing of adapters, `purify --heal lora=8 {ONCE}`, takes 53.2 GiB"
    )
    thin = replace(seven, stored=2)  # what is saved and loaded again takes half
    free(monkeypatch, 42 * GIB)
    with pytest.raises(UserError) as one:
        check_fits(thin, hot, CPU)
    assert "takes 40.1 GiB and a batch" in one.value.fix
    narrow = replace(seven, held=2, stored=2, largest=131_072_000)
    free(monkeypatch, 64 * GIB)
    with pytest.raises(UserError) as one:
        check_fits(narrow, hot, CPU)  # two bytes a weight, and 131 million of four
    assert one.value.fix.startswith(
        f"one healing of adapters, `purify --heal lora=8 {ONCE}`, takes 27.6 GiB"
    )
    with pytest.raises(UserError, match=r"million weights") as one:
        check_fits(replace(seven, weights=70 * 10**9), Method(healing=FineTune(0)), CPU)
    assert one.value.fix == "take a machine with more memory, or a smaller model"


def test_it_is_refused_before_anything_is_loaded(trained_folder, monkeypatch, tmp_path, capsys):
    free(monkeypatch, PROGRAM)
    monkeypatch.setattr("headsweep.purification.pipeline.gather", None)
    with pytest.raises(UserError, match="are free"):
        purify(trained_folder, sentences(60), ONE, Plan(runtime=CPU))
    data = tmp_path / "data.jsonl"
    split = sentences(60)
    told = zip(split.texts, split.labels, strict=True)
    write(data, [{"text": text, "label": label} for text, label in told])
    with pytest.raises(SystemExit) as stop:
        main(["purify", str(trained_folder), "--data", str(data), "--out", str(tmp_path / "out"),
              "--device", "cpu"])  # fmt: skip
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "million weights take" in said
    assert "Traceback" not in said


def test_the_line_is_said_at_the_beginning(trained_folder, monkeypatch):
    monkeypatch.setattr(memory, "TOLD", 0)
    heard: list[str] = []

    class Ears(Silent):
        def say(self, line: str) -> None:
            heard.append(line)

    method = Method(Gradient(step=4), FineTune(0), bound=Bound(max_drop=0.9))
    purify(trained_folder, sentences(60), method, Plan(runtime=CPU), progress=Ears())
    assert heard[0].startswith("up to 1.0 GiB of memory (weights 0.0 GiB, training 0.0 GiB")


def group(folder, limit, used, stat, names=("memory.max", "memory.current")):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip((*names, "memory.stat"), (limit, used, stat), strict=True):
        (folder / name).write_text(f"{text}\n")


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    own, mounted = tmp_path / "cgroup", tmp_path / "mounted"
    group(mounted / "job" / "step", "max", 10, "inactive_file 1")
    group(mounted / "job", 8000, 3000, "anon 5\ninactive_file 500")
    own.write_text("0::/job/step\n")
    assert limit_left(own, mounted) == 5500
    first = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    group(mounted / "memory", 2000, 1500, "total_inactive_file 100", first)
    own.write_text("5:cpu:/\n4:memory:/docker/1234\n0::/job/step\n")  # the host's path: not here
    assert limit_left(own, mounted) == 600
    assert limit_left(tmp_path / "none", mounted) is None
    monkeypatch.setattr("headsweep.model.runtime.limit_left", lambda: 12345)
    assert free_bytes(torch.device("cpu")) == 12345
