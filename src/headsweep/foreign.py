"""Text that others wrote, made safe to print: in a terminal, in Markdown, in JSON.

Names of labels, paths, tensors and files come from whoever made a model. A terminal obeys control
sequences, marks of writing direction make a line read as another, half a surrogate pair cannot be
encoded at all. Such characters are shown as Python would write them.
"""

from __future__ import annotations

import html
import re

CONTROLS = (range(0x09), range(0x0B, 0x20), range(0x7F, 0xA0))  # but tab and line feed
INVISIBLE = (
    range(0x061C, 0x061D),  # marks of direction, and what changes it
    range(0x200B, 0x200C),
    range(0x200E, 0x2010),
    range(0x2028, 0x202F),
    range(0x2060, 0x2070),
    range(0xFEFF, 0xFF00),
    range(0xFFF9, 0xFFFC),
    range(0xE0000, 0xE0080),
)
HALVES = (range(0xD800, 0xE000),)
LINE_END = re.compile(r"(?<!\s)\s*[\n\r]\s*")
MARKDOWN = re.compile(r"([\\`*_\[\]|~<>&@$]|:(?=//)|(?<=www)\.)")


def _escaped(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _in_json(code: int) -> str:
    units = chr(code).encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


UNSAFE = [code for part in (*CONTROLS, *INVISIBLE, *HALVES) for code in part]
PLAIN = {code: _escaped(code) for code in UNSAFE}
JSON = {code: _in_json(code) for code in UNSAFE}


def plain(text: str) -> str:
    """Return a text without what a terminal obeys or cannot show; letters stay as they are."""
    if text.isascii() and text.isprintable():
        return text
    return text.translate(PLAIN)


def one_line(text: str) -> str:
    """Return a text as one line, plain."""
    return plain(text if LINE_END.search(text) is None else " ".join(LINE_END.split(text)))


def in_markdown(text: str) -> str:
    """Return a text that Markdown, and the HTML it may hold, show as it stands."""
    return MARKDOWN.sub(r"\\\1", one_line(text)).replace("\\<", "&lt;").replace("\\&", "&amp;")


def in_html(text: str) -> str:
    """Return a text that HTML shows as it stands."""
    return html.escape(plain(text))


def in_json(text: str) -> str:
    """Return JSON with the same meaning and nothing in it that a terminal obeys."""
    return text if text.isascii() else text.translate(JSON)
