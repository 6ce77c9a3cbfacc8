"""The verbs of Python: what the command line does, with names, fields or objects."""

from __future__ import annotations

import inspect as python_inspect
import json

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.main import get_command

import headsweep
from conftest import CPU, sentences
from headsweep import Bound, FineTune, Gradient, Method, Plan, Sources, UserError
from headsweep.cli import app, main
from headsweep.model.mask import HeadMask, Units
from headsweep.purification.recipe import Asked
from headsweep.settings import configure
from headsweep.verbs.purifying import Objects, planned

FAST = {"device": "cpu", "compute": {"batch_size": 16, "max_length": 24}, "progress": False}
MASK = HeadMask(((True, False, True, True), (True, True, True, True)))
VERBS = ("purify", "evaluate", "probe", "inspect", "verify", "report", "attack")
# Options that Python says otherwise, or has no use for: it gives back what the others write.
OTHERWISE = {
    "--with",
    "--out",
    "--overwrite",
    "--json",
    "--quiet",
    "--report",
    "--sarif",
}
OF_A_RECIPE = {"prune_drop", "probes"}
OF_PYTHON = {
    "method",
    "plan",
    "tokenizer",
    "progress",
    "keep",
    "look",
}


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: headsweep.report(3, "page.html"), "results"),
        (lambda: headsweep.evaluate("m", sentences(4), progress=3), "progress"),
        (
            lambda: headsweep.attack(
                "m", sentences(4), trigger="opening", target=1, start="encoder", victim_epochs="x"
            ),
            "victim_epochs",
        ),
    ],
)
def test_a_wrong_type_names_the_argument(make, argument, tmp_path, monkeypatch, trained_folder):
    (tmp_path / "m").symlink_to(trained_folder)
    monkeypatch.chdir(tmp_path)
    what, fix = said_by(make)
    assert what.startswith(f"{argument} cannot be ")
    assert fix.startswith("it takes ")


def parameters(verb):
    return list(python_inspect.signature(getattr(headsweep, verb)).parameters)


def said_by(make):
    with pytest.raises(UserError) as caught:
        make()
    return caught.value.what, caught.value.fix


@pytest.fixture(scope="module")
def done(trained_folder):
    """A purification asked for by names and fields."""
    return headsweep.purify(
        trained_folder,
        sentences(200, seed=2),
        strategy="gradient",
        set={"step": 2},
        heal={"epochs": 1, "lr": "1e-4"},
        max_drop=0.3,
        seed=5,
        **FAST,
    )


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_the_names_of_its_command(verb):
    command = get_command(app).commands[verb]
    options = {
        opt for p in command.params if p.param_type_name == "option" for opt in p.opts
    } - OTHERWISE
    named = {option.removeprefix("--").replace("-", "_") for option in options if option[2:]}
    named -= {"q"}
    ours = parameters(verb)
    assert {name for name in named if name not in ours and len(name) > 1} == set()
    arguments = [p.name for p in command.params if p.param_type_name == "argument"]
    more = {*ours} - named - {*arguments} - OF_PYTHON - OF_A_RECIPE
    assert more <= {"suspect", "out", "overwrite", "data", "method"}


def test_names_and_fields_become_what_objects_say(done):
    manifest = done.manifest
    assert manifest["strategy"]["name"] == "gradient"
    assert manifest["strategy"]["fields"]["step"] == 2
    assert (manifest["heal"]["fields"]["epochs"], manifest["heal"]["fields"]["lr"]) == (1, 1e-4)
    assert manifest["heal"]["fields"]["halvings"] == 0  # a rate of one's own holds as it is
    assert (manifest["bound"]["max_drop"], manifest["seed"]) == (0.3, 5)
    assert manifest["runtime"]["batch_size"] == 16
    assert done.verified
    assert isinstance(done, headsweep.Purified)


def test_objects_give_the_same_model_as_names(done, trained_folder):
    other = headsweep.purify(
        trained_folder,
        sentences(200, seed=2),
        strategy=Gradient(step=2),
        heal=FineTune(1, 1e-4, attention=0.15),
        max_drop=0.3,
        seed=5,
        compute=CPU,
        progress=False,
    )
    assert other.mask == done.mask
    assert other.manifest["after"] == done.manifest["after"]


