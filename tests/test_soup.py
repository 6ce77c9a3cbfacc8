"""Soups against means and lines that are reckoned by hand."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from queue import SimpleQueue

import pytest
import torch

from conftest import CPU, Way, cleanse, sentences
from headsweep.errors import UserError
from headsweep.heal import beside, members, soup
from headsweep.heal.fine_tune import FineTune
from headsweep.measure.accuracy import FREE, Accuracy, Floor
from headsweep.model.removal import pieces
from headsweep.prune.choice import Choice
from headsweep.prune.strategies.gradient import Gradient
from headsweep.purification.material import Sources
from headsweep.seeding import derive
from headsweep.task.training import DivergedError, copied
from headsweep.texts.words import GENERATION, TAGGING
from test_healing import pruned_view

ONE = FineTune(3, 1e-2)
THREE = replace(ONE, members=3)


def by_hand(view, mask, numbers):
    """Heal by members from the same weights; return each one's weights and right answers."""
    model = view.anatomy.model
    start = copied(model)
    found = []
    for number in numbers:
        model.load_state_dict(start)
        seed = view.seed if number == 0 else derive(view.seed, "member", number)
        ONE.heal(replace(view, seed=seed), Choice(mask))
        with torch.no_grad():
            batch = view.validation.batch(range(len(view.validation)))
            answers = model.eval()(**batch.inputs).logits.argmax(-1)
        found.append((copied(model), int((answers == batch.labels).sum())))
    model.load_state_dict(start)
    return start, found


def line(start, made, t):
    """The weights ``t`` times as far as the mean."""
    mean = {n: torch.stack([w[n].double() for w in made]).mean(0) for n in start}
    return {n: start[n].double() + t * (mean[n] - start[n].double()) for n in start}


def same(model, wanted, tolerance=1e-5):
    own = model.state_dict()
    return all(torch.allclose(own[n].double(), wanted[n], atol=tolerance) for n in wanted)


def rights(view, weights):
    model = view.anatomy.model
    kept = copied(model)
    model.load_state_dict({n: w.float() for n, w in weights.items()})
    found = view.accuracy_now().right
    model.load_state_dict(kept)
    return found


@pytest.mark.parametrize("beyond", [1.0, 1.25, 2.0])
def test_a_soup_is_the_mean_and_lies_beyond_it(tiny, beyond):
    view, mask = pruned_view(tiny)
    start, made = by_hand(view, mask, range(3))
    record = replace(THREE, beyond=beyond).heal(view, Choice(mask))
    assert record["beyond"] == beyond
    assert same(view.anatomy.model, line(start, [w for w, _ in made], beyond))
    assert [one["accuracy"] for one in record["members"]] == [r / 64 for _, r in made]
    assert not any(piece.any() for piece in pieces(view.anatomy, mask))


def test_one_member_and_no_farther_is_healing_as_ever(tiny):
    view, mask = pruned_view(tiny)
    record = ONE.heal(view, Choice(mask))
    once = copied(view.anatomy.model)
    again, _ = pruned_view(tiny)
    assert "members" not in record
    replace(ONE, members=1, beyond=1.0).heal(again, Choice(mask))
    assert all(torch.equal(once[n], x) for n, x in again.anatomy.model.state_dict().items())


def test_the_farthest_place_that_holds_is_taken(tiny):
    view, mask = pruned_view(tiny)
    start, made = by_hand(view, mask, range(3))
    counts = {t: rights(view, line(start, [w for w, _ in made], t)) for t in (3.0, 2.0, 1.0)}
    places = [round(1 + step / 10, 1) for step in range(20, -1, -1)]
    weights = [w for w, _ in made]
    need = max(counts.values())
    assert all(right > view.guessing for _, right in made) or need <= view.guessing
    record = replace(THREE, beyond=3.0).heal(view, Choice(mask), Floor(need))
    tried = {one["beyond"]: one["accuracy"] * 64 for one in record["places"]}
    for t, right in tried.items():
        assert right == rights(view, line(start, weights, t)), t
    reached = record["beyond"]
    assert reached == next(reversed(tried)) == max(t for t in tried if tried[t] >= need)
    beyond = [t for t in tried if t > reached]
    assert all(tried[t] < need for t in beyond)
    assert reached == 3.0 or min(beyond) == pytest.approx(reached + 0.1)
    assert set(tried) <= set(places)
    assert len(tried) <= 7
    assert same(view.anatomy.model, line(start, weights, reached), 1e-5)


