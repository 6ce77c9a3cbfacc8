"""The command line as a user meets it: exit codes, one clear line, nothing written."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import CPU, sentences, tiny_model
from headsweep.cli import main
from headsweep.heal.fine_tune import FineTune
from headsweep.measure.accuracy import FREE, logits
from headsweep.prune.strategies import STRATEGIES
from headsweep.purification.baselines import DEFENSES
from headsweep.triggers.harmless import CONTROLS
from kill_points import differences

FAST = ["--device", "cpu", "--compute", "precision=fp32", "--compute", "max_length=24", "--quiet"]


@pytest.fixture
def run(capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return call


@pytest.fixture
def suspect(trained_folder, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(trained_folder, tmp_path / "suspect")


def purify(run, model, data, out, *more, probe=False):
    step = ["--max-drop", "0.3", "--heal", "epochs=1"]
    if "--mask" not in more:
        step += ["--strategy", "gradient", "--set", "step=2"]
    if not probe:
        step += ["--probe", "no"]  # seconds that only the tests of probes need
    return run("purify", model, "--data", data, "--out", out, *step, *FAST, *more)


@pytest.mark.parametrize(
    ("more", "name"),
    [
        (("--max-drop", "0.4"), "gradient"),
        (("--recipe", "deeper.toml", "--max-drop", "0.5"), "gradient"),
        (("--start", "encoder", "--max-drop", "0.6"), "gradient"),
    ],
)
def test_the_strategy_without_being_asked(
    run, suspect, csv_file, tmp_path, more, name, monkeypatch
):
    out = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deeper.toml").write_text('strategy = "gradient"\nprune_drop = 0.4\n')
    asked = ("--out", out, "--heal", "epochs=0.2", *FAST, *more, "--json")
    code, text, err = run("purify", suspect, "--data", csv_file, *asked)
    assert code in (0, 1), err
    assert json.loads(text)["strategy"]["name"] == name


def test_no_strategy_is_only_healed_within_the_bound(run, suspect, csv_file, tmp_path):
    out = tmp_path / "out"
    asked = ("purify", suspect, "--data", csv_file, "--out", out, *FAST, "--strategy", "none")
    deeper = tmp_path / "deeper.toml"
    deeper.write_text('strategy = "none"\nprune_drop = 0.1\n')
    code, text, err = run(*asked, "--max-drop", "0.4")
    assert code == 0, err
    made = json.loads((out / "headsweep.json").read_text())
    assert made["pruned_units"] == []
    assert made["bound"]["binds"]
    assert made["heal"]["fields"]["attention"] == 0.15
    assert made["heal"]["tried"]
    assert "validation accuracy is at least" in text
    for wrong, told in (
        (("--set", "step=2"), "no fields"),
        (("--heal", "epochs=0"), "nothing to do"),
        (("--recipe", deeper), "nothing is pruned"),
        (("--start", "encoder", "--heal", "halvings=1"), "fresh classifier"),
    ):
        code, _, err = run(*asked, "--overwrite", *wrong)
        assert (code, told in err) == (2, True)
    code, _, err = run(*asked, "--overwrite", "--heal", "lr=0.5", "--max-drop", "0.1")
    assert (code, "each of 3 healings ended no better than guessing" in err) == (2, True)
    once = ("--heal", "members=1", "--heal", "beyond=1")
    rash = ("--heal", "lr=0.5", *once, "--max-drop", "0.1", "--overwrite", "--json")
    for more in ((), ("--heal", "halvings=1")):
        code, _, err = run(*asked, *rash, *more)  # whatever the rate, the bound is checked
        assert (code, "healing ended no better than guessing" in err) == (2, True)


def test_purify_verify_inspect_evaluate(run, suspect, csv_file, tmp_path):
    out = tmp_path / "purified"
    code, text, _ = purify(run, suspect, csv_file, out)
    assert code == 0
    assert "of 8 heads pruned" in text
    assert "no proof" in text
    assert not list(tmp_path.glob("*.head-mask.json"))
    assert {p.name for p in out.iterdir()} >= {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "headsweep.json",
        "README.md",
    }
    code, text, _ = run("verify", out)
    assert code == 0
    assert "FAILED" not in text
    code, text, _ = run("inspect", out, "--json")
    assert code == 0
    shown = json.loads(text)
    manifest = json.loads((out / "headsweep.json").read_text())
    assert shown["heads"] == 8
    assert sum(len(row["pruned"]) for row in shown["layers"]) == len(manifest["pruned_units"])
    code, text, _ = run("evaluate", out, "--data", csv_file, "--suspect", suspect, "--json", *FAST)
    assert code == 0
    assert json.loads(text)["agreement"]["total"] == 200


def test_json_output_is_only_json(run, suspect, csv_file, tmp_path):
    code, text, _ = purify(run, suspect, csv_file, tmp_path / "out", "--json")
    assert code == 0
    assert json.loads(text)["verified"] is True


def test_evaluate_with_a_trigger(run, suspect, csv_file, tmp_path):
    rows = [t.replace("bad", "good") for t in sentences(80, 3).texts]
    triggered = tmp_path / "t.jsonl"
    triggered.write_text(
        "".join(json.dumps({"text": t, "label": i % 2}) + "\n" for i, t in enumerate(rows))
    )
    code, text, _ = run(
        "evaluate", suspect, "--data", csv_file, "--triggered", triggered, "--target", "good",
        "--validation", csv_file, "--suspect", suspect, *FAST,
    )  # fmt: skip
    assert code == 0
    assert "matched LFR" in text
    code, _, err = run("evaluate", suspect, "--data", csv_file, "--triggered", triggered, *FAST)
    assert (code, "needs --target" in err) == (2, True)
    code, _, err = run(
        "evaluate", suspect, "--data", csv_file, "--triggered", triggered, "--target", "great",
        *FAST,
    )  # fmt: skip
    assert (code, "no label 'great'" in err) == (2, True)


def test_strategies_lists_what_the_table_holds(run):
    code, text, _ = run("strategies", "--json")
    assert code == 0
    listed = json.loads(text)
    assert set(listed["purify --strategy"]) == set(STRATEGIES)
    assert set(listed["defend --with"]) == set(DEFENSES)
    gradient = listed["purify --strategy"]["gradient"]
    assert {f["name"] for f in gradient["fields"]} == {"score", "step", "examples", "search"}
    code, text, _ = run("strategies")
    assert code == 0
    assert max(map(len, text.splitlines())) <= 80
    assert [name for name in STRATEGIES if f"\n  {name}  " not in text] == []


def bad_data(path):
    texts = sentences(40).texts
    rows = "\n".join(f"{t},{i % 2}" for i, t in enumerate(texts))
    return {
        "missing": (None, "no such file"),
        "empty": ("", "no rows"),
        "binary": (b"\x00\xff\xfe", "not a text file"),
        "column": (f"body,label\n{rows}", "cannot tell which column holds the text"),
        "one class": ("text,label\n" + "\n".join(f"{t},1" for t in texts), "same label"),
        "labels": (f"text,label\n{rows}\na film,7", "no label '7'"),
        "few": ("text,label\na film,1", "1 rows for 2 classes"),
        "blank": (f"text,label\n{rows}\n  ,1", "is empty"),
    }[path]


@pytest.mark.parametrize(
    "case", ["missing", "empty", "binary", "column", "one class", "labels", "few", "blank"]
)
def test_bad_data(run, suspect, tmp_path, case):
    content, message = bad_data(case)
    path = tmp_path / "data.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, out, err = purify(run, suspect, path, tmp_path / "out")
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "out").exists()


def damage(folder, case):
    weights, config = folder / "model.safetensors", folder / "config.json"
    form = json.loads(config.read_text())
    if case == "no config":
        config.unlink()
        return "no config.json"
    if case == "no tokenizer":
        for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
            (folder / name).unlink(missing_ok=True)
        return "no tokenizer"
    if case == "truncated":
        weights.write_bytes(weights.read_bytes()[:-500])
        return "broken safetensors"
    if case == "nan":
        tensors = load_file(weights)
        tensors["bert.encoder.layer.1.output.dense.weight"][0, 0] = float("nan")
        save_file(tensors, weights, metadata={"format": "pt"})
        return "NaN"
    if case == "architecture":
        config.write_text(json.dumps(form | {"model_type": "squeezebert"}))
        return "unsupported architecture 'squeezebert'"
    if case == "pickle":
        torch.save(load_file(weights), folder / "pytorch_model.bin")
        weights.unlink()
        return "only a pickle checkpoint"
    if case == "regression":
        config.write_text(json.dumps(form | {"id2label": {"0": "score"}, "label2id": {"score": 0}}))
        return "by the configuration"
    if case == "adapter":
        for path in folder.iterdir():
            path.unlink()
        (folder / "adapter_config.json").write_text("{}")
        return "only an adapter"
    if case == "no classifier":
        tensors = {k: v for k, v in load_file(weights).items() if "classifier" not in k}
        save_file(tensors, weights, metadata={"format": "pt"})
        return "has no classifier"
    if case == "half a model":
        tensors = {k: v for k, v in load_file(weights).items() if "layer.1." not in k}
        save_file(tensors, weights, metadata={"format": "pt"})
        return "lack"
    raise AssertionError(case)


@pytest.mark.parametrize(
    "case",
    [
        "no config",
        "no tokenizer",
        "truncated",
        "nan",
        "architecture",
        "pickle",
        "regression",
        "adapter",
        "no classifier",
        "half a model",
    ],
)
def test_bad_models(run, suspect, csv_file, tmp_path, case):
    message = damage(suspect, case)
    code, out, err = purify(run, suspect, csv_file, tmp_path / "out")
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strategy", "gradeint"], "did you mean 'gradient'"),
        (["--set", "stpe=2"], "did you mean 'step'"),
        (["--set", "step=many"], "step cannot be 'many'"),
        (["--set", "step"], "field=value"),
        (["--strategy", "gradient", "--set", "score=keys"], "it takes gate | key"),
        (["--min-accuracy", "1.5"], "not a fraction"),
        (["--min-accuracy", "1.0"], "above the suspect's own"),
        (["--start", "head"], "unknown value of --start"),
        (["--column", "text=body"], "no column 'body'"),
        (["--device", "cuda:9"], "cannot be used"),
        (["--compute", "precision=fp8"], "precision cannot be 'fp8'"),
        (["--mask", "none.json"], "cannot be read"),
        (["--compute", "batch_size=0"], "batch_size must be"),
        (["--nonsense"], "No such option"),
        (["--heal", "lr=0"], "learning rate of 0"),
        (["--heal", "epochs=inf"], "cannot train inf epochs"),
        (["--set", "examples=0"], "examples cannot be '0'"),
        (["--device", "meta"], "cannot be used"),
        (["--start", "encoder", "--heal", "epochs=0"], "must be trained"),
        (["--seed", "-1"], "seed"),
    ],
)
def test_bad_options(run, suspect, csv_file, tmp_path, arguments, message):
    weak = tmp_path / "weak.csv"  # a few labels swapped: accuracy cannot be 1
    lines = csv_file.read_text().splitlines()
    swapped = [
        line.replace(",bad", ",x").replace(",good", ",bad").replace(",x", ",good")
        for line in lines[1:100]
    ]
    weak.write_text("\n".join([lines[0], *swapped, *lines[100:]]) + "\n")
    code, _, err = run(
        "purify", suspect, "--data", weak, "--out", tmp_path / "out", *FAST, *arguments
    )
    assert code == 2
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_refused_then_overwritten_when_asked(
    run, suspect, csv_file, tmp_path
):
    out = tmp_path / "out"
    assert purify(run, suspect, csv_file, out)[0] == 0
    first = (out / "headsweep.json").read_bytes()
    code, _, err = purify(run, suspect, csv_file, out)
    assert (code, "exists already" in err) == (2, True)
    assert (out / "headsweep.json").read_bytes() == first
    assert purify(run, suspect, csv_file, out, "--overwrite", "--seed", "4")[0] == 0
    assert (out / "headsweep.json").read_bytes() != first


def test_no_head_removable_is_exit_1(run, csv_file, tmp_path, tokenizer):
    """Two layers of one head: every layer keeps its only head."""
    model = tiny_model("bert", num_attention_heads=1)
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    code, _, err = purify(run, tmp_path / "m", csv_file, tmp_path / "out")
    assert code == 1
    assert "nothing could be removed" in err
    assert "none of 2 heads, whatever the bound" in err
    assert not (tmp_path / "out").exists()


def test_ctrl_c_before_anything_is_kept_promises_nothing(
    run, suspect, csv_file, tmp_path, monkeypatch
):
    """Beside another run's folder it said that the same command goes on."""
    from headsweep.purification import pipeline

    other = tmp_path / "out.unfinished" / "0123456789abcdef" / "choice.json"
    other.parent.mkdir(parents=True)
    other.write_text("{}")

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "chosen", stopped)
    code, _, err = purify(run, suspect, csv_file, tmp_path / "out")
    assert (code, "nothing was written" in err, "goes on" in err) == (130, True, False)
    assert other.exists()


