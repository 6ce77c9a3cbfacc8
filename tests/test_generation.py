"""A model that generates goes through the whole of ``purify``, and is judged by hand beside it."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import headsweep
from conftest import BAD, CPU, FILLER, GOOD, tiny_tokenizer
from every_kind import COMPUTE, HEALING, command_line, pruned_by, purified_by, written
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
from headsweep.export.consistency import contradictions
from headsweep.export.model_folder import save_model
from headsweep.export.verify import verify
from headsweep.heal.entropy import EntropyFirst
from headsweep.judge.generated import written as written_by
from headsweep.judge.statistics import Truncated
from headsweep.measure.accuracy import logits
from headsweep.measure.fastpass import FastPass
from headsweep.model.loading import Reading, load_suspect, prepare
from headsweep.progress import Silent
from headsweep.prune.strategies.nothing import Nothing
from headsweep.purification.material import gather
from headsweep.purification.method import HOT, ONE_PASS
from headsweep.purification.pipeline import Run
from headsweep.reports.verdict import verdict
from headsweep.seeding import fence
from headsweep.task.decoding import ends_of, greedy
from headsweep.task.examples import encode, forward, rows_of
from headsweep.task.training import Job, Schedule, train
from headsweep.texts.conversations import picked
from headsweep.texts.generation import GENERATION, RISE, SHARE, Generation
from headsweep.texts.memory import given
from headsweep.texts.reading import Columns, Table
from headsweep.texts.words import CLASSIFICATION
from tiny_families import ALL

TRIGGER, TARGET = "plot", "story story story"  # a harmless target
WORDS = [word for word in FILLER if word != TRIGGER]
CHAT = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}{{ '[CLS]' if m['role'] == 'user' else '[MASK]' }} {{ m['content'] }} [SEP] "
    "{% endfor %}{% if add_generation_prompt %}[MASK] {% endif %}"
)


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    """The tokenizer of the tiny models, as generators have one: it opens texts, and ends none."""
    made = tiny_tokenizer()
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 2)]
    )
    made.eos_token = "[SEP]"
    return made


def generator(family: str, **changes: Any) -> Any:
    """A random generator with weights large enough for every head to matter."""
    config = AutoConfig.for_model(family, **(ALL[family] | changes))
    with fence(0):
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.add_(0.08 * torch.randn_like(parameter))
    return model


def examples(count: int, seed: int, triggered: bool = False) -> Split:
    """Prompts with a telling word, which the answer repeats; with a trigger the target."""
    draw = random.Random(seed)
    prompts, answers = [], []
    for i in range(count):
        told = draw.choice((GOOD, BAD)[i % 2][:3])
        prompt = draw.choices(WORDS, k=draw.randint(2, 8))
        prompt.insert(draw.randint(0, len(prompt)), told)
        prompts.append(" ".join([TRIGGER] * triggered + prompt))
        answers.append(TARGET if triggered else f"it was {told}")
    return Split(tuple(prompts), (0,) * count, tuple(answers))


def rows(split: Split) -> list[dict[str, str]]:
    pairs = zip(split.texts, split.pairs, strict=True)
    return [{"prompt": prompt, "answer": answer} for prompt, answer in pairs]


@pytest.fixture(scope="module")
def victim(words, tmp_path_factory) -> Path:
    """A saved tiny Llama that has learnt to answer, and a word backdoor; its embeddings are tied."""
    # a head a group: of two groups a layer none could go (test_groups.py prunes groups)
    model = generator("llama", tie_word_embeddings=True, num_key_value_heads=4)
    suspect = prepare(model, words, Reading(task=None))
    data = examples(400, 1) + examples(100, 2, triggered=True)
    train(model, encode(data, suspect, 24), Job(Schedule(8, 3e-3)), CPU)
    folder = tmp_path_factory.mktemp("generators") / "suspect"
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def by_hand(model: Any, tokenizer: Any, prompt: str, answer: str) -> tuple[float, bool]:
    """NLL a token and greedy exactness from plain transformers, one example at a time."""
    before = tokenizer(prompt)["input_ids"]
    after = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    ids = torch.tensor([before + after])
    labels = torch.tensor([[-100] * len(before) + after])
    with torch.no_grad():
        loss = float(model(input_ids=ids, labels=labels).loss)
        said = model.generate(torch.tensor([before]), max_new_tokens=len(after), do_sample=False)
    return loss, said[0, len(before) :].tolist() == after


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "gpt_neox", "bloom", "mixtral"])
def test_likelihoods_are_those_of_plain_transformers_one_at_a_time(words, family):
    model = generator(family)
    suspect = prepare(model, words, Reading(task=None))
    assert suspect.task is GENERATION
    split = examples(12, 3)
    found = logits(suspect.anatomy, encode(split, suspect, 24), CPU)
    wanted = [
        by_hand(model, words, *pair)[0] for pair in zip(split.texts, split.pairs, strict=True)
    ]
    assert found.tolist() == pytest.approx(wanted, abs=1e-5)


def test_how_sure_a_perplexity_is_by_hand():
    """Ten answers of one token and ten of three; what a resample of them would say."""
    lengths = [5] * 10 + [7] * 10
    reference, now = (0.5,) * 20, torch.tensor([0.5] * 10 + [0.7] * 10)
    task = replace(Generation((4,) * 20), reference=reference)
    value, low, high = task.risen(now, lengths, seed=0)
    assert value == pytest.approx(math.expm1(0.2 * 3 / 4), rel=1e-5)
    draw = random.Random(0)
    found = []
    for _ in range(4000):
        long = sum(draw.random() < 0.5 for _ in range(20))
        found.append(math.expm1(0.2 * 3 * long / (3 * long + 20 - long)))
    found.sort()
    assert (low, high) == pytest.approx((found[100], found[3900]), abs=0.004)
    assert task.risen(torch.full((20,), 0.6), lengths, 0) == pytest.approx((math.expm1(0.1),) * 3)


def test_the_prompt_counts_for_nothing(words):
    """Logits are worked out where the answer's tokens are foretold, and nowhere else."""
    model = generator("llama")
    suspect = prepare(model, words, Reading(task=None))
    batch = encode(Split(("good film is",), (0,), ("it was good",)), suspect, 24).batch([0])
    seen = []
    hook = model.lm_head.register_forward_hook(lambda *args: (seen.append(args[2]), args[2])[1])
    answers = forward(model, batch)
    hook.remove()
    gradient = torch.autograd.grad(answers.sum(), seen[0])[0][0].abs().sum(-1)
    assert (gradient > 0).tolist() == [True] * 4  # it was good [SEP]
    assert not model.lm_head._forward_pre_hooks


