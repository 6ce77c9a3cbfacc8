"""The harness: what a grid is, that it can be broken off anywhere, that engines agree."""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from headsweep.bench import engines, harness, sources, work
from headsweep.bench.engines import Inline, Local, Outcome
from headsweep.bench.grid import Defending, read_grid
from headsweep.bench.identity import WORK, code_hash, sources_of
from headsweep.bench.orders import orders, selected
from headsweep.bench.results import store
from headsweep.bench.results.packing import Packed
from headsweep.bench.results.reading import read_results, unlike
from headsweep.cli.options import check_folder
from headsweep.cost import peak_memory_mib
from headsweep.drafts import here
from headsweep.errors import UserError
from headsweep.judge.statistics import matched_rate
from headsweep.progress import Silent
from test_cli import run  # noqa: F401 - a fixture

RECIPES = Path(__file__).parents[1] / "recipes"
SMOKE = RECIPES / "smoke.toml"
FLEETING = ("seconds", "cpu_seconds", "steps_seconds", "peak_memory_mib", "shared_scores")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def bench(run, cache, tmp_path):  # noqa: F811
    def call(*more, recipe=SMOKE, out=None):
        folder = out or tmp_path / "results"
        return run("bench", recipe, "--out", folder, "--engine", "inline", "--cache", cache, *more)

    return call


def changed(tmp_path, **lines):
    """Write the smoke recipe with lines replaced: old=new by their first words."""
    text = SMOKE.read_text()
    for old, new in lines.values():
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return path


def cell(folder, name):
    return json.loads((folder / f"tiny-sentences-rare-word-{name}.json").read_text())


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('strategy = "variance"', 'strategy = "varience"', "did you mean 'variance'"),
        ("max_drop = 0.05", "maxdrop = 0.05", "did you mean 'max_drop'"),
        ("max_drop = 0.05", "max_drop = 0.05\nprune_drop = 5.0", "is not a fraction"),
        ("max_drop = 0.05", "min_accuracy = 85", "is not a fraction"),
        ("fields = { epochs = 6, lr", "fields = { epochs = -6, lr", "cannot train -6.0 epochs"),
        ("fields = { epochs = 2, lr", "fields = { epochs = 2, lr = -1 } #", "learning rate of -1"),
        ("fields = { step = 2 }", "fields = { stop = 2 }", "did you mean 'step'"),
        ('trigger = "rare-word"', 'trigger = "rare-wort"', "did you mean 'rare-word'"),
        ("epochs = 6, lr = 2e-3 }\n\n[victim]", "epoch = 6 }\n\n[victim]", "did you mean 'epochs'"),
        ("seeds = [11]", "seeds = [99]", "seed 99 is not one of the grid's"),
        ('labels = ["negative", "positive"]', 'labels = ["positive"]', "two or more"),
        ('test = "made:sentences"', 'test = "${corpus}"', "unknown variable"),
        ("threads = 1", "threads = 0", "at least one thread"),
        ("batch_size = 16", "batch_size = 0", "batch_size must be at least 1"),
        ('device = "cpu"', 'device = "gpu0"', "'gpu0' is no device"),
        ("[defend]", "[defence]", "did you mean 'defend'"),
        ("[[attack]]", "[[attak]]", "did you mean 'attack'"),
        ('target = "positive"', 'target = "postive"', "did you mean 'positive'"),
        ("attacker = 300\nvictim = 200\n", "unseen = true\n", "give both their rows"),
    ],
)
def test_mistakes_in_a_recipe_have_their_line(tmp_path, old, new, told):
    path = changed(tmp_path, one=(old, new))
    wanted = path.read_text()[: path.read_text().index(new)].count("\n") + 1
    with pytest.raises(UserError) as caught:
        read_grid(path)
    assert told in str(caught.value)
    if "variable" not in told:
        named = int(caught.value.what.split("line ")[1].split(":")[0])
        assert abs(named - wanted) <= new.count("\n")


def test_variables_must_be_given():
    with pytest.raises(UserError, match=r"line \d+: 'corpus' has no value"):
        read_grid(RECIPES / "small.toml")
    with pytest.raises(UserError, match="did you mean 'corpus'"):
        read_grid(RECIPES / "small.toml", ["corpsu=x"])
    here, there = (read_grid(RECIPES / "small.toml", [f"corpus={x}"]) for x in "ab")
    assert here.data[0].train == "a/clean/train.tsv"
    assert (
        here.mark == there.mark == replace(here.mark, variables=("corpus",))
    )  # where the texts lie is not what is asked for


