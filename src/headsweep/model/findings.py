"""What a folder of a model holds that is refused, left out or never read: all of it, listed.

Loading stops at the first thing that it refuses. Here every step of vetting is taken, and every
file is looked at by its name, its kind and its first bytes; none is opened as what it says it is.
Nothing here judges weights: a backdoor is no file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from headsweep.bounded import DEEPEST, size_of, table_of, text_of
from headsweep.drafts import MANIFEST
from headsweep.errors import UserError, shown, shown_all
from headsweep.foreign import one_line
from headsweep.model import joined, scanner
from headsweep.model.claims import claims
from headsweep.model.files import INDEX, PICKLES, in_blobs, inside, shard, there
from headsweep.model.generating import QUIET, TOKEN_RULES
from headsweep.model.hub import CARD
from headsweep.model.joined import adapter_folder, adapter_refusals
from headsweep.model.template_words import looked_for, texts_in
from headsweep.model.tokenizer_files import (
    FAST,
    SETTINGS,
    TEMPLATE,
    TEMPLATES,
    TOKENIZERS,
    rewriting,
    templates_in,
)
from headsweep.model.vetting import (
    CODE,
    CONFIG,
    GENERATION,
    OTHER_FAST,
    TABLES,
    home_of,
    left_out,
    others_noted,
    refusals,
)

ERROR, WARNING, NOTE = LEVELS = ("error", "warning", "note")
MOST_FILES = 10_000
RULES: Mapping[str, str] = {
    "config": "a configuration that is refused",
    "weights": "weights that are not what their header, their index or their name says",
    "memory": "weights that do not fit into this machine's memory",
    "tokenizer": "a tokenizer, or how the model generates, that is refused",
    "rewrites": "a tokenizer that puts other words in the place of a text's; it is kept",
    "template": "a chat template that looks for words in what is said; it is kept",
    "manifest": f"a {MANIFEST} that is refused",
    "link": "a link that leads out of the folder, or nowhere",
    "kind": "a pipe, a socket or a device",
    "pickle": "a pickle, or an archive that can hold one: opening it can run code",
    "code": "code that the model brings; it is never run here",
    "elsewhere": "an entry or a file that leads to another model, kernel or file; not followed",
    "generates": "a rule for which tokens are generated, beside the weights; it is left out",
    "format": "weights or a graph in a format that is not read, and that can hold code",
    "many": "more files than were looked at",
    "scanner": "what another scanner says",
    "claim": "what the folder says of itself",
    "unread": "a file that is not read",
}
SUFFIXES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("pickle", (*(kind[1:] for kind in PICKLES), ".pickle", ".joblib", ".dill", ".npy", ".npz",
                ".zip", ".mar")),
    ("code", (".py", ".pyc", ".pyd", ".pth.py", ".ipynb", ".so", ".dll", ".dylib", ".sh", ".bat",
              ".ps1", ".exe", ".js", ".jar", ".whl", ".cu")),
    ("format", (".gguf", ".ggml", ".ggjt", ".h5", ".hdf5", ".keras", ".msgpack", ".onnx", ".ot",
                ".tflite", ".pb", ".nemo", ".engine", ".mlmodel", ".tar", ".gz", ".xz", ".7z")),
)  # fmt: skip
MAGIC: tuple[tuple[str, bytes, str], ...] = (
    *(("pickle", b"\x80" + bytes([protocol]), "a pickle") for protocol in range(2, 6)),
    ("pickle", b"PK\x03\x04", "an archive, as torch.save writes"),
    ("code", b"\x7fELF", "a program"),
    ("code", b"MZ", "a program"),
    ("code", b"#!", "a script"),
    ("format", b"GGUF", "GGUF"),
    ("format", b"\x89HDF", "HDF5"),
)
PLAIN = {
    CONFIG, GENERATION, MANIFEST, INDEX, CARD, *TOKENIZERS, ".gitattributes", ".gitignore",
    "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE",
}  # fmt: skip
"""Files that are read, or that every repository of models has."""
PLAIN_OF_ADAPTER = {joined.CONFIG, *PLAIN} - {CONFIG, GENERATION, INDEX, *TOKENIZERS}
"""The same of an adapter, whose configuration and tokenizer are those of its base."""
COMMON = {
    "_name_or_path", "_commit_hash", "name_or_path", "init_inputs", "_pre_quantization_dtype",
    "tp_plan", "base_model_tp_plan",
}  # fmt: skip
"""Keys that honest models have, too: they are left out without a word."""
KERNELS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")


@dataclass(frozen=True)
class Finding:
    """One thing in a folder.

    Attributes:
        rule: which of ``RULES`` it is of.
        level: ``"error"``: the model is refused for it; ``"warning"``: it is left out or never
            opened, and another program may do otherwise; ``"note"``: it does nothing.
        file: its path below the folder, ``"."`` for the folder itself.
        message: what was found.
        model: whose folder it is, as the user calls it.

    """

    rule: str
    level: str
    file: str
    message: str
    model: str = ""


@dataclass(frozen=True)
class Findings:
    """All that was found.

    Attributes:
        model: what the user calls it.
        findings: the worst first; of an adapter those of its base, too.
        scanner: name and version of the other scanner; empty: none is installed.

    """

    model: str
    findings: tuple[Finding, ...]
    scanner: str

    @property
    def refused(self) -> bool:
        """Whether loading it would end in an error."""
        return any(one.level == ERROR for one in self.findings if one.rule != "scanner")

    @property
    def clean(self) -> bool:
        """Whether nothing was found but notes, which is no proof of anything."""
        return all(one.level == NOTE for one in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return them as JSON values."""
        return {
            "model": self.model,
            "refused": self.refused,
            "clean": self.clean,
            "scanner": self.scanner or None,
            "findings": [asdict(one) for one in self.findings],
        }


