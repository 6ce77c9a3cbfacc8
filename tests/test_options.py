"""Options: how many there are, what replaced those that are gone, one message a wrong value."""

from __future__ import annotations

import pytest
from typer.main import get_command

from headsweep import FineTune, Runtime, UserError
from headsweep.attacks.dirty_label import DirtyLabel
from headsweep.cli import app, options
from headsweep.cli.gone import GONE
from headsweep.judge.detectors.strip import Strip
from headsweep.prune.strategies.gradient import Gradient
from headsweep.purification.baselines import Pure
from headsweep.purification.method import HOT, ONE_PASS
from headsweep.purification.recipe import read_recipe
from headsweep.settings import as_text, changed, configure, described, fitting, offered
from headsweep.triggers.rare_word import RareWord
from test_cli import FAST, run  # noqa: F401 - a fixture

COMMANDS = get_command(app).commands
MOST = 26


def flags(command):
    return {option for parameter in COMMANDS[command].params for option in parameter.opts}


def test_purify_has_no_more_options_than_a_reader_takes_in(run, monkeypatch):  # noqa: F811
    assert sum(p.param_type_name == "option" for p in COMMANDS["purify"].params) <= MOST
    monkeypatch.setenv("COLUMNS", "100")
    assert len(run("purify", "--help")[1].splitlines()) <= 75


@pytest.mark.parametrize(
    ("shown", "usual", "less"),
    [(options.HEALING, HOT, ()), (options.ALL_COMPUTING, Runtime(), ("device",))],
)
def test_help_shows_the_values_that_hold_unasked(shown, usual, less):
    fields = [name for name in offered(type(usual)) if name not in less]
    assert shown.split() == [f"{name}={as_text(getattr(usual, name))}" for name in fields]
    assert changed(usual, shown.split(), less=less) == usual


def test_help_shows_what_healing_of_a_generator_has_otherwise():
    told = options.HEALING_OF_GENERATORS.split()
    assert changed(HOT, told) == ONE_PASS
    assert all(getattr(HOT, one.partition("=")[0]) != getattr(ONE_PASS, one.partition("=")[0])
               for one in told)  # fmt: skip


def test_what_fills_part_of_the_computing_fills_some_of_its_fields():
    assert set(options.COMPUTING.split()) < set(options.ALL_COMPUTING.split())
    assert options.LENGTH in options.COMPUTING.split()


@pytest.mark.parametrize("option", GONE)
def test_an_option_that_is_gone_names_what_replaced_it(run, option):  # noqa: F811
    command = "evaluate" if option.startswith("--triggered") else "purify"
    assert option not in flags(command)
    code, out, err = run(command, "./none", option, "7")
    said = GONE[option].replace("{}", "7")
    assert (code, out, err) == (2, "", f"headsweep: {option} is gone\n  fix: write {said}\n")
    assert run(command, "./none", f"{option}=7")[2] == err
    assert said.split()[0] in flags(command)


