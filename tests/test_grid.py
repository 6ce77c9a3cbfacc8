"""What methods and attacks of a grid may ask for, each run on a tiny model."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from headsweep.bench import sources, tiny
from headsweep.bench.grid import Model, read_grid
from headsweep.bench.orders import orders
from headsweep.bench.results.reading import read_results
from headsweep.bench.work import folder_of
from headsweep.errors import UserError
from headsweep.heal.fine_tune import FineTune
from headsweep.model.mask import HEADS, Units
from headsweep.prune.choice import Choice
from headsweep.prune.strategies.gradient import Gradient
from headsweep.reports.comparison import compare
from headsweep.texts.reading import write
from test_cli import run  # noqa: F401 - a fixture

HEAD = """
name = "tiny"
seeds = [11]
[compute]
precision = "fp32"
batch_size = 16
max_length = 32
[[model]]
name = "tiny"
source = "made:tiny"
[[data]]
name = "sentences"
train = "made:sentences"
validation = "made:sentences"
test = "made:sentences"
labels = ["negative", "positive"]
attacker = 300
victim = 200
defender = 200
[victim]
epochs = 2
lr = 2e-3
"""
ATTACK = """
[[attack]]
name = "rare-word"
trigger = "rare-word"
target = "positive"
rate = 0.5
fields = { epochs = 4, lr = 2e-3 }
"""
DEFEND = """
[defend]
max_drop = 0.05
heal = { epochs = 1, lr = 2e-3 }
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def recipe(tmp_path):
    def write(*tables, attack=ATTACK, defend=DEFEND, head=HEAD):
        path = tmp_path / "grid.toml"
        path.write_text("\n".join((head, attack, defend, *tables)), encoding="utf-8")
        return path

    return write


@pytest.fixture
def cells(run, cache, tmp_path):  # noqa: F811
    """Run a recipe; return its cells by method."""

    def call(path, *more, engine="inline", folder="results"):
        out = tmp_path / folder
        asked = ["--out", out, "--cache", cache, "--engine", engine, "--json", *more]
        code, text, err = run("bench", path, *asked)
        assert code == 0, text + err
        forms = [json.loads(p.read_text()) for p in sorted(out.glob("*.json"))]
        return {form["method"]: form for form in forms}

    return call


def mistake(path, line):
    """Return what is said of a recipe, whose fault stands in the line that holds a text."""
    with pytest.raises(UserError) as caught:
        read_grid(path)
    numbers = [n for n, text in enumerate(path.read_text().split("\n"), 1) if line in text]
    assert f"line {numbers[0]}:" in str(caught.value)
    return str(caught.value)


def method(text):
    return f"[[method]]\n{text}\n"


GRADIENT = method('strategy = "gradient"\nfields = { step = 2 }')
HOT = "heal = { epochs = 2, lr = 1e-3, attention = 0.15, halvings = 2, compact = false }"


def test_a_grid_takes_every_field_of_healing_and_a_method_its_own(recipe, cache):
    own = method('name = "hotter"\nstrategy = "gradient"\nheal = { lr = 2e-3, halvings = 0 }')
    alone = method('strategy = "none"\nprune_drop = 0.0')
    both = method('name = "both"\nstrategy = "gradient"\nunits = "heads,ffn:4"')
    grid = read_grid(recipe(GRADIENT, own, alone, both, defend=f"[defend]\nmax_drop = 0.05\n{HOT}"))
    made = {
        c.method.name: c.method.made(c.defending.heal, c.defending.bound)
        for c in orders(grid, sources.Hashes(cache))
    }
    hot = FineTune(2, 1e-3, attention=0.15, halvings=2, compact=False)
    assert made["gradient"].healing == made["none"].healing == hot
    assert made["hotter"].healing == FineTune(2, 2e-3, attention=0.15, compact=False)
    assert not made["none"].pruning.needs.pruning
    assert (made["both"].units, made["gradient"].units) == (Units(True, True, 4), HEADS)


