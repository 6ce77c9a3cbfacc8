"""Load a suspect model and its tokenizer, or say plainly why it cannot be used.

What may be read of it is what ``vetting`` lets through: safetensors, configurations and the files
of a tokenizer, never code and never a pickle. Training wants float32, so the precision of the
checkpoint is noted and the weights are widened; ``export`` narrows them again. Where nothing trains
them, matrices are widened as they are used (``narrow``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from headsweep.errors import UserError, shown
from headsweep.model.anatomy import Anatomy, locate
from headsweep.model.checkpoint import (
    check_keys,
    check_kind,
    check_shapes,
    check_size,
    constants,
    quiet,
    readable,
    usable,
)
from headsweep.model.claims import check_noted
from headsweep.model.families import Adapter, adapter_for
from headsweep.model.gates import check_gates
from headsweep.model.generating import of_model
from headsweep.model.joined import MERGE, Brought, described, head_of, join, read_adapter_folder
from headsweep.model.joined import Adapter as LoRA
from headsweep.model.mask import HEADS, Units
from headsweep.model.narrow import WIDE, bytes_held, hold, widen
from headsweep.model.padding import (
    Padding,
    padding_of,
    probe_inputs,
)
from headsweep.model.runtime import Runtime
from headsweep.model.tokenizer_files import NO_TOKENIZER
from headsweep.model.vetting import Vetted, check_memory, vetted
from headsweep.progress import Progress
from headsweep.seeding import fence
from headsweep.texts.kinds import task_of
from headsweep.texts.regression import REGRESSION
from headsweep.texts.split import Labels
from headsweep.texts.task import CLASSIFICATION, Task

TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)


@dataclass(frozen=True)
class Suspect:
    """A loaded model with its heads found and its gates checked.

    Attributes:
        anatomy: the model (it computes in float32, in eval mode) and its units.
        tokenizer: its tokenizer, with a padding token.
        labels: the names of the classes; none where it answers in tokens or numbers.
        padding: what fills its batches.
        precision: the precision of the checkpoint, for saving.
        source: where it came from.
        fresh_head: True when its classifier is a new one.
        notes: what was added to make it usable.
        task: what it is for.
        base_model: of an adapter, what it was added to, with hashes, as a manifest has it.
        doubts: those of the notes that concern whoever only reads its answers.

    """

    anatomy: Anatomy
    tokenizer: PreTrainedTokenizerBase
    labels: Labels
    padding: Padding
    precision: torch.dtype
    source: str
    fresh_head: bool = False
    notes: tuple[str, ...] = ()
    task: Task = CLASSIFICATION
    base_model: Mapping[str, Any] | None = None
    doubts: tuple[str, ...] = ()

    @property
    def model(self) -> PreTrainedModel:
        """The model itself."""
        return self.anatomy.model

    def tell_doubts(self, progress: Progress) -> None:
        """Say what concerns whoever only reads its answers."""
        for doubt in self.doubts:
            progress.say(f"note: {doubt}")

    @property
    def reads_one(self) -> bool:
        """Whether an answer is read from one token."""
        return _reads_one(self.task)

    @property
    def reads_last(self) -> bool:
        """Whether an answer is read from the last token, which padding must not be taken for."""
        return _reads_last(self.anatomy, self.task)


GIVEN = frozenset(("input_ids", "attention_mask", "token_type_ids"))  # to a model
SWITCHED = {"input_shape_ids": "enable_shape", "input_pronunciation_ids": "enable_pronunciation"}
"""What RoCBert reads beside, where its configuration says so."""


@dataclass(frozen=True)
class Reading:
    """What to make of a checkpoint.

    Attributes:
        fresh_for: values of the label column that a fresh classifier is for (the model's own
            label names are kept where they fit); None: use the checkpoint's classifier.
        seed: the seed of a fresh classifier's weights.
        adapter: how to find the heads of an unknown architecture.
        units: which units to gate.
        task: what it is for; a name: it must fit what the configuration says; None: as that says.
        base_model: the model that the checkpoint is an adapter of; None: it is a whole model.
        frozen: nothing trains its weights, which may be held as narrow as they are in the file
            (``narrow``); what an adapter was added to is not.

    """

    fresh_for: Sequence[object] | None = None
    seed: int = 0
    adapter: Adapter | None = None
    units: Units = HEADS
    task: Task | str | None = CLASSIFICATION
    base_model: str | None = None
    frozen: bool = False

    def settled(
        self, config: Any, architectures: Sequence[str] | None = None
    ) -> tuple[Reading, Task]:
        """Return it with its task, for a model as ``texts.kinds`` has it."""
        task = self.task
        if task is None or isinstance(task, str):
            task = task_of(config, architectures, task)
        return replace(self, task=task), task


def load_suspect(
    source: str | Path, runtime: Runtime = Runtime(), reading: Reading = Reading()
) -> Suspect:
    """Load a model, find its heads and check that gates reach it.

    Args:
        source: a folder in Hugging Face format, or the name of a model on the Hub; where the
            reading names a base model, the folder of its adapter.
        runtime: where to put it.
        reading: what to make of it.

    Raises:
        UserError: whatever makes the checkpoint unusable.

    """
    adapter = None if reading.base_model is None else read_adapter_folder(str(source))
    whole = source if reading.base_model is None else reading.base_model
    name = str(whole)
    check_noted(name)
    with vetted(whole) as files:
        config = read_config(name, files)
        if reading.adapter is None:
            adapter_for(config.model_type)
        fresh_head_wanted = reading.fresh_for is not None
        brought = None
        if adapter is not None:
            brought = head_of(adapter) if fresh_head_wanted else _brought(adapter, name, config)
        if brought is not None and not fresh_head_wanted:
            reading = replace(reading, task=reading.task or _task_of(brought))
        reading, _ = reading.settled(config)
        narrow = reading.frozen and adapter is None
        if not narrow or bytes_held(config) == WIDE:
            check_memory(name, WIDE * files.elements, "in float32")
        model, fresh = _model(name, config, reading, files, brought)
        tokenizer = tokenizer_in(name, files)
    origin = Origin(str(source), model.dtype, fresh, files.notes, doubts=files.notes)
    with usable(name):
        model = hold(model) if narrow else widen(model)
        if adapter is not None:
            join(model, adapter, name, fresh)
            told = f"{source} is an adapter, added to {name}: what is saved is a whole model"
            joined = described(adapter, name, files.shards)
            origin = replace(origin, notes=(*origin.notes, told), base_model=joined)
        model = model.to(runtime.torch_device).eval()  # type: ignore[arg-type]
        return prepare(model, tokenizer, reading, origin)


def labels_of(source: str | Path, fresh_for: Sequence[object] | None = None) -> Labels:
    """Return the labels that ``load_suspect`` would give, without reading the weights."""
    with vetted(source, weights=False) as files:
        config = read_config(str(source), files)
    return Labels.of(config.id2label) if fresh_for is None else _fresh_labels(config, fresh_for)


def task_at(
    source: str | Path | PreTrainedModel | Suspect,
    wanted: str | None = None,
    base_model: str | None = None,
) -> Task:
    """Return what a model is for, stored or in memory, as ``texts.kinds.task_of`` has it.

    ``base_model``: the model that ``source`` is an adapter of, which may bring a classifier.
    """
    if base_model is not None:
        adapter, source = read_adapter_folder(str(source)), base_model
        if wanted is None:
            with vetted(base_model, weights=False) as files:
                config = read_config(base_model, files)
            brought = _brought(adapter, base_model, config)
            if brought is not None:
                return _task_of(brought)
    if isinstance(source, Suspect):
        if wanted is None:
            return source.task
        source = source.model
    if isinstance(source, PreTrainedModel):
        return task_of(source.config, [type(source).__name__], wanted)
    with vetted(source, weights=False) as files:
        return task_of(read_config(str(source), files), wanted=wanted)


def measured(source: str | Path) -> tuple[dict[str, tuple[int, ...]], Any]:
    """Return the shapes of a stored model's weights, by name, and its configuration.

    Nothing but headers is read.
    """
    with vetted(source) as files:
        return files.shapes, read_config(str(source), files)


@dataclass(frozen=True)
class Origin:
    """Where a loaded model came from and how."""

    source: str = "a model in memory"
    precision: torch.dtype | None = None
    fresh_head: bool = False
    notes: tuple[str, ...] = ()
    base_model: Mapping[str, Any] | None = None
    doubts: tuple[str, ...] = ()


def prepare(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    reading: Reading = Reading(),
    origin: Origin = Origin(),
) -> Suspect:
    """Make a loaded model a Suspect: check its kind, find its heads, check its gates."""
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise UserError(
            f"tokenizer cannot be {shown(tokenizer)}", "give AutoTokenizer.from_pretrained(FOLDER)"
        )
    reading, task = reading.settled(model.config, [type(model).__name__])
    task.check(model.config)
    if reading.fresh_for is not None and not origin.fresh_head:
        origin = _fresh_classifier(model, reading, origin)
    _check_inputs(model, tokenizer)
    whole, rules = _whole_attention(model), of_model(model)
    anatomy = locate(model, reading.adapter, reading.units)
    padding, notes = padding_of(model, tokenizer, _reads_last(anatomy, task))
    seen = check_gates(anatomy, probe_inputs(model), padding.number, task.axes)
    return Suspect(
        anatomy,
        tokenizer,
        task.names(model.config),
        padding,
        origin.precision or model.dtype,
        origin.source,
        origin.fresh_head,
        origin.notes + rules + whole + notes + seen + anatomy.notes,
        task,
        origin.base_model,
        origin.doubts + rules + seen,
    )


def _check_inputs(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a model that reads more of a text than its tokens; raises UserError."""
    made = {*tokenizer("a", verbose=False)} - GIVEN
    made -= {name for name, switch in SWITCHED.items() if not getattr(model.config, switch, True)}
    more = sorted(made & set(signature(model.forward).parameters))
    if more:
        raise UserError(
            f"{type(model).__name__} reads {', '.join(more)} of a text beside its tokens, which "
            "are not given to it here",
            "give a model that reads token numbers alone",
        )


