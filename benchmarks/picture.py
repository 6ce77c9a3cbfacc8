"""Draw the picture of the README from a report of the demo, and keep the figures it shows.

python benchmarks/picture.py demo-out/demo.json

writes docs/figures/demo.json (what the picture needs of the report) and demo-light.svg and
demo-dark.svg beside it. The figures in words stand in the README between its ``result`` marks and
are changed there by hand; tests/test_picture.py holds both together.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headsweep.reports.picture import DARK, LIGHT, MEASURES, MODELS, picture

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
KEPT = (*(name for name, _ in MEASURES), "cfr", "matched_lfr", "excess_lfr")


def reduced(form: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of a report: the mask, and every rate with its interval."""
    rates = {
        model: {name: {part: form[model][name][part] for part in ("value", "low", "high")}
                for name in KEPT}
        for model, _ in MODELS
    }  # fmt: skip
    heads = {"heads": form["manifest"]["mask"]["heads"]}
    return {"format": form["format"], "manifest": {"mask": heads}} | rates


def files(form: Mapping[str, Any]) -> dict[str, str]:
    """Return what is written, by name of the file."""
    return {
        "demo.json": json.dumps(form) + "\n",
        "demo-light.svg": picture(form, LIGHT),
        "demo-dark.svg": picture(form, DARK),
    }


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description="Draw the picture of the README.")
    parser.add_argument("report", type=Path, help="demo.json, as headsweep demo --out writes it")
    form = json.loads(parser.parse_args().report.read_text(encoding="utf-8"))
    for name, text in files(reduced(form)).items():
        (FIGURES / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