def test_cells_are_healed_as_asked_and_each_healing_is_another_cell(recipe, cells, cache):
    more = [
        method('name = "as-asked"\nstrategy = "none"'),
        method('name = "hotter"\nstrategy = "none"\nheal = { lr = 4e-3, attention = 0.15 }'),
        method('name = "deeper"\nstrategy = "gradient"\nprune_drop = 0.2\nfields = { step = 2 }'),
        method('name = "both"\nstrategy = "none"\nunits = "heads,ffn:4"'),
    ]
    path = recipe(GRADIENT, *more)
    assert len({c.key for c in orders(read_grid(path), sources.Hashes(cache))}) == 5
    found = cells(path)
    assert found["both"]["units"] == found["gradient"]["units"] + 3 * 4  # layers, groups
    healing = {name: form["healing"]["fields"] for name, form in found.items()}
    assert {name: f["lr"] for name, f in healing.items()} == {
        "gradient": 2e-3, "as-asked": 2e-3, "hotter": 4e-3, "deeper": 2e-3, "both": 2e-3
    }  # fmt: skip
    assert healing["hotter"]["attention"] == 0.15
    assert "layer_weights" in found["hotter"]["heal"]  # the penalty was at work
    assert found["hotter"]["bound"]["binds"]  # healing alone is held to the bound, as pruning is
    within = [found[name]["bound"]["while_pruning"] for name in ("gradient", "deeper")]
    assert within[0] - within[1] == pytest.approx(0.15)
    assert found["as-asked"]["strategy"] is None


@pytest.mark.parametrize(
    ("tables", "line", "told"),
    [
        ([method('strategy = "gradient"\nheal = { lrs = 1 }')], "heal = { lrs", "mean 'lr'"),
        ([method('strategy = "gradient"\nheal = { distill = 1 }')], "distill", "is gone"),
        ([method('strategy = "gradient"\nheal = { lr = -1 }')], "lr = -1", "learning rate"),
        ([method('strategy = "cycles"')], '"cycles"', 'gone\n  fix: strategy = "gradient"'),
        ([method('strategy = "gradient"\nunits = "head"')], "units", "mean 'heads'"),
        ([method('defense = "ft"\nunits = "heads"')], "units", "leave it out"),
        ([method('defense = "ft"\nheal = { lr = 1 }')], "heal = { lr = 1", "set it in its fields"),
        ([method('strategy = "gradient"\nprune_drop = 3.0')], "prune_drop", "not a fraction"),
        ([method('strategy = "none"\nmax_drop = -1.0')], "max_drop = -1", "not a fraction"),
        ([method('defense = "ft"\nmax_drop = 0.1')], "max_drop = 0.1", "nothing holds 'ft'"),
        ([method('defense = "random"\nmatch = "gradint"'), GRADIENT], "gradint", "'gradient'?"),
        ([method('defense = "random"\nmatch = "random"')], "match", "'random' is matched itself"),
        ([method('strategy = "variance"\nmatch = "variance"')], "match", "only random heads"),
        (
            [method('defense = "ft"'), method('defense = "random"\nmatch = "ft"')],
            "match",
            "no heads",
        ),
        (
            [GRADIENT, method('defense = "random"\nmatch = "gradient"\nfields = { count = 1 }')],
            "match",
            "both give the number",
        ),
        (
            [
                GRADIENT.replace("fields", "seeds = [12]\nfields"),
                method('defense = "random"\nmatch = "gradient"'),
            ],
            "match",
            "not run with every seed",
        ),
    ],
)
def test_mistakes_of_a_method_are_said_with_their_line(recipe, tables, line, told):
    head = HEAD.replace("[11]", "[11, 12]")
    assert told in mistake(recipe(*tables, head=head), line)


