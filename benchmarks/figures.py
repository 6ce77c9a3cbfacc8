"""Write charts of a report as SVG files, drawn by the page's own Plotly in Chromium.

python benchmarks/figures.py report.html docs/figures scatter-0 bars-0
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

from playwright.sync_api import sync_playwright

DRAW = """async ([id, width, height]) => {
  const place = document.getElementById(id);
  return Plotly.toImage(
    {data: place.data, layout: {...place.layout, paper_bgcolor: "white", width, height}},
    {format: "svg", width, height});
}"""
PATIENCE_MS = 180_000  # a busy machine takes long over the first page
MARK = re.compile(r'id="defs-([0-9a-f]{6})"')  # drawn anew by Plotly every time


def draw(report: Path, files: Mapping[str, Path], width: int = 900, cell: str = "") -> None:
    """Write charts of a report, id: file; ``cell`` is the one that heads and path are of."""
    with sync_playwright() as started:
        found = shutil.which("chromium") or shutil.which("google-chrome")
        browser = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="light")
        tab.set_default_timeout(PATIENCE_MS)
        tab.goto(report.absolute().as_uri())
        if cell:
            tab.select_option("#cell", cell)
        for chart, path in files.items():
            tab.wait_for_selector(f"#{chart} .main-svg", state="attached")
            height = tab.evaluate("id => document.getElementById(id).layout.height", chart)
            url = tab.evaluate(DRAW, [chart, width, height])
            path.parent.mkdir(parents=True, exist_ok=True)
            text = unquote(url.split(",", 1)[1])
            mark = MARK.search(text)
            if mark:
                text = text.replace(mark[1], chart)
            path.write_text(text, encoding="utf-8")
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("charts", nargs="+", help="ids: scatter-0, bars-0, heads, path, ...")
    parser.add_argument("--cell", default="", help="the cell that heads and path are of")
    parser.add_argument("--width", type=int, default=900)
    args = parser.parse_args()
    files = {chart: args.out / f"{chart}.svg" for chart in args.charts}
    draw(args.report, files, args.width, args.cell)
    print(*files.values(), sep="\n")


if __name__ == "__main__":
    main()
