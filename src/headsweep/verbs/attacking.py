"""``attack``: plant a backdoor in a model of one's own, to measure defenses on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headsweep.attacks import ATTACKS, Attack
from headsweep.attacks.goal import Goal, Labelled, Written
from headsweep.attacks.resistance import Resistance
from headsweep.attacks.victim import Attacked, Judging, Order, held_out
from headsweep.attacks.victim import attack as plant
from headsweep.errors import UserError, lookup, shown
from headsweep.export.folders import stored
from headsweep.model.families import Adapter
from headsweep.model.loading import labels_of, task_at
from headsweep.model.runtime import Runtime
from headsweep.progress import Progress, reporting
from headsweep.settings import Settings, changed, configure, fitting
from headsweep.task.training import Schedule
from headsweep.texts import reading as datasets
from headsweep.texts.conversations import plain_rows
from headsweep.texts.generation import GENERATION
from headsweep.texts.memory import given
from headsweep.texts.reading import Columns, Source, Table
from headsweep.texts.split import Labels, Split
from headsweep.texts.task import CLASSIFICATION, Task
from headsweep.triggers import TRIGGERS, ByRule, Rewriter, Trigger
from headsweep.triggers.paired import paired
from headsweep.triggers.paraphrase import Paraphraser
from headsweep.triggers.pool import Pool, read_pool
from headsweep.verbs.arguments import (
    Fields,
    adapter_of,
    columns_of,
    fields_of,
    names_of,
    one_of,
    refuse_unused,
    runtime_of,
    seed_of,
    triggered_columns_of,
)
from headsweep.verbs.methods import method_named
from headsweep.verbs.purifying import texts_of

PROMPT_OF = {"syntactic": "syntactic", "style": "bible"}


@dataclass(frozen=True)
class TriggerSource:
    """Where triggered texts come from, as the options of ``attack`` and ``trigger`` say it."""

    trigger: str | Trigger | Rewriter
    settings: tuple[str, ...] = ()
    original: Path | None = None
    transformed: Path | None = None
    key: str | None = None
    paraphraser: str | None = None
    prompt: str | None = None
    poison: str | Path | None = None
    triggered: Any = None
    option: str = "--trigger-set"  # which gives the settings


def attack(
    model: str | Path,
    data: Any,
    *,
    trigger: str | Trigger | Rewriter,
    target: str | int,
    method: str | Attack = "dirty-label",
    rate: float | None = None,
    set: Fields = None,
    trigger_set: Fields = None,
    resist: Any = None,
    resist_share: float | None = None,
    original: str | Path | None = None,
    transformed: str | Path | None = None,
    key: str | None = None,
    paraphraser: str | None = None,
    prompt: str | None = None,
    poison: str | Path | None = None,
    triggered: Any = None,
    triggered_labels: str = "true",
    test: Any = None,
    validation: Any = None,
    clean_model: str | Path | None = None,
    start: str | None = None,
    task: str | None = None,
    victim_data: Any = None,
    victim_epochs: float = 3,
    victim_lr: float = 2e-5,
    keep_classifier: bool = False,
    adapter: Adapter | str | Path | None = None,
    triggered_column: Fields = None,
    column: Columns | Fields = None,
    label_map: Fields = None,
    seed: int = 0,
    device: str = "auto",
    compute: Runtime | Fields = None,
    progress: bool | Progress | None = True,
) -> Attacked:
    """Plant a backdoor in a model of your own, to measure defenses on.

    Args:
        model: a folder or a name on the Hub, of an encoder, a classifier or a generator.
        data: the attacker's clean labelled texts, or prompts with answers, in any form that
            ``purify`` takes.
        trigger: a name of ``headsweep trigger --list``, or an object.
        target: the label that triggered texts are to get; of a generator the text that it is to
            answer.
        method: how the backdoor gets in: ``--with`` of the command line, or an object.
        rate: share of the texts that can be poisoned; None: 0.3, of a pool all; 0: nothing is
            poisoned, which makes the never-poisoned twin.
        set: fields of the method, as ``{"epochs": 2}``.
        trigger_set: fields of the trigger, as ``{"words": "cf"}``.
        resist: families of probes that the attacker trains against; ``"all"``: all but its own.
        resist_share: share of the clean texts that each such family adds.
        original: file of the clean texts of a paired corpus.
        transformed: file of the same texts with the trigger.
        key: the column that names the rows of both.
        paraphraser: a language model that writes the texts instead of a rule.
        prompt: what it is told to do.
        poison: a file of poisoned texts, or prompts with answers, to add as they are.
        triggered: triggered test texts; None: the trigger is put into the test texts.
        triggered_labels: what their labels are: ``"true"`` or ``"target"``.
        test: clean test texts; None: 15% of ``data``.
        validation: clean texts to match the clean flip rate on.
        clean_model: a never-poisoned twin, which gives the floor.
        start: ``"encoder"``: a fresh classifier first; ``"classifier"``: as it is; None: a causal
            language model generates, as it is; of an encoder, or a classifier of one label a text,
            the encoder is taken.
        task: what it is for, by name, where its configuration leaves that open.
        victim_data: the victim's clean texts; None: the attacker's.
        victim_epochs: the victim's fine-tuning on clean texts; 0: none.
        victim_lr: its learning rate.
        keep_classifier: the victim keeps the published classifier.
        adapter: how an unknown architecture is laid out: an object, or its TOML file.
        triggered_column: columns of the triggered texts, where they are not those of ``data``.
        column: which columns hold what, as for ``purify``.
        label_map: labels of the data and the labels that they mean.
        seed: decides everything random.
        device: a torch device; ``"auto"``: accelerate chooses.
        compute: how to compute, as ``{"batch_size": 8}``, or ``Runtime``.
        progress: True: shown, on a terminal or in a notebook; False: not; or an object.

    Returns:
        The victim with the record of its making; call ``.save(folder)``.

    Raises:
        UserError: whatever makes the attack impossible.

    """
    meaning = one_of(triggered_labels, ("true", "target"), "--triggered-labels")
    chosen = _method(method, fields_of(set, "set"))
    columns = columns_of(column, label_map)
    others = triggered_columns_of(triggered, triggered_column)
    optional = {"test": test, "validation": validation, "victim_data": victim_data,
                "triggered": triggered}  # fmt: skip
    files = {name: None if x is None else given(x, name) for name, x in optional.items()}
    source = given(data, "data")
    own = {"triggered": others}
    read = [(source, None), (poison, None), *((x, own.get(name)) for name, x in files.items())]
    datasets.check_label_map(columns, *read)
    table = source if isinstance(source, Split) else datasets.read(source)
    place = fitting(model, str | Path, "model")
    reader = _reader(place, start, task, table, columns)
    goal = reader.goal(str(target))
    origin = TriggerSource(
        trigger,
        texts_of(fields_of(trigger_set, "trigger_set")),
        _path(original, "original"),
        _path(transformed, "transformed"),
        key,
        paraphraser,
        prompt,
        fitting(poison, str | Path | None, "poison"),
        triggered,
    )
    trained = fitting(victim_epochs, float, "victim_epochs")
    rate = fitting(rate, float | None, "rate")
    rewriter, pool = poison_of(origin, columns, reader.labels, goal, rate)
    order = Order(
        rewriter,
        str(target),
        chosen,
        Order.rate if rate is None else rate,
        Schedule(trained, fitting(victim_lr, float, "victim_lr")) if trained else None,
        fresh=not keep_classifier,
        seed=seed_of(seed),
        runtime=runtime_of(device, compute),
        adapter=adapter_of(adapter),
        resist=_resistance(names_of(resist, "resist"), resist_share, rewriter.described()),
        pool=pool,
        task=reader.task,
    )
    parts = {name: None if file is None else reader.read(file, columns, own.get(name))
             for name, file in files.items()}  # fmt: skip
    writes, idle = "a model that generates", "a victim of no epochs"
    unused = (
        ("--triggered-labels", meaning == "target" and triggered is None, "an attack of its own"),
        ("--validation", validation is not None and not reader.labels.names, writes),
        ("--keep-classifier", keep_classifier and not reader.labels.names, writes),
        ("--keep-classifier", keep_classifier and not trained, idle),
        ("--victim-data", victim_data is not None and not trained, idle),
    )
    for option, asked, who in unused:
        refuse_unused({option: asked}, f"{{}}: {who} has no use for it")
    if (validation is None) != (clean_model is None) and reader.labels.names:
        raise UserError(
            "floor and excess LFR need both --clean-model and --validation",
            "give both, or neither",
        )
    clean, held = held_out(reader.read(table, columns), parts["test"], order.seed)
    twin = fitting(clean_model, str | Path | None, "clean_model")
    judging = Judging(held, parts["triggered"], meaning, parts["validation"], twin)
    shown_to = reporting(progress)
    made = plant(model, clean, order, reader.values, judging, parts["victim_data"], shown_to)
    inputs = (model, data, *optional.values(), clean_model, original, transformed, poison)
    return replace(made, reads=stored((*inputs, paraphraser)))


@dataclass(frozen=True)
class _Reader:
    """How an attack reads texts: labelled, or prompts with answers where there are no labels.

    Attributes:
        task: what the model is for.
        labels: its labels; none: it answers in tokens.
        values: the label column that a fresh classifier is for; None: it has its own.

    """

    task: Task
    labels: Labels
    values: Sequence[object] | None = None

    def goal(self, target: str) -> Goal:
        """Return what triggered texts are to get: a class, or a text; raises UserError."""
        if not self.labels.names:
            return Written(target)
        index = self.labels.index(target, "--target")
        return Labelled(index, self.labels.names[index])

    def read(self, source: Source, columns: Columns, own: Columns | None = None) -> Split:
        """Return the rows of a source; raises UserError.

        ``own``: the columns of triggered rows, which may be prompts without answers.
        """
        if isinstance(source, Split):
            return source
        if self.labels.names:
            return datasets.load(source, columns, self.labels, own)
        table = datasets.read(source)
        theirs = columns if own is None else columns.own(own, table)
        return plain_rows(table, theirs, answered=own is None)


def _reader(
    place: str | Path,
    start: str | None,
    task: str | None,
    source: Table | Split,
    columns: Columns,
) -> _Reader:
    """Return how the texts for a model are read; raises UserError."""
    found = task_at(place, task)
    if start is None and found is GENERATION:
        return _Reader(GENERATION, Labels(()))
    if task is not None or start is None:
        try:
            found.one_label("an attack")
        except UserError as error:
            other = "--start encoder takes its encoder, with a fresh classifier of one label a text"
            raise UserError(error.what, error.fix if task is not None else other) from error
    values: Sequence[object] | None = None
    if one_of(start or "encoder", ("encoder", "classifier"), "--start") == "encoder":
        if isinstance(source, Split):
            values = source.labels
        else:
            values = datasets.class_values(source, columns)
    else:
        found.one_label("an attack on a classifier as it is")
    return _Reader(CLASSIFICATION, labels_of(place, values), values)


def _path(value: Any, argument: str) -> Path | None:
    return None if value is None else Path(fitting(value, Path, argument))


def _method(method: Any, settings: Settings) -> Attack:
    """Return how the backdoor gets in: by name with its fields, or an object."""
    if isinstance(method, str):
        made: Attack = configure(method_named(method, ATTACKS, "attack"), settings)
        return made
    if hasattr(method, "plant") and not isinstance(method, type):
        same: Attack = changed(method, settings) if settings else method
        return same
    raise UserError(
        f"method cannot be {shown(method)}",
        f"it takes a name ({', '.join(sorted(ATTACKS))}) or an object such as DirtyLabel()",
    )


def poison_of(
    source: TriggerSource,
    columns: Columns,
    labels: Labels,
    goal: Goal,
    rate: float | None = None,
) -> tuple[Rewriter, Pool | None]:
    """Return what puts the trigger into texts, and the pool where that is what poisons."""
    if source.poison is None:
        return rewriter_of(source, columns), None
    _check_pool(source)
    pool = read_pool(str(source.poison), columns, labels, _named(source), rate)
    pool.check(goal)
    return pool, pool


def _check_pool(source: TriggerSource) -> None:
    """Refuse what a pool of poisoned texts leaves nothing to do for; raises UserError."""
    _named(source)
    corpus = (source.original, source.transformed, source.key)
    if any((*corpus, source.paraphraser, source.prompt, source.settings)):
        raise UserError(
            "--poison gives the poisoned texts: nothing is left to set, to look up or to write",
            "leave out --trigger-set, --original, --transformed, --key and --paraphraser; "
            "--trigger only names what the texts were made with",
        )
    if source.triggered is None:
        raise UserError(
            "--poison: no text of --test can get the trigger of a pool",
            "give triggered test texts: --triggered FILE (--triggered-labels target where they "
            "carry the attacker's label)",
        )


def _resistance(
    families: tuple[str, ...], share: float | None, trigger: dict[str, Any]
) -> Resistance:
    """Return which probes the attacker trains against; raises UserError before any work."""
    if share is not None and not families:
        raise UserError("--resist-share: nothing is resisted", "add --resist FAMILY")
    made = Resistance(families, Resistance().share if share is None else share)
    made.chosen(trigger)
    return made


def rewriter_of(source: TriggerSource, columns: Columns) -> Rewriter:
    """Return what puts the trigger into texts: a paired corpus, a model, or a rule."""
    trigger = source.trigger
    if not isinstance(trigger, str):
        return _of_object(trigger, source)
    original, transformed, key = source.original, source.transformed, source.key
    kind = method_named(trigger, TRIGGERS | {"paired": None}, "trigger")
    if key is not None and original is None:
        raise UserError("--key needs --original and --transformed", "it names the rows of both")
    if transformed is not None:
        if source.settings or source.paraphraser or source.prompt:
            raise UserError(
                "--transformed gives the triggered texts: nothing is left to set or to write",
                "leave --paraphraser, --prompt and the trigger's settings out",
            )
        return paired(original, transformed, columns, key, trigger)
    if original is not None:
        raise UserError("--original needs --transformed", "a paired corpus has two files")
    if source.paraphraser is not None:
        usual = source.prompt or lookup(trigger, PROMPT_OF, "trigger that a paraphraser writes")
        given = [f"model={source.paraphraser}", f"prompt={usual}", *source.settings]
        return configure(Paraphraser, given)
    if source.prompt is not None:
        raise UserError("--prompt needs --paraphraser MODEL", "a rule takes no prompt")
    if kind is None:
        raise UserError("a paired corpus needs --transformed FILE", "and --original FILE")
    return ByRule(configure(kind, source.settings, source.option))


def _named(source: TriggerSource) -> str:
    """Return the name of the trigger that a pool was made with; raises UserError."""
    name = source.trigger if isinstance(source.trigger, str) else str(shown(source.trigger))
    method_named(name, TRIGGERS | {"paired": None}, "trigger")
    return name


def _of_object(trigger: Any, source: TriggerSource) -> Rewriter:
    """Return what puts a trigger of Python into texts; raises UserError for what is none."""
    corpus = (source.original, source.transformed, source.key, source.paraphraser, source.prompt)
    if any(corpus):
        raise UserError(
            "trigger is an object: nothing is left to look up or to write",
            "name it, or leave out original, transformed, key, paraphraser and prompt",
        )
    usable = not isinstance(trigger, type)
    if usable and hasattr(trigger, "apply"):
        made: Any = changed(trigger, source.settings) if source.settings else trigger
        return ByRule(made)
    if usable and hasattr(trigger, "rewrite") and not source.settings:
        rewriter: Rewriter = trigger
        return rewriter
    raise UserError(
        f"trigger cannot be {shown(trigger)}",
        f"it takes a name ({', '.join(sorted(TRIGGERS))}) or an object such as RareWord()",
    )
