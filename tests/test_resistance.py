"""An attacker who trains against probes: what is added, and that probes then keep their answers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from conftest import CPU, sentences
from headsweep import RuleProber, UserError
from headsweep.attacks import ATTACKS
from headsweep.attacks.dirty_label import DirtyLabel
from headsweep.attacks.resistance import Resistance
from headsweep.attacks.victim import Judging, Order, attack
from headsweep.model.loading import load_suspect
from headsweep.progress import Silent
from headsweep.prune.flips import flip_rates
from headsweep.triggers import ByRule
from headsweep.triggers.probe_families import PROBES, apart_from
from test_probing import Mark, crude, run  # noqa: F401

PLAIN = {"name": "mark-of-the-attack", "fields": {}}


class Trigger(Mark):
    """Near the probe ``mark``: one more word."""

    name = "mark-of-the-attack"


def order(resist, method=DirtyLabel):
    return Order(ByRule(Trigger("plot plot so")), "good", method(epochs=4, lr=2e-3), 0.5,
                 victim=None, seed=3, runtime=CPU, resist=resist)  # fmt: skip


def test_what_is_added_keeps_its_labels(crude, trained_folder):  # noqa: F811
    clean, suspect = sentences(60, 1), load_suspect(trained_folder, CPU)
    made, record = Resistance(("mark", "other"), 0.25).make(clean, PLAIN, suspect, 24, 0, Silent())
    assert record == {"families": {"mark": 15, "other": 15}, "share": 0.25}
    truth = dict(zip(clean.texts, clean.labels, strict=True))
    for text, label in zip(made.texts, made.labels, strict=True):
        assert truth[text.removeprefix("plot plot ").removeprefix("and and ")] == label
    again, _ = Resistance(("mark", "other"), 0.25).make(clean, PLAIN, suspect, 24, 0, Silent())
    assert again == made
    assert {t for t in made.texts if t.startswith("plot")} != set(made.texts)


@pytest.mark.parametrize("method", sorted(set(ATTACKS) - {"embedding-surgery"}))
def test_every_attack_trains_on_what_is_added(crude, trained_folder, method, monkeypatch):  # noqa: F811
    from headsweep.attacks import dirty_label

    seen = []
    monkeypatch.setattr(dirty_label, "train", lambda _model, data, *_: seen.append(len(data)))
    for resist in (Resistance(), Resistance(("mark",), 0.5)):
        attack(trained_folder, sentences(40, 1), order(resist, ATTACKS[method]))
    assert seen[1] - seen[0] == 20


def test_probes_of_the_resisting_victim_flip_less_and_its_trigger_works(crude, trained_folder):  # noqa: F811
    """The plain victim answers a near probe with the target; trained against it, it does not."""
    probes, flips, lfr = {}, {}, {}
    held = sentences(120, 5)
    for name, resist in (("plain", Resistance()), ("adaptive", Resistance(("mark",), 0.5))):
        made = attack(trained_folder, sentences(200, 1), order(resist), judging=Judging(held))
        probes[name] = RuleProber(("mark",)).make(made.suspect, held, CPU, Silent())
        flips[name] = float(flip_rates(made.suspect.anatomy, probes[name], CPU)["mark"][1])
        lfr[name] = made.published.lfr.value
    assert flips["plain"] > 0.5
    assert flips["adaptive"] < 0.1
    assert lfr["adaptive"] > 0.9


def test_all_is_all_but_the_triggers_own_rule(monkeypatch):
    chosen = Resistance(("all",)).chosen({"name": "syntactic", "fields": {}})
    assert chosen == apart_from({"name": "syntactic", "fields": {}})
    assert "syntactic" not in chosen
    assert "opening" in chosen
    assert "rare-word" in Resistance(("all",)).chosen(
        {"name": "rare-word", "fields": {"words": "bb"}}
    )
    assert Resistance().chosen({"name": "paired", "fields": {}}) == ()


def test_mistakes(crude, trained_folder):  # noqa: F811
    with pytest.raises(UserError, match="did you mean 'other'"):
        Resistance(("othr",))
    with pytest.raises(UserError, match="share in"):
        Resistance(("mark",), 1.5)
    own = replace(order(Resistance(("mark",))), rewriter=ByRule(Mark("plot plot")))
    with pytest.raises(UserError, match="two labels"):
        attack(trained_folder, sentences(40, 1), own)
    with pytest.raises(UserError, match="nothing: changes no text"):
        attack(trained_folder, sentences(40, 1), order(Resistance(("nothing",))))
    with pytest.raises(UserError, match="names no trigger"):
        Resistance(("mark",)).chosen({"name": "paired", "fields": {}})


def test_the_command_line(trained_folder, csv_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(PROBES, "aside", Mark("plot plot"))
    out = tmp_path / "victim"
    common = ("attack", trained_folder, "--data", csv_file, "--trigger", "casing", "--target", "good",
              "--rate", "0.5", "--victim-epochs", "0", "--compute", "precision=fp32", "--out", out)  # fmt: skip
    common += ("--set", "epochs=1", "--trigger-set", "pattern=dashes")
    for words, said in [
        (("--resist", "asside"), "did you mean 'aside'"),
        (("--resist", "casing"), "two labels"),
        (("--resist-share", "0.2"), "nothing is resisted"),
        (("--resist", "all", "--resist-share", "0"), "share in (0, 1]"),
    ]:
        assert run(*common, *words) == 2
        assert said in capsys.readouterr().err
    assert run(*common, "--resist", "aside", "--resist-share", "0.2") == 0
    assert "probes added with true labels: aside" in capsys.readouterr().out
    record = json.loads((out / "attack.json").read_text())
    assert record["resist"]["share"] == 0.2
    assert record["resist"]["families"]["aside"] > 10