def findings_of(source: str | Path, base_model: str | None = None) -> Findings:
    """Return what a model's folder holds that is refused, left out or never read.

    Args:
        source: a folder, or a name of the Hub, of which the files that are read get fetched.
        base_model: the model that it is an adapter of, as ``source``: it is looked at as well.
            Whether the two fit is not.

    Raises:
        UserError: there is no such folder, and the Hub gives none; or no adapter is in it.

    """
    name = str(source)
    if base_model is None:
        found, by = _found(name, home_of(name, weights=True))
    else:
        home = adapter_folder(name).absolute()
        found, by = _found(name, home, adapter=True)
        found += findings_of(base_model).findings
    ordered = sorted(found, key=lambda f: (LEVELS.index(f.level), f.model != name, f.file, f.rule))
    return Findings(name, tuple(ordered), by)


def _found(name: str, home: Path, adapter: bool = False) -> tuple[list[Finding], str]:
    """Return what one folder holds, and the other scanner that looked at it."""
    found: dict[tuple[str, str], Finding] = {}
    rewrites = [Finding("rewrites", WARNING, FAST, told) for told in rewriting(home)]
    looks = [Finding("template", level, file, said) for level, file, said in _templates(home)]
    for one in (*_files(home, adapter), *_keys(home, adapter), *rewrites, *looks):
        found.setdefault((one.file, one.message), one)
    refused = list(adapter_refusals(str(home)) if adapter else refusals(name, home))
    try:
        claim = [Finding("claim", NOTE, MANIFEST, said) for said in claims(home)]
        found |= {(one.file, one.message): one for one in claim}
    except UserError as error:
        refused.append(("manifest", error))
    for rule, why in refused:
        one = _of(why, home, rule, ERROR)
        known = found.get((one.file, one.message), one)  # then its rule says more
        found[one.file, one.message] = replace(known, level=ERROR)
    by, said = scanner.scanned(home)
    for level, file, message in said:
        found.setdefault((file, message), Finding("scanner", level, file, message))
    return [replace(one, model=name) for one in found.values()], by


def _of(error: UserError, home: Path, rule: str, level: str) -> Finding:
    """Return what an error says as a finding: its message begins with the path of a file."""
    said = error.what
    for place in (f"{one_line(str(home))}/", f"{one_line(str(home))}: "):
        if said.startswith(place):
            file, _, message = said.removeprefix(place).partition(": ")
            if place.endswith("/") and message:
                return Finding(rule, level, file, message)
            return Finding(rule, level, ".", said.removeprefix(place))
    return Finding(rule, level, ".", said)


def _files(home: Path, adapter: bool) -> Iterator[Finding]:
    """Yield what is told of files by their kind, name and first bytes."""
    for count, path in enumerate(_walk(home, DEEPEST)):
        if count >= MOST_FILES:
            yield Finding("many", WARNING, ".", f"more than {MOST_FILES} files: no more looked at")
            return
        found = _of_file(home, path, adapter)
        if found is not None:
            yield found


