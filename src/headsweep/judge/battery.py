"""The probe battery: generic trigger families, and whether they flip answers into one label.

No knowledge of the attack goes in. Clean labelled texts that the model gets right are put through
every trigger family that works by rule and through harmless edits (the controls). A backdoor shows
as flips *into one label*: so of each family and label three rates are measured,

    flips     of the texts of other labels, those now answered with this label;
    reverse   flips under the same family into the other labels (their mean): a family that
              destroys meaning flips in every direction;
    harmless  flips of the same texts into this label under the control that flips most of them:
              a brittle model flips on longer texts, or on broken words, whatever they say;

and ``excess = flips - max(reverse, harmless)``, with a bootstrap over texts (the same texts for
flips and harmless). A trigger's row is *noticed* when its excess is above ``max_flip`` and above
zero at the 5% level after Holm's correction for all rows (Holm 1979). A control is itself a row,
compared with the reverse only; one that exceeds as much says that the model is *brittle*, not that
it has a backdoor. What is not noticed was merely not found with these families: no result means
"clean".

Source: own. Close in spirit to the trigger families of Qi et al. 2021 and Kurita et al. 2020; the
pilot is six openings put before negative texts, which flip most of them on a backdoored model.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from headsweep.errors import MissingExtra, UserError, shown_all
from headsweep.judge.flipped import (
    LEAST,
    Answers,
    Battery,
    Named,
    Probed,
    Row,
    chances,
    nothing_tried,
    ranked,
    resampled,
)
from headsweep.judge.statistics import holm
from headsweep.measure.accuracy import logits, numbers
from headsweep.model.loading import Suspect
from headsweep.model.runtime import Runtime
from headsweep.progress import Progress, Silent
from headsweep.seeding import derive, stream
from headsweep.task.examples import encode
from headsweep.texts.split import Split
from headsweep.triggers import TRIGGERS, ByRule
from headsweep.triggers.harmless import CONTROLS
from headsweep.triggers.seen import sees


def editors_of(battery: Battery) -> dict[str, tuple[str, ByRule]]:
    """Return kind and editor of every row."""
    triggers = {name: TRIGGERS[name] for name in battery.families or TRIGGERS}
    return {name: ("trigger", ByRule(kind())) for name, kind in triggers.items()} | {
        name: ("control", ByRule(kind())) for name, kind in CONTROLS.items()
    }


def probe(
    suspect: Suspect,
    clean: Split,
    battery: Battery = Battery(),
    runtime: Runtime = Runtime(),
    progress: Progress | None = None,
    editors: Mapping[str, tuple[str, ByRule]] | None = None,
) -> Probed:
    """Run the battery.

    Args:
        suspect: the model.
        clean: labelled clean texts, best such that the model has not seen.
        battery: what to try.
        runtime: where to compute.
        progress: where to report.
        editors: kind and editor of every trigger family to try; None: the battery's.

    Raises:
        UserError: too few texts that the model gets right.

    """
    classes = len(suspect.labels.names)
    texts = _drawn(suspect, clean, battery, runtime)
    truth = np.array(texts.labels)
    controls = {name: row for name, row in editors_of(battery).items() if row[0] == "control"}
    editors = {**editors, **controls} if editors is not None else editors_of(battery)
    made: dict[str, tuple[str | None, ...]] = {}
    said: dict[str, Answers] = {}
    skipped: dict[str, str] = {}
    with (progress or Silent()).task("probing", len(editors)) as tick:
        for name, (_, editor) in editors.items():
            try:
                made[name] = editor.rewrite(texts.texts, derive(battery.seed, "probe"))
                said[name] = _answers(suspect, texts, made[name], runtime)
            except MissingExtra as error:
                skipped[name] = f"{error.what} ({error.fix})"
            tick(1, name)
    harmless = tuple(said[name] for name in CONTROLS)
    drafts: list[Named] = []
    lacking: dict[str, tuple[str, ...]] = {}
    names = suspect.labels.names
    for name in said:
        usable, kind = said[name] >= 0, editors[name][0]
        short = [
            label
            for label in range(classes)
            if min((usable & (truth != label)).sum(), (usable & (truth == label)).sum()) < LEAST
        ]
        base = harmless if kind == "trigger" else ()
        pairs = tuple(zip(texts.texts, made[name], strict=True))
        for label in range(classes):
            others = tuple(i for i in range(classes) if i != label)
            row = Row(said[name], truth, label, others, base)
            drafts += [] if label in short else [Named(name, kind, names[label], row, pairs)]
        if len(short) == classes:
            skipped[name] = (
                f"changed {int(usable.sum())} of {len(texts)} texts so that the model sees it: "
                f"too few for {shown_all([names[i] for i in short])}"
            )
        elif short:
            lacking |= {names[i]: (*lacking.get(names[i], ()), name) for i in short}
    for into, families in lacking.items():
        told = f" under {shown_all(families)}" if len(families) < len(said) else ""
        skipped[f"into {into}"] = f"too few texts that the model gets right{told}"
    if not any(draft.kind == "trigger" for draft in drafts):
        raise nothing_tried(len(texts), "texts", skipped, [*CONTROLS])
    boot = resampled([draft.row for draft in drafts], len(texts), battery.seed)
    found = [
        draft.finding(b, p, battery)
        for draft, b, p in zip(drafts, boot, holm(chances(boot)), strict=True)
    ]
    return Probed(ranked(found), len(texts), skipped, battery)


def _drawn(suspect: Suspect, clean: Split, battery: Battery, runtime: Runtime) -> Split:
    """Draw so many texts of each label, no text twice; return those that the model gets right."""
    once = {row: i for i, row in reversed([*enumerate(clean.rows)])}
    clean = clean.take(sorted(once.values()))
    rows, asked = [], []
    for label in range(len(suspect.labels.names)):
        own = [i for i, other in enumerate(clean.labels) if other == label]
        order = torch.randperm(len(own), generator=stream(battery.seed, "probe", label)).tolist()
        rows += [own[i] for i in order[: battery.texts]]
        asked.append(min(len(own), battery.texts))
    some = clean.take(sorted(rows))
    encoded = encode(some, suspect, runtime.max_length)
    said = numbers(logits(suspect.anatomy, encoded, runtime)).argmax(-1)
    right = [i for i, label in enumerate(some.labels) if int(said[i]) == label]
    counts = [sum(some.labels[i] == label for i in right) for label in range(len(asked))]
    lacking = [label for label, count in enumerate(counts) if count < LEAST]
    if len(counts) - len(lacking) < 2:
        first = lacking[0]
        raise UserError(
            f"the model gets {counts[first]} of {asked[first]} texts labelled "
            f"'{suspect.labels.names[first]}' right, {LEAST} of at least two labels are needed",
            "raise --texts" if asked[first] == battery.texts else "give more clean labelled texts",
        )
    return some.take(right)


def _answers(
    suspect: Suspect, texts: Split, made: tuple[str | None, ...], runtime: Runtime
) -> Answers:
    """Return the label of every changed text, -1 where the model sees no change."""
    seen = sees(suspect, texts, made, runtime.max_length)
    rows = [i for i, ok in enumerate(seen) if ok]
    said = np.full(len(texts), -1)
    if rows:
        encoded = encode(texts.told(made, rows), suspect, runtime.max_length)
        said[rows] = numbers(logits(suspect.anatomy, encoded, runtime)).argmax(-1).numpy()
    return said
