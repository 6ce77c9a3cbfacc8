"""An adapter of peft as the suspect: added to the model that it was trained on, of whoever asks.

An adapter folder names its base model, which is the suspect's word: nothing follows it. Whoever
gives the folder gives the base as well, and both are looked through before anything is loaded.
peft reads such a folder with all that its configuration asks for, code among it (``auto_mapping``).
Here it is read by hand: plain LoRA, whose sum with a weight is one product (Hu et al. 2022). What
else a configuration asks for is refused by name, since to leave it out would make another model.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from headsweep.bounded import table_of
from headsweep.errors import UserError, shortened, shown
from headsweep.model.files import Shard, inside, shard, there

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ASKED_FOR = "base_model_name_or_path"
CODE = "auto_mapping"
PREFIX = "base_model.model."  # of the names of tensors
HARMLESS = frozenset((
    "task_type", "peft_type", "peft_version", "revision", "inference_mode", "lora_dropout",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save",
    "fan_in_fan_out", "megatron_core", "qalora_group_size", "r", "lora_alpha", "use_rslora",
    "init_lora_weights", "bias", ASKED_FOR,
))  # fmt: skip
"""Keys that are read here, or that change nothing once it is trained."""
BEGINNINGS = (True, False, None, "gaussian", "orthogonal")
"""Of A and B; others change the weights of the base as well."""
MERGED = "PeftModel.from_pretrained(base, adapter).merge_and_unload()"
MERGE = "merge it first: peft's merge_and_unload(), save_pretrained()"
TAKEN_BY = ("purify", "defend", "detect", "inspect", "evaluate", "probe")
"""Commands that take an adapter with its base: those that look at a suspect."""
EVERY_LINEAR, LONGEST_PATTERN = "all-linear", 2_000
SLOW = re.compile(r"\)[*+{]|\\\d")  # repeats of what may repeat, and what was matched before
REPEATS = re.compile(r"[*+{]")
MOST_RANK, MOST_ALPHA, MOST_LABELS = 1 << 16, 1e6, 10_000
LAST = (
    re.compile(r"(?:score|classifier|classification_head)(?:\.(?:out_proj|linear_out))?\.weight"),
    re.compile(r"logits_proj\.weight"),  # XLNet
    re.compile(r"sequence_summary\.summary\.weight"),  # XLM, Flaubert
)
"""The last projection of a classifier, which has a row for every label: the first that is there."""


def has_adapters(model: Any) -> bool:
    """Tell whether a model in memory carries adapters of peft, by any way to put them in."""
    if hasattr(model, "peft_config") or getattr(model, "_hf_peft_config_loaded", False):
        return True
    modules = model.modules() if isinstance(model, nn.Module) else ()  # deleted ones leave layers
    return any(type(one).__module__.startswith("peft.") for one in modules)


@dataclass(frozen=True)
class Chosen:
    """Which modules peft adds to, as the configuration chooses them.

    Attributes:
        targets: names of modules, or a pattern of them.
        excluded: of which these are left out.
        layers: the numbers of layers; empty: all.
        patterns: names behind which the number of a layer stands; empty: the first number is it.

    """

    targets: tuple[str, ...] | re.Pattern[str]
    excluded: tuple[str, ...] | re.Pattern[str] = ()
    layers: tuple[int, ...] = ()
    patterns: tuple[str, ...] = ()

    def takes(self, module: str) -> bool:
        """Tell whether peft adds to a module of this name, by peft's own rules."""
        if _meant(module, self.excluded) or not _meant(module, self.targets):
            return False
        if not self.layers or (isinstance(self.targets, tuple) and module in self.targets):
            return True
        return self._layer(module) in self.layers

    def _layer(self, module: str) -> int | None:
        """Return the number of the layer that a module is in, as peft reads it from the name."""
        parts = module.split(".")
        places = [i for i in range(1, len(parts) - 1) if parts[i].isdecimal()]
        if not self.patterns:
            return next((int(parts[i]) for i in places if i > 1), None)
        behind = (
            int(parts[i])
            for pattern in self.patterns
            for i in places
            if _meant(".".join(parts[:i]), (pattern,))
        )
        return next(behind, None)


def _meant(module: str, names: tuple[str, ...] | re.Pattern[str]) -> bool:
    if isinstance(names, tuple):
        return any(module == name or module.endswith(f".{name}") for name in names)
    return bool(names.fullmatch(module))