@pytest.mark.parametrize(
    ("defend", "grid"), [("max_drop = 0.05", 0.05), ("min_accuracy = 0.4", None)]
)
def test_a_method_is_held_to_a_bound_of_its_own(recipe, cells, cache, defend, grid):
    fields = "fields = { step = 2 }"
    closer = method(f'name = "closer"\nstrategy = "gradient"\nmax_drop = 0.01\n{fields}')
    further = method(f'name = "further"\nstrategy = "gradient"\nmax_drop = 0.3\n{fields}')
    defend = f"[defend]\n{defend}\nheal = {{ epochs = 0 }}"
    path = recipe(GRADIENT, closer, further, defend=defend)
    assert len({order.key for order in orders(read_grid(path), sources.Hashes(cache))}) == 3
    bounds = {name: form["bound"] for name, form in cells(path).items()}
    assert {name: bound["max_drop"] for name, bound in bounds.items()} == {
        "gradient": grid, "closer": 0.01, "further": 0.3
    }  # fmt: skip
    lowest = bounds["closer"]["min_accuracy"] - bounds["further"]["min_accuracy"]
    assert lowest == pytest.approx(0.29)
    assert (bounds["gradient"]["min_accuracy"] == 0.4) == (grid is None)


def test_a_victim_made_anew_is_kept_beside_the_cells_judged_by_it(recipe, cells, tmp_path):
    alone, results = method('defense = "nothing"'), tmp_path / "results"
    cells(recipe(alone))
    (file,) = (results / "victims").iterdir()
    first = json.loads(file.read_text())
    cells(recipe(alone, attack=ATTACK.replace("0.5", "0.4")))
    (kept,) = (results / "apart").iterdir()
    found = read_results(kept)  # whole, as it was
    assert [cell["victim_key"] for cell in found.cells] == [first["key"]]
    assert list(found.victims.values()) == [first]
    assert first["key"] not in [cell["victim_key"] for cell in read_results(results).cells]


def test_seeds_judged_by_other_numbers_of_texts_are_compared(recipe, cells, tmp_path):
    alone = method('defense = "nothing"')
    few = HEAD.replace('labels = ["neg', 'test_rows = 40\nlabels = ["neg').replace("[11]", "[12]")
    cells(recipe(alone))
    cells(recipe(alone, head=few))
    found = read_results(tmp_path / "results")
    (setting,) = compare(found)
    assert [one.seeds for one in setting.standings] == [(11, 12)]
    judged = [cell["before"]["lfr"]["total"] for cell in found.cells]
    assert judged[0] != judged[1]


def test_another_configuration_is_another_model(tmp_path, cache):
    folder = tmp_path / "model"
    tiny.make(folder)
    model, hashes = Model("m", str(folder)), sources.Hashes(cache)
    before = hashes._model(model, ("negative", "positive"))
    config = folder / "config.json"
    assert '"gelu"' in config.read_text()
    config.write_text(config.read_text().replace('"gelu"', '"relu"'))
    assert hashes._model(model, ("negative", "positive")) != before


@pytest.mark.parametrize(
    ("field", "use", "used"),
    [
        ('how = "greedy"', "members=3", "heal = { members = 3 }"),
        ("mix = 0.3", "base=MODEL", 'heal = { base = "model" }'),
        ("share = 0.2", "on=probes", 'heal = { on = "probes" }\nprobes = "without"'),
    ],
)
def test_a_field_of_healing_that_nothing_uses_is_refused_as_on_the_command_line(
    recipe, field, use, used
):
    own = method(f'strategy = "gradient"\nheal = {{ {field} }}')
    assert f"nothing uses it without {use}\n  fix: add {use}" in mistake(recipe(own), field)
    defend = f"[defend]\nmax_drop = 0.05\nheal = {{ {field} }}"
    assert f"nothing uses it without {use}" in mistake(recipe(GRADIENT, defend=defend), field)
    uses = method(f'name = "uses"\nstrategy = "gradient"\n{used}')
    assert read_grid(recipe(GRADIENT, uses, defend=defend)).methods


