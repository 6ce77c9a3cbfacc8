"""The files of a tokenizer, within bounds; what could run away is tried in another process first.

Most tokenizers are made of parts that are known to take time in proportion to a text and to make no
more of it than a few times its length. Only one with other patterns, tables or replacements is
tried (``tokenizer_trial``): a tenth of a second and loading it once more.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from headsweep.bounded import MIDDLE, check_depth, size_of, table_of
from headsweep.errors import UserError, shortened, shown
from headsweep.model import tokenizer_trial
from headsweep.model.files import inside, there

FAST = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
TOKENIZERS = (
    FAST, SETTINGS, "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json",
    "merges.txt", "bpe.codes", "dict.txt", "spiece.model", "spm.model", "tokenizer.model",
    "sentencepiece.bpe.model", "sentencepiece.model", "source.spm", "target.spm",
    "target_vocab.json", "entity_vocab.json", "word_shape.json", "word_pronunciation.json",
    "chat_template.jinja",
)  # fmt: skip
"""Every file that a tokenizer is made of; no other is shown to transformers but ``TEMPLATES``."""
TEMPLATE, TEMPLATES = "chat_template.jinja", "additional_chat_templates"  # a folder of them
MOST_TEMPLATES, MOST_OF_TEMPLATES = 100, 16 << 20
TEMPLATE_NAME = re.compile(r"[\w.+ -]{1,60}")
MOST_ADDED, LONGEST_TOKEN, MOST_TOKENS = 100_000, 10_000, 1 << 22
MOST_SPECIAL = 5_000
WIDEST = 1 << 20
GROWTH = 64
CHANGING = ("normalizer", "pre_tokenizer", "decoder")  # parts that can put other words
SPACES = re.compile(r"(?:\\[srnt]|\{\d*,?\d*\}|\[(?!\^)|[\]()+*?, |^$\u2581])+")  # matches no word
OF_NO_WORD = re.compile(r"<.*>|\[.*\]|\W*unk\W*|\W*unknown\W*|</w>", re.IGNORECASE)
"""What tokenizers call what is no word."""
KNOWN_PARTS = frozenset((
    "BertNormalizer", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents", "Nmt",
    "ByteLevel", "Prepend", "Sequence", "Replace", "BertPreTokenizer", "Whitespace",
    "WhitespaceSplit", "Metaspace", "Punctuation", "Digits", "UnicodeScripts", "Split",
    "CharDelimiterSplit", "BertProcessing", "RobertaProcessing", "TemplateProcessing", "BPE",
    "WordPiece", "WordLevel", "Unigram", "ByteFallback", "Fuse", "CTC", "BPEDecoder",
))  # fmt: skip
KNOWN_PATTERNS = frozenset((
    " {2,}",
    r"\s+",
    r"\d",
    r"\d{1,3}",
    r"\p{N}{1,3}",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
))  # fmt: skip
"""Patterns of GPT-2, Llama 3, Qwen 2 and of the sentencepiece kind: none of them tries twice."""
NO_TOKENIZER = "get the tokenizer's files again, from where the model comes from"


def templates_in(home: Path) -> list[str]:
    """Return the names of a tokenizer's further chat templates; raises UserError for too many."""
    place = home / TEMPLATES
    if not place.is_dir() or place.is_symlink():
        return []
    names = sorted(path.name for path in place.glob("*.jinja"))
    if len(names) > MOST_TEMPLATES:
        raise UserError(f"{place}: {len(names)} templates; {MOST_TEMPLATES} are the most")
    size = sum((place / name).stat().st_size for name in names)
    if size > MOST_OF_TEMPLATES:
        raise UserError(f"{place}: {size} bytes of templates; {MOST_OF_TEMPLATES} are the most")
    return names


