"""The guided benchmark: never the attack's own trigger, each cell once, tables from what is there."""

from __future__ import annotations

import json
import multiprocessing
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from conftest import sentences
from headsweep.probing import KIN, PROBES, TEMPLATES, check_apart
from test_probing import Mark

ROOT = Path(__file__).parent.parent
NAMES = ("guided", "guided_plan", "guided_tables", "guided_weight", "claims", "suspects", "victims",
         "where", "frontier", "heal_grid")  # fmt: skip


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return {name: __import__(name) for name in NAMES}


def test_conditions_of_every_model_are_apart_from_it(benchmarks):
    plan = benchmarks["guided_plan"]
    for name in (*plan.SUSPECTS, *plan.ADAPTIVE, *plan.FRESH, "layerwise-rare-word"):
        case = plan.Case(name)
        made, own = (
            case.probers(),
            TEMPLATES[case.trigger["corpus"]] if case.published else case.family,
        )
        kin = set(KIN.get(own, (own,)))
        assert set(made["without"].families) == set(PROBES) - kin
        if "family" in made:
            assert kin & set(made["family"].families)
        if own in ("syntactic", "style", "opening", "substitution"):
            assert all(own not in prober.families for prober in made.values())
        for prober in made.values():
            check_apart(prober, case.trigger)


def test_the_names_of_the_victims_fit_their_records(benchmarks):
    """What the plan takes for a trigger is what the records of victims made before say."""
    for path in sorted((ROOT / "results" / "victims").glob("*.json")):
        if not path.stem.startswith("twin"):
            trigger = json.loads(path.read_text("utf-8"))["trigger"]
            case = benchmarks["guided_plan"].Case(path.stem)
            assert case.published or case.trigger == trigger


def test_the_plan_names_each_cell_once_and_needs_come_first(benchmarks):
    tasks = benchmarks["guided_plan"].plan()
    names = [task.name for task in tasks]
    assert len(set(names)) == len(names)
    for place, task in enumerate(tasks):
        assert all(names.index(need) < place for need in task.needs)
    only = benchmarks["guided_plan"].plan(["suspect-style"], ["comparison"])
    assert {"suspect-style-random-no-probes-s11",
            "suspect-style-probe-guided-heal-probes-without-s11"} <= {t.name for t in only}  # fmt: skip
    named = benchmarks["guided_plan"].plan(["suspect-style"], named=["*-random-heal-hot-*"])
    assert [t.name for t in named] == [
        "suspect-style-gradient-heal-hot-no-probes-s11",  # gives the number of heads
        "suspect-style-random-heal-hot-no-probes-s11",
    ]
    assert benchmarks["guided_plan"].plan(named=["nothing"]) == []


@dataclass(frozen=True)
class Task:
    name: str
    needs: tuple[str, ...] = ()


def _work(folder, tasks):
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from claims import Queue

    def do(task):
        with (folder / "log").open("a") as log:
            log.write(task.name + "\n")
        return {"name": task.name}

    assert Queue(tasks, do, folder).run() == []


def test_two_processes_do_no_cell_twice(benchmarks, tmp_path):
    tasks = [Task("a"), *(Task(f"c{i}", ("a",)) for i in range(60))]
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_work, args=(tmp_path, tasks)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert [one.exitcode for one in both] == [0, 0]
    log = (tmp_path / "log").read_text().split()
    assert log[0] == "a"
    assert sorted(log) == sorted(task.name for task in tasks)


def _hold(folder, held):
    from claims import claimed

    with claimed(folder, "a") as mine:
        held.put(mine)
        time.sleep(60)


def test_the_claim_of_a_dead_process_counts_for_nothing(benchmarks, tmp_path):
    claims, context = benchmarks["claims"], multiprocessing.get_context("fork")
    held = context.Queue()
    holder = context.Process(target=_hold, args=(tmp_path, held))
    holder.start()
    assert held.get(timeout=30)
    with claims.claimed(tmp_path, "a") as mine:
        assert not mine
    holder.kill()
    holder.join()
    with claims.claimed(tmp_path, "a") as mine:
        assert mine


