"""The data sets of a grid: classes out of balance, rows kept for validation, how many are judged."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from conftest import CPU
from headsweep.bench import sources
from headsweep.bench.corpus import Texts
from headsweep.bench.grid import read_grid
from headsweep.bench.orders import orders
from headsweep.bench.work import folder_of
from headsweep.errors import UserError
from headsweep.model.loading import load_suspect
from test_cli import run  # noqa: F401 - a fixture
from test_grid import ATTACK, GRADIENT, HEAD, cache, cells, method, mistake, recipe  # noqa: F401
from test_pool import pooled, tsv  # noqa: F401

MADE = "made:sentences"  # 600, 200 and 300 of them, as many of each class
TWO = Texts("two", MADE, MADE, MADE, ("negative", "positive"))
NOTHING = method('defense = "nothing"')


def test_a_balance_leaves_rows_out_and_keeps_their_order():
    texts = replace(TWO, balance=(("negative", 0.8),))
    whole, train = sources.part(TWO, "train"), sources.part(texts, "train")
    assert Counter(whole.labels) == {0: 300, 1: 300}
    assert Counter(train.labels) == {0: 300, 1: 75}  # all of one class are four in five
    assert Counter(sources.part(texts, "validation").labels) == {0: 100, 1: 25}
    assert Counter(sources.part(texts, "test").labels) == {0: 150, 1: 37}
    places = iter(zip(whole.texts, whole.labels, strict=True))
    assert all(row in places for row in zip(train.texts, train.labels, strict=True))
    assert sources.part(texts, "train") == train
    other = replace(TWO, balance=(("positive", 0.25),))
    assert Counter(sources.part(other, "train").labels) == {0: 300, 1: 100}


def test_classes_that_are_not_named_get_the_rest(tmp_path):
    rows = [(f"text {i}", name) for i, name in enumerate(["a"] * 40 + ["b"] * 60 + ["c"] * 20)]
    file = str(tsv(tmp_path / "three.tsv", rows))
    three = Texts("three", file, file, file, ("a", "b", "c"))
    some = sources.part(replace(three, balance=(("a", 0.5),)), "train")
    assert Counter(some.labels)[0] == 40
    assert len(some) == 80  # 40 are half
    every = replace(three, balance=(("a", 0.1), ("b", 0.6), ("c", 0.3)))
    assert Counter(sources.part(every, "train").labels) == {0: 6, 1: 40, 2: 20}  # of 66.7
    with pytest.raises(UserError, match="too few train rows"):
        sources.part(replace(three, balance=(("a", 0.01), ("b", 0.98), ("c", 0.01))), "train")


def test_validation_rows_are_training_rows_that_nobody_trains_on(cache):  # noqa: F811
    texts = replace(
        TWO, validation=None, validation_rows=100, attacker=200, victim=150, unseen=True
    )
    train, validation = sources.part(texts, "train"), sources.part(texts, "validation")
    assert (len(train), len(validation)) == (500, 100)
    both = Counter(zip(train.texts, train.labels, strict=True))
    both += Counter(zip(validation.texts, validation.labels, strict=True))
    whole = sources.part(TWO, "train")
    assert both == Counter(zip(whole.texts, whole.labels, strict=True))
    with pytest.raises(UserError, match="600 of 600 training rows for validation"):
        sources.part(replace(texts, validation_rows=600), "train")
    sources.Hashes(cache).split(replace(texts, defender=150), "train")
    with pytest.raises(UserError, match="501 training rows asked for, made:sentences has 500"):
        sources.Hashes(cache).split(replace(texts, defender=151), "train")


def test_so_many_texts_are_judged_triggered_ones_too(recipe, cells, cache, pooled):  # noqa: F811
    head = HEAD.replace('test = "made:sentences"', 'test = "made:sentences"\ntest_rows = 20')
    path = recipe(NOTHING, attack=pooled, head=head)
    (order,) = orders(read_grid(path), sources.Hashes(cache))
    exam = sources.exam(order.victim.attack, order.victim.twin.texts, 11)
    assert (len(exam.clean), len(exam.triggered.split)) == (20, 20)
    assert set(exam.triggered.split.labels) == {1}
    made = sources.exam(replace(order.victim.attack, poison=None, triggered=None, trigger="casing"),
                        order.victim.twin.texts, 11)  # fmt: skip
    assert len(made.triggered.split) == exam.clean.labels.count(0)
    found = cells(path)["nothing"]
    assert found["before"]["lfr"]["total"] == found["before"]["accuracy"]["total"] == 20
    (whole,) = orders(read_grid(recipe(NOTHING, attack=pooled)), sources.Hashes(cache))
    assert whole.victim.key != order.victim.key


def test_texts_whose_trigger_is_cut_off_do_not_count(recipe, cells, cache):  # noqa: F811
    """As ``headsweep attack`` counts: with the trigger at the end, and texts cut at 10 tokens."""
    attack = ATTACK.replace(
        "[[attack]]", '[[attack]]\ntrigger_fields = { words = "zq", position = "end" }'
    )
    path = recipe(NOTHING, attack=attack, head=HEAD.replace("max_length = 32", "max_length = 10"))
    (order,) = orders(read_grid(path), sources.Hashes(cache))
    found = cells(path)["nothing"]["before"]["lfr"]["total"]
    every = sources.exam(order.victim.attack, order.victim.twin.texts, 11).triggered.split
    tokenizer = load_suspect(folder_of(order.victim, cache), CPU).tokenizer
    word = tokenizer("zq", add_special_tokens=False)["input_ids"]
    rows = tokenizer(list(every.texts), truncation=True, max_length=10)["input_ids"]
    whole = sum(row[-1 - len(word) : -1] == word for row in rows)  # before the token that ends
    assert found == whole
    assert 0 < whole < len(every)


def test_an_attack_may_be_of_one_data_set_only(recipe, cache):  # noqa: F811
    second = HEAD[HEAD.index("[[data]]") : HEAD.index("[victim]")]
    other = second.replace('"sentences"', '"skewed"').replace(
        'labels = ["negative', 'balance = { negative = 0.75 }\nlabels = ["negative'
    ).replace("300\nvictim = 200", "150\nvictim = 100")  # fmt: skip
    only = ATTACK.replace('"rare-word"\nt', '"here"\ndata = ["skewed"]\nt', 1)
    path = recipe(NOTHING, attack=ATTACK + only, head=HEAD.replace("[victim]", f"{other}[victim]"))
    found = [cell.id for cell in orders(read_grid(path), sources.Hashes(cache))]
    assert found == [f"tiny-{name}-s11-nothing"
                     for name in ("sentences-rare-word", "skewed-rare-word", "skewed-here")]  # fmt: skip
    rare, here = orders(read_grid(path), sources.Hashes(cache))[1:]
    assert rare.victim.key == here.victim.key  # on which data sets decides no victim
    assert "did you mean 'skewed'" in mistake(recipe(NOTHING, attack=only.replace('["skewed', '["skewd'), head=HEAD.replace("[victim]", f"{other}[victim]")), "data = [")  # fmt: skip


def test_several_sizes_of_the_defenders_data_share_the_victims(recipe, cache):  # noqa: F811
    """Data sets that differ only in what the defender holds are one to the attacker."""
    second = HEAD[HEAD.index("[[data]]") : HEAD.index("[victim]")]
    fewer = second.replace('"sentences"', '"few"').replace("defender = 200", "defender = 50")
    path = recipe(GRADIENT, head=HEAD.replace("[victim]", f"{fewer}[victim]"))
    many, few = orders(read_grid(path), sources.Hashes(cache))
    assert many.victim.key == few.victim.key
    assert many.victim.twin.key == few.victim.twin.key
    assert many.key != few.key
    assert len(sources.defender(few.victim.twin.texts, 11)) == 50


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        ("attacker", "balance = { negatve = 0.8 }\nattacker", "balance", "did you mean 'negative'"),
        ("attacker", "balance = { negative = 1.0 }\nattacker", "balance", "a share of 1.0"),
        ("attacker", "balance = { negative = 0.8, positive = 0.3 }\nattacker", "balance", "up to 1.1"),
        ("attacker", "balance = { negative = 0.5, positive = 0.3 }\nattacker", "balance", "up to 0.8"),
        ("attacker", "validation_rows = 9\nattacker", "validation =", "come from one place"),
        ("attacker", "test_rows = 0\nattacker", "test_rows", "holds no rows"),
    ],
)  # fmt: skip
def test_mistakes_of_a_data_set_are_said_with_their_line(recipe, old, new, line, told):  # noqa: F811
    assert told in mistake(recipe(GRADIENT, head=HEAD.replace(old, new, 1)), line)