@dataclass(frozen=True)
class Adapter:
    """An adapter that was looked through.

    Attributes:
        name: what the user calls it.
        scale: what its products are multiplied by.
        rank: of its products.
        chosen: which modules have one.
        whole: names of modules that it holds whole.
        classifies: it says that it was trained to classify texts.
        file: its tensors.

    """

    name: str
    scale: float
    rank: int
    chosen: Chosen
    whole: tuple[str, ...]
    classifies: bool
    file: Shard


def is_adapter(source: str | Path) -> bool:
    """Tell whether a folder holds an adapter and no model."""
    folder = Path(source)
    return folder.is_dir() and there(folder, CONFIG) and not there(folder, "config.json")


def needs_base(home: Path) -> UserError:
    """Return what to say of an adapter whose base nobody gave."""
    named = named_base(home)
    told = f", by its own word of {named}" if named else ""
    return UserError(
        f"{home}: holds only an adapter{told}, not a model",
        f"{', '.join(TAKEN_BY)} take it with --base-model MODEL, the model that it was trained on; "
        f"for others {MERGE}",
    )


def named_base(home: Path) -> str:
    """Return the base that an adapter names, to be shown and not followed; empty: none."""
    try:
        named = table_of(inside(home, CONFIG)).get(ASKED_FOR)
    except UserError:
        named = None
    return shown(named) if isinstance(named, str) else ""


def read_adapter_folder(name: str) -> Adapter:
    """Return the adapter in a folder, by its configuration and the header of its tensors.

    Raises:
        UserError: it is none, or asks for more than plain LoRA.

    """
    folder = adapter_folder(name)
    return Adapter(name, *_asked(folder), _file(folder))


def adapter_refusals(name: str) -> Iterator[tuple[str, UserError]]:
    """Yield every step of reading an adapter that refuses it: a word for it, and what it says.

    Raises:
        UserError: there is no such folder.

    """
    folder, asked = adapter_folder(name), None
    try:
        asked = _asked(folder)
    except UserError as error:
        yield "config", error
    try:
        file = _file(folder)
        if asked is not None:
            found = Adapter(name, *asked, file)
            _sorted(found)
            head_of(found)
    except UserError as error:
        yield "weights", error


def adapter_folder(name: str) -> Path:
    """Return the folder of an adapter whose base was given; raises UserError where it is none."""
    folder = Path(name)
    if not folder.is_dir() or not there(folder, CONFIG):
        raise UserError(
            f"{name}: no folder with an {CONFIG}, and a base model was given",
            "leave out the base model, or give the folder of its adapter",
        )
    return folder


def _asked(folder: Path) -> tuple[float, int, Chosen, tuple[str, ...], bool]:
    """Return scale, rank, targets, whole modules and the kind, as the configuration has them."""
    path = inside(folder, CONFIG)
    form = table_of(path)
    kind = form.get("peft_type")
    if kind != "LORA":
        raise UserError(f"{path}: an adapter of the type {shown(kind)}; LORA is read", MERGE)
    known = HARMLESS | ({CODE} if _of_transformers(form.get(CODE)) else set())
    other = next((key for key, one in form.items() if one and key not in known), None)
    if other is not None:
        raise UserError(f"{path}: {shortened(other)} is asked for, which is not read here", MERGE)
    begins, bias = form.get("init_lora_weights", True), form.get("bias", "none")
    if not any(begins is one or begins == one for one in BEGINNINGS) or bias != "none":
        what = f"bias {shown(bias)}" if bias != "none" else f"init_lora_weights {shown(begins)}"
        raise UserError(f"{path}: {what} changes the base's own weights", MERGE)
    rank, alpha = form.get("r"), form.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or not 0 < rank <= MOST_RANK:
        raise UserError(f"{path}: r is {shown(rank)}, not a rank", "mend it, or get it again")
    if not isinstance(alpha, int | float) or not abs(alpha) <= MOST_ALPHA:
        raise UserError(f"{path}: lora_alpha is {shown(alpha)}", "mend it, or get it again")
    return (
        alpha / (math.sqrt(rank) if form.get("use_rslora") else rank),
        rank,
        _chosen(path, form),
        _names(path, form, "modules_to_save"),
        form.get("task_type") == "SEQ_CLS",
    )


def _file(folder: Path) -> Shard:
    """Return the tensors of an adapter, by their header."""
    if not there(folder, WEIGHTS):
        raise UserError(f"{folder}: no {WEIGHTS}; a pickle is never opened", MERGE)
    return shard(inside(folder, WEIGHTS))


def _of_transformers(code: object) -> bool:
    """Tell whether what names a class names one of transformers, as peft does of its own accord."""
    library = code.get("parent_library") if isinstance(code, dict) else None
    return isinstance(library, str) and library.startswith("transformers.models.")


