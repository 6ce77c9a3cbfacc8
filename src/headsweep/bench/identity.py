"""What made a result: the code that ran, and content hashes of what it was asked."""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
WORK = "headsweep.bench.work"


def digest(value: Any) -> str:
    """Return the SHA-256 of a value's JSON form, keys sorted."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@cache
def code_hash(module: str = WORK) -> str:
    """Return a hash of the source of every module of ours that a cell's code imports.

    So a change of the report or of a document does not make results another version's, and a
    change of a strategy does.
    """
    return digest(sources_of(module))


@cache
def own_hash(modules: tuple[str, ...]) -> str:
    """Return a hash of the source of these modules alone, whatever they import."""
    paths = {name: _file(name) for name in modules}
    return digest({name: path.read_text("utf-8") for name, path in paths.items() if path})


def sources_of(module: str) -> dict[str, str]:
    """Return the hash of each of our modules that a module imports, directly or not."""
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if name in found or path is None:
            continue
        source = path.read_text(encoding="utf-8")
        found[name] = hashlib.sha256(source.encode()).hexdigest()
        waiting += _imports(ast.parse(source))
    return found


def _file(name: str) -> Path | None:
    parts = name.split(".")[1:]
    if not parts:
        return None  # the package's own __init__ only re-exports
    base = PACKAGE.joinpath(*parts)
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.exists()), None)


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("headsweep"):
            yield str(node.module)
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (n.name for n in node.names if n.name.startswith("headsweep."))


@cache
def commit() -> str:
    """Return the commit of the source tree; ``-dirty`` where the package differs from it.

    Empty where the package is installed outside a repository of its own.
    """

    def git(*words: str) -> str:
        asked = ["git", "-C", str(PACKAGE), *words]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        if not git("ls-files", "errors.py"):
            return ""
        found = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
    except OSError:
        return ""
    return f"{found}-dirty" if found and changed else found
