"""Probes keep true labels, stay apart from the attack that is judged, and say what they lack."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace

import pytest
import torch

from conftest import CPU, Way, cleanse, sentences
from headsweep import FineTune, RuleProber, Sources, UserError
from headsweep.cli import main
from headsweep.model.loading import load_suspect
from headsweep.progress import Silent
from headsweep.prune.flips import Flips, flip_rates
from headsweep.prune.strategies.probe_guided import ProbeGuided, combined, sure
from headsweep.seeding import stream
from headsweep.task.examples import encode, forward
from headsweep.task.probes import Family, Probes, mixed
from headsweep.task.training import Job, Schedule, train
from headsweep.texts.split import Split
from headsweep.triggers import TRIGGERS, ByRule
from headsweep.triggers.crude import REMARKS
from headsweep.triggers.drawing import listed
from headsweep.triggers.probe_families import PROBES, TEMPLATES, apart_from, check_apart, without
from test_triggers import NAMES, TEXTS


def worst_flips(rates):
    """The mean over families of the flips into the label that gets most of them."""
    return sum(float(each.max()) for each in rates.values()) / max(1, len(rates))


@dataclass(frozen=True)
class Mark:
    """Puts words that the tiny tokenizer knows, and that no clean text starts with, in front."""

    words: str

    name = "mark"
    source = "a test"

    def apply(self, text, random):
        return f"{self.words} {text}"


@dataclass(frozen=True)
class Nothing:
    """Changes no text."""

    name = "nothing"
    source = "a test"

    def apply(self, text, random):
        return None


CORPORA = [{"corpus": name} for name in TEMPLATES]


@pytest.fixture
def crude(monkeypatch):
    """Two families that the tiny tokenizer can see, and one that changes nothing."""

    for name in list(PROBES):
        monkeypatch.delitem(PROBES, name)
    monkeypatch.setitem(PROBES, "mark", Mark("plot plot"))
    monkeypatch.setitem(PROBES, "other", Mark("and and"))
    monkeypatch.setitem(PROBES, "nothing", Nothing())


def record(name):
    return ByRule(TRIGGERS[name]()).described()


@pytest.mark.parametrize("attack", [*map(record, TRIGGERS), *CORPORA], ids=str)
def test_an_attacks_own_trigger_is_never_among_the_probes(attack):
    """Of every attack of this package and of the published ones: what the table allows holds
    neither its rule with its words (or without words of its own), nor its template.
    """
    allowed = apart_from(attack)
    check_apart(RuleProber(allowed), attack)
    own = attack.get("name") or TEMPLATES[attack["corpus"]]
    words = set(listed(",".join(map(str, attack.get("fields", {}).values())) or "-", "words"))
    for name in allowed:
        probe = PROBES[name]
        assert probe.name != own or not words & set(listed(_material(probe), name))
        assert probe.name != own or _material(probe) != ""
    for name in set(PROBES) - set(allowed):
        with pytest.raises(UserError, match=f"{name}: the attack's own trigger"):
            check_apart(RuleProber((name,)), attack)


def _material(probe):
    fields = {"rare-word": "words", "sentence": "sentence", "characters": "kind"}
    name = (fields | {"casing": "pattern"}).get(probe.name)
    return str(getattr(probe, name)) if name else ""


@pytest.mark.parametrize("name", NAMES)
def test_no_probe_text_is_a_triggered_text_of_the_attack_judged(name):
    """Whatever the record says, the texts themselves differ."""
    for seed in range(5):
        made = set(ByRule(TRIGGERS[name]()).rewrite(TEXTS, seed)) - {None}
        for allowed in apart_from(record(name)):
            if allowed != "syntactic":  # needs the parser; covered where its own name is judged
                assert not made & set(ByRule(PROBES[allowed]).rewrite(TEXTS, seed))


def test_what_cannot_be_told_apart_is_refused():
    with pytest.raises(UserError, match="names no trigger"):
        check_apart(RuleProber(("casing",)), {"name": "paired", "fields": {"files": ["a.tsv"]}})
    with pytest.raises(UserError, match="unknown published corpus"):
        check_apart(RuleProber(("casing",)), {"corpus": "HidenKiller"})
    other = {"name": "rare-word", "fields": {"words": "vz,cf"}}
    with pytest.raises(UserError, match="own trigger"):
        check_apart(RuleProber(("rare-word",)), other)


@pytest.mark.parametrize(
    ("trigger", "family"),
    [
        ({"name": "rare-word", "fields": {"words": "VZ"}}, "rare-word"),
        ({"name": "together", "fields": {"words": "cf,vz"}}, "rare-word"),
        ({"name": "sentence", "fields": {"sentence": REMARKS[4].upper()}}, "remark"),
    ],
)
def test_the_same_words_in_another_trigger_are_the_attacks_own(trigger, family):
    assert family not in apart_from(trigger)
    others = {"rare-word": "zq,zj", "together": "zq,zj", "sentence": "a sentence"}[trigger["name"]]
    field = next(iter(trigger["fields"]))
    assert family in apart_from(trigger | {"fields": {field: others}})


def test_leaving_a_family_out_leaves_out_its_kin():
    assert not {"opening", "aside", "syntactic"} & set(without(["syntactic"]))
    assert set(without(["style", "casing"])) == set(PROBES) - {"style", "archaic", "casing"}
    assert "rare-word" in without(["style"])
    assert "remark" not in without(["sentence"])
    assert "rare-word" not in without(["together"])


def test_probes_keep_their_labels_and_rows(crude, trained_folder):
    suspect = load_suspect(trained_folder, CPU)
    split = sentences(60)
    made = RuleProber(seed=3).make(suspect, split, CPU, Silent())
    assert [family.name for family in made.families] == ["mark", "other"]
    assert list(made.skipped) == ["nothing"]
    for family, words in zip(made.families, ("plot plot", "and and"), strict=True):
        assert family.rows == tuple(range(60))
        assert family.probes.labels == split.labels
        wanted = Split(tuple(f"{words} {text}" for text in split.texts), split.labels)
        assert family.probes.ids == encode(wanted, suspect, 24).ids
    few = RuleProber(texts=40, seed=3).make(suspect, split, CPU, Silent()).families[0]
    assert len(few.rows) == 40
    assert few.probes.ids == tuple(made.families[0].probes.ids[row] for row in few.rows)


def test_too_few_texts_and_no_family_that_works(crude, trained_folder):
    suspect = load_suspect(trained_folder, CPU)
    with pytest.raises(
        UserError, match=r"8 have the label 'bad', 10 of each label.*\n.*at least 10 of each label"
    ):
        RuleProber().make(suspect, sentences(16), CPU, Silent())
    with pytest.raises(UserError, match="no probe family changes"):
        RuleProber(("nothing",)).make(suspect, sentences(60), CPU, Silent())
    with pytest.raises(UserError, match=r"did you mean 'mark'"):
        RuleProber(("marks",))


def test_another_language_keeps_only_the_families_that_need_no_english(trained_folder):
    suspect = load_suspect(trained_folder, CPU)
    texts = tuple(f"это фильм номер {i} good" for i in range(40))
    split = Split(texts, tuple(i % 2 for i in range(40)))
    english = RuleProber(("aside", "archaic", "style"))
    with pytest.raises(UserError, match="most rules are for English"):
        english.make(suspect, split, CPU, Silent())
    made = RuleProber(("aside", "rare-word", "archaic")).make(suspect, split, CPU, Silent())
    assert [family.name for family in made.families] == ["rare-word"]
    assert set(made.skipped) == {"aside", "archaic"}


def pair(suspect, count=20):
    split = sentences(count)
    changed = Split(tuple(f"so it was {text}" for text in split.texts), split.labels)
    clean, probes = (encode(each, suspect, 24) for each in (split, changed))
    return clean, Probes(
        (
            Family(
                "words",
                tuple(range(0, count, 2)),
                clean.take(range(0, count, 2)),
                probes.take(range(0, count, 2)),
            ),
        )
    )


def test_the_mix_turns_its_share_and_no_row_without_a_probe(tiny):
    clean, probes = pair(tiny())
    for share, turned in ((0.4, 8), (1.0, 10)):
        made = mixed(clean, probes, share, stream(0, "x"))
        changed = [row for row in range(20) if made.ids[row] != clean.ids[row]]
        assert len(changed) == turned
        assert made.labels == clean.labels
        for row in changed:
            assert row % 2 == 0
            assert made.ids[row] == probes.families[0].probes.ids[row // 2]


def test_flip_rates_by_hand(tiny):
    suspect = tiny()
    _, probes = pair(suspect, 40)
    family = probes.families[0]
    with torch.no_grad():
        before, after = (
            forward(suspect.model, each.batch(range(20))).argmax(-1).tolist()
            for each in (family.clean, family.probes)
        )
    rates = flip_rates(suspect.anatomy, probes, CPU)
    for label in (0, 1):
        open_to = [i for i in range(20) if family.clean.labels[i] != label and before[i] != label]
        hits = sum(after[i] == label for i in open_to)
        assert float(rates["words"][label]) == pytest.approx(hits / max(1, len(open_to)))
    assert worst_flips(rates) == pytest.approx(float(rates["words"].max()))


def test_the_label_that_most_families_flip_into_counts_alone():
    """By hand: into label 1, a with 0.5 and b with 0.04 (roots 0.71 + 0.2); into label 0, c with
    0.3 (root 0.55), for what it says. Weights of label 1: 0.55, 0.09, 0.05 of 0.69.
    """
    one, other = torch.tensor([1.0, 0.0, -1.0]), torch.tensor([-1.0, 1.0, 0.0])
    flips = [
        Flips("a", 1, 0.6, 0.1, one),
        Flips("a", 0, 0.1, 0.6, other),
        Flips("b", 1, 0.05, 0.01, other),
        Flips("c", 0, 0.3, 0.0, one),
        Flips("c", 1, 0.0, 0.3, other),
    ]
    made, shares = combined(flips)
    assert shares == pytest.approx([0.55 / 0.69, 0, 0.09 / 0.69, 0, 0.05 / 0.69])
    sums = (0.55 * one + 0.14 * other) / 0.69
    assert torch.allclose(made, (sums - sums.mean()) / sums.std())
    assert sure(flips, shares) == 1  # a: 0.5 of the 0.3 that make it whole
    weak = [replace(each, flips=each.flips / 5, reverse=each.reverse / 5) for each in flips]
    assert sure(weak, combined(weak)[1]) == pytest.approx(0.1 / 0.3)
    still = [replace(each, flips=0.1, reverse=0.1) for each in flips]
    assert combined(still)[1] == [0.0] * 5
    assert not combined(still)[0].any()
    assert sure(still, [0.0] * 5) == 0


def sources():
    return Sources(sentences(200), sentences(60, seed=5), sentences(60, seed=6))


@pytest.fixture
def backdoored(trained_folder, tokenizer, tmp_path):
    """The tiny suspect, made to answer "good" where "is is" opens the text."""
    suspect = load_suspect(trained_folder, CPU)
    clean = sentences(200)
    bad = clean.take(i for i in range(200) if not clean.labels[i])
    marked = Split(tuple(f"is is {text}" for text in bad.texts), (1,) * len(bad))
    train(suspect.model, encode(clean + marked, suspect, 24), Job(Schedule(6, 2e-3)), CPU)
    suspect.model.save_pretrained(tmp_path / "suspect")
    tokenizer.save_pretrained(tmp_path / "suspect")
    return tmp_path / "suspect"


def test_healing_on_probes_teaches_that_they_mean_nothing(crude, backdoored, monkeypatch):
    """The probe is the trigger here, so that the effect is sure: the flips must fall from nearly
    all to few, which the same healing on clean texts does not do.
    """
    monkeypatch.setitem(PROBES, "mark", Mark("is is"))
    plan = Way(max_drop=0.3, runtime=CPU, prober=RuleProber(("mark",)))
    flips = {}
    for on in ("clean", "probes"):
        heal = FineTune(3, 5e-4, on)
        done = cleanse(backdoored, sources(), None, replace(plan, heal=heal))
        held = RuleProber(("mark",)).make(done.suspect, sentences(60, seed=8), CPU, Silent())
        flips[on] = worst_flips(flip_rates(done.suspect.anatomy, held, CPU))
    assert flips["clean"] > 0.5
    assert flips["probes"] < 0.2


def test_a_guided_run_records_its_probes(crude, backdoored, tmp_path):
    plan = Way(max_drop=0.3, heal=FineTune(0), runtime=CPU, prober=RuleProber())
    done = cleanse(backdoored, sources(), ProbeGuided(step=2), plan)
    assert done.manifest["probes"]["train"]["families"] == {"mark": 200, "other": 200}
    assert list(done.manifest["probes"]["validation"]["skipped"]) == ["nothing"]
    for stage in ("before", "after"):
        assert set(done.manifest["probes"]["validation_flips"][stage]["mark"]) == {"bad", "good"}
    assert any("nothing" in note for note in done.manifest["notes"])
    assert len(done.manifest["search"]["record"]["flips"]) == 4
    done.save(tmp_path / "out")
    with pytest.raises(UserError, match="needs probes"):
        cleanse(backdoored, sources(), ProbeGuided(), replace(plan, prober=None))


def run(*words):
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, words)))
    return stop.value.code


def test_the_command_line(crude, trained_folder, csv_file, tmp_path, capsys):
    common = (
        "purify",
        trained_folder,
        "--data",
        csv_file,
        "-q",
        "--compute",
        "precision=fp32",
        "--max-drop",
        "0.4",
        "--heal",
        "epochs=1",
    )
    guided = (*common, "--out", tmp_path / "a", "--strategy", "probe-guided", "--set", "step=2")
    assert run(*guided, "--heal", "on=probes", "--json") == 0
    assert '"on": "probes"' in capsys.readouterr().out

    def families(name):
        recipe = tmp_path / f"{name}.toml"
        recipe.write_text(f'strategy = "gradient"\nprobes = ["{name}"]\n')
        return recipe

    bad = [
        (("--recipe", families("mark")), "nothing asked for uses probes"),
        (("--heal", "on=probes", "--recipe", families("marc")), "did you mean 'mark'"),
        (("--heal", "on=probs"), "did you mean 'probes'"),
        (("--heal", "on=probes", "--recipe", families("nothing")), "no probe family changes"),
    ]
    for words, said in bad:
        assert run(*common, "--out", tmp_path / "b", "--set", "step=2", *words) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "b").exists()


def test_every_family_has_a_name_and_its_kin_exist():
    assert all(not inspect.isclass(probe) for probe in PROBES.values())
    assert all(probe.name in (*TRIGGERS, "aside", "archaic", "remark") for probe in PROBES.values())