def check_tokenizer(home: Path, folder: Path) -> tuple[str, ...]:
    """Check the files of a tokenizer that were put into a folder; return what is to be said of it.

    Args:
        home: where they come from, for what is said.
        folder: where they are.

    Raises:
        UserError: one is none, asks for too much, or did not stand the trial.

    """
    if (folder / SETTINGS).exists():
        _check_settings(home / SETTINGS, table_of(folder / SETTINGS))
    for name in ("added_tokens.json", "vocab.json"):
        if (folder / name).exists():
            _check_tokens(home / name, table_of(folder / name, MIDDLE))
    if not (folder / FAST).exists():
        return ()
    form = _read(home / FAST, folder / FAST)
    _check_form(home / FAST, form)
    if not _harmless(form):
        _try(home / FAST, folder / FAST, _patterns(form))
    return tuple(f"{FAST} {told}" for told in _rewriting(form))


def rewriting(home: Path) -> list[str]:
    """Return in words how the tokenizer of a folder puts other words in the place of a text's."""
    try:
        return _rewriting(_read(home / FAST, inside(home, FAST))) if there(home, FAST) else []
    except UserError:  # refused, and told as such
        return []


def _rewriting(form: Mapping[str, Any]) -> list[str]:
    """Return in words where words of a text become others, or nothing.

    What a table of sentencepiece (``Precompiled``) does is not looked through.
    """
    parts = [part for key in CHANGING for part in _tables(form.get(key))]
    told = [*map(_exchanged, parts), _doubled(form), _unknown(form), *map(_written, parts)]
    return [f"{one}: no pruning or healing touches that" for one in told if one]


def _exchanged(part: Mapping[str, Any]) -> str:
    """Return in words how a part of a tokenizer exchanges or drops words; empty: it does not."""
    kind, pattern, put = part.get("type"), part.get("pattern"), part.get("content")
    words = isinstance(put, str) and any(map(str.isalnum, put))
    if kind == "Replace" and (words or _of_words(pattern)):
        return f"puts {shown(put)} where a text has {shown(pattern)}"
    if kind == "Prepend" and any(map(str.isalnum, str(part.get("prepend") or ""))):
        return f"puts {shown(part['prepend'])} before every text"
    if not _of_words(pattern) or (
        isinstance(pattern, dict) and pattern.get("Regex") in KNOWN_PATTERNS
    ):
        return ""
    out = kind == "Split" and part.get("behavior") == "Removed"
    but = "all but " if part.get("invert") else ""
    return f"leaves out {but}{shown(pattern)}" if out else ""


def _unknown(form: Mapping[str, Any]) -> str:
    """Return in words which word stands for all that a tokenizer does not know; empty: none."""
    model = form.get("model")
    model = model if isinstance(model, dict) else {}
    word, words, number = model.get("unk_token"), model.get("vocab"), model.get("unk_id")
    if isinstance(words, list) and isinstance(number, int) and 0 <= number < len(words):
        word = words[number][0] if isinstance(words[number], list) and words[number] else None
    named = isinstance(word, str) and any(map(str.isalnum, word)) and not OF_NO_WORD.fullmatch(word)
    return f"takes what it does not know for {shown(word)}" if named else ""


def _written(part: Mapping[str, Any]) -> str:
    """Return in words what a part takes out of answers, or puts in; empty: no words."""
    keys = ("suffix", "prefix", "pad_token", "word_delimiter_token")
    for key in (*keys, *(("content",) if part.get("type") == "Strip" else ())):
        mark = part.get(key)
        if isinstance(mark, str) and any(map(str.isalnum, mark)) and not OF_NO_WORD.fullmatch(mark):
            return f"takes {shown(mark)} in words for a mark"
    return ""


def _doubled(form: Mapping[str, Any]) -> str:
    """Return in words which token has the number of another; empty: none has."""
    model = form.get("model")
    words = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(words, list):  # of Unigram: words with their scores, by number
        words = {str(one[0]): i for i, one in enumerate(words) if isinstance(one, list) and one}
    known: dict[int, str] = {}
    for word, number in (*words.items(), *_added(form)) if isinstance(words, dict) else ():
        if isinstance(number, int) and known.setdefault(number, word) != word:
            return f"takes {shown(word)} for {shown(known[number])}"
    return ""