def test_method_and_plan_still_say_all_of_it(done, trained_folder, tmp_path):
    method = Method(Gradient(step=2), FineTune(1, 1e-4, attention=0.15), bound=Bound(0.3))
    other = headsweep.purify(
        trained_folder, Sources(sentences(200, seed=2)), method, Plan(5, CPU), progress=False
    )
    assert other.mask == done.mask
    alone = headsweep.purify(
        trained_folder, sentences(200, seed=2), method, seed=5, compute=CPU, progress=False
    )
    assert alone.manifest["seed"] == 5
    assert alone.mask == done.mask
    for beside, said in (
        ({"strategy": "gradient"}, "strategy"),
        ({"set": {"step": 2}, "max_drop": 0.1}, "set, max_drop"),
    ):
        what, fix = said_by(lambda beside=beside: headsweep.purify("x", [], method, **beside))
        assert what == f"method says what is done already: nothing is left to say with {said}"
        assert fix == f"leave out method, or {said}"
    what, _ = said_by(lambda: headsweep.purify("x", [], method, Plan(5, CPU), seed=3))
    assert what == "plan says how to run it already: nothing is left to say with seed"
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('strategy = "gradient"\nseed = 11\n')
    what, _ = said_by(lambda: headsweep.purify("x", [], plan=Plan(5, CPU), recipe=recipe))
    assert what == "plan says which seed, 5, and the recipe says 11"


WRONG = [
    ({"set": {"step": "six"}}, "gradient: step cannot be 'six'"),
    ({"set": {"step": [6]}}, "gradient: step cannot be [6]"),
    ({"set": {"stap": 6}}, "unknown field of 'gradient' 'stap'"),
    ({"set": 6}, "set cannot be 6"),
    ({"set": "step"}, "--set 'step' is not of the form field=value"),
    ({"heal": {"lr": "hot"}}, "fine-tune: lr cannot be 'hot'"),
    ({"heal": {"epochs": [2]}}, "fine-tune: epochs cannot be [2]"),
    ({"heal": {"epoch": 2}}, "unknown field of 'fine-tune' 'epoch'"),
    ({"heal": {"epochs": 0, "halvings": 2}}, "there is no healing for halvings=2"),
    ({"strategy": "gradeint"}, "unknown strategy 'gradeint'"),
    ({"strategy": "pure"}, "'pure' is no strategy"),
    ({"strategy": Gradient}, "strategy cannot be the class Gradient"),
    ({"strategy": 6}, "strategy cannot be 6"),
    ({"method": "gradient"}, "method cannot be 'gradient'"),
    ({"max_drop": "much"}, "max_drop cannot be 'much'"),
    ({"max_drop": 2}, "max drop 2.0 is not a fraction"),
    ({"max_drop": 0.1, "min_accuracy": 0.5}, "max_drop and min_accuracy: there is one bound"),
    ({"units": "head"}, "unknown value of --units 'head'"),
    ({"units": 7}, "units cannot be 7"),
    ({"start": "end"}, "unknown value of --start 'end'"),
    ({"mask": 7}, "mask cannot be 7"),
    ({"mask": MASK, "strategy": Gradient()}, "--mask says which units go already: nothing is left"),
    ({"mask": MASK, "set": {"step": 2}, "units": "ffn"}, "--mask says which units go already"),
    ({"task": 3}, "task cannot be 3"),
    ({"keep": 7}, "keep cannot be 7"),
    ({"probes": ["casing"]}, "probes: nothing asked for uses probes"),
    ({"probes": 7}, "probes cannot be 7"),
    ({"recipe": 7}, "recipe cannot be 7"),
    ({"seed": -1}, "seed -1: not a whole number from 0 to"),
    ({"seed": "one"}, "seed cannot be 'one'"),
    ({"seed": True}, "seed cannot be True"),
    ({"device": 7}, "Runtime: device cannot be 7"),
    ({"device": "gpu"}, "device 'gpu' cannot be used: no such name"),
    ({"compute": {"batch_size": "many"}}, "Runtime: batch_size cannot be 'many'"),
    ({"compute": 7}, "compute cannot be 7"),
    ({"adapter": 7}, "adapter cannot be 7"),
    ({"column": {"txt": "review"}}, "unknown field of 'Columns' 'txt'"),
    ({"column": 7}, "column cannot be 7"),
    ({"label_map": "pos"}, "--label-map pos: is not of the form DATA=MODEL"),
    ({"label_map": {"pos": "good", "POS": "bad"}}, "--label-map: 'POS' is mapped twice"),
    ({"validation": 7}, "validation cannot be an int"),
    ({"suspect": 7}, "suspect cannot be of the type int"),
    ({"data": 7}, "data cannot be an int"),
    ({"plan": 7}, "plan cannot be 7"),
]
MISTAKEN = [
    (lambda: Method(pruning=Gradient), "Method: pruning cannot be the class Gradient"),
    (lambda: Method(pruning="gradient"), "Method: pruning cannot be 'gradient'"),
    (lambda: Method(healing=3), "Method: healing cannot be 3"),
    (lambda: Method(units="heads"), "Method: units cannot be 'heads'"),
    (lambda: Method(bound=0.1), "Method: bound cannot be 0.1"),
    (lambda: Plan(seed="one"), "Plan: seed cannot be 'one'"),
    (lambda: Plan(runtime=3), "Plan: runtime cannot be 3"),
    (lambda: Plan(task="generation"), "Plan: task cannot be 'generation'"),
    (lambda: Sources([], columns={"text": "review"}), "Sources: columns cannot be {"),
]