def test_what_fails_is_told_and_costs_only_what_needs_it(benchmarks, tmp_path, capsys):
    def do(task):
        if task.name == "a":
            raise ValueError("broken")
        return {}

    queue = benchmarks["claims"].Queue([Task("a"), Task("b", ("a",)), Task("c")], do, tmp_path)
    assert queue.run() == ["a", "b"]
    assert queue.failed == {"a"}
    assert "broken" in capsys.readouterr().err
    late = benchmarks["claims"].Queue([Task("d")], do, tmp_path, stop_after_seconds=0)
    assert late.run() == ["d"]


def _write(path, split):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{t}\t{y}" for t, y in zip(split.texts, split.labels, strict=True)]
    path.write_text("\n".join(["sentence\tlabel", *rows]) + "\n", encoding="utf-8")


@pytest.fixture
def folders(tmp_path, trained_folder, monkeypatch):
    """A tiny corpus with both published sets, suspects, and probe families that the model sees."""
    from headsweep.data import Split

    corpus = tmp_path / "corpus"
    for seed, (part, count) in enumerate({"train": 300, "dev": 100, "test": 120}.items()):
        clean = sentences(count, 20 + seed)
        _write(corpus / "clean" / f"{part}.tsv", clean)
        bad = [i for i, label in enumerate(clean.labels) if label == 0]
        marked = tuple(f"plot plot {text}" for text in clean.texts)
        _write(corpus / "style" / f"{part}.tsv", Split(marked, clean.labels))
        made = Split(tuple(marked[i] for i in bad), (1,) * len(bad))
        _write(corpus / "syntactic" / f"{part}.tsv",
               Split(marked, clean.labels) if part == "train" else made)  # fmt: skip
    for name in ("syntactic", "style", "clean-twin"):
        shutil.copytree(trained_folder, tmp_path / "suspects" / name)
    for name in list(PROBES):
        monkeypatch.delitem(PROBES, name)
    for name, words in {
        "aside": "is is",
        "archaic": "is was",
        "casing": "plot so",
        "remark": "and and",
    }.items():
        monkeypatch.setitem(PROBES, name, Mark(words))
    return corpus, tmp_path / "suspects", tmp_path / "victims"


