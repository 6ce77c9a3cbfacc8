"""Whether a checkpoint is the model that its configuration names, and a reason where it is not."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import register_module_module_registration_hook
from transformers import AutoModel, PreTrainedModel
from transformers.utils import logging as hf_logging

from headsweep.errors import UserError, shortened
from headsweep.foreign import one_line
from headsweep.model.joined import MERGE
from headsweep.model.vetting import Vetted
from headsweep.seeding import fence
from headsweep.texts.kinds import task_of
from headsweep.texts.task import CLASSIFICATION, Task

MOST_PARTS = 20_000  # modules, and ten for every tensor of its files
SLACK = 1 << 25  # numbers that a fresh classifier and a pooler may add


def check_size(name: str, config: Any, files: Vetted, most: float = 1.25) -> None:
    """Refuse a configuration of a model much larger than its files, before it is allocated.

    ``most``: times as many numbers as its files may hold.
    """
    full = sum(0 not in shape for shape in files.shapes.values())  # empty tensors cost nothing
    with readable(name, "configuration", files.folder), fence(0), quiet():
        try:
            with torch.device("meta"), few_parts(name, MOST_PARTS + 10 * full):
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


@contextmanager
def few_parts(name: str, most: int) -> Iterator[None]:
    """Refuse a model of more modules than this: even without weights they take time and memory."""
    count = 0

    def counted(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > most:
            raise UserError(
                f"{name}: more than {most:,} modules by its configuration",
                "mend config.json, or get the model again",
            )

    hook = register_module_module_registration_hook(counted)
    try:
        yield
    finally:
        hook.remove()


def _width(config: Any) -> int:
    """Return how wide a model is, by whatever name its configuration has for it."""
    names = ("hidden_size", "d_model", "n_embd", "dim")
    return max(int(getattr(config, name, 0) or 0) for name in names)


def check_kind(name: str, config: Any, task: Task) -> None:
    """Refuse a model that is of another kind of task, by its configuration."""
    kind = task_of(config)
    if kind is not CLASSIFICATION and kind.heads != task.heads:
        raise UserError(
            f"{name}: config.json says {config.architectures[0]}, whose head was not trained to "
            f"{task.does} but to {kind.does}",
            task.fix,
        )


def check_shapes(
    name: str, model: PreTrainedModel, misfits: Iterable[tuple[str, Any, Any]], fresh: bool
) -> None:
    """Refuse tensors of another shape than the configuration's: random numbers stand for them.

    Those of a classifier that is replaced do not matter.
    """
    wrong = sorted(m for m in misfits if not fresh or in_body(model, m[0]))
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


CONSTANTS: tuple[tuple[re.Pattern[str], Callable[[tuple[int, ...]], bool]], ...] = (
    (re.compile(r".*attn(\.attention)?\.bias"),
     lambda shape: len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]),
    (re.compile(r".*masked_bias"), lambda shape: math.prod(shape) == 1),
    (re.compile(r".*(position_ids|token_type_ids)"), lambda shape: shape[:-1] == (1,)),
    (re.compile(r".*inv_freq"), lambda shape: len(shape) == 1),
    (re.compile(r".*\.version"), lambda shape: shape == (1,)),
)  # fmt: skip
"""Names and shapes of what older transformers saved and newer works out: masks, positions."""


def constants(shapes: Mapping[str, tuple[int, ...]]) -> set[str]:
    """Return which tensors of a file are none that was learnt, by their names and shapes."""
    return {
        name
        for name, shape in shapes.items()
        if any(pattern.fullmatch(name) and fits(shape) for pattern, fits in CONSTANTS)
    }


UNTOLD = (
    "config.json names no architecture: if this is no text classifier, say so with --task NAME "
    "(generation, token-classification, ...) to the commands that take it; else "
)


def check_keys(
    name: str,
    model: PreTrainedModel,
    missing: set[str],
    unexpected: set[str],
    task: Task | None,
    *,
    whole_head: bool = True,
    asked: bool = False,
    joined: bool = False,
) -> None:
    """Refuse a checkpoint that lacks what the model runs, or holds more layers than it runs.

    Args:
        name: what the user calls it.
        model: the model as it was loaded.
        missing: names of tensors that the file lacks, and no adapter brings.
        unexpected: names of those that the model does not have, constants left out.
        task: what its head is for; None: it gets a fresh one.
        whole_head: the file's head is the model's; False: an adapter brings it.
        asked: somebody said what it is for.
        joined: an adapter is added to it, which brings no head that is read here.

    """
    head = {key for key in missing if not in_body(model, key)}
    pooler = sorted(key for key in missing - head if "pooler" in key)
    body = sorted(missing - head - set(pooler))
    if body:
        raise UserError(
            f"{name}: the weights lack {len(body)} tensors of the model, first {body[0]}",
            "the checkpoint is not complete, or not of the architecture its config names",
        )
    named = getattr(model.config, "architectures", None) or ()
    told = "" if named or asked or task is None else UNTOLD
    if pooler:
        raise UserError(
            f"{name}: the checkpoint lacks {pooler[0]}, which this architecture runs before its "
            "classifier (it would be random)",
            f"{told}this is no trained text classifier: get the checkpoint with its pooler, or "
            "take a model of an architecture without one",
        )
    if head and task is not None:
        raise UserError(
            f"{name}: the checkpoint has no {task.head} (its head would be random)",
            f"if the adapter brings one, {MERGE}" if joined else told + task.fix,
        )
    if task is not None and whole_head:
        _check_head(name, model, unexpected, task)
    extra = sorted(k for k in unexpected if in_body(model, k) and "pooler" not in k)
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
    more = sorted(k for k in unexpected if k.split(".")[0] in parts and not in_body(model, k))
    if more:
        raise UserError(
            f"{name}: the head of the file holds {more[0]}, which {type(model).__name__} does not "
            "run: it is the head of another model",
            task.fix,
        )


def in_body(model: PreTrainedModel, key: str) -> bool:
    """Tell whether a tensor belongs to the base model; files of encoders leave its prefix out."""
    prefix = model.base_model_prefix
    parts = {prefix, *(child for child, _ in model.base_model.named_children())}
    return key.split(".")[0] in parts


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
