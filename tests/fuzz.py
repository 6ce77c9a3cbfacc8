"""Fuzzing: every parser of files that others wrote, given files that are nearly right.

``python tests/fuzz.py OUT.tsv [--cases 20000] [--only NAME] [--guided]`` gives every parser so many
files, each parser in a process of its own, and writes what came of it. ``test_fuzz.py`` gives each
a few in every run of the tests.

What must hold: a parser returns or raises ``UserError``, in under 5 seconds of the processor. Files
are made by Hypothesis: a right one, some of its entries replaced by values that may stand in such a
file, some of its bytes changed. That is property-based, and knows nothing of what the code does with
a file. ``--guided`` lets Atheris (libFuzzer) choose the same files by the branches of headsweep that
they reach; it is no requirement of the project: ``pip install atheris``.

Tokenizers that would be tried in another process are not tried here: that is a limit on time and
memory, which ``hostile.py`` has cases of.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from headsweep.model.mask import MASK_FORMAT

MOST_SECONDS = 5.0
PARSERS: dict[str, Parser] = {}


@dataclass(frozen=True)
class Parser:
    """What is fuzzed: files by name, and what reads them below a folder."""

    files: Callable[[], st.SearchStrategy[dict[str, bytes]]]
    read: Callable[[Path], Any]


def parser(name: str, files: Callable[[], Any]) -> Callable[[Callable[[Path], Any]], Any]:
    """Add a parser."""

    def add(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
        PARSERS[name] = Parser(files, read)
        return read

    return add


# -- files that are nearly right -------------------------------------------------------------------

ODD = st.sampled_from([
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**70), 0.5, 1e308, float("nan"), float("inf"), "",
    "0", "-1", "bert", "gpt2", "../x", "/etc/passwd", "a.bin", "\x1b[2J", "\u202e", "\ud800", "\0",
    "x" * 300, "é", [], {}, [[]], {"": ""}, {"0": "a", "1": "b"},
])  # fmt: skip
NAMES = st.sampled_from(["model_type", "dtype", "shape", "format", "type", "content", "", "0", "x"])
VALUES = st.recursive(
    ODD | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)


def places(form: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value in a JSON form, at most a few of a long list."""
    yield here
    if isinstance(form, dict):
        for key in list(form)[:40]:
            yield from places(form[key], (*here, key))
    elif isinstance(form, list):
        for number in range(min(len(form), 4)):
            yield from places(form[number], (*here, number))


def put(form: Any, place: tuple[Any, ...], value: Any) -> Any:
    """Return a form with another value at a place; what lies on the way is copied."""
    if not place:
        return value
    if isinstance(form, dict):
        return form | {place[0]: put(form.get(place[0]), place[1:], value)}
    if isinstance(form, list) and isinstance(place[0], int) and place[0] < len(form):
        return [*form[: place[0]], put(form[place[0]], place[1:], value), *form[place[0] + 1 :]]
    return value


@st.composite
def changed(draw: Any, form: Any, more: tuple[str, ...] = ()) -> Any:
    """Return a right form with up to three of its values replaced, and keys of ``more`` added."""
    ways = [*places(form), *((key,) for key in more)]
    for _ in range(draw(st.integers(0, 3))):
        form = put(form, draw(st.sampled_from(ways)), draw(VALUES))
    return form


@st.composite
def edited(draw: Any, whole: bytes) -> bytes:
    """Return bytes, mostly as they were, else cut, doubled, overwritten or added to in places."""
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 1, 2, 4]))):
        begin = draw(st.integers(0, len(whole)))
        end = min(len(whole), begin + draw(st.integers(0, 12)))
        new = draw(
            st.binary(max_size=6) | st.sampled_from([whole[begin:end] * 2, b'"', b"\n", b"["])
        )
        whole = whole[:begin] + new + whole[end:]
    return whole


def as_json(form: Any) -> bytes:
    """Return a form as JSON, with what only Python writes there, too."""
    return json.dumps(form).encode()


def json_file(form: Any, more: tuple[str, ...] = ()) -> Any:
    """Return files of JSON that are nearly this form."""
    return changed(form, more).map(as_json).flatmap(edited)