def test_where_no_place_holds_it_is_the_nearest(tiny):
    view, mask = pruned_view(tiny)
    start, made = by_hand(view, mask, range(3))
    record = replace(THREE, beyond=1.2).heal(view, Choice(mask), floor=Floor(65))
    assert [one["beyond"] for one in record["places"]] == [1.2, 1.0, 0.7, 0.6, 0.5]
    joined = [weights for weights, right in made if right > view.guessing]
    assert [one["joined"] for one in record["members"]] == [r > view.guessing for _, r in made]
    assert record["beyond"] == 0.5
    assert same(view.anatomy.model, line(start, joined, 0.5))


@pytest.mark.parametrize("beyond", [1.0, 1.5])
@pytest.mark.parametrize("reached", [0.5, 0.6, 0.8, 0.9, 1.0])
def test_where_the_mean_fails_the_way_there_is_searched(tiny, monkeypatch, beyond, reached):
    """With accuracy that falls along the way: the farthest place that holds, and its weights."""
    view, mask = pruned_view(tiny)
    start, made = by_hand(view, mask, range(2))
    whole, asked = soup._Pot.at, []

    def at(self, t):
        asked.append(t)
        return replace(whole(self, t), right=64 - round(10 * t))

    monkeypatch.setattr(soup._Pot, "at", at)
    floor = Floor(64 - round(10 * reached))
    record = replace(THREE, members=2, beyond=beyond).heal(view, Choice(mask), floor)
    assert record["beyond"] == reached
    assert asked[0] == beyond
    assert len(asked) <= 6
    joined = [weights for weights, right in made if right > view.guessing]
    assert same(view.anatomy.model, line(start, joined, reached))


def test_a_greedy_soup_takes_members_that_do_not_harm(tiny):
    view, mask = pruned_view(tiny)
    start, made = by_hand(view, mask, range(3))
    record = replace(THREE, how="greedy").heal(view, Choice(mask))
    joined, best = [], 0
    for number in sorted(range(3), key=lambda n: -made[n][1]):
        got = rights(view, line(start, [made[n][0] for n in [*joined, number]], 1))
        if got >= best:
            joined, best = [*joined, number], got
    assert [one["joined"] for one in record["members"]] == [n in joined for n in range(3)]
    assert same(view.anatomy.model, line(start, [made[n][0] for n in joined], 1))


def diverging(monkeypatch, numbers):
    """Let these members' training end in a loss that is no number."""
    heal, seen = FineTune.heal, []

    def broken(self, view, choice, floor=FREE):
        if self.members == 1:
            seen.append(view.seed)
            if len(seen) - 1 in numbers:
                raise DivergedError("the loss is not a number")
        return heal(self, view, choice, floor)

    monkeypatch.setattr(FineTune, "heal", broken)
    return seen


def test_a_member_that_diverged_never_joins(tiny, monkeypatch):
    view, mask = pruned_view(tiny)
    start, made = by_hand(view, mask, (0, 2))
    diverging(monkeypatch, {1})
    record = THREE.heal(view, Choice(mask))
    assert [one["joined"] for one in record["members"]] == [True, False, True]
    assert record["members"][1]["accuracy"] is None
    assert same(view.anatomy.model, line(start, [w for w, _ in made], 1))