@pytest.mark.parametrize("name", ["small", "paper"])
def test_the_committed_recipes_hold_what_the_table_needs(name):
    grid = read_grid(RECIPES / f"{name}.toml", ["corpus=x"])
    methods = {method.method for method in grid.methods}
    six = {"gradient", "layerwise", "sparsify", "ensemble", "reinforce", "bayesian"}
    assert methods >= six | {"ft", "fth", "meft", "pure", "fine-pruning", "random", "nothing"}
    assert methods >= {f"{strategy}-as-released" for strategy in six}
    assert len(grid.seeds) >= 3
    assert sum(method.method == "random" for method in grid.methods) == 2


def test_cells_are_ordered_by_victim(cache):
    cells = orders(read_grid(SMOKE), sources.Hashes(cache))
    assert len(cells) == 13
    victims = [order.victim.id for order in cells]
    assert victims == sorted(victims)
    assert len({order.key for order in cells}) == 13
    assert len(selected(cells, "s11-gradient")) == 2
    assert len(selected(cells, "*-gradient")) == 2


def test_code_hash_covers_what_a_cell_runs_and_nothing_else():
    covered = sources_of(WORK)
    assert {"headsweep.prune.strategies.gradient", "headsweep.task.training"} <= set(covered)
    assert {"headsweep.triggers.paired", "headsweep.purification.baselines"} <= set(covered)
    assert not {"headsweep.cli", "headsweep.bench.harness", "headsweep.reports.tables"} & set(
        covered
    )
    assert code_hash() == code_hash(WORK) != code_hash("headsweep.task.training")


def test_smoke_recipe_gives_whole_cells(smoke_results):
    names = {path.stem for path in smoke_results.glob("*.json")}
    assert len(names) == 13
    made = cell(smoke_results, "s11-gradient")
    assert made["status"] == "done"
    assert made["before"]["excess_lfr"]["value"] > 0.5
    assert made["pruned"]["lfr"]["total"] == made["after"]["lfr"]["total"]
    assert sum(map(sum, made["mask"]["heads"])) == 12 - made["pruned_count"]
    assert made["path"]
    assert cell(smoke_results, "s11-random-4")["pruned_count"] == 4
    nothing = cell(smoke_results, "s11-nothing")
    assert nothing["after"] == nothing["before"]
    assert nothing["pruned"] is None


def test_kept_answers_give_the_figures_again(smoke_results):
    victim = json.loads((smoke_results / "victims/tiny-sentences-rare-word-s11.json").read_text())
    twin = Packed.from_json(victim["answers"]["twin"])
    made = cell(smoke_results, "s11-gradient")
    own = Packed.from_json(made["answers"]["after"])
    labels = np.array(victim["texts"]["test_labels"])
    assert (own.predicted == labels).mean() == pytest.approx(made["after"]["accuracy"]["value"])
    matched = matched_rate(own.margins, twin.margins.validation)
    assert matched == pytest.approx(made["after"]["matched_lfr"]["value"])


def test_engines_and_order_change_nothing(smoke_results, bench, tmp_path):
    assert bench("--only", "s12-random-4")[0] == 0
    assert bench("--only", "s12-gradient")[0] == 0
    for name in ("s12-random-4", "s12-gradient"):
        here, there = (cell(folder, name) for folder in (tmp_path / "results", smoke_results))
        for key in FLEETING:
            here.pop(key, None), there.pop(key, None)
        assert here == there


def test_shared_scores_change_nothing(bench, cache, tmp_path):
    """PURE, its ranking alone, and a scripts' form rank one victim by one and the same score."""
    made = []
    for way, name in (("kept", "s11-pure"), ("kept", "s11-variance"), ("computed", "s11-variance")):
        if not made or way == "computed":
            shutil.rmtree(cache / "scores", ignore_errors=True)
        assert bench("--only", name, out=tmp_path / way)[0] == 0
        made.append(cell(tmp_path / way, name))
    taken = [[one["name"] for one in form["shared_scores"]] for form in made]
    assert taken == [[], ["attention_variance"], []]
    assert made[1]["shared_scores"][0]["seconds"] > 0
    for form in made[1:]:
        for key in FLEETING:
            form.pop(key, None)
    assert made[1] == made[2]


