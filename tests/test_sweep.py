from __future__ import annotations

import math
import random
from dataclasses import replace
from functools import partial

import pytest
import torch

from conftest import CPU, sentences
from headsweep.errors import ShortOfMemory, UserError
from headsweep.measure import fastpass
from headsweep.measure.accuracy import Measured, logits
from headsweep.measure.fastpass import FastPass, Found, How, ShortCuts, Texts, telling
from headsweep.measure.meter import ENOUGH, Guard, Meter
from headsweep.model.attention_rows import attention_rows
from headsweep.model.mask import Layout, Row, Units
from headsweep.model.runtime import Runtime, computes_bf16
from headsweep.progress import Silent
from headsweep.task.examples import encode
from headsweep.texts.task import Classification
from tiny_families import CONFIGS

ALL = ShortCuts()
CASES = [*((family, False) for family in CONFIGS), ("llama", True), ("gemma2", True)]
"""Families, and whether single query heads are the units where several share a key/value head."""
NONE = ShortCuts(False, False, False)


def masks_of(layout, count=6, seed=0):
    """Masks that share prefixes: each prunes one more unit, no row is emptied."""
    draw = random.Random(seed)
    order = [u for part in layout.slices for u in range(part.start, part.stop - 1)]
    draw.shuffle(order)
    return [layout.mask(order[:k]) for k in range(count)]


def by_class(logits, labels):
    """Right answers and margins, written out for classes."""
    rows = torch.arange(len(labels))
    own = logits[rows, labels]
    others = logits.clone()
    others[rows, labels] = -torch.inf
    return Found(logits.argmax(-1) == labels, own - others.max(-1).values)


def right(suspect, encoded, mask):
    """The oracle: the plain gated pass."""
    found = logits(suspect.anatomy, encoded, CPU, mask).argmax(-1)
    return found == torch.tensor(encoded.labels)


def own_answers(suspect, encoded):
    """The texts labelled with the whole model's answers, half of them each: pruning costs some."""
    found = logits(suspect.anatomy, encoded, CPU)
    lead = found[:, 1] - found[:, 0]
    with torch.no_grad():
        suspect.model.classifier.bias[1] -= lead.median()
    return replace(encoded, labels=tuple((lead > lead.median()).long().tolist()))


@pytest.mark.parametrize(("family", "queries"), CASES)
def test_every_short_cut_gives_the_plain_pass(tiny, family, queries):
    """Margins of stored prefixes, cut weights and the one read token against plain gates."""
    suspect = tiny(family, units=Units(ffn=True, queries=queries))
    encoded = encode(sentences(40), suspect, 24)
    passes = FastPass(suspect.anatomy, encoded, CPU)
    before = {k: v.clone() for k, v in suspect.model.state_dict().items()}
    rows = torch.arange(40)
    for mask in masks_of(suspect.anatomy.layout):
        plain = logits(suspect.anatomy, encoded, CPU, mask)
        expected = by_class(plain, torch.tensor(encoded.labels))
        level = passes.level(mask, bf16=False)
        for at in level.unique().tolist():
            with passes.under(mask):
                found = passes.run(rows[level == at], mask, How(level=at, store=True))
            assert torch.allclose(found.margin, expected.margin[level == at], atol=2e-5)
    assert passes.short.prefixes
    assert passes.short.unread
    assert len(passes.prefixes.entries) > 1
    after = suspect.model.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert all("forward" not in layer.__dict__ for layer in passes.layers)
    assert not any(module._forward_pre_hooks for module in passes.one_token.modules)


