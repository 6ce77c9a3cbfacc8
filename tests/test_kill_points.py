"""A purification that is killed and given again: a few of the moments of ``kill_points``.

And what is kept is what it was, is no other run's, and is bounded.
"""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import kill_points
from conftest import CPU, Way, cleanse, sentences
from headsweep.errors import NothingPruned, UserError
from headsweep.heal.fine_tune import FineTune
from headsweep.model.mask import HeadMask
from headsweep.progress import Silent
from headsweep.prune.strategies import STRATEGIES
from headsweep.prune.strategies.gradient import Gradient
from headsweep.purification import unfinished
from headsweep.settings import configure
from test_strategies import settings_for, view_of

WAY = Way(max_drop=0.4, runtime=CPU, heal=FineTune(1, 1e-3), seed=1)


class Stopping(Silent):
    """Ctrl-C at the first step of a task; keeps what is said."""

    def __init__(self, at=None):
        self.at, self.said = at, []

    def say(self, line):
        self.said.append(line)

    def task(self, title, total):
        if title == self.at:
            raise KeyboardInterrupt
        return super().task(title, total)


def run(folder, keep, progress=None, way=WAY, strategy=Gradient(step=2)):
    return cleanse(folder, sentences(120), strategy, way, progress=progress, keep=keep)


def stopped(folder, keep, at, way=WAY):
    with pytest.raises(KeyboardInterrupt):
        run(folder, keep, Stopping(at), way)


def same(one, other):
    weights = other.model.state_dict()
    manifests = [kill_points.timeless(done.manifest) for done in (one, other)]
    equal = all(torch.equal(x, weights[n]) for n, x in one.model.state_dict().items())
    return equal and manifests[0] == manifests[1]


def test_a_run_killed_at_drawn_moments_ends_with_the_same_bytes(tmp_path):
    """In a process of its own, which forks; two points, one of which replaces a result."""
    table = tmp_path / "table.tsv"
    words = [sys.executable, kill_points.__file__, str(table), "--points", "2", "--first", "3"]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("\t") for line in table.read_text().splitlines()[1:]]
    assert [row[-1] for row in rows] == ["as it must"] * 2


@pytest.mark.parametrize(
    ("start", "at", "told"),
    [
        ("classifier", "searching", "the scores"),
        ("classifier", "healing", "the scores, the choice of heads"),
        ("encoder", "scoring heads", "the fine-tuning"),
        ("encoder", "healing", "the fine-tuning, the scores, the choice of heads"),
    ],
)
def test_the_same_call_goes_on_after_its_last_step(trained_folder, tmp_path, start, at, told):
    way = replace(WAY, start=start, max_drop=0.6)
    stopped(trained_folder, tmp_path, at, way)
    again = Stopping()
    done = run(trained_folder, tmp_path, again, way)
    assert [line.partition("finished: ")[2] for line in again.said if "goes on" in line] == [told]
    assert same(done, run(trained_folder, None, way=way))


def test_a_healing_that_is_finished_is_not_made_again(trained_folder, tmp_path, monkeypatch):
    first = run(trained_folder, tmp_path)
    [folder] = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {
        "scores", "choice.json", "head-mask.json", "healed-0.safetensors",
    }  # fmt: skip
    monkeypatch.setattr(FineTune, "heal", lambda *_: pytest.fail("healed again"))
    monkeypatch.setattr(Gradient, "choose", lambda *_: pytest.fail("searched again"))
    assert same(run(trained_folder, tmp_path), first)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_choice_that_was_kept_is_the_one_that_was_made(tiny, tmp_path, name):
    """With its trials, scores, record and what was measured for it."""
    strategy = configure(STRATEGIES[name], settings_for(name, "bert"))
    told = []
    for _ in range(2):
        view = view_of(tiny("bert"), seed=1, bound=0.3)
        choice = unfinished.chosen(tmp_path, strategy, view)
        meter, layout = view.meter, view.layout
        told.append(
            [
                choice.mask,
                choice.scores_json(layout),
                choice.steps_json(layout),
                json.loads(json.dumps(choice.record)),
                choice.bounded,
                (meter.examples_run, meter.masks_run, meter.bf16),
            ]
        )
    assert told[0] == told[1]
    assert (tmp_path / "choice.json").exists() is (strategy.needs.searches != 0)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"max_drop": 0.5},
        {"heal": FineTune(1, 2e-3)},
        {"runtime": replace(CPU, batch_size=8)},
    ],
)
def test_another_run_takes_nothing_of_it(trained_folder, tmp_path, change):
    stopped(trained_folder, tmp_path, "healing")
    other = Stopping()
    run(trained_folder, tmp_path, other, replace(WAY, **change))
    assert not any("goes on" in line for line in other.said)
    assert len([*tmp_path.iterdir()]) == 2