def test_finished_cells_are_skipped_and_estimated_by(smoke_results, bench, tmp_path):
    out = shutil.copytree(smoke_results, tmp_path / "results")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    code, text, _ = bench()
    assert (code, "all 13 cells are finished" in text) == (0, True)
    assert text.endswith(f"\n  headsweep report {out} --out report.html\n")
    rows = [line.split("│")[1:-1] for line in text.splitlines() if "│" in line]
    assert sum(int(row[1]) for row in rows) == 13
    left = [float(row[3]) for row in rows]
    assert left == sorted(left)
    assert json.loads(bench("--json")[1]) == {"done": [], "failed": {}, "left": 0}
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    (out / "tiny-sentences-rare-word-s12-pure.json").unlink()
    code, text, _ = bench("--dry-run")
    assert (code, "s12-pure" in text, "1 of 13 cells to run" in text) == (0, True, True)
    plan = json.loads(bench("--dry-run", "--json")[1])
    pure = cell(out, "s11-pure")["seconds"]["all"]
    victims = [json.loads(p.read_text()) for p in (out / "victims").glob("*.json")]
    made = np.mean([victim["seconds"]["all"] for victim in victims])
    assert plan["seconds"] == pytest.approx(pure + 2 * made)  # the twin's time is not known apart


def test_cells_that_finished_without_tensorboard_are_written_too(smoke_results, bench, tmp_path):
    pytest.importorskip("tensorboard", reason="headsweep[tracking] is not installed")
    out, runs = shutil.copytree(smoke_results, tmp_path / "results"), tmp_path / "runs"
    cells = [path for path in sorted(out.glob("*.json")) if "rare-word" in path.stem]
    there, old, broken = (runs / path.stem for path in cells[:3])
    for folder in (there, old, broken):
        folder.mkdir(parents=True)
    for folder, later in ((there, 10), (old, -10)):
        events = folder / "events.out"
        events.touch()
        when = (out / f"{folder.name}.json").stat().st_mtime + later
        os.utime(events, (when, when))
    assert bench("--tensorboard", runs, "-q")[0] == 0
    written = {path.parent.name for path in runs.glob("*/events.out.tfevents.*")}
    assert written == {path.stem for path in cells} - {there.name}
    code, _, err = bench("--tensorboard", cells[0])
    assert (code, "--tensorboard" in err) == (2, True)


def test_corrupt_cells_are_set_aside_and_run_again(smoke_results, bench, tmp_path):
    out = shutil.copytree(smoke_results, tmp_path / "results")
    path = out / "tiny-sentences-rare-word-s12-nothing.json"
    path.write_text(path.read_text()[:200])
    code, _, err = bench("--only", "s12-nothing")
    assert (code, "no whole cell" in err) == (0, True)
    assert len((out / "aside" / path.name).read_text()) == 200
    assert cell(out, "s12-nothing")["status"] == "done"


DAMAGE = {
    "no measures": {"after": {}},
    "a measure without its value": {"before": {"accuracy": {"low": 0.1, "high": 0.2}}},
    "no number": {"cpu_seconds": "12"},
    "answers that are none": {"answers": {"after": {"predicted": "x"}}},
    "a path of other things": {"path": [["prune", 2]]},
} | {
    f"no {key}": {key: None}
    for key in ("answers", "victim", "victim_key", "method", "seed", "environment", "seconds")
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_cells_are_no_cells(smoke_results, bench, run, tmp_path, damage):  # noqa: F811
    out = shutil.copytree(smoke_results, tmp_path / "results")
    path = out / "tiny-sentences-rare-word-s12-nothing.json"
    form = json.loads(path.read_text()) | damage
    path.write_text(json.dumps({key: value for key, value in form.items() if value is not None}))
    code, text, _ = run("report", out, "--format", "markdown", "--resamples", 50, "-q")
    assert (code, f"{path.name} could not be read and is left out" in text) == (0, True)
    plan = json.loads(bench("--dry-run", "--json")[1])
    assert (plan["missing"], plan["aside"]) == ([path.stem], [path.stem])


def test_a_damaged_victim_takes_its_cells_along(smoke_results, bench, tmp_path):
    out = shutil.copytree(smoke_results, tmp_path / "results")
    path = out / "victims/tiny-sentences-rare-word-s12.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": {}, "evaluation": {}}))
    assert bench("--dry-run")[0] == 0
    found = read_results(out)
    assert (len(found.cells), len(found.apart), found.unreadable) == (7, 6, ())
    assert any("its victim is not in victims/" in note for note in found.notes)