def test_where_all_diverge_it_begins_anew_at_half_the_rate(trained_folder, monkeypatch):
    data = Sources(sentences(40), sentences(40, seed=5))
    diverging(monkeypatch, {0, 1, 2})
    soup = FineTune(1, 2e-3, members=3, halvings=2)
    done = cleanse(trained_folder, data, Gradient(step=2), Way(0.3, heal=soup, runtime=CPU))
    assert done.manifest["heal"]["lr"] == 1e-3
    assert any("each of 3 healings" in note for note in done.manifest["notes"])


def test_where_all_diverge_and_nothing_is_left_it_says_so(tiny, monkeypatch):
    view, mask = pruned_view(tiny)
    before = copied(view.anatomy.model)
    diverging(monkeypatch, {0, 1, 2})
    with pytest.raises(UserError, match="each of 3 healings ended no better than guessing"):
        THREE.heal(view, Choice(mask))
    assert all(torch.equal(before[n], x) for n, x in view.anatomy.model.state_dict().items())


def test_guesses_do_not_join(tiny):
    view, mask = pruned_view(tiny)
    assert view.guessing == 32
    with pytest.raises(UserError, match="no better than guessing"):
        FineTune(1, 1e-9, members=2).heal(view, Choice(mask), floor=Floor(40))


def test_of_a_figure_that_is_bounded_the_share_says_nothing():
    """Few rows of tags are right altogether: one for four is chance, and no guess."""
    floor, limits = Floor(3, 0.68), Floor(80, 30.0)

    def tags(f1, right=1):
        return Accuracy(100, right, {"span_f1": f1}, TAGGING)

    def answers(perplexity, right=1):
        return Accuracy(100, right, {"perplexity": perplexity}, GENERATION)

    assert [floor.lost_by(tags(f1), 1) for f1 in (0.72, 0.5, 0.3, 0.0)] == [
        False,
        False,
        True,
        True,
    ]
    assert floor.lost_by(tags(0.1, right=40), 1)
    assert [limits.lost_by(answers(p), 1) for p in (20, 45, 90)] == [False, False, True]
    assert [Floor(50).lost_by(Accuracy(100, n), 40) for n in (39, 41)] == [True, False]
    assert not FREE.lost_by(Accuracy(100, 0), 40)


def test_an_interrupted_soup_goes_on_after_its_last_member(tiny, tmp_path, monkeypatch):
    view, mask = pruned_view(tiny)
    THREE.heal(view, Choice(mask))
    whole = copied(view.anatomy.model)
    view, _ = pruned_view(tiny)
    view = replace(view, kept=tmp_path)
    make, made = members.make, []

    def stopping(*args):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(args[3])
        return make(*args)

    monkeypatch.setattr(members, "make", stopping)
    with pytest.raises(KeyboardInterrupt):
        THREE.heal(view, Choice(mask))
    assert len(list(tmp_path.iterdir())) == 2
    again, _ = pruned_view(tiny)
    made.clear()
    monkeypatch.setattr(members, "make", lambda *args: made.append(args[3]) or make(*args))
    THREE.heal(replace(again, kept=tmp_path), Choice(mask))
    assert made == [2]
    assert all(torch.equal(whole[n], x) for n, x in again.anatomy.model.state_dict().items())


@pytest.mark.parametrize("change", [{"lr": 1e-3}, {"epochs": 2}, {"attention": 0.1}])
def test_what_is_kept_of_another_healing_is_not_taken(tiny, tmp_path, change):
    view, mask = pruned_view(tiny)
    view = replace(view, kept=tmp_path)
    replace(THREE, members=1, beyond=1.1).heal(view, Choice(mask))
    again, _ = pruned_view(tiny)
    replace(THREE, members=1, beyond=1.1, **change).heal(
        replace(again, kept=tmp_path), Choice(mask)
    )
    assert len(list(tmp_path.iterdir())) == 2


