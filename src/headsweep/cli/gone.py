"""Options that are gone, and how what they said is written now."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from headsweep.errors import UserError

COMPUTE = ("batch_size", "max_length", "precision", "measure_in", "cache_mib")
COLUMNS = ("text", "pair", "label")
GONE: Mapping[str, str] = {
    "--heal-epochs": "--heal epochs={}",
    "--heal-lr": "--heal lr={}",
    "--heal-halvings": "--heal halvings={}",
    "--heal-with": "--heal on={}",
    "--attention-penalty": "--heal attention={}",
    **{f"--{name.replace('_', '-')}": f"--compute {name}={{}}" for name in COMPUTE},
    **{f"--{name}-column": f"--column {name}={{}}" for name in COLUMNS},
    **{f"--triggered-{name}-column": f"--triggered-column {name}={{}}" for name in COLUMNS},
    "--drop-empty": "--column drop_empty=yes",
    "--ffn-groups": "--units heads,ffn:{}",
    "--prune-drop": "--recipe FILE, with the line prune_drop = {} in it",
    "--probe-family": '--recipe FILE, with the line probes = ["{}"] in it',
}
"""New spelling by option, with the old one's value in the braces."""


def refuse_gone(words: Sequence[str], known: Collection[str]) -> None:
    """Raise UserError for an option that is gone, with what replaced it.

    Args:
        words: of a command, as typed.
        known: the options that it has.

    """
    for word, following in zip(words, [*words[1:], "VALUE"], strict=False):
        if word == "--":
            return
        option, equals, value = word.partition("=")
        if option in GONE and option not in known and GONE[option].split()[0] in known:
            said = GONE[option].replace("{}", value if equals else following)
            raise UserError(f"{option} is gone", f"write {said}")