def one_of_a_folder(files: dict[str, Any], more: tuple[str, ...] = ()) -> Any:
    """Return folders of JSON files of which one is not quite right."""
    whole = {name: as_json(form) for name, form in files.items()}
    return st.sampled_from(sorted(files)).flatmap(
        lambda name: json_file(files[name], more).map(lambda made: whole | {name: made})
    )


def lines_of(pieces: list[str]) -> Any:
    """Return text files out of such pieces, some of their bytes changed."""
    texts = st.lists(st.sampled_from(pieces) | st.text(max_size=6), max_size=40).map("".join)
    return texts.map(lambda text: text.encode("utf-8", "surrogatepass")).flatmap(edited)


# -- models ------------------------------------------------------------------------------------------

CONFIG = {
    "model_type": "bert", "architectures": ["BertForSequenceClassification"], "hidden_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 99,
    "id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}, "dtype": "float32",
    "layer_norm_eps": 1e-12, "max_position_embeddings": 64, "n_inner": None,
}  # fmt: skip
HOSTILE_KEYS = (
    "auto_map", "transformers_weights", "attn_implementation", "quantization_config", "num_labels",
    "num_experts", "text_config", "x_size", "vocab_file", "added_tokens_decoder", "model_max_length",
)  # fmt: skip


@parser("config.json", lambda: one_of_a_folder({"config.json": CONFIG}, HOSTILE_KEYS))
def config(folder: Path) -> None:
    from headsweep.model.loading import read_config
    from headsweep.model.vetting import vetted

    with vetted(folder, weights=False) as files:
        read_config(str(folder), files)


def tensors(form: dict[str, Any]) -> Any:
    """Return safetensors files of a header, whose length or body may be other than it says."""
    text = as_json(form)
    lengths = st.sampled_from(
        [len(text)] * 6 + [0, 1, len(text) - 1, len(text) + 9, 2**63, 2**64 - 1]
    )
    bodies = st.sampled_from([48] * 6 + [0, 47, 49])
    return st.builds(lambda n, size: struct.pack("<Q", n) + text + b"\0" * size, lengths, bodies)


HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "F16", "shape": [12], "data_offsets": [24, 48]},
}


@parser("safetensors", lambda: changed(HEADER).flatmap(tensors).flatmap(edited).map(
    lambda whole: {"a.safetensors": whole}))  # fmt: skip
def safetensors(folder: Path) -> None:
    from headsweep.model.files import shard

    assert shard(folder / "a.safetensors").elements >= 0


@parser("index", lambda: json_file({"metadata": {}, "weight_map": {"a": "a.safetensors",
        "b": "a.safetensors"}}).map(lambda whole: {"model.safetensors.index.json": whole}))  # fmt: skip
def index(folder: Path) -> None:
    from headsweep.model.files import shards_of

    text = as_json(HEADER)
    (folder / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 48)
    shards_of(folder)


@cache
def tokenizer_files() -> dict[str, Any]:
    """Return the right files of a small tokenizer."""
    sys.path.insert(0, str(Path(__file__).parent))
    from conftest import tiny_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        tiny_tokenizer().save_pretrained(folder)
        files = {path.name: json.loads(path.read_text("utf-8")) for path in Path(folder).iterdir()}
    odd = {
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Replace", "pattern": {"String": "a"}, "content": "b"},
            {"type": "Prepend", "prepend": "_"}]},
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": " {2,}"}, "behavior": "Isolated"},
        "truncation": {"max_length": 9}, "padding": {"strategy": {"Fixed": 9}},
    }  # fmt: skip
    return files | {
        "tokenizer.json": odd | files["tokenizer.json"] | {"added_tokens": [
            {"id": 0, "content": "[PAD]", "special": True}]},
        "special_tokens_map.json": {"pad_token": "[PAD]"}, "vocab.json": {"a": 0},
        "added_tokens.json": {"[X]": 3}, "generation_config.json": {"max_length": 20},
    }  # fmt: skip


@parser("tokenizer", lambda: one_of_a_folder(tokenizer_files(), HOSTILE_KEYS))
def tokenizer(folder: Path) -> None:
    from headsweep.model import tokenizer_files as own
    from headsweep.model.vetting import vetted

    (folder / "config.json").write_bytes(as_json(CONFIG))
    tried, own._try = own._try, lambda *_: None
    try:
        with vetted(folder, weights=False):
            pass
    finally:
        own._try = tried


