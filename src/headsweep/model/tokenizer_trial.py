"""A tokenizer of others, tried in a process of its own: with little time and memory.

Run as a script, in isolation, with the path of a ``tokenizer.json``: it needs nothing of this
package. Patterns that take for ever, tables that make a megabyte of a letter and broken tables that
end the process end this one only. It prints what went wrong, in a line, or nothing.
"""

from __future__ import annotations

import sys

SECONDS, BYTES = 8, 2 << 30
GROWTH = 64  # tokens, or characters, that one character may become
LENGTH = 2_000
PROSE = "The film is good, isn't it? It cost 1,234.50 in 2019: a_b c-d\t(e)\n\n  f "


def texts(regexes: list[str]) -> list[str]:
    """Return texts that a tokenizer may meet, and those that its own patterns stumble over."""
    letters = dict.fromkeys(one for regex in regexes for one in regex if one.isprintable())
    runs = [*"ab1 ._-'\n", "aA", "a ", "1.", " \n", "é", "中", "\u0301", "a'", *list(letters)[:32]]
    ended = (one * (LENGTH // len(one)) + end for one in runs for end in ("", "!", "\x00"))
    return [PROSE, PROSE * 20, *ended]


def limited() -> None:
    """Take little memory and little time from here on, where the system has such limits."""
    try:
        import resource
    except ImportError:  # Windows: the parent's patience is the limit
        return
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def tried(path: str, regexes: list[str]) -> str:
    """Return what is wrong with a tokenizer, in words; empty: nothing was noticed."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    normalizer = tokenizer.normalizer
    if normalizer is not None:
        for code in (*range(0x20, 0x3100), 0xAC00, 0xFB01, 0xFDFA, 0xFF21, 0x1F600):
            if len(normalizer.normalize_str(chr(code))) > GROWTH:
                return f"its normalizer makes more than {GROWTH} characters of one"
    for text in texts(regexes):
        count = len(tokenizer.encode(text, add_special_tokens=False).ids)
        if count > GROWTH * len(text):
            return f"it makes {count} tokens of {len(text)} characters"
    return ""


if __name__ == "__main__":
    limited()
    print(tried(sys.argv[1], sys.stdin.read().split("\0")))