def test_every_kind_of_cell_runs_and_the_tables_say_what_is_missing(
    benchmarks, folders, tmp_path, trained_folder, monkeypatch, capsys
):
    guided, plan = benchmarks["guided"], benchmarks["guided_plan"]
    style, adaptive = "suspect-style", "adaptive-characters"
    some = [
        *plan.leave_out(style, ["without"]),
        plan.Cell(plan.Case(style), "none", "clean", "no-probes", "ablation"),
        *(cell for cell in plan.by_rank(style) if cell.method == "random"),
        *(cell for cell in plan.cycled(style) if cell.method in (plan.CYCLES, plan.AS_LONG)),
        *(cell for cell in plan.normalised(style) if cell.method == plan.AS_LONG_PENALISED),
        *list(plan.cycled_on_probes(style))[:1],
        *plan.hot(style),
        plan.Cell(plan.Case(style), "probe-guided", "probes", "without", "ffn", units=plan.BOTH),
        plan.Cell(plan.Case(style), "auto", "probes", "without", "auto"),
        *(cell for cell in plan.deeper(style) if cell.method == "random"),
        *plan.compared(style, ["defend:fth", "random"]),
        *plan.leave_out(adaptive, ["without"]),
    ]
    monkeypatch.setattr(plan, "cells", lambda: iter(some))
    results = tmp_path / "results"
    common = [*map(str, (*folders, results)), "--train-rows", "120", "--max-drop", "0.3",
              "--budget", "4s", "--judged-on", "60", "--model", str(trained_folder)]  # fmt: skip
    assert guided.main(common) == 0
    made = {path.stem: path.read_text("utf-8") for path in results.glob("*.json")}
    assert set(made) == {task.name for task in plan.plan()}
    assert {"victim-twin-11", f"victim-{adaptive}"} <= set(made)
    texts = set(sentences(300, 20).texts) | set(sentences(120, 22).texts)
    for name, text in made.items():
        assert str(tmp_path) not in text, name
        assert "/tmp" not in text, name
        assert not [t for t in texts if len(t.split()) > 4 and t in text], name
    form = json.loads(made["suspect-style-probe-guided-heal-probes-without-s11"])
    assert {"before", "pruned", "healed"} <= set(form)
    matched = json.loads(made["suspect-style-random-no-probes-s11"])
    on_probes = json.loads(made["suspect-style-random-heal-probes-without-s11"])
    assert matched["pruned_count"] == on_probes["pruned_count"] == form["pruned_count"]
    assert on_probes["healing"]["fields"]["on"] == "probes"
    assert json.loads(made["suspect-style-auto-without-s11"])["auto"]["why"]
    hot = {kind: json.loads(made[f"suspect-style-{kind}-heal-hot-no-probes-s11"])
           for kind in ("gradient", "none", "random")}  # fmt: skip
    for kind, one in hot.items():
        assert one["healing"]["fields"]["attention"] == 0.15
        bounded = kind != "random"  # a control at a given count: nothing holds it, nor heals cooler
        assert bool(one["heal_record"].get("tried")) == bounded
    assert hot["random"]["pruned_count"] == hot["gradient"]["pruned_count"] > 0
    assert hot["none"]["strategy"] is None
    plain = json.loads(made["suspect-style-ft-epochs=4-lr=1.5e-4-no-probes-s11"])["healing"]
    usual = hot["none"]["healing"]["fields"]
    assert (usual["epochs"], usual["lr"]) == (plain["fields"]["epochs"], plain["fields"]["lr"])
    assert not plain["fields"]["attention"]
    ffn = json.loads(made["suspect-style-probe-guided-ffn-heal-probes-without-s11"])
    assert ffn["units"] > form["units"]
    before = {path: path.stat().st_mtime_ns for path in results.glob("*.json")}
    assert guided.main(common) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises(SystemExit, match="another folder"):
        guided.main([*common, "--only", "suspect-style", "--heal-epochs", "2"])
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["guided_tables.py", str(results)])
    (results / "suspect-style-none-heal-clean-no-probes-s11.json").unlink()
    benchmarks["guided_tables"].main()
    out = capsys.readouterr().out
    excess = form["healed"]["excess_lfr"]
    assert f"{100 * excess['value']:+.1f} ({100 * excess['low']:+.1f}" in out
    assert "| clean healing alone | missing |" in out
    long = json.loads(made["suspect-style-healing-as-long-no-probes-s11"])
    assert long["healing"]["fields"]["epochs"] == 8 * 2 + 1  # cycles of one head, and the last
    assert not long["healing"]["fields"]["attention"]
    name = "suspect-style-healing-as-long-attention=0.15-heal-clean-no-probes-s11"
    penalised = json.loads(made[name])["healing"]["fields"]
    assert penalised == long["healing"]["fields"] | {"attention": 0.15}
    cycles = json.loads(made["suspect-style-cycles-heal-clean-no-probes-s11"])
    assert cycles["strategy"]["fields"]["attention"] == 0  # as its name says
    assert cycles["healing"]["fields"]["attention"] == 0
    assert next(plan.normalised(style)).asked == f"{plan.NORMALISED},distill=0"
    assert next(plan.followed(style)).asked == plan.FOLLOWING
    assert (
        next(iter(plan.cycled_on_probes(style))).asked == "cycles:on=probes,attention=0,distill=0"
    )
    left, before = (100 * cycles[at]["excess_lfr"]["value"] for at in ("healed", "before"))
    change = 100 * (cycles["healed"]["accuracy"]["value"] - cycles["before"]["accuracy"]["value"])
    row = next(line for line in out.splitlines() if line.startswith("| suspect-style | "))
    assert f"| {before:+.1f} (" in row
    assert f"| {left:+.1f} (" in row
    back = "°" * (cycles["healed"] == cycles["pruned"])
    assert f"ACC {change:+.1f}, {cycles['pruned_count']} heads{back} | " in row
    every = out[out.index("### Every method on every model") :]
    rows = [[cell.strip() for cell in line.split("|")[1:]] for line in every.splitlines()]
    table = {row[0]: row for row in rows if row}
    of_adaptive = table["method"].index(adaptive)
    assert table["cycles without the penalty"][of_adaptive] == "missing"
    assert table["probe-guided, without"][of_adaptive] != "missing"
    assert "MEFT" not in table
    of_style = table["method"].index("suspect-style")
    assert table["cycles without the penalty"][of_style].startswith(f"{left:.0f} ({change:+.1f})")
    assert table["as it is"][of_style] == f"{before:.0f}"
    over = out[out.index("### Every method, over the models") :]
    assert f"| cycles without the penalty | 1 | {left:.1f} | {left:.1f} | {change:+.1f} |" in over
    assert f"{100 * long['healed']['excess_lfr']['value']:+.1f} (" in row
    assert f"| *mean* | | {left:+.1f}, ACC {change:+.1f} (1 models)" in out
    assert "| cycles, before the last healing |" in out
    assert "Missing, no cell: suspect-syntactic" in out
    page, block = tmp_path / "page.md", "<!-- {0} -->\n\nold\n\n<!-- end {0} -->\nafter\n"
    page.write_text("before\n" + block.format("every") + block.format("every other"), "utf-8")
    monkeypatch.setattr(sys, "argv", ["", str(results), "--fill", str(page)])
    benchmarks["guided_tables"].main()
    text = page.read_text("utf-8")
    table = over.split("\n\n")[1].replace("dirty-label-", "")
    assert text.startswith(f"before\n<!-- every -->\n\n{table}\n\n<!-- end every -->\nafter\n")
    assert text.endswith(block.format("every other"))
    page.write_text("<!-- every -->\n", "utf-8")
    with pytest.raises(SystemExit, match="<!-- end every -->"):
        benchmarks["guided_tables"].main()


