"""The pipeline: choose heads, remove them for good, heal, check, save.

Two starts, as in the paper's protocol and for its user:

``classifier``
    the suspect classifier as it is: score it, prune it, heal it.
``encoder``
    the protocol of Chapagain et al. 2025 (and Zhao et al. 2024): fine-tune the suspect encoder
    with a fresh head on clean data, choose the heads on that, take the suspect encoder again,
    apply the heads found, and fine-tune it with a fresh head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from headsweep.cost import Clock
from headsweep.drafts import MANIFEST, write_json
from headsweep.errors import NothingPruned, UserError
from headsweep.export.card import model_card
from headsweep.export.folders import drafted
from headsweep.export.model_folder import LOGIT_TOLERANCE, fingerprint, reload, save_model
from headsweep.export.provenance import command_line, other_files_hash, tensors_hash, weights_hash
from headsweep.export.verify import Check, check_weights
from headsweep.heal.fine_tune import FineTune, cooler_of
from headsweep.measure.accuracy import logits, needed
from headsweep.model.borrowing import gives_attention
from headsweep.model.loading import Reading, Suspect
from headsweep.model.mask import HeadMask
from headsweep.model.removal import remove, zero_parts
from headsweep.progress import Progress, Silent, duration
from headsweep.prune.choice import Choice
from headsweep.prune.flips import flip_rates
from headsweep.prune.search import default_step
from headsweep.prune.strategies import Strategy
from headsweep.prune.view import DefenderView
from headsweep.purification import manifest as evidence
from headsweep.purification.bound import Bound, answers
from headsweep.purification.material import Material, Sources, gather
from headsweep.purification.plan import PAPER, USUAL, USUAL_STRATEGY, Found, Plan, Usual
from headsweep.settings import describe
from headsweep.task.probes import Probes
from headsweep.task.training import Job, copied, round_weights, train
from headsweep.texts.split import Split

FORESEEN = ("gradient", "probe-guided", "random", "variance")  # others train or sample
ZEROING_TOLERANCE = 1e-3  # of logits: gates and zeroed weights round differently


@dataclass
class Purified:
    """A purified model with its evidence.

    Attributes:
        suspect: the model (its pruned heads zero, healed) with tokenizer and labels.
        mask: which heads were kept.
        manifest: all that is written to ``headsweep.json``, as JSON values.
        checks: what was verified.
        held: clean examples it was not trained on: the test data, or else the validation data.

    """

    suspect: Suspect
    mask: HeadMask
    manifest: dict[str, Any]
    checks: list[Check]
    held: Split

    @property
    def model(self) -> PreTrainedModel:
        """The purified model, float32, in eval mode."""
        return self.suspect.model

    @property
    def history(self) -> list[dict[str, Any]]:
        """Every trial of the search, as in the manifest."""
        steps: list[dict[str, Any]] = self.manifest["search"]["steps"]
        return steps

    @property
    def verified(self) -> bool:
        """True when every check passed."""
        return all(check.passed for check in self.checks)

    def save(self, out: str | Path, overwrite: bool = False) -> Path:
        """Write the folder whole, after loading the draft plainly and comparing logits.

        Raises:
            UserError: the folder exists or cannot be written, or what was written does not
                load or gives other logits.

        """
        out = Path(out)
        with drafted(out, overwrite) as draft:
            save_model(self.suspect, draft)
            loaded = reload(draft)
            _compare(self.model, loaded)
            self.manifest["weights_sha256"] = weights_hash(draft)
            self.manifest["other_files_sha256"] = other_files_hash(draft)
            self.manifest["tensors_sha256"] = tensors_hash(loaded)
            self.manifest["fingerprint"] = fingerprint(self.model).tolist()
            write_json(draft / MANIFEST, self.manifest)
            (draft / "README.md").write_text(model_card(self.manifest), encoding="utf-8")
        return out


def _compare(model: PreTrainedModel, other: PreTrainedModel) -> None:
    gap = float((fingerprint(model) - fingerprint(other)).abs().max())
    if not gap <= LOGIT_TOLERANCE:
        raise UserError(
            f"the saved model gives other logits when loaded again (largest difference {gap:.1e})",
            "nothing was written; please report this architecture",
        )


def purify(
    suspect: str | Path | PreTrainedModel | Suspect,
    data: Sources | Any,
    strategy: Strategy | Usual | None = USUAL,
    plan: Plan = Plan(),
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: Progress | None = None,
    keep_mask: Path | None = None,
    look: Callable[[DefenderView, Choice], None] | None = None,
) -> Purified:
    """Prune the heads of a suspect classifier on clean data, and heal it.

    Args:
        suspect: a folder, a model of the Hub, or a loaded classifier (changed in place; give
            its tokenizer).
        data: clean labelled examples: a Split, anything ``headsweep.texts.reading.load`` reads, or
            ``Sources`` to name validation and test data and columns.
        strategy: how to choose the heads; None: prune nothing, only heal (a baseline). Not given:
            ``USUAL_STRATEGY``.
        plan: the bound, healing, seed and the rest.
        tokenizer: the tokenizer of a loaded classifier.
        progress: where to report to; silent by default.
        keep_mask: a file that gets the mask as soon as it is found, so that an interrupted
            healing can be taken up again with ``Plan(mask=...)``. Not written for a choice that
            a mask and the bound do not make whole (controls at a given count).
        look: called with the pruned model before it is healed; changes nothing.

    Returns:
        The purified model with its manifest; call ``.save(folder)``.

    Raises:
        UserError: anything that the caller can mend.
        NothingPruned: no head could go within the bound.

    """
    clock, progress = Clock(), progress or Silent()
    if isinstance(strategy, Usual):
        strategy = USUAL_STRATEGY()
    plan.check_for(strategy)
    sources = data if isinstance(data, Sources) else Sources(data)
    reading = Reading(seed=plan.seed, adapter=plan.adapter, units=plan.units)
    fresh = plan.start == "encoder"
    material = gather(suspect, sources, reading, plan.runtime, fresh=fresh, tokenizer=tokenizer)
    for name, part in material.encoded.items():
        if part.truncated:
            progress.say(f"note: {part.truncated} {name} texts are cut at the maximum length")
    few = evidence.undecided(material, plan, sources)
    _say(progress, few)
    with clock("fine-tune"):
        original = _fine_tune_encoder(material, plan, progress)
    with clock("measure"):
        before = material.figures()
    if not few:
        few = evidence.undecided(material, plan, sources, before)
        _say(progress, few)
    with clock("probes"):
        probes = _probes(material, plan, progress)
        flips = {"before": _flips(material, probes)}
    notes = [*material.suspect.notes, *_taken_up(plan)]
    plan, told = _penalised(plan, material.suspect)
    notes += told
    view = _view(material, plan, before, progress, probes)
    notes += [*evidence.doubts(material, before, bool(few)), *_gaps(probes)]
    _say(progress, notes)
    notes += few
    pace = clock.seconds["measure"] / _measured(before)
    progress.say(_estimate(view, strategy, plan, pace))
    gone = sorted(zero_parts(view.anatomy))
    choice, pruned = _chosen(material, view, strategy, plan, clock)
    if not choice.bounded:
        notes.append("nothing bounds what this choice of heads and its healing cost of accuracy")
        progress.say(f"note: {notes[-1]}")
    if keep_mask is not None:
        _keep(keep_mask, choice, view, strategy, plan)
    zeroed = _remove(material, choice.mask, original)
    if look is not None:
        look(view, choice)
    binds = choice.bounded and plan.bounded
    healed, after, again = _heal(material, view, choice, plan, before, binds, clock)
    with clock("measure"):
        flips["after"] = _flips(material, probes)
    checks = [zeroed, *check_weights(view.anatomy, choice.mask, gone)]
    if binds:
        checks.append(_check_bound(plan, before, after))
    bound = {"min_accuracy": max(plan.bound(before["validation"]), 0.0), "binds": binds}
    manifest = evidence.manifest(material, view, plan, choice, bound)
    manifest |= {
        "strategy": _described(strategy) if plan.mask is None else _given(plan),
        "before": before,
        "pruned": pruned,
        "after": after,
        "heal": describe(plan.healing) | healed,
        "seconds": clock.report(),
        "notes": notes + again,
        "probes": _probe_record(plan, probes, flips),
        "zero_before": [view.layout.name(unit) for unit in gone],
        "checks": [asdict(check) for check in checks],
        "verified": all(check.passed for check in checks),
    }
    held = material.parts.test or material.parts.validation
    return Purified(material.suspect, choice.mask, manifest, checks, held)


def _say(progress: Progress, notes: Sequence[str]) -> None:
    for note in notes:
        progress.say(f"note: {note}")


def _fine_tune_encoder(
    material: Material, plan: Plan, progress: Progress
) -> dict[str, Tensor] | None:
    """Fine-tune the suspect encoder with its fresh head; return the weights it had before."""
    if plan.start != "encoder":
        return None
    model = material.suspect.model
    original = copied(model)
    job = Job(PAPER, plan.seed, "fine-tuning the suspect encoder on clean data")
    train(model, material.encoded["train"], job, plan.runtime, progress)
    return original


def _probes(material: Material, plan: Plan, progress: Progress) -> dict[str, Probes]:
    """Return the probes of training and validation texts; those of validation where they can be.

    Raises:
        UserError: probes are asked for, and none can be made of the training texts.

    """
    if plan.prober is None:
        return {}
    suspect, runtime = material.suspect, plan.runtime
    made = {"train": plan.prober.make(suspect, material.parts.train, runtime, progress)}
    try:
        held = plan.prober.make(suspect, material.parts.validation, runtime, progress, held=True)
    except UserError as error:
        progress.say(f"note: no probes of the validation texts: {error.what}")
        return made
    return made | {"validation": held}


def _penalised(plan: Plan, suspect: Suspect) -> tuple[Plan, list[str]]:
    """Return the plan with its healing, and a note where that had to change.

    Without the attention penalty where the model gives no attention weights.
    """
    heal = plan.healing
    if not getattr(heal, "attention", 0) or gives_attention(suspect.anatomy):
        return replace(plan, heal=heal), []
    told = "this model gives no attention weights: healed without the attention penalty"
    assert isinstance(heal, FineTune)
    return replace(plan, heal=replace(heal, attention=0.0)), [told]


def _taken_up(plan: Plan) -> list[str]:
    if plan.mask is None or plan.found is None:
        return []
    return [f"the heads were chosen by an interrupted run: {plan.found.command}"]


def _gaps(probes: dict[str, Probes]) -> list[str]:
    skipped = probes["train"].skipped if probes else {}
    return [f"no probes of the family {name}: {why}" for name, why in skipped.items()]


def _view(
    material: Material,
    plan: Plan,
    before: dict[str, Any],
    progress: Progress,
    probes: dict[str, Probes],
) -> DefenderView:
    return DefenderView(
        material.suspect.anatomy,
        material.encoded["train"],
        material.encoded["validation"],
        plan.while_pruning(before["validation"]),
        plan.seed,
        plan.runtime,
        progress,
        probes.get("train"),
        probes.get("validation"),
        plan.scores,
        material.suspect.precision,
    )


def _measured(figures: dict[str, Any]) -> int:
    return sum(int(part["examples"]) for part in figures.values())


def _estimate(
    view: DefenderView, strategy: Strategy | None, plan: Plan, seconds_an_example: float
) -> str:
    """Return a line that says about how long the rest takes, from one timed pass."""
    layout, healing = view.layout, plan.healing
    faster = 1.5 if plan.runtime.trains_in_bf16() else 1.0
    step = default_step(layout.units)
    passes = 0 if plan.mask or strategy is None else math.log2(1 + layout.units / step) + step / 4
    work = passes * len(view.validation)
    known = strategy is None or plan.mask is not None or strategy.name in FORESEEN
    search = work * seconds_an_example / faster if known else 0.0
    epochs = float(getattr(healing, "epochs", 0))
    heal = 3.5 * epochs * len(view.train) * seconds_an_example / faster
    apart = plan.prune_drop is not None or plan.drop(len(view.validation)) != plan.asked_drop
    lowest = "min accuracy" + " while pruning" * apart
    holds = _holds(plan, strategy)
    more = int(getattr(healing, "halvings", 0)) if cooler_of(healing) and holds else 0
    bound = f"{lowest} {view.min_accuracy:.4f}" if holds else "no bound on accuracy"
    of = f"({len(view.train)} training, {len(view.validation)} validation examples, {bound})"
    if not known:
        span = _span(heal, heal * (1 + more))
        return f"a search of unknown length, then about {span} of healing {of}"
    told = f"search {duration(search)}, healing {duration(heal)}"
    told += f", done 1 to {1 + more} times, cooler each time" if more else ""
    return f"about {_span(search + heal, search + heal * (1 + more))} to go: {told} {of}"


def _span(least: float, most: float) -> str:
    """Return a time, or a range where the two differ as people write them."""
    ends = dict.fromkeys((duration(least), duration(most)))
    return " to ".join(ends)


def _holds(plan: Plan, strategy: Strategy | None) -> bool:
    """Tell whether a bound on accuracy holds what is to be done."""
    searches = plan.mask is None and strategy is not None
    return plan.bounded and (not searches or bool(getattr(strategy, "bounded", True)))


def _choose(view: DefenderView, strategy: Strategy | None, plan: Plan) -> Choice:
    if plan.mask is not None:
        if not plan.mask.fits(view.layout):
            raise UserError("the head mask does not fit this model", "it is another model's")
        return Choice(plan.mask)
    if strategy is None:
        return Choice(view.layout.everything())
    return strategy.choose(view)


def _chosen(
    material: Material, view: DefenderView, strategy: Strategy | None, plan: Plan, clock: Clock
) -> tuple[Choice, dict[str, Any]]:
    """Return the choice and accuracy under its mask."""
    with clock("search"):
        choice = _choose(view, strategy, plan)
    with clock("measure"):
        pruned = material.figures(choice.mask)
    _check_choice(choice, view, pruned, plan.mask is not None, strategy is not None)
    return choice, pruned


def _check_choice(
    choice: Choice, view: DefenderView, pruned: dict[str, Any], given: bool, asked: bool
) -> None:
    mask = choice.mask
    if asked and not mask.pruned:
        raise NothingPruned(
            f"no head could be removed within min accuracy {view.min_accuracy:.4f}: "
            f"the best mask found keeps all {view.layout.units}\n  fix: raise --max-drop, or "
            "--prune-drop for healing to bring accuracy back"
        )
    if mask.empties_a_row:
        raise UserError("the mask leaves a layer without heads", "every layer keeps one")
    if choice.bounded and pruned["validation"]["right"] < view.need:
        reached = f"{pruned['validation']['accuracy']:.4f} of {view.min_accuracy:.4f}"
        if given:
            more = "raise --max-drop, or give --prune-drop for healing to bring it back"
            raise UserError(f"the given mask misses the bound ({reached})", more)
        raise RuntimeError(f"the strategy broke its contract: accuracy {reached}")


def _flips(material: Material, probes: dict[str, Probes]) -> dict[str, dict[str, float]]:
    """Return of each family how often validation probes flip into each label."""
    if "validation" not in probes:
        return {}
    found = flip_rates(material.suspect.anatomy, probes["validation"], material.runtime)
    names = material.suspect.labels.names
    return {
        family: dict(zip(names, rates.tolist(), strict=True)) for family, rates in found.items()
    }


def _probe_record(
    plan: Plan, probes: dict[str, Probes], flips: dict[str, Any]
) -> dict[str, Any] | None:
    if plan.prober is None:
        return None
    made = {name: part.to_json() for name, part in probes.items()}
    return {"prober": plan.prober.described()} | made | {"validation_flips": flips}


def _given(plan: Plan) -> dict[str, Any]:
    """Return what chose a given mask."""
    return plan.found.strategy if plan.found else {"name": "given mask", "fields": {}}


def _described(strategy: Strategy | None) -> dict[str, Any]:
    return {"name": "none", "fields": {}} if strategy is None else describe(strategy)


def _remove(material: Material, mask: HeadMask, original: dict[str, Tensor] | None) -> Check:
    """Zero the pruned heads; check that this is what the closed gates did."""
    suspect = material.suspect
    if original is not None:
        suspect.model.load_state_dict(original)
    part, runtime = material.encoded["validation"], material.runtime
    gated = logits(suspect.anatomy, part, runtime, mask)
    remove(suspect.anatomy, mask)
    gap = float((gated - logits(suspect.anatomy, part, runtime)).abs().max())
    return Check(
        "zeroed weights give the logits of closed gates",
        gap <= ZEROING_TOLERANCE,
        f"largest difference {gap:.1e}",
    )


def _keep(
    file: Path, choice: Choice, view: DefenderView, strategy: Strategy | None, plan: Plan
) -> None:
    """Write the mask with how it was found, where it and the bound make the choice whole."""
    if plan.mask is None and choice.bounded:
        file.absolute().parent.mkdir(parents=True, exist_ok=True)
        steps, scores = evidence.steps(choice, view.layout), evidence.scores(choice, view.layout)
        healing = describe(plan.healing)
        described, told = _described(strategy), command_line()
        found = Found(described, steps, scores, healing, told, plan.prune_drop)
        write_json(file, choice.mask.to_json() | found.to_json())


@dataclass
class _Healed:
    """A model healed once: the record, its accuracy, its weights where they may be wanted."""

    record: dict[str, Any]
    after: dict[str, Any]
    held: bool
    weights: dict[str, Tensor]

    @property
    def right(self) -> int:
        """How many validation examples it answers right."""
        return int(self.after["validation"]["right"])


def _heal(
    material: Material,
    view: DefenderView,
    choice: Choice,
    plan: Plan,
    before: dict[str, Any],
    binds: bool,
    clock: Clock,
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Heal; where the bound binds cooler while accuracy ends below it and the healing may be.

    Not where so few answers are missing that chance may have done it (``bound``). Where no healing
    holds the bound the best stays.

    Returns:
        The healing's record, accuracy after it, and notes of what was done again.

    """
    model, healing = material.suspect.model, plan.healing
    told: list[str] = []
    tried: list[dict[str, float]] = []
    cooler = cooler_of(healing) if binds else None
    again = cooler is not None
    first = copied(model) if again else {}
    bound = Bound.under(plan.bound(before["validation"]), before["validation"])
    best: _Healed | None = None
    while True:
        with clock("heal"):
            record = healing.heal(view, choice)
        round_weights(model, material.suspect.precision)
        with clock("measure"):
            after = material.figures()
        held = _check_bound(plan, before, after).passed
        now = _Healed(record, after, held, {})
        if again:
            tried.append({"lr": record["lr"], "accuracy": after["validation"]["accuracy"]})
        if best is None or held or now.right > best.right:
            best = now if held or not again else replace(now, weights=copied(model))
        if held or cooler is None:
            break
        if not bound.worth_healing_again(now.right):
            told.append(_by_chance(bound.need - now.right))
            view.progress.say(f"note: {told[-1]}")
            break
        told.append(_cooled(record["lr"], after["validation"]))
        view.progress.say(f"note: {told[-1]}")
        model.load_state_dict(first)
        healing, cooler = cooler, cooler_of(cooler)
    if tried and best.record is not now.record:
        model.load_state_dict(best.weights)
        rate = f"at a learning rate of {best.record['lr']:g}"
        told.append(f"no healing held the bound: the weights are of the best of them, {rate}")
        view.progress.say(f"note: {told[-1]}")
    healed = best.record | ({"tried": tried} if tried else {})
    return healed, best.after, told


def _cooled(lr: float, healed: Mapping[str, Any]) -> str:
    return (
        f"healing at a learning rate of {lr:g} took validation accuracy to "
        f"{healed['accuracy']:.4f}, below the bound: again at half of it"
    )


def _by_chance(missing: int) -> str:
    return (
        f"healing missed the bound by {answers(missing)}, which so few examples cannot tell from "
        "chance: not begun anew"
    )


def _check_bound(plan: Plan, before: dict[str, Any], after: dict[str, Any]) -> Check:
    found, bound = after["validation"], plan.bound(before["validation"])
    hint = "" if plan.prune_drop is None else "; a smaller prune drop or longer healing holds more"
    return Check(
        f"validation accuracy is at least {max(bound, 0.0):.4f}",
        found["right"] >= needed(bound, found["examples"]),
        f"it is {found['accuracy']:.4f}{hint}",
    )