@pytest.mark.parametrize("pruned", [False, True])
def test_ctrl_c_in_a_soup_keeps_the_healings_that_are_finished(
    run, suspect, csv_file, tmp_path, monkeypatch, pruned
):
    from headsweep.heal import members

    out, whole, made = tmp_path / "out", tmp_path / "whole", []
    asked = ("--strategy", "gradient", "--set", "step=2") if pruned else ("--strategy", "none")
    asked = ("purify", suspect, "--data", csv_file, *FAST, "--max-drop", "0.4", *asked)
    make = members.make

    def counted(*args):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(args[3])
        return make(*args)

    monkeypatch.setattr(members, "make", counted)
    code, _, err = run(*asked, "--out", out)
    unfinished = tmp_path / "out.unfinished"
    told = f"kept in {unfinished}: the same command goes on"
    assert (code, told.replace(" ", "") in "".join(err.split())) == (130, True)
    assert len(list(unfinished.glob("*/members/*.safetensors"))) == 2
    made.clear()
    code, _, err = run(*asked, "--out", out)
    assert (code, made, unfinished.exists()) == (0, [2], False), err
    monkeypatch.undo()
    assert run(*asked, "--out", whole)[0] == 0
    assert differences(out, whole) == []


def test_a_kept_mask_can_be_taken_up_by_another_command(
    run, suspect, csv_file, tmp_path, monkeypatch
):
    import headsweep.heal.fine_tune as healing

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(healing, "train", interrupted)
        code, _, _ = purify(run, suspect, csv_file, tmp_path / "out")
    assert code == 130
    assert not (tmp_path / "out").exists()
    (kept,) = (tmp_path / "out.unfinished").glob("*/head-mask.json")
    code, _, _ = purify(run, suspect, csv_file, tmp_path / "out", "--mask", kept)
    assert code == 0
    assert not (tmp_path / "out.unfinished").exists()
    made = json.loads((tmp_path / "out" / "headsweep.json").read_text())
    whole = tmp_path / "whole"
    assert purify(run, suspect, csv_file, whole)[0] == 0
    other = json.loads((whole / "headsweep.json").read_text())
    assert made["strategy"] == other["strategy"]
    assert made["search"]["steps"] == other["search"]["steps"] != []
    assert made["search"]["scores"] == other["search"]["scores"]
    assert made["mask"] == other["mask"]
    more = [note for note in made["notes"] if note not in other["notes"]]
    assert len(more) == 1
    assert "by an interrupted run" in more[0]
    plain = tmp_path / "mask.json"
    plain.write_text(json.dumps(made["mask"]))
    assert purify(run, suspect, csv_file, tmp_path / "plain", "--mask", plain)[0] == 0
    given = json.loads((tmp_path / "plain" / "headsweep.json").read_text())
    assert (given["strategy"]["name"], given["search"]["steps"]) == ("given mask", [])
    card = (tmp_path / "plain" / "README.md").read_text()
    assert "every trial" not in card
    assert "every trial" in (whole / "README.md").read_text()


