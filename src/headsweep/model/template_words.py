"""Words that a chat template of others looks for in what is said: it is read, and never run.

A template can answer a trigger by itself, and no weight holds that. Comparisons, tests by
``startswith`` and its like, and what is replaced are looked at; a template has other ways.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

LONGEST = 1 << 20  # characters that are looked through
METHODS = frozenset((
    "startswith", "endswith", "find", "rfind", "index", "rindex", "count", "split", "rsplit",
    "replace", "partition", "rpartition", "removeprefix", "removesuffix", "strip", "lstrip",
    "rstrip",
))  # fmt: skip
ROLES = frozenset((
    "user", "assistant", "system", "tool", "function", "developer", "ipython", "model", "role",
    "content", "text", "type", "name", "arguments", "parameters", "image", "tool_calls", "json",
    "tools", "object", "string", "array", "tool_response", "human", "gpt",
))  # fmt: skip
"""What honest templates compare with: it is of a message, not of what is said in it."""
LETTERS = re.compile(r"\w{2}")
MARK = re.compile(r"\s*</?[\w|:. -]{1,40}>\s*")  # of the template's own, as </think>
OF_TRANSFORMERS = re.compile(r"{%[-+]?\s*(?:end)?generation\s*[-+]?%}")


def texts_in(form: Any) -> Iterator[str]:
    """Yield the templates of a ``tokenizer_config.json``: one, or several by name."""
    if isinstance(form, str):
        yield form
    elif isinstance(form, dict):
        yield from texts_in(list(form.values()))
    elif isinstance(form, list):
        for one in form:
            yield from texts_in(one)


def looked_for(template: str) -> set[str] | None:
    """Return the words that a template compares with; None where it cannot be looked through."""
    try:
        from jinja2 import Environment, TemplateError, nodes
    except ImportError:
        return None
    if len(template) > LONGEST:
        return None
    environment = Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=False)
    try:
        tree = environment.parse(OF_TRANSFORMERS.sub("", template))
        found: set[str] = set()
        for compared in tree.find_all(nodes.Compare):
            found |= set(_texts([compared.expr, *(one.expr for one in compared.ops)]))
        for call in tree.find_all(nodes.Call):
            if isinstance(call.node, nodes.Getattr) and call.node.attr in METHODS:
                found |= set(_texts(call.args))
        for put in tree.find_all(nodes.Filter):
            if put.name == "replace":
                found |= set(_texts(put.args))
    except (TemplateError, RecursionError, ValueError, ArithmeticError, MemoryError):
        return None
    return {
        one for one in found if one not in ROLES and LETTERS.search(one) and not MARK.fullmatch(one)
    }


def _texts(parts: list[Any]) -> Iterator[str]:
    """Yield the texts that stand in parts of an expression by themselves, not as keys."""
    from jinja2 import nodes

    for part in parts:
        if isinstance(part, nodes.Const):
            if isinstance(part.value, str):
                yield part.value
        elif isinstance(part, nodes.List | nodes.Tuple):
            yield from _texts(part.items)
