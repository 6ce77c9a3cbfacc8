"""A model that nobody trusts, as transformers may see it: checked, bounded and without code.

transformers follows what a folder says: ``auto_map`` to code, an index or ``transformers_weights``
to a pickle, ``adapter_config.json`` to another model, ``attn_implementation`` to a kernel of the
Hub. So it is never shown the folder. It is shown another one, made for the time of loading, that
holds links to the files that were looked through, and configurations without those keys.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, PreTrainedConfig

from headsweep.bounded import LARGE, MIDDLE, SMALL, size_of, table_of
from headsweep.errors import ShortOfMemory, UserError, shortened, shown
from headsweep.model.files import INDEX, WEIGHTS, Shard, index_of, inside, shards_of, there
from headsweep.model.generating import TOKEN_RULES, rules_in, rules_noted, without_rules
from headsweep.model.hub import CARD, can_be_of_the_hub, fetched, no_folder
from headsweep.model.joined import CONFIG as ADAPTER
from headsweep.model.joined import MOST_LABELS, needs_base
from headsweep.model.runtime import free_bytes
from headsweep.model.tokenizer_files import (
    FAST,
    SETTINGS,
    TEMPLATES,
    TOKENIZERS,
    check_tokenizer,
    templates_in,
)

CONFIG, GENERATION = "config.json", "generation_config.json"
OTHER_FAST = "fast_tokenizer_files"  # in a tokenizer's settings: files for versions of transformers
UNREAD = ("tekken.json", "tiktoken.model")  # tokenizers of other forms
NESTED = ""  # a part of a table
CODE = "auto_map"
NOT_FOLLOWED = frozenset((
    CODE, "transformers_weights", "_name_or_path", "_commit_hash", "base_model_name_or_path",
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal",
    "experts_implementation", "_experts_implementation", "_experts_implementation_internal",
    "custom_generate", "custom_pipelines", "extra_files", "name_or_path", "init_inputs",
    "tp_plan", "base_model_tp_plan", "_pre_quantization_dtype", "use_kernels",
    "distributed_config",
))  # fmt: skip
"""Keys that lead elsewhere, or choose code; without them the model is the same."""
OF_THE_CLASS = frozenset(
    name
    for name in dir(PreTrainedConfig)
    if name.startswith("_") or callable(getattr(PreTrainedConfig, name))
).union((
    "attribute_map", "sub_configs", "sub_configs_defaults", "configuration_files",
    "extra_config_files", "base_model_pp_plan", "base_model_ep_plan", "base_model_fsdp_plan",
)) - NOT_FOLLOWED  # fmt: skip
"""What transformers sets on a configuration as if it were a setting, and then obeys.

