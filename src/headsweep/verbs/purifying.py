"""``purify``: what is asked, by names and fields or as objects, becomes a method and is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from headsweep.cost import reset_peak
from headsweep.errors import UserError, shown
from headsweep.heal.fine_tune import Healing
from headsweep.judge.around import Around
from headsweep.model.families import Adapter
from headsweep.model.loading import Suspect, task_at
from headsweep.model.mask import HEADS, HeadMask, Units, units_of
from headsweep.model.runtime import Runtime
from headsweep.progress import Progress, reporting
from headsweep.prune.strategies import STRATEGIES, Strategy
from headsweep.prune.strategies.gradient import Gradient
from headsweep.purification.bound import Bound
from headsweep.purification.from_encoder import STARTS
from headsweep.purification.interrupted import Given, mask_in
from headsweep.purification.material import Sources
from headsweep.purification.method import Method, usual
from headsweep.purification.pipeline import Look
from headsweep.purification.plan import Plan
from headsweep.purification.recipe import Asked, read_recipe
from headsweep.settings import able, as_text, changed, configure, fitting, offered, read
from headsweep.texts.reading import Columns
from headsweep.texts.task import CLASSIFICATION, Task
from headsweep.triggers.probe_families import RuleProber
from headsweep.verbs.arguments import (
    Fields,
    columns_of,
    fields_of,
    in_memory,
    names_of,
    one_of,
    plan_of,
    seed_of,
)
from headsweep.verbs.methods import method_named
from headsweep.verbs.purified import Purified

STRATEGY = (
    "choose",
    "strategy",
    f"a name ({', '.join(sorted(STRATEGIES))}) or an object such as Gradient()",
)


@dataclass(frozen=True)
class Objects:
    """What Python gives as objects in the place of names and fields; None: nothing.

    Attributes:
        strategy: how heads are chosen.
        healing: how the pruned model is fine-tuned.
        units: what may be pruned.
        mask: a head mask to apply, with how it was found.

    """

    strategy: Strategy | None = None
    healing: Healing | None = None
    units: Units | None = None
    mask: Given | None = None


@dataclass(frozen=True)
class Planned:
    """A purification that is ready to run.

    Attributes:
        method: all that is done.
        plan: how it is run, with what makes probes where they are needed.
        run: what runs it, called with suspect, data, ``method`` and ``plan``.

    """

    method: Method
    plan: Plan
    run: Callable[..., Any]


def planned(asked: Asked, plan: Plan, objects: Objects = Objects()) -> Planned:
    """Return what is asked as a method and how to run it; raises UserError.

    Args:
        asked: names and fields, from options or a recipe.
        plan: seed, where to compute, and what the suspect is for, which decides what is usual.
        objects: what stands in the place of some of them.

    """
    start = one_of(asked.start, tuple(STARTS), "--start")
    task = plan.task or CLASSIFICATION
    chosen = objects.strategy
    if chosen is None:
        unasked = usual(task.words.task).strategy
        if asked.method is None and objects.mask is None and not unasked.needs.pruning:
            _check_says_nothing_of_pruning(asked, objects, task)
        kind = method_named(asked.method or unasked.name, STRATEGIES, "strategy")
        chosen = configure(kind, asked.fields)
    elif asked.fields:
        chosen = changed(chosen, asked.fields)
    method = _method(asked, chosen, objects, task)
    prober = _prober(asked.probes, plan, method.needs_probes)
    return Planned(method, replace(plan, prober=prober), STARTS[start])


def _check_says_nothing_of_pruning(asked: Asked, objects: Objects, task: Task) -> None:
    """Raise UserError where something is said of it, and nothing is pruned unasked."""
    told = [f"--set {field}" for field in asked.fields]
    told += [] if asked.prune_drop is None else [f"prune_drop={asked.prune_drop:g}"]
    kinds = objects.units or units_of(asked.units or "heads")
    told += [] if kinds == HEADS else ["--units"]
    if told:
        raise UserError(
            f"{', '.join(told)}: heads of a model for {task.words.task} are pruned only by a "
            "strategy that is named",
            f"add --strategy {Gradient.name}",
        )


def check_beside_mask(strategy: Any, fields: Any, units: Any) -> None:
    """Raise UserError where it is said beside a mask how heads are to be chosen, or which."""
    given = {"--strategy": strategy, "--set": fields, "--units": units}
    told = ", ".join(option for option, value in given.items() if value)
    if told:
        raise UserError(
            f"--mask says which units go already: nothing is left to say with {told}",
            f"leave out --mask, or {told}",
        )


def _method(asked: Asked, strategy: Strategy, objects: Objects, task: Task) -> Method:
    """Return all that is done to the suspect; raises UserError where its parts do not fit."""
    start, given = asked.start or "classifier", objects.mask
    pruning: Strategy = strategy if given is None else given
    healing = objects.healing
    if healing is None:
        prunes = pruning.needs.pruning
        healing = asked.healing(usual(task.words.task, start).healing(prunes), prunes)
    if start == "encoder" and not healing.trains:
        raise UserError(
            "--start encoder ends with a fresh classifier, which must be trained",
            "leave epochs=0 out",
        )
    deeper = asked.prune_drop
    if deeper is None and given is not None and given.found is not None and healing.trains:
        deeper = given.found.prune_drop  # what the interrupted run was allowed
    bound = Bound(asked.max_drop, asked.min_accuracy, deeper)
    units = objects.units or units_of(asked.units or "heads")
    return Method(pruning, healing, units, bound)


def planned_for(
    suspect: str | Path | PreTrainedModel | Suspect,
    asked: Asked,
    plan: Plan,
    objects: Objects = Objects(),
    wanted: str | None = None,
) -> Planned:
    """Return what is asked of a suspect, whose task decides the usual strategy and healing.

    Args:
        suspect: a folder, a name on the Hub, or a model in memory.
        asked: as for ``planned``; mistakes in it are said before anything is opened.
        plan: as for ``planned``.
        objects: as for ``planned``.
        wanted: the name of the task that the suspect is to be taken for; None: as it says.

    Raises:
        UserError: what is asked does not fit, or the suspect is no model for such a task.

    """
    found = planned(asked, plan, objects)
    if plan.task is None:
        task = _task(suspect, asked.start, wanted, plan.base_model)
        found = planned(asked, replace(plan, task=task), objects)
    return found


def _task(suspect: Any, start: str | None, wanted: str | None, base_model: str | None) -> Task:
    """Return what a suspect is taken for; raises UserError where it cannot be."""
    if start != "encoder":
        return task_at(suspect, wanted, base_model)
    if wanted not in (None, CLASSIFICATION.words.task):
        raise UserError(
            f"--task {wanted}: --start encoder puts a fresh classifier on, of one label a text",
            "leave out one of the two",
        )
    return CLASSIFICATION


def _prober(families: tuple[str, ...], plan: Plan, needed: bool) -> Any:
    """Return what makes probes, where they are needed; raises UserError."""
    if needed:
        return plan.prober or RuleProber(families, seed=plan.seed)
    if families:
        raise UserError(
            "probes: nothing asked for uses probes",
            "add --heal on=probes, or --strategy probe-guided",
        )
    return plan.prober


def purify(
    suspect: str | Path | PreTrainedModel | Suspect | Purified,
    data: Any,
    method: Method | None = None,
    plan: Plan | None = None,
    *,
    strategy: str | Strategy | None = None,
    set: Fields = None,
    heal: Fields | Healing = None,
    max_drop: float | None = None,
    min_accuracy: float | None = None,
    prune_drop: float | None = None,
    units: str | Units | None = None,
    start: str | None = None,
    task: str | None = None,
    mask: HeadMask | str | Path | None = None,
    probes: Any = None,
    recipe: str | Path | None = None,
    validation: Any = None,
    test: Any = None,
    column: Columns | Fields = None,
    label_map: Fields = None,
    probe: bool | None = None,
    seed: int | None = None,
    device: str | None = None,
    compute: Runtime | Fields = None,
    base_model: str | Path | None = None,
    adapter: Adapter | str | Path | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: bool | Progress | None = True,
    keep: str | Path | None = None,
    look: Look | None = None,
) -> Purified:
    """Prune the heads of a suspect classifier or generator on clean data, and heal it.

    Arguments are named as the options of ``headsweep purify`` are. Where an option takes a name
    and fields, an object does as well.

    Args:
        suspect: a folder, a name on the Hub, a purified model, or a loaded classifier (changed in
            place; give its tokenizer).
        data: clean labelled texts: a file, a folder or ``name:split``; a Split, ``(texts,
            labels)``, ``(texts, pairs, labels)``, a list of dicts, a pandas DataFrame or a
            ``datasets.Dataset``; or ``Sources``. For a generator rows of prompt and answer
            (docs/generators.md).
        method: all that is done, as one object; then none of the arguments up to ``recipe`` but
            ``start`` and ``task``.
        plan: how it is run, as one object; then no seed, device, compute, adapter, base_model and
            task.
        strategy: how heads are chosen: a name of ``headsweep strategies``, or an object;
            None: ``gradient``; of a generator ``none``, which only heals.
        set: fields of the strategy, as ``{"step": 6}``.
        heal: fields of the usual healing of such a suspect, as ``{"epochs": 2}`` (0: none), or an
            object.
        max_drop: how far validation accuracy may fall, a fraction; None: 0.02.
        min_accuracy: the lowest validation accuracy instead, a fraction.
        prune_drop: how far it may fall while heads are chosen, for healing to bring it back.
        units: what may be pruned: ``"heads"`` (query heads that share a key/value head go with it,
            as one), ``"queries"`` (each by itself), ``"ffn"``, ``"heads,ffn:12"``, or ``Units``.
        start: ``"classifier"``: as it is; ``"encoder"``: a fresh classifier first.
        task: what the suspect is for, by name, where its configuration leaves that open.
        mask: a head mask to apply instead of a search: an object, or its JSON file.
        probes: families of probes; None: all.
        recipe: a TOML file with these; what is given here wins.
        validation: data that decides; None: 15% of ``data``.
        test: data for the last figure; None: 15% of ``data``, unless ``validation`` is given.
        column: which columns hold what, as ``{"text": "review"}``, or ``Columns``.
        label_map: labels of the data and the model's labels that they mean.
        probe: run the probes before and after, on a few clean texts; what they found stands in
            ``manifest["probe"]``. They change nothing else. None: of a generator not, which would
            have to write many answers.
        seed: decides everything random; None: 0.
        device: a torch device; None: accelerate chooses.
        compute: how to compute, as ``{"batch_size": 8}``, or ``Runtime``.
        base_model: the model that the suspect is an adapter of, where it is one: a folder, or a
            name on the Hub. The two are purified as one model, and saved as one.
        adapter: how an unknown architecture is laid out: an object, or its TOML file.
        tokenizer: the tokenizer of a loaded classifier.
        progress: True: shown, on a terminal or in a notebook; False: not; or an object.
        keep: a folder for what is finished: the same call goes on after it. Remove it when the
            result is written.
        look: called with the pruned model before it is healed.

    Returns:
        The purified model with its evidence; call ``.save(folder)``.

    Raises:
        UserError: anything that the caller can mend.
        NothingPruned: no head could go within the bound.

    """
    reset_peak()
    named = {
        "method": strategy,
        "fields": set,
        "heal": heal,
        "max_drop": max_drop,
        "min_accuracy": min_accuracy,
        "prune_drop": prune_drop,
        "units": units,
        "mask": mask,
        "probes": probes,
        "recipe": recipe,
    }
    named = {name: value for name, value in named.items() if value is not None}
    where = {"seed": seed, "device": device, "compute": compute, "adapter": adapter}
    where |= {"task": fitting(task, str | None, "task"), "base_model": base_model}
    one = in_memory(suspect, "suspect")
    sources = _sources(data, validation, test, column, label_map)
    run = _run(method, named, plan, where, start, one)
    more: dict[str, Any] = {"tokenizer": tokenizer, "keep": fitting(keep, Path | None, "keep")}
    more |= {} if look is None else {"look": look}
    told, around = reporting(progress), None
    if fitting(probe, bool | None, "probe") is not False:
        around = Around(run.plan.seed, run.plan.runtime, told, asked=bool(probe))
    done = run.run(
        one,
        sources,
        method=run.method,
        plan=run.plan,
        progress=told,
        observe=around,
        **more,
    )
    if around is not None:
        done.manifest["probe"] = around.to_json()
    return Purified(**vars(done))


def _run(
    method: Method | None,
    named: dict[str, Any],
    plan: Plan | None,
    where: dict[str, Any],
    start: str | None,
    suspect: str | Path | PreTrainedModel | Suspect,
) -> Planned:
    """Return what to run; raises UserError where an object leaves nothing to say."""
    if not isinstance(plan, Plan | None):
        raise UserError(f"plan cannot be {shown(plan)}", "it takes a Plan")
    beside = [name for name, value in where.items() if value is not None]
    if plan is not None and beside:
        raise UserError(
            f"plan says how to run it already: nothing is left to say with {', '.join(beside)}",
            f"leave out plan, or {', '.join(beside)}",
        )
    asked, objects = Asked(), Objects()
    if method is None:
        asked, objects = _asked(named, where["seed"], start)
    if plan is not None and asked.seed is not None:
        raise UserError(
            f"plan says which seed, {plan.seed}, and the recipe says {asked.seed}",
            "leave out plan, or take the seed out of the recipe",
        )
    if plan is None:
        device = "auto" if where["device"] is None else where["device"]
        seed = where["seed"] if asked.seed is None else asked.seed
        plan = plan_of(seed or 0, device, where["compute"], where["adapter"], where["base_model"])
    asked = replace(asked, seed=asked.seed or 0)
    if method is None:
        return planned_for(suspect, asked, plan, objects, where["task"])
    if not isinstance(method, Method):
        raise UserError(
            f"method cannot be {shown(method)}", "it takes a Method; a name goes to strategy="
        )
    if named:
        words = {"method": "strategy", "fields": "set"}
        told = ", ".join(words.get(name, name) for name in named)
        raise UserError(
            f"method says what is done already: nothing is left to say with {told}",
            f"leave out method, or {told}",
        )
    begin = one_of(start or "classifier", tuple(STARTS), "--start")
    if where["task"] is not None:
        plan = replace(plan, task=_task(suspect, begin, where["task"], plan.base_model))
    return Planned(
        method, replace(plan, prober=_prober((), plan, method.needs_probes)), STARTS[begin]
    )


def _asked(named: dict[str, Any], seed: Any, start: str | None) -> tuple[Asked, Objects]:
    """Return what is asked, a recipe's share included, and what was given as objects."""
    if {"max_drop", "min_accuracy"} <= {*named}:
        raise UserError("max_drop and min_accuracy: there is one bound", "leave one out")
    strategy, heal, kinds = named.get("method"), named.get("heal"), named.get("units")
    if "mask" in named:
        check_beside_mask(strategy, named.get("fields"), kinds)
    objects = Objects(
        None if strategy is None or isinstance(strategy, str) else able(strategy, *STRATEGY),
        heal if hasattr(heal, "heal") and not isinstance(heal, type) else None,
        kinds if isinstance(kinds, Units) else None,
        _mask(named.get("mask")),
    )
    begin, own_fields = start or "classifier", fields_of(named.get("fields"), "set")
    own = Asked(
        strategy if objects.strategy is None else objects.strategy.name,
        texts_of(own_fields),
        _fraction(named.get("max_drop"), "max_drop"),
        _fraction(named.get("min_accuracy"), "min_accuracy"),
        None if seed is None else seed_of(seed),
        start,
        None if objects.units is not None else kinds,
        () if objects.healing is not None else _healing(heal, begin),
        _fraction(named.get("prune_drop"), "prune_drop"),
        names_of(named.get("probes"), "probes"),
    )
    if "recipe" in named:
        given = {*named} | {name for name in ("seed", "start") if getattr(own, name) is not None}
        path = Path(fitting(named["recipe"], Path, "recipe"))
        taken = own.over(read_recipe(path, "strategy"), given)
        own = replace(taken, fields=own.fields) if objects.strategy is not None else taken
    kind = objects.strategy or STRATEGIES.get(own.method or Gradient.name)
    if kind is not None:  # a value of Python is named as it was given
        read(kind if isinstance(kind, type) else type(kind), own_fields, option="--set")
    return replace(own, start=own.start or "classifier"), objects