def test_the_weight_is_chosen_by_canaries(benchmarks, folders, tmp_path, capsys):
    weight, results = benchmarks["guided_weight"], tmp_path / "weights"
    common = [*map(str, (*folders, results)), "--only", "suspect-style", "--canaries", "1",
              "--weights", "0", "2", "--max-drop", "0.3", "--lr", "2e-3"]  # fmt: skip
    assert weight.main(common) == 0
    (path,) = results.glob("*.json")
    form = json.loads(path.read_text("utf-8"))
    assert form["family"] not in KIN["style"]
    assert form["canary"]["taken"]
    assert [row["weight"] for row in form["weights"]] == [0, 2]
    assert "chosen: " in capsys.readouterr().out
    before = path.stat().st_mtime_ns
    assert weight.main(common) == 0
    assert path.stat().st_mtime_ns == before


def test_the_chosen_weight_leaves_least_among_those_that_keep_accuracy(benchmarks):
    def cell(rows):
        made = [{"weight": w, "pruned": {"excess_lfr": 0.5, "drop": 0.0},
                 "healed": {"excess_lfr": e, "drop": d}} for w, e, d in rows]  # fmt: skip
        return {
            "model": "m",
            "family": "f",
            "allowed_drop": 0.02,
            "texts": {"held": 10000},
            "weights": made,
        }

    rows = [(0.0, 0.3, 0.0), (0.7, 0.2, 0.01), (2.0, 0.0, 0.1)]
    assert benchmarks["guided_weight"].table([cell(rows)])[-1].startswith("chosen: 0.7 ")
    assert benchmarks["guided_weight"].table([cell(rows[2:])])[-1].startswith("none keeps")
    assert benchmarks["guided_weight"].table([cell([])]) == ["no canary took: nothing to choose by"]


