"""The commands that make results again, without a path of whoever made them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from headsweep.bench.results.reading import Results
from headsweep.foreign import in_markdown, one_line

Form = Mapping[str, Any]


def command(recipe: Form, only: str = "") -> str:
    """Return the command that runs a recipe, or one cell of it.

    A variable stands with its name in capitals for its value, which may be a path of its own.
    """
    words = ["headsweep", "bench", f"recipes/{recipe['name']}.toml"]
    for name in recipe.get("variables") or ():
        words += ["--set", f"{name}={name.upper()}"]
    words += ["--out", "RESULTS", *(["--only", only] if only else [])]
    return shlex.join(map(one_line, words))


def hint(recipe: Form) -> str:
    """Return what has to be said beside the command; empty where nothing has."""
    if recipe.get("variables") is None:
        return "needs --set NAME=VALUE for every variable that its recipe leaves empty"
    return ""


def steps(results: Results) -> list[str]:
    """Return lines of Markdown: the commands, commit, code and versions."""
    recipes = {cell["recipe"]["sha256"]: cell["recipe"] for cell in results.cells}
    lines = ["```sh", *map(command, recipes.values())]
    lines += ["headsweep report RESULTS --format markdown", "```", ""]
    lines += [
        f"The first {text}." for text in {hint(recipe): 0 for recipe in recipes.values()} if text
    ]
    lines += [
        f"{in_markdown(recipe['name'])}.toml stands for the recipe with SHA-256 {sha[:12]}."
        for sha, recipe in recipes.items()
    ]
    commits = sorted({str(cell["commit"]) or "none" for cell in results.cells})
    code = sorted({str(cell["code"])[:12] for cell in results.cells})
    threads = sorted({str(cell["threads"]) for cell in results.cells})
    lines.append(
        f"{len(results.cells)} cells of commit {in_markdown(', '.join(commits))} (code "
        f"{in_markdown(', '.join(code))}), "
        f"{' or '.join(threads)} {'thread' if threads == ['1'] else 'threads'} a cell."
    )
    lines += [
        f"{in_markdown(one)}."
        for one in sorted({_versions(cell["environment"]) for cell in results.cells})
    ]
    return lines


def _versions(form: Form) -> str:
    return ", ".join(f"{name} {value}" for name, value in form.items())