def test_other_data_and_another_model_are_another_run(trained_folder, tmp_path):
    stopped(trained_folder, tmp_path, "healing")
    other = Stopping()
    cleanse(trained_folder, sentences(121), Gradient(step=2), WAY, progress=other, keep=tmp_path)
    assert not any("goes on" in line for line in other.said)
    from headsweep.model.loading import load_suspect

    suspect = load_suspect(trained_folder, CPU)
    with torch.no_grad():
        suspect.model.classifier.bias[0] += 1e-3
    cleanse(suspect, sentences(120), Gradient(step=2), WAY, progress=other, keep=tmp_path)
    assert not any("goes on" in line for line in other.said)


def test_what_somebody_else_keeps_there_is_left_alone(trained_folder, tmp_path):
    theirs = [tmp_path / name / "file" for name in ("thesis", "model-a", "0123456789abcdef0")]
    for file in theirs:
        file.parent.mkdir()
        file.write_text("mine")
    for seed in (5, 6, 7):
        stopped(trained_folder, tmp_path, "healing", replace(WAY, seed=seed))
    assert all(file.read_text() == "mine" for file in theirs)
    assert len([*tmp_path.iterdir()]) == 2 + len(theirs)


def test_what_is_kept_is_bounded(trained_folder, tmp_path):
    """This run's and the latest other's; drafts of a run that died go."""
    for seed in (5, 6, 7):
        stopped(trained_folder, tmp_path, "healing", replace(WAY, seed=seed))
    before = {path.name for path in tmp_path.iterdir()}
    assert len(before) == 2
    for folder in tmp_path.iterdir():
        (folder / "members").mkdir()
        (folder / "members" / "x.safetensors.1.draft").touch()
    run(trained_folder, tmp_path, way=replace(WAY, seed=7))
    assert {path.name for path in tmp_path.iterdir()} == before
    assert len([*tmp_path.rglob("*.draft")]) == 1  # the other run's


def test_a_run_that_comes_to_nothing_leaves_nothing_but_its_heads(
    trained_folder, tmp_path, monkeypatch
):
    keep = tmp_path / "keep"
    diverging = replace(WAY, heal=FineTune(1, 0.9, members=2), max_drop=0.1)
    with pytest.raises(UserError, match="no better than guessing") as told:
        run(trained_folder, keep, way=diverging)  # but the heads, which another rate can use
    [mask] = keep.glob("*/head-mask.json")
    assert told.value.fix.endswith(f"--mask {mask}")
    assert HeadMask.from_json(json.loads(mask.read_text())).pruned
    shutil.rmtree(keep)
    monkeypatch.setattr(Gradient, "choose", lambda *_: (_ for _ in ()).throw(NothingPruned("none")))
    with pytest.raises(NothingPruned):
        run(trained_folder, keep)
    assert not keep.exists()


def test_a_disk_that_holds_no_healing_ends_no_run(trained_folder, tmp_path, monkeypatch):
    first = run(trained_folder, tmp_path / "a")
    said, progress = [], Silent()
    progress.say = said.append

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    for place in ("heal.finished", "purification.unfinished", "prune.scores"):
        monkeypatch.setattr(f"headsweep.{place}.write_bytes", full)
    monkeypatch.setattr("headsweep.purification.pipeline.write_json", full)
    assert same(run(trained_folder, tmp_path / "b", progress=progress), first)
    assert sum("cannot be kept (No space left on device)" in line for line in said) == 3
    assert not [path for path in (tmp_path / "b").rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["choice.json", "healed-0.safetensors"])
def test_a_broken_file_is_made_again(trained_folder, tmp_path, name):
    first = run(trained_folder, tmp_path)
    [file] = tmp_path.glob(f"*/{name}")
    file.write_bytes(file.read_bytes()[:40])
    assert same(run(trained_folder, tmp_path), first)