@pytest.mark.parametrize("family", CONFIGS)
def test_padding_to_a_multiple_changes_no_logits(tiny, family):
    """In bf16 lengths are rounded up, and hidden states are stored and taken with that padding."""
    suspect = tiny(family)
    encoded = encode(sentences(40), suspect, 24)
    passes = FastPass(suspect.anatomy, encoded, CPU)
    assert passes.multiple == fastpass.BF16_MULTIPLE
    longest = max(map(len, encoded.ids))
    rows = passes.texts.lengths.argsort()[:5]
    batch = passes.texts.batch(rows, 16)
    assert batch.inputs["attention_mask"].shape == (5, min(16, longest))
    assert batch.inputs["attention_mask"].sum(1).tolist() == passes.texts.lengths[rows].tolist()
    padded = partial(Texts.batch, passes.texts, multiple=7)  # what fp32 does not do
    passes.texts.batch = lambda rows, multiple: padded(rows)
    masks = masks_of(suspect.anatomy.layout)
    for mask in masks:
        expected = logits(suspect.anatomy, encoded, CPU, mask)
        level = passes.level(mask, bf16=False)
        for at in level.unique().tolist():
            some = torch.nonzero(level == at).flatten()
            with passes.under(mask):
                found = passes.run(some, mask, How(level=at, store=True))
            plain = by_class(expected[some], passes.texts.labels[some])
            assert torch.allclose(found.margin, plain.margin, atol=2e-5)
    assert len(passes.prefixes.entries) > 1


def test_which_families_can_be_cut(tiny):
    """Where a bias goes by the number of heads in a way that no family describes, gates stay."""
    able = {
        family: FastPass(tiny(family).anatomy, encode(sentences(9), tiny(family), 24), CPU).short
        for family in ("bert", "llama", "gpt2", "mpnet", "deberta", "deberta-v2", "bloom")
    }
    assert [able[f].pruned for f in able] == [True] * 6 + [False]


def test_cut_models_do_less_work(tiny):
    """Counted floating point operations of the cut model fall by the share of its heads."""
    from torch.utils.flop_counter import FlopCounterMode

    suspect = tiny(num_attention_heads=8)
    encoded = encode(sentences(16), suspect, 24)
    mask = suspect.anatomy.layout.mask([0, 1, 2, 3, 8, 9, 10, 11])
    counts = {}
    for name, short in (("plain", NONE), ("cut", ShortCuts(True, False, False))):
        passes = FastPass(suspect.anatomy, encoded, CPU, short)
        with passes.under(mask), FlopCounterMode(display=False) as counter:
            passes.run(torch.arange(16), mask)
        counts[name] = counter.get_total_flops()
    assert counts["cut"] < 0.8 * counts["plain"]


def test_a_short_cut_that_changes_logits_is_turned_off(tiny, monkeypatch):
    suspect = tiny()
    encoded = encode(sentences(20), suspect, 24)

    assert FastPass(suspect.anatomy, encoded, CPU).short.unread
    second = lambda self, ids, last: torch.ones(len(ids)).long()  # noqa: E731
    monkeypatch.setattr(Classification, "place", second)
    assert not FastPass(suspect.anatomy, encoded, CPU).short.unread


def test_a_task_that_reads_several_tokens_is_measured_whole(tiny, monkeypatch):
    """No token is left out then, and there is no one row of attention to penalise."""
    suspect = tiny()
    encoded = encode(sentences(20), suspect, 24)
    monkeypatch.setattr(Classification, "place", lambda self, ids, last: None)
    passes = FastPass(suspect.anatomy, encoded, CPU)
    assert passes.short == ShortCuts(True, False, True)
    mask = suspect.anatomy.layout.mask([0, 3])
    with passes.under(mask):
        found = passes.run(torch.arange(20), mask)
    assert torch.equal(found.right, right(suspect, encoded, mask))
    with (
        attention_rows(suspect.anatomy) as read,
        pytest.raises(UserError, match="several tokens"),
    ):
        read(encoded.batch(range(4)))


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_early_decisions_are_those_of_the_whole_pass(tiny, family):
    suspect = tiny(family)
    encoded = encode(sentences(120), suspect, 24)
    masks = masks_of(suspect.anatomy.layout)
    true = [int(right(suspect, encoded, mask).sum()) for mask in masks]
    cut = 0
    for need in (0, min(true), true[2], max(true), max(true) + 1, 120, 121):
        meter = Meter(suspect.anatomy, encoded, replace(CPU, batch_size=8))
        for mask, count in zip(masks, true, strict=True):
            found = meter.decide(mask, need)
            assert found.holds(need) == (count >= need)
            assert found.low - 1e-9 <= count / 120 <= found.high + 1e-9
            cut += not found.exact
    assert cut > 10