def _chosen(path: Path, form: Mapping[str, Any]) -> Chosen:
    """Return which modules peft adds to; raises UserError for what cannot be followed."""
    layers = form.get("layers_to_transform")
    layers = [] if layers is None else layers if isinstance(layers, list) else [layers]
    if not all(type(one) is int for one in layers):
        raise UserError(f"{path}: layers_to_transform is {shown(layers)}", "mend it")
    behind = form.get("layers_pattern")
    patterns = (behind,) if isinstance(behind, str) else _names(path, form, "layers_pattern")
    other = next((one for one in patterns if not re.fullmatch(r"[\w.]*", one)), None)
    if other is not None:
        raise UserError(f"{path}: layers_pattern is a pattern: {shown(other)}", MERGE)
    targets = _pattern(path, form, "target_modules")
    excluded = _pattern(path, form, "exclude_modules")
    return Chosen(targets, excluded, tuple(layers), tuple(filter(None, patterns)))


def _pattern(path: Path, form: Mapping[str, Any], key: str) -> tuple[str, ...] | re.Pattern[str]:
    """Return a list of names, or a pattern that takes little time; raises UserError."""
    found = form.get(key)
    if not isinstance(found, str):
        return _names(path, form, key)
    if found == EVERY_LINEAR:  # peft looks them up; any module of the file may be one
        return re.compile(".*")
    if len(found) > LONGEST_PATTERN or SLOW.search(found) or len(REPEATS.findall(found)) > 3:
        raise UserError(f"{path}: {key} is a pattern that is not followed: {shown(found)}", MERGE)
    try:
        return re.compile(found)
    except re.error as error:
        raise UserError(f"{path}: {key} is no pattern: {shown(found)}", "mend it") from error


