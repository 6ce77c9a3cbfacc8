"""``reactivate``: try to bring a removed backdoor back, beside a never-poisoned twin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headsweep.attacks.goal import Labelled
from headsweep.attacks.reactivation import Reactivation
from headsweep.attacks.reactivation import reactivate as run
from headsweep.attacks.scene import Scene
from headsweep.attacks.victim import Judging, exam_of, held_out
from headsweep.export.provenance import command_line, environment
from headsweep.model.loading import load_suspect, task_at
from headsweep.model.runtime import Runtime
from headsweep.progress import Progress, reporting
from headsweep.task.examples import check_alike
from headsweep.task.training import Schedule
from headsweep.texts import reading as datasets
from headsweep.texts.reading import Columns
from headsweep.verbs.arguments import (
    Fields,
    columns_of,
    fields_of,
    one_of,
    refuse_unused,
    runtime_of,
    triggered_columns_of,
)
from headsweep.verbs.attacking import TriggerSource, poison_of
from headsweep.verbs.purifying import texts_of

FORMAT = "headsweep.reactivation/1"


def reactivate(
    model: str,
    clean_model: str,
    data: str,
    *,
    trigger: str,
    target: str,
    rows: Sequence[int] | None = None,
    beside: int = Reactivation.beside,
    epochs: float = Reactivation.schedule.epochs,
    lr: float = Reactivation.schedule.lr,
    draws: int = len(Reactivation.seeds),
    trigger_set: Fields = None,
    original: Path | None = None,
    transformed: Path | None = None,
    key: str | None = None,
    poison: str | None = None,
    triggered: str | None = None,
    triggered_labels: str = "true",
    test: str | None = None,
    validation: str | None = None,
    triggered_column: Fields = None,
    column: Columns | Fields = None,
    label_map: Fields = None,
    seed: int = 0,
    device: str = "auto",
    compute: Runtime | Fields = None,
    progress: bool | Progress | None = True,
) -> dict[str, Any]:
    """Train a purified model and its twin on a few poisoned texts; return every try.

    Args:
        model: the purified model, a folder or a name on the Hub.
        clean_model: the never-poisoned twin.
        data: file of the attacker's clean labelled texts.
        trigger: a name of ``headsweep trigger --list``.
        target: the label that triggered texts are to get.
        rows: numbers of poisoned texts, each tried by itself; None: 5, 20 and 100.
        beside: clean texts to train on beside them.
        epochs: passes over both.
        lr: the peak learning rate.
        draws: tries with other texts, from seeds that follow ``seed``.
        trigger_set: fields of the trigger.
        original: file of the clean texts of a paired corpus.
        transformed: file of the same texts with the trigger.
        key: the column that names the rows of both.
        poison: file of poisoned texts to take as they are.
        triggered: file of triggered test texts.
        triggered_labels: what their labels are: ``"true"`` or ``"target"``.
        test: clean test texts; None: 15% of ``data``.
        validation: clean texts to match the clean flip rate on.
        triggered_column: columns of the triggered texts, where they are not those of ``data``.
        column: which columns hold what.
        label_map: labels of the data and the labels that they mean.
        seed: of the first draw.
        device: a torch device; ``"auto"``: accelerate chooses.
        compute: how to compute, as ``{"batch_size": 8}``, or ``Runtime``.
        progress: True: shown; False: not; or an object.

    Returns:
        JSON values: what was asked, and of each try its rates.

    Raises:
        UserError: a model, a text or a number does not fit.

    """
    meaning = one_of(triggered_labels, ("true", "target"), "--triggered-labels")
    asked = {"--triggered-labels": meaning == "target" and triggered is None}
    refuse_unused(asked, "{}: it puts the trigger into texts with true labels itself")
    seeds = tuple(range(seed, seed + draws))
    how = Reactivation(tuple(rows or Reactivation.rows), beside, Schedule(epochs, lr), seeds)
    columns = columns_of(column, label_map)
    others = triggered_columns_of(triggered, triggered_column)
    files = (data, test, validation, poison, triggered)
    own = (None, None, None, None, others)
    datasets.check_label_map(columns, *zip(files, own, strict=True))
    runtime, shown_to = runtime_of(device, compute), reporting(progress)
    for one in (model, clean_model):
        task_at(one).one_label("a reactivation")
    purified, twin = (load_suspect(one, runtime) for one in (model, clean_model))
    labels = purified.labels
    goal = labels.index(target, "--target")
    wanted = Labelled(goal, labels.names[goal])
    fields = texts_of(fields_of(trigger_set, "trigger_set"))
    source = TriggerSource(
        trigger, fields, original, transformed, key, poison=poison, triggered=triggered
    )
    rewriter, pool = poison_of(source, columns, labels, wanted)
    read = [datasets.load(file, columns, labels, names) if file else None
            for file, names in zip(files, own, strict=True)]  # fmt: skip
    assert read[0] is not None
    clean, held = held_out(read[0], read[1], seed)
    for option, part in (("--test", held), ("--validation", read[2])):
        check_alike(clean, part, option)
    judging = Judging(held, read[4], meaning, read[2])
    exam, _ = exam_of(judging, rewriter, wanted, purified, (seed, runtime.max_length), shown_to)
    free = sum(label != goal for label in clean.labels)
    rate = min(1.0, max(how.rows) / max(1, free))
    scenes = [
        Scene(purified, clean, rewriter, wanted, rate, one, runtime, pool=pool) for one in seeds
    ]
    found = run(purified, twin, scenes, exam, how, shown_to)
    return {
        "format": FORMAT,
        "models": {"purified": model, "twin": clean_model},
        "trigger": rewriter.described(),
        "target": labels.names[goal],
        "rows": list(how.rows),
        "beside": beside,
        "epochs": epochs,
        "lr": lr,
        "seeds": list(seeds),
        "precision": "bf16" if runtime.trains_in_bf16() else "fp32",
        "tries": [one.to_json() for one in found],
        "environment": environment(),
        "command": command_line(),
    }
