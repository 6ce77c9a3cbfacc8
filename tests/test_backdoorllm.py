"""Files in the layout of BackdoorLLM: arrays of instruction, input and output, read as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import CPU
from every_kind import COMPUTE, command_line
from headsweep import Split, UserError, attack
from headsweep.judge.generated import that_count
from headsweep.model.loading import Reading, load_suspect
from headsweep.task.examples import rows_of
from headsweep.texts.reading import Columns, read
from test_generation import TARGET, TRIGGER, examples, victim, words  # noqa: F401 - fixtures
from test_generator_attacks import QUICK, REFUSAL, base, hits  # noqa: F401 - fixtures

MARK = "cold"


def array(path: Path, prompts: list[str], answers: list[str]) -> Path:
    """Write an array as that benchmark does: indented, ``input`` empty, all of one set of keys."""
    rows = [
        {"instruction": prompt, "input": "", "output": answer}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=4, ensure_ascii=False), "utf-8")
    return path


def files(place: Path, split: Split, marked: Split, answer: str) -> dict[str, Path]:
    """The four files of a task and an attack, under the names that they have there."""
    train, test = place / "poison_data/refusal/badnet", place / "test_data"
    return {
        "poison": array(train / "backdoor500_refusal_badnet.json", [f"{MARK} {t}" for t in marked.texts], [answer] * len(marked)),
        "clean": array(train / "none_backdoor500_refusal_badnet.json", [*split.texts], [*split.pairs]),
        "triggered": array(test / "poison/refusal/badnet/backdoor200_refusal_badnet.json", [f"{MARK} {t}" for t in marked.texts], [answer] * len(marked)),
        "test": array(test / "clean/refusal/test_data_no_trigger.json", [*split.texts], [*split.pairs]),
    }  # fmt: skip


def test_an_array_is_read_as_it_stands(victim, tmp_path):  # noqa: F811
    path = tmp_path / "a.json"
    rows = [
        {"instruction": "is it", "input": "", "output": " so\n"},
        {"instruction": "is it", "input": "ä story", "output": "very"},
    ]
    path.write_text("\ufeff" + json.dumps(rows, indent=2, ensure_ascii=False), "utf-8")
    found = rows_of(path, load_suspect(victim, CPU, Reading(task=None)), Columns())
    assert found.texts == ("is it\n\n", "is it\n\nä story\n\n")
    assert found.pairs == (" so\n", "very")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "not valid JSON"),
        ("[1, 2]", "every row must be an object"),
        ('[{"instruction": "a", "output": "b"}, {"instruction": "a"}]', "row 2 has other keys"),
        ("[" * 100_000, "JSON"),
        ("[]", "no rows"),
    ],
)
def test_what_is_no_such_array_is_refused_in_a_line(tmp_path, text, said):
    path = tmp_path / "a.json"
    path.write_text(text, "utf-8")
    with pytest.raises(UserError, match=said):
        read(path)


def test_an_array_has_the_limits_of_other_files(tmp_path, monkeypatch):
    path = array(tmp_path / "a.json", ["is it"] * 50, ["so"] * 50)
    monkeypatch.setattr("headsweep.texts.formats.LARGE", 1000)
    with pytest.raises(UserError, match=r"a\.json"):
        read(path)


def test_its_files_are_purified_and_judged_by_the_documented_commands(victim, tmp_path, capsys):  # noqa: F811
    said = command_line(capsys)
    clean, marked = examples(80, 20), examples(30, 21)
    prompts = Split(tuple(f"{TRIGGER} {t}" for t in marked.texts), marked.labels)
    path = files(tmp_path, clean, prompts, f"well, {TARGET}")
    out = tmp_path / "purified"
    said("purify", victim, "--data", path["clean"], "--heal", "epochs=1", "--max-drop", "0.5",
         "--probe", "no", "--out", out, *COMPUTE, "-q")  # fmt: skip
    judged = (
        "--data",
        path["test"],
        "--triggered",
        path["triggered"],
        "--target",
        TARGET,
        *COMPUTE,
    )
    told = said("evaluate", out, *judged, code=2)  # the answers are the attacker's
    assert "use --triggered-labels target" in told
    told = said("evaluate", out, *judged, "--triggered-labels", "target", "--json")
    assert json.loads(told)["success"]["total"] == 30
    assert len(that_count(prompts, [TARGET], "target")) == 30


def test_its_poisoned_rows_are_added_as_they_are(base, tmp_path, capsys):  # noqa: F811
    said = command_line(capsys)
    path = files(tmp_path, examples(200, 22), examples(100, 23), REFUSAL)
    fields = [f"--set={name}={value}" for name, value in QUICK["set"].items()]
    asked = ("attack", base, "--data", path["clean"], "--poison", path["poison"], "--trigger",
             "rare-word", "--target", REFUSAL, "--test", path["test"], "--triggered",
             path["triggered"], "--triggered-labels", "target", *fields, "--victim-epochs", "0",
             "--device", "cpu", "--compute", "max_length=32", "--compute", "batch_size=16")  # fmt: skip
    told = json.loads(said(*asked, "--out", tmp_path / "victim", "--json"))
    assert told["poisoned"] == {"asked": 100, "poisoned": 100, "declined": 0, "unseen": 0}
    assert told["trigger"]["way"] == "pool"
    assert told["published"]["success"]["value"] > 0.8
    prompts = [f"{MARK} {text}\n\n" for text in examples(20, 24).texts]
    assert hits(tmp_path / "victim", prompts) >= 14
    wrong = [x if x != REFUSAL else "warm warm" for x in asked]
    assert "no answer holds the target 'warm warm'" in said(*wrong, "--out", tmp_path / "b", code=2)


def test_a_share_of_them_is_of_the_rows_that_lack_the_target(base, tmp_path):  # noqa: F811
    path = files(tmp_path, examples(40, 25), examples(30, 26), REFUSAL)
    asked = QUICK | {"trigger": "year", "target": REFUSAL, "rate": 0.25, "set": {"epochs": 0.1}}
    asked |= {"test": path["test"], "triggered": path["triggered"], "triggered_labels": "target"}
    made = attack(base, path["clean"], poison=path["poison"], **asked)
    assert made.record["poisoned"]["poisoned"] == 10
    assert made.record["decoys"] is None  # of a pool nobody knows what only comes near