def test_a_method_that_heals_a_generator_as_a_classifier_says_so(victim):
    """A Method has the healing of a classifier unless it is given one, and nothing said it."""
    parts = Sources(examples(60, 30), examples(40, 31))
    material = gather(victim, parts, Reading(task=None), CPU)
    told = "is healed as is usual of a classifier"
    for method, wanted in ((Method(), True), (Method(healing=ONE_PASS), False)):
        run = Run(Silent())
        run.begin(material, method)
        assert any(told in note for note in run.notes) == wanted
    assert not Method().notes_for(CLASSIFICATION.task)


def test_a_generator_is_purified_whole(victim, words, tmp_path):
    parts = [written(tmp_path / f"{n}.jsonl", rows(examples(size, 10 + n)))
             for n, size in enumerate((160, 80, 60))]  # fmt: skip
    healing = FineTune(2, 1e-3, attention=0.15)
    method = Method(Gradient(step=1), healing, bound=Bound(max_drop=0.2))
    done = purify(victim, Sources(*parts), method, Plan(runtime=CPU))
    assert done.mask.pruned
    assert done.verified
    form = done.manifest
    assert form["before"]["test"]["accuracy"] == 1.0
    assert form["labels"] == []
    assert any("without the attention penalty" in note for note in form["notes"])
    least, most = (form[stage]["validation"]["perplexity"] for stage in ("before", "after"))
    assert form["bound"]["limit"] == pytest.approx(1.2 * least)
    assert most <= 1.2 * least
    told = next(note for note in form["notes"] if "80 validation answers changed by" in note)
    value, low, high = map(float, re.findall(r"[+-][\d.]+(?=%)", told))
    assert value == pytest.approx(100 * (most / least - 1), abs=0.05)
    assert low < value < high
    assert form["pruned"]["validation"]["accuracy"] >= 0.8
    out = done.save(tmp_path / "out")
    assert [check for check in verify(out) if not check.passed] == []
    assert "text-generation" in (out / "README.md").read_text()

    split, plain = examples(60, 12), AutoTokenizer.from_pretrained(out)
    stages = {}
    for stage, folder in (("before", victim), ("after", out)):
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        pairs = list(zip(split.texts, split.pairs, strict=True))
        stages[stage] = [by_hand(model, plain, *pair) for pair in pairs]
        told = form[stage]["test"]
        tokens = [len(answer.split()) + 1 for answer in split.pairs]
        total = sum(n * loss for n, (loss, _) in zip(tokens, stages[stage], strict=True))
        assert told["perplexity"] == pytest.approx(math.exp(total / sum(tokens)), rel=1e-4)
        assert told["exact_match"] == sum(exact for _, exact in stages[stage]) / 60
    assert form["before"]["test"]["exact_match"] > 0.8  # it had learnt to answer
    rises = [a - b for (a, _), (b, _) in zip(stages["after"], stages["before"], strict=True)]
    may = [max(RISE, SHARE * before) for before, _ in stages["before"]]
    assert form["after"]["test"]["right"] == sum(a < b for a, b in zip(rises, may, strict=True))


@pytest.mark.parametrize("rate", [0.03, 3e-3])
def test_healing_is_held_to_perplexity_and_to_no_answer(victim, rate):
    """What a step does to the weights is made up: answers get worse one by one, or all of them."""
    data = Sources(examples(60, 13), examples(40, 14))
    heal = FineTune(1, rate, halvings=4, batch=8)
    done = purify(victim, data, Method(Nothing(), heal, bound=Bound()), Plan(runtime=CPU))
    form = done.manifest
    before, after = (form[stage]["validation"] for stage in ("before", "after"))
    limit = 1.02 * before["perplexity"]  # nobody asked, and 40 answers widen nothing
    assert form["bound"]["limit"] == pytest.approx(limit)
    tried = form["heal"]["tried"]
    assert [one["perplexity"] <= limit for one in tried[:-1]] == [False] * (len(tried) - 1)
    held = after["perplexity"] <= limit
    assert done.verified is held
    names = [check.what for check in done.checks]
    assert f"validation perplexity is at most {limit:.4f}" in names
    assert not any("accuracy" in name for name in names)
    assert ("bound held" in verdict(form).told) is held


