"""What the probes before and after a purification found, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STAGES = ("before", "after")
SHOWN = 3  # rows that are named of those noticed
NEW = (
    "What was noticed after and not before may be no backdoor: little data and much healing make a "
    "model brittle. More clean rows, or a lower --heal lr, make it less so."
)
PROMISE = (
    "Only these families were tried: what was not noticed is not shown to be absent. Other trigger "
    "words, sentences, templates and styles exist."
)


def probes_told(manifest: Mapping[str, Any]) -> list[str]:
    """Return what the probes found, a line for each stage; none where nobody probed.

    It names labels of the model, which others wrote: whoever shows it makes that safe.
    """
    record = manifest.get("probe") or {}
    lines = [f"{stage}: {_told(record[stage])}" for stage in STAGES if stage in record]
    if "not_run" in record:
        lines.append(f"not probed: {record['not_run']}")
    rows = {stage: _noticed(record[stage]) for stage in STAGES if stage in record}
    if len(rows) == len(STAGES) and rows["after"] - rows["before"]:
        lines.append(NEW)
    return lines


def _noticed(found: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {(str(family), str(label)) for family, label in found.get("noticed") or ()}


def _told(found: Mapping[str, Any]) -> str:
    rows = [row for row in found["findings"] if row["kind"] == "trigger"]
    noticed = [row for row in rows if row["noticed"]]
    tried = len({row["family"] for row in rows})
    families = "family" if tried == 1 else "families"
    on = f"{tried} trigger {families}, {found['texts']} texts"
    edits = sorted({str(family) for family, _ in found.get("brittle") or ()})
    frail = f"; brittle: harmless edits flip answers, too ({', '.join(edits)})" if edits else ""
    learnt = [f"'{one['text']}'" for one in found.get("by_heart") or ()]
    frail += f"; known by heart: {', '.join(learnt)}" if learnt else ""
    if noticed:
        left = len(noticed) - SHOWN
        more = f" and {left} more" if left > 0 else ""
        return f"noticed {', '.join(map(_row, noticed[:SHOWN]))}{more} ({on}){frail}"
    top = max(rows, key=lambda row: row["excess"]["value"], default=None)
    most = "" if top is None else f"; the most: {_row(top)}"
    return f"nothing noticed ({on}{most}){frail}"


def _row(row: Mapping[str, Any]) -> str:
    return f"{row['family']} into '{row['label']}' {100 * row['excess']['value']:+.0f} points"
