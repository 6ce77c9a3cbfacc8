"""Load a suspect model and its tokenizer, or say plainly why it cannot be used.

What may be read of it is what ``vetting`` lets through: safetensors, configurations and the files
of a tokenizer, never code and never a pickle. Training wants float32, so the precision of the
checkpoint is noted and the weights are widened; ``export`` narrows them again. Where nothing trains
them, matrices are widened as they are used (``narrow``).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from headsweep.bounded import LARGE, table_of
from headsweep.drafts import COMPACT, MANIFEST
from headsweep.errors import UserError, shortened, shown
from headsweep.foreign import one_line
from headsweep.model.anatomy import Anatomy, locate
from headsweep.model.families import Adapter, adapter_for, adapter_from
from headsweep.model.files import inside, there
from headsweep.model.gates import check_gates
from headsweep.model.joined import described, join, read_adapter_folder
from headsweep.model.mask import HEADS, QUERIES, HeadMask, Units
from headsweep.model.narrow import WIDE, bytes_held, hold, widen
from headsweep.model.runtime import Runtime
from headsweep.model.tokenizer_files import NO_TOKENIZER
from headsweep.model.vetting import Vetted, check_memory, vetted
from headsweep.seeding import fence
from headsweep.texts.kinds import task_of
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
SLACK = 1 << 25  # numbers that a fresh classifier and a pooler may add


@dataclass(frozen=True)
class Padding:
    """The token number that fills a batch, and whether it had to be chosen for the model.

    A classifier that reads the last token finds it by this number, so a text that ends in a
    chosen number would be read one token too early (``predict.encode`` refuses it).
    """

    number: int
    chosen: bool = False


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

    @property
    def model(self) -> PreTrainedModel:
        """The model itself."""
        return self.anatomy.model

    @property
    def reads_one(self) -> bool:
        """Whether an answer is read from one token."""
        return _reads_one(self.task)

    @property
    def reads_last(self) -> bool:
        """Whether an answer is read from the last token, which padding must not be taken for."""
        return _reads_last(self.anatomy, self.task)


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
    name = str(source) if reading.base_model is None else str(reading.base_model)
    _check_noted(name)
    with vetted(name) as files:
        config = read_config(name, files)
        if reading.adapter is None:
            adapter_for(config.model_type)
        reading, _ = reading.settled(config)
        narrow = reading.frozen and adapter is None
        if not narrow or bytes_held(config) == WIDE:
            check_memory(name, WIDE * files.elements, "in float32")
        model, fresh = _model(name, config, reading, files)
        tokenizer = tokenizer_in(name, files)
    origin = Origin(str(source), model.dtype, fresh, files.notes)
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


def task_at(source: str | Path | PreTrainedModel | Suspect, wanted: str | None = None) -> Task:
    """Return what a model is for, stored or in memory, as ``texts.kinds.task_of`` has it."""
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
        shapes = {name: shape for one in files.shards for name, shape in one.shapes.items()}
        return shapes, read_config(str(source), files)


@dataclass(frozen=True)
class Origin:
    """Where a loaded model came from and how."""

    source: str = "a model in memory"
    precision: torch.dtype | None = None
    fresh_head: bool = False
    notes: tuple[str, ...] = ()
    base_model: Mapping[str, Any] | None = None


def prepare(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    reading: Reading = Reading(),
    origin: Origin = Origin(),
) -> Suspect:
    """Make a loaded model a Suspect: check its kind, find its heads, check its gates."""
    reading, task = reading.settled(model.config, [type(model).__name__])
    task.check(model.config)
    if reading.fresh_for is not None and not origin.fresh_head:
        origin = _fresh_classifier(model, reading, origin)
    anatomy = locate(model, reading.adapter, reading.units)
    padding, notes = _padding(model, tokenizer, _reads_last(anatomy, task))
    seen = check_gates(anatomy, probe_inputs(model), padding.number, task.axes)
    return Suspect(
        anatomy,
        tokenizer,
        task.names(model.config),
        padding,
        origin.precision or model.dtype,
        origin.source,
        origin.fresh_head,
        origin.notes + notes + seen + anatomy.notes,
        task,
        origin.base_model,
    )


def unpruned(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, adapter: Adapter, origin: Origin
) -> Suspect:
    """Make a loaded model a Suspect whose units are not looked for: to be measured, no more."""
    _, task = Reading(task=None).settled(model.config, [type(model).__name__])
    task.check(model.config)
    anatomy = Anatomy(model, adapter, ())
    padding, notes = _padding(model, tokenizer, _reads_last(anatomy, task))
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


def _check_noted(source: str) -> None:
    """Refuse a folder whose weights are one part of a model, or cut as no configuration says."""
    if _cut_unevenly(Path(source)):
        raise UserError(
            f"{source}: a compact model, whose layers have different numbers of units",
            "give the folder that it was made from; evaluate, export and headsweep.load take it",
        )
    if claimed(source).get("members"):
        raise UserError(
            f"{source}: an ensemble of head masks, whose predictions an older version averaged",
            "purify its suspect again: this version writes one mask",
        )


def _cut_unevenly(folder: Path) -> bool:
    if not folder.is_dir() or not there(folder, COMPACT):
        return False
    return table_of(inside(folder, COMPACT), LARGE, "make it again").get("plain") is not True


def claimed(source: str | Path) -> dict[str, Any]:
    """Return what a folder's own manifest says, if it has one: the word of whoever made it.

    Nothing that a model is measured by may come from here: neither an adapter nor a mask.
    """
    folder = Path(source)
    if not folder.is_dir() or not there(folder, MANIFEST):
        return {}
    return table_of(inside(folder, MANIFEST), LARGE, "the folder is damaged: get it again")


def claimed_units(source: str | Path) -> Units:
    """Return query heads, and FFN groups as many as a manifest says were pruned of, to look at."""
    try:
        pruned = HeadMask.from_json(claimed(source).get("mask") or {}).units
    except (UserError, TypeError, AttributeError):
        return QUERIES
    return replace(pruned, heads=True, queries=True)


def claims(source: str | Path) -> tuple[str, ...]:
    """Return in a line what a folder says of itself, if it does."""
    form = claimed(source)
    if not form:
        return ()
    units, strategy = form.get("pruned_units"), form.get("strategy")
    count = len(units) if isinstance(units, list) else "an unknown number of"
    name = strategy.get("name") if isinstance(strategy, dict) else None
    return (
        f"by its own {MANIFEST}, {count} units were pruned, with {shown(name)}: that is the word "
        "of whoever made it, which `headsweep verify` checks",
    )


def claimed_adapter(form: Mapping[str, Any]) -> Adapter | None:
    """Return the adapter that a manifest describes, if it does; raises UserError."""
    told = form.get("adapter")
    return None if not told else adapter_from(told, f"{MANIFEST}, adapter")


def probe_inputs(model: PreTrainedModel, rows: int = 2, length: int = 12) -> dict[str, Tensor]:
    """Return a small fixed batch of token numbers, the same for every call."""
    vocabulary = vocabulary_size(model)
    length = min(length, int(getattr(model.config, "max_position_embeddings", length)) - 4)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocabulary, (rows, max(length, 2)), generator=generator)
    special = {model.config.pad_token_id, 0}
    ids[torch.isin(ids, torch.tensor([s for s in special if s is not None]))] = 1
    if model.config.pad_token_id == 1:
        ids[ids == 1] = 2
    end = getattr(model.config, "eos_token_id", None)
    if isinstance(end, int) and end not in special and 0 <= end < vocabulary:
        ids[ids == end] = end - 1 if end - 1 not in special else end + 1
        ids[:, -1] = end  # as texts end: some classifiers read there
    ids = ids.to(model.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def vocabulary_size(model: PreTrainedModel) -> int:
    """Return how many tokens the model has embeddings for."""
    try:
        table = model.get_input_embeddings()
    except NotImplementedError:  # CANINE hashes characters
        table = None
    if not isinstance(table, nn.Embedding):
        raise UserError(
            f"{type(model).__name__} has no table of token embeddings",
            "only classifiers that read token numbers are supported",
        )
    return int(table.weight.shape[0])


def position_limit(model: PreTrainedModel, adapter: Adapter) -> int:
    """Return how many tokens the model can read."""
    limit = int(getattr(model.config, "max_position_embeddings", 1 << 30))
    return limit - _first_position(model) if adapter.offset_positions else limit


def _first_position(model: PreTrainedModel) -> int:
    """Return the position of the first token, as the module that numbers positions has it.

    The configuration is no witness: MPNet's module has a number of its own.
    """
    for module in model.base_model.modules():
        offset = getattr(module, "padding_idx", None)
        if hasattr(module, "position_embeddings") and isinstance(offset, int):
            return offset + 1
    return max(int(model.config.pad_token_id or 0), 0) + 1


def _padding(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, reads_last: bool
) -> tuple[Padding, tuple[str, ...]]:
    """Return what to pad with, and notes on what had to be set for it.

    What the model answers must be what it answers to one text at a time. A decoder finds its last
    token by the configuration's number, so that one is used. An encoder's padding is hidden
    from it, and its configuration is never changed: RoBERTa's positions count from that number.

    Raises:
        UserError: the tokenizer or the configuration names a number without an embedding.

    """
    theirs = tokenizer.pad_token_id
    own = model.config.get_text_config().pad_token_id
    own = None if own is None or own < 0 else int(own)  # early Llamas say -1 for none
    vocabulary = vocabulary_size(model)
    for number in (own, theirs):
        if number is not None and number >= vocabulary:
            raise UserError(
                f"the padding token has number {number}, the model has {vocabulary} embeddings",
                "call model.resize_token_embeddings(len(tokenizer)) and save the model again",
            )
    named = own if reads_last or theirs is None else theirs
    if named is not None:
        padding = Padding(named)
    else:
        padding = Padding(_spare_token(tokenizer, vocabulary), chosen=True)
    notes = _set_padding(model, tokenizer, padding, reads_last)
    if reads_last and tokenizer.pad_token_id != padding.number:
        notes.append(
            f"the tokenizer pads with {tokenizer.pad_token_id}, the configuration with "
            f"{padding.number}, which is used: in batches padded by the tokenizer this model reads "
            "the wrong token"
        )
    return padding, tuple(notes)


def _set_padding(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    padding: Padding,
    reads_last: bool,
) -> list[str]:
    """Set what is missing for batches to work, in place; return a note of each."""
    notes = []
    if tokenizer.pad_token_id is None or (padding.chosen and reads_last):
        token = str(tokenizer.convert_ids_to_tokens(padding.number))
        if tokenizer.pad_token != token:
            tokenizer.pad_token = token
            notes.append(f"padding token set to {token}")
    if reads_last and padding.chosen:
        model.config.get_text_config().pad_token_id = padding.number
        notes.append(f"config.pad_token_id set to {padding.number}")
    return notes


def _spare_token(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> int:
    """Return the number of a token that no text ends in, special tokens first."""
    last = tokenizer("a", verbose=False)["input_ids"][-1:]
    unknown = tokenizer.unk_token_id  # words that the tokenizer does not know end texts
    special = [number for number in tokenizer.all_special_ids if number != unknown]
    known = range(min(vocabulary, len(tokenizer)))
    for number in (tokenizer.pad_token_id, tokenizer.eos_token_id, *special, unknown, *known):
        if number is not None and number < vocabulary and number not in last:
            return int(number)
    raise UserError("the tokenizer has no token to pad with", "set tokenizer.pad_token")


def read_config(name: str, files: Vetted) -> Any:
    """Return the configuration of a vetted folder; raises UserError, naming it by ``name``."""
    with readable(name, "configuration", files.folder), quiet():
        return AutoConfig.from_pretrained(files.folder, trust_remote_code=False)


def check_size(name: str, config: Any, files: Vetted, most: float = 1.25) -> None:
    """Refuse a configuration of a model much larger than its files, before it is allocated.

    ``most``: times as many numbers as its files may hold.
    """
    with readable(name, "configuration", files.folder), fence(0), quiet():
        try:
            with torch.device("meta"):
                body = AutoModel.from_config(config, trust_remote_code=False)
        except ValueError:  # it has no such body; what it is for is asked later
            return
    asked = sum(parameter.numel() for parameter in body.parameters())
    kept = sum(buffer.numel() for buffer in body.buffers())
    labels = int(getattr(config, "num_labels", 0) or 0) * _width(config)
    if asked > most * files.elements + SLACK or max(kept, labels) > 8 * SLACK:
        raise UserError(
            f"{name}: {max(asked, kept, labels):,} numbers by its configuration, "
            f"{files.elements:,} in its files",
            "mend config.json, or get the model again: weights and configuration do not belong "
            "together",
        )


def _width(config: Any) -> int:
    """Return how wide a model is, by whatever name its configuration has for it."""
    names = ("hidden_size", "d_model", "n_embd", "dim")
    return max(int(getattr(config, name, 0) or 0) for name in names)


def _model(name: str, config: Any, reading: Reading, files: Vetted) -> tuple[PreTrainedModel, bool]:
    fresh = reading.fresh_for is not None
    extra: dict[str, Any] = {}
    reading, task = reading.settled(config)
    if reading.fresh_for is None:
        task.check(config)
        _check_kind(name, config, task)
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
    _check_shapes(name, model, info["mismatched_keys"], fresh)
    kept = None if fresh else task
    _check_keys(name, model, set(info["missing_keys"]), set(info["unexpected_keys"]), kept)
    if fresh:
        fresh_head(model, reading.seed)
    bad = next((n for n, p in model.named_parameters() if not bool(p.isfinite().all())), None)
    if bad:
        raise UserError(
            f"{name}: the weights hold NaN or infinity, first in {bad}", "get the model again"
        )
    return model, fresh


def _check_kind(name: str, config: Any, task: Task) -> None:
    """Refuse a model that is of another kind of task, by its configuration."""
    kind = task_of(config)
    if kind is not CLASSIFICATION and kind.heads != task.heads:
        raise UserError(
            f"{name}: config.json says {config.architectures[0]}, whose head was not trained to "
            f"{task.does} but to {kind.does}",
            task.fix,
        )


def _check_shapes(
    name: str, model: PreTrainedModel, misfits: Iterable[tuple[str, Any, Any]], fresh: bool
) -> None:
    """Refuse tensors of another shape than the configuration's: random numbers stand for them.

    Those of a classifier that is replaced do not matter.
    """
    wrong = sorted(m for m in misfits if not fresh or _in_body(model, m[0]))
    if not wrong:
        return
    fix = (
        "mend config.json, or get the model again: weights and configuration do not belong together"
    )
    if getattr(model.config, "pruned_heads", None):
        fix = (
            "config.json lists pruned_heads: transformers 4 cut heads out of this model, and "
            "transformers 5 cannot load that: get the model as it was before they were cut"
        )
    raise UserError(f"{name}: {other_shapes(wrong)}", fix)


def other_shapes(misfits: Sequence[tuple[str, Any, Any]]) -> str:
    """Return, of tensors with their shapes in the file and by the configuration, the first."""
    tensor, in_file, in_config = misfits[0]
    more = f", and {len(misfits) - 1} more tensors do not fit" if len(misfits) > 1 else ""
    return (
        f"{tensor} has the shape {list(in_file)} in the file and {list(in_config)} by the "
        f"configuration{more}"
    )


def _check_keys(
    name: str, model: PreTrainedModel, missing: set[str], unexpected: set[str], task: Task | None
) -> None:
    """Refuse a checkpoint that lacks what the model runs, or holds more layers than it runs.

    ``task``: what its head is for; None: it gets a fresh one.
    """
    head = {key for key in missing if not _in_body(model, key)}
    pooler = sorted(key for key in missing - head if "pooler" in key)
    body = sorted(missing - head - set(pooler))
    if body:
        raise UserError(
            f"{name}: the weights lack {len(body)} tensors of the model, first {body[0]}",
            "the checkpoint is not complete, or not of the architecture its config names",
        )
    if pooler:
        raise UserError(
            f"{name}: the checkpoint lacks {pooler[0]}, which this architecture runs before its "
            "classifier (it would be random)",
            "this is no trained text classifier: get the checkpoint with its pooler, or take a "
            "model of an architecture without one",
        )
    if head and task is not None:
        raise UserError(
            f"{name}: the checkpoint has no {task.head} (its head would be random)", task.fix
        )
    if task is not None:
        _check_head(name, model, unexpected, task)
    extra = sorted(k for k in unexpected if _in_body(model, k) and "pooler" not in k)
    if extra:
        raise UserError(
            f"{name}: the file holds {len(extra)} tensors that the configuration leaves out, first "
            f"{extra[0]}: what would run is not the model in the file",
            "mend config.json (its number of layers, its biases), or get the model again",
        )


def _check_head(name: str, model: PreTrainedModel, unexpected: set[str], task: Task) -> None:
    """Refuse a head that was trained for something else, though its tensors have our names.

    Token classifiers of decoders have the text classifier's weight, and a bias that would be
    dropped; that of ModernBERT has every tensor of it.
    """
    named = getattr(model.config, "architectures", None) or ()
    if named and all("For" in one and not one.endswith(task.heads) for one in named):
        raise UserError(
            f"{name}: config.json says {named[0]}, whose head was not trained to {task.does}",
            task.fix,
        )
    parts = {child for child, _ in model.named_children()}
    more = sorted(k for k in unexpected if k.split(".")[0] in parts and not _in_body(model, k))
    if more:
        raise UserError(
            f"{name}: the head of the file holds {more[0]}, which {type(model).__name__} does not "
            "run: it is the head of another model",
            task.fix,
        )


def _in_body(model: PreTrainedModel, key: str) -> bool:
    """Tell whether a tensor belongs to the base model; files of encoders leave its prefix out."""
    prefix = model.base_model_prefix
    parts = {prefix, *(child for child, _ in model.base_model.named_children())}
    return key.split(".")[0] in parts


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


@contextmanager
def readable(name: str, what: str, folder: Path) -> Iterator[None]:
    """Say which part of a checkpoint it is that transformers cannot read; it raises many kinds."""
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of a tokenizer is no Exception
        said = one_line(str(error).replace(str(folder), name)) or type(error).__name__
        raise UserError(f"{name}: the {what} cannot be read: {shortened(said, 300)}") from error


@contextmanager
def usable(name: str) -> Iterator[None]:
    """Say that it is a model that cannot be used, whatever its numbers make torch raise."""
    try:
        yield
    except (AssertionError, ArithmeticError, AttributeError, IndexError, LookupError,
            NotImplementedError, RuntimeError, TypeError, ValueError) as error:  # fmt: skip
        said = shortened(f"{type(error).__name__}: {one_line(str(error))}", 300)
        raise UserError(
            f"{name}: the model cannot be used: {said}",
            "configuration and weights do not belong together, or get the model again",
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' own reports and bars off the terminal."""
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