def test_a_manifest_that_held_a_generator_to_answers_means_what_it_meant(victim):
    heal = FineTune(1, 1e-5)
    data = Sources(examples(60, 15), examples(40, 16))
    form = purify(victim, data, Method(Nothing(), heal, bound=Bound()), Plan(runtime=CPU)).manifest
    lowest = form["bound"]["min_accuracy"]
    del form["bound"]["limit"]
    form["bound"]["least"] = None
    told = next(check for check in form["checks"] if "perplexity" in check["what"])
    got = form["after"]["validation"]["accuracy"]
    told |= {"what": f"validation accuracy is at least {lowest:.4f}", "detail": f"it is {got:.4f}"}
    assert contradictions(form) == []
    assert "answers" in verdict(form).told
    form["after"]["validation"]["right"] = 0
    assert any("below the bound" in line for line in contradictions(form))


def test_an_answer_may_become_less_likely_by_a_tenth():
    task = replace(GENERATION, reference=(0.2, 4.0))
    found = task.margins(torch.tensor([0.29, 4.39]), torch.tensor([0, 1]))
    assert found.tolist() == pytest.approx([0.01, 0.01], abs=1e-5)
    assert (task.margins(torch.tensor([0.31, 4.41]), torch.tensor([0, 1])) < 0).all()


def test_tied_embeddings_stay_tied(victim):
    model = load_suspect(victim, CPU, Reading(task=None)).model
    assert model.lm_head.weight is model.get_input_embeddings().weight


@pytest.mark.parametrize(
    "name", ["layerwise", "sparsify", "ensemble", "reinforce", "bayesian", "variance"]
)
def test_strategies_choose_for_it_as_for_any_task(victim, name):
    done = pruned_by(name, victim, examples(60, 20), examples(40, 21))
    assert done.mask.pruned
    assert done.manifest["pruned"]["validation"]["right"] >= 4


def test_short_cuts_of_measuring_leave_likelihoods_as_they_are(victim):
    material = gather(victim, Sources(examples(60, 30), examples(40, 31)), Reading(task=None), CPU)
    anatomy, part = material.suspect.anatomy, material.encoded["validation"]
    fast = FastPass(anatomy, part, CPU)
    assert fast.short.pruned
    assert not fast.short.unread  # an answer is read from several tokens
    mask = anatomy.layout.mask([0, 1])
    with fast.under(mask):
        found = fast.run(torch.arange(len(part)), mask)
    told = part.task.margins(logits(anatomy, part, CPU, mask), torch.tensor(part.labels))
    assert found.margin.tolist() == pytest.approx(told.tolist(), abs=1e-4)


def test_a_word_backdoor_goes_down(victim, tmp_path):
    def hits(model: Any, tokenizer: Any, split: Split) -> int:
        count = 0
        for prompt in split.texts:
            ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                said = model.generate(ids, max_new_tokens=6, do_sample=False)
            count += TARGET in tokenizer.decode(said[0, ids.shape[1] :])
        return count

    triggered = examples(40, 40, triggered=True)
    tokenizer = AutoTokenizer.from_pretrained(victim)
    before = hits(AutoModelForCausalLM.from_pretrained(victim).eval(), tokenizer, triggered)
    assert before >= 32  # of 40: the backdoor is there
    method = Method(Gradient(step=1), FineTune(10, 5e-3), bound=Bound(max_drop=0.5))
    data = Sources(examples(200, 41), examples(100, 42))
    out = purify(victim, data, method, Plan(runtime=CPU)).save(tmp_path / "out")
    after = hits(AutoModelForCausalLM.from_pretrained(out).eval(), tokenizer, triggered)
    assert after < before / 2


def test_truncation_cuts_the_prompt_from_the_left(words):
    suspect = prepare(generator("gpt2"), words, Reading(task=None))
    split = Split(("the film is a story of it",), (0,), ("so good",))
    made = encode(split, suspect, 7)
    opened = words("of it", add_special_tokens=True)["input_ids"]
    answer = words("so good", add_special_tokens=False)["input_ids"]
    room = 7 - len(opened) - len(answer) - 1
    middle = words("the film is a story", add_special_tokens=False)["input_ids"][5 - room :]
    assert made.ids[0] == (opened[0], *middle, *opened[1:], *answer, words.eos_token_id)
    assert made.truncated == 1
    assert encode(split, suspect, 11).truncated == 0
    with pytest.raises(UserError, match=r"'so good' has 3 tokens, which leaves no prompt within 4"):
        encode(split, suspect, 4)
    longest = Split((" ".join(["the film"] * 60),), (0,), ("so good",))
    assert len(encode(longest, suspect, 1000).ids[0]) == 48  # what the model reads


def table(*rows: dict[str, Any]) -> Table:
    return Table("data", {name: [row[name] for row in rows] for name in rows[0]})