def _whole_attention(model: PreTrainedModel) -> tuple[str, ...]:
    """Let BigBird attend to all tokens, as it does of its own accord once a text is short.

    It never goes back then, so that what it answers would depend on what it read before.
    """
    change: Any = getattr(model.base_model, "set_attention_type", None)
    if change is None or getattr(model.config, "attention_type", None) != "block_sparse":
        return ()
    change("original_full")
    model.config.attention_type = "original_full"
    return (
        "attention_type set to original_full: a model with block_sparse attends to all tokens from "
        "its first short text on, and answers otherwise after it",
    )


def unpruned(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, adapter: Adapter, origin: Origin
) -> Suspect:
    """Make a loaded model a Suspect whose units are not looked for: to be measured, no more."""
    _, task = Reading(task=None).settled(model.config, [type(model).__name__])
    task.check(model.config)
    anatomy = Anatomy(model, adapter, ())
    padding, notes = padding_of(model, tokenizer, _reads_last(anatomy, task))
    precision = origin.precision or model.dtype
    labels = task.names(model.config)
    return Suspect(
        anatomy, tokenizer, labels, padding, precision, origin.source, notes=notes, task=task
    )


def _reads_last(anatomy: Anatomy, task: Task) -> bool:
    return anatomy.adapter.reads_last and _reads_one(task)