def test_a_key_of_healing_that_is_gone_names_what_replaced_it(recipe):
    for key in ("consistency", "distill", "freeze_embeddings"):
        path = recipe(GRADIENT, defend=f"[defend]\nmax_drop = 0.05\nheal = {{ {key} = 1 }}")
        assert f"'{key}' is gone\n  fix: nothing took its place" in mistake(path, key)


SHALLOW = method('strategy = "gradient"\nfields = { step = 2, examples = 40 }\nprune_drop = 0.0')
MATCHED = method(
    'name = "matched"\ndefense = "random"\nmatch = "gradient"\nfields = { epochs = 1 }'
)
FLEETING = ("seconds", "cpu_seconds", "steps_seconds", "peak_memory_mib", "shared_scores")


def lasting(form, *names):
    return {key: x for key, x in form.items() if key not in (*FLEETING, *names)}


def test_random_heads_are_as_many_as_another_method_pruned(recipe, cells, tmp_path):
    found = cells(recipe(MATCHED, SHALLOW))  # it stands first, and is run second
    count = found["gradient"]["pruned_count"]
    assert found["matched"]["pruned_count"] == count > 0
    assert found["matched"]["match"] == "gradient"
    beside = cells(recipe(MATCHED, SHALLOW), "--jobs", "2", engine="local", folder="local")
    assert {n: lasting(f) for n, f in beside.items()} == {n: lasting(f) for n, f in found.items()}
    counted = method(
        f'name = "matched"\ndefense = "random"\nfields = {{ count = {count}, epochs = 1 }}'
    )
    other = cells(recipe(counted, SHALLOW), folder="other")["matched"]
    same = ("key", "recipe", "fields", "match")
    assert lasting(found["matched"], *same) == lasting(other, *same)


def test_a_matched_cell_brings_the_one_it_takes_its_number_from(recipe, cells, tmp_path):
    path, out = recipe(MATCHED, SHALLOW, method('strategy = "none"')), tmp_path / "results"
    found = cells(path, "--only", "matched")
    assert set(found) == {"matched", "gradient"}
    kept = out / "tiny-sentences-rare-word-s11-gradient.json"
    before = kept.stat().st_mtime_ns
    (out / "tiny-sentences-rare-word-s11-matched.json").unlink()
    again = cells(path, "--only", "matched")  # the number is the finished cell's
    assert kept.stat().st_mtime_ns == before
    assert lasting(again["matched"]) == lasting(found["matched"])


def test_a_cell_whose_number_cannot_be_had_fails_with_the_reason(
    recipe,
    run,  # noqa: F811
    cache,
    tmp_path,
    monkeypatch,
):
    def broken(*_):
        raise UserError("nothing can be chosen")

    monkeypatch.setattr(Gradient, "choose", broken)
    asked = ["--out", tmp_path / "r", "--cache", cache, "--engine", "inline", "--json"]
    code, text, _ = run("bench", recipe(MATCHED, SHALLOW), *asked)
    failed = json.loads(text)["failed"]
    assert (code, len(failed)) == (1, 2)
    assert failed["tiny-sentences-rare-word-s11-matched"].startswith(
        "tiny-sentences-rare-word-s11-gradient: "
    )


def test_where_nothing_was_pruned_the_matched_control_prunes_nothing(recipe, cells, monkeypatch):
    monkeypatch.setattr(Gradient, "choose", lambda _, view: Choice(view.layout.everything()))
    found = cells(recipe(MATCHED, SHALLOW))
    assert {form["status"] for form in found.values()} == {"nothing pruned"}
    assert found["matched"]["outcome"] == "'gradient' pruned no head either"
    assert found["matched"]["after"] == found["matched"]["before"]