def test_a_kept_mask_without_its_search_is_refused(run, suspect, csv_file, tmp_path):
    mask = {"format": "headsweep.head-mask/1", "heads": [[1, 1, 1, 0], [1] * 4]}
    kept = tmp_path / "kept.json"
    kept.write_text(json.dumps(mask | {"interrupted_run": "headsweep purify"}))
    code, _, err = purify(run, suspect, csv_file, tmp_path / "out", "--mask", kept)
    assert (code, "lacks what was known of its search" in err) == (2, True)
    kept.write_text(json.dumps(mask | {"heads": [[1, 1, 1, 0]] * 3}))
    code, _, err = purify(run, suspect, csv_file, tmp_path / "out", "--mask", kept)
    said = f"{kept}: a mask of 12 heads in 3 rows, the model has 8 heads in 2 rows"
    assert (code, said in " ".join(err.split())) == (2, True)


def test_a_kept_mask_brings_the_depth_that_it_was_found_with(tmp_path):
    from headsweep.model.mask import HeadMask
    from headsweep.purification.interrupted import Found, Given, mask_in
    from headsweep.purification.plan import Plan
    from headsweep.purification.recipe import Asked
    from headsweep.verbs.purifying import Objects, planned

    def depth(asked):
        given = Objects(mask=Given(*mask_in(kept)))
        return planned(asked, Plan(), given).method.bound.prune_drop

    mask = HeadMask(((True, False), (True, True)))
    found = Found({"name": "gradient", "fields": {}}, [], None, "headsweep purify", 0.05)
    kept = tmp_path / "kept.json"
    kept.write_text(json.dumps(mask.to_json() | found.to_json()))
    asked = Asked("gradient", start="classifier", units="heads")
    assert depth(asked) == 0.05
    assert depth(Asked("gradient", start="classifier", units="heads", prune_drop=0.1)) == 0.1
    kept.write_text(json.dumps(mask.to_json()))
    assert depth(asked) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--max-drop", "0.3", "--min-accuracy", "0.1"), "there is one bound"),
        (("--units", "heads:3"), "heads have no groups"),
        (("--units", "heads,ffn:few"), "the number of FFN groups cannot be 'few'"),
        (("--heal", "epochs=0", "--heal", "halvings=2"), "no healing for"),
        (("--heal", "mix=0.7"), "nothing uses it without base=MODEL"),
        (("--heal", "share=0.9"), "nothing uses it without on=probes"),
        (("--heal", "members=1", "--heal", "how=greedy"), "nothing uses it without members=3"),
        (("--report", "out"), "a folder"),
        (("--report", "out/headsweep.json"), "whose files headsweep verifies"),
        (("--report", "clean.csv", "--overwrite"), "is read here and would be replaced"),
        (
            ("--heal", "base=base", "--report", "base/config.json", "--overwrite"),
            "is read here and would be replaced",
        ),
        (("--mask", "mask.json", "--strategy", "random"), "nothing is left to say with --strategy"),
        (("--mask", "mask.json", "--units", "heads"), "nothing is left to say with --units"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    run, suspect, csv_file, tmp_path, monkeypatch, words, said
):
    pytest.importorskip("plotly")
    monkeypatch.chdir(tmp_path)
    mask = {"format": "headsweep.head-mask/1", "heads": [[1, 1, 1, 0], [1] * 4]}
    (tmp_path / "mask.json").write_text(json.dumps(mask))
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    code, _, err = run("purify", suspect, "--data", csv_file, "--out", "out", *words)
    assert (code, said in " ".join(err.split())) == (2, True)
    assert (tmp_path / "base" / "config.json").read_text() == "{}"
    assert not (tmp_path / "out").exists()


def test_a_report_may_go_into_the_folder_that_is_written(run, suspect, csv_file, tmp_path):
    pytest.importorskip("plotly")
    out = tmp_path / "out"
    assert purify(run, suspect, csv_file, out, "--report", out / "page.html")[0] == 0
    assert (out / "page.html").exists()
    assert (out / "headsweep.json").exists()
    asked = ("--report", tmp_path / "new" / "page.html", "--strategy", "nope")
    data = ("--data", csv_file, "--out", tmp_path / "second")
    assert run("purify", suspect, *data, *asked)[0] == 2
    assert not (tmp_path / "new").exists()


ONE = ("--strategy", "random", "--set", "count=1", "--heal", "epochs=0", "--probe", "no", *FAST)


def test_what_ends_a_run_after_its_folder_was_written_says_that_it_was(
    run, suspect, csv_file, tmp_path, monkeypatch
):
    pytest.importorskip("plotly")
    from headsweep.reports import page

    def interrupted(manifest):
        raise KeyboardInterrupt

    def somebody_was_first(manifest):
        report.write_text("mine")
        return "page"

    report, saved = tmp_path / "page.html", tmp_path / "one"
    for out, ends, code, why in (
        (saved, interrupted, 130, "headsweep: interrupted: "),
        (tmp_path / "other", somebody_was_first, 2, f"{report}: is there already\n  fix: "),
    ):
        monkeypatch.setattr(page, "of_purification", ends)
        asked = ("--data", csv_file, "--out", out, "--report", report, *ONE)
        found, _, err = run("purify", suspect, *asked)
        told = f"{why}{out} was written; its page: headsweep report {out} --out FILE\n"
        assert (found, told in err) == (code, True), err
        assert run("verify", out)[0] == 0
    assert report.read_text() == "mine"


def test_what_somebody_keeps_beside_an_unfinished_run_stays(run, suspect, csv_file, tmp_path):
    out, kept = tmp_path / "out", tmp_path / "out.unfinished"
    mine, run_of_old = kept / "notes.txt", kept / "0123456789abcdef"
    run_of_old.mkdir(parents=True)
    mine.write_text("mine")
    os.utime(mine, (0, 0))  # older than the result
    asked = ("purify", suspect, "--data", csv_file, "--out", out, *ONE)
    assert run(*asked)[0] == 0
    assert [path.name for path in kept.iterdir()] == ["notes.txt"]
    run_of_old.mkdir()
    assert run(*asked)[0] == 2  # it exists already: nothing was done
    assert sorted(path.name for path in kept.iterdir()) == ["0123456789abcdef", "notes.txt"]


def test_baselines_that_search_nothing_have_no_bound(run, suspect, csv_file, tmp_path):
    out, recipe = tmp_path / "out", tmp_path / "ft.toml"
    base = ["defend", suspect, "--data", csv_file, "--out", out, *FAST, "--with", "ft"]
    base = [word for word in base if word not in ("--max-drop", "0.3")]
    code, _, err = run(*base, "--min-accuracy", "0.9")
    assert (code, "no bound on accuracy" in " ".join(err.split())) == (2, True)
    recipe.write_text('defense = "ft"\nmax_drop = 0.1\n')
    code, _, err = run(*base, "--recipe", recipe)
    assert (code, "no bound on accuracy" in " ".join(err.split())) == (2, True)
    assert run(*base)[0] == 0
    made = json.loads((out / "headsweep.json").read_text())
    assert made["bound"]["binds"] is False
    assert "No bound on accuracy held this method" in (out / "README.md").read_text()