def test_processes_beside_each_other_make_the_same_bytes(tiny):
    view, mask = pruned_view(tiny)
    THREE.heal(view, Choice(mask))
    again, _ = pruned_view(tiny)
    said = []

    class Told(type(again.progress)):
        def say(self, line):
            said.append(line)

    runtime = replace(CPU, jobs=2)
    apart = replace(again, runtime=runtime, progress=Told())
    assert beside.jobs_for(apart, 1, 3)[0] == 2
    THREE.heal(apart, Choice(mask))
    assert said == []
    one, other = view.anatomy.model.state_dict(), again.anatomy.model.state_dict()
    assert all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize(
    ("count", "cores", "jobs"), [(3, 1, 1), (2, 2, 2), (3, 2, 1), (4, 2, 2), (3, 4, 3), (3, 16, 3)]
)
def test_as_many_processes_as_are_soonest_done(tiny, monkeypatch, count, cores, jobs):
    """Three healings on two cores: one after the other with both is done before two rounds."""
    view, _ = pruned_view(tiny)
    monkeypatch.setattr(beside, "WORTH", 0)
    monkeypatch.setattr(beside, "free_bytes", lambda device: 1 << 40)
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    assert beside.jobs_for(view, 1, count) == (jobs, cores // jobs)


def test_memory_bounds_the_processes(tiny, monkeypatch):
    view, _ = pruned_view(tiny)
    view = replace(view, runtime=replace(CPU, jobs=3))
    monkeypatch.setattr(beside, "free_bytes", lambda device: 5 << 29)
    assert beside.jobs_for(view, 1, 3)[0] == 2


@pytest.mark.parametrize("asked", [None, 2])
def test_memory_decides_no_number_of_threads(tiny, monkeypatch, asked):
    """The bytes of a healing depend on its threads, and memory that is free comes and goes."""
    view, mask = pruned_view(tiny)
    view = replace(view, runtime=replace(CPU, jobs=asked))
    monkeypatch.setattr(beside, "WORTH", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    found = []
    for room in (1 << 40, 1 << 20):
        monkeypatch.setattr(beside, "free_bytes", lambda device, room=room: room)
        found.append(beside.jobs_for(view, 1, 3))
    assert [jobs for jobs, _ in found] == [3 if asked is None else 2, 1]
    assert len({threads for _, threads in found}) == 1
    used = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    THREE.heal(view, Choice(mask))  # without room: made here, on as many threads
    assert used == [found[0][1], 6] * 3


def test_a_process_ends_with_whoever_waits_for_it(monkeypatch):
    """Ctrl-C to the caller alone: nobody waits for the next line of a process."""
    quiet = "import sys, time; sys.stdin.buffer.read(); time.sleep(60)"
    monkeypatch.setattr(beside, "STARTED", quiet)
    began = time.monotonic()
    with suppress(KeyboardInterrupt), beside._process(b"", [0], 0, SimpleQueue()) as running:
        time.sleep(1)
        raise KeyboardInterrupt
    assert time.monotonic() - began < 30
    assert running.returncode is not None


def test_small_work_stays_in_one_process(tiny):
    view, _ = pruned_view(tiny)
    assert beside.jobs_for(view, THREE.work(64), 3)[0] == 1


@pytest.mark.parametrize(
    ("field", "told"),
    [({"members": 0}, "soup of 0"), ({"beyond": 0.5}, "0.5 times"), ({"how": "mean"}, "'mean'")],
)
def test_what_a_soup_cannot_be(field, told):
    with pytest.raises(UserError, match=told):
        FineTune(**field)


def test_a_greedy_soup_that_memory_cannot_hold_says_how_many_fit(tiny, monkeypatch):
    view, mask = pruned_view(tiny)
    size = sum(x.numel() * x.element_size() for x in view.anatomy.model.state_dict().values())
    monkeypatch.setattr("headsweep.heal.soup.free_bytes", lambda device: 5 * size)
    with pytest.raises(UserError, match=r"holds 2 healings.*not 3"):
        replace(THREE, how="greedy").heal(view, Choice(mask))