@pytest.mark.parametrize("short", [ALL, NONE])
@pytest.mark.parametrize(("family", "queries"), CASES)
def test_several_masks_go_through_as_one_batch(tiny, family, queries, short):
    """Each example of the stacked batch answers as it does under its own mask alone."""
    suspect = tiny(family, units=Units(ffn=True, queries=queries))
    encoded = encode(sentences(24), suspect, 24)
    passes = FastPass(suspect.anatomy, encoded, CPU, short)
    layout, rows = suspect.anatomy.layout, torch.arange(24)
    last = [row.layer == layout.rows[-1].layer for row in layout.rows]
    units = [part.start for part, is_last in zip(layout.slices, last, strict=True) if is_last]
    first = layout.slices[0].start
    above = [layout.mask([first, *units[:n]]) for n in range(3)]
    for masks, level in ((above, max(row.layer for row in layout.rows)), (masks_of(layout), 0)):
        assert fastpass.first_difference(suspect.anatomy, masks) >= level
        with passes.under(masks[0]):
            passes.run(rows, masks[0], How(store=True))
        known = passes.level(*masks, bf16=False)
        assert bool((known == (level if passes.short.prefixes else 0)).all())
        with passes.under(*masks):
            together = passes.run_all(rows, masks, How(level=int(known[0])))
        for mask, found in zip(masks, together, strict=True):
            plain = logits(suspect.anatomy, encoded, CPU, mask)
            expected = by_class(plain, torch.tensor(encoded.labels))
            assert torch.allclose(found.margin, expected.margin, atol=2e-5)


@pytest.mark.parametrize("together", [2, 3, 8])
@pytest.mark.parametrize("bf16", [False, True])
def test_masks_in_one_batch_are_decided_as_one_by_one(tiny, monkeypatch, together, bf16):
    """The first that holds is the same for any number at once, whatever the bound."""
    suspect = tiny()
    encoded = own_answers(suspect, encode(sentences(400), suspect, 24))
    masks = masks_of(suspect.anatomy.layout, 5)[::-1]
    true = [int(right(suspect, encoded, mask).sum()) for mask in masks]
    assert len(set(true)) > 3
    monkeypatch.setattr(Runtime, "measures_in_bf16", lambda _: bf16)
    monkeypatch.setattr("headsweep.measure.meter.FastPass", Shaky)
    monkeypatch.setattr(Shaky, "noise", 1e-3)
    for need in (0, *sorted(set(true)), max(true) + 1):
        meter = Meter(suspect.anatomy, encoded, replace(CPU, batch_size=16))
        meter.together = together
        found = meter.first_to_hold(masks, need)
        expected = [count >= need for count in true]
        number = expected.index(True) + 1 if any(expected) else len(masks)
        assert [one.holds(need) for one in found] == expected[:number]
        assert meter.masks_run >= number * (0 < need <= 400)  # other bounds are met at once
        for one, count in zip(found, true, strict=False):
            assert one.right <= count <= one.total - one.wrong


def test_one_batch_of_masks_is_fewer_passes_through_the_model(tiny):
    suspect = tiny()
    encoded = encode(sentences(60), suspect, 24)
    masks = masks_of(suspect.anatomy.layout, 4)
    calls = []
    handle = suspect.model.register_forward_pre_hook(lambda *_: calls.append(1))
    counts = {}
    for together in (1, 4):
        meter = Meter(suspect.anatomy, encoded, CPU)
        meter.together = together
        calls.clear()
        found = meter.first_to_hold(masks, 60)  # none holds
        assert [one.holds(60) for one in found] == [False] * 4
        counts[together] = len(calls)
    handle.remove()
    assert counts[4] < counts[1]


def test_bounds_that_are_met_at_once_cost_nothing(tiny):
    suspect = tiny()
    meter = Meter(suspect.anatomy, encode(sentences(40), suspect, 24), CPU)
    mask = suspect.anatomy.layout.mask([2])
    assert meter.decide(mask, 0).holds(0) is True
    assert meter.decide(mask, 41).holds(41) is False
    assert meter.examples_run == 0


def test_no_example_is_run_twice(tiny):
    suspect = tiny()
    meter = Meter(suspect.anatomy, encode(sentences(40), suspect, 24), CPU)
    mask = suspect.anatomy.layout.mask([2])
    meter.decide(mask, 12)
    assert 0 < meter.examples_run < 40
    exact = meter.accuracy(mask)
    assert exact.exact
    assert meter.examples_run == 40
    assert meter.accuracy(mask) == meter.decide(mask, 20) == exact
    assert meter.examples_run == 40
    meter.forget()
    meter.accuracy(mask)
    assert meter.examples_run == 80