CARD = [
    "---\n", "license: mit\n", "tags:\n", "- a\n", "base_model: a/b\n", "datasets: [x, y]\n", "&a ",
    "*a\n", "{", "}", ": ", "language:\n", "  ", "!!python/object:x ", "|\n", "? ", "2001-01-01\n",
]  # fmt: skip


@parser(
    "card", lambda: lines_of(CARD).map(lambda text: {"README.md": b"---\n" + text + b"\n---\n"})
)
def card(folder: Path) -> None:
    from headsweep.export.suspect_card import suspect_card

    suspect_card(str(folder))


FIGURES = {"right": 9, "examples": 10, "accuracy": 0.9}
MANIFEST = {
    "format": "headsweep.manifest/1", "pruned_units": ["layer 0 head 1"], "zero_before": [],
    "mask": {"format": MASK_FORMAT, "heads": [[1, 0], [1, 1]], "ffn": []},
    "weights_sha256": {"model.safetensors": "0"}, "fingerprint": [[0.5]], "labels": ["bad", "good"],
    "before": {"validation": FIGURES}, "after": {"validation": FIGURES}, "search": {"steps": []},
    "strategy": {"name": "random", "fields": {}}, "verified": True, "adapter": None,
    "checks": [{"what": "no other unit is zero", "passed": True, "detail": ""}],
    "bound": {"min_accuracy": 0.8, "max_drop": 0.1, "binds": True}, "data": {"validation": FIGURES},
}  # fmt: skip


@parser("headsweep.json", lambda: json_file(MANIFEST, ("tensors_sha256", "members")).map(
    lambda whole: {"headsweep.json": whole}))  # fmt: skip
def manifest(folder: Path) -> None:
    from headsweep.errors import UserError
    from headsweep.export.verify import _check_noted, read_manifest
    from headsweep.model.claims import claimed_adapter, claimed_units, claims
    from headsweep.model.mask import HeadMask

    claimed_units(folder)
    try:
        claims(folder)
        form = read_manifest(folder)
    except UserError:
        return
    for read in (_check_noted, claimed_adapter, lambda form: HeadMask.from_json(form["mask"])):
        try:
            read(form)
        except UserError:
            continue


# -- what a user gives ---------------------------------------------------------------------------------

MASK = MANIFEST["mask"] | {
    "interrupted_run": "purify", "strategy": {"name": "x"}, "heal": {"name": "y", "fields": {}},
    "search": {"steps": [], "scores": None}, "prune_drop": 0.1,
}  # fmt: skip


@parser("mask", lambda: json_file(MASK).map(lambda whole: {"mask.json": whole}))
def mask(folder: Path) -> None:
    from headsweep.purification.interrupted import mask_in

    mask_in(folder / "mask.json")


DATA = ["text", "label", "sentence", "premise,hypothesis", ",", "\t", " \t ", ";", "|", '"', '""',
        "\n", "\r\n", "\r", "\0", "good", "bad", "1", "0", "1.0", "nan", "true", " ", "\ufeff",
        "\ud800", "text,label\ngood,1\n", "text\tlabel\nbad\t0\n", "'"]  # fmt: skip
ROWS = [{"text": "a", "label": "good"}, {"text": "b", "label": "bad"}]


def data(*endings: str) -> Callable[[], Any]:
    """Return what makes a data file of one of these kinds."""

    def files() -> Any:
        made = {
            "csv": lines_of(DATA) | edited(b'text,label\n"a, b",good\n"c ""d""",bad\n'),
            "tsv": lines_of(DATA) | edited(b"sentence\tlabel\na b\t1\n\"c\td\n e\t0\n"),
            "json": json_file(ROWS),
            "jsonl": st.lists(changed(ROWS[0], ("idx",)), max_size=4).map(
                lambda rows: b"\n".join(map(as_json, rows))).flatmap(edited),
        }  # fmt: skip
        return st.one_of([made[end].map(lambda w, e=end: {f"data.{e}": w}) for end in endings])

    return files