RESISTING = (
    ATTACK.replace('name = "rare-word"', 'name = "adaptive"') + 'resist = ["casing", "remark"]\n'
)


def test_an_attacker_may_resist_probes(recipe, cells, cache, tmp_path):
    path = recipe(method('defense = "nothing"'), attack=ATTACK + RESISTING)
    plain, adaptive = (order.victim for order in orders(read_grid(path), sources.Hashes(cache)))
    assert plain.key != adaptive.key
    cells(path)
    records = [
        json.loads((tmp_path / f"results/victims/{v.id}.json").read_text())
        for v in (plain, adaptive)
    ]
    assert "resist" not in records[0]["attack"]
    resisted = records[1]["attack"]["resist"]
    assert set(resisted["families"]) == {"casing", "remark"}
    assert resisted["share"] == 0.1
    assert all(0 < count <= 30 for count in resisted["families"].values())  # of 300 texts
    assert records[0]["weights"] != records[1]["weights"]


def test_a_suspect_that_is_given_stands_in_the_same_tables(recipe, cells, cache, tmp_path):
    path = recipe(method('defense = "nothing"'))
    (order,) = orders(read_grid(path), sources.Hashes(cache))
    made = cells(path)["nothing"]
    suspect, twin = folder_of(order.victim, cache), folder_of(order.victim.twin, cache)
    exam = sources.exam(order.victim.attack, order.victim.twin.texts, 11)
    file = tmp_path / "triggered.csv"
    write(file, [{"text": t, "label": "negative"} for t in exam.triggered.split.texts])
    attack = f"""
[[attack]]
name = "published"
given = "{suspect}"
twin = "{twin}"
triggered = "{file}"
target = "positive"
family = "rare-word"
"""
    found = cells(recipe(GRADIENT, attack=attack), folder="given")
    assert set(found) == {"gradient"}
    assert found["gradient"]["before"] == made["after"]  # the same model on the same texts
    assert found["gradient"]["attack"] == "published"
    assert str(suspect) not in json.dumps(found)


@pytest.mark.parametrize(
    ("attack", "line", "told"),
    [
        (ATTACK + 'resist = ["casng"]', "casng", "did you mean 'casing'"),
        (ATTACK.replace('"rare-word"\nt', '"casing"\nt') + 'resist = "all"', "resist", "list"),
        (ATTACK + "resist_share = 0.2", "resist_share", "nothing is resisted"),
        (ATTACK + 'resist = ["all"]\nresist_share = 2.0', "resist_share", "a share in"),
        (ATTACK.replace('trigger = "rare-word"', 'trigger = "opening"\nresist = ["opening"]'),
         "resist", "the trigger itself cannot be resisted"),
        (ATTACK.replace('trigger = "rare-word"', 'transformed = "x"\nresist = ["all"]'),
         "resist", "say which corpus"),
        (ATTACK + 'given = "x"', "rate =", "is of an attack that is made"),
        (ATTACK + 'twin = "x"', "twin", "given with its suspect"),
        (ATTACK + 'family = "casing"', "family", "its own family"),
        ('[[attack]]\ngiven = "x"\ntarget = "positive"', "[[attack]]", "'twin' is missing"),
    ],
)  # fmt: skip
def test_mistakes_of_an_attack_are_said_with_their_line(recipe, attack, line, told):
    assert told in mistake(recipe(GRADIENT, attack=attack), line)


def test_a_folder_that_is_not_there_is_said_before_any_work(recipe, run, cache, tmp_path):  # noqa: F811
    attack = '[[attack]]\ngiven = "nowhere"\ntwin = "x"\ntriggered = "y"\ntarget = "positive"'
    code, _, err = run(
        "bench", recipe(GRADIENT, attack=attack), "--out", tmp_path / "r", "--cache", cache
    )
    assert code == 2
    assert "x: no such folder" in err