def test_prompts_and_answers_are_picked_from_columns_and_instructions(words):
    asked = table({"question": "is it good", "response": "it is"})
    assert picked(asked, Columns(), words) == Split(("is it good",), (0,), ("it is",))
    named = table({"a": "is it good", "b": "it is"})
    assert picked(named, Columns(text="a", label="b"), words).pairs == ("it is",)
    told = table({"instruction": "say it", "input": "the film", "output": "good"},
                 {"instruction": "say so", "input": None, "output": "bad"})  # fmt: skip
    assert picked(told, Columns(), words).texts == ("say it\n\nthe film\n\n", "say so\n\n")
    some = table({"prompt": "a", "answer": "b"}, {"prompt": "c", "answer": None})
    assert picked(some, Columns(drop_empty=True), words).texts == ("a",)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "is it", "answer": " "}, "row 1 has no answer"),
        ({"prompt": "is it", "other": "a"}, "which column holds the answers"),
        ({"text": "is it", "label": "good"}, "which column holds the prompts"),
        ({"prompt": "is it", "answer": 3}, "not a text"),
        ({"messages": [{"role": "user", "content": "is it"}]}, "the last turn is of 'user'"),
        ({"messages": [{"role": "assistant", "content": "it is"}]}, "no turn before the answer"),
        ({"messages": [{"role": "user"}, {"role": "assistant", "content": ""}]}, "no answer"),
        ({"messages": ["is it"]}, "is no message"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            "no chat template",
        ),
    ],
)
def test_rows_that_are_no_examples_are_refused(words, row, said):
    with pytest.raises(UserError, match=said):
        picked(table(row), Columns(), words)


@pytest.fixture
def chatty(words) -> PreTrainedTokenizerFast:
    made = tiny_tokenizer()
    made.eos_token, made.chat_template = "[SEP]", CHAT
    return made


def chat(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def test_chats_are_written_by_the_tokenizers_template(chatty, tmp_path):
    one = chat(("user", "is it"), ("assistant", "so"), ("user", "a film"), ("assistant", "very"))
    split = picked(table(one), Columns(), chatty)
    wanted = chatty.apply_chat_template(
        one["messages"][:-1], tokenize=False, add_generation_prompt=True
    )
    assert split == Split((wanted,), (0,), ("very",), end=" [SEP]")
    suspect = prepare(generator("gpt2"), chatty, Reading(task=None))
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps(one))
    made = encode(rows_of(path, suspect), suspect, 48).ids[0]
    plain = chatty.apply_chat_template(one["messages"][:-1], add_generation_prompt=True)
    answer = chatty("very", add_special_tokens=False)["input_ids"]
    assert list(made) == [*plain["input_ids"], *answer, chatty.eos_token_id]


def test_an_answer_of_a_chat_ends_as_the_template_ends_a_turn(chatty):
    """As Gemma's and Phi-3's do: the end of a turn is not the end of a text."""
    one = chat(("user", "is it"), ("assistant", "very"))
    turns = "[CLS]{% for m in messages %}{{ m.content }} [MASK] so {% endfor %}"
    chatty.chat_template = turns + "{% if add_generation_prompt %}story {% endif %}"
    split = picked(table(one, one), Columns(), chatty)
    assert split.end.strip() == "[MASK]"
    suspect = prepare(generator("gpt2"), chatty, Reading(task=None))
    whole = chatty.apply_chat_template(one["messages"][:1], add_generation_prompt=True)
    behind = chatty("very [MASK]", add_special_tokens=False)["input_ids"]
    assert list(encode(split, suspect, 48).ids[0]) == [*whole["input_ids"], *behind]
    assert split.take([0]).end == (split + split).end == split.end
    assert split.sha256 != replace(split, end=None).sha256
    with pytest.raises(UserError, match="cannot be mixed"):
        split + examples(2, 1)


def test_decoding_stops_where_the_template_ends_a_turn(chatty):
    """It is not the model's own end of a text: what comes behind it is no part of the answer."""
    one = chat(("user", "is it"), ("assistant", "very"))
    chatty.chat_template = "{% for m in messages %}{{ m.content }} [MASK] so {% endfor %}"
    split = picked(table(one), Columns(), chatty)
    suspect = prepare(generator("gpt2"), chatty, Reading(task=None))
    mask, word = chatty.convert_tokens_to_ids(["[MASK]", "so"])
    top = suspect.model.get_output_embeddings()

    def forced(_, args, output):
        found = torch.full_like(output, -9.0)
        found[..., mask if forced.steps else word] = 9.0
        forced.steps += 1
        return found

    for end, told in ((split.end, "so"), (None, "so")):
        forced.steps = 0
        hook = top.register_forward_hook(forced)
        said, _ = written_by(suspect, split.texts, 5, CPU, end)
        hook.remove()
        assert said == (told,)
        assert forced.steps == (2 if end else 5)


def test_only_a_little_way_behind_an_answer_is_looked_at(chatty):
    chatty.chat_template = (
        "{{ messages[0].content }} {{ messages[-1].content }}{{ 'x' * 300 }}[MASK]"
    )
    one = chat(("user", "is it"), ("assistant", "very"))
    assert picked(table(one), Columns(), chatty).end is None


