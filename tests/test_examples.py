"""The notebooks of ``examples/`` run from top to end, on a tiny model in the place of the real one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (--group dev)")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (--group dev)")
pytest.importorskip("ipykernel", reason="ipykernel is not installed (--group dev)")

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
# Stands in the place of the cell tagged "parameters": made-up sentences that two layers learn in a second.
TINY = """
import torch
from pathlib import Path
from types import SimpleNamespace
from headsweep.bench import tiny

torch.set_num_threads(1)
tiny.make(Path("encoder"))
encoder, train, test = "encoder", tiny.sentences("train"), tiny.sentences("test")
held = tiny.sentences("validation")
reviews = SimpleNamespace(attack=train, victim=train, clean=train, validation=held, test=test)
attack_rows, rows, epochs, lr, seeds = 600, 600, 6, 2e-3, 2
"""


def named(path):
    return path.stem


@pytest.fixture(params=NOTEBOOKS, ids=named)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def tags(cell):
    return cell.metadata.get("tags", [])


def test_a_notebook_says_first_what_it_is_and_keeps_no_outputs(notebook):
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert "small" in first.source
    assert "pip install 'headsweep[" in first.source
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.outputs for cell in code] == [[]] * len(code)
    assert {cell.execution_count for cell in code} == {None}
    assert sum("parameters" in tags(cell) for cell in code) == 1


def test_a_notebook_runs_from_top_to_end(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for cell in notebook.cells:
        if "parameters" in tags(cell):
            cell.source = TINY
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    shown = "\n".join(
        out.get("text") or str(out.get("data", ""))
        for cell in notebook.cells
        if cell.cell_type == "code"
        for out in cell.outputs
    )
    assert "Error" not in shown
    assert re.search(r"LFR \d+%|points of LFR", shown)


def test_the_list_of_documents_names_every_notebook():
    pages = [
        (EXAMPLES.parent / page).read_text("utf-8") for page in ("README.md", "docs/README.md")
    ]
    assert len(NOTEBOOKS) == 3
    for path in NOTEBOOKS:
        assert any(path.name in page for page in pages)


def test_links_lead_somewhere(notebook):
    cells = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = [link for link in re.findall(r"\]\(([^)#]+)", cells) if "://" not in link]
    assert links
    assert [link for link in links if not (EXAMPLES / link).exists()] == []