def _walk(folder: Path, deepest: int) -> Iterator[Path]:
    """Yield every entry below a folder that is not itself a folder; no link is followed."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # not for us to read, so not for transformers either
        entries = []
    for entry in entries:
        if entry.is_dir(follow_symlinks=False) and deepest:
            yield from _walk(Path(entry.path), deepest - 1)
        else:
            yield Path(entry.path)


def _of_file(home: Path, path: Path, adapter: bool) -> Finding | None:
    file = one_line(path.relative_to(home).as_posix())
    try:
        if path.is_symlink():
            _check_link(home, path)
        if path.is_dir():  # through a link that stays, or too deep
            return Finding("unread", NOTE, file, "a folder that is not looked into")
        size_of(path, None)
        with path.open("rb") as opened:
            first = opened.read(8)
    except UserError as error:
        rule = "link" if path.is_symlink() else "kind"
        return replace(_of(error, home, rule, WARNING), file=file)
    except OSError as error:
        return Finding("unread", WARNING, file, f"cannot be looked at: {error.strerror}")
    return _of_content(path, file, first, adapter)


def _check_link(home: Path, path: Path) -> None:
    """Refuse a link that leads out of the folder, as ``inside`` does; raises UserError."""
    if path.parent == home:
        inside(home, path.name)
        return
    try:
        real = path.resolve(strict=True)
        stays = real.is_relative_to(home.resolve()) or in_blobs(path.parent.resolve(), real)
    except (OSError, RuntimeError):
        stays = False
    if not stays:
        raise UserError(f"{path}: a link that leads out of the folder, or nowhere")


def _of_content(path: Path, file: str, first: bytes, adapter: bool) -> Finding | None:
    """Return what the name and the first bytes of a regular file tell."""
    lower = path.name.lower()
    weights = lower.endswith(".safetensors")
    if weights:
        try:
            shard(path)
        except UserError as error:
            return replace(_of(error, path.parent, "weights", WARNING), file=file)
    for rule, magic, what in () if weights else MAGIC:  # a header's length may look like anything
        if first.startswith(magic):
            return Finding(rule, WARNING, file, f"by its first bytes {what}; it is not opened")
    for rule, suffixes in SUFFIXES:
        if lower.endswith(suffixes):
            return Finding(rule, WARNING, file, f"{RULES[rule]}; it is not opened")
    if lower == joined.CONFIG and not (adapter and file == joined.CONFIG):
        return Finding("elsewhere", WARNING, file, "an adapter, which names another model")
    if weights or file in (PLAIN_OF_ADAPTER if adapter else PLAIN):
        return None
    return Finding("unread", NOTE, file, RULES["unread"])


def _keys(home: Path, adapter: bool) -> Iterator[Finding]:
    """Yield the entries of configurations that are left out and are not in every model."""
    if adapter and (base := joined.named_base(home)):
        told = f"its base is {base} by its own word, which is not followed"
        yield Finding("elsewhere", NOTE, joined.CONFIG, told)
    for file in TABLES:
        try:
            form = table_of(inside(home, file)) if there(home, file) else {}
        except UserError:  # refused, and told as such
            continue
        for key, value in left_out(form, file):
            if value and key not in COMMON and value not in KERNELS:
                code = key == CODE or key.startswith("custom_")
                rule = "code" if code else "elsewhere"
                if key in TOKEN_RULES:
                    rule = "generates"
                level = NOTE if key in QUIET or (_stays(value) and not code) else WARNING
                level = WARNING if key == OTHER_FAST and others_noted(file, form) else level
                yield Finding(rule, level, file, f"{key} is {shown(value)}, which is left out")


def _templates(home: Path) -> Iterator[tuple[str, str, str]]:
    """Yield of each chat template that looks for words in messages, or hides it, what it says.

    With its level and its file before that.
    """
    texts: list[tuple[str, str]] = []
    with suppress(UserError, OSError):
        if there(home, SETTINGS):
            own = table_of(inside(home, SETTINGS)).get("chat_template")
            texts += [(SETTINGS, one) for one in texts_in(own)]
        if there(home, TEMPLATE):
            texts.append((TEMPLATE, text_of(inside(home, TEMPLATE))))
        for name in templates_in(home):
            path = inside(home / TEMPLATES, name)
            texts.append((f"{TEMPLATES}/{name}", text_of(path)))
    for file, text in texts:
        words = looked_for(text)
        if words is None:
            yield WARNING, file, "cannot be looked through for words that it looks for in messages"
        elif words:
            yield NOTE, file, f"looks for {shown_all(sorted(words))} in messages"


def _stays(value: object) -> bool:
    """Tell whether a value is the plain name of a file, or several."""
    names = value if isinstance(value, list) else [value]
    return all(isinstance(one, str) and PurePath(one).name == one for one in names)