def test_the_committed_results_are_whole():
    folder = Path(__file__).parents[1] / "results" / "small"
    found = read_results(folder, any_version=True)
    assert (len(found.cells), found.unreadable) == (96, ())


def test_cells_of_another_version_are_kept_apart(smoke_results, bench, tmp_path):
    out = shutil.copytree(smoke_results, tmp_path / "results")
    path = out / "tiny-sentences-rare-word-s12-nothing.json"
    form = json.loads(path.read_text()) | {"code": "0" * 64}
    path.write_text(json.dumps(form))
    code, text, _ = bench("--only", "s12-nothing", "--any-version")
    assert (code, "all 1 cells are finished" in text) == (0, True)
    code, _, err = bench("--only", "s12-nothing")
    assert (code, "another version" in err, "000000000000" in err) == (0, True, True)
    assert json.loads((out / "apart/000000000000" / path.name).read_text()) == form
    assert cell(out, "s12-nothing")["code"] == code_hash()


def test_a_failed_cell_keeps_its_error_and_the_rest_goes_on(bench, tmp_path):
    path = changed(tmp_path, one=("count = 4", "count = 99"))
    code, text, _ = bench("--only", "*s11-[nr]*", "--json", recipe=path)
    assert code == 1
    tally = json.loads(text)
    assert tally["done"] == ["tiny-sentences-rare-word-s11-nothing"]
    failed = tmp_path / "results/failed/tiny-sentences-rare-word-s11-random-4.json"
    assert "count must be between" in json.loads(failed.read_text())["error"]
    assert bench("--only", "s11-random-4")[0] == 0  # the recipe mended
    assert not failed.exists()