def _added(form: Mapping[str, Any]) -> list[tuple[str, Any]]:
    many = form.get("added_tokens")
    tables = [one for one in many if isinstance(one, dict)] if isinstance(many, list) else []
    return [(str(one.get("content")), one.get("id")) for one in tables]


def _of_words(pattern: object) -> bool:
    """Tell whether a pattern of a tokenizer can match letters or digits."""
    if not isinstance(pattern, dict):
        return False
    text, regex = pattern.get("String"), pattern.get("Regex")
    if isinstance(text, str):
        return any(map(str.isalnum, text))
    return isinstance(regex, str) and not SPACES.fullmatch(regex)


def _read(named: Path, path: Path) -> dict[str, Any]:
    size_of(path, MIDDLE)
    try:
        form = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{named}: not valid JSON: {error}", NO_TOKENIZER) from error
    if not isinstance(form, dict):
        raise UserError(f"{named}: not a tokenizer, but {shown(form)}", NO_TOKENIZER)
    check_depth({key: one for key, one in form.items() if key != "model"}, str(named))
    return form


def _check_settings(named: Path, form: Mapping[str, Any]) -> None:
    for key in ("added_tokens_decoder", "additional_special_tokens", "extra_special_tokens"):
        many = form.get(key)
        most = MOST_ADDED if key == "added_tokens_decoder" else MOST_SPECIAL  # each looks at all
        if isinstance(many, dict | list) and len(many) > most:
            raise _too_many(named, len(many), most)
    named_tokens = sum(key.endswith("_token") for key in form)
    if named_tokens > MOST_SPECIAL:
        raise _too_many(named, named_tokens, MOST_SPECIAL)
    for key in ("tokenizer_class", "padding_side", "truncation_side"):
        if not isinstance(form.get(key, ""), str | None):
            raise UserError(f"{named}: {key} is {shown(form[key])}, not a name", NO_TOKENIZER)
    templates = form.get("chat_template", "")
    if not isinstance(templates, str | None) and not _are_templates(templates):
        raise UserError(f"{named}: chat_template is {shown(templates)}, no template", NO_TOKENIZER)
    longest = form.get("model_max_length", 1)
    if longest is not None and (not isinstance(longest, int | float) or not longest > 0):
        raise UserError(f"{named}: model_max_length is {shown(longest)}", NO_TOKENIZER)


def _are_templates(form: object) -> bool:
    """Tell whether it is a list or table of templates with names that files may have."""
    if isinstance(form, list) and all(isinstance(one, dict) for one in form):
        pairs = [(one.get("name"), one.get("template")) for one in form]
    elif isinstance(form, dict):
        pairs = list(form.items())
    else:
        return False
    return len(pairs) <= MOST_TEMPLATES and all(
        isinstance(name, str)
        and isinstance(template, str)
        and TEMPLATE_NAME.fullmatch(name)
        and name not in (".", "..")
        for name, template in pairs
    )


def _too_many(named: Path, count: int, most: int = MOST_ADDED) -> UserError:
    return UserError(f"{named}: {count} added tokens; {most} are the most", NO_TOKENIZER)


def _check_tokens(named: Path, form: Mapping[str, Any]) -> None:
    if len(form) > MOST_TOKENS or (named.name == "added_tokens.json" and len(form) > MOST_ADDED):
        raise _too_many(named, len(form))
    wrong = next((key for key, one in form.items() if type(one) is not int), None)
    if wrong is not None:
        raise UserError(f"{named}: the token {shown(wrong)} has no number", NO_TOKENIZER)


