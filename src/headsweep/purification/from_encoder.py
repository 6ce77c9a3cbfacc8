"""Start from a suspect encoder: the protocol of Chapagain et al. 2025 and Zhao et al. 2024.

The encoder gets a fresh head and is fine-tuned on clean data; heads are chosen on that; then the
suspect encoder is taken again, the heads found are applied, and it is fine-tuned with a fresh head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from headsweep.errors import UserError
from headsweep.heal.finished import once
from headsweep.model.loading import Reading, Suspect
from headsweep.progress import Progress, Silent
from headsweep.purification.material import Sources, gather
from headsweep.purification.method import PAPER, Method
from headsweep.purification.pipeline import Look, Observe, Run, purify, say_memory, story
from headsweep.purification.plan import Plan
from headsweep.purification.purified import Purified
from headsweep.purification.unfinished import TUNED, steps_kept
from headsweep.task.training import Job, Schedule, copied, train


def purify_from_encoder(
    suspect: str | Path | PreTrainedModel | Suspect,
    data: Sources | Any,
    method: Method = Method(healing=PAPER),
    plan: Plan = Plan(),
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: Progress | None = None,
    keep: Path | None = None,
    look: Look | None = None,
    observe: Observe | None = None,
) -> Purified:
    """Do what ``purify`` does, from the encoder of a suspect; arguments and errors as there."""
    if method.healing.tries:
        raise UserError(
            "the start from the encoder ends with a fresh classifier: healed cooler it would learn "
            "less",
            "heal with halvings=0",
        )
    progress = progress or Silent()
    say_memory(suspect, method, plan, progress, fresh=True)
    sources = data if isinstance(data, Sources) else Sources(data)
    reading = Reading(
        seed=plan.seed,
        adapter=plan.adapter,
        units=method.gated,
        base_model=plan.base_model,
    )
    if plan.task is not None:
        reading = replace(reading, task=plan.task)
    material = gather(suspect, sources, reading, plan.runtime, fresh=True, tokenizer=tokenizer)
    cut_off = sources.validation is None
    model = material.suspect.model
    with steps_kept(keep, material, method, plan, progress, "encoder") as kept:
        run = Run(progress, kept, look, observe, cut_off, "encoder")
        run.begin(material, method)
        with run.clock("fine-tune"):
            run.restore = copied(model)
            schedule = Schedule(PAPER.epochs, PAPER.lr)
            job = Job(schedule, plan.seed, "fine-tuning the suspect encoder on clean data")
            texts = material.encoded["train"]
            once(
                None if kept is None else kept / TUNED,
                model,
                lambda: {"losses": train(model, texts, job, plan.runtime, progress)},
                tell=progress.say,
            )
        return story(material, method, plan, run)


STARTS: dict[str, Callable[..., Purified]] = {
    "classifier": purify,
    "encoder": purify_from_encoder,
}
"""How to purify, by what the suspect is taken for."""
