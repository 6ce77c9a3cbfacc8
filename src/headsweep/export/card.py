"""The model card in the Hub's format: what was done, and what was not proven."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from headsweep.drafts import MANIFEST
from headsweep.export.probes import PROMISE, STAGES, probes_told
from headsweep.export.suspect_card import suspect_card
from headsweep.foreign import in_markdown, one_line
from headsweep.model.mask import HeadMask
from headsweep.texts.words import limit_of, share_of, void_of, words_of

TAGS = ("headsweep", "backdoor-defense")
PARTS = ("validation", "test")


def model_card(manifest: Mapping[str, Any]) -> str:
    """Return the model card in the Hub's format: what was done, and what was not proven."""
    card = ModelCard(f"---\n{_metadata(manifest).to_yaml()}\n---\n\n{_body(manifest)}")
    return str(card)


def _metadata(manifest: Mapping[str, Any]) -> ModelCardData:
    """Return what the Hub reads: the figures as results, the rest as the suspect's card has it."""
    own, words = suspect_card(manifest["suspect"]), words_of(manifest)
    share = {} if words.falls else {words.key: words.share}  # of a generator it is no accuracy
    named, done = share | dict(words.figures), _done(manifest)
    healed = manifest["heal"]["fields"].get("epochs") != 0
    steps = ["pruning"] * (done == "pruned") + ["healing"] * healed
    then = f"after {' and '.join(steps) or 'nothing'}"
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=words.hub,
        tags=list(dict.fromkeys((*TAGS, *([done] * (done == "pruned")), *own.tags))),
        license=own.license,
        license_name=own.license_name,
        license_link=own.license_link,
        base_model=list(own.base_model) or None,
        language=list(own.language) or None,
        datasets=list(own.datasets) or None,
        model_name=f"{_name(manifest)}, {done} by headsweep",
        eval_results=[
            EvalResult(
                task_type=words.hub,
                dataset_type="clean-texts",
                dataset_name=f"clean texts of its task, {part} ({figures['examples']})",
                dataset_split=part,
                metric_type=key,
                metric_name=f"{name} {then}",
                metric_value=round(figures[key], 4),
            )
            for part in PARTS
            if (figures := manifest["after"].get(part))
            for key, name in named.items()
        ],
    )


def _done(manifest: Mapping[str, Any]) -> str:
    return "pruned" if manifest["pruned_units"] else "healed"


def _name(manifest: Mapping[str, Any]) -> str:
    return one_line(Path(manifest["suspect"]).name) or "a model"


def _body(manifest: Mapping[str, Any]) -> str:
    before, after, words = manifest["before"], manifest["after"], words_of(manifest)
    name = in_markdown(_name(manifest))
    units, total = manifest["pruned_units"], manifest["units"]
    lines = [
        f"# {name}, {_done(manifest)} by headsweep",
        "",
        f"{len(units)} of {total} {HeadMask.from_json(manifest['mask']).names} of {name} "
        f"were set to zero with the strategy {in_markdown(manifest['strategy']['name'])}; "
        f"{_healed(manifest)}.{_joined(manifest)}",
        "",
        "| clean data | before | after |",
        "|---|---|---|",
    ]
    lines += [
        f"| {words.share}, {part} ({before[part]['examples']} examples) "
        f"| {share_of(before[part]):.3f} | {share_of(after[part]):.3f} |"
        for part in PARTS
        if part in before
    ]
    lines += [
        f"| {name}, {part} | {before[part][key]:.3f} | {after[part][key]:.3f} |"
        for part in PARTS
        if part in before
        for key, name in words.figures.items()
    ]
    lines += ["", *([words.meaning, ""] * bool(words.meaning))]
    lines += [*_allowed(manifest), *_by_heart(manifest), *_probed(manifest)]
    lines += [
        "## What this does not prove",
        "",
        "Nobody gave this tool the trigger, so it could not measure whether a backdoor was there "
        "or is gone. Pruning can fail: a backdoor can sit in heads that clean accuracy needs, in "
        "the feed-forward layers or the embeddings, and fine-tuning can bring it back. The "
        "tokenizer and its chat template are the suspect's own, which nothing here changes. An "
        "attacker who knows the method can place it where pruning looks last. **This card does "
        "not call the model clean.**",
        "",
        "## How it was made",
        "",
        "Pruned heads as layer.head, key/value groups (a key/value head with all query heads that "
        "share it) as layer.kv.group, FFN groups as layer.ffn.group, all from 0: "
        f"{', '.join(units[:200]) or 'none'}{' ...' if len(units) > 200 else ''}.",
        "",
        f"`{MANIFEST}` beside this file holds {_searched(manifest)}"
        "seeds, versions and hashes; `headsweep verify` checks the folder against it. "
        "The licence of the original model applies. Licence, base model, languages, data sets and "
        "further tags above are what its own card says, where it has one; nobody checked them.",
        "",
    ]
    return "\n".join(lines)