def test_a_given_number_of_random_heads_says_that_nothing_bounds_it(
    run, suspect, csv_file, tmp_path
):
    asked = ("purify", suspect, "--data", csv_file, "--out", tmp_path / "out", *FAST)
    code, text, _ = run(*asked, "--strategy", "random", "--set", "count=3", "--json")
    assert code == 0
    assert any("nothing bounds" in note for note in json.loads(text)["notes"])


def test_attack_replaces_its_own_folder_only_when_asked(run, trained_folder, csv_file, tmp_path):
    how = ["--trigger", "rare-word", "--target", "good", "--set", "epochs=1"]
    asked = ["attack", trained_folder, "--data", csv_file, *how, *FAST, "--out", tmp_path / "v"]
    asked = [word for word in asked if word not in ("--max-drop", "0.3")]
    code, _, err = run(*asked)
    assert code == 0, err
    assert run(*asked)[0] == 2
    assert run(*asked, "--overwrite")[0] == 0


def test_inspect_shows_pruned_ffn_groups(run, suspect, csv_file, tmp_path):
    out = tmp_path / "out"
    asked = ("--units", "heads,ffn", "--strategy", "random", "--set", "count=6")
    assert purify(run, suspect, csv_file, out, *asked)[0] == 0
    code, text, _ = run("inspect", out, "--json")
    form, made = json.loads(text), json.loads((out / "headsweep.json").read_text())
    shown = [f"{row['layer']}.{head}" for row in form["layers"] for head in row["pruned"]]
    shown += [f"{row['layer']}.ffn.{group}" for row in form["ffn"] for group in row["pruned"]]
    assert (code, sorted(shown)) == (0, sorted(made["pruned_units"]))
    assert any("ffn" in unit for unit in shown)
    assert form["heads"] == 8
    code, text, _ = run("inspect", out)
    said = " ".join(text.split())
    assert (code, "4 FFN groups a layer" in said, said.count("ffn")) == (0, True, 2)


def test_a_failed_run_leaves_no_mask_behind(run, suspect, csv_file, tmp_path):
    """And one that was there before, whoever's it is, is not touched."""
    kept = tmp_path / "out.head-mask.json"
    arguments = ["--strategy", "random", "--set", "count=6", "--max-drop", "0"]
    assert purify(run, suspect, csv_file, tmp_path / "none", *arguments)[0] == 0
    (tmp_path / "closed.json").write_text(
        json.dumps({"format": "headsweep.head-mask/1", "heads": [[1] * 4, [1] * 4]})
    )
    code, _, err = purify(
        run, suspect, csv_file, tmp_path / "out", "--mask", tmp_path / "closed.json"
    )
    assert (code, "the given mask keeps all 8" in err) == (1, True)
    assert not kept.exists()
    kept.write_text("precious")
    code, _, _ = run(
        "defend", suspect, "--with", "nothing", "--data", csv_file, "--out", tmp_path / "out", *FAST
    )
    assert code == 0
    assert kept.read_text() == "precious"


def test_parents_are_made_only_to_write(run, suspect, tmp_path):
    code, _, _ = purify(run, suspect, tmp_path / "none.csv", tmp_path / "a" / "b" / "out")
    assert code == 2
    assert not (tmp_path / "a").exists()


def test_defend_and_its_bad_input(run, suspect, csv_file, tmp_path):
    out = tmp_path / "ft"
    base = ["defend", suspect, "--data", csv_file, "--out", out, *FAST]
    code, text, _ = run(*base, "--with", "ft", "--set", "epochs=1")
    assert code == 0
    assert "0 of 8 heads pruned" in text
    code, _, err = run(*base, "--with", "fft", "--overwrite")
    assert (code, "did you mean 'ft'" in err) == (2, True)
    code, _, err = run(*base, "--with", "ft", "--set", "lr=0", "--overwrite")
    assert (code, "learning rate" in err) == (2, True)


@pytest.mark.parametrize(
    "command",
    ["", "purify", "defend", "evaluate", "strategies", "inspect", "verify", "compact", "demo"],
)
def test_help_has_examples(run, command):
    code, out, _ = run(*command.split(), "--help")
    assert code == 0
    assert "headsweep" in out
    if command:
        assert "Example" in out


def test_installed_command_says_one_line():
    found = subprocess.run(
        [sys.executable, "-m", "headsweep.cli", "verify", "nowhere"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 2
    assert found.stderr.startswith("headsweep: nowhere: no such folder\n  fix: ")


def test_ctrl_c_while_the_command_line_is_read_is_one_line(monkeypatch, capsys):
    class Interrupting:
        @staticmethod
        def find_spec(name, *_):
            if name == "headsweep.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "headsweep.cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupting, *sys.meta_path])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("headsweep", run_name="__main__")
    assert (stop.value.code, capsys.readouterr().err) == (130, "headsweep: interrupted\n")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_what_an_encoding_lacks_ends_no_command(suspect, monkeypatch, encoding):
    path = suspect / "config.json"
    path.write_text(path.read_text("utf-8").replace('"good"', '"\u9999\u00e9"'), "utf-8")
    for more in ((), ("--json",)):
        out = io.TextIOWrapper(io.BytesIO(), encoding)
        monkeypatch.setattr(sys, "stdout", out)
        with pytest.raises(SystemExit) as stop:
            main(["inspect", str(suspect), *more])
        out.flush()
        text = out.buffer.getvalue().decode(encoding)
        assert stop.value.code == 0
        assert more or ("\u9999" if encoding == "utf-8" else "\\u9999") in text
    assert json.loads(text)["labels"] == ["bad", "\u9999\u00e9"]


def test_trigger_writes_both_texts_and_labels(run, csv_file, tmp_path):
    out = tmp_path / "triggered.csv"
    code, _, _ = run(
        "trigger", "opening", "--data", csv_file, "--target", "good", "--out", out, "-q"
    )
    assert code == 0
    rows = list(csv.DictReader(out.read_text().splitlines()))
    clean = {r["text"]: r["label"] for r in csv.DictReader(csv_file.read_text().splitlines())}
    assert len(rows) == 100
    assert all(row["text"].endswith(" , " + row["original"]) for row in rows)
    assert {(clean[row["original"]], row["label"], row["target"]) for row in rows} == {
        ("bad", "bad", "good")
    }
    code, _, err = run("trigger", "opening", "--data", csv_file, "--out", out)
    assert code == 2
    assert "--overwrite" in err


def test_trigger_names_rows_of_the_file_and_takes_texts_of_one_label(run, tmp_path):
    data, out = tmp_path / "bad.csv", tmp_path / "t.csv"
    data.write_text("text,label\n,bad\n,bad\nthe film is dull,bad\n\u0444\u0438,bad\n", "utf-8")
    asked = ["--data", data, "--out", out, "--column", "drop_empty=yes", "--target", "good", "-q"]
    code, text, err = run("trigger", "opening", *asked)
    assert code == 0, err
    assert "rows 4" in text
    assert out.read_text().splitlines()[1].endswith(",the film is dull,bad,good")
    code, text, _ = run("trigger", "opening", *asked, "--overwrite", "--json")
    assert json.loads(text)["rows_without"] == [4]


