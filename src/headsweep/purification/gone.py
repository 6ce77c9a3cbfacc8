"""Keys and methods of older recipes that are gone, and what stands in their place."""

from __future__ import annotations

from collections.abc import Mapping

from headsweep.document import Section

LOG = "docs/log.md names the figure that refuted it"
HEALING: Mapping[str, str] = {
    "consistency": f"nothing took its place: {LOG}",
    "distill": f"nothing took its place: {LOG}",
    "freeze_embeddings": f"nothing took its place: {LOG}",
}
KEYS: Mapping[str, str] = {
    "ffn_groups": 'units = "heads,ffn:N" took its place, the number of groups after a colon',
}
METHODS: Mapping[str, str] = {
    "auto": f'"gradient", with the healing of today, took its place: {LOG}',
    "cycles": 'strategy = "gradient", and in [defend.heal] epochs = 4, lr = 1.5e-4, '
    "attention = 0.15, halvings = 3, took its place",
    "healing-as-long": 'strategy = "none" with the same heal took its place',
}


def refuse_gone(section: Section, gone: Mapping[str, str]) -> None:
    """Raise UserError for a key of a table that is gone, with what replaced it."""
    for key in section.values:
        if key in gone:
            raise section.mistake(key, f"'{key}' is gone", gone[key])


def refuse_gone_method(section: Section, key: str, name: str) -> None:
    """Raise UserError for a method that is gone, with what replaced it."""
    if name in METHODS:
        raise section.mistake(key, f"'{name}' is gone", METHODS[name])