def _mask(given: Any) -> Given | None:
    if given is None:
        return None
    if isinstance(given, HeadMask):
        return Given(given)
    return Given(*mask_in(Path(fitting(given, Path, "mask"))))


def _healing(given: Any, start: str) -> tuple[str, ...]:
    """Return fields of the usual healing, each as ``field=value``; raises UserError."""
    kind = type(usual(start=one_of(start, tuple(STARTS), "--start")).pruned)
    settings = fields_of(given, "heal")
    read(kind, settings, offered(kind), "--heal")  # a value of Python is named as it was given
    return texts_of(settings)


def texts_of(settings: Any) -> tuple[str, ...]:
    """Return values by field, each as ``field=value``."""
    if not hasattr(settings, "items"):
        return tuple(settings)
    return tuple(f"{name}={as_text(value)}" for name, value in settings.items())


def _fraction(value: Any, argument: str) -> float | None:
    found: float | None = fitting(value, float | None, argument)
    return found


def _sources(data: Any, validation: Any, test: Any, column: Any, label_map: Fields) -> Sources:
    beside = {"validation": validation, "test": test, "column": column, "label_map": label_map}
    if not isinstance(data, Sources):
        return Sources(data, validation, test, columns_of(column, label_map))
    told = ", ".join(name for name, value in beside.items() if value is not None)
    if told:
        raise UserError(f"data is Sources, which say {told} already", f"leave out {told}")
    return data