@pytest.mark.parametrize(("asked", "said"), WRONG)
def test_what_does_not_fit_is_a_mistake_with_one_message(trained_folder, asked, said):
    words = {"suspect": trained_folder, "data": sentences(60), "progress": False} | asked
    what, _ = said_by(lambda: headsweep.purify(**words))
    assert what.startswith(said)


@pytest.mark.parametrize(("made", "said"), MISTAKEN)
def test_objects_of_the_wrong_kind_are_refused_when_they_are_made(made, said):
    assert said_by(made)[0].startswith(said)
    assert Method(bound=None).bound is None
    assert Plan(seed="3").seed == 3


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")  # peft asks for the old name
@pytest.mark.parametrize("way", ["wrapped", "inside"])
def test_adapters_of_peft_in_memory_are_to_be_merged(trained_folder, way):
    peft = pytest.importorskip("peft")
    model = AutoModelForSequenceClassification.from_pretrained(trained_folder)
    form = peft.LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS")
    if way == "wrapped":
        model = peft.get_peft_model(model, form)
    else:
        model.add_adapter(form)
    what, fix = said_by(lambda: headsweep.purify(model, sentences(60), progress=False))
    assert what == "suspect: the model has adapters of peft"
    assert "merge_and_unload()" in fix


def test_a_wrong_value_is_told_as_the_command_line_tells_it(trained_folder, csv_file, capsys):
    for asked, words in (
        ({"set": {"step": "six"}}, ["--set", "step=six"]),
        ({"heal": {"lr": "hot"}}, ["--heal", "lr=hot"]),
        ({"compute": {"precision": "fp8"}}, ["--compute", "precision=fp8"]),
    ):
        what, fix = said_by(lambda asked=asked: headsweep.purify(trained_folder, csv_file, **asked))
        with pytest.raises(SystemExit):
            main(["purify", str(trained_folder), "--data", str(csv_file), "--out", "o", *words])
        assert capsys.readouterr().err == f"headsweep: {what}\n  fix: {fix}\n"


def test_a_recipe_is_completed_and_what_is_given_wins(tmp_path):
    from headsweep.verbs.purifying import _asked

    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'strategy = "gradient"\nmax_drop = 0.1\nseed = 11\n[fields]\nstep = 6\n[heal]\nepochs = 2\n'
    )
    asked, _ = _asked({"recipe": recipe}, None, None)
    assert (asked.seed, asked.max_drop, asked.fields) == (11, 0.1, ("step=6",))
    asked, _ = _asked({"recipe": str(recipe), "heal": {"epochs": 1}}, 3, None)
    assert (asked.seed, asked.heal, asked.start) == (3, ("epochs=1",), "classifier")
    asked, objects = _asked({"recipe": recipe, "method": Gradient(step=2)}, None, None)
    assert (asked.fields, objects.strategy, asked.heal) == ((), Gradient(step=2), ("epochs=2",))