``_auto_class`` has files of the user's copied, ``attribute_map`` names other weights.
"""
BESIDE = frozenset(("output_attentions", "output_hidden_states", "return_dict"))
"""Keys that say what a call returns beside the answers; some cannot be saved again."""
LABELS = ("id2label", "label2id")  # whose keys are names of the user's
TABLES = (CONFIG, GENERATION, "tokenizer_config.json", "special_tokens_map.json")
"""Files that are shown without those keys."""
FILE_KEY = re.compile(r".*_files?|(.*_)?vocab|merges|sp_model.*|tokenizer_object")
"""Of tokenizers: ``vocab_file``, ``fast_tokenizer_files``; what names a file, or holds a table."""
BOUNDS: tuple[tuple[re.Pattern[str], int, int, str], ...] = tuple(
    (re.compile(pattern), low, high, what)
    for pattern, low, high, what in (
        (r"num_(hidden_|encoder_|decoder_)?layers|n_layers?|(en|de)coder_layers|num_hidden_groups"
         r"|inner_group_num|num_feedforward_networks", 1, 1024, "layers"),
        (r"num_(attention|key_value)_heads|n_heads?|(en|de)coder_attention_heads",
         1, 4096, "heads"),
        (r"(hidden|intermediate|embedding|moe_intermediate)_size|n_embd|dim|hidden_dim|head_dim"
         r"|d_model|d_ff|d_kv|(en|de)coder_ffn_dim|ffn_dim", 1, 1 << 20, "wide"),
        (r"n_inner", 0, 1 << 20, "wide"),
        (r"vocab_size", 1, 1 << 22, "tokens"),
        (r"num_labels", 0, MOST_LABELS, "labels"),
        (r".*experts.*", -1, 4096, "experts"),
        (r"(.*_)?layers|num_.*_layers", -1024, 1024, "more layers"),
        (r"max_position_embeddings|n_positions|n_ctx|type_vocab_size|max_relative_positions"
         r"|position_buckets", -1, 1 << 24, "positions"),
        (r"attention_types|block_sizes|block_repeats", 0, 1024, "layers"),
        (r"(num|n)_.*|.*_(size|dim|layers|heads|length|width|groups|buckets|rank|embeddings)",
         -(1 << 31), 1 << 31, "of anything"),
    )
)  # fmt: skip
WHOLE = len(BOUNDS) - 4  # the first so many of these are whole numbers or nothing
LONGEST_LABEL, MOST_ENTRIES, MOST_LAYERS = 1_000, 1_000_000, 1024


@dataclass(frozen=True)
class Vetted:
    """What transformers is given.

    Attributes:
        folder: the files to load, for as long as the context lasts.
        home: where they are.
        config: what its configuration says, as transformers reads it.
        shards: the files of weights; empty where they were not asked for.
        notes: what was left out.

    """

    folder: Path
    home: Path
    config: Mapping[str, Any]
    shards: tuple[Shard, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the weights, by name."""
        return {name: shape for one in self.shards for name, shape in one.shapes.items()}

    @property
    def elements(self) -> int:
        """How many numbers the weights are."""
        return sum(shard.elements for shard in self.shards)


@contextmanager
def vetted(source: str | Path, weights: bool = True) -> Iterator[Vetted]:
    """Yield what of a model may be loaded; it is there until the context ends.

    Args:
        source: a folder, or a name of the Hub.
        weights: whether they are wanted too.

    Raises:
        UserError: something in it is not what it is named after, is too large, or leads elsewhere.

    """
    name = str(source)
    if isinstance(source, Path) and not source.is_dir():  # ./a/b is no name of the Hub
        raise no_folder(name)
    home = home_of(name, weights)
    config, named, notes = _config(home)
    shards = shards_of(home, named) if weights else ()
    _check_memory(name, shards)
    with tempfile.TemporaryDirectory(prefix="headsweep-") as temporary:
        folder = Path(temporary)
        _write(folder / CONFIG, config)
        notes += _stage_small(home, folder)
        _stage_weights(folder, shards)
        yield Vetted(folder, home, config, shards, notes)


def refusals(name: str, home: Path) -> Iterator[tuple[str, UserError]]:
    """Yield every step of ``vetted`` that refuses a folder: a word for it, and what it says.

    Where one refuses, the others still look, without what it would have told them.

    Args:
        name: what the user calls it.
        home: where its files are, as ``home_of`` gives it.

    """
    config = named = None
    shards: tuple[Shard, ...] = ()
    try:
        config, named, _ = _config(home)
    except UserError as error:
        yield "config", error
    try:
        shards = shards_of(home, named)
    except UserError as error:
        yield "weights", error
    try:
        _check_memory(name, shards)
    except UserError as error:
        yield "memory", error
    with tempfile.TemporaryDirectory(prefix="headsweep-") as temporary:
        folder = Path(temporary)
        _write(folder / CONFIG, config or {})
        try:
            check_unread(home)
        except UserError as error:
            yield "tokenizer", error
        for small in (GENERATION, *TOKENIZERS):
            try:
                _stage(home, folder, small)
            except UserError as error:
                yield "tokenizer", error
        try:
            _stage_templates(home, folder)
        except UserError as error:
            yield "tokenizer", error
        try:
            check_tokenizer(home, folder)
        except UserError as error:
            yield "tokenizer", error