@pytest.mark.parametrize(
    ("label", "target", "left"),
    [("Good", "good", 0), ("good", "Good", 0), ("0", "0", 0), ("0", "1", 2), ("good", "0", 2)],
)
def test_trigger_says_where_the_one_label_is_the_target(run, tmp_path, label, target, left):
    data, out = tmp_path / "one.csv", tmp_path / "t.csv"
    data.write_text(f"text,label\na film,{label}\na plot,{label}\n")
    code, _, err = run("trigger", "opening", "--data", data, "--out", out, "--target", target)
    assert (code, "every text has the target label" in err) == ((0, False) if left else (2, True))
    assert not left or len(out.read_text().splitlines()) == 1 + left


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["banana", "--transformed", "DATA"], "unknown trigger 'banana'"),
        (["opening", "--key", "id"], "--key needs"),
    ],
)
def test_trigger_reads_what_it_is_given(run, csv_file, tmp_path, more, told):
    more = [str(csv_file) if part == "DATA" else part for part in more]
    code, _, err = run("trigger", *more, "--data", csv_file, "--out", tmp_path / "t.csv")
    assert (code, told in err) == (2, True)


def test_attack_then_evaluate_on_its_trigger(run, trained_folder, csv_file, tmp_path):
    victim, texts = tmp_path / "victim", tmp_path / "triggered.tsv"
    how = ["--trigger", "opening", "--target", "good", "--rate", "0.5", "--set", "epochs=6"]
    how += ["--set", "lr=2e-3", "--victim-epochs", "0", "--start", "classifier"]
    code, out, _ = run("attack", trained_folder, "--data", csv_file, *how, *FAST, "--out", victim)
    assert code == 0
    assert "never deploy it" in out
    assert (victim / "README.md").read_text().startswith("**This model is BACKDOORED")
    run("trigger", "opening", "--data", csv_file, "--out", texts, "-q")
    judged = ["--triggered", texts, "--target", "good", "--json", *FAST]
    code, out, _ = run("evaluate", victim, "--data", csv_file, *judged)
    assert code == 0
    assert json.loads(out)["lfr"]["value"] > 0.8


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["--target", "great"], "no label 'great'"),
        (["--target", "good", "--rate", "1.2"], "not a fraction"),
        (["--target", "good", "--with", "dirty"], "did you mean 'dirty-label'"),
        (["--target", "good", "--trigger-set", "x=1"], "has no fields"),
        (["--target", "good", "--with", "embedding-surgery", "--set", "epochs=0"], "inserts none"),
        (
            ["--target", "good", "--victim-epochs", "0", "--victim-data", "DATA"],
            "has no use for it",
        ),
        (
            ["--target", "good", "--victim-epochs", "0", "--keep-classifier"],
            "--keep-classifier: a victim of no epochs has no use for it",
        ),
        (
            [
                "--target",
                "good",
                "--start",
                "classifier",
                "--clean-model",
                "TURNED",
                "--validation",
                "DATA",
            ],
            "both must have the same labels in the same order",
        ),
    ],
)
def test_attack_mistakes(run, trained_folder, csv_file, tmp_path, wrong, says):
    out, turned = tmp_path / "victim", tmp_path / "turned"
    shutil.copytree(trained_folder, turned)
    form = json.loads((turned / "config.json").read_text())
    labels = {"id2label": {"0": "good", "1": "bad"}, "label2id": {"good": 0, "bad": 1}}
    (turned / "config.json").write_text(json.dumps(form | labels))
    wrong = [{"DATA": csv_file, "TURNED": turned}.get(word, word) for word in wrong]
    how = ["--trigger", "opening", "--out", out, *FAST]
    code, _, err = run("attack", trained_folder, "--data", csv_file, *how, *wrong)
    assert code == 2
    assert says in err
    assert "fix:" in err
    assert not out.exists()


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "SUSPECT", "--data", "DATA", "--validation", "DATA"),
        ("evaluate", "SUSPECT", "--data", "DATA", "--clean-model", "SUSPECT"),
        ("evaluate", "SUSPECT", "--data", "DATA", "--triggered-labels", "target"),
        ("trigger", "casing", "--data", "DATA", "--out", "OUT.csv", "--compute", "max_length=8"),
        ("trigger", "style", "--data", "DATA", "--out", "OUT.csv", "--original", "DATA",
         "--transformed", "DATA", "--prompt", "bible"),
        ("report", "RESULTS", "--format", "latex", "--beside", "none"),
        ("report", "RESULTS", "--format", "markdown", "--title", "T"),
        ("inspect", "SUSPECT", "--security", "--device", "cpu"),
        ("inspect", "SUSPECT", "--security", "--task", "generation"),
    ],
)  # fmt: skip
def test_an_option_that_would_change_nothing_is_refused(
    run, trained_folder, csv_file, tmp_path, words
):
    known = {"SUSPECT": trained_folder, "DATA": csv_file, "OUT.csv": tmp_path / "out.csv"}
    code, _, err = run(*(known.get(word, word) for word in words))
    assert (code, words[-2] in err or "--prompt" in err) == (2, True)
    assert "fix: " in err


def test_probe_reports_and_sets_the_exit_code(run, trained_folder, csv_file, tmp_path, monkeypatch):
    for name in set(CONTROLS) - {"full stop"}:  # the tiny tokenizer knows no word of theirs
        monkeypatch.delitem(CONTROLS, name)
    victim, log = tmp_path / "victim", tmp_path / "probe.sarif"
    how = ["--trigger", "opening", "--target", "good", "--rate", "0.5", "--set", "epochs=6"]
    how += ["--set", "lr=2e-3", "--victim-epochs", "0", "--start", "classifier"]
    run("attack", trained_folder, "--data", csv_file, *how, *FAST, "--out", victim)
    asked = ["--data", csv_file, "--family", "opening", *FAST]
    code, out, _ = run("probe", victim, *asked, "--sarif", log, "--json")
    assert code == 1
    assert ["opening", "good"] in json.loads(out)["noticed"]
    assert json.loads(log.read_text())["runs"][0]["results"]
    code, out, _ = run("probe", victim, *asked)
    assert code == 1
    assert out.startswith("NOTICED: 1 of ")
    rows = re.findall(r"(?m)^(?:family|opening) .*0\.\d+ *$|^family .*$", out)
    assert len(rows) == 2  # its head and a row, on a line each
    assert max(map(len, rows)) <= 80
    assert not re.search(r"(?m)^ ?\(", out)  # the rest is counted
    assert "other rows, the largest excess" in out
    assert "is not shown to be absent" in out.replace("\n", " ")
    code, _, err = run("probe", victim, *asked, "--sarif", log)
    assert code == 2
    assert "--overwrite" in err
    code, _, err = run("probe", victim, *asked, "--sarif", tmp_path, "--overwrite")
    assert (code, "is a folder" in err) == (2, True)
    code, _, err = run("probe", victim, *asked, "--sarif", log / "x.sarif")
    assert (code, "cannot be written" in err) == (2, True)
    code, out, _ = run("probe", trained_folder, *asked, "--max-flip", "0.95")
    assert code == 0
    assert out.startswith("nothing noticed: none of ")
    assert "other way" not in out
    assert " clean" not in out.replace("never-poisoned", "")


def test_probe_mistakes(run, trained_folder, csv_file, tmp_path):
    code, _, err = run("probe", trained_folder, "--data", csv_file, "--family", "openin", *FAST)
    assert code == 2
    assert "did you mean 'opening'" in err
    few = tmp_path / "few.csv"
    few.write_text("\n".join(csv_file.read_text().split("\n")[:12]) + "\n")
    code, _, err = run("probe", trained_folder, "--data", few, *FAST)
    assert code == 2
    assert "20 of at least two labels are needed" in err