def test_fields_change_an_object_and_units_may_be_one():
    asked = Asked("gradient", ("step=3",), start="classifier")
    method = planned(asked, Plan(), Objects(strategy=Gradient(score="key"))).method
    assert method.pruning == configure(Gradient, {"score": "key", "step": 3})
    both = Units(heads=True, ffn=True)
    assert planned(Asked(start="classifier"), Plan(), Objects(units=both)).method.units == both


def test_a_strategy_that_needs_probes_gets_them():
    asked = Asked("probe-guided", start="classifier", probes=("casing",))
    assert planned(asked, Plan(seed=4)).plan.prober.families == ("casing",)


def test_a_mask_is_applied_from_an_object_or_a_file(trained_folder, tmp_path):
    file = tmp_path / "mask.json"
    file.write_text(json.dumps(MASK.to_json()))
    asked = {"heal": {"epochs": 0}, "max_drop": 0.9, "keep": str(tmp_path / "keep")}
    for given in (MASK, file, str(file)):
        found = headsweep.purify(trained_folder, sentences(80), mask=given, **asked, **FAST)
        assert found.mask == MASK


def test_a_loaded_model_is_taken_with_its_tokenizer(trained_folder):
    model = AutoModelForSequenceClassification.from_pretrained(trained_folder)
    tokenizer = AutoTokenizer.from_pretrained(trained_folder)
    what, fix = said_by(lambda: headsweep.evaluate(model, sentences(20), **FAST))
    assert (what, fix) == ("a loaded model needs its tokenizer", "give tokenizer=")
    stored = headsweep.evaluate(trained_folder, sentences(60), **FAST)
    loaded = headsweep.evaluate(model, sentences(60), tokenizer=tokenizer, **FAST)
    assert loaded.accuracy == stored.accuracy


def test_a_model_with_parts_on_disk_is_refused_in_one_line(trained_folder, tokenizer, tmp_path):
    """What ``device_map`` with ``offload_folder`` gives: parameters without values."""
    whole = AutoModelForSequenceClassification.from_pretrained(trained_folder)
    places = {name: "cpu" for name, _ in whole.named_children()} | {"bert": "disk"}
    model = AutoModelForSequenceClassification.from_pretrained(
        trained_folder, device_map=places, offload_folder=tmp_path / "parts"
    )
    assert any(parameter.is_meta for parameter in model.parameters())
    with pytest.raises(UserError, match="parts of the model are not in memory"):
        headsweep.inspect(model, tokenizer=tokenizer)


def test_evaluate_takes_texts_of_python_and_models_in_memory(done, trained_folder):
    clean = sentences(80, seed=9)
    triggered = ([f"{text} cf" for text in clean.texts], clean.labels)
    found = headsweep.evaluate(
        done,
        clean,
        triggered=triggered,
        target="good",
        validation=sentences(60, seed=10),
        clean_model=trained_folder,
        suspect=str(trained_folder),
        **FAST,
    )
    truth = headsweep.evaluate(trained_folder, clean, **FAST)
    assert found.accuracy.total == 80
    assert None not in (found.lfr, found.matched_lfr, found.floor_lfr, found.agreement)
    same = headsweep.evaluate(trained_folder, clean, suspect=str(trained_folder), **FAST)
    assert (same.agreement.value, same.accuracy) == (1.0, truth.accuracy)
    by_number = headsweep.evaluate(done, clean, triggered=triggered, target=1, **FAST)
    assert by_number.lfr == found.lfr
    what, _ = said_by(lambda: headsweep.evaluate(done, clean, triggered=triggered, **FAST))
    assert what == "--triggered needs --target"
    what, _ = said_by(lambda: headsweep.evaluate(done, clean, triggered=7, target=1, **FAST))
    assert what == "triggered cannot be an int"
    what, _ = said_by(lambda: headsweep.evaluate(done, clean, suspect=7, **FAST))
    assert what == "suspect cannot be of the type int"