def test_probes_are_never_the_attacks_trigger_and_reach_healing(recipe, cells):
    table = 'strategy = "none"\nheal = { on = "probes" }\nprobes = '
    more = [
        method(f'name = "far"\n{table}"without"'),
        method(f'name = "named"\n{table}["casing", "remark"]'),
    ]
    found = cells(recipe(*more))
    families = {name: set(form["probes"]["families"]) for name, form in found.items()}
    assert families["named"] == {"casing", "remark"}
    assert "rare-word" not in families["far"]
    assert {"casing", "style"} < families["far"]
    assert all(form["heal"]["probes_seen"] > 0 for form in found.values())


PROBED = 'strategy = "probe-guided"\n'
OPENING = ATTACK.replace('trigger = "rare-word"', 'trigger = "opening"')


@pytest.mark.parametrize(
    ("text", "attack", "line", "told"),
    [
        (PROBED, ATTACK, "[[method]]", "this method needs probes"),
        ('strategy = "auto"', ATTACK, "auto", "is gone"),
        (f'{PROBED}probes = "witout"', ATTACK, "witout", "did you mean 'without'"),
        (f'{PROBED}probes = ["casng"]', ATTACK, "casng", "did you mean 'casing'"),
        (f'{PROBED}probes = ["opening"]', OPENING, 'probes = ["op', "own trigger would be among"),
        ('strategy = "gradient"\nprobes = "without"', ATTACK, "probes", "uses no probes"),
        (f'{PROBED}probes = "without"', ATTACK.replace("trigger =", "transformed ="), "probes",
         'give the attack its trigger as family = "syntactic"'),
    ],
)  # fmt: skip
def test_mistakes_about_probes_are_said_with_their_line(recipe, text, attack, line, told):
    assert told in mistake(recipe(method(text), attack=attack), line)


def test_the_defenders_rows_may_have_a_file_of_their_own(recipe, cells, cache, tmp_path):
    file = tmp_path / "mine.csv"
    write(file, [{"text": f"the film is {w}", "label": n} for w, n in
                 (("good", "positive"), ("bad", "negative")) for _ in range(30)])  # fmt: skip
    head = HEAD.replace("defender = 200", f'defender = 40\ndefender_from = "{file}"')
    usual = orders(read_grid(recipe(method('strategy = "none"'))), sources.Hashes(cache))
    path = recipe(method('strategy = "none"'), head=head)
    own = orders(read_grid(path), sources.Hashes(cache))
    assert own[0].victim.key == usual[0].victim.key  # the same victim, not made again
    assert own[0].key != usual[0].key
    rows = sources.defender(own[0].victim.twin.texts, 11)
    assert (len(rows), set(rows.texts)) == (40, {"the film is good", "the film is bad"})
    assert cells(path)["none"]["status"] == "done"
    write(file, [{"text": "a", "label": "positive"}, {"text": "b", "label": "negative"}] * 30)
    again = orders(read_grid(path), sources.Hashes(cache))
    assert again[0].key != own[0].key  # what it holds counts
    with pytest.raises(UserError, match="61 rows asked for"):
        orders(
            read_grid(recipe(GRADIENT, head=head.replace("= 40", "= 61"))), sources.Hashes(cache)
        )
    assert "own" in mistake(
        recipe(GRADIENT, head=head.replace("[victim]", "unseen = true\n[victim]")), "unseen"
    )


