"""Members of soups, each trained once, mixed in many ways and judged: one JSON file a setting.

A grid of `bench` would heal anew for every number of members and every place beyond the mean.
The cells beside this file come from

    python results/soup-grid/mix.py RECIPE CACHE OUT characters:none:3e-4 syntactic:gradient:2e-4

RECIPE is recipes/strategies.toml of commit 1cf484f with `unseen = true` and, for `test`,
development texts that nobody trained on (here 1,300 of SST-2's training sentences, cut off before
attacker, victim and defender drew theirs from the other 5,200); CACHE is the folder that
`headsweep bench RECIPE --cache CACHE` filled.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from headsweep.bench import sources
from headsweep.bench.grid import read_grid
from headsweep.bench.orders import orders
from headsweep.bench.work import ANSWERS, Judge, _kept, folder_of, runtime_of
from headsweep.cost import Clock
from headsweep.heal.fine_tune import FineTune
from headsweep.model.loading import Reading, load_suspect
from headsweep.model.removal import remove
from headsweep.prune.choice import Choice
from headsweep.prune.strategies.gradient import Gradient
from headsweep.prune.view import DefenderView
from headsweep.purification.material import Sources, gather
from headsweep.seeding import derive
from headsweep.task.training import copied

MEMBERS, EPOCHS, ATTENTION = 3, 4, 0.15
PLACES = (1.0, 1.25, 1.5, 1.75)


def run(cell: Any, cache: Path, pruned_by: str, lr: float) -> dict[str, Any]:
    """Train the members of one setting and judge their mixtures."""
    begun = time.monotonic()
    folder, runtime = folder_of(cell.victim, cache), runtime_of(cell)
    texts, seed = cell.victim.twin.texts, cell.victim.twin.seed
    exam = sources.exam(cell.victim.attack, texts, seed)
    judge = Judge(cell, exam, _kept(folder / ANSWERS), runtime, Clock())
    judge.opened = load_suspect(folder, runtime)
    data = Sources(sources.defender(texts, seed), sources.part(texts, "validation"))
    material = gather(judge.opened, data, Reading(seed=seed), runtime)
    parts, before = material.encoded, material.figures().validation
    lowest = before.value - 0.02
    view = DefenderView(
        material.suspect.anatomy, parts["train"], parts["validation"], lowest, seed, runtime
    )
    mask = view.layout.everything()
    if pruned_by == "gradient":
        mask = Gradient().choose(view).mask
        remove(view.anatomy, mask)
    model = view.anatomy.model
    start = copied(model)
    points: list[dict[str, Any]] = []

    def judged(members: list[dict[str, torch.Tensor]], t: float, name: str) -> None:
        mean = {n: sum(one[n] for one in members) / len(members) for n in start}
        whole = {n: x for n, x in start.items() if not x.is_floating_point()}
        model.load_state_dict({n: start[n] + t * (mean[n] - start[n]) for n in start} | whole)
        own = judge.answers(view.anatomy)
        labels = torch.tensor(parts["validation"].labels)
        right = int((parts["validation"].task.margins(own.validation, labels) > 0).sum())
        figures = judge.figures(own)
        keys = ("accuracy", "lfr", "cfr", "matched_lfr", "floor_lfr", "excess_lfr")
        points.append(
            {"mixture": name, "beyond": t, "validation_right": right}
            | {key: figures[key] for key in keys}
        )

    made = []
    for number in range(MEMBERS):
        model.load_state_dict(start)
        own_seed = seed if number == 0 else derive(seed, "member", number)
        healing = FineTune(EPOCHS, lr, attention=ATTENTION)
        healing.heal(replace(view, seed=own_seed), Choice(mask))
        made.append(copied(model))
        judged(made[-1:], 1.0, f"member {number}")
    for t in PLACES:
        judged(made, t, "mean of 3")
    judged(made[:2], 1.25, "mean of 2")
    return {
        "victim": cell.victim.attack.name,
        "pruned_by": pruned_by,
        "lr": lr,
        "pruned": len(mask.pruned),
        "before": judge.figures(judge.known["suspect"]),
        "validation": {"examples": before.examples, "right": before.right},
        "points": points,
        "seconds": time.monotonic() - begun,
    }


def main() -> None:
    """Run what the command line asks for, leaving out what is there."""
    recipe, cache, out, *asked = sys.argv[1:]
    torch.set_num_threads(1)
    cells = orders(read_grid(Path(recipe)), sources.Hashes(Path(cache)))
    for words in asked:
        victim, pruned_by, lr = words.split(":")
        file = Path(out) / f"{victim}-{pruned_by}-{lr}.json"
        if not file.exists():
            cell = next(one for one in cells if one.victim.attack.name == victim)
            file.write_text(json.dumps(run(cell, Path(cache), pruned_by, float(lr)), indent=1))


if __name__ == "__main__":
    main()