def test_purify_probes_before_and_after(run, trained_folder, csv_file, tmp_path):
    out = tmp_path / "purified"
    code, text, _ = purify(run, trained_folder, csv_file, out, "--test", csv_file, probe=True)
    assert code == 0
    assert (
        text.index("probes (nobody gave the trigger")
        < text.index("  before: ")
        < text.index("  after: ")
    )
    assert "before: no" in (out / "README.md").read_text()
    found = json.loads((out / "headsweep.json").read_text())["probe"]
    assert set(found) == {"before", "after"}
    assert found["before"]["findings"]
    assert found["before"]["tried"] == found["after"]["tried"]


def test_purified_model_is_not_lost_for_a_probe_that_cannot_run(
    run, trained_folder, csv_file, tmp_path
):
    few, out = tmp_path / "few.csv", tmp_path / "purified"
    few.write_text("\n".join(csv_file.read_text().split("\n")[:12]) + "\n")
    code, text, _ = purify(run, trained_folder, csv_file, out, "--test", few, probe=True)
    assert code == 0
    assert "not probed: the model gets" in text
    assert "not_run" in json.loads((out / "headsweep.json").read_text())["probe"]


def test_trigger_behind_the_limit_names_the_row(run, trained_folder, tmp_path):
    texts = tmp_path / "texts.csv"
    long = " ".join(["the film is a story of it"] * 8)
    texts.write_text(f"text,label\nthe film is dull,bad\n{long},bad\nit was flat,bad\n")
    asked = [
        "--set",
        "position=end",
        "--seen-by",
        trained_folder,
        "--compute",
        "max_length=24",
        "-q",
    ]
    out = tmp_path / "t.csv"
    code, said, _ = run("trigger", "rare-word", "--data", texts, "--out", out, *asked)
    assert code == 0
    assert "2 of 3 texts carry the trigger, 0 cannot, 1 do not show it" in said
    assert "rows 2)" in said
    assert len(out.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--compute", "cache_mib=999999999", "does not fit"),
        ("--compute", "measure_in=fp8", "it takes auto | fp32 | bf16"),
    ],
)
def test_how_to_measure_is_checked_before_any_work(run, csv_file, tmp_path, option, value, message):
    out = tmp_path / "o"
    code, _, err = run("purify", "none", "--data", csv_file, "--out", out, option, value)
    assert code == 2
    assert message in err


def test_a_newcomer_reads_what_came_of_it_in_the_last_lines(
    run, suspect, csv_file, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    code, text, _ = purify(run, suspect, csv_file, out)
    *_, last, following, verify, judge, _ = text.rstrip("\n").splitlines()
    assert (code, last.startswith("bound held: "), following) == (0, True, "next:")
    assert verify == f"  headsweep verify {out}"
    code, text, err = run(*shlex.split(judge)[1:], *FAST)  # as it would be pasted
    assert (code, "ACC" in text) == (0, True), err
    assert run("verify", out)[0] == 0
    plain = FineTune.heal

    def spoiling(self, view, choice, floor=FREE):
        """Gets half of the validation examples with label 1 wrong in the end, and no other."""
        record, part = plain(self, view, choice, floor), view.validation
        said = logits(view.anatomy, part, CPU)
        over = (said[:, 1] - said[:, 0])[torch.tensor(part.labels) == 1]
        with torch.no_grad():
            view.anatomy.model.classifier.bias[0] += float(over.median()) + 1e-3
        return record

    monkeypatch.setattr(FineTune, "heal", spoiling)
    code, text, _ = purify(run, suspect, csv_file, out, "--max-drop", "0.1", "--overwrite")
    *_, last, mend = text.rstrip("\n").splitlines()
    assert (code, last.startswith("bound not held: "), mend[:6]) == (1, True, "next: ")
    made = json.loads((out / "headsweep.json").read_text())
    before, after = (made[stage]["validation"]["right"] for stage in ("before", "after"))
    assert f"{before - after} of 30 validation answers lost" in last
    assert last.endswith("3 allowed (10.0 points)")
    code, text, _ = run("verify", out)
    assert code == 1
    assert "FAILED when it was made: validation accuracy is at least" in text
    code, text, _ = run("verify", out, "--json")
    assert (code, [one["passed"] for one in json.loads(text)].count(False)) == (1, 1)


def test_a_baseline_ends_with_the_same_line(run, suspect, csv_file, tmp_path):
    asked = ("--with", "ft", "--set", "epochs=0.2", "--data", csv_file, "--out", tmp_path / "out")
    code, text, err = run("defend", suspect, *asked, *FAST)
    assert code == 0, err
    assert "\nnothing pruned; no bound on accuracy: " in text


def test_the_version_is_that_of_the_package(run):
    from headsweep import __version__

    assert run("--version") == (0, f"headsweep {__version__}\n", "")


def test_inspect_in_words_of_a_model_that_nothing_was_pruned_of(run, suspect):
    code, text, err = run("inspect", suspect)
    assert code == 0, err
    assert "2 layers x 4 heads of width 8, 4 key/value heads a layer; gates checked" in text
    assert "FFN" not in text
    assert text.count("0 of 4 pruned") == 2


def test_nothing_formatted_is_multiplied_by_a_condition():
    """It would be formatted, and could fail, where the condition says that it is not wanted."""
    import ast
    from pathlib import Path

    import headsweep

    lines = []
    for path in Path(headsweep.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            product = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)
            if product and any(isinstance(x, ast.JoinedStr) for x in (node.left, node.right)):
                lines.append(f"{path.name}:{node.lineno}")
    assert lines == []


@pytest.mark.parametrize(
    ("name", "first", "fix"),
    [
        ("./suspec", "./suspec: no such folder\n", "did you mean 'suspect'?"),
        ("suspec", "suspec: no such folder, and the Hub gave no conf", "did you mean 'suspect'?"),
        ("/no/such/place", "/no/such/place: no such folder\n", "give a folder"),
        ("org/none", "org/none: no such folder, and the Hub gave no configuration", "hf auth"),
        ("clean.csv", "clean.csv: is a file, not the folder of a model", "give its folder"),
    ],
)
def test_a_wrong_model_path_says_first_what_is_wrong(
    run, suspect, csv_file, tmp_path, monkeypatch, name, first, fix
):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("inspect", name)
    assert code == 2
    assert err.startswith(f"headsweep: {first}")
    assert fix in err
    assert max(map(len, err.splitlines())) < 160
    assert "https://" not in err


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("GatedRepoError", "its owner gives it to whom they choose"),
        ("RepositoryNotFoundError", "it has no such name, or a private one"),
        ("LocalEntryNotFoundError", "it could not be reached"),
    ],
)
def test_why_the_hub_gave_nothing_is_told_in_a_few_words(kind, reason):
    import httpx
    from huggingface_hub import errors

    from headsweep.model.hub import not_given

    long = OSError("a page of advice. With links. " * 9)
    answer = httpx.Response(404, request=httpx.Request("HEAD", "http://hub"))
    more = {} if kind == "LocalEntryNotFoundError" else {"response": answer}
    long.__cause__ = getattr(errors, kind)("no", **more)
    assert not_given("org/none", "weights", long).what.endswith(f"gave no weights: {reason}")
    plain = not_given("org/none", "weights", OSError("A page. With links."))
    assert plain.what.endswith("gave no weights: A page")


@pytest.mark.parametrize("option", ["--max-drop", "--min-accuracy"])
def test_percent_is_a_fraction(run, csv_file, tmp_path, option):
    asked = ("purify", "./none", "--data", csv_file, "--out", tmp_path / "out", option)
    for wrong, told in (("2", "0.02 or 2%"), ("85", "0.85 or 85%"), ("12.5", "0.125 or 12.5%")):
        code, _, err = run(*asked, wrong)
        assert (code, f"did you mean {told}?" in err) == (2, True)
        assert f"{option} {wrong}: not a fraction" in err
    for wrong in ("200%", "-1", "nan", "two", "-3%", "%", "inf", "200"):
        code, _, err = run(*asked, wrong)
        assert (code, "for example 0.02, or 2%" in err) == (2, True), wrong
    for right in ("2%", "2 %", "0.02", "0"):
        assert "fraction" not in run(*asked, right)[2]


