"""Which probe families a grid's defender has: never the attack's own trigger.

``probes`` of a ``[[method]]`` is ``"without"`` (no family that shares its idea with the attack's),
``"relatives"`` (all but the trigger itself), or a list of families. What a method needs is checked
for every attack of the grid before anything runs.
"""

from __future__ import annotations

from headsweep.bench.backdoor import Backdoor
from headsweep.document import Section
from headsweep.errors import UserError, lookup
from headsweep.triggers.probe_families import PROBES, RuleProber, apart_from, check_apart, without

WITHOUT, RELATIVES = "without", "relatives"
Families = tuple[str, ...]  # names, or one of these two alone


def read_probes(section: Section) -> Families:
    """Return which probes a method has; empty: none. Raises UserError."""
    asked = section.values.get("probes", [])
    with section.blamed("probes"):
        if isinstance(asked, list):
            return RuleProber(tuple(map(str, asked))).families
        lookup(str(asked), {WITHOUT: 0, RELATIVES: 0}, "choice of probes")
    return (str(asked),)


def prober_of(families: Families, attack: Backdoor, seed: int) -> RuleProber | None:
    """Return what makes a method's probes while an attack is judged; None where it has none.

    Raises:
        UserError: a family is the attack's own trigger, none is left, or it cannot be told.

    """
    if not families:
        return None
    trigger = attack.described
    far = without([str(trigger["name"])])
    known: dict[Families, Families] = {
        (RELATIVES,): apart_from(trigger),
        (WITHOUT,): tuple(name for name in apart_from(trigger) if name in far),
    }
    chosen = known.get(families, families)
    if not chosen:
        raise UserError(f"it leaves no family of {', '.join(PROBES)}")
    prober = RuleProber(chosen, seed=seed)
    check_apart(prober, trigger)
    return prober


def check_probes(
    section: Section, families: Families, wanted: bool, attacks: tuple[Backdoor, ...]
) -> None:
    """Raise UserError where a method lacks probes, has them for nothing, or may not have them."""
    if wanted and not families:
        fix = f'probes = "{WITHOUT}", "{RELATIVES}" or names'
        raise section.mistake(None, "this method needs probes", fix)
    if families and not wanted:
        raise section.mistake("probes", "this method uses no probes", "leave it out")
    for attack in attacks:
        try:
            prober_of(families, attack, 0)
        except UserError as error:
            more = f"attack '{attack.name}': {error.what}"
            raise section.mistake("probes", more, PLACES.get(error.fix, error.fix)) from error


PLACES = {"say which corpus it is of": 'give the attack its trigger as family = "syntactic"'}