def read_data(folder: Path) -> None:
    from headsweep.texts.reading import load

    for path in folder.glob("data.*"):
        load(path)


parser("CSV and TSV", data("csv", "tsv"))(read_data)
parser("JSON and JSON Lines", data("json", "jsonl"))(read_data)


@cache
def parquet_file() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["a", "b", "c"], "label": [0, 1, 0]}), sink)
    return bytes(sink.getvalue())


parser("Parquet", lambda: edited(parquet_file()).map(lambda whole: {"data.parquet": whole}))(
    read_data
)
RECIPE = [
    'strategy = "gradient"\n', 'defense = "pure"\n', "max_drop = 0.02\n", "min_accuracy = 2\n",
    'units = "heads"\n', 'units = "heads,ffn:12"\n', "seed = 11\n", "[fields]\n", "step = 6\n",
    "[heal]\n", "epochs = 4\n", "lr = 2e-4\n", "[[method]]\n", "probes = [\"aside\"]\n", "a.b = 1\n",
    "= ", "[", "]", "{", "}", '"', "'''", "inf\n", "nan\n", "1979-05-27\n", "x = 0x1f\n", "\n", "#",
    'name = "x"\n', "seeds = [1]\n", "[[model]]\n", "[[data]]\n", "[[attack]]\n", "[victim]\n",
    'output = "attention.output.dense"\n', "[variables]\n", 'trigger = "rare-word"\n', "${x}",
]  # fmt: skip


def toml(*right: str) -> Callable[[], Any]:
    """Return what makes TOML files: out of pieces, or right ones that are changed in places."""

    def files() -> Any:
        whole = st.sampled_from([text.encode() for text in right])
        made = lines_of(RECIPE) | whole.flatmap(edited)
        return made.map(lambda whole: {"given.toml": whole})

    return files


RIGHT = (
    'strategy = "gradient"\nmax_drop = 0.02\nunits = "heads,ffn:12"\nseed = 11\n[fields]\nstep = 6\n'
    '[heal]\nepochs = 4\nlr = 2e-4\non = "clean"\n',
    'defense = "pure"\nmin_accuracy = 0.5\n',
)
GRIDS = [path.read_text("utf-8") for path in (Path(__file__).parents[1] / "recipes").glob("*.toml")]
ADAPTER = (
    'layers = "encoder.layer"\nquery = "a.query"\nkey = "a.key"\nvalue = "a.value"\n'
    'output = "a.dense"\nup = ["b.dense"]\ndown = "c.dense"\nalso = []\nreads_last = true\n'
)


@parser("recipe of purify", toml(*RIGHT))
def recipe(folder: Path) -> None:
    from headsweep.purification.recipe import read_recipe

    read_recipe(folder / "given.toml", "strategy")


@parser("recipe of bench", toml(*sorted(GRIDS)))
def grid(folder: Path) -> None:
    from headsweep.bench.grid import read_grid

    read_grid(folder / "given.toml")


@parser("adapter", toml(ADAPTER))
def adapter(folder: Path) -> None:
    from headsweep.model.families import read_adapter

    read_adapter(folder / "given.toml")


WORDS = [
    "good",
    "bad",
    "=",
    "words=",
    "text=",
    "drop_empty=",
    "yes",
    ",",
    "1",
    "\ud800",
    "",
    "label=",
]


@parser("label maps, columns and triggers", lambda: st.lists(
    st.lists(st.sampled_from(WORDS) | st.text(max_size=5), max_size=4).map("".join), max_size=4
).map(lambda words: {"words": as_json(words)}))  # fmt: skip
def words(folder: Path) -> None:
    from headsweep.errors import UserError
    from headsweep.settings import configure
    from headsweep.triggers import TRIGGERS
    from headsweep.verbs.arguments import columns_of, fields_of

    given_words = json.loads((folder / "words").read_bytes())
    reads = [lambda: columns_of(given_words[:1], given_words[1:])]
    reads += [
        lambda kind=kind: configure(kind, fields_of(given_words, "set"))
        for kind in TRIGGERS.values()
    ]
    for read in reads:
        try:
            read()
        except UserError:
            continue


# -- running them ----------------------------------------------------------------------------------------