def _reads_one(task: Task) -> bool:
    one = torch.zeros((1, 1), dtype=torch.long)
    return task.place(one, 0) is not None


def _fresh_classifier(model: PreTrainedModel, reading: Reading, origin: Origin) -> Origin:
    """Put a fresh classifier on a model in memory, whose label names must fit the data."""
    assert reading.fresh_for is not None
    try:
        Labels.of(model.config.id2label).indices(reading.fresh_for, "the data")
    except UserError as error:
        raise UserError(
            error.what, "load the model with these labels, or give its folder instead"
        ) from error
    fresh_head(model, reading.seed)
    return replace(origin, fresh_head=True)


def read_config(name: str, files: Vetted) -> Any:
    """Return the configuration of a vetted folder; raises UserError, naming it by ``name``."""
    with readable(name, "configuration", files.folder), quiet():
        return AutoConfig.from_pretrained(files.folder, trust_remote_code=False)


def _model(
    name: str,
    config: Any,
    reading: Reading,
    files: Vetted,
    brought: Brought | None = None,
) -> tuple[PreTrainedModel, bool]:
    """Return a model, and whether its head is fresh; ``brought``: an adapter brings it."""
    fresh = reading.fresh_for is not None
    extra: dict[str, Any] = {}
    asked = isinstance(reading.task, str)
    reading, task = reading.settled(config)
    if brought is not None and not fresh:
        extra = _labels_for(config, brought.labels)
    elif reading.fresh_for is None:
        task.check(config)
        check_kind(name, config, task)
    else:
        names = _fresh_labels(config, reading.fresh_for).names
        extra = {
            "id2label": dict(enumerate(names)),
            "label2id": {label: i for i, label in enumerate(names)},
            "num_labels": len(names),
            "problem_type": "single_label_classification",
        }
    check_size(name, config, files)
    with readable(name, "weights", files.folder), fence(reading.seed), quiet():
        # misshapen tensors are refused below, by name and shape
        model, info = task.load(str(files.folder), ignore_mismatched_sizes=True, **extra)
    model.name_or_path = model.config._name_or_path = name
    check_shapes(name, model, info["mismatched_keys"], fresh)
    kept = None if fresh else task
    unexpected = set(info["unexpected_keys"]) - constants(files.shapes)
    missing = set(info["missing_keys"]) - (frozenset() if brought is None else brought.names)
    check_keys(
        name,
        model,
        missing,
        unexpected,
        kept,
        whole_head=brought is None,
        asked=asked,
        joined=reading.base_model is not None,
    )
    if fresh:
        fresh_head(model, reading.seed)
    bad = next((n for n, p in model.named_parameters() if not bool(p.isfinite().all())), None)
    if bad:
        raise UserError(
            f"{name}: the weights hold NaN or infinity, first in {bad}", "get the model again"
        )
    return model, fresh