def left_out(form: Any, file: str) -> Iterator[tuple[str, Any]]:
    """Yield the keys of a table of ``TABLES`` that transformers is not shown, with their values."""
    if isinstance(form, dict):
        rules = rules_in(form) if file in (CONFIG, GENERATION) else []
        files = file not in (CONFIG, NESTED)
        for key, one in form.items():
            if key in NOT_FOLLOWED or key in rules or (files and FILE_KEY.fullmatch(key)):
                yield key, one
            elif not _names(key, one):
                yield from left_out(one, CONFIG if file == CONFIG else NESTED)
    elif isinstance(form, list):
        for one in form:
            yield from left_out(one, CONFIG if file == CONFIG else NESTED)


def home_of(name: str, weights: bool) -> Path:
    """Return where the files of a model are, fetched from the Hub where they must be.

    Raises:
        UserError: there is no such folder, and the Hub gives none.

    """
    folder = Path(name)
    try:
        if folder.is_dir():
            return folder.absolute()
        if folder.is_file() or not can_be_of_the_hub(name):
            raise no_folder(name)
    except (OSError, ValueError) as error:  # a name too long, or with a NUL in it
        raise UserError(f"{name}: is no path", "give a folder") from error
    beside = (GENERATION, *TOKENIZERS, CARD, ADAPTER)  # the last two are never shown
    return fetched(name, beside, weights)


def _config(home: Path) -> tuple[dict[str, Any], object, tuple[str, ...]]:
    """Return a model's configuration within bounds, and what it names as its weights."""
    if not there(home, CONFIG):
        if there(home, ADAPTER):
            raise needs_base(home)
        raise UserError(f"{home}: no config.json", "give a folder made by save_pretrained()")
    if there(home, ADAPTER):
        raise UserError(
            f"{home}: {ADAPTER} lies beside config.json: where peft is installed, transformers "
            "runs that adapter on the model that it names, and not these weights",
            f"in a copy, remove {ADAPTER} to work on the weights; or move the files of the adapter "
            "into a folder of their own, and give the model that it was trained on as --base-model",
        )
    path = inside(home, CONFIG)
    form = table_of(path, fix="give a folder made by save_pretrained()")
    kind = form.get("model_type")
    if not isinstance(kind, str):
        raise UserError(
            f"{path}: not a model configuration: model_type is {shown(kind)}",
            "give a folder made by save_pretrained()",
        )
    notes = _code_noted(path, form)
    if notes and kind not in CONFIG_MAPPING:
        raise UserError(
            f"{path}: the architecture {shown(kind)} is known only to code that the model brings "
            "(auto_map), and no code of a model is ever run",
            "give a model of an architecture that transformers knows",
        )
    if form.get("quantization_config"):
        raise UserError(
            f"{path}: the weights are quantised", "give the model in its full precision"
        )
    taken = next(_of_the_class(form), None)
    if taken is not None:
        raise UserError(
            f"{path}: {shortened(taken)} is no setting of a model: transformers would take it for "
            "a part of its own",
            f"in a copy, remove {shortened(taken)} from config.json",
        )
    named = form.get("transformers_weights")
    rules = [key for key, _ in left_out(form, CONFIG) if key in TOKEN_RULES]
    notes += rules_noted(CONFIG, sorted({*rules}))
    form = {key: one for key, one in _cleaned(form, rules=True).items() if key not in BESIDE}
    _check_config(path, form)
    notes += _labels_as_numbered(form)
    return form, named, notes


def _labels_as_numbered(form: dict[str, Any]) -> tuple[str, ...]:
    """Let label2id say what id2label says, by which everything here goes; return a note."""
    numbered, other = form.get("id2label"), form.get("label2id")
    if not isinstance(numbered, dict) or not isinstance(other, dict):
        return ()
    if not all(str(number).isdecimal() for number in numbered):
        return ()
    own = {str(name): int(number) for number, name in numbered.items()}
    if len(own) < len(numbered) or own == other:
        return ()
    form["label2id"] = own
    return (f"{CONFIG}: label2id says otherwise than id2label, which is followed",)


