from __future__ import annotations

import pytest
import torch

from conftest import CPU, sentences
from headsweep.errors import UserError
from headsweep.measure.accuracy import logits
from headsweep.model.removal import pieces, remove
from headsweep.model.runtime import Runtime
from headsweep.task.examples import encode
from headsweep.task.training import Job, Schedule, _orders, train
from headsweep.texts.encoded import Encoded
from headsweep.texts.task import CLASSIFICATION


def weights(model):
    return b"".join(p.detach().numpy().tobytes() for p in model.parameters())


def run(tiny, seed, precision="fp32"):
    suspect = tiny("bert")
    encoded = encode(sentences(64), suspect, 24)
    runtime = Runtime("cpu", 16, 24, precision)
    losses = train(suspect.model, encoded, Job(Schedule(2, 1e-3), seed), runtime)
    return weights(suspect.model), losses


def test_same_seed_same_bytes_other_seed_other_result(tiny):
    first, losses = run(tiny, 3)
    torch.rand(7)  # the global stream must not matter
    second, again = run(tiny, 3)
    third, _ = run(tiny, 4)
    assert first == second
    assert losses == again
    assert first != third


def test_bf16_same_seed_same_bytes(tiny):
    if not Runtime("cpu").trains_in_bf16():
        pytest.skip("this processor does not compute in bf16")
    assert run(tiny, 3, "bf16")[0] == run(tiny, 3, "bf16")[0]
    assert run(tiny, 3, "bf16")[0] != run(tiny, 3)[0]


def test_training_leaves_the_global_stream_alone(tiny):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(tiny, 3)
    assert torch.equal(torch.rand(3), expected)


def test_it_learns(tiny):
    suspect = tiny("bert")
    encoded = encode(sentences(200), suspect, 24)
    train(suspect.model, encoded, Job(Schedule(8, 2e-3)), CPU)
    held = encode(sentences(100, seed=9), suspect, 24)
    found = logits(suspect.anatomy, held, CPU).argmax(-1)
    assert (found == torch.tensor(held.labels)).float().mean() > 0.9


def test_pinned_weights_stay_exactly_zero(tiny):
    suspect = tiny("llama")
    mask = suspect.anatomy.layout.mask([0, 1])
    remove(suspect.anatomy, mask)
    encoded = encode(sentences(64), suspect, 24)
    pinned = pieces(suspect.anatomy, mask)
    before = weights(suspect.model)
    train(suspect.model, encoded, Job(Schedule(2, 1e-2), pinned=pinned), CPU)
    assert not any(piece.any() for piece in pinned)
    assert not suspect.model.training  # as it was lent
    assert weights(suspect.model) != before


def test_every_example_comes_once_an_epoch(tiny):
    encoded = encode(sentences(50), tiny("bert"), 24)
    steps = _orders(encoded, 16, Job(Schedule(epochs=2)))
    assert len(steps) == 8
    first = [row for step in steps[:4] for row in step]
    assert sorted(first) == list(range(50))
    assert steps[:4] != steps[4:]
    assert len(_orders(encoded, 16, Job(Schedule(epochs=0.5)))) == 2


def test_a_little_training_is_a_step(tiny):
    encoded = encode(sentences(20), tiny("bert"), 24)
    assert len(_orders(encoded, 32, Job(Schedule(epochs=0.1)))) == 1
    assert _orders(encoded, 32, Job(Schedule(epochs=0))) == []


def test_no_epochs_changes_nothing(tiny):
    suspect = tiny("bert")
    before = weights(suspect.model)
    assert train(suspect.model, encode(sentences(8), suspect, 24), Job(Schedule(0)), CPU) == []
    assert weights(suspect.model) == before


def test_a_loss_that_is_no_number_is_said(tiny):
    suspect = tiny("bert")
    encoded = encode(sentences(16), suspect, 24)

    def broken(model, batch):
        return model(**batch.inputs).logits.sum() * float("nan")

    with pytest.raises(UserError, match="not a number at step 1"):
        train(suspect.model, encoded, Job(Schedule(1), loss=broken), CPU)


def test_bf16_in_vain_is_an_error(monkeypatch):
    monkeypatch.setattr("headsweep.model.runtime.computes_bf16", lambda _: False)
    with pytest.raises(UserError, match="bf16 was asked for"):
        Runtime("cpu", precision="bf16").trains_in_bf16()
    assert not Runtime("cpu", precision="auto").trains_in_bf16()


def test_texts_of_a_step_are_drawn_where_they_need_not_be_alike():
    ids = tuple((5,) * (2 + i) for i in range(64))
    long = Encoded(ids, (), (0, 1) * 32, 0, CLASSIFICATION)
    for alike in (True, False):
        steps = _orders(long, 8, Job(Schedule(1, 1e-4), seed=3, alike=alike))
        assert sorted(row for step in steps for row in step) == list(range(64))
        spans = [max(step) - min(step) for step in steps]
        assert all(span == 7 for span in spans) is alike
        assert min(spans) >= (7 if alike else 20)


@pytest.mark.parametrize(("rows", "parts"), [(16, 1), (144, 9), (160, 10), (304, 10), (400, 10)])
def test_losses_are_those_of_each_tenth(tiny, rows, parts):
    suspect = tiny()
    encoded = encode(sentences(rows), suspect, 24)
    assert len(train(suspect.model, encoded, Job(Schedule(1, 1e-4)), CPU)) == parts
