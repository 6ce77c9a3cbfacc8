"""Write charts of a report as SVG files, drawn by the page's own Plotly in Chromium.

python benchmarks/figures.py report.html docs/figures scatter-0 bars-0
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from urllib.parse import unquote

from playwright.sync_api import sync_playwright

DRAW = """async ([id, width, height]) => {
  const place = document.getElementById(id);
  return Plotly.toImage(
    {data: place.data, layout: {...place.layout, paper_bgcolor: "white", width, height}},
    {format: "svg", width, height});
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("charts", nargs="+", help="ids: scatter-0, bars-0, heads, path, ...")
    parser.add_argument("--cell", help="the cell that heads and path are of")
    parser.add_argument("--width", type=int, default=900)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as started:
        found = shutil.which("chromium") or shutil.which("google-chrome")
        browser = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": args.width, "height": 900})
        tab.goto(args.report.absolute().as_uri())
        if args.cell:
            tab.select_option("#cell", args.cell)
        for chart in args.charts:
            tab.wait_for_selector(f"#{chart} .main-svg", state="attached")
            height = tab.evaluate("id => document.getElementById(id).layout.height", chart)
            url = tab.evaluate(DRAW, [chart, args.width, height])
            text = unquote(url.split(",", 1)[1])
            (args.out / f"{chart}.svg").write_text(text, encoding="utf-8")
            print(args.out / f"{chart}.svg")


if __name__ == "__main__":
    main()