def _of_the_class(form: Any) -> Iterator[str]:
    """Yield the keys of a configuration, at any depth, that are parts of its class, and are set."""
    if isinstance(form, dict):
        for key, one in form.items():
            if key in OF_THE_CLASS and one not in (None, False, "", [], {}):
                yield key
            elif not _names(key, one):
                yield from _of_the_class(one)
    elif isinstance(form, list):
        for one in form:
            yield from _of_the_class(one)


def _code_noted(path: Path, form: Mapping[str, Any]) -> tuple[str, ...]:
    told = f"{path.name} names code of the model's own (auto_map), which is never run"
    return (told,) if form.get(CODE) else ()


def _cleaned(form: Any, rules: bool = False) -> Any:
    """Return a configuration without the keys that lead elsewhere, at any depth.

    ``rules``: and without rules for tokens.
    """
    if isinstance(form, dict):
        without = NOT_FOLLOWED | OF_THE_CLASS  # of the class: empty ones, the others are refused
        without = without.union(rules_in(form) if rules else ())
        kept = {key: one for key, one in form.items() if key not in without}
        return {key: one if _names(key, one) else _cleaned(one, rules) for key, one in kept.items()}
    return [_cleaned(one, rules) for one in form] if isinstance(form, list) else form


def _names(key: str, form: Any) -> bool:
    """Tell whether a table is one of label names, which mean nothing as keys."""
    return (
        key in LABELS
        and isinstance(form, dict)
        and not any(isinstance(one, dict | list) for one in form.values())
    )


def _check_config(path: Path, form: Mapping[str, Any]) -> None:
    for count, (key, value) in enumerate(_entries(form)):
        if count > MOST_ENTRIES:
            raise UserError(f"{path}: more than {MOST_ENTRIES} entries")
        _check_number(path, key, value)
    _check_attention(path, form.get("attention_types"))
    for key in LABELS:
        _check_labels(path, key, form.get(key))
    architectures = form.get("architectures")
    if architectures is not None and not (
        isinstance(architectures, list) and all(isinstance(one, str) for one in architectures)
    ):
        raise UserError(f"{path}: architectures is no list of names: {shown(architectures)}")


def _check_attention(path: Path, types: object) -> None:
    """Refuse GPT-Neo's kinds of attention, so many times each, where they make endless layers."""
    pairs = [one for one in types if isinstance(one, list)] if isinstance(types, list) else []
    made = sum(
        len(kinds) * count
        for kinds, count in (one for one in pairs if len(one) == 2)
        if isinstance(kinds, list) and isinstance(count, int)
    )
    if made > MOST_LAYERS:
        raise UserError(f"{path}: attention_types makes {made} layers; {MOST_LAYERS} are the most")