def test_what_the_last_mask_got_wrong_comes_first(tiny):
    """A mask that misses the bound by far is settled by little more than the errors it takes."""
    suspect = tiny()
    encoded = encode(sentences(200), suspect, 24)
    layout = suspect.anatomy.layout
    meter = Meter(suspect.anatomy, encoded, replace(CPU, batch_size=4))
    wrong = 200 - int(right(suspect, encoded, layout.everything()).sum())
    assert wrong > 40
    meter.accuracy(layout.everything())
    before = meter.examples_run
    mask = layout.mask([0])
    found = meter.decide(mask, 200 - 20)
    assert found.holds(180) is False
    assert meter.examples_run - before <= 60


def test_one_example_and_all_wrong(tiny):
    suspect = tiny()
    encoded = encode(sentences(60), suspect, 24)
    everything = suspect.anatomy.layout.everything()
    hits = right(suspect, encoded, everything)
    for row in (int(hits.nonzero()[0]), int((~hits).nonzero()[0])):
        meter = Meter(suspect.anatomy, encoded.take([row]), CPU)
        assert meter.decide(everything, 1).holds(1) is bool(hits[row])
    none = encoded.take((~hits).nonzero().flatten().tolist())
    found = Meter(suspect.anatomy, none, CPU).accuracy(everything)
    assert (found.right, found.wrong) == (0, len(none))