def _brought(adapter: LoRA, base: str, config: Any) -> Brought | None:
    """Return the classifier that an adapter brings where its base has none, of whatever kind.

    Raises:
        UserError: the base has one of another number of labels.

    """
    found, named = head_of(adapter), getattr(config, "architectures", None) or ()
    if found is None or not any(one.endswith("ForSequenceClassification") for one in named):
        return found
    if found.labels != config.num_labels:
        raise UserError(
            f"{adapter.name} brings a classifier of {found.labels} labels, and that of {base} has "
            f"{config.num_labels}",
            MERGE,
        )
    return None


def _task_of(brought: Brought) -> Task:
    """Return what the head is for that an adapter brings, as of whole models."""
    return REGRESSION if brought.labels == 1 else CLASSIFICATION


def _labels_for(config: Any, count: int) -> dict[str, Any]:
    """Return what to load a base with, for a classifier of so many labels."""
    own = Labels.of(config.id2label).names
    names = own if len(own) == count else tuple(f"LABEL_{i}" for i in range(count))
    return {"num_labels": count, "id2label": dict(enumerate(names))}


def _fresh_labels(config: Any, values: Sequence[object]) -> Labels:
    own = Labels.of(config.id2label)
    try:
        own.indices(values, "")
    except UserError:
        return Labels.found_in(values)
    return own


@torch.no_grad()
def fresh_head(model: PreTrainedModel, seed: int) -> None:
    """Draw the weights of everything outside the base model anew, from a seed."""
    with fence(seed):
        for name, module in model.named_modules():
            if name and not (name + ".").startswith(model.base_model_prefix + "."):
                for part, parameter in module.named_parameters(recurse=False):
                    _begin(parameter, part, float(getattr(model.config, "initializer_range", 0.02)))


def _begin(parameter: nn.Parameter, name: str, spread: float) -> None:
    """Set a parameter to what training begins with: a norm scales by one, a bias adds nothing."""
    if parameter.dim() > 1:
        parameter.normal_(0.0, spread)
    else:
        parameter.fill_(name == "weight")


def read_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Return a model's tokenizer; raises UserError when there is none."""
    with vetted(name, weights=False) as files:
        return tokenizer_in(name, files)


def tokenizer_in(name: str, files: Vetted) -> PreTrainedTokenizerBase:
    """Return the tokenizer among vetted files; raises UserError when there is none."""
    if not any((files.folder / file).exists() for file in TOKENIZER_FILES):
        raise UserError(
            f"{name}: no tokenizer", "copy the tokenizer files (tokenizer.json, ...) beside it"
        )
    with readable(name, "tokenizer", files.folder), quiet():
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            files.folder, trust_remote_code=False
        )
        made = tokenizer("The film is good.", verbose=False)["input_ids"]
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        kind = type(tokenizer).__name__
        raise UserError(f"{name}: {kind} is no tokenizer of one text", NO_TOKENIZER)
    if not made:
        raise UserError(f"{name}: the tokenizer leaves nothing of a text", NO_TOKENIZER)
    _at_home(tokenizer, name, files)
    return tokenizer


def _at_home(tokenizer: PreTrainedTokenizerBase, name: str, files: Vetted) -> None:
    """Let a tokenizer say where it is from, and find its files there when it is saved."""
    staged, home = str(files.folder), str(files.home)
    for form in (vars(tokenizer), tokenizer.init_kwargs):
        for key, one in list(form.items()):
            if isinstance(one, str) and one.startswith(staged):
                form[key] = one.replace(staged, home, 1)
    tokenizer.name_or_path = name