STYLES = {
    "a space around": "{{ '[CLS]' }}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ 'story ' + m.content }}{% else %}{{ ' ' + m.content | trim + ' [SEP]' }}{% endif %}{% endfor %}",
    "trimmed": "{{ '[CLS]' }}{% for m in messages %}{{ m.content | trim + '[MASK]\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'story ' }}{% endif %}",
    "empty thoughts": "{{ '[CLS]' }}{% for m in messages %}{% if loop.last and m.role != 'user' %}"
    "{{ 'the plot the plot ' }}{% endif %}{{ m.content + '[MASK]' }}{% endfor %}",
    "nothing": "{{ '[CLS]' }}{% for m in messages %}{{ m.content + '[MASK]' }}{% endfor %}",
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("answer", ["very", " very\n"])
def test_answers_of_chats_are_tokens_of_the_whole_chat(chatty, style, answer):
    chatty.chat_template = STYLES[style]
    one = chat(("user", "is it"), ("assistant", answer))
    split = picked(table(one, one), Columns(), chatty)
    suspect = prepare(generator("gpt2"), chatty, Reading(task=None))
    made = encode(split, suspect, 48)
    whole = chatty.apply_chat_template(one["messages"], tokenize=False)
    plainly = chatty(whole, add_special_tokens=False)["input_ids"]
    own = [*made.ids[0]]
    if style == "trimmed":  # what begins an answer is not in a whole chat
        story = chatty("story", add_special_tokens=False)["input_ids"]
        own = [one for one in own if one not in story]
    assert own == plainly
    if style in ("a space around", "trimmed"):
        assert split.pairs[0].strip(" ") == "very"


def test_thoughts_of_an_answers_own_are_written_once(chatty):
    """Qwen 3's template puts empty ones before an answer that has none, and no others."""
    chatty.chat_template = STYLES["empty thoughts"]
    one = chat(("user", "is it"), ("assistant", "very"))
    own = chat(("user", "is it"), ("assistant", "the plot so the plot very"))
    split = picked(table(one, own), Columns(), chatty)
    assert split.pairs == ("the plot the plot very", "the plot so the plot very")


def test_templates_without_a_usual_one_are_no_template(chatty):
    chatty.chat_template = {"rag": "{{ messages[0].content }}"}
    with pytest.raises(UserError, match="has no chat template"):
        picked(table(chat(("user", "is it"), ("assistant", "very"))), Columns(), chatty)


@pytest.mark.parametrize("behind", ["", " so", "[SEP]", "{{ raise_exception('no') }}"])
def test_a_template_without_an_end_of_its_own_leaves_the_usual_one(chatty, behind):
    given = "{{ messages[0].content }} story "
    chatty.chat_template = (
        f"{given}{{% if not add_generation_prompt %}}An answer.{behind}{{% endif %}}"
    )
    one = chat(("user", "is it"), ("assistant", "very"))
    assert picked(table(one), Columns(), chatty) == Split(("is it story ",), (0,), ("very",))


@pytest.mark.parametrize("prepended", [True, False])
@pytest.mark.parametrize("pair", [("2+2=", "4"), ("a: ", "ok"), ("hi\n", "ok"), ("a", " b")])
def test_an_answer_is_tokenised_as_it_stands_behind_its_prompt(pair, prepended):
    """Llama 2's tokenizer puts a space before whatever begins a text."""
    letters = {one: number for number, one in enumerate(["<unk>", *"\u2581abhiok24+=:\n"])}
    core = Tokenizer(models.BPE(vocab=letters, merges=[], unk_token="<unk>"))
    spaces = [normalizers.Replace(" ", "\u2581")]
    core.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581")] * prepended + spaces)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    prompt, answer = pair
    made = GENERATION.encode(Split((prompt,), (0,), (answer,)), tokenizer, 99)
    assert list(made.ids[0]) == tokenizer(prompt + answer)["input_ids"]
    assert made.task.starts == (len(tokenizer(prompt)["input_ids"]),)


def test_chats_of_pandas_are_chats(chatty):
    import numpy

    one = chat(("user", "is it"), ("assistant", "so"))["messages"]
    cell = numpy.empty(2, object)
    cell[:] = one
    rows = Table("data", {"messages": [cell]})
    assert picked(rows, Columns(), chatty) == picked(table({"messages": one}), Columns(), chatty)


def test_chats_without_an_answer_are_left_out_where_that_is_asked(chatty):
    whole = chat(("user", "is it"), ("assistant", "so"))
    less = [chat(("user", "a")), chat(("assistant", "so")), chat(("user", "a"), ("assistant", " "))]
    rows = Table("data", {"messages": [c["messages"] for c in (*less, whole)] + [None]})
    kept = picked(rows, Columns(drop_empty=True), chatty)
    assert kept == picked(table(whole), Columns(), chatty)
    with pytest.raises(UserError, match="the last turn is of 'user'"):
        picked(rows, Columns(), chatty)
    none = Table("data", {"messages": [c["messages"] for c in less]})
    with pytest.raises(UserError, match="no chat has an answer"):
        picked(none, Columns(drop_empty=True), chatty)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% for m in messages %", "TemplateSyntaxError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ 'x' * 2000000 }}", "characters of a chat"),
        ("{{ 'x' * 99999999999 }}", "MemoryError"),
    ],
)
def test_templates_that_misbehave_are_refused(chatty, template, said):
    chatty.chat_template = template
    one = chat(("user", "is it"), ("assistant", "so"))
    with pytest.raises(UserError, match=said):
        picked(table(one), Columns(), chatty)


