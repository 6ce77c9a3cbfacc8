"""Follow a grid elsewhere: every finished cell as a run in TensorBoard, by its own client.

Needs ``headsweep[tracking]``. The results folder stays what counts; this is a copy of its figures.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from headsweep.bench.orders import CellOrder
from headsweep.errors import MissingExtra

MEASURES = ("accuracy", "lfr", "cfr", "matched_lfr", "floor_lfr", "excess_lfr")
STAGES = ("before", "pruned", "after")
SETTINGS = ("model", "data", "attack", "method", "seed", "commit")


def tensorboard(folder: Path) -> Callable[[CellOrder, dict[str, Any]], None]:
    """Return what writes a finished cell as a TensorBoard run of the cell's name.

    Raises:
        UserError: TensorBoard is not installed.

    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtra("--tensorboard needs TensorBoard", "tracking", error) from error

    def watch(cell: CellOrder, form: dict[str, Any]) -> None:
        figures = {
            f"{stage}/{name}": float(form[stage][name]["value"])
            for stage in STAGES
            if form.get(stage)
            for name in MEASURES
        }
        figures["seconds"] = float(form["seconds"]["all"])
        if "pruned_count" in form:
            figures["pruned"] = float(form["pruned_count"])
        with SummaryWriter(str(folder / cell.id)) as writer:
            writer.add_hparams({name: form[name] for name in SETTINGS}, figures, run_name=".")

    return watch


def written(run: Path, cell: Path) -> bool:
    """Tell whether a run holds what a cell's file says: events that are not older."""
    made = [events.stat().st_mtime_ns for events in run.glob("events.*")]
    return bool(made) and max(made) >= cell.stat().st_mtime_ns