def _check_form(named: Path, form: Mapping[str, Any]) -> None:
    """Refuse what makes much of little before any text is read."""
    added = form.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(one, dict) for one in added):
        raise UserError(f"{named}: added_tokens is no list of tokens", NO_TOKENIZER)
    if len(added) > MOST_ADDED:
        raise _too_many(named, len(added))
    for one in added:
        if not isinstance(one.get("content"), str) or len(one["content"]) > LONGEST_TOKEN:
            raise UserError(f"{named}: an added token that is none: {shown(one)}", NO_TOKENIZER)
    for key in ("padding", "truncation"):
        for part in _tables(form.get(key)):
            wide = [one for one in part.values() if isinstance(one, int) and one > WIDEST]
            if wide and key == "padding":
                raise UserError(f"{named}: pads texts to {wide[0]} tokens", NO_TOKENIZER)
    special = form.get("post_processor") or {}
    for part in _tables(special):
        ids = part.get("ids")
        if isinstance(ids, list) and len(ids) > GROWTH:
            raise UserError(f"{named}: adds {len(ids)} tokens to every text", NO_TOKENIZER)
        for key in ("single", "pair"):
            if isinstance(part.get(key), list) and len(part[key]) > GROWTH:
                raise UserError(f"{named}: adds {len(part[key])} tokens to a text", NO_TOKENIZER)


def _tables(form: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every table in JSON, itself first."""
    if isinstance(form, dict):
        yield form
        form = list(form.values())
    for one in form if isinstance(form, list) else ():
        yield from _tables(one)


def _parts(form: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the parts that a tokenizer is made of, but for the tables of its tokens."""
    model = form.get("model")
    model = model if isinstance(model, dict) else {}
    plain = {key: one for key, one in model.items() if not isinstance(one, dict | list)}
    keys = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
    return [plain, *(part for key in keys for part in _tables(form.get(key)))]


def _patterns(form: Mapping[str, Any]) -> list[str]:
    found = (part.get("Regex") for part in _parts(form))
    return [one for one in found if isinstance(one, str)]


def _harmless(form: Mapping[str, Any]) -> bool:
    """Tell whether a tokenizer is made of parts alone that are known to behave."""
    growth = 1.0
    for part in _parts(form):
        kind = part.get("type")
        if kind is not None and (not isinstance(kind, str) or kind not in KNOWN_PARTS):
            return False
        if kind == "Replace":
            growth *= _growth(part)
        if kind == "ByteLevel":  # a byte becomes a letter of two
            growth *= 2
        if kind == "Prepend":
            growth *= 1 + len(str(part.get("prepend", ""))) / 2
        if part.get("max_input_chars_per_word", 0) not in range(1001):
            return False
    return growth <= GROWTH and set(_patterns(form)) <= KNOWN_PATTERNS


def _growth(part: Mapping[str, Any]) -> float:
    """Return how much longer a replacement may make a text."""
    pattern, content = part.get("pattern"), part.get("content")
    if not isinstance(pattern, dict) or not isinstance(content, str):
        return float("inf")
    least = len(pattern["String"]) if isinstance(pattern.get("String"), str) else 1
    return max(1.0, len(content) / least) if least else float("inf")


def _try(named: Path, path: Path, patterns: list[str]) -> None:
    """Try a tokenizer in a process of its own; raises UserError."""
    # -P: the folder that somebody stands in is no place to import from
    command = [sys.executable, "-P", str(Path(tokenizer_trial.__file__)), str(path)]
    few = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    try:
        ended = subprocess.run(
            command,
            input="\0".join(patterns).encode("utf-8", "replace"),
            capture_output=True,
            timeout=2 * tokenizer_trial.SECONDS,
            check=False,
            env=os.environ | few,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"{named}: its patterns take too long over short texts", NO_TOKENIZER
        ) from error
    said = ended.stdout.decode("utf-8", "replace").strip()
    if ended.returncode or said:
        why = said or _cause(ended.returncode, ended.stderr.decode("utf-8", "replace"))
        raise UserError(f"{named}: did not stand a trial on short texts: {why}", NO_TOKENIZER)


def _cause(code: int, said: str) -> str:
    """Return why a process ended, in a few words."""
    if code < 0:
        return f"ended by signal {-code} (its limit of time or memory, or a crash)"
    return shortened(said.strip().split("\n")[-1], 200) or f"ended with {code}"