def test_a_victim_that_cannot_be_made_fails_its_cells(bench, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise UserError("no such attack today")

    monkeypatch.setattr(work, "attack", broken)
    path = changed(tmp_path, one=("rate = 0.5", "rate = 0.4"))
    code, text, _ = bench("--only", "s11", "--json", recipe=path)
    assert code == 1
    assert len(json.loads(text)["failed"]) == 7
    assert all("no such attack today" in why for why in json.loads(text)["failed"].values())


def test_a_full_disk_is_said_and_loses_nothing(bench, cache, tmp_path, monkeypatch):
    def full(path, whole):
        path.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    code, _, err = bench("--only", "s11-nothing")
    assert (code, "the disk is full" in err, "finished cells" in err) == (2, True, True)
    assert not [p for p in (tmp_path / "results").rglob("*") if p.is_file()]
    monkeypatch.undo()
    asked = []

    def fill(order, folder):
        asked.append(order.id)
        full(tmp_path / "x", {})

    monkeypatch.setattr(engines, "perform", fill)
    code, _, err = bench()
    assert (code, "the disk is full" in err, str(cache) in err) == (2, True, True)
    assert len(asked) == 1  # the run stops there; it does not fail cell by cell
    assert not (tmp_path / "results").exists() or not list((tmp_path / "results").rglob("*.json"))


@pytest.mark.parametrize("option", ["--out", "--cache"])
@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nope"])
def test_folders_that_cannot_be_written_are_said_before_any_work(
    run,  # noqa: F811
    cache,
    tmp_path,
    monkeypatch,
    option,
    place,
):
    if place.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(engines, "perform", lambda *_: pytest.fail("work was begun"))
    folders = {"--out": tmp_path / "out", "--cache": cache} | {option: tmp_path / place}
    asked = [word for pair in folders.items() for word in pair]
    code, _, err = run("bench", SMOKE, "--engine", "inline", *asked)
    assert (code, f"as {option}" in err, "fix:" in err) == (2, True, True)
    if not place.startswith("/proc"):
        assert run("bench", SMOKE, "--engine", "inline", "--dry-run", *asked)[0] == 2


def test_a_path_that_ceases_to_be_a_folder_is_said(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        store.Store(tmp_path / "file").victim("v", {})


def test_an_address_without_its_engine_is_a_mistake(run, tmp_path):  # noqa: F811
    code, _, err = run("bench", SMOKE, "--out", tmp_path / "out", "--address", "host:6379")
    assert (code, "add --engine ray" in err) == (2, True)


def test_ctrl_c_keeps_what_is_finished(bench, tmp_path, monkeypatch):
    done = []

    def interrupted(self):
        if len(done) == 3:  # twin, victim, one cell
            raise KeyboardInterrupt
        done.append(1)
        return taken(self)

    taken = Inline.wait
    monkeypatch.setattr(Inline, "wait", interrupted)
    code, _, err = bench("--only", "s11")
    assert (code, "1 cells were finished" in err) == (130, True)
    assert cell(tmp_path / "results", "s11-nothing")["status"] == "done"


def test_stop_after_begins_nothing_new(bench, run):  # noqa: F811
    code, text, _ = bench("--only", "s11-nothing", "--stop-after", "0", "--json")
    assert (code, json.loads(text)) == (0, {"done": [], "failed": {}, "left": 1})
    _, told, _ = run("bench", "--help")
    assert "0 none failed (all are finished, or --stop-after left some)" in " ".join(told.split())


def test_a_dry_run_writes_nothing(run, tmp_path):  # noqa: F811
    asked = ("--out", tmp_path / "results", "--cache", tmp_path / "cache", "--dry-run")
    code, text, _ = run("bench", SMOKE, *asked)
    assert (code, "cells to run" in text) == (0, True)
    assert list(tmp_path.iterdir()) == []


class Deadly:
    """An order that ends the process that reads it."""

    id = "deadly"

    def __reduce__(self):
        return os._exit, (9,)


class Slow:
    """An order that is at it for long, with a draft open."""

    id = "slow"

    def __reduce__(self):
        return _draft, (os.environ["HEADSWEEP_TEST_DRAFT"],)


def _draft(folder):
    place = Path(folder)
    place.parents[1].joinpath("garbage").write_text(f"{gc.get_threshold()}")
    sources.place(place, lambda draft: time.sleep(60))


class Senseless:
    id = "senseless"


def test_a_worker_that_is_killed_while_it_waits_is_replaced(cache):
    engine = Local(cache, 1, 1)
    try:
        engine.submit(Senseless())
        engine.wait()
        [idle] = engine.workers
        idle.process.kill()
        idle.process.join()
        engine.submit(Senseless())
        [(order, outcome)] = engine.wait()
        assert (order.id, "AttributeError" in outcome.error) == ("senseless", True)
        assert idle not in engine.workers
    finally:
        engine.stop()


def test_workers_do_not_hear_ctrl_c_from_their_first_moment_on(cache):
    engine, heard = Local(cache, 1, 1), signal.getsignal(signal.SIGINT)
    try:
        engine.submit(Senseless())
        assert signal.getsignal(signal.SIGINT) is heard
        os.kill(engine.workers[0].process.pid, signal.SIGINT)  # long before it reads our code
        [(_, outcome)] = engine.wait()
        assert "AttributeError" in outcome.error
    finally:
        engine.stop()


def test_a_record_with_a_number_that_is_none_is_a_failed_cell(cache, tmp_path):
    class Odd(Inline):
        def wait(self):
            return [
                (order, Outcome(outcome.record | {"cpu_seconds": float("nan")}))
                for order, outcome in super().wait()
            ]

    found = harness.plan(read_grid(SMOKE), store.Store(tmp_path), cache, "s11-nothing", False)
    some = [cell for cell in found.missing if cell.method.name == "nothing"]
    made = harness.Run(store.Store(tmp_path), Odd(cache), Silent())
    tally = made.run(some)
    assert "cannot be written" in next(iter(tally.failed.values()))
    assert not (tmp_path / f"{some[0].id}.json").exists()


def test_cells_of_one_name_are_refused(tmp_path, cache):
    path = tmp_path / "recipe.toml"
    text = SMOKE.read_text()
    model = '[[model]]\nname = "tiny"'
    data = '[[data]]\nname = "sentences"'
    assert model in text
    assert data in text
    both = text[text.index("[[data]]") : text.index("[[attack]]")]
    text = text.replace(both, both + "\n" + both.replace('"sentences"', '"made-sentences"', 1), 1)
    text = text.replace(model, '[[model]]\nname = "tiny-made"\nsource = "made:tiny"\n\n' + model, 1)
    path.write_text(text)
    with pytest.raises(UserError, match="two cells are called tiny-made-sentences-"):
        harness.plan(read_grid(path), store.Store(tmp_path), cache, None, False)


def test_settings_that_changed_between_seeds_are_said(smoke_results, tmp_path):
    out = shutil.copytree(smoke_results, tmp_path / "results")
    told = set(read_results(out).notes)  # a tree with changes, while this is written
    path = next(out.glob("*-s12-gradient.json"))
    form = json.loads(path.read_text())
    form["healing"]["fields"]["lr"] *= 2
    path.write_text(json.dumps(form))
    [note] = set(read_results(out).notes) - told
    assert "gradient of rare-word was not asked for alike on seeds 11 and 12" in note
    form["healing"]["fields"]["lr"] /= 2
    form["bound"] |= {"max_drop": 0.3}
    path.write_text(json.dumps(form))
    [note] = set(read_results(out).notes) - told
    assert "not asked for alike" in note


def test_settings_that_changed_between_victims_are_said(smoke_results, tmp_path):
    cells = read_results(smoke_results).cells
    other = [json.loads(json.dumps(one)) | {"attack": "casing"} for one in cells]
    assert unlike([*cells, *other]) == []
    for one in other:
        if one["method"] == "gradient":
            one["healing"]["fields"]["lr"] *= 2
    assert unlike([*cells, *other]) == [
        "gradient was not asked for alike on rare-word and casing: its mean over victims is of no "
        "one method"
    ]


def test_cells_of_another_victim_are_named_as_such(smoke_results, tmp_path):
    out = shutil.copytree(smoke_results, tmp_path / "results")
    path = next((out / "victims").glob("*s12*.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"key": "another"}))
    found = read_results(out)
    assert {cell["seed"] for cell in found.cells} == {11}
    assert found.unreadable == ()
    assert all("-s12-" in name for name in found.apart)
    assert any("judged on another victim" in note for note in found.notes)


def test_orders_made_by_other_code_are_not_put_into_the_cache(cache, tmp_path, monkeypatch):
    [order, *_] = orders(read_grid(SMOKE), sources.Hashes(tmp_path))
    twin = order.victim.twin
    assert twin.key == work.anew(order.victim).twin.key
    monkeypatch.setattr("headsweep.bench.orders.code_hash", lambda *_: "later")
    with pytest.raises(UserError, match="other code"):
        work.perform(twin, tmp_path)
    assert not (tmp_path / "twins").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it is told by Linux")
def test_the_memory_of_a_cell_is_not_that_of_an_earlier_one(tmp_path, monkeypatch):
    [order, *_] = orders(read_grid(SMOKE), sources.Hashes(tmp_path))
    told = []

    def cell(*_):
        held = torch.ones((128 if not told else 1) << 20)  # 512 MiB, and 4
        told.append(peak_memory_mib())
        del held
        return {}

    monkeypatch.setattr(work, "_cell", cell)
    for _ in range(2):
        work.perform(order, tmp_path)
    assert told[1] < told[0] - 256


def test_a_dead_process_is_replaced_and_one_that_is_ended_takes_its_draft_along(
    cache, tmp_path, monkeypatch
):
    folder = tmp_path / "drafts" / "model"
    monkeypatch.setenv("HEADSWEEP_TEST_DRAFT", str(folder))
    engine = Local(cache, 1, 1)
    try:
        engine.submit(Deadly())
        [(order, outcome)] = engine.wait()
        assert (order.id, "ended with code 9" in outcome.error) == ("deadly", True)
        engine.submit(Senseless())
        [(_, outcome)] = engine.wait()
        assert "AttributeError" in outcome.error
        assert outcome.trace
        engine.submit(Slow())
        until = time.monotonic() + 60
        while not (folder.parent.exists() and list(folder.parent.iterdir())):
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        engine.stop()
    assert not engine.workers
    assert list(folder.parent.iterdir()) == []
    assert (tmp_path / "garbage").read_text() == "(700, 10, 10)"  # looked for as Python does


def test_a_run_removes_the_drafts_that_a_dead_one_left_in_its_results(cache, tmp_path):
    """A run that was killed while it wrote a record left its draft there for ever."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    living = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (tmp_path / "failed").mkdir()
    elsewhere = f"{int(here(), 16) ^ 1:04x}"
    gone = [
        tmp_path / f"cell.json.{here()}.{dead.pid}.draft",
        tmp_path / "failed" / f"cell.json.{here()}.{os.getpid()}.draft",  # of another before it
    ]
    stay = [
        tmp_path / f"cell.json.{here()}.{living.pid}.draft",
        tmp_path / f"cell.json.{elsewhere}.{dead.pid}.draft",
        tmp_path / "letter.draft",
    ]
    for path in (*gone, *stay):
        path.touch()
    try:
        harness.Run(store.Store(tmp_path), Inline(cache), Silent()).run([])
    finally:
        living.kill()
        living.wait()
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in stay)


def test_a_worker_of_other_code_is_not_believed(cache, tmp_path):
    class Other(Inline):
        def wait(self):
            return [(order, Outcome({"code": "other"})) for order, _ in super().wait()]

    found = harness.plan(read_grid(SMOKE), store.Store(tmp_path), cache, "s11-nothing", False)
    tally = harness.Run(store.Store(tmp_path), Other(cache), Silent()).run(found.missing)
    assert "other code" in next(iter(tally.failed.values()))


def test_what_does_not_match_is_said(bench):
    code, _, err = bench("--only", "nosuch")
    assert (code, "no cell matches 'nosuch'" in err, "tiny-sentences" in err) == (2, True, True)


def test_a_prune_drop_is_part_of_a_key_only_where_it_is_set():
    plain, deep = Defending(), Defending(prune_drop=0.1)
    assert "prune_drop" not in plain.decides
    assert deep.decides == plain.decides | {"prune_drop": 0.1}


def test_an_unseen_defender_has_no_sentence_of_the_others_and_another_key(tmp_path, cache):
    grids = [
        read_grid(SMOKE),
        read_grid(changed(tmp_path, one=("defender = 200", "defender = 100\nunseen = true"))),
        read_grid(changed(tmp_path, one=("defender = 200", "defender = 100"))),
    ]
    usual, unseen, _ = (grid.data[0] for grid in grids)
    made = {text for party in sources.parties(unseen, 11) for text in party.texts}
    assert sources.parties(unseen, 11) == sources.parties(usual, 11)
    assert len(sources.defender(unseen, 11)) == 100
    assert not made & set(sources.defender(unseen, 11).texts)
    assert made & set(sources.defender(usual, 11).texts)
    orders_of = [orders(grid, sources.Hashes(cache)) for grid in grids]
    assert orders_of[1][0].victim.key == orders_of[2][0].victim.key
    assert orders_of[1][0].key != orders_of[2][0].key


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("defender = 200", "defender = 200\nunseen = true", "700 training rows asked for"),
        ("attacker = 300", "attacker = 500", "700 training rows asked for"),
        ("defender = 200", "defender = 601", "601 training rows asked for"),
    ],
)
def test_more_rows_than_there_are_is_said_before_any_work(bench, tmp_path, old, new, told):
    code, _, err = bench(recipe=changed(tmp_path, one=(old, new)))
    assert code == 2
    said = " ".join(err.split())
    assert f"data 'sentences': {told}, made:sentences has 600" in said
    assert not list((tmp_path / "results").rglob("*.json"))


def test_means_over_other_victims_are_told_as_such(capsys):
    from headsweep.cli.bench import _say_results

    stage = {name: {"value": 0.5} for name in ("excess_lfr", "accuracy")}
    form = {"before": stage, "after": stage}
    cells = {"a-none": form | {"method": "none", "victim": "a"},
             "a-gradient": form | {"method": "gradient", "victim": "a"}}  # fmt: skip
    _say_results(cells, Path("-out"))
    told = capsys.readouterr().out
    assert "means over cells; intervals" in told
    assert "headsweep report ./-out" in told  # a leading dash would be an option
    _say_results(cells | {"b-none": form | {"method": "none", "victim": "b"}}, Path("out"))
    assert "not of the same victims for every method" in capsys.readouterr().out


def test_a_grid_is_not_filled_inside_a_purified_folder(tmp_path):
    (tmp_path / "headsweep.json").write_text('{"format": "headsweep.manifest/1"}')
    for option in ("--out", "--cache"):
        with pytest.raises(UserError, match="whose files headsweep verifies"):
            check_folder(tmp_path / "results", option)