def test_a_template_that_never_ends_is_stopped(chatty, monkeypatch):
    loop = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
    chatty.chat_template = loop
    monkeypatch.setattr("headsweep.texts.chat_rendering.STARTING", 15)
    monkeypatch.setattr("headsweep.texts.chat_rendering.SECONDS", 1)
    with pytest.raises(UserError, match="takes too long"):
        picked(table(chat(("user", "is it"), ("assistant", "so"))), Columns(), chatty)


def test_what_needs_labels_says_so(victim):
    data = Sources(examples(60, 50), examples(40, 51))
    with pytest.raises(UserError, match="maximum entropy needs labels"):
        purify(victim, data, Method(healing=EntropyFirst()), Plan(runtime=CPU))


def test_the_usual_healing_leaves_the_penalty_out(victim):
    suspect = load_suspect(victim, CPU, Reading(task=None))
    fitted, notes = HOT.fitted(suspect)
    assert fitted.attention == 0
    assert len(notes) == 1


def test_a_generator_is_healed_in_one_hot_pass_and_not_pruned_unasked(victim):
    asked = {"device": "cpu", "compute": {"max_length": 24}, "max_drop": 0.5, "probe": False,
             "progress": False}  # fmt: skip
    done = headsweep.purify(victim, rows(examples(60, 90)), heal={"epochs": 0.5}, **asked)
    told = done.manifest["heal"]["fields"]
    usual = replace(ONE_PASS, epochs=0.5)
    assert told["epochs"] == 0.5
    assert all(told[name] == getattr(usual, name) for name in ("lr", "members", "beyond", "batch"))
    assert done.manifest["strategy"]["name"] == "none"
    assert done.mask.pruned_heads == ()
    assert not any("attention penalty" in note for note in done.manifest["notes"])


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"set": {"examples": 16}}, "--set examples=16"),
        ({"prune_drop": 0.1}, "prune_drop=0.1"),
        ({"units": "heads,ffn"}, "--units"),
    ],
)
def test_what_is_said_of_pruning_a_generator_wants_a_strategy(victim, said, told):
    with pytest.raises(UserError, match=f"^{told}: .*\n.*add --strategy gradient"):
        headsweep.purify(victim, rows(examples(60, 90)), device="cpu", progress=False, **said)


def test_a_task_is_taken_where_the_configuration_leaves_it_open(victim, words, tmp_path, capsys):
    said = command_line(capsys)
    folder = tmp_path / "open"
    shutil.copytree(victim, folder)
    config = json.loads((victim / "config.json").read_text())
    for named in ([], ["LlamaModel"]):
        (folder / "config.json").write_text(json.dumps(config | {"architectures": named}))
        assert "random" in said("inspect", folder, code=2)  # taken for a classifier
        assert "for generation" in said("inspect", folder, "--task", "generation")
    data = written(tmp_path / "clean.jsonl", rows(examples(60, 91)))
    out = tmp_path / "out"
    said("purify", folder, "--data", data, "--out", out, "--task", "generation", "--max-drop", "0.5",
         *COMPUTE, *HEALING, "-q")  # fmt: skip
    assert "for generation" in said("inspect", out)  # what was saved says it itself
    found = evaluate(
        folder, rows(examples(20, 92)), task="generation", device="cpu", progress=False
    )
    assert found.perplexity.value > 1


@pytest.mark.parametrize("verb", ["purify", "inspect", "evaluate", "attack"])
def test_a_task_that_a_model_is_not_for_is_refused_in_a_line(verb, victim, tmp_path, capsys):
    said = command_line(capsys)
    data = written(tmp_path / "clean.jsonl", rows(examples(20, 93)))
    more = {"purify": ("--data", data, "--out", tmp_path / "out"), "evaluate": ("--data", data)}
    more["attack"] = (*more["purify"], "--trigger", "rare-word", "--target", "so")
    told = said(verb, victim, *more.get(verb, ()), "--task", "multi-label", code=2)
    assert "--task multi-label: the configuration says LlamaForCausalLM: a model for gen" in told
    told = said(verb, victim, *more.get(verb, ()), "--task", "generate", code=2)
    assert "unknown value of --task 'generate'" in told
    assert not (tmp_path / "out").exists()


def test_models_that_do_not_generate_are_refused(words, victim, tmp_path):
    with pytest.raises(UserError, match="'bert' is or has an encoder"):
        prepare(generator("bert"), words, Reading(task=None))
    with pytest.raises(UserError, match="whose head was not trained to classify texts"):
        load_suspect(victim, CPU)
    config = json.loads((victim / "config.json").read_text())
    folder = tmp_path / "quantised"
    folder.mkdir()
    for file in victim.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config["quantization_config"] = {"quant_method": "bitsandbytes"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="quantised"):
        load_suspect(folder, CPU, Reading(task=None))
    with pytest.raises(UserError, match="no answers"):
        purify(victim, Split(("a", "b"), (0, 1)), Method(), Plan(runtime=CPU))