def test_the_new_spelling_is_taken(run, csv_file, tmp_path):  # noqa: F811
    """Each fills a field that is there: what is refused in the end is the model alone."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('strategy = "probe-guided"\nprune_drop = 0.1\nprobes = ["casing"]\n')
    values = {"--heal-with": "probes", "--text-column": "text", "--pair-column": "text",
              "--label-column": "label", "--precision": "fp32", "--measure-in": "fp32"}  # fmt: skip
    for option, said in GONE.items():
        if option.startswith("--triggered"):
            continue
        words = said.replace("{}", values.get(option, "0.1" if "lr" in option else "4")).split()
        words = ["--recipe", recipe] if words[0] == "--recipe" else words[:2]
        asked = ("--data", csv_file, "--out", tmp_path / "out", "--device", "cpu", *words)
        code, _, err = run("purify", "./no-model", *asked)
        assert (code, "./no-model: no such folder" in err) == (2, True), (option, err)


def test_an_option_of_another_command_is_not_said_to_be_gone(run):  # noqa: F811
    code, _, err = run("bench", "recipe.toml", "--out", "out", "--batch-size", "4")
    assert (code, "No such option" in err, "is gone" in err) == (2, True, False)


def said_by(make):
    with pytest.raises(UserError) as caught:
        make()
    return caught.value.what, caught.value.fix


WRONG = [
    (Gradient, "step", "six", "it takes a whole number above 0 or none"),
    (Gradient, "score", "gaet", "did you mean 'gate'? it takes gate | key"),
    (FineTune, "lr", "hot", "it takes a number"),
    (FineTune, "on", "probs", "did you mean 'probes'? it takes clean | probes"),
    (Runtime, "batch_size", "many", "it takes a whole number"),
    (Pure, "strength", "much", "it takes a number"),
    (RareWord, "count", "two", "it takes a whole number"),
    (DirtyLabel, "epochs", "long", "it takes a number"),
    (Strip, "copies", "x", "it takes a whole number"),
]


@pytest.mark.parametrize(("kind", "field", "value", "fix"), WRONG)
def test_a_wrong_value_gets_one_message_from_text_recipe_and_python(kind, field, value, fix):
    name = getattr(kind, "name", kind.__name__)
    expected = (f"{name}: {field} cannot be '{value}'", fix)
    assert said_by(lambda: kind(**{field: value})) == expected
    assert said_by(lambda: configure(kind, [f"{field}={value}"])) == expected
    assert said_by(lambda: configure(kind, {field: value})) == expected


def test_the_command_line_and_a_recipe_say_the_same(run, csv_file, tmp_path):  # noqa: F811
    recipe = tmp_path / "recipe.toml"
    for table, option, field, value, kind in (
        ("fields", "--set", "step", "six", Gradient),
        ("heal", "--heal", "lr", "hot", FineTune),
    ):
        recipe.write_text(f'strategy = "gradient"\n[{table}]\n{field} = "{value}"\n')
        what, fix = said_by(lambda kind=kind, field=field, value=value: kind(**{field: value}))
        told = said_by(lambda: read_recipe(recipe, "strategy"))
        assert told == (f"{recipe}, line 3: {what}", fix)
        asked = ("--data", csv_file, "--out", tmp_path / "out", *FAST, option, f"{field}={value}")
        code, _, err = run("purify", "none", *asked)
        assert (code, err) == (2, f"headsweep: {what}\n  fix: {fix}\n")


@pytest.mark.parametrize("wrong", [True, 6.5, [6], {"a": 1}])
def test_values_of_python_and_toml_are_checked_like_texts(wrong):
    assert said_by(lambda: Gradient(step=wrong)) == said_by(
        lambda: configure(Gradient, {"step": wrong})
    )


def test_values_that_fit_are_read_as_the_field_wants_them():
    assert Gradient(step="6") == Gradient(step=6) == configure(Gradient, ["step=6"])
    assert Gradient(step="none").step is None
    assert FineTune(lr="1e-4").lr == 1e-4
    assert repr(FineTune(epochs=2).epochs) == "2"  # keys of results are made of it
    assert repr(configure(FineTune, {"epochs": 2}).epochs) == "2.0"
    assert fitting("aside, casing", tuple[str, ...], "families") == ("aside", "casing")


def test_what_is_hidden_is_neither_listed_nor_taken_from_an_option():
    assert "compact" not in [row[0] for row in described(FineTune)]
    with pytest.raises(UserError, match="unknown field of 'fine-tune' 'compact'"):
        changed(HOT, ["compact=no"], "--heal")
    assert ("epochs", "a number", "4") in described(HOT)


def test_a_learning_rate_of_ones_own_holds_as_it_is():
    from headsweep.purification.recipe import Asked

    assert Asked().healing(HOT, prunes=True) is not None
    assert Asked(heal=("lr=3e-5",)).healing(HOT, prunes=True).halvings == 0
    assert Asked(heal=("lr=3e-5", "halvings=2")).healing(HOT, prunes=True).halvings == 2
    with pytest.raises(UserError, match="there is no healing for on=probes, halvings=2"):
        Asked(heal=("epochs=0", "on=probes", "halvings=2")).healing(HOT, prunes=True)
    with pytest.raises(UserError, match="nothing to do"):
        Asked(heal=("epochs=0",)).healing(HOT, prunes=False)