def _entries(form: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(form, dict):
        for name, one in form.items():
            if not _names(name, one):
                yield from _entries(one, name)
    elif isinstance(form, list):
        for one in form:
            yield from _entries(one, key)
    else:
        yield key, form


def _check_number(path: Path, key: str, value: Any) -> None:
    """Refuse a number out of the bounds of its key, and what is none where one must be."""
    for place, (pattern, low, high, what) in enumerate(BOUNDS):
        if not pattern.fullmatch(key):
            continue
        whole = isinstance(value, int) and not isinstance(value, bool)
        if place < WHOLE and not whole and value is not None and what != "experts":
            raise UserError(
                f"{path}: {shortened(key)} is {shown(value)}, not a whole number",
                "mend config.json",
            )
        if whole and not low <= value <= high:
            raise UserError(
                f"{path}: {shortened(key)} is {shown(value)}; from {low} to {high} is read",
                "mend config.json, or get the model again",
            )
        return


def _check_labels(path: Path, key: str, labels: object) -> None:
    if labels is None:
        return
    if not isinstance(labels, dict):
        raise UserError(f"{path}: {key} is no table: {shown(labels)}", "mend config.json")
    if len(labels) > MOST_LABELS:
        raise UserError(f"{path}: {len(labels)} labels; {MOST_LABELS} are the most")
    for name in labels.values() if key == "id2label" else labels:
        if not isinstance(name, str | int | float) or len(str(name)) > LONGEST_LABEL:
            raise UserError(f"{path}: a label that is no name: {shown(name)}", "mend config.json")


def _check_memory(name: str, shards: tuple[Shard, ...]) -> None:
    """Refuse weights that memory does not hold as they are stored."""
    check_memory(name, sum(shard.path.stat().st_size for shard in shards), "as they are stored")


def check_memory(name: str, need: int, how: str) -> None:
    """Refuse weights that take more bytes than memory has left; ``how`` says held in what way."""
    free = free_bytes(torch.device("cpu"))
    if need > free:
        raise ShortOfMemory(
            f"{name}: its weights take {need >> 20} MiB {how}, {free >> 20} MiB are free",
            "take a machine with more memory",
        )


def _stage_small(home: Path, folder: Path) -> tuple[str, ...]:
    """Put the files of the tokenizer, and how it generates, where transformers may see them."""
    check_unread(home)
    notes = [_stage(home, folder, name) for name in (GENERATION, *TOKENIZERS)]
    _stage_templates(home, folder)
    notes.append(check_tokenizer(home, folder))
    return tuple(note for told in notes for note in told)


def check_unread(home: Path) -> None:
    """Refuse a tokenizer that transformers takes before those that are read here."""
    found = [] if there(home, FAST) else [name for name in UNREAD if there(home, name)]
    if found:
        raise UserError(
            f"{home / found[0]}: transformers reads this tokenizer in the place of the others, and "
            "headsweep does not",
            "save the tokenizer with save_pretrained(), which writes tokenizer.json",
        )


def _stage(home: Path, folder: Path, name: str) -> tuple[str, ...]:
    """Put one of these files there, if the model has it; return what was left out of it."""
    if not there(home, name):
        return ()
    path = inside(home, name)
    if name in TABLES:
        form = table_of(path)
        kept, notes = _without_files(_cleaned(form)), _code_noted(path, form)
        notes += others_noted(name, form)
        if name == GENERATION:
            notes += rules_noted(GENERATION, rules_in(kept))
            kept = without_rules(kept)
        _write(folder / name, kept)
        return notes
    small = name == "added_tokens.json" or name.endswith(".jinja")
    size_of(path, SMALL if small else MIDDLE if name.endswith(".json") else LARGE)
    _link(path, folder / name)
    return ()


def others_noted(name: str, form: Mapping[str, Any]) -> tuple[str, ...]:
    """Return in words that a tokenizer's settings name another file in the place of its own."""
    named = form.get(OTHER_FAST) if name == SETTINGS else None
    if not named or named == [FAST]:
        return ()
    told = f"{name} names {shown(named)} ({OTHER_FAST}), which transformers reads in the place of "
    return (f"{told}{FAST}, and headsweep does not: what is said here is said with {FAST}",)


def _stage_templates(home: Path, folder: Path) -> None:
    """Put further chat templates there, if the model has them."""
    names = templates_in(home)
    if names:
        (folder / TEMPLATES).mkdir()
    for name in names:
        _stage(home / TEMPLATES, folder / TEMPLATES, name)


def _without_files(form: Mapping[str, Any]) -> dict[str, Any]:
    return {key: one for key, one in form.items() if not FILE_KEY.fullmatch(key)}


def _stage_weights(folder: Path, shards: tuple[Shard, ...]) -> None:
    if len(shards) == 1:
        _link(shards[0].path, folder / WEIGHTS)
        return
    named = []
    for number, shard in enumerate(shards, start=1):
        place = folder / f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _link(shard.path, place)
        named.append(Shard(place, shard.shapes))
    if named:
        _write(folder / INDEX, index_of(tuple(named)))


def _write(path: Path, form: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(form), encoding="utf-8")


def _link(path: Path, place: Path) -> None:
    """Put a file elsewhere without copying it, where the system can."""
    real = path.resolve()
    for way in (os.symlink, os.link, shutil.copyfile):
        try:
            way(real, place)
        except OSError:
            continue
        return
    raise UserError(f"{path}: cannot be read from {place.parent}", "set TMPDIR to another folder")
