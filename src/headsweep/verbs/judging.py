"""``evaluate`` and ``probe``: how good a model is, and whether something shows in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from headsweep.errors import UserError
from headsweep.judge.evaluate import Files
from headsweep.judge.evaluate import evaluate as run_exam
from headsweep.judge.flipped import Battery, Probed
from headsweep.judge.probing import prober_of
from headsweep.judge.statistics import Judged
from headsweep.model.families import Adapter
from headsweep.model.loading import Suspect
from headsweep.model.runtime import Runtime
from headsweep.progress import Progress, reporting
from headsweep.purification.purified import Purified
from headsweep.texts import reading as datasets
from headsweep.texts.memory import given
from headsweep.texts.reading import Columns
from headsweep.verbs.arguments import (
    Fields,
    adapter_of,
    base_of,
    columns_of,
    in_memory,
    measurable,
    names_of,
    one_of,
    opened,
    refuse_unused,
    runtime_of,
    seed_of,
    triggered_columns_of,
)

Model = str | Path | PreTrainedModel | Suspect | Purified
"""A folder, a name on the Hub, or a model in memory."""


def evaluate(
    model: Model,
    data: Any,
    *,
    triggered: Any = None,
    target: str | float | None = None,
    triggered_labels: str = "true",
    validation: Any = None,
    clean_model: Model | None = None,
    suspect: Model | None = None,
    task: str | None = None,
    base_model: str | Path | None = None,
    adapter: Adapter | str | Path | None = None,
    column: Columns | Fields = None,
    label_map: Fields = None,
    triggered_column: Fields = None,
    seed: int = 0,
    device: str = "auto",
    compute: Runtime | Fields = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: bool | Progress | None = True,
) -> Judged:
    """Measure ACC, label flip rate and its relatives, with 95% intervals; all are fractions.

    Of a model for another task, as that measures it: of a generator perplexity, exact answers, and
    how many answers hold the target text (docs/generators.md); of a model that gives a number
    Spearman's correlation and the mean error, and how many outputs move to the target number;
    of one of several labels a text micro-F1, and how many texts get or lose the target;
    of one that tags words span F1, and how many spans become the target (docs/kinds.md).

    Returns:
        A dataclass of its kind: ``Evaluation``, ``Generated``, ``Regressed``, ``SeveralJudged``,
        ``Tagged``.

    Args:
        model: the model to judge: a folder, a name on the Hub, a purified model, or a loaded
            classifier.
        data: clean labelled test texts, in any form that ``purify`` takes.
        triggered: triggered test texts.
        target: the attacker's label, its name or number; of a generator the text in its answer,
            several with ``|`` between; of a model that gives a number, a number;
            of one of several labels a text, ``not:`` before a label that the trigger takes away;
            of one that tags words a type of span, or ``O``.
        triggered_labels: ``"true"``: triggered rows carry true labels (or answers), and those of
            the target are left out; ``"target"``: they carry the attacker's, and all count.
        validation: clean texts to match the clean flip rate on.
        clean_model: a never-poisoned twin, which gives the floor.
        suspect: the model before, for agreement.
        task: what the models are for, by name, where their configuration leaves that open.
        triggered_column: columns of the triggered texts, where they are not those of ``data``.
        seed: of the bootstrap.
        base_model: the model that ``model`` or one beside it is an adapter of.
        adapter: how an unknown architecture is laid out: an object, or its TOML file.
        column: which columns hold what, as for ``purify``.
        label_map: labels of the data and the labels that they mean.
        device: a torch device; ``"auto"``: accelerate chooses.
        compute: how to compute, as ``{"batch_size": 8}``, or ``Runtime``.
        tokenizer: the tokenizer of a loaded classifier.
        progress: True: shown, on a terminal or in a notebook; False: not; or an object.

    Raises:
        UserError: a text, label or model cannot be used, or a denominator is empty.

    """
    if target is not None and not isinstance(target, str | int | float):
        raise UserError(
            f"target cannot be of the type {type(target).__name__}", "it takes a label's name"
        )
    meaning = one_of(triggered_labels, ("true", "target"), "--triggered-labels")
    if triggered is None:
        asked = {
            "--target": target is not None,
            "--validation": validation is not None,
            "--clean-model": clean_model is not None,
            "--triggered-labels": meaning == "target",
        }
        why = "{} says what triggered texts are judged by, and there are none"
        refuse_unused(asked, why, "give --triggered FILE, or leave out {}")
    runtime, how = runtime_of(device, compute), adapter_of(adapter)

    def ready(one: Any, argument: str) -> Any:
        """Return a model in memory opened; what is stored is loaded when its turn comes."""
        one = None if one is None else measurable(one, runtime, argument)
        stored = one is None or isinstance(one, str | Path)
        if stored:
            return one
        return opened(
            one, runtime, how, tokenizer, argument, classifier=False, task=task, frozen=True
        )

    files = Files(
        given(data, "data"),
        None if triggered is None else given(triggered, "triggered"),
        None if target is None else str(target),
        meaning,
        None if validation is None else given(validation, "validation"),
        ready(clean_model, "clean_model"),
        ready(suspect, "suspect"),
        columns_of(column, label_map),
        triggered_columns_of(triggered, triggered_column),
    )
    asked = ready(in_memory(model), "model")
    base = base_of(base_model)
    return run_exam(asked, files, runtime, seed_of(seed), reporting(progress), how, task, base)


def probe(
    model: Model,
    data: Any,
    *,
    family: Any = None,
    texts: int | None = None,
    max_flip: float = 0.2,
    task: str | None = None,
    base_model: str | Path | None = None,
    adapter: Adapter | str | Path | None = None,
    column: Columns | Fields = None,
    label_map: Fields = None,
    seed: int = 0,
    device: str = "auto",
    compute: Runtime | Fields = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: bool | Progress | None = True,
) -> Probed:
    """Put clean texts through generic trigger families and see whether answers flip one way.

    Args:
        model: a folder, a name on the Hub, a purified model, or a loaded classifier or generator.
        data: clean labelled texts, best unseen by the model, in any form that ``purify`` takes; of
            a generator prompts, with answers or without (docs/generators.md).
        family: names of trigger families; None: all.
        texts: texts drawn of each label, at most, or prompts of a generator in all; None: 150, of
            a generator 60.
        max_flip: share of flips into one label, or answer, above the controls' to notice, a
            fraction.
        task: what the model is for, by name, where its configuration leaves that open.
        base_model: the model that it is an adapter of: a folder, or a name on the Hub.
        adapter: how an unknown architecture is laid out: an object, or its TOML file.
        column: which columns hold what, as for ``purify``.
        label_map: labels of the data and the labels that they mean.
        seed: decides everything random.
        device: a torch device; ``"auto"``: accelerate chooses.
        compute: how to compute, as ``{"batch_size": 8}``, or ``Runtime``.
        tokenizer: the tokenizer of a loaded classifier.
        progress: True: shown, on a terminal or in a notebook; False: not; or an object.

    Returns:
        Every row tried; ``.noticed`` are those to worry about. None is no proof.

    Raises:
        UserError: too few texts that the model gets right, too few prompts, a family that is not
            known, or a model whose kind cannot be probed.

    """
    battery = Battery(names_of(family, "family"), max_flip=max_flip, seed=seed_of(seed))
    runtime, columns = runtime_of(device, compute), columns_of(column, label_map)
    source = given(data, "data")
    datasets.check_label_map(columns, (source, None))
    suspect = opened(
        model,
        runtime,
        adapter,
        tokenizer,
        classifier=False,
        task=task,
        base_model=base_model,
        frozen=True,
    )
    prober, show = prober_of(suspect), reporting(progress)
    suspect.tell_doubts(show)
    clean = prober.rows(source, suspect, columns)
    battery = replace(battery, texts=prober.texts if texts is None else texts)
    return prober.probe(suspect, clean, battery, runtime, show)