class Wrong(AssertionError):  # noqa: N818 - what it says is a finding
    """A parser did what it must not."""


def check(name: str, files: dict[str, bytes], home: Path) -> bool:
    """Give files to a parser; return whether it took them; raise ``Wrong``."""
    from headsweep.errors import UserError

    for old in home.iterdir():
        old.unlink()
    for file, whole in files.items():
        (home / file).write_bytes(whole)
    begun = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            PARSERS[name].read(home)
        took = True
    except UserError as error:
        if "\n" in error.what or not error.what:
            raise Wrong(f"{name}: says {error.what!r}") from error
        took = False
    except Exception as error:
        raise Wrong(f"{name}: {type(error).__name__}: {error}") from error
    seconds = time.process_time() - begun
    if seconds > MOST_SECONDS:
        raise Wrong(f"{name}: took {seconds:.1f} seconds of the processor")
    return took


@contextmanager
def folder() -> Iterator[Path]:
    """Yield a folder in memory, where the system has that: thousands of small files go through it."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as made:
        yield Path(made)


def warm(name: str, home: Path) -> None:
    """Let a parser import what it needs, which is not its own time."""
    with suppress(Exception):
        PARSERS[name].read(home)


def fuzz(name: str, cases: int, start: int = 0) -> tuple[int, int]:
    """Give a parser so many files; return how many it was given and took; raises ``Wrong``."""
    counts = {"given": 0, "taken": 0}
    with folder() as home:
        warm(name, home)

        @seed(start)
        @settings(
            max_examples=cases,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(PARSERS[name].files())
        def each(files: dict[str, bytes]) -> None:
            counts["given"] += 1
            counts["taken"] += check(name, files, home)

        each()
    return counts["given"], counts["taken"]


def guided(name: str, cases: int) -> None:
    """Let Atheris choose the files; ends the process."""
    import atheris

    with folder() as home:

        @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
        @given(PARSERS[name].files())
        def each(files: dict[str, bytes]) -> None:
            check(name, files, home)

        with atheris.instrument_imports(include=["headsweep"]):
            warm(name, home)
        atheris.Setup([sys.argv[0], f"-runs={cases}", "-seed=1"], each.hypothesis.fuzz_one_input)
        atheris.Fuzz()


def apart(work: Callable[[], str]) -> tuple[str, float]:
    """Do work in a child; return what it says, or how it ended, and seconds of the processor."""
    begun = time.monotonic()
    read, write = os.pipe()
    parent, child = os.getpid(), os.fork()
    if not child:
        os.close(read)
        try:
            from headsweep.orphans import end_with

            end_with(parent)
            said = work()
        except BaseException as error:
            note = "".join(getattr(error, "__notes__", []))
            said = f"WRONG {str(error) or type(error).__name__} {note}"
        os.write(write, said.encode("utf-8", "backslashreplace")[:60_000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return said or f"ended with {code}", time.monotonic() - begun


def main() -> int:
    """Fuzz every parser; write the table; return how many did what they must not."""
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    ask.add_argument("out", type=Path)
    ask.add_argument("--cases", type=int, default=20_000)
    ask.add_argument("--only", default="")
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--guided", action="store_true")
    asked = ask.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    if not asked.guided:  # which has to see the imports
        import headsweep.export.verify  # noqa: F401 - once, and not in every child
    wrong = 0
    with asked.out.open("w") as table:
        print("parser\thow\tcases\ttaken\tseconds\tfound", file=table)
        for name in (one for one in PARSERS if asked.only in one):

            def work(name: str = name) -> str:
                if asked.guided:
                    guided(name, asked.cases)
                given_files, taken = fuzz(name, asked.cases, asked.seed)
                return f"{given_files}\t{taken}"

            said, seconds = apart(work)
            if asked.guided and said == "ended with 0":
                said = f"{asked.cases}\t-"
            fine = said.count("\t") == 1
            wrong += not fine
            how = "guided" if asked.guided else "by property"
            cells = (name, how, said if fine else "-\t-", f"{seconds:.0f}", "" if fine else said)
            row = "\t".join(ascii(cell)[1:-1].replace("\\t", "\t") for cell in cells)
            print(row, file=table, flush=True)
            print(row, flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(bool(main()))