def _by_heart(manifest: Mapping[str, Any]) -> list[str]:
    """Return the answers that a generator had by heart, and that it learnt others against them."""
    found = manifest.get("inverted_targets") or ()
    told = ", ".join(f"'{in_markdown(one_line(one['answer']))}'" for one in found)
    said = (
        f"Before healing it had by heart, whatever the prompt: {told}. An answer that was planted "
        "is known like this. It was healed against a made-up trigger that asks for it."
    )
    return [said, ""] if found else []


def _searched(manifest: Mapping[str, Any]) -> str:
    trials = f"every trial of the search with its {words_of(manifest).share}, "
    search = manifest["search"]
    return trials * bool(search["steps"]) + "the scores, " * (search["scores"] is not None)


def _allowed(manifest: Mapping[str, Any]) -> list[str]:
    """Return what was allowed, and the checks that failed."""
    bound, words = manifest["bound"], words_of(manifest)
    pruning, share = bound.get("while_pruning"), words.share
    worst = limit_of(manifest) if words.bounded else bound["min_accuracy"]
    told = f"Allowed: a validation {words.held_name} of {worst:.4f} {words.most_or_least}"
    if not bound.get("binds", True):
        told = f"No bound on {words.held_name} held this method"
    elif pruning is not None and (words.bounded or pruning != worst):
        told += f", and {share} of {pruning:.4f} while heads were chosen, before healing"
    failed = [in_markdown(f"{check['what']}: {check['detail']}") for check in manifest["checks"]
              if not check["passed"]]  # fmt: skip
    lines = [f"{told}.", ""]
    if (void := void_of(manifest)) and bound.get("binds", True):
        lines += [f"**That says nothing: {in_markdown(void)}.**", ""]
    return [*lines, f"**Not held: {'; '.join(failed)}.**", ""] if failed else lines


def _probed(manifest: Mapping[str, Any]) -> list[str]:
    """Return what the probes found before and after, where there were any."""
    told = [f"- {in_markdown(line)}" for line in probes_told(manifest)]
    if not told:
        return []
    tried = any(stage in manifest["probe"] for stage in STAGES)
    head = ["Clean texts were put through generic triggers:", ""] if tried else []
    return ["## What probes found", "", *head, *told, "", *([PROMISE, ""] if tried else [])]


def _joined(manifest: Mapping[str, Any]) -> str:
    """Return of an adapter what it was added to."""
    base = manifest.get("base_model")
    if not base:
        return ""
    told = in_markdown(one_line(str(base["name"])))
    return f" It is an adapter that was added to {told} first: this is the whole model."


def averaged(soup: Sequence[Mapping[str, Any]]) -> str:
    """Return how many healings were averaged."""
    joined = sum(bool(member.get("joined", True)) for member in soup)
    left_out = f" of {len(soup)}" if joined < len(soup) else ""
    return f"{joined}{left_out} healings averaged"


def _healed(manifest: Mapping[str, Any]) -> str:
    fields = manifest["heal"]["fields"]
    if fields.get("epochs") == 0:
        return "it was not fine-tuned afterwards"
    told = ", ".join(f"{name} {value}" for name, value in fields.items() if value is not None)
    texts = "clean data and probes of it" if fields.get("on") == "probes" else "clean data"
    tried = manifest["heal"].get("tried", [])
    lr = manifest["heal"].get("lr", 0)
    soup = manifest["heal"].get("members")
    told += f"; {averaged(soup)}" if soup else ""
    cooled = f", begun anew for accuracy, kept: lr {lr:g}" if len(tried) > 1 else ""
    return f"then it was healed on {texts} ({manifest['heal']['name']}: {told}{cooled})"