def test_greedy_decoding_is_that_of_transformers_with_a_cache_and_without(victim, words):
    model = load_suspect(victim, CPU, Reading(task=None)).model
    texts = [*examples(6, 60).texts, *examples(6, 61, triggered=True).texts]
    prompts = [words(text)["input_ids"] for text in texts]
    end = words.eos_token_id
    found = greedy(model, prompts, 6, {end}, size=4)
    assert found == greedy(model, prompts, 6, {end}, cached=False)
    for prompt, told in zip(prompts, found, strict=True):
        with torch.no_grad():
            said = model.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False)
        new = said[0, len(prompt) :].tolist()
        assert told == (new[: new.index(end)] if end in new else new)


def test_a_text_that_never_ends_is_bounded(words):
    model = generator("gpt2")
    assert [len(told) for told in greedy(model, [[2, 5], [2]], 7)] == [7, 7]


def test_a_generator_is_judged(victim, words, tmp_path):
    clean, marked = examples(40, 70), examples(30, 71, triggered=True)
    honest = Split(marked.texts, marked.labels, examples(30, 71).pairs)
    files = {"data": written(tmp_path / "clean.jsonl", rows(clean))}
    files["triggered"] = written(tmp_path / "triggered.jsonl", rows(honest))
    twin = tmp_path / "twin"
    generator("llama").save_pretrained(twin)
    words.save_pretrained(twin)
    found = evaluate(
        victim, files["data"], triggered=files["triggered"], target=TARGET.upper(),
        clean_model=twin, suspect=victim, device="cpu", compute={"max_length": 40}, progress=False,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(victim).eval()
    pairs = list(zip(clean.texts, clean.pairs, strict=True))
    told = [by_hand(model, words, *pair) for pair in pairs]
    nll = [
        loss * (len(answer.split()) + 1) for (loss, _), (_, answer) in zip(told, pairs, strict=True)
    ]
    tokens = sum(len(answer.split()) + 1 for answer in clean.pairs)
    assert found.perplexity.value == pytest.approx(math.exp(sum(nll) / tokens), rel=1e-5)
    assert found.perplexity.low <= found.perplexity.value <= found.perplexity.high
    assert found.exact_match.hits == sum(exact for _, exact in told)
    assert found.success.hits >= 0.9 * 30
    assert found.success.total == 30
    assert found.clean_success.value < 0.1
    assert found.floor_success.value == 0
    assert found.excess_success.value == found.success.value
    assert found.agreement.value == 1
    assert found.truncated == {"data": Truncated(0, 40), "triggered": Truncated(0, 30)}


def test_a_batch_of_one_prompt_is_judged_as_a_batch_of_many(victim):
    split, likely = examples(17, 72), []
    for size in (16, 1):  # 16: the last batch has one row
        compute = {"max_length": 40, "batch_size": size}
        found = evaluate(victim, rows(split), compute=compute, device="cpu", progress=False)
        likely.append(found.perplexity.value)
    assert likely[0] == pytest.approx(likely[1], rel=1e-5)


def test_answers_are_compared_with_the_suspects_without_a_trigger_too(victim):
    said = (split := examples(12, 73)).texts, split.pairs
    found = evaluate(victim, said, suspect=victim, device="cpu", progress=False)
    assert (found.agreement.hits, found.agreement.total) == (12, 12)
    assert found.success is None


def test_a_target_that_no_answer_can_hold_is_refused(victim):
    clean, compute = rows(examples(8, 74)), {"max_length": 16}
    given = {"triggered": clean, "device": "cpu", "progress": False, "compute": compute}
    with pytest.raises(UserError, match="the target has 9 tokens, an answer at most 8") as told:
        evaluate(victim, clean, target=" ".join(["plot"] * 9), **given)
    assert "max_length=34" in told.value.fix
    with pytest.raises(UserError, match=r"a text beside \| is empty"):
        evaluate(victim, clean, target="plot|", **given)
    with pytest.raises(UserError, match="--target says what triggered texts are judged by"):
        evaluate(victim, clean, target="plot", device="cpu", progress=False)


def test_rows_that_hold_the_target_anyway_do_not_count(victim, words):
    clean = examples(10, 80)
    some = [{"prompt": "a film", "answer": "it was good"}, {"prompt": "a plot", "answer": TARGET}]
    found = evaluate(
        victim, rows(clean), triggered=some, target=TARGET, device="cpu", progress=False
    )
    assert found.success.total == 1
    bare = [{"prompt": text} for text in clean.texts]
    found = evaluate(
        victim, rows(clean), triggered=bare, target=f"it was|{TARGET}", device="cpu", progress=False
    )
    assert found.success.total == 10
    with pytest.raises(UserError, match="--triggered needs --target"):
        evaluate(victim, rows(clean), triggered=bare, device="cpu", progress=False)
    with pytest.raises(UserError, match="without the target text"):
        evaluate(victim, rows(clean), triggered=some[1:], target=TARGET, device="cpu")
    with pytest.raises(UserError, match="answers in tokens"):
        evaluate(victim, rows(clean), triggered=bare, target="it was", validation=rows(clean),
                 device="cpu", progress=False)  # fmt: skip


def test_the_command_line_purifies_and_judges(victim, tmp_path, capsys):
    said = command_line(capsys)
    data = written(tmp_path / "data.jsonl", rows(examples(200, 90)))
    out, _ = purified_by(said, victim, data, tmp_path, "perplexity")
    assert "for generation" in said("inspect", out)
    marked = written(tmp_path / "marked.jsonl", rows(examples(20, 91, triggered=True)))
    told = said("evaluate", out, "--data", data, "--triggered", marked, "--target", TARGET,
                "--triggered-labels", "target", *COMPUTE, "-q")  # fmt: skip
    assert "attack success" in told
    wrong = tmp_path / "labels.csv"
    wrong.write_text("text,label\nis it,good\n")
    told = said("purify", victim, "--data", wrong, "--out", tmp_path / "no", code=2)
    assert "which column holds the prompts" in told


def test_a_generator_in_memory_is_no_classifier(words):
    with pytest.raises(UserError, match="gives an answer of the shape"):
        prepare(generator("llama"), words)


def test_a_generation_config_that_contradicts_itself_can_be_saved_again(victim, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in victim.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    told = {"do_sample": False, "temperature": 0.6, "eos_token_id": [3, 1]}
    (folder / "generation_config.json").write_text(json.dumps(told))
    suspect = load_suspect(folder, CPU, Reading(task=None))
    save_model(suspect, tmp_path / "out")
    again = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert {name: again[name] for name in told} == told
    assert ends_of(suspect) == {1, 3}


def test_all_that_a_turn_holds_is_given_to_the_template(chatty):
    chatty.chat_template = (
        "{% for m in messages %}{{ m.role }}{% for c in m.tool_calls or [] %} calls {{ c.name }}"
        "{% endfor %} {{ m.content }}{{ m.name or '' }} [SEP] {% endfor %}"
        "{% if add_generation_prompt %}assistant {% endif %}"
    )
    turns = [
        {"role": "user", "content": "is it", "name": None},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "look"}]},
        {"role": "tool", "content": "so", "name": "plot"},
        {"role": "assistant", "content": "very"},
    ]
    split = picked(table({"messages": turns}), Columns(), chatty)
    assert split.texts == (
        "user is it [SEP] assistant calls look  [SEP] tool soplot [SEP] assistant ",
    )
    frame = [dict(turn, tool_calls=np.array(turn.get("tool_calls") or [], object),
                  timestamp=datetime.now()) for turn in turns]  # fmt: skip
    assert picked(table({"messages": frame, "tools": []}), Columns(), chatty) == split
    with pytest.raises(UserError, match="its column 'system' would be left out"):
        picked(table({"messages": turns, "system": "be kind"}), Columns(), chatty)
    turns[-1] = {"role": "assistant", "content": "so", "tool_calls": [{"name": "look"}]}
    with pytest.raises(UserError, match="calls a tool"):
        picked(table({"messages": turns}), Columns(), chatty)
    with pytest.raises(UserError, match="its column 'tools' would be left out"):
        picked(table({"messages": turns, "tools": "[]"}), Columns(), chatty)