def test_a_bound_equal_to_the_accuracy_holds(tiny):
    suspect = tiny()
    encoded = encode(sentences(60), suspect, 24)
    mask = suspect.anatomy.layout.mask([1, 5])
    exact = int(right(suspect, encoded, mask).sum())
    meter = Meter(suspect.anatomy, encoded, CPU)
    assert meter.decide(mask, exact).holds(exact) is True
    assert meter.decide(mask, exact + 1).holds(exact + 1) is False


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_out_of_memory_halves_the_batch_and_changes_nothing(tiny, monkeypatch, error):
    suspect = tiny()
    encoded = encode(sentences(60), suspect, 24)
    mask = suspect.anatomy.layout.mask([1, 5])
    exact = int(right(suspect, encoded, mask).sum())
    real, sizes = fastpass.forward, []
    meter = Meter(suspect.anatomy, encoded, replace(CPU, batch_size=16, cache_mib=8))

    def small(model, batch):
        sizes.append(len(batch.labels))
        if len(batch.labels) > 5:
            raise error("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return real(model, batch)

    monkeypatch.setattr(fastpass, "forward", small)
    assert meter.accuracy(mask) == Measured(exact, 60 - exact, 60)
    assert sizes.count(16) == 1  # learnt: no further batch is that large
    assert not meter.passes.prefixes.entries


def test_where_memory_ends_with_states_stored_the_other_short_cuts_stay(tiny, monkeypatch):
    suspect = tiny(num_hidden_layers=4)
    encoded = encode(sentences(60), suspect, 24)
    layout = suspect.anatomy.layout
    told = Noted()
    meter = Meter(suspect.anatomy, encoded, replace(CPU, batch_size=16, cache_mib=8), progress=told)
    meter.accuracy(layout.mask([13]))
    assert meter.passes.prefixes.entries
    real, full = fastpass.forward, [True]

    def small(model, batch):
        if len(batch.labels) > 5 and full:
            full.clear()
            raise torch.OutOfMemoryError("memory")
        return real(model, batch)

    monkeypatch.setattr(fastpass, "forward", small)
    found = meter.accuracy(layout.mask([13, 14]))
    assert found.right == int(right(suspect, encoded, layout.mask([13, 14])).sum())
    assert (meter.passes.short.pruned, told.lines) == (True, [])


class Noted(Silent):
    """Keeps the lines said."""

    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_short_cut_that_fails_later_is_given_up(tiny, monkeypatch, bf16):
    """A layer that trips over two heads gone, which the check has not tried; and over bf16."""
    suspect = tiny()
    encoded = own_answers(suspect, encode(sentences(400), suspect, 24))
    layout, progress = suspect.anatomy.layout, Noted()
    attention = suspect.model.bert.encoder.layer[0].attention.self

    def trip(*_):
        if attention.query.weight.shape[0] == 16 or torch.is_autocast_enabled("cpu"):
            raise RuntimeError("shape '[16, 10, 4, 8]' is invalid")

    monkeypatch.setattr(Runtime, "measures_in_bf16", lambda _: bf16)
    meter = Meter(suspect.anatomy, encoded, CPU, progress=progress)
    assert meter.passes.short.pruned
    mask = layout.mask([0, 1, 5])
    exact = int(right(suspect, encoded, mask).sum())
    before = {k: v.clone() for k, v in suspect.model.state_dict().items()}
    handle = attention.register_forward_pre_hook(trip)
    assert meter.decide(mask, exact).holds(exact) is True
    assert meter.decide(mask, exact + 1).holds(exact + 1) is False
    assert meter.accuracy(mask).right == exact
    handle.remove()
    assert meter.passes.short == NONE
    assert not meter.bf16
    assert len(progress.lines) == 1
    assert "masks are measured in full: shape '[16, 10, 4, 8]'" in progress.lines[0]
    assert all(torch.equal(v, before[k]) for k, v in suspect.model.state_dict().items())
    assert not attention._forward_pre_hooks


def test_the_check_of_short_cuts_removes_a_whole_group():
    """Units 2 and 3 of four share keys; one of the group that stays goes too."""
    grouped, common = Row("head", 0, 4, 2, 8), Row("head", 1, 4, 4, 8)
    mask = telling(Layout((grouped, common, Row("head", 2, 4, 1, 8), Row("ffn", 0, 1, 1, 8))))
    assert mask.heads == (
        (False, True, False, False),
        (False, True, True, True),
        (True, True, True, False),
    )
    assert mask.ffn == ((True,),)


def test_other_errors_are_not_swallowed(tiny, monkeypatch):
    suspect = tiny()
    meter = Meter(suspect.anatomy, encode(sentences(20), suspect, 24), CPU)

    def broken(model, batch):
        raise RuntimeError("something else")

    monkeypatch.setattr(fastpass, "forward", broken)
    with pytest.raises(RuntimeError, match="something else"):
        meter.accuracy(suspect.anatomy.layout.everything())
    assert all("forward" not in layer.__dict__ for layer in meter.passes.layers)
    assert not suspect.model.training


def test_prefixes_spare_layers_within_their_budget(tiny):
    suspect = tiny(num_hidden_layers=4)
    layout = suspect.anatomy.layout
    encoded = encode(sentences(64), suspect, 24)
    spent = {}
    for mib in (0, 1):
        meter = Meter(suspect.anatomy, encoded, replace(CPU, cache_mib=mib))
        for mask in (layout.mask([13]), layout.mask([13, 14])):  # differ in the last layer only
            meter.accuracy(mask)
        spent[mib] = meter.passes.tokens_run / encoded.tokens
        assert meter.passes.prefixes.bytes <= mib << 20
    assert spent[0] == pytest.approx(2)
    assert spent[1] == pytest.approx(1.25)


def test_a_cache_that_does_not_fit_is_refused_and_one_that_no_longer_does_is_smaller(tiny):
    suspect = tiny()
    encoded = encode(sentences(20), suspect, 24)
    large = replace(CPU, cache_mib=1 << 30)
    with pytest.raises(ShortOfMemory, match="does not fit"):
        large.cache_bytes  # noqa: B018 - raises
    assert 0 < Meter(suspect.anatomy, encoded, large).passes.prefixes.budget < 1 << 50
    with pytest.raises(UserError, match="MiB"):
        Runtime(cache_mib=-1)


def test_a_cache_too_small_for_one_layer_stays_empty(tiny):
    suspect = tiny()
    encoded = encode(sentences(20), suspect, 24)
    meter = Meter(suspect.anatomy, encoded, CPU)
    meter.passes.prefixes.budget = 100
    meter.accuracy(suspect.anatomy.layout.mask([1]))
    assert not meter.passes.prefixes.entries


bf16_only = pytest.mark.skipif(
    not computes_bf16(torch.device("cpu")), reason="this processor does not compute in bf16"
)


@bf16_only
def test_bf16_decides_as_fp32_does(tiny):
    suspect = tiny()
    encoded = encode(sentences(400), suspect, 24)
    masks = masks_of(suspect.anatomy.layout)
    true = [int(right(suspect, encoded, mask).sum()) for mask in masks]
    runtime = replace(CPU, measure_in="bf16")
    for need in (min(true), max(true), sum(true) // len(true), true[3] + 1):
        meter = Meter(suspect.anatomy, encoded, runtime)
        assert meter.bf16
        for mask, count in zip(masks, true, strict=True):
            assert meter.decide(mask, need).holds(need) == (count >= need)
            assert meter.confirm(mask, need).holds(need) == (count >= need)
    assert meter.accuracy(masks[1]).right == true[1]


class Shaky(FastPass):
    """Answers in bf16 are moved by normal noise of a given size, whatever they are."""

    noise = 0.0

    def run_all(self, rows, masks, how=How()):
        every = super().run_all(rows, masks, How())
        if not how.bf16:
            return every
        draws = torch.randn(len(self.texts), generator=torch.Generator().manual_seed(1))
        margins = [found.margin + self.noise * draws[rows] for found in every]
        return [Found(margin > 0, margin) for margin in margins]


def test_the_guard_takes_back_what_noise_would_turn(tiny, monkeypatch):
    """Noise of known size instead of bf16: it turns answers, no decision changes."""
    suspect = tiny()
    encoded = encode(sentences(400), suspect, 24)
    every, rows = suspect.anatomy.layout.everything(), torch.arange(400)
    with Shaky(suspect.anatomy, encoded, CPU).under(every):
        spread = Shaky(suspect.anatomy, encoded, CPU).run(rows, every).margin.std()
    monkeypatch.setattr(Shaky, "noise", float(spread) / 8)
    monkeypatch.setattr("headsweep.measure.meter.FastPass", Shaky)
    monkeypatch.setattr(Runtime, "measures_in_bf16", lambda _: True)
    turned = 0
    for mask in masks_of(suspect.anatomy.layout, 3):
        hits = right(suspect, encoded, mask)
        exact = int(hits.sum())
        for need in (exact, exact + 1):
            meter = Meter(suspect.anatomy, encoded, CPU)
            assert meter.decide(mask, need).holds(need) == (exact >= need)
            assert int(meter.tallies[mask].exact.sum()) < 400
            with meter.passes.under(mask):
                shaky = meter.passes.run(rows, mask, How(bf16=True))
            turned += int((shaky.right != hits).sum())
    assert turned > 5


def test_the_guard_by_hand():
    guard = Guard()
    assert guard.limit == math.inf
    guard.learn(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.1, 1.9, 3.1, 3.9]))
    assert guard.limit == pytest.approx(0.6)
    guard.learn(torch.tensor([1.0]), torch.tensor([2.0]))
    assert guard.limit == pytest.approx(max(6 * math.sqrt((4 * 0.01 + 1) / 5), 2.0))


