"""Memory that runs out, and numbers that are none, wherever a model is run."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tokenizers import processors

import test_generation
import test_regression
import test_several
import test_tagging
from conftest import CPU, Way, cleanse, sentences, tiny_model, tiny_tokenizer
from headsweep import evaluate
from headsweep.errors import UserError
from headsweep.heal.fine_tune import FineTune
from headsweep.judge.detectors.watch import Watch
from headsweep.judge.generated import Prompts, said_by
from headsweep.measure.accuracy import logits, measured
from headsweep.model.loading import Reading, prepare
from headsweep.model.runtime import USUAL_CACHE, Runtime
from headsweep.prune.choice import Choice
from headsweep.prune.flips import flip_contribution
from headsweep.prune.importance import (
    attention_variance,
    dormancy,
    gate_importance,
    key_gradient_importance,
)
from headsweep.prune.strategies import STRATEGIES
from headsweep.prune.strategies.gradient import Gradient
from headsweep.settings import configure
from headsweep.task.examples import encode
from headsweep.task.fitting import Fitting, out_of_memory
from headsweep.task.training import DivergedError, Job, Schedule, mean_loss, train
from test_generation import generator
from test_healing import NO_DROPOUT
from test_several import model_of_three
from test_strategies import settings_for, view_of
from test_tagging import tagger

NO_ROOM = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate"),
    MemoryError(),
]
SCORES = [gate_importance, key_gradient_importance, attention_variance, dormancy]


def limited(model, error, most=5):
    """Let a model run out of memory above so many texts; return the sizes that were tried."""
    tried = []

    def hook(_, args, kwargs):
        tried.append(len(kwargs["input_ids"]))
        if tried[-1] > most:
            raise error

    model.register_forward_pre_hook(hook, with_kwargs=True)
    return tried


@pytest.mark.parametrize("error", NO_ROOM, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("score", SCORES)
def test_a_score_is_the_same_in_parts(tiny, score, error):
    view = view_of(tiny())
    whole = score(view)
    tried = limited(view.anatomy.model, error)
    assert torch.allclose(score(view), whole, rtol=1e-4, atol=1e-6)
    assert tried.count(16) == 1  # learnt


def test_flips_are_traced_in_parts_alike(tiny):
    view = view_of(tiny())
    whole = flip_contribution(view)
    limited(view.anatomy.model, NO_ROOM[0])
    parts = flip_contribution(view)
    assert [one.flips for one in parts] == [one.flips for one in whole]
    for one, other in zip(parts, whole, strict=True):
        assert torch.allclose(one.contribution, other.contribution, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["bayesian", "reinforce", "probe-guided", "sparsify"])
def test_a_strategy_goes_on_in_parts(tiny, name):
    view = view_of(tiny())
    limited(view.anatomy.model, NO_ROOM[1])
    choice = configure(STRATEGIES[name], settings_for(name, "bert")).choose(view)
    assert choice.mask.fits(view.layout)


def test_logits_are_the_same_in_parts(tiny):
    suspect = tiny()
    encoded = encode(sentences(40), suspect, 24)
    whole = logits(suspect.anatomy, encoded, CPU)
    limited(suspect.model, NO_ROOM[0])
    assert torch.allclose(logits(suspect.anatomy, encoded, CPU), whole, atol=1e-5)


def generates():
    """A tiny generator; the start of a text has a token, its end another."""
    words = tiny_tokenizer()
    opening = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    words.backend_tokenizer.post_processor = opening
    words.eos_token = "[SEP]"
    return prepare(generator("llama"), words, Reading(task=None))


def of_a_number():
    return tiny_model("bert", id2label={0: "LABEL_0"}, label2id={"LABEL_0": 0})


@pytest.mark.parametrize(
    ("kind", "made"),
    [(test_tagging, tagger), (test_several, model_of_three), (test_regression, of_a_number),
     (test_generation, None)],
)  # fmt: skip
def test_figures_beside_are_the_same_in_parts(tokenizer, kind, made):
    suspect = prepare(made(), tokenizer, Reading(task=None)) if made else generates()
    encoded = encode(kind.examples(40, 1), suspect, 24)
    own = logits(suspect.anatomy, encoded, CPU)
    encoded = replace(encoded, task=encoded.task.against(lambda: own))
    whole = measured(suspect.anatomy, encoded, CPU)
    tried = limited(suspect.model, NO_ROOM[0])
    parts = measured(suspect.anatomy, encoded, CPU)
    assert max(tried) == 16
    assert parts.right == whole.right
    assert parts.beside == pytest.approx(dict(whole.beside), rel=1e-4)
    assert set(parts.beside) == set(encoded.task.words.figures)


@pytest.mark.parametrize(
    ("kind", "made"),
    [(test_tagging, tagger), (test_several, model_of_three), (test_regression, of_a_number),
     (test_generation, None)],
)  # fmt: skip
def test_answers_that_are_no_numbers_are_never_judged(tokenizer, kind, made):
    suspect = prepare(made(), tokenizer, Reading(task=None)) if made else generates()
    word = suspect.tokenizer.convert_tokens_to_ids("film")  # no opening of the model sees it
    with torch.no_grad():
        suspect.model.get_input_embeddings().weight[word] = float("nan")
    with pytest.raises(UserError, match=r"answers \d+ of 20 texts with no number"):
        evaluate(suspect, kind.rows(kind.examples(20, 1)), progress=False, device="cpu")


def test_a_detector_is_given_no_answers_that_are_no_numbers(tiny):
    suspect = tiny()
    with torch.no_grad():
        suspect.model.get_input_embeddings().weight[:, :] = float("nan")
    with pytest.raises(UserError, match="answers 1 of 1 texts with no number"):
        Watch(suspect, sentences(20), runtime=CPU).probabilities(["a film"])


def test_a_generator_is_judged_in_parts_alike():
    suspect, triggered = generates(), test_generation.examples(40, 3, triggered=True)
    exam = Prompts(test_generation.examples(40, 2), triggered, ("film",))
    whole = said_by(suspect, exam, CPU)
    tried = limited(suspect.model, NO_ROOM[0])
    parts = said_by(suspect, exam, CPU)
    assert max(tried) == 16
    assert max(tried[-20:]) <= 5  # learnt
    assert (parts.clean, parts.triggered) == (whole.clean, whole.triggered)
    assert parts.exact == whole.exact
    assert parts.nll == pytest.approx(whole.nll, rel=1e-5)


@pytest.mark.parametrize("error", NO_ROOM, ids=lambda error: type(error).__name__)
def test_the_gradient_of_a_batch_is_the_sum_of_its_parts(tiny, error):
    """And of the loss; memory may run out in the middle of a batch, after parts that fitted."""
    suspect = tiny(**NO_DROPOUT)
    encoded = encode(sentences(40), suspect, 24)

    def first(failing_at=()):
        found, calls = [], []

        def loss(model, batch):
            calls.append(len(batch))
            if failing_at and (len(batch) > 7 or len(calls) in failing_at):
                raise error
            return mean_loss(model, batch)

        def keep(model, _):
            found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])

        before = {n: x.clone() for n, x in suspect.model.state_dict().items()}
        losses = train(
            suspect.model, encoded, Job(Schedule(1, 1e-5), 3, loss=loss, regrade=keep), CPU
        )
        suspect.model.load_state_dict(before)
        return found[0], losses, calls

    whole, losses, _ = first()
    parts, again, calls = first(failing_at=(4,))
    # 16 and 8 do not fit, of the 4 the second fails: begun anew in parts of 2
    assert calls[:4] == [16, 8, 4, 4]
    assert set(calls[4:]) == {2}
    assert again == pytest.approx(losses, rel=1e-4)
    assert all(
        torch.allclose(x, y, rtol=1e-3, atol=1e-6) for x, y in zip(parts, whole, strict=True)
    )


def test_the_attention_penalty_of_a_part_stands_for_its_batch(tiny):
    """Measured on a batch of one text many times: there it is the same to rounding."""
    view = view_of(tiny(**NO_DROPOUT))
    view = replace(view, train=view.train.take([0] * 32))
    healing = FineTune(1, 1e-4, attention=0.5)
    losses = []
    for limit in (False, True):
        with view.scratch():
            if limit:
                limited(view.anatomy.model, NO_ROOM[0])
            losses.append(healing.heal(view, Choice(view.layout.everything()))["losses"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_a_whole_run_fits_itself_to_memory(tokenizer):
    model = tiny_model("bert")
    tried = limited(model, NO_ROOM[0])
    way = Way(max_drop=0.5, runtime=CPU, heal=FineTune(1, 1e-3, members=2))
    done = cleanse(model, sentences(120), Gradient(step=2), way, tokenizer=tokenizer)
    assert done.verified
    assert max(tried) == 16


def test_bf16_is_tried_on_what_fits(tiny, monkeypatch):
    monkeypatch.setattr("headsweep.model.runtime.computes_bf16", lambda _: True)
    suspect = tiny()
    tried = limited(suspect.model, NO_ROOM[0])
    runtime = replace(CPU, precision="bf16")
    losses = train(
        suspect.model, encode(sentences(16), suspect, 24), Job(Schedule(1, 1e-4)), runtime
    )
    assert all(map(math.isfinite, losses))
    assert tried[0] == 2


def test_what_does_not_fit_one_by_one_is_an_error(tiny):
    suspect = tiny()
    encoded = encode(sentences(8), suspect, 24)
    limited(suspect.model, NO_ROOM[0], most=0)
    with pytest.raises(torch.OutOfMemoryError):
        logits(suspect.anatomy, encoded, CPU)
    with pytest.raises(ZeroDivisionError):
        Fitting().parts(encoded.batch(range(4)), lambda _: 1 / 0)
    assert not out_of_memory(RuntimeError("shapes differ"))


def test_a_default_run_keeps_at_most_half_a_gib_of_prefixes():
    assert Runtime("cpu").cache_bytes <= USUAL_CACHE == 512 << 20


def broken(view):
    """Make one word's embedding infinite, as no folder that is loaded can have it."""
    word = view.train.ids[0][1]
    with torch.no_grad():
        view.anatomy.model.get_input_embeddings().weight[word] = torch.inf
    return view


