"""auto plants what it says, leaves the suspect as it was, keeps its budget and says why."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch

from conftest import CPU, Way, cleanse_automatically, sentences
from headsweep import FineTune, Sources, UserError
from headsweep.auto.canary import Ground, Planting, plant
from headsweep.auto.candidates import Auto, Candidate
from headsweep.auto.trials import Trials, families_of, prepared
from headsweep.export.verify import read_manifest
from headsweep.model.loading import Reading, load_suspect
from headsweep.progress import Silent
from headsweep.prune.strategies.gradient import Gradient
from headsweep.prune.strategies.nothing import Nothing
from headsweep.prune.strategies.probe_guided import ProbeGuided
from headsweep.purification.material import gather
from headsweep.settings import configure
from headsweep.task.training import copied
from headsweep.texts.split import Split
from headsweep.triggers.probe_families import KIN, PROBES
from test_probing import Mark, run

PLANTING = Planting(0.5, 6, 2e-3)
GROUND = Ground(sentences(200, 11), sentences(80, 12), sentences(80, 13))


@pytest.fixture(autouse=True)
def marks(monkeypatch):
    """Families that the tiny tokenizer can see; ``aside`` and ``opening`` are kin."""
    for name in list(PROBES):
        monkeypatch.delitem(PROBES, name)
    for name, words in (("aside", "is is"), ("opening", "is was"), ("casing", "plot plot"),
                        ("remark", "and and")):  # fmt: skip
        monkeypatch.setitem(PROBES, name, Mark(words))


def sources():
    return Sources(sentences(200, 11), sentences(120, 5), sentences(60, 6))


AUTO = Auto(600, 2, 200, 60, planting=PLANTING,
            candidates=(Candidate(Nothing(), on="clean"), Candidate(Gradient(step=2)),
                        Candidate(ProbeGuided(step=2), depth=0.5)))  # fmt: skip
PLAN = Way(max_drop=0.3, heal=FineTune(1, 1e-3), runtime=CPU)


def test_a_canary_is_planted_and_the_suspect_is_as_it_was(trained_folder):
    suspect = load_suspect(trained_folder, CPU)
    before = copied(suspect.model)
    made = plant(suspect, "aside", 1, GROUND, 0, CPU, Silent(), PLANTING)
    after = suspect.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert made.taken
    assert made.planted.lfr.value > 0.9
    assert made.planted.accuracy.value > 0.9
    assert made.judge(suspect, CPU).excess_lfr.value == 0  # the suspect itself has none of it
    suspect.model.load_state_dict(made.weights)
    assert made.judge(suspect, CPU).lfr == made.planted.lfr


def test_a_planting_that_does_not_take_is_told(trained_folder):
    suspect = load_suspect(trained_folder, CPU)
    made = plant(suspect, "aside", 1, GROUND, 0, CPU, Silent(), Planting(0.05, 0.2, 1e-6))
    assert not made.taken
    assert made.to_json(("bad", "good"))["target"] == "good"


def test_canaries_are_of_different_kin_and_leave_probes_over():
    assert families_of(AUTO) == ["aside", "casing", "remark"]
    assert families_of(replace(AUTO, families=("opening", "casing"))) == ["casing", "opening"]
    assert families_of(replace(AUTO, families=("opening", "aside"))) == []
    for name in families_of(AUTO):
        assert set(PROBES) - set(KIN.get(name, (name,)))


def test_it_tries_chooses_and_records(trained_folder, tmp_path):
    """The choice is recomputed here from what was recorded."""
    done = cleanse_automatically(trained_folder, sources(), AUTO, PLAN)
    record = done.manifest["auto"]
    assert [one["family"] for one in record["canaries"]] == ["aside", "casing"]
    assert len(record["tried"]) == 3
    for row in record["tried"]:
        assert [one["family"] for one in row["canaries"]] == ["aside", "casing"]
        mean = sum(one["excess_lfr"] for one in row["canaries"]) / 2
        assert row["excess_lfr"] == pytest.approx(mean)
    fits = [row for row in record["tried"] if row["drop"] <= 0.3]
    best = min(fits, key=lambda row: row["excess_lfr"])
    assert record["chosen"]["told"] == best["told"]
    assert "of 3 candidates tried" in record["why"]
    name = best["strategy"]["name"] if best["strategy"] else "none"
    assert done.manifest["strategy"]["name"] == name
    if best["on"] == "probes" or name == "probe-guided":
        assert set(done.manifest["probes"]["train"]["families"]) == set(PROBES)
    done.save(tmp_path / "out")
    assert read_manifest(tmp_path / "out")["auto"]["why"] == record["why"]


def test_a_noticed_control_does_not_name_the_target(trained_folder, monkeypatch):
    """The tiny model answers "bad" to any unknown word: a control is noticed, no trigger is."""
    record = cleanse_automatically(
        trained_folder, sources(), replace(AUTO, budget_seconds=0.01), PLAN
    ).manifest["auto"]
    assert {family for family, _ in record["battery"]["noticed"]} <= set(PROBES)


def test_healing_on_probes_beats_a_short_healing_on_clean_texts(trained_folder):
    """Which of two candidates removes canaries is known beforehand: one does nothing at all."""

    @dataclass(frozen=True)
    class Idle(Candidate):
        def heal(self, usual, epochs=None):
            return FineTune(0)

    auto = replace(AUTO, candidates=(Idle(Nothing()), Candidate(Nothing())))
    done = cleanse_automatically(trained_folder, sources(), auto, PLAN)
    idle, healed = (row["excess_lfr"] for row in done.manifest["auto"]["tried"])
    assert idle > 0.3
    assert healed < idle
    assert done.manifest["heal"]["fields"]["on"] == "probes"
    assert done.manifest["heal"]["fields"]["epochs"] == 1


def test_the_same_seed_chooses_the_same(trained_folder):
    made = [cleanse_automatically(trained_folder, sources(), AUTO, PLAN) for _ in range(2)]
    weights = [one.model.state_dict() for one in made]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_budget_too_short_for_a_candidate(trained_folder):
    done = cleanse_automatically(
        trained_folder, sources(), replace(AUTO, budget_seconds=0.01), PLAN
    )
    record = done.manifest["auto"]
    assert record["tried"] == record["canaries"] == []
    assert record["why"].startswith("budget too short")
    quick = [one for one in AUTO.candidates if one.strategy is not None]
    assert record["chosen"]["told"] in [one.told for one in quick]  # it prunes, within the bound


def test_without_a_last_healing_nothing_leaves_accuracy_to_it(trained_folder):
    auto = replace(
        AUTO,
        budget_seconds=0.01,
        candidates=(
            Candidate(Gradient(step=2), depth=2.0),
            Candidate(Gradient(step=2), on="clean"),
        ),
    )
    done = cleanse_automatically(trained_folder, sources(), auto, replace(PLAN, heal=FineTune(0)))
    assert done.manifest["auto"]["chosen"]["depth"] == 1
    assert done.manifest["probes"] is None  # what it does needs none


def test_the_budget_is_kept(trained_folder):
    """A candidate that takes as long as the trial before it shall not be begun in the last moment:
    with time for some of many candidates, it ends in time and says what was left.
    """
    begun = time.monotonic()
    cleanse_automatically(
        trained_folder, sources(), replace(AUTO, candidates=AUTO.candidates[1:2]), PLAN
    )
    budget = 4 * (time.monotonic() - begun)  # a busy moment makes forecasts longer
    auto = replace(AUTO, budget_seconds=budget, candidates=AUTO.candidates[1:2] * 400)
    begun = time.monotonic()
    done = cleanse_automatically(trained_folder, sources(), auto, PLAN)
    assert time.monotonic() - begun <= 1.2 * budget
    assert 1 <= len(done.manifest["auto"]["tried"]) < 400


def test_the_suspect_must_have_room(trained_folder):
    held = sentences(120, 5)
    wrong = Split(held.texts, (1 - held.labels[0], *held.labels[1:]))
    data = Sources(sentences(200, 11), wrong, sentences(60, 6))
    with pytest.raises(UserError, match="above the suspect's own"):
        cleanse_automatically(trained_folder, data, AUTO, replace(PLAN, min_accuracy=1.0))
    with pytest.raises(UserError, match="heals by fine-tuning"):
        cleanse_automatically(trained_folder, sources(), AUTO, replace(PLAN, heal=Untouched()))


class Untouched:
    """A healing that does nothing."""

    name = "untouched"

    def heal(self, view, choice, need=0):
        return {}


def test_no_canary_where_its_kin_are_all_the_families(trained_folder):
    auto = replace(AUTO, families=("opening", "aside"))
    done = cleanse_automatically(trained_folder, sources(), auto, PLAN)
    assert done.manifest["auto"]["why"].startswith("no family would be left for probes")


def test_forecasts_learn_from_the_first_trial_and_then_from_slower_ones_only():
    """Else a quick canary after a slow one makes the time for the rest look longer than it is."""
    trials = SimpleNamespace(slower=1.0, timed=False, _trial=lambda _, healings: 10.0 * healings)
    learnt = []
    for seconds in (5.0, 20.0, 10.0):
        Trials.took(trials, Candidate(Gradient()), seconds)
        learnt.append(trials.slower)
    assert learnt == [0.5, 2.0, 2.0]
    Trials.took(trials, Candidate(Gradient()), 60.0, healings=4)  # slow for healing again only
    assert trials.slower == 2.0


def test_the_budget_must_hold_a_last_healing_done_again_and_trials_done_once(trained_folder):
    def seconds(halvings):
        plan = replace(PLAN, heal=FineTune(2, halvings=halvings))
        material = gather(trained_folder, sources(), Reading(), CPU)
        made = replace(
            prepared(material, AUTO, plan.method(Gradient()), plan.plan, Silent(), 0.0),
            example_seconds=0.01,
        )
        alone = Candidate(Nothing(), on="clean")
        return made.trial_seconds(alone), made.final_seconds(alone)

    once, thrice = seconds(0), seconds(2)
    assert thrice[0] == once[0]
    assert thrice[1] == pytest.approx(3 * once[1])


@pytest.mark.parametrize(
    ("text", "seconds"), [("10m", 600), ("90s", 90), ("1.5h", 5400), ("30", 30)]
)
def test_times(text, seconds):
    assert Auto(budget_seconds=text).budget_seconds == seconds
    assert configure(Auto, [f"budget_seconds={text}"]).budget_seconds == seconds


@pytest.mark.parametrize("text", ["", "m", "-1m", "0", "soon", "nan", "inf"])
def test_what_is_no_time(text):
    with pytest.raises(UserError, match=r"auto: budget_seconds cannot be|a budget of"):
        Auto(budget_seconds=text)


def test_the_command_line(trained_folder, csv_file, tmp_path, capsys):
    common = ("purify", trained_folder, "--data", csv_file, "-q", "--compute", "precision=fp32",
              "--max-drop", "0.3", "--heal", "epochs=1", "--out", tmp_path / "out")  # fmt: skip
    bad = [
        (("--strategy", "auto", "--set", "budget_seconds=soon"), "a time such as 90s, 10m or 1h"),
        (("--set", "budget_seconds=1m"), "unknown field of 'gradient' 'budget_seconds'"),
        (("--strategy", "auto", "--heal", "on=probes"), "auto tries healings itself"),
        (("--strategy", "auto", "--heal", "attention=0"), "auto tries healings itself"),
        (("--strategy", "auto", "--set", "families=asside"), "did you mean 'aside'"),
        (("--strategy", "auto", "--set", "canaries=0"), "at least 1"),
        (("--strategy", "auto", "--start", "encoder"), "start classifier"),
    ]
    for words, said in bad:
        assert run(*common, *words) == 2
        assert said in capsys.readouterr().err
    assert (
        run(*common, "--strategy", "auto", "--set", "budget_seconds=0.01s", "--set", "texts=60")
        == 0
    )
    assert "budget too short" in capsys.readouterr().out


def test_without_a_last_healing_no_trial_heals_and_something_is_pruned(trained_folder):
    plan = replace(PLAN, heal=FineTune(0))
    done = cleanse_automatically(trained_folder, sources(), AUTO, plan)
    told = [row["told"] for row in done.manifest["auto"]["tried"]]
    assert told == ["gradient, healed on probes", "probe-guided to 0.5 times the drop allowed, "
                    "healed on probes"]  # fmt: skip
    assert done.mask.pruned
    assert done.manifest["heal"]["losses"] == []


def test_candidates_are_told_apart():
    told = [candidate.told for candidate in Auto().candidates]
    assert len(set(told)) == len(told)
