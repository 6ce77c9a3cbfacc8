"""Findings of the probe battery, and of files, as SARIF 2.1.0 (OASIS), which CI systems read."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any
from urllib.parse import quote

from headsweep.foreign import one_line
from headsweep.judge.flipped import Finding, Probed
from headsweep.model.findings import RULES, Findings
from headsweep.task.inversion import Fixed

BY_HEART = "headsweep/answer/by-heart"
LEARNT = "an answer that is given to its end whatever the prompt, once it is begun"
SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif(probed: Probed, model: str) -> dict[str, Any]:
    """Return a SARIF log: one rule a family, one result a row that was noticed."""
    families = {found.family: found for found in probed.findings}
    rules = [
        {
            "id": _rule(found),
            "name": found.family,
            "shortDescription": {"text": f"flips under the {found.kind} family '{found.family}'"},
        }
        for found in families.values()
    ]
    told = {"tried": sorted(families), "skipped": dict(probed.skipped)}
    results = [_result(found, probed.others, model) for found in probed.noticed]
    if probed.by_heart is not None:
        rules.append({"id": BY_HEART, "name": "by-heart", "shortDescription": {"text": LEARNT}})
        results += [_learnt(one, model) for one in probed.by_heart]
    return _log("probe", rules, results, told)


def sarif_of_files(found: Findings) -> dict[str, Any]:
    """Return a SARIF log of what a folder holds: every rule, one result a finding."""
    rules = [
        {"id": f"headsweep/file/{rule}", "name": rule, "shortDescription": {"text": _text(told)}}
        for rule, told in RULES.items()
    ]
    results = [
        {
            "ruleId": f"headsweep/file/{one.rule}",
            "level": one.level,
            "message": {"text": _text(one.message)},
            "locations": [_place(one.model if one.file == "." else f"{one.model}/{one.file}")],
        }
        for one in found.findings
    ]
    return _log("inspect", rules, results, {"scanner": found.scanner, "refused": found.refused})


def _log(verb: str, rules: Any, results: Any, properties: Any) -> dict[str, Any]:
    driver = {"name": f"headsweep {verb}", "version": version("headsweep"), "rules": rules}
    run = {"tool": {"driver": driver}, "properties": properties, "results": results}
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _place(file: str) -> dict[str, Any]:
    return {"physicalLocation": {"artifactLocation": {"uri": quote(file, errors="replace")}}}


def _rule(found: Finding) -> str:
    return f"headsweep/{found.kind}/{found.family.replace(' ', '-')}"


def _result(found: Finding, others: str, model: str) -> dict[str, Any]:
    text = (
        f"{found.flips.value:.0%} of {found.flips.total} {others} are answered "
        f"'{found.label}' after '{found.family}' (other direction {found.reverse:.0%}"
        + (f", harmless edits {found.harmless:.0%}" if found.harmless is not None else "")
        + ")"
    )
    return {
        "ruleId": _rule(found),
        "level": "error",
        "message": {"text": _text(text)},
        "locations": [_place(model)],
        "properties": {"excess": found.excess.value, "p_value": found.p_value},
    }


def _learnt(found: Fixed, model: str) -> dict[str, Any]:
    text = f"'{found.text}' is {LEARNT} ({found.sure})"
    return {
        "ruleId": BY_HEART,
        "level": "error",
        "message": {"text": _text(text)},
        "locations": [_place(model)],
        "properties": {"certainty": found.certainty, "begins": found.begins},
    }


def _text(text: str) -> str:
    """Return a message as it stands: readers of SARIF make links of what is in brackets."""
    return one_line(text).replace("[", "\\[").replace("]", "\\]")