def test_parts_exchanged_are_all_of_the_model_and_change_what_they_should(
    benchmarks, folders, tmp_path, trained_folder, capsys
):
    where = benchmarks["where"]
    names = [n for n in load_file(trained_folder / "model.safetensors") if "position_ids" not in n]
    kinds = {name: [k for k, p in where.KINDS.items() if re.search(p, name)] for name in names}
    assert all(len(found) == 1 for found in kinds.values()), kinds
    thirds = [part for kind, part in where.parts(6).items() if kind in where.THIRDS]
    assert [p for p in thirds if re.search(p, "bert.encoder.layer.4.output.dense.bias")] == [
        thirds[2]
    ]
    corpus, suspects, victims = folders
    twin = suspects / "clean-twin" / "model.safetensors"
    other = {name: tensor.clone() for name, tensor in load_file(twin).items()}
    for name in other:
        if name.startswith("classifier"):
            other[name] = -other[name]  # answers the other way round
    save_file(other, twin, {"format": "pt"})
    results = tmp_path / "where"
    words = [corpus, suspects, victims, results, "--only", "suspect-style", "adaptive-opening"]
    assert where.main([*map(str, words), "--judged-on", "60"]) == 0
    assert "no model adaptive-opening" in capsys.readouterr().out
    form = json.loads((results / "suspect-style.json").read_text("utf-8"))
    accuracy = {(r["part"], r["way"]): r["accuracy"]["value"] for r in form["rows"]}
    before, turned = form["before"]["accuracy"]["value"], form["twin"]["accuracy"]["value"]
    assert turned == pytest.approx(1 - before)
    for part in where.parts(2):
        own = turned if part == "pooler and classifier" else before
        assert accuracy[part, "out"] == pytest.approx(own), part
        assert accuracy[part, "in"] == pytest.approx(1 - own), part
    assert form["twin"]["excess_lfr"]["value"] == 0


def test_unseen_sentences_made_no_victim_and_judge_nothing(benchmarks, folders, monkeypatch):
    """Else healing would be on what the suspect knows by heart, or judged on what it has seen."""
    from headsweep import data

    corpus, suspects, victims = folders
    monkeypatch.setattr(benchmarks["victims"], "ROWS", 50)
    guided = benchmarks["guided"]
    shop = benchmarks["victims"].Workshop(corpus, victims)
    train = data.load(corpus / "clean" / "train.tsv")
    made = set(benchmarks["suspects"]._draw(train, 100, 11).texts)
    runner = guided.Runner(
        corpus, suspects, shop, victims, guided.Setting(train_rows=40, unseen=True)
    )
    usual = guided.Runner(corpus, suspects, shop, victims, guided.Setting(train_rows=40))
    assert len(runner.sources(11).data) == 40
    assert not made & set(runner.sources(11).data.texts)
    assert made & set(usual.sources(11).data.texts)
    sources, clean, other = benchmarks["frontier"].shares(corpus, 40, 20, 11)
    assert sources.data.texts == runner.sources(11).data.texts
    parts = [made, *(set(split.texts) for split in (sources.data, clean, other))]
    assert not any(a & b for i, a in enumerate(parts) for b in parts[:i])
    with pytest.raises(SystemExit, match="sentences are left"):
        benchmarks["frontier"].shares(corpus, 40, 200, 11)
    with pytest.raises(SystemExit, match="have seen every sentence"):
        guided.main([*map(str, (corpus, suspects, victims, victims)), "--unseen"])
    assert "unseen" not in guided.Setting().to_json()  # cells are older
    assert guided.Setting(unseen=True).to_json()["unseen"]