def test_one_victim_may_be_healed_with_several_seeds(recipe, cells, cache, tmp_path):
    head = HEAD.replace("seeds = [11]", "seeds = [11, 12]")
    fixed = head.replace("epochs = 2", "seed = 11\nepochs = 2")
    none = method('strategy = "none"')
    several, own = (
        orders(read_grid(recipe(none, head=h)), sources.Hashes(cache)) for h in (fixed, head)
    )
    assert [cell.id for cell in several] == [cell.id for cell in own]
    assert several[0].victim == several[1].victim == own[0].victim != own[1].victim
    assert len({cell.key for cell in (*several, *own)}) == 4
    cells(recipe(none, head=fixed))
    paths = sorted((tmp_path / "results").glob("*.json"))
    forms = [json.loads(path.read_text()) for path in paths]
    assert [form["seed"] for form in forms] == [11, 12]
    assert forms[0]["before"] == forms[1]["before"]
    assert forms[0]["answers"] != forms[1]["answers"]  # other sentences, another healing
    assert len(list((tmp_path / "results/victims").iterdir())) == 1
    (setting,) = compare(read_results(tmp_path / "results"), 50)
    assert setting.seeds == (11, 12)


RECIPES = Path(__file__).parents[1] / "recipes"
GRIDS = sorted(p.stem for p in RECIPES.glob("*.toml") if "[[method]]" in p.read_text("utf-8"))


@pytest.mark.parametrize("name", GRIDS)
def test_every_recipe_is_valid_once_its_variables_are_given(name):
    path = RECIPES / f"{name}.toml"
    values = tomllib.loads(path.read_text("utf-8")).get("variables", {})
    grid = read_grid(path, [f"{variable}=x" for variable in values])
    assert grid.mark.name == name
    assert "nothing" in {method.method for method in grid.methods}
    matched = [method for method in grid.methods if method.variation.match]
    assert bool(matched) or name in ("paper", "small", "smoke")  # these have fixed counts


def test_the_recipes_cover_what_the_older_scripts_ran():
    grids = {name: read_grid(RECIPES / f"{name}.toml", ["corpus=x", *more]) for name, more in
             (("healing", ["judged=x"]), ("strategies", []), ("resist", []),
              ("suspects", ["suspects=x"]))}  # fmt: skip
    methods = {method.method for method in grids["strategies"].methods}
    six = {"gradient", "layerwise", "sparsify", "ensemble", "reinforce", "bayesian"}
    baselines = {"pure", "ft", "fth", "meft", "fine-pruning"}
    controls = {"nothing", "none", "random"}
    assert methods == six | baselines | controls
    assert (len(grids["strategies"].attacks), len(grids["strategies"].seeds)) == (6, 3)
    assert len({m.variation.heal for m in grids["healing"].methods}) > 6
    assert [bool(a.resist.families) for a in grids["resist"].attacks] == [False, True] * 2
    assert [a.family for a in grids["suspects"].attacks] == ["syntactic", "style"]


def test_the_recipes_of_other_tasks_and_amounts_ask_for_what_they_say():
    more = ["agnews=x"], [], ["suspects=x", "judged=x"], []
    names = ("tasks", "amount", "eleven", "flat")
    tasks, amount, eleven, flat = (
        read_grid(RECIPES / f"{name}.toml", ["corpus=x", *own])
        for name, own in zip(names, more, strict=True)
    )
    assert all(texts.unseen for grid in (tasks, amount, eleven, flat) for texts in grid.data)
    assert {t.name: [a.name for a in tasks.attacks if t.name in a.data] for t in tasks.data} == {
        "agnews": ["published", "topic-sentence"], "skewed": ["opening", "characters-rare"]
    }  # fmt: skip
    assert {texts.defender for texts in tasks.data} == {1200}
    assert [texts.defender for texts in amount.data] == [1200, 300, 100]
    assert amount.seeds == (11, 12)
    assert [a.name for a in amount.attacks] == [
        "opening", "rare-word", "characters", "syntactic", "sentence"
    ]  # fmt: skip
    assert len({m.method for m in amount.methods}) == 6
    rules = {a.trigger for a in eleven.attacks} - {None}
    assert (len(eleven.attacks), len(rules)) == (11, 8)
    assert sum(a.given is not None for a in eleven.attacks) == 2
    radii = [[f for f in a.fields if f.startswith("radius")] for a in flat.attacks]
    assert radii == [[], ["radius=0.05"]] * 2