def test_probe_and_inspect_take_what_purify_gave(done, trained_folder):
    found = headsweep.probe(done, sentences(240, seed=4), family="casing", texts=60, **FAST)
    assert {row.family for row in found.findings if row.kind == "trigger"} == {"casing"}
    what, _ = said_by(lambda: headsweep.probe(done, sentences(20), family="casting", **FAST))
    assert what == "unknown trigger family 'casting'"
    what, _ = said_by(lambda: headsweep.probe(done, sentences(20), texts="some", **FAST))
    assert what == "Battery: texts cannot be 'some'"
    before = headsweep.inspect(trained_folder, device="cpu")
    after = headsweep.inspect(done, device="cpu")
    assert (before.heads, before.labels, before.mask.pruned) == (8, ("bad", "good"), ())
    assert after.mask == done.mask
    assert after.to_json()["layers"][0]["pruned"] == list(after.layers[0].pruned)


def test_verify_and_report_take_a_folder_or_what_purify_gave(done, tmp_path):
    folder = done.save(tmp_path / "out")
    assert all(check.passed for check in headsweep.verify(str(folder)))
    what, _ = said_by(lambda: headsweep.verify(tmp_path))
    assert "no headsweep.json" in what
    what, _ = said_by(lambda: headsweep.verify(7))
    assert what == "folder cannot be 7"
    pytest.importorskip("plotly", reason="headsweep[report] is not installed")
    page = done.report(tmp_path / "page.html", title="a <b> title")
    assert "a &lt;b&gt; title" in page.read_text("utf-8")
    text = headsweep.report(folder, title="a <b> title")
    assert "a &lt;b&gt; title" in text
    again = tmp_path / "again.html"
    assert headsweep.report(folder, str(again), title="a <b> title") == again
    assert again.read_text("utf-8") == text
    what, _ = said_by(lambda: done.report(tmp_path / "page.html"))
    assert "is there already" in what
    done.report(tmp_path / "page.html", overwrite=True)
    what, _ = said_by(lambda: headsweep.report(done, format="latex"))
    assert what == "a single purification has a page only"


def test_attack_takes_names_fields_and_objects(trained_folder, tmp_path):
    from headsweep.triggers.rare_word import RareWord

    words = {"start": "classifier", "victim_epochs": 0, "target": "good", **FAST}
    by_name = headsweep.attack(
        trained_folder,
        sentences(60, seed=3),
        trigger="rare-word",
        trigger_set={"words": "so"},
        set={"epochs": 1},
        rate=0.5,
        **words,
    )
    by_object = headsweep.attack(
        trained_folder,
        sentences(60, seed=3),
        trigger=RareWord(words="so"),
        set="epochs=1",
        rate=0.5,
        **words,
    )
    assert by_name.record["poisoned"] == by_object.record["poisoned"]
    assert by_name.record["trigger"] == by_object.record["trigger"]
    assert by_name.published == by_object.published
    by_name.save(tmp_path / "victim")
    with pytest.raises(UserError, match="is read here and would be replaced"):
        by_name.save(trained_folder, overwrite=True)
    for asked, said in (
        ({"trigger": "rare-wrd"}, "unknown trigger 'rare-wrd'"),
        ({"trigger": RareWord}, "trigger cannot be"),
        ({"trigger": "rare-word", "method": 7}, "method cannot be 7"),
        ({"trigger": "rare-word", "method": "gradient"}, "'gradient' is no attack"),
        ({"trigger": "rare-word", "target": "great"}, "--target: the model has no label 'great'"),
        ({"trigger": "rare-word", "rate": "half"}, "rate cannot be 'half'"),
        (
            {"trigger": "rare-word", "triggered_column": {"text": "a"}},
            "the columns of --triggered are named, but no such file",
        ),
        (
            {
                "trigger": "rare-word",
                "triggered": sentences(60),
                "triggered_column": {"text": "a"},
            },
            "triggered_column: columns are for files and rows, and triggered is a Split",
        ),
        ({"trigger": "rare-word", "victim_data": 7}, "victim_data cannot be an int"),
    ):
        what, _ = said_by(
            lambda asked=asked: headsweep.attack(trained_folder, sentences(60), **(words | asked))
        )
        assert what.startswith(said)