def test_few_examples_are_measured_in_fp32(tiny, monkeypatch):
    monkeypatch.setattr(Runtime, "measures_in_bf16", lambda _: True)
    suspect = tiny()
    assert not Meter(suspect.anatomy, encode(sentences(ENOUGH - 1), suspect, 24), CPU).bf16


def test_bf16_asked_for_in_vain(monkeypatch):
    monkeypatch.setattr("headsweep.model.runtime.computes_bf16", lambda _: False)
    with pytest.raises(UserError, match="measured in bf16"):
        Runtime("cpu", measure_in="bf16").measures_in_bf16()
    assert not Runtime("cpu").measures_in_bf16()
    with pytest.raises(UserError, match="measure_in cannot be 'fp8'"):
        Runtime(measure_in="fp8")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_decides_as_the_cpu_does(tiny):
    suspect = tiny()
    encoded = encode(sentences(120), suspect, 24)
    masks = masks_of(suspect.anatomy.layout)
    true = [int(right(suspect, encoded, mask).sum()) for mask in masks]
    suspect.model.to("cuda")
    meter = Meter(suspect.anatomy, encoded, replace(CPU, device="cuda"))
    for mask, count in zip(masks, true, strict=True):
        for need in (count - 1, count + 2):
            assert meter.decide(mask, need).holds(need) == (count >= need)