def _names(path: Path, form: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return a list of names; raises UserError."""
    found = form.get(key)
    if found is None or (isinstance(found, str) and key == "modules_to_save"):
        return ()
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise UserError(f"{path}: {key} is no list of names: {shown(found)}", "mend it")
    return tuple(found)


@dataclass(frozen=True)
class Brought:
    """The classifier that an adapter brings: the names of its tensors, and how many labels."""

    names: frozenset[str]
    labels: int


def head_of(adapter: Adapter) -> Brought | None:
    """Return the classifier that an adapter brings; None: it brings none that can be one.

    Raises:
        UserError: it has more labels than any model may.

    """
    if not adapter.classifies:
        return None
    whole = _sorted(adapter)[1]
    keys = {name: key for key, name in whole.items()}
    last = next((name for one in LAST for name in keys if one.fullmatch(name)), None)
    shape = () if last is None else adapter.file.shapes[keys[last]]
    if len(shape) != 2 or 0 in shape:
        return None
    if shape[0] > MOST_LABELS:
        raise UserError(
            f"{adapter.name}: a classifier of {shape[0]} labels; {MOST_LABELS} are the most"
        )
    return Brought(frozenset(keys), shape[0])


@torch.no_grad()
def join(model: PreTrainedModel, adapter: Adapter, base: str, fresh_head: bool) -> None:
    """Add an adapter to a model's weights (float32), in place.

    Args:
        model: the base.
        adapter: what is added.
        base: what the user calls the base.
        fresh_head: the model has a new classifier, which the adapter's does not replace.

    Raises:
        UserError: the adapter is not this model's, or holds what is no number.

    """
    pairs, whole = _sorted(adapter)
    named = adapter.chosen.targets
    for target in named if isinstance(named, tuple) else ():
        found = (*pairs, *(name.rpartition(".")[0] for name in whole.values()))
        there = [name for name, _ in model.named_modules() if _meant(name, (target,))]
        left_out = there and not any(map(adapter.chosen.takes, there))
        if not left_out and not any(_meant(module, (target,)) for module in found):
            raise UserError(
                f"{adapter.name}: no tensor is of its target {shortened(target)}",
                "get the adapter again: it is not complete",
            )
    other = next((module for module in pairs if not adapter.chosen.takes(module)), None)
    if other is not None:
        raise UserError(
            f"{adapter.name}: holds what is added to {shortened(other)}, which its configuration "
            "does not choose: peft leaves it out",
            MERGE,
        )
    parameters = dict(model.named_parameters(remove_duplicate=False))
    table = {id(p) for p in model.get_input_embeddings().parameters()}
    with safe_open(adapter.file.path, "pt") as file:
        for module, names in pairs.items():
            weight, turned = _weight(model, module, adapter, base)
            if id(weight) in table:
                raise UserError(
                    f"{adapter.name}: {shortened(module)} shares its weights with the embeddings",
                    MERGE,
                )
            a, b = (_tensor(file, names[part], adapter) for part in ("lora_A", "lora_B"))
            outputs, inputs = reversed(weight.shape) if turned else weight.shape
            if a.shape != (adapter.rank, inputs) or b.shape != (outputs, adapter.rank):
                raise _other(
                    adapter, base, f"{shortened(module)} has {inputs} inputs and {outputs} outputs "
                    f"there, and {list(a.shape)} and {list(b.shape)} at rank {adapter.rank} here",
                )  # fmt: skip
            product = (b @ a).T if turned else b @ a
            weight.add_(product.to(weight.device), alpha=adapter.scale)
        for key, name in whole.items():
            own = parameters.get(name)
            if own is None:
                raise _other(adapter, base, f"it has no {shortened(name)}")
            if id(own) in table:
                raise UserError(
                    f"{adapter.name}: it holds embeddings of its own ({shortened(name)}), which "
                    "are not read here",
                    MERGE,
                )
            if fresh_head and not name.startswith(f"{model.base_model_prefix}."):
                continue
            tensor = _tensor(file, key, adapter)
            if tensor.shape != own.shape:
                shapes = f"{list(own.shape)} there, {list(tensor.shape)} here"
                raise _other(adapter, base, f"{shortened(name)} has the shape {shapes}")
            own.copy_(tensor)


def _sorted(adapter: Adapter) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Return the names of the tensors: of products by module and part, and of whole ones."""
    pairs: dict[str, dict[str, str]] = {}
    whole: dict[str, str] = {}
    for key in adapter.file.shapes:
        name = key.removeprefix(PREFIX)
        module, _, part = name.removesuffix(".weight").rpartition(".")
        if part in ("lora_A", "lora_B") and key.startswith(PREFIX) and name.endswith(".weight"):
            pairs.setdefault(module, {})[part] = key
        elif key.startswith(PREFIX) and _is_whole(name, adapter):
            whole[key] = name
        else:
            raise UserError(f"{adapter.name}: {shortened(key)} is no tensor of plain LoRA", MERGE)
    half = next((module for module, parts in pairs.items() if len(parts) < 2), None)
    if half is not None or not pairs:
        what = "no products" if half is None else f"one half of what is added to {shortened(half)}"
        raise UserError(f"{adapter.name}: holds {what}", "get the adapter again")
    return pairs, whole


def _is_whole(name: str, adapter: Adapter) -> bool:
    """Tell whether a tensor is of a module that is held whole: peft goes by how its path ends."""
    parts = name.split(".")
    paths = (".".join(parts[:end]) for end in range(1, len(parts)))
    return any(path.endswith(adapter.whole) for path in paths)


def _weight(
    model: PreTrainedModel, module: str, adapter: Adapter, base: str
) -> tuple[nn.Parameter, bool]:
    """Return the weight of a projection, and whether it is [in, out]."""
    try:
        found = model.get_submodule(module)
    except AttributeError:
        raise _other(adapter, base, f"it has no {shortened(module)}") from None
    if not isinstance(found, nn.Linear | Conv1D):
        kind = type(found).__name__
        raise _other(adapter, base, f"its {shortened(module)} is a {kind}, no projection")
    weight = found.weight
    assert isinstance(weight, nn.Parameter)
    return weight, isinstance(found, Conv1D)


def _tensor(file: Any, key: str, adapter: Adapter) -> Tensor:
    tensor: Tensor = file.get_tensor(key).float()
    if not bool(tensor.isfinite().all()):
        raise UserError(
            f"{adapter.name}: {shortened(key)} holds NaN or infinity", "get the adapter again"
        )
    return tensor


def _other(adapter: Adapter, base: str, why: str) -> UserError:
    return UserError(
        f"{adapter.name} was not trained on {base}: {why}",
        "give the model that the adapter was trained on with --base-model",
    )


def described(adapter: Adapter, base: str, shards: tuple[Shard, ...]) -> dict[str, Any]:
    """Return for a manifest what was joined: the names, and the SHA-256 of all weights."""
    files = (shard.path for shard in shards)
    return {
        "name": base,
        "weights_sha256": dict(map(hashed, files)),
        "adapter_sha256": dict(map(hashed, _files(adapter))),
    }


def _files(adapter: Adapter) -> Iterator[Path]:
    yield inside(Path(adapter.name), CONFIG)
    yield adapter.file.path


def hashed(path: Path) -> tuple[str, str]:
    """Return a file's name and its SHA-256."""
    with path.open("rb") as file:
        return path.name, hashlib.file_digest(file, "sha256").hexdigest()