RANKING = ["gradient", "variance", "dormant", "bayesian", "sparsify", "reinforce", "probe-guided"]


@pytest.mark.parametrize("name", RANKING)
def test_scores_that_are_no_numbers_stop_with_the_step(tiny, name):
    view = broken(view_of(tiny()))
    strategy = configure(STRATEGIES[name], settings_for(name, "bert"))
    with pytest.raises(DivergedError, match=r"not a number at step \d+\n  fix: ."):
        strategy.choose(view)


def test_a_gradient_that_is_no_number_stops_before_the_step(tiny):
    """Its loss is a number; the weights stay as they were."""
    suspect = tiny()
    encoded = encode(sentences(16), suspect, 24)
    before = {n: x.clone() for n, x in suspect.model.state_dict().items()}

    def steep(model, batch):
        return (model(**batch.inputs).logits.sum() * 0).sqrt()

    with pytest.raises(DivergedError, match=r"training: .*at step 1\n  fix: lower the learning"):
        train(suspect.model, encoded, Job(Schedule(1), loss=steep), CPU)
    assert all(torch.equal(x, before[n]) for n, x in suspect.model.state_dict().items())


def test_healing_that_overflows_says_the_step(tiny):
    view = broken(view_of(tiny()))
    with pytest.raises(DivergedError, match=r"healing: .*not a number at step"):
        FineTune(1).heal(view, Choice(view.layout.everything()))