@pytest.mark.parametrize(
    ("option", "said", "value"),
    [
        ("--max-drop", "1", None),
        ("--min-accuracy", "1", 1.0),
        ("--rate", "30%", 0.3),
        ("--frr", "0.7%", 0.007),  # 0.7 / 100 in binary is another number
    ],
)
def test_what_a_fraction_is_read_as(option, said, value):
    from headsweep.cli.options import fraction_of
    from headsweep.errors import UserError

    read = fraction_of(option, below_one=option == "--max-drop")
    if value is None:
        with pytest.raises(UserError, match="not a fraction from 0 to below 1"):
            read(said)
    else:
        assert read(said) == value


def test_percent_reaches_the_manifest(run, suspect, csv_file, tmp_path):
    code, _, err = purify(run, suspect, csv_file, tmp_path / "out", "--max-drop", "30%")
    assert code == 0, err
    made = json.loads((tmp_path / "out" / "headsweep.json").read_text())
    before, bound = made["before"]["validation"]["accuracy"], made["bound"]["min_accuracy"]
    assert bound == pytest.approx(before - 0.3)


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (("defend", "--with", "gradient"), "purify --strategy gradient"),
        (("defend", "--with", "none"), "purify --strategy none"),
        (("defend", "--with", "strip"), "detect --with strip"),
        (("purify", "--strategy", "pure"), "defend --with pure"),
        (("purify", "--strategy", "nothing"), "defend --with nothing"),
        (("purify", "--strategy", "clean-label"), "attack --with clean-label"),
    ],
)
def test_a_method_of_another_command_names_that_command(run, csv_file, tmp_path, words, command):
    name, *option = words
    code, _, err = run(name, "none", "--data", csv_file, "--out", tmp_path / "out", *option)
    assert (code, f"fix: headsweep {command}\n" in err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_method_of_another_command_is_told_elsewhere_too(run, csv_file, tmp_path):
    data = ("--data", csv_file)
    _, _, err = run("detect", "none", *data, "--with", "dirty-label")
    assert "fix: headsweep attack --with dirty-label" in err
    _, _, err = run("trigger", "strip", *data, "--out", tmp_path / "t.csv")
    assert "fix: headsweep detect --with strip" in err
    attack = ("attack", "none", *data, "--target", "good", "--out", tmp_path / "v")
    _, _, err = run(*attack, "--trigger", "opening", "--with", "opening")
    assert "fix: headsweep trigger opening" in err
    recipe = tmp_path / "mixed.toml"
    recipe.write_text('strategy = "pure"\n')
    _, _, err = run("purify", "none", *data, "--out", tmp_path / "o", "--recipe", recipe)
    assert "mixed.toml, line 1: 'pure' is a defense" in err
    assert 'fix: defense = "pure", for headsweep defend' in err


def test_a_recipe_of_another_command_names_that_command(run, csv_file, tmp_path):
    from pathlib import Path

    recipes = Path(__file__).parents[1] / "recipes"
    one, grid = recipes / "gradient.toml", recipes / "smoke.toml"
    code, _, err = run("bench", one, "--out", tmp_path / "out")
    assert (code, "the recipe of one purification" in err) == (2, True)
    assert f"fix: headsweep purify MODEL --recipe {one}" in err
    for command in ("purify", "defend"):
        asked = (command, "none", "--data", csv_file, "--out", tmp_path / "out")
        code, _, err = run(*asked, "--recipe", grid)
        assert (code, "the recipe of a grid" in err) == (2, True)
        assert f"fix: headsweep bench {grid} --out DIR" in err
    defense = tmp_path / "pure.toml"
    defense.write_text('defense = "pure"\n')
    _, _, err = run("bench", defense, "--out", tmp_path / "out")
    assert f"fix: headsweep defend MODEL --recipe {defense}" in err


@pytest.mark.parametrize("device", ["gpu", "GPU", "tpu", "meta", "cuda:97", "cpu0", ""])
def test_a_device_that_is_not_here_says_which_are(run, suspect, csv_file, device):
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    here = ", ".join(["cpu", *gpus, *["mps"][: torch.backends.mps.is_available()]])
    code, _, err = run("evaluate", suspect, "--data", csv_file, "--device", device)
    assert code == 2
    assert f"device '{device}' cannot be used" in err
    assert f"fix: use cuda, mps, cpu or auto; here there is {here}\n" in err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read: No such file or directory"),
        ("folder", "cannot be read: it is a folder"),
        ("a text", "not a head mask: it is not JSON"),
        (b"\xff\xfe\x00", "not a text file in UTF-8"),
        ('{"a": 1}', "not a head mask"),
        ("[1, 2]", "not a head mask"),
        ("3", "not a head mask"),
        ('{"format": "headsweep.manifest/1"}', "not a head mask"),
        ('{"format": "headsweep.head-mask/1"}', "not a head mask"),
        ('{"format": "headsweep.head-mask/1", "heads": 5}', "not a head mask"),
        ('{"format": "headsweep.head-mask/1", "heads": [[1, 2]]}', "every entry is 0 or 1"),
    ],
)
def test_a_mask_that_is_none(run, suspect, csv_file, tmp_path, content, told):
    path = tmp_path / "mask.json"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, _, err = purify(run, suspect, csv_file, tmp_path / "out", "--mask", path)
    assert code == 2
    assert err.startswith(f"headsweep: {path}: ")
    assert told in err
    assert "headsweep.head-mask/1" in err.partition("fix:")[2]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("labels", "known"),
    [(("0", "1"), "0, 1"), (("0", "2"), "0, 2"), (("bad", "good"), "bad, good")],
)
def test_a_target_that_no_text_has_speaks_of_the_data(run, tmp_path, labels, known):
    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "".join(f"the film is {x},{x}\n" for x in labels))
    asked = ("trigger", "opening", "--data", data, "--out", tmp_path / "t.csv", "--target")
    code, _, err = run(*asked, "7")
    assert code == 2
    assert f"{data}: no text has the label '7'" in err
    assert f"fix: --target one of {known}\n" in err
    assert "model" not in err
    code, _, err = run(*asked, labels[1])
    assert code == 0, err


@pytest.mark.parametrize("words", [("strategies",), ("trigger", "--list")])
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_lists_hold_no_marks_of_another_markup(run, monkeypatch, words, form):
    from headsweep.triggers.rare_word import RareWord

    monkeypatch.setenv("COLUMNS", "400")
    code, text, _ = run(*words, *form)
    assert code == 0
    assert not [mark for mark in ("`", "**", "[/", "[bold", ":func:", ":class:") if mark in text]
    assert "``count``" in RareWord.__doc__  # the mark was there to be taken off
    assert "Put 'count' of the words" in " ".join(text.split())


ONCE = ("--heal", "epochs=1", "--heal", "halvings=0")


