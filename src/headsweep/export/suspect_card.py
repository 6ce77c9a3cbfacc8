"""What a suspect's own model card says of its licence and where it comes from.

Foreign text: whoever made the suspect wrote it. It is read within bounds, as YAML without anchors
(a few lines of them can stand for gigabytes), and only values that look like what their key is for
are carried over. Nothing of it is believed: the new card says whose words they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import try_to_load_from_cache

from headsweep.bounded import text_of
from headsweep.foreign import one_line
from headsweep.model.files import inside, there
from headsweep.model.hub import CARD, can_be_of_the_hub

LONGEST = 16_384  # characters of the block
NESTED = re.compile(
    r"(?:[\[{][^\[{]*){300}|(?:[-?:] ){20}"
)  # the time to read it grows as the square
MOST = 20  # entries of a list
BLOCK = re.compile(r"---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", flags=re.DOTALL)
LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}")
LINK = re.compile(r"https://[A-Za-z0-9./_%#?=~-]{1,200}")
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,2}|multilingual")
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+ -]{0,39}|arxiv:\d{4}\.\d{4,5}")
NOT_CARRIED = frozenset(("custom_code", "endpoints_compatible"))  # what the Hub acts on


@dataclass(frozen=True)
class SuspectCard:
    """What is carried over; empty where the suspect's card says nothing that can be.

    Attributes:
        license, license_name, license_link: its licence, as the Hub names it.
        base_model: the models that it was made from; of a model of the Hub, that model.
        language, datasets, tags: as the card lists them.

    """

    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    base_model: tuple[str, ...] = ()
    language: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


def suspect_card(source: str) -> SuspectCard:
    """Return what is carried over from the card of a folder, or of a model of the Hub.

    The Hub is not asked again: the card was fetched with the model.
    """
    form = _metadata(source)
    of_the_hub = not Path(source).exists() and can_be_of_the_hub(source)
    return SuspectCard(
        _only(form, "license", LICENCE),
        _only(form, "license_name", NAME),
        _only(form, "license_link", LINK),
        (source,) if of_the_hub else _repositories(form, "base_model"),
        _list(form, "language", LANGUAGE),
        _repositories(form, "datasets"),
        tuple(tag for tag in _list(form, "tags", TAG) if tag not in NOT_CARRIED),
    )


def _metadata(source: str) -> dict[str, Any]:
    """Return the block of YAML that a card begins with; empty where it cannot be read."""
    try:
        folder = _home(source)
        if folder is None or not there(folder, CARD):
            return {}
        found = BLOCK.match(text_of(inside(folder, CARD)))
        if found is None or len(found[1]) > LONGEST or NESTED.search(found[1]):
            return {}
        if any(isinstance(token, yaml.AnchorToken) for token in yaml.scan(found[1])):
            return {}
        form = yaml.safe_load(found[1])
    except Exception:  # whatever the card of a stranger makes the library raise
        return {}
    return form if isinstance(form, dict) else {}


def _home(source: str) -> Path | None:
    if Path(source).is_dir():
        return Path(source)
    known = try_to_load_from_cache(source, CARD) if can_be_of_the_hub(source) else None
    return Path(known).parent if isinstance(known, str) else None


def _list(form: dict[str, Any], key: str, pattern: re.Pattern[str]) -> tuple[str, ...]:
    values = form.get(key)
    some = values[:MOST] if isinstance(values, list) else [values]
    if key == "language":  # YAML reads that of Norway as False
        some = ["no" if one is False else one for one in some]
    said = [one for one in some if isinstance(one, str) and one == one_line(one)]
    return tuple(dict.fromkeys(one for one in said if pattern.fullmatch(one)))


def _only(form: dict[str, Any], key: str, pattern: re.Pattern[str]) -> str | None:
    """Return a text where there is just one: the first of several licences may be the freer."""
    found = _list(form, key, pattern)
    return found[0] if len(found) == 1 else None


def _repositories(form: dict[str, Any], key: str) -> tuple[str, ...]:
    some = _list(form, key, re.compile(r"[\w./-]{1,96}", flags=re.ASCII))
    return tuple(name for name in some if can_be_of_the_hub(name))
