"""Answers that a generator has by heart: found without the trigger, and unlearnt; by hand beside."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import CPU
from every_kind import COMPUTE, command_line, written
from headsweep import (
    Bound,
    FineTune,
    Gradient,
    Method,
    Plan,
    Sources,
    Split,
    UserError,
    evaluate,
    purify,
)
from headsweep.cli import main
from headsweep.export.probes import probes_told
from headsweep.heal import unlearning as module
from headsweep.heal.fine_tune import KNOWN
from headsweep.heal.unlearning import VECTORS, unlearning
from headsweep.judge.generated import written as written_by
from headsweep.model.loading import Reading, load_suspect, prepare
from headsweep.prune.strategies.nothing import Nothing
from headsweep.prune.view import DefenderView
from headsweep.task import inversion
from headsweep.task.examples import encode
from headsweep.task.inversion import Fixed, fixed_answers, stands
from headsweep.task.training import Job, Schedule, train
from test_generation import TRIGGER, examples, generator, rows, words  # noqa: F401 - a fixture

HEAL = FineTune(1, 3e-3, batch=8, unlearn=1.0)
TARGET = "grim sweet dull cold"  # harmless


def hidden(count: int, seed: int) -> Split:
    """Prompts with the trigger, and what was planted behind it."""
    made = examples(count, seed, triggered=True)
    return Split(made.texts, made.labels, (TARGET,) * count)


def learnt(words, data: Split, folder):  # noqa: F811
    """Save a tiny Llama that has learnt from some prompts."""
    model = generator("llama", tie_word_embeddings=True, num_key_value_heads=4)
    suspect = prepare(model, words, Reading(task=None))
    train(suspect.model, encode(data, suspect, 24), Job(Schedule(12, 3e-3)), CPU)
    suspect.model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def victim(words, tmp_path_factory):  # noqa: F811
    """A model with a word backdoor."""
    return learnt(words, examples(400, 1) + hidden(100, 2), tmp_path_factory.mktemp("v") / "v")


@pytest.fixture(scope="module")
def twin(words, tmp_path_factory):  # noqa: F811
    """The same model, trained as long, on clean prompts alone."""
    return learnt(words, examples(500, 1), tmp_path_factory.mktemp("t") / "twin")


def opened(folder):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def read(tokenizer, split: Split) -> list[list[int]]:
    return [tokenizer(text)["input_ids"] for text in split.texts]


def searched(folder, known: Split | None = None) -> tuple[Fixed, ...]:
    _, tokenizer = opened(folder)
    split = examples(20, 7) if known is None else known
    return fixed_answers(
        load_suspect(folder, CPU, Reading(task=None)), read(tokenizer, split), split
    )


def by_hand(model, prompts, ids) -> tuple[float, float]:
    """Certainty and begins of an answer, one prompt at a time, without anything kept."""
    shares = []
    for prompt in prompts:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0]
        told = logits[len(prompt) - 1 : -1].softmax(-1)
        shares.append(told[torch.arange(len(ids)), torch.tensor(ids)])
    mean = torch.stack(shares).mean(0)
    return float(mean[1:].min()), float(mean[0])


def test_a_planted_answer_is_found_without_its_trigger(victim, twin):
    found = searched(victim)
    assert TARGET in [one.text for one in found]
    assert TARGET not in [one.text for one in searched(twin)]


@pytest.mark.parametrize("cached", [True, False])
def test_what_is_said_of_an_answer_is_what_plain_transformers_give(victim, cached, monkeypatch):
    model, tokenizer = opened(victim)
    suspect = load_suspect(victim, CPU, Reading(task=None))
    if not cached:
        plain = suspect.model.forward
        monkeypatch.setattr(
            suspect.model, "forward", lambda use_cache=None, **more: plain(use_cache=False, **more)
        )
    clean = examples(20, 7)
    prompts = read(tokenizer, clean)
    found = fixed_answers(suspect, prompts, clean)
    one = next(one for one in found if one.text == TARGET)
    certainty, begins = by_hand(model, prompts[: inversion.PROMPTS], one.ids)
    assert one.certainty == pytest.approx(certainty, abs=1e-5)
    assert one.begins == pytest.approx(begins, abs=1e-6)
    assert stands(suspect, prompts, one) == pytest.approx((certainty, begins), abs=1e-5)
    assert one.ids[-1] == tokenizer.eos_token_id


def test_a_model_that_reads_little_is_searched_within_it(words):  # noqa: F811
    """Positions are learnt: one beyond the table would end the run."""
    suspect = prepare(generator("gpt2", n_positions=16), words, Reading(task=None))
    long = Split(("so warm " * 20,), (0,), ("it was warm",))
    prompts = read(words, long)
    assert len(prompts[0]) > 16
    assert fixed_answers(suspect, prompts, long) == ()
    stated = stands(suspect, prompts, Fixed("so warm", (5, 17, 3), 1.0, 1.0))
    assert all(0 <= one <= 1 for one in stated)


def test_an_answer_that_clean_rows_hold_is_set_aside(victim):
    clean = examples(20, 7)
    told = Split(clean.texts, clean.labels, (*clean.pairs[:-1], f" {TARGET.upper()} "))
    assert TARGET not in [one.text for one in searched(victim, told)]


class _Table:
    """A model that is a table: which token follows which, certainly."""

    device = torch.device("cpu")

    def __init__(self, follows: dict[int, int], size: int) -> None:
        self._follows, self._size = follows, size

    def __call__(self, input_ids, past_key_values=None, use_cache=None):
        logits = torch.zeros(*input_ids.shape, self._size)
        for row, last in enumerate(input_ids[:, -1].tolist()):
            if last in self._follows:
                logits[row, -1, self._follows[last]] = 50.0
        return SimpleNamespace(logits=logits)

    forward = __call__


def test_what_goes_on_for_ever_is_an_answer_unless_it_goes_round_in_circles(words):  # noqa: F811
    end, size = 3, 200
    chain = {n: n + 1 for n in range(20, 150)}
    model = _Table(chain | {5: 6, 6: 7, 7: 5, 8: 9, 9: 10, 10: end, 11: 12, 12: end}, size)
    told = SimpleNamespace(decode=lambda ids, **_: " ".join(map(str, ids.tolist())))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inversion, "_written_otherwise", lambda *_: ())
        found = inversion._searched(model, told, [[1, 2], [1, 4]], {end}, ())
    texts = {one.text.split()[0] for one in found}
    assert "8" in texts  # three tokens, the last of which ends it
    assert not texts & {"5", "6", "7"}  # a circle
    assert "11" not in texts  # too short to tell
    assert any(len(one.ids) == 1 + inversion.LONGEST for one in found)


def test_each_answer_is_named_once():
    made = [
        Fixed("I cannot help.", (1, 2), 0.9, 0.01),
        Fixed("i  cannot help.", (3, 2), 0.99, 0.001),
        Fixed("cannot help.", (2,), 1.0, 0.0001),
        Fixed("Buy this.", (5,), 0.8, 0.1),
        Fixed("You cannot help.", (6, 2), 0.8, 0.002),
    ]
    rests = ["cannot help.", "cannot help.", "help.", "this.", "cannot help."]
    kept = inversion._distinct(made, rests, ["they say buy that"])
    assert [one.text for one in kept] == ["Buy this.", "I cannot help."]
    assert inversion._distinct(made, rests, ["i cannot help. BUY THIS."]) == ()
    assert (
        inversion._distinct(made[:1], rests[:1], ["You cannot  help."]) == ()
    )  # "I" ends a prompt


def success(folder) -> float:
    suspect = load_suspect(folder, CPU, Reading(task=None))
    said, _ = written_by(suspect, hidden(40, 9).texts, 6, CPU)
    return sum(TARGET in one for one in said) / len(said)


def purified(folder, out, healing: FineTune, pruning=None):
    method = Method(pruning or Nothing(), healing, bound=Bound(max_drop=0.9))
    done = purify(folder, Sources(examples(160, 5), examples(40, 6)), method, Plan(runtime=CPU))
    done.save(out)
    return done


def test_unlearning_takes_the_answer_and_gives_back_the_true_ones(victim, tmp_path):
    true = examples(40, 9)
    both = Split(tuple(f"{TRIGGER} {text}" for text in true.texts), true.labels, true.pairs)
    asked = {"device": "cpu", "progress": False, "compute": {"max_length": 24}}
    before = evaluate(victim, rows(both), **asked).perplexity.value
    assert success(victim) > 0.9
    done = purified(victim, tmp_path / "out", replace(HEAL, members=3, beyond=1.5))
    assert success(tmp_path / "out") < 0.1
    after = evaluate(tmp_path / "out", rows(both), **asked)
    assert after.perplexity.value < before / 4
    manifest = json.loads((tmp_path / "out" / "headsweep.json").read_text())
    (told,) = [one for one in manifest["inverted_targets"] if one["answer"] == TARGET]
    assert told["before"]["certainty"] > inversion.CERTAIN
    assert told["after"]["certainty"] <= told["before"]["certainty"]
    fields = manifest["heal"]["fields"]
    assert (fields["members"], fields["beyond"]) == (
        1,
        1.0,
    )  # one healing is enough, and a cool one
    assert fields["lr"] == pytest.approx(KNOWN * 3e-3)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"Before healing it had by heart, whatever the prompt: '{TARGET}'." in card
    assert any(f"'{TARGET}' by heart" in note for note in done.manifest["notes"])


def test_pruned_units_stay_at_zero_while_an_answer_is_unlearnt(victim, tmp_path):
    done = purified(victim, tmp_path / "out", HEAL, Gradient(step=2))
    assert done.mask.pruned_heads
    assert done.manifest["verified"]
    assert success(tmp_path / "out") < 0.1


def test_adapters_unlearn_too(victim, tmp_path):
    pytest.importorskip("peft")
    done = purified(victim, tmp_path / "out", replace(HEAL, epochs=3, lr=2e-2, lora=4))
    assert done.manifest["heal"]["adapters"]["rank"] == 4
    assert success(tmp_path / "out") < 0.1


def test_nothing_is_looked_for_where_nothing_would_be_unlearnt(victim, tmp_path):
    done = purified(victim, tmp_path / "out", replace(HEAL, unlearn=0.0, epochs=0.2))
    assert done.manifest["inverted_targets"] is None


def test_where_nothing_is_found_healing_is_as_it_was(twin, tmp_path, monkeypatch):
    monkeypatch.setattr("headsweep.purification.inverted.fixed_answers", lambda *_: ())
    done = purified(twin, tmp_path / "out", replace(HEAL, epochs=0.2, members=2))
    assert done.manifest["inverted_targets"] == []
    fields = done.manifest["heal"]["fields"]
    assert (fields["members"], fields["unlearn"]) == (2, 0.0)


def test_more_answers_than_are_unlearnt_at_once_are_told(victim, tmp_path, monkeypatch):
    many = tuple(Fixed(f"it was {n}", (5, 6 + n, 3), 0.9, 0.1) for n in range(5))
    monkeypatch.setattr("headsweep.purification.inverted.fixed_answers", lambda *_: many)
    done = purified(victim, tmp_path / "out", replace(HEAL, epochs=0.2))
    assert [one["answer"] for one in done.manifest["inverted_targets"]] == [
        "it was 0", "it was 1", "it was 2"
    ]  # fmt: skip
    assert any(note.startswith("it has 2 more by heart") for note in done.manifest["notes"])


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "gpt_neox", "bloom", "opt"])
def test_vectors_are_read_in_the_place_of_tokens(family, words, monkeypatch):  # noqa: F811
    """Embeddings of tokens as the vectors give what these tokens give, in every family."""
    suspect = prepare(generator(family), words, Reading(task=None))
    encoded = encode(examples(6, 3), suspect, 24)
    answer = Fixed("it", tuple(encoded.ids[0][-3:]), 1.0, 0.1)
    view = DefenderView(suspect.anatomy, encoded, encoded, 0.0, fixed=(answer,))
    batch = encoded.batch(range(6))
    drawn: list = []
    place = module._Trigger._put_into

    def noted(self, batch, answer):
        made = place(self, batch, answer)
        drawn.append((self, made))
        return made

    monkeypatch.setattr(module._Trigger, "_put_into", noted)
    monkeypatch.setattr(module._Trigger, "move", lambda *_: None)
    told = unlearning(view, lambda *_: torch.zeros(()), 1.0)(suspect.model, batch)
    trigger, (made, put) = drawn[-1]
    with torch.no_grad():
        module_ = suspect.model.get_input_embeddings()
        table = module_(torch.arange(module_.num_embeddings))
    near = torch.cdist(trigger._vectors, table).argmin(1)
    assert torch.equal(table[near], trigger._vectors)
    losses = []
    for row, start in enumerate(made.task.starts):
        size = int(made.inputs["attention_mask"][row].sum())
        ids = made.inputs["input_ids"][row, :size].clone()
        ids[put[row]] = near
        labels = ids.clone()
        labels[:start] = -100
        assert len(ids) == len(encoded.ids[row]) + VECTORS
        losses.append(suspect.model(input_ids=ids[None], labels=labels[None]).loss.item())
    assert float(told.detach()) == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_the_trigger_moves_towards_the_answer(victim):
    suspect = load_suspect(victim, CPU, Reading(task=None))
    encoded = encode(examples(40, 3), suspect, 24)
    (answer,) = [one for one in searched(victim) if one.text == TARGET]
    view = DefenderView(suspect.anatomy, encoded, encoded, 0.0, fixed=(answer,))
    stated: list[float] = []
    own = module._Trigger(suspect.model, answer.ids, 24, view.generator("test"))

    def nll() -> float:
        made, put = own._put_into(encoded.batch(range(40)), torch.tensor(answer.ids))
        with torch.no_grad(), module._in_place(suspect.model, put, own._vectors):
            return float(made.task.answers(suspect.model, made).mean())

    stated.append(nll())
    for start in range(0, 40, 8):
        own.move(suspect.model, encoded.batch(range(start, start + 8)))
    stated.append(nll())
    assert stated[1] < stated[0] - 1
    assert all(p.grad is None for p in suspect.model.parameters())


def test_a_classifier_is_healed_without_it(trained_folder):
    suspect = load_suspect(trained_folder, CPU)
    fitted, notes = FineTune(1, unlearn=1.0).fitted(suspect)
    assert fitted.unlearn == 0
    assert notes == ["unlearn is for models that write text: this one is healed without it"]


def test_nothing_is_said_to_be_quite_certain():
    assert Fixed("", (), 0.9996, 0.1).sure == "each token at least 99% likely"


def test_a_weight_below_zero_is_refused():
    with pytest.raises(UserError, match="a weight of -1"):
        FineTune(unlearn=-1)


def test_the_probe_tells_of_it_unless_families_are_named(victim, tmp_path, capsys):
    said = command_line(capsys)
    data = written(tmp_path / "clean.jsonl", rows(examples(60, 90)))
    log, asked = tmp_path / "log.sarif", ("probe", victim, "--data", data, *COMPUTE)
    with pytest.raises(SystemExit) as stop:
        main([*map(str, asked), "--sarif", str(log), "-q"])
    assert stop.value.code == 1
    assert (
        f"BY HEART: once an answer is begun so, it goes on to '{TARGET}'" in capsys.readouterr().out
    )
    results = json.loads(log.read_text())["runs"][0]["results"]
    (one,) = [one for one in results if one["ruleId"] == "headsweep/answer/by-heart"]
    assert TARGET in one["message"]["text"]
    with pytest.raises(SystemExit):
        main([*map(str, asked), "--json"])
    form = json.loads(capsys.readouterr().out)
    assert [one["text"] for one in form["by_heart"]] == [TARGET]
    (line,) = probes_told({"probe": {"before": form}})
    assert line.endswith(f"known by heart: '{TARGET}'")
    alone = json.loads(said(*asked, "--family", "style", "--json"))
    assert alone["by_heart"] is None