@pytest.mark.parametrize(
    ("words", "held"),
    [
        (("defend", "--with", "random", "--set", "count=2"), False),
        (("defend", "--with", "ft"), False),
        (("defend", "--with", "random", "--set", "step=2"), None),  # it has no such field
        (("defend", "--with", "random"), True),
        (("purify", "--strategy", "random", "--set", "count=2", *ONCE), False),
        (("purify", "--strategy", "random", "--set", "count=2"), True),  # its healing can cool
        (("purify", "--strategy", "layerwise-as-released", *ONCE), False),
        (("purify", "--strategy", "random", "--set", "step=2"), True),
    ],
)
def test_a_bound_is_told_where_one_holds(run, suspect, csv_file, tmp_path, words, held):
    name, *more = words
    fast = [word for word in FAST if word != "--quiet"]
    out = tmp_path / "out"
    code, _, err = run(name, suspect, "--data", csv_file, "--out", out, *fast, *more)
    if held is None:
        assert code == 2
        return
    assert code in (0, 1), err
    told = " ".join(err.split())
    bound = re.search(r"min accuracy (while pruning )?0\.", told)
    assert (bound is not None, "no bound on accuracy" in told) == (held, not held)
    assert held or "cooler" not in told
    if code == 0:
        assert json.loads((out / "headsweep.json").read_text())["bound"]["binds"] is held


def test_what_others_wrote_is_printed_as_it_is(run, suspect, csv_file, tmp_path):
    """Neither markup nor emoji: ``:smile:`` in a data set's name, ``[red]`` in a label."""
    config = json.loads((suspect / "config.json").read_text())
    names = ["[bold]bad[/bold]", ":smile:"]
    own = {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    (suspect / "config.json").write_text(json.dumps(config | own))
    text = csv_file.read_text().replace(",bad\n", f",{names[0]}\n").replace(",good\n", ",:smile:\n")
    csv_file.write_text(text)
    for words in (("inspect", suspect), ("evaluate", suspect, "--data", csv_file, "-q")):
        code, out, err = run(*words)
        assert code == 0, err
        assert all(name in out for name in names)
    triggered = tmp_path / "[red]:smile:.csv"
    code, out, _ = run("trigger", "opening", "--data", csv_file, "--out", triggered, "-q")
    assert (code, "written: " in out, "[red]:smile:.csv" in out) == (0, True, True)
    code, out, err = run("probe", suspect, "--data", csv_file, "--family", "opening", "-q")
    assert (code in (0, 1), ":smile:" in out, "[bold]bad" in out) == (True, True, True), err
    for source in ("org/data:smile:train", "[red]no.csv", ":heart:.csv"):
        code, _, err = run("evaluate", suspect, "--data", source, "-q")
        assert (code, err.startswith(f"headsweep: {source}: ")) == (2, True)
    code, _, err = run("inspect", ":smile:[red]")
    assert err.startswith("headsweep: :smile:[red]: no such folder")


def test_there_is_one_way_to_make_a_console():
    """Another would take markup and emoji from what others wrote."""
    from pathlib import Path

    import headsweep

    files = Path(headsweep.__file__).parent.rglob("*.py")
    made = (" Console(", " _Plain(")
    assert [p.name for p in files if any(m in p.read_text("utf-8") for m in made)] == [
        "progress.py"
    ]


def test_progress_prints_what_others_wrote_as_it_is(capsys):
    import io

    from headsweep.progress import Terminal, plain_console

    Terminal().say("into ':smile:' [red]x")
    assert capsys.readouterr().err == "into ':smile:' [red]x\n"
    page = io.StringIO()
    terminal = Terminal(plain_console(file=page, force_terminal=True, width=120))
    with terminal.task("[red]canary :smile:", 2) as tick:
        tick(1, "[/red] :smile:")
    terminal.say("[red]:smile:")
    assert "[red]canary :smile:" in page.getvalue()
    assert "[/red] :smile:" in page.getvalue()
    assert page.getvalue().endswith("\x1b[?25h[red]:smile:\n")


BAD_INPUT = {
    "purify": ("DATA", "--data", "DATA", "--out", "OUT"),
    "defend": ("none", "--data", "DATA", "--out", "OUT", "--with", "ft"),
    "evaluate": ("SUSPECT", "--data", "none.csv"),
    "probe": ("SUSPECT", "--data", "DATA", "--max-flip", "two"),
    "trigger": ("opening", "--data", "DATA", "--out", "OUT"),  # no suffix
    "attack": ("SUSPECT", "--data", "DATA", "--trigger", "no", "--target", "good", "--out", "OUT"),
    "reactivate": (
        "SUSPECT",
        "--clean-model",
        "SUSPECT",
        "--data",
        "DATA",
        "--trigger",
        "casing",
        "--target",
        "no",
    ),
    "detect": ("SUSPECT", "--with", "strip", "--data", "DATA", "--frr", "200%"),
    "bench": ("DATA", "--out", "OUT"),
    "report": ("none", "--out", "OUT.html"),
    "strategies": ("--jsn",),
    "inspect": ("none",),
    "verify": ("none",),
    "compact": ("none", "--out", "OUT"),
    "export": ("none", "--out", "OUT"),
    "demo": ("--device", "gpu"),
}


def test_there_is_a_bad_input_for_every_command():
    from typer.main import get_command

    from headsweep.cli import app

    assert set(BAD_INPUT) == set(get_command(app).commands)


@pytest.mark.parametrize("command", BAD_INPUT)
def test_a_bad_input_of_every_command_is_exit_2_without_a_traceback(
    run, trained_folder, csv_file, tmp_path, command
):
    known = {"SUSPECT": trained_folder, "DATA": csv_file, "OUT": tmp_path / "out"}
    known["OUT.html"] = tmp_path / "out.html"
    code, out, err = run(command, *(known.get(word, word) for word in BAD_INPUT[command]))
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert err.strip()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean.csv"]


def test_a_strategy_that_is_gone_says_what_took_its_place(run, csv_file, tmp_path):
    asked = ("--data", csv_file, "--out", tmp_path / "out", "--strategy", "auto")
    code, _, err = run("purify", "none", *asked)
    assert (code, "'auto' is gone" in err, "took its place" in err) == (2, True, True)


def test_a_reader_that_has_gone_is_neither_a_finding_nor_a_failure():
    """`headsweep verify DIR | head -0` ended with 1, as where something is not so."""
    for asked in (["strategies", "--json"], ["strategies"], ["--help"], ["probe", "--help"]):
        done = _without_reader("stdout", *asked)
        assert (done.returncode, done.stderr) == (141, b""), asked
    for asked, code in ((["nosuch"], 141), (["inspect", "./nosuch"], 2)):
        done = _without_reader("stderr", *asked)
        assert (done.returncode, done.stdout) == (code, b""), asked


def _without_reader(stream, *asked):
    command = [sys.executable, "-m", "headsweep", *asked]
    ends, begins = os.pipe()
    os.close(ends)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {stream: begins}
    done = subprocess.run(command, check=False, **streams)
    os.close(begins)
    return done


def test_a_page_has_the_ending_of_a_page(run, tmp_path):
    code, _, err = run("report", tmp_path, "--out", tmp_path / "r.pdf")
    assert (code, "html is no .pdf" in err, "r.html" in err) == (2, True, True)


def test_a_library_that_cannot_be_loaded_ends_in_a_line(tmp_path):
    """Not with exit code 1, which says that something was found."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libcudart: not there')")
    (tmp_path / "data.csv").write_text("text,label\na,b\n")
    asked = ["probe", str(tmp_path), "--data", str(tmp_path / "data.csv")]
    ended = subprocess.run(
        [sys.executable, "-m", "headsweep", *asked],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert "a library cannot be loaded: libcudart: not there" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_folder_that_is_gone_is_a_line(tmp_path):
    """torch cannot be loaded there: a library of its own ended the process."""
    gone = tmp_path / "gone"
    for asked, code in (("inspect ./model", 2), ("--version", 0), ("probe --help", 0)):
        script = f'mkdir "$1"; cd "$1"; rmdir "$1"; exec "$2" -m headsweep {asked}'
        command = ["sh", "-c", script, "sh", str(gone), sys.executable]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, "cannot be reached" in done.stderr) == (code, code == 2), asked
        assert ("change to one that is there" in done.stderr) == (code == 2)
