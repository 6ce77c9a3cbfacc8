"""Progress in a notebook and a log, and the log file of a command."""

from __future__ import annotations

import io
import logging
import sys
import types

import pytest

from conftest import CPU, Way, cleanse, sentences, tiny_model
from headsweep import FineTune, Gradient
from headsweep.cli import main
from headsweep.progress import LOG, Logged, Silent, Terminal, plain_console, reporting


class Told(Silent):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def ended(words):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return stop.value.code


def test_what_is_said_and_done_goes_to_the_logger(caplog):
    told = Told()
    progress = reporting(told)
    with caplog.at_level(logging.DEBUG, "headsweep"):
        progress.say("note: \x1b[31m two\nlines")
        with progress.task("healing", 4) as tick:
            tick(3, "loss 0.5")
    assert told.lines == ["note: \x1b[31m two\nlines"]
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert said[:2] == [
        ("INFO", "note: \\x1b[31m two lines"),
        ("DEBUG", "healing: begun, 4 in all"),
    ]
    assert said[2][1].startswith("healing: 3 of 4 loss 0.5: 0.0 s")
    assert all(record.name == "headsweep" for record in caplog.records)


def test_what_is_reported_through_two_layers_is_logged_once(caplog):
    with caplog.at_level("DEBUG", "headsweep"):
        reporting(reporting(False)).say("once")
    assert [record.message for record in caplog.records] == ["once"]


def test_each_healing_of_several_says_which_it_is(tokenizer):
    titles = []

    class Noted(Silent):
        def task(self, title, total):
            titles.append(title)
            return super().task(title, total)

    way = Way(max_drop=0.9, runtime=CPU, heal=FineTune(1, 1e-3, members=2))
    cleanse(tiny_model("bert"), sentences(120), Gradient(step=2), way, tokenizer=tokenizer,
            progress=Noted())  # fmt: skip
    assert [title for title in titles if title.startswith("healing")] == [
        "healing 1 of 2",
        "healing 2 of 2",
    ]


def test_a_step_that_fails_is_logged_with_how_far_it_came(caplog):
    def interrupted():
        with reporting(False).task("search", 9) as tick:
            tick(2, "")
            raise KeyboardInterrupt

    with caplog.at_level(logging.DEBUG, "headsweep"), pytest.raises(KeyboardInterrupt):
        interrupted()
    assert caplog.messages[-1].startswith("search: 2 of 9:")


def test_unasked_nothing_is_printed(capsys):
    progress = reporting(False)
    progress.say("a note")
    LOG.error("an error")
    assert capsys.readouterr() == ("", "")
    assert isinstance(progress, Logged)
    assert isinstance(reporting(None).progress, Silent)
    assert isinstance(reporting(True).progress, Terminal)


def test_a_notebook_without_widgets_gets_lines(monkeypatch):
    page = io.StringIO()
    terminal = Terminal(plain_console(file=page, force_jupyter=True, width=100))
    monkeypatch.setattr("headsweep.progress.find_spec", lambda _name: None)
    monkeypatch.setattr(terminal, "worth_seconds", 0.0)
    assert not terminal.draws
    shown = []
    display = types.ModuleType("IPython.display")
    display.display = lambda one: shown.append(one._repr_mimebundle_([], [])["text/plain"])
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    terminal.say("3 heads \x1b[2J pruned")
    with terminal.task("healing", 2) as tick:
        tick(2, "")
    assert shown == ["3 heads \\x1b[2J pruned\n", "  healing: done in 0.0 s\n"]


def test_a_notebook_with_widgets_gets_bars(monkeypatch):
    terminal = Terminal(plain_console(file=io.StringIO(), force_jupyter=True, width=100))
    monkeypatch.setattr("headsweep.progress.find_spec", lambda name: name)
    assert terminal.draws
    drawn = []

    class Output:
        """Stands for the widget that a bar is drawn into."""

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def clear_output(self, wait=False):
            drawn.append(wait)

    for name in ("IPython", "IPython.display", "ipywidgets"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["ipywidgets"].Output = Output
    sys.modules["IPython.display"].display = lambda one: drawn.append(type(one).__name__)
    with terminal.task("healing", 2) as tick:
        tick(1, "loss 0.5")
    assert "Output" in drawn
    assert drawn[-1] != "Output"  # what is drawn again goes into the same widget


def test_a_command_writes_its_log_with_times_and_how_it_ended(tmp_path, capsys):
    log = tmp_path / "run.log"
    asked = ["purify", "./none", "--data", "none.csv", "--out", tmp_path / "out"]
    assert ended(["--log-file", log, *asked]) == 2
    first = log.read_text("utf-8")
    assert "ERROR none.csv: no such file fix: give a .csv" in first
    assert first[:2] == "20"
    assert ended(asked) == 2
    assert log.read_text("utf-8") == first
    assert [handler for handler in LOG.handlers if handler.name == "--log-file"] == []
    assert ended(["--log-file", tmp_path, *asked]) == 2
    assert "--log-file" in capsys.readouterr().err
    (tmp_path / "headsweep.json").write_text('{"format": "headsweep.manifest/1"}')
    assert ended(["--log-file", tmp_path / "other.log", *asked]) == 2
    assert "whose files headsweep verifies" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "other.log").exists()
    assert ended([*asked, "--log-file"]) == 2
    assert "'--log-file' requires an argument" in capsys.readouterr().err


@pytest.mark.parametrize("form", [["--log-file", "{}"], ["--log-file={}"]])
def test_a_log_may_be_asked_for_behind_the_command(form, tmp_path, capsys):
    asked = ["purify", "./none", "--data", "none.csv", "--out", tmp_path / "out"]
    log = tmp_path / "run.log"
    assert ended([*asked, *(part.format(log) for part in form), "-v"]) == 2
    assert "ERROR none.csv: no such file" in log.read_text("utf-8")
    assert capsys.readouterr().err.count("none.csv: no such file") == 2  # said, and logged
    assert ended([*asked, "--", "-v"]) == 2
    assert "none.csv: no such file" not in capsys.readouterr().err


def test_a_log_holds_the_steps_of_a_run(trained_folder, csv_file, tmp_path):
    log = tmp_path / "run.log"
    asked = ["evaluate", trained_folder, "--data", csv_file, "--device", "cpu", "--quiet"]
    assert ended(["--log-file", log, *asked]) == 0
    text = log.read_text("utf-8")
    assert "DEBUG evaluating: begun, 1 in all" in text
    assert "DEBUG evaluating: 1 of 1" in text


def test_a_command_tells_its_steps_on_standard_error(trained_folder, csv_file, capsys):
    asked = ["evaluate", trained_folder, "--data", csv_file, "--device", "cpu", "--quiet"]
    assert ended(["-v", *asked]) == 0
    said = capsys.readouterr()
    assert "DEBUG evaluating: 1 of 1" in said.err
    assert "DEBUG" not in said.out
    assert [handler for handler in LOG.handlers if handler.name == "--log-file"] == []
    assert ended(asked) == 0
    assert "DEBUG" not in capsys.readouterr().err


def test_an_option_that_is_gone_is_still_named_behind_a_log_file(tmp_path, capsys):
    asked = ["-v", "--log-file", tmp_path / "a.log", "purify", "./none", "--heal-epochs", "7"]
    assert ended(asked) == 2
    assert "--heal-epochs is gone" in capsys.readouterr().err
    assert ended(["--log-file", tmp_path / "a.log", "purify", "./none", "--heal-epochs", "7"]) == 2
    assert "--heal-epochs is gone" in capsys.readouterr().err