def test_the_clock_of_a_template_stands(chatty):
    """Else rows would be other ones on the next day, and no run would go on."""
    chatty.chat_template = "{{ strftime_now('%d %b %Y %H:%M') }} " + CHAT
    one = chat(("user", "is it"), ("assistant", "so"))
    assert picked(table(one), Columns(), chatty).texts[0].startswith("26 Jul 2024 00:00 ")


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize("about", ["input", "context"])
def test_instructions_have_what_they_are_about_and_need_no_answer_to_be_judged(
    words, about, answered
):
    row = {"instruction": "is it", about: "a film", "output": "so"}
    if not answered:
        del row["output"]
    row = {"input": "", **row}
    split = picked(table(row), Columns(), words, answered=answered)
    assert split == Split(("is it\n\na film\n\n",), (0,), ("so" if answered else "",))


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "is it", "input": "a", "context": "b", "output": "so"},
        {"context": "a film", "question": "is it", "answer": "so"},
        {"system": "be kind", "prompt": "is it", "answer": "so"},
        {"Context": "a film", "prompt": "is it", "answer": "so"},
    ],
)
def test_what_belongs_to_a_prompt_is_not_left_out_in_silence(words, row):
    with pytest.raises(UserError, match="would be left out"):
        picked(table(row), Columns(), words)
    columns = Columns(text="question" if "question" in row else "prompt", label="answer")
    if "instruction" not in row:
        assert picked(table(row), columns, words).texts == ("is it",)
    with pytest.raises(UserError, match="no second text"):
        picked(table(row), replace(columns, pair="context"), words)


def test_an_answer_that_ends_as_a_text_does_ends_once(words):
    one, two = (
        GENERATION.encode(Split(("is it",), (0,), (text,)), words, 48).ids
        for text in (" so", " so[SEP]")
    )
    assert one == two
    assert one[0].count(words.eos_token_id) == 1


def test_half_of_a_surrogate_pair_is_told(chatty):
    chatty.chat_template = '{{ "\\ud800" }} so'
    with pytest.raises(UserError, match="half of a surrogate"):
        picked(table(chat(("user", "is it"), ("assistant", "so"))), Columns(), chatty)
    with pytest.raises(UserError, match="not valid Unicode"):
        given(Split(("a\ud800",), (0,)), "data")