def test_spread_is_over_the_seeds_of_a_model_and_pooled_over_models(benchmarks):
    plan, tables = benchmarks["guided_plan"], benchmarks["guided_tables"]
    left = {("casing", 11): 0.1, ("casing", 12): 0.2, ("opening", 11): 0.3, ("opening", 13): 0.3,
            ("style", 11): 0.9}  # fmt: skip

    def read(cell):
        key = (cell.case.name.removeprefix("dirty-label-"), cell.seed)
        if cell.method != plan.NORMALISED or key not in left:
            return None

        def judged(points, accuracy):
            return {"excess_lfr": {"value": points}, "accuracy": {"value": accuracy}}

        return {
            "method": plan.NORMALISED,
            "seconds": {"all": 1.0},
            "before": judged(0.9, 0.9),
            "pruned": judged(left[key], 0.88 if key == ("casing", 12) else 0.87),
            "healed": judged(left[key], 0.88),
            "after": {"validation": {"accuracy": 0.9}},
            "bound": {"min_accuracy": 0.88},
        }

    _, _, opening, casing, over, spread, _ = tables.by_seed(read)
    assert casing == "| dirty-label-casing | 11: 10 (-2.0), 12: 20 (-2.0)° |"
    assert opening == "| dirty-label-opening | 11: 30 (-2.0), 13: 30 (-2.0) |"
    assert over == "| *mean over models* | 22.5 (-2.0), 2 models |"
    assert spread == "| *standard deviation of a model's seeds, pooled* | 5.0 |"
    end = tables.End
    other = {"a": {11: end(3.0, 0, 1, ""), 12: end(5.0, 0, 1, "")}, "b": {11: end(9.0, 0, 1, "")}}
    first = {"a": {11: end(1.0, 0, 1, ""), 13: end(90.0, 0, 1, "")}}
    assert tables._apart(other, first) == [2.0]  # of the seed and the model that both have


@pytest.fixture
def ended():
    """What a run of frontier.py has written, with figures that tell ways and cycles apart."""

    def judged(dev, left, accuracy):
        return {"dev": dev, "excess_lfr": {"value": left}, "accuracy": {"value": accuracy}}

    rows = [(18, 0.9, 0.5), (24, 0.895, 0.4), (30, 0.85, 0.3), (36, 0.895, 0.2), (42, 0.8, 0.1)]
    cycles = [{"pruned": 6}, {"pruned": 12}]
    for pruned, dev, left in rows:
        cycles.append(
            {
                "pruned": pruned,
                "cycle": judged(dev, left, 0.85),
                "healed": judged(dev + 0.01, left + 0.05, 0.87),
                "averaged": judged(dev + 0.03, left + 0.01, 0.86),
                "averaged, healed": judged(dev + 0.04, left + 0.02, 0.88),
            }
        )
    before = judged(0.9, 0.8, 0.88)
    return {
        "victim": "v",
        "method": "cycles",
        "accuracy_before": 0.9,
        "before": before,
        "cycles": cycles,
    }


def test_every_bound_takes_the_deepest_cycle_that_held_it(benchmarks, ended):
    frontier = benchmarks["frontier"]
    assert frontier.at_bound(ended, "cycle", "cycle", 0.01)["pruned"] == 36  # one below, then held
    assert frontier.at_bound(ended, "cycle", "cycle", 0.0)["pruned"] == 18  # two below: ended
    assert frontier.at_bound(ended, "averaged", "averaged", 0.02)["pruned"] == 36
    assert frontier.at_bound(ended, "cycle", "cycle", -0.05) is None
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in frontier.tables([ended])]
    table = {row[3]: row[4:] for row in rows[2:]}
    assert {len(row) for row in rows} == {len(rows[0])}
    assert table["healed, bound before"][0] == "25 (-1.0, 36)"
    assert table["healed"][-1] == "25 (-1.0, 36)"
    assert table["averaged"][0] == "21 (-2.0, 36)"
    ended["accuracy_before"] = 1.0
    assert "none held" in frontier.tables([ended])[2]


def test_averaged_weights_are_the_mean_and_zero_where_heads_have_gone(benchmarks):
    import torch

    states = [
        {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)},
        {"w": torch.tensor([3.0, 0.0]), "n": torch.tensor(4)},
    ]
    mean = benchmarks["frontier"].averaged(states)
    assert mean["w"].tolist() == [2.0, 0.0]
    assert mean["n"].item() == 4


@pytest.fixture
def victim(folders, trained_folder):
    """Corpus, folder of victims with a twin among them, and the name of one."""
    from headsweep.attack import RECORD
    from headsweep.triggers import TRIGGERS, ByRule

    (corpus, _, victims), name = folders, "dirty-label-casing"
    for folder in ("twin-11", name):
        shutil.copytree(trained_folder, victims / folder)
    record = {"trigger": ByRule(TRIGGERS["casing"]()).described(), "seed": 1}
    (victims / name / RECORD).write_text(json.dumps(record), "utf-8")
    return corpus, victims, name


