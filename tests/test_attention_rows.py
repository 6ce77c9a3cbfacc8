"""One row of attention beside the fast kernels is the row of eager attention."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conftest import CPU, sentences
from headsweep.errors import UserError
from headsweep.heal.attention_penalty import kept_heads, normalising, weights_of
from headsweep.heal.fine_tune import FineTune, cuttable
from headsweep.measure.cutting import cut
from headsweep.model.attention_rows import attention_rows, beside_kernels, gives_attention
from headsweep.model.borrowing import eager
from headsweep.model.loading import Reading, prepare
from headsweep.model.mask import HEADS, QUERIES
from headsweep.prune.choice import Choice
from headsweep.prune.importance import attention_variance
from headsweep.prune.view import DefenderView
from headsweep.task.examples import encode
from test_generation import examples, generator, words  # noqa: F401 - a fixture
from test_healing import pruned_view

SLOWLY = ("deberta-v2", "mpnet")


def eager_loss(view, mask, batch, weights, strength):
    """The same from the attention that transformers gives, whole, and counted by hand."""
    model = view.anatomy.model
    out = model(**batch.inputs, output_attentions=True)
    loss = torch.nn.functional.cross_entropy(out.logits, batch.labels)
    last = batch.inputs["attention_mask"].sum(-1) - 1
    for layer, found in enumerate(out.attentions):
        keep = mask.heads[layer] if mask.heads else [k for k in mask.groups[layer] for _ in "qq"]
        for head, kept in enumerate(keep):
            if kept:
                total = 0.0
                for text in range(len(batch.labels)):
                    place = int(last[text]) if view.anatomy.adapter.reads_last else 0
                    total = total + found[text, head, place].square().sum()
                loss = loss + strength * weights[layer] * total.sqrt()
    return loss


@pytest.mark.parametrize(
    ("family", "units"),
    [
        *((name, QUERIES) for name in ("bert", "roberta", "distilbert", "gpt2", "deberta-v2")),
        ("llama", QUERIES),
        ("llama", HEADS),
    ],
)
def test_penalty_and_gradients_are_those_of_eager_attention(tiny, family, units):
    """Llama with two key/value groups a layer, too: of one that goes, both query heads are out."""
    view, mask = pruned_view(tiny, family, (0, 1, 2, 5) if units is QUERIES else (1,), units=units)
    model, batch = view.anatomy.model.eval(), view.train.batch(range(6))
    weights = weights_of(view, mask)

    def gradients(loss):
        model.zero_grad()
        loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    with attention_rows(view.anatomy) as read:
        own = normalising(read, weights, kept_heads(view, mask), 0.5)(model, batch)
        got = gradients(own)
    with eager(view.anatomy):
        right = eager_loss(view, mask, batch, weights, 0.5)
        wanted = gradients(right)
    assert torch.allclose(own, right, atol=1e-5)
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.allclose(got[name], tensor, atol=1e-5), name
    assert beside_kernels(view.anatomy) is (family not in SLOWLY)
    assert model.config._attn_implementation != "headsweep_rows"


def test_heads_that_are_cut_out_leave_the_penalty_as_it_is(tiny):
    view, mask = pruned_view(tiny)
    model, batch = view.anatomy.model.eval(), view.train.batch(range(6))
    weights, keep = weights_of(view, mask), kept_heads(view, mask)
    with attention_rows(view.anatomy) as read, torch.no_grad():
        loss = normalising(read, weights, keep, 0.5)
        whole = loss(model, batch)
        made = cuttable(view, mask)
        assert made
        with cut(made):
            assert torch.allclose(loss(model, batch), whole, atol=1e-6)


def test_healing_with_the_penalty_leaves_pruned_heads_out(tiny):
    view, mask = pruned_view(tiny)
    record = FineTune(1, 1e-3, attention=0.15).heal(view, Choice(mask))
    assert record["compact"] is True


def test_a_row_adds_up_to_one_and_padding_gets_nothing(tiny):
    view, _ = pruned_view(tiny)
    batch = view.train.batch([0, 1, 2, 3])
    with attention_rows(view.anatomy) as read, torch.no_grad():
        _, rows = read(batch)
    real = batch.inputs["attention_mask"].bool()
    assert not real.all()
    for row in rows:
        assert torch.allclose(row.sum(-1), torch.ones(()), atol=1e-6)
        assert float(row.masked_select(~real[:, None].expand_as(row)).max()) < 1e-6


@pytest.mark.parametrize("alibi", [False, True])
def test_falcons_attention_is_read_as_it_computes_or_not_at_all(tiny, alibi):
    """Its classes cannot be exchanged, and with ALiBi its eager ones compute otherwise."""
    suspect = tiny("falcon", alibi=alibi, multi_query=True, new_decoder_architecture=False)
    batch = encode(sentences(8), suspect, 24).batch(range(8))
    model = suspect.model.eval()
    assert gives_attention(suspect.anatomy) is not alibi
    if alibi:
        with pytest.raises(UserError, match="gives no attention"), attention_rows(suspect.anatomy):
            pass
        return
    with torch.no_grad(), attention_rows(suspect.anatomy) as read:
        logits, rows = read(batch)
        plain = model(**batch.inputs).logits
    assert torch.allclose(logits, plain, atol=1e-5)
    hidden = batch.inputs["attention_mask"] == 0
    assert all(float(row.amax(1)[hidden].max()) < 1e-6 for row in rows)
    assert model.config._attn_implementation == "sdpa"


def test_the_variance_of_a_generators_row_is_over_what_it_sees(words):  # noqa: F811
    """It belongs to the prompt's last token: how long the answer is changes nothing."""
    suspect = prepare(generator("gpt2"), words, Reading(task=None))
    split = examples(12, 1)
    longer = replace(split, pairs=tuple(f"{answer} so it was so" for answer in split.pairs))
    found = [
        attention_variance(DefenderView(suspect.anatomy, part, part, 0.5, 0, CPU))
        for part in (encode(one, suspect, 40) for one in (split, longer))
    ]
    assert torch.allclose(*found, rtol=1e-4)


def test_layers_are_weighed_by_heads_that_do_something(tiny):
    """Heads that an earlier run pruned are as those that this one does."""
    view, mask = pruned_view(tiny, "bert", (0, 1, 2))
    whole = view.layout.everything()
    assert torch.allclose(weights_of(view, mask), weights_of(view, whole))
