"""The pipeline as a story: gather, measure, choose heads, remove them for good, heal, check.

It starts from the suspect classifier as it is. Starting from a suspect encoder (``from_encoder``)
is the same story on a model that was fine-tuned first, and that gets its weights back before the
heads go.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from headsweep.cost import Clock
from headsweep.drafts import if_it_can, write_json
from headsweep.errors import NothingPruned, UserError, shown
from headsweep.export.consistency import GATED, bound_held
from headsweep.export.folders import stored
from headsweep.export.model_folder import gap_of
from headsweep.export.provenance import command_line
from headsweep.export.verify import Check, check_weights
from headsweep.measure.accuracy import logits
from headsweep.model.loading import Reading, Suspect, measured
from headsweep.model.mask import HeadMask
from headsweep.model.removal import remove, zero_parts
from headsweep.progress import Progress, Silent
from headsweep.prune.choice import LOOSER, Choice
from headsweep.prune.scores import ScoreCache
from headsweep.prune.view import DefenderView
from headsweep.purification.bound import Allowance
from headsweep.purification.cooling import heal_within
from headsweep.purification.estimate import estimate
from headsweep.purification.interrupted import Found
from headsweep.purification.inverted import Inverted
from headsweep.purification.manifest import Record, doubts, manifest, swing, undecided
from headsweep.purification.material import Figures, Material, Sources, gather
from headsweep.purification.memory_plan import Size, check_fits
from headsweep.purification.method import Method
from headsweep.purification.plan import Plan
from headsweep.purification.probed import Probed
from headsweep.purification.purified import Purified
from headsweep.purification.unfinished import MASK, SCORES, chosen, steps_kept
from headsweep.settings import describe
from headsweep.texts.generation import GENERATION
from headsweep.texts.kinds import task_of
from headsweep.texts.split import Split

ZEROING_TOLERANCE = 1e-3  # of logits: gates and zeroed weights round differently
Look = Callable[[DefenderView, Choice], None]
Observe = Callable[[str, Suspect, Split], None]


def purify(
    suspect: str | Path | PreTrainedModel | Suspect,
    data: Sources | Any,
    method: Method = Method(),
    plan: Plan = Plan(),
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: Progress | None = None,
    keep: Path | None = None,
    look: Look | None = None,
    observe: Observe | None = None,
) -> Purified:
    """Prune the heads of a suspect classifier on clean data, and heal it.

    Args:
        suspect: a folder, a model of the Hub, or a loaded classifier (changed in place; give
            its tokenizer).
        data: clean labelled examples: a Split, anything ``headsweep.texts.reading.load`` reads, or
            ``Sources`` to name validation and test data and columns.
        method: all that is done to it: pruning, healing, units, bound.
        plan: seed, where to compute, and the rest.
        tokenizer: the tokenizer of a loaded classifier.
        progress: where to report to; silent by default.
        keep: a folder that gets what is finished (scores, the choice of heads, healings), so that
            the same call goes on after it (``unfinished``). Whoever gives it removes it when
            the result is written.
        look: called with the pruned model before it is healed; changes nothing.
        observe: called with ``before`` and the suspect (not where it starts as an encoder), and
            with ``after`` and the result, each with clean examples that healing does not train on;
            changes nothing.

    Returns:
        The purified model with its manifest; call ``.save(folder)``.

    Raises:
        UserError: anything that the caller can mend.
        NothingPruned: no head could go within the bound.

    """
    progress = progress or Silent()
    say_memory(suspect, method, plan, progress, widened=plan.base_model is not None)
    sources = data if isinstance(data, Sources) else Sources(data)
    reading = Reading(
        seed=plan.seed,
        adapter=plan.adapter,
        units=method.gated,
        task=plan.task,
        base_model=plan.base_model,
        frozen=method.frozen,
    )
    material = gather(suspect, sources, reading, plan.runtime, tokenizer=tokenizer)
    cut_off = sources.validation is None
    with steps_kept(keep, material, method, plan, progress) as kept:
        run = Run(progress, kept, look, observe, cut_off)
        run.begin(material, method)
        return story(material, method, plan, run)


def say_memory(
    suspect: object,
    method: Method,
    plan: Plan,
    progress: Progress,
    *,
    widened: bool = False,
    fresh: bool = False,
) -> None:
    """Say how much memory a stored model takes where it is much; raises UserError: too much.

    ``widened``: its weights are held in float32, whatever the method is; ``fresh``: a classifier
    is put on it and trained with it before.
    """
    if not isinstance(suspect, str | Path):
        return
    shapes, config = measured(suspect if plan.base_model is None else plan.base_model)
    generates = (plan.task or task_of(config)) is GENERATION
    size = Size.of(shapes, config, generates)
    line = check_fits(size.widened if widened else size, method, plan.runtime, fresh=fresh)
    if line:
        progress.say(line)


@dataclass
class Run:
    """One run of the story: whom it tells, what it keeps, how long each part took.

    Attributes:
        progress: where to report to.
        kept: the folder of what this run has finished; None: nothing is kept.
        look, observe: as for ``purify``.
        cut_off: validation examples were cut off from the data.
        start: ``classifier``, or ``encoder``.
        restore: weights that the model gets back before heads are removed; None: it keeps its own.
        clock: seconds by part.
        notes: what the manifest is to say.
        few: of these, that validation examples decide too little.

    """

    progress: Progress
    kept: Path | None = None
    look: Look | None = None
    observe: Observe | None = None
    cut_off: bool = True
    start: str = "classifier"
    restore: dict[str, Tensor] | None = None
    clock: Clock = field(default_factory=Clock)
    notes: list[str] = field(default_factory=list)
    few: list[str] = field(default_factory=list)

    def begin(self, material: Material, method: Method) -> None:
        """Check the mask given; say what is cut, what is unusual, whether the bound can decide."""
        method.pruning.needs.check(material.suspect.anatomy.layout)
        for name, part in material.encoded.items():
            if part.truncated:
                self.progress.say(
                    f"note: {part.truncated} {name} texts are cut at the maximum length"
                )
        self.note(*method.notes_for(material.suspect.task.words.task))
        self.doubt(undecided(material, method, self.cut_off))

    def doubt(self, few: list[str]) -> None:
        """Say that the examples decide too little."""
        self.few += few
        self._say(few)

    def note(self, *notes: str) -> None:
        """Say it, and write it down."""
        self.notes += notes
        self._say(notes)

    def observed(self, stage: str, material: Material) -> None:
        """Show the model as it is to whoever observes it."""
        if self.observe is not None:
            with self.clock("probe"):
                self.observe(stage, material.suspect, observed_on(material))

    def _say(self, notes: list[str] | tuple[str, ...]) -> None:
        for one in notes:
            self.progress.say(f"note: {one}")


def story(material: Material, method: Method, plan: Plan, run: Run) -> Purified:
    """Measure, choose, remove, heal, check; return the purified model with its evidence."""
    clock = run.clock
    healing, unfit = method.healing.fitted(material.suspect)  # it may not be: before anything long
    with clock("measure"):
        before = material.figures()
    if not run.few:
        run.doubt(undecided(material, method, run.cut_off, before))
    if run.start == "classifier":
        run.observed("before", material)
    with clock("probes"):
        probed = Probed.of(material, plan, run.progress)
        flips = probed.flips(material)
    method = replace(method, healing=healing)
    with clock("inversion"):
        inverted = Inverted.of(material, method, plan.seed, run.progress)
    if inverted.searched:
        method = method.knowing(len(inverted.answers))
    made = view_of(material, method, plan, before, probed, run)
    view = replace(made, fixed=inverted.answers)
    run.note(*material.suspect.notes, *unfit, *doubts(material, before, bool(run.few)))
    run.note(*probed.gaps, *inverted.notes)
    run.notes += run.few
    run.progress.say(estimate(view, method, clock.seconds["measure"] / before.examples))
    zero_before = sorted(zero_parts(view.anatomy))
    with clock("search"):
        choice = chosen(run.kept, method.pruning, view)
    check_record(choice, method.pruning.name)
    with clock("measure"):
        pruned = material.figures(choice.mask)
    run.note(*check_choice(choice, view, pruned, method, bool(material.suspect.doubts)))
    tell(choice, method.binds, run)
    if run.kept is not None:
        keep(run.kept / MASK, choice, view, method)
    zeroed = remove_and_compare(material, choice.mask, run.restore)
    if run.look is not None:
        run.look(view, choice)
    allowance = method.allowance(before.validation)
    healed = heal_within(
        allowance if method.binds else None, method.healing, material, view, choice, clock
    )
    run.notes += healed.notes
    run.note(*swing(material, plan.seed))
    with clock("measure"):
        after_flips = probed.flips(material)
    with clock("inversion"):
        stands = inverted.after(material)
    run.observed("after", material)
    checks = [zeroed, *check_weights(view.anatomy, choice.mask, zero_before)]
    if method.binds:
        checks.append(check_bound(method, allowance, healed.after))
    record = Record(
        before=before,
        pruned=pruned,
        healed=healed,
        choice=choice,
        binds=method.binds,
        checks=tuple(checks),
        zero_before=tuple(view.layout.name(unit) for unit in still_zero(view, zero_before)),
        probes=probed.to_json(flips, after_flips),
        inverted=inverted.to_json(stands),
        notes=tuple(run.notes),
        start=run.start,
        seconds=clock.report(),
    )
    written = manifest(material, view, method, plan, record)
    held = held_of(material)
    reads = (*material.reads, *stored((method.base,)))
    return Purified(material.suspect, choice.mask, written, checks, held, reads)


def held_of(material: Material) -> Split:
    """Return clean examples that healing does not train on: the test data, else what decides."""
    return material.parts.test or material.parts.validation


def observed_on(material: Material) -> Split:
    """Return what a model is observed on: the same, of a generator all that there is.

    Of two hundred prompts each part has thirty, and a probe needs 32.
    """
    parts = material.parts
    if parts.test and material.suspect.task is GENERATION:
        return parts.test + parts.validation
    return held_of(material)


def view_of(
    material: Material,
    method: Method,
    plan: Plan,
    before: Figures,
    probed: Probed,
    run: Run,
) -> DefenderView:
    """Return what the method may see."""
    scores = plan.scores
    if scores is None and run.kept is not None:
        scores = ScoreCache(run.kept / SCORES, "")  # the folder is of one version only
    return DefenderView(
        material.suspect.anatomy,
        material.encoded["train"],
        material.encoded["validation"],
        method.while_pruning(before.validation),
        plan.seed,
        plan.runtime,
        run.progress,
        probed.train,
        probed.validation,
        scores,
        material.suspect.precision,
        run.kept,
    )


def _empties(mask: HeadMask, view: DefenderView) -> bool:
    """Tell whether a mask leaves a layer without a unit that does something."""
    both = view.layout.mask({*mask.pruned, *view.gone})
    before = view.layout.mask(view.gone)
    return any(any(had) and not any(has) for had, has in zip(before.rows, both.rows, strict=True))


def check_record(choice: Any, name: str) -> None:
    """Refuse now what could not be written once all is done; raises UserError."""
    if not isinstance(choice, Choice):
        raise UserError(
            f"the strategy {name} returned {shown(type(choice).__name__)}",
            "return a Choice of a mask, or what bisect gives (headsweep.prune)",
        )
    scores = choice.scores
    if scores is not None and not (isinstance(scores, Tensor) and bool(scores.isfinite().all())):
        raise UserError(
            f"the strategy {name}: scores are a tensor of finite numbers, one a unit",
            "for units that must stay give a large score, not an infinite one",
        )
    try:
        json.dumps(choice.record, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the strategy {name}: its record cannot be written as JSON: {error}",
            "give numbers of Python, texts, lists and dicts",
        ) from error


def check_choice(
    choice: Choice, view: DefenderView, pruned: Figures, method: Method, padded: bool = False
) -> list[str]:
    """Check that a choice may be gone on with; return notes on it.

    ``padded``: padding changes what the model answers. A search counts in other batches than those
    that accuracy is told of, so that the two may differ by some answers then.

    Raises:
        NothingPruned: the method is there to prune, and no head could go.
        UserError: a given mask that misses the bound, or leaves a layer without heads.

    """
    mask, got = choice.mask, pruned.validation
    units = f"{view.layout.units} {mask.names}"
    if method.pruning.needs.pruning and not mask.pruned and choice.earlier is not None:
        raise NothingPruned(f"the given mask keeps all {units}\n  fix: give another")
    if method.pruning.needs.pruning and not mask.pruned and all(s.held for s in choice.steps):
        raise NothingPruned(
            f"nothing could be removed: {method.pruning.name} chose none of {units}, whatever the "
            "bound\n  fix: other settings of it (see `headsweep strategies`), or a strategy that "
            "goes as far as the bound allows, as gradient does; the last unit of a layer always "
            "stays"
        )
    if method.pruning.needs.pruning and not mask.pruned:
        raise NothingPruned(
            f"nothing could be removed within min {got.words.share} {view.min_accuracy:.4f}: "
            f"the best mask found keeps all {units}\n  fix: {looser(method)}"
        )
    if _empties(mask, view):
        raise UserError("the mask leaves a layer without heads", "every layer keeps one")
    if choice.bounded and got.right < view.need:
        reached = f"{got.value:.4f} of {view.min_accuracy:.4f}"
        if choice.earlier is None and padded:
            return [
                f"{got.words.share} {reached} once the heads were chosen: the search held the "
                "bound in other batches, and padding changes what this model answers; --compute "
                "batch_size=1 pads nothing"
            ]
        if choice.earlier is None and view.holds(mask):
            return [
                f"{got.words.share} {reached} once the heads were chosen: the search counted in "
                "other batches, and rounding decides an answer that lies between two"
            ]
        if choice.earlier is None:
            raise RuntimeError(
                f"the strategy broke its contract: accuracy {reached}; a strategy that the bound "
                "does not hold gives Choice(..., bounded=False)"
            )
        raise UserError(
            f"the given mask misses the bound ({reached})",
            looser(method),
        )
    return []


def looser(method: Method) -> str:
    """Return what mends a bound that heads cannot be removed within."""
    if method.healing.trains and method.bound is not None and method.bound.prune_drop is None:
        return f"{LOOSER}, or let healing bring it back (prune_drop = 0.1 in a recipe of purify)"
    return LOOSER


def tell(choice: Choice, binds: bool, run: Run) -> None:
    """Note where a choice came from, and that nothing bounds it, or its healing alone."""
    if choice.earlier is not None and "note" in choice.earlier:
        run.note(str(choice.earlier["note"]))
    if not choice.bounded:
        told = "costs: healing alone is held to the bound" if binds else "and its healing cost"
        run.note(f"nothing bounds what this choice of heads {told}")


def remove_and_compare(
    material: Material, mask: HeadMask, restore: Mapping[str, Tensor] | None
) -> Check:
    """Zero the pruned heads; check that this is what the closed gates did."""
    suspect = material.suspect
    if restore is not None:
        suspect.model.load_state_dict(restore)
    part, runtime = material.encoded["validation"], material.runtime
    gated = logits(suspect.anatomy, part, runtime, mask)
    remove(suspect.anatomy, mask)
    gap = gap_of(logits(suspect.anatomy, part, runtime), gated)
    return Check(
        GATED,
        gap <= ZEROING_TOLERANCE,
        f"largest difference {gap:.1e}",
    )


def still_zero(view: DefenderView, before: Sequence[int]) -> list[int]:
    """Return those of some units whose weights healing left at zero."""
    now = zero_parts(view.anatomy)
    return [unit for unit in before if unit in now]


def keep(file: Path, choice: Choice, view: DefenderView, method: Method) -> None:
    """Write the mask with how it was found, where it and the bound make the choice whole."""
    if choice.earlier is not None or not choice.bounded or not method.pruning.needs.pruning:
        return
    layout = view.layout
    deeper = None if method.bound is None else method.bound.prune_drop
    found = Found(
        describe(method.pruning),
        choice.steps_json(layout),
        choice.scores_json(layout),
        command_line(),
        deeper,
    )
    form = choice.mask.to_json() | found.to_json()
    if_it_can(partial(write_json, file, form), view.progress.say)


def check_bound(method: Method, allowance: Allowance, after: Figures) -> Check:
    """Check that the healed model holds the bound."""
    got = after.validation
    deeper = method.bound is not None and method.bound.prune_drop is not None
    hint = "; a smaller prune drop or longer healing holds more" if deeper else ""
    what = bound_held(got.words.held_name, allowance.worst, got.words.most_or_least)
    return Check(what, allowance.held_by(got), f"it is {got.held:.4f}{hint}")