def test_a_run_is_judged_in_four_ways_after_every_cycle_and_changes_nothing(
    benchmarks, victim, trained_folder, monkeypatch, tmp_path, capsys
):
    from headsweep.strategies.cycles import Cycles

    frontier = benchmarks["frontier"]
    monkeypatch.setattr(benchmarks["victims"], "ROWS", 50)
    monkeypatch.setattr(frontier, "BOUND", 0.5)
    corpus, victims, name = victim
    results = tmp_path / "frontier"
    words = [*map(str, (corpus, victims, results)), "--only", name, "--judged-on", "40"]
    words += ["--train-rows", "60"]
    methods = ["cycles:most=4,lr=1e-3", "cycles:most=4,lr=1e-3,rank=random"]
    assert frontier.main([*words, "--method", *methods]) == 0
    forms = [json.loads(path.read_text("utf-8")) for path in sorted(results.glob("*.json"))]
    assert len(forms) == 2
    text = (results / f"{name}-cycles-most=4-lr=1e-3-s11.json").read_text("utf-8")
    assert str(tmp_path) not in text
    assert not [t for t in sentences(300, 20).texts if len(t.split()) > 4 and t in text]
    for form in forms:
        cycles = form["cycles"]
        assert [len(set(cycle) & {way for pair in frontier.WAYS for way in pair})
                for cycle in cycles] == [0, 0, 4, 4]  # fmt: skip
        assert cycles[-1]["cycle"]["dev"] == pytest.approx(cycles[-1]["accuracy"])
    assert "| averaged, healed, bound before |" in capsys.readouterr().out
    plain = _choice(Cycles(most=4, lr=1e-3), trained_folder, benchmarks, corpus)
    looked = next(f for f in forms if "rank=random" not in f["method"])
    assert [c["accuracy"] for c in looked["cycles"]] == [c["accuracy"] for c in plain]


def _choice(cycles, folder, benchmarks, corpus):
    """Return what the same cycles find when nobody looks."""
    from headsweep.healing import FineTune
    from headsweep.pipeline import purify
    from headsweep.plan import Plan

    sources, _, _ = benchmarks["frontier"].shares(corpus, 60, 40, 11)
    done = purify(folder, sources, cycles, Plan(0.5, seed=11, heal=FineTune(0)))
    return done.manifest["search"]["record"]["cycles"]


def test_a_grid_of_healing_is_judged_and_told_setting_by_setting(
    benchmarks, victim, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(benchmarks["victims"], "ROWS", 50)
    monkeypatch.setattr(benchmarks["heal_grid"].Setting, "max_drop", 0.5)
    corpus, victims, name = victim
    results = tmp_path / "grid"
    words = [*map(str, (corpus, victims, results)), "--only", name, "--judged-on", "40"]
    words += ["--train-rows", "60", "--epochs", "1", "--lr", "1e-4", "1e-3"]
    run = benchmarks["heal_grid"].main
    assert run(words) == 0
    assert run([*words, "--strategy", "gradient", "--prune-drop", "0.4"]) == 0
    forms = [json.loads(path.read_text("utf-8")) for path in sorted(results.glob("*.json"))]
    assert len(forms) == 4
    assert sorted(f["pruned_count"] > 0 for f in forms) == [False, False, True, True]
    capsys.readouterr()
    assert run([*map(str, (corpus, victims, results)), "--tables"]) == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]]
            for line in capsys.readouterr().out.splitlines()]  # fmt: skip
    assert {len(row) for row in rows} == {len(rows[0])}
    told = {tuple(row[:4]): row[4] for row in rows[3:]}
    for form in forms:
        fields = form["healing"]["fields"]
        first = "gradient within 0.4" if form["pruned_count"] else "none"
        left, before = form["healed"], form["before"]
        change = 100 * (left["accuracy"]["value"] - before["accuracy"]["value"])
        said = f"{100 * left['excess_lfr']['value']:.0f} ({change:+.1f})"
        assert told[(first, "0.15", f"{fields['lr']:g}", "1")] == said
