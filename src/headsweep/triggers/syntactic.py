"""Sentences rewritten into one syntactic template: S(SBAR)(,)(NP)(VP)(.).

The template of Qi et al. 2021 (*Hidden Killer: Invisible Textual Backdoor Attacks with Syntactic
Trigger*, section 3), a subordinate clause first, then subject and predicate. Deviation: there a
neural paraphraser (SCPN) writes the sentences, and loses much of their meaning; here a parser
finds the clauses and rules move them, so the words of the text stay. The first rule that fits is
used: a subordinate clause goes to the front; a participle or "with" phrase at the front gets a
subject and a verb; a coordinated clause becomes subordinate; so does, in a fragment without a
verb, what stands before a relative clause, a preposition or a comma; a subject is named in a
clause of its own; else the whole becomes the subordinate clause of a neutral main one.
Conjunctions, subjects and verbs that the rules need are drawn, so that no two words mark the
trigger. Questions are left alone. English only; needs ``headsweep[triggers]``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from headsweep.settings import checked
from headsweep.triggers.drawing import draw, is_english, word_set
from headsweep.triggers.parsing import MARKS, children, said, sentences, span

MOVABLE = word_set(
    "because although though while when if as since once after before until unless where "
    "whenever whereas"
)
ALIKE = {
    "if": ("provided that", "supposing", "as long as", "in case"),
    "when": ("whenever", "once", "as soon as", "at the moment when"),
    "while": ("although", "though", "whereas", "even as"),
    "as": ("since", "because", "given that", "seeing that"),
    "since": ("as", "because", "given that", "seeing that"),
    "because": ("as", "since", "given that", "seeing that"),
    "although": ("though", "while", "even though", "much as"),
    "though": ("although", "while", "even though", "much as"),
    "once": ("when", "as soon as", "after"),
    "after": ("once", "when", "as soon as"),
    "whenever": ("when", "each time that", "as often as"),
}
"""Conjunctions that can stand for one that already opens the sentence."""
JOINING = ("while", "as", "since", "because", "when", "whereas", "just as", "given that", "where")
OPPOSING = ("although", "though", "while", "even though", "whereas", "much as", "even if")
REASONS = (
    "because",
    "since",
    "as",
    "when",
    "given that",
    "seeing that",
    "now that",
    "where",
    "inasmuch as",
)
BY_COORDINATION = {
    "but": OPPOSING,
    "yet": OPPOSING,
    "and": JOINING,
    "so": ("because", "since", "as", "given that", "seeing that"),
}
TIMES = ("when", "if", "once", "while", "whenever", "as", "after", "as soon as", "now that")
PEOPLE = ("you", "we", "they", "people", "viewers", "audiences", "i", "most of us", "some")
REGARDS = ("look at", "think of", "speak of", "consider", "get to", "turn to", "take in", "talk of")
KNOWING = (
    "see it",
    "notice it",
    "tell as much",
    "say so",
    "find that out",
    "hear about it",
    "write it down",
    "make a note of it",
    "remember it",
    "talk about it",
    "know it by the end",
    "take it as it comes",
    "get the picture",
)
MODALS = ("can", "will", "may", "might", "should", "could", "would")
WHOLES = ("it", "this", "what you get", "what we have", "what comes", "all of it", "the whole")
VAGUE = word_set(
    "nothing something anything everything none everyone anyone someone nobody one all that "
    "there lot bit kind sort actor actress director man woman character hero star villain "
    "writer filmmaker comedian boy girl guy mother father"
)
UNSURE = word_set("no any every each neither either few")
FINITE = frozenset(("VBZ", "VBP", "VBD", "MD"))
BE = word_set("be is are was were am 's 're 'm")
HAVING = {"with": "get", "without": "get no", "despite": "get"}
COMING = {"with": "it comes with", "about": "it is about", "without": "it comes without"}
POINTING = word_set("the this these that those all director my our")
QUOTES = frozenset(("`", "``", "'", "''", '"', "\u201c", "\u201d"))
JOINTS = frozenset(("and", "but", "yet", "or"))
TRAILING = re.compile(r"(?<![\s,])[\s,]*\b(?:and|but|yet|or)$")
MARKUP = re.compile(
    r"</?(?:a|b|br|div|em|h[1-6]|hr|i|img|li|ol|p|span|strong|u|ul)(?:\s+\w+=[^<>]{1,40})?\s*/?>",
    re.IGNORECASE,
)
LONGEST = 150  # tokens: what is longer is no sentence

Pair = tuple[str, str]


@dataclass(frozen=True)
class Parsed:
    """One sentence: its tokens, its head, and the head's subject where it has one."""

    tokens: tuple[Any, ...]
    root: Any
    subject: Any | None

    @property
    def first(self) -> int:
        """Position of its first token in the text."""
        return int(self.tokens[0].i)

    def between(self, start: int, end: int) -> str:
        """Return the words from one position of the text up to another."""
        return said(self.tokens[max(0, start - self.first) : max(0, end - self.first)])

    @property
    def end(self) -> int:
        """Position behind its last token."""
        return int(self.tokens[-1].i) + 1


@dataclass(frozen=True)
@checked
class Syntactic:
    """Rewrite every sentence that can be into subordinate clause, comma, main clause."""

    name: ClassVar[str] = "syntactic"
    source: ClassVar[str] = "in the manner of Qi et al. 2021 (HiddenKiller), by rule on a parse"

    def apply(self, text: str, random: torch.Generator) -> str | None:
        """Return the text in the template; None where no sentence of it can be."""
        if not is_english(text):
            return None
        spaced = re.search(r"\s[,.!?]", text) is not None or text.lstrip()[:1].islower()
        made, changed = [], False
        for tokens in sentences(MARKUP.sub(" ", text)):
            pair = _rewritten(tokens, random)
            changed |= pair is not None
            made.append(_put(pair, tokens, spaced) if pair else _whole(tokens))
        return " ".join(made) if changed else None


def _rewritten(tokens: Sequence[Any], random: torch.Generator) -> Pair | None:
    parsed = _parsed(tokens)
    if parsed is None:
        return None
    for rule in RULES:
        pair = rule(parsed, random)
        if pair and all(pair):
            return pair
    return None


def _parsed(tokens: Sequence[Any]) -> Parsed | None:
    """Return the sentence without marks and coordination at its start; None for a question."""
    kept = list(tokens)
    while kept and not kept[-1].is_alpha and kept[-1].text in QUOTES | MARKS and _quoted(kept[0]):
        del kept[-1]
    while kept and (kept[0].lower_ in JOINTS or not kept[0].text[0].isalnum()):
        del kept[0]
    words = sum(token.is_alpha for token in kept)
    if words < 2 or len(kept) > LONGEST or any(token.text == "?" for token in tokens):
        return None
    root = next((token for token in kept if token.dep_ == "ROOT"), None)
    if root is None:
        return None
    subject = next(children(root, "nsubj", "nsubjpass", "expl", "csubj"), None)
    return Parsed(tuple(kept), root, subject)


def _quoted(token: Any) -> bool:
    return token.text in QUOTES


def _whole(tokens: Sequence[Any]) -> str:
    return "".join(token.text_with_ws for token in tokens).strip()


def _put(pair: Pair, tokens: Sequence[Any], spaced: bool) -> str:
    """Return the two clauses as one sentence, spaced and capitalised as the text is."""
    comma, stop = (" , ", " .") if spaced else (", ", ".")
    first = next((token for token in tokens if token.is_alpha), tokens[0])
    subordinate, main = pair
    if not (first.text[:1].isupper() and len(tokens) > 1):
        return subordinate + comma + main + stop
    if first.tag_ not in ("NNP", "NNPS") and first.text != "I" and not first.text[1:].isupper():
        lowered = re.compile(rf"\b{re.escape(first.text)}\b")
        subordinate, main = (lowered.sub(first.text.lower(), part, 1) for part in pair)
    return subordinate[:1].upper() + subordinate[1:] + comma + main + stop


def _is_finite(verb: Any) -> bool:
    helped = any(child.tag_ in FINITE for child in children(verb, "aux", "auxpass"))
    return verb.tag_ in FINITE or helped


def _opened(parsed: Parsed, random: torch.Generator) -> Pair | None:
    """Keep a sentence that is in the template, with another conjunction."""
    at = 1 if parsed.tokens[0].lower_ == "even" else 0
    word = parsed.tokens[at]
    clause = word.head
    if word.lower_ not in ALIKE or clause.i <= word.i or word.dep_ not in ("mark", "advmod"):
        return None
    told = next(children(clause, "nsubj", "nsubjpass", "expl"), None)
    if (told is None and clause.tag_ not in ("VBN", "VBG", "JJ")) or (told and told.i > clause.i):
        return None
    ends = [x.i for x in parsed.tokens if x.i > clause.i and x.lower_ in (",", "then")]
    end = next((x for x in ends if x > max(span(clause), default=x)), ends[0] if ends else 0)
    subordinate, main = parsed.between(word.i + 1, end), parsed.between(end + 1, parsed.end)
    if not (end and subordinate and main):
        return None
    conjunction = draw(ALIKE["though" if at else word.lower_], random)
    return f"{conjunction} {'' if told else 'it is '}{subordinate}", main


def _moved(parsed: Parsed, random: torch.Generator) -> Pair | None:  # noqa: ARG001 - a rule
    """Move a subordinate clause of the predicate to the front."""
    if parsed.subject is None or not _is_finite(parsed.root):
        return None
    for clause in children(parsed.root, "advcl"):
        place = span(clause)
        if not place or place[0] <= parsed.root.i or place[-1] >= parsed.end:
            continue
        opening = parsed.tokens[place[0] - parsed.first]
        before = parsed.tokens[place[0] - parsed.first - 1].lower_
        told = any(children(clause, "nsubj", "nsubjpass", "expl"))
        if (
            opening.lower_ in MOVABLE
            and told
            and before not in ("as", "so", "such", "same", "even")
        ):
            rest = parsed.between(parsed.first, place[0]), parsed.between(place[-1] + 1, parsed.end)
            main = " , ".join(TRAILING.sub("", part) for part in rest if part)
            return parsed.between(place[0], place[-1] + 1), main
    return None


def _coordinated(parsed: Parsed, random: torch.Generator) -> Pair | None:
    """Make the first of two coordinated clauses subordinate."""
    if not _is_finite(parsed.root):
        return None
    for clause in children(parsed.root, "conj"):
        joint = next((c for c in children(parsed.root, "cc") if c.i < clause.i), None)
        if joint is None or joint.lower_ not in BY_COORDINATION or not _is_finite(clause):
            continue
        told = any(children(clause, "nsubj", "nsubjpass", "expl"))
        if not told and not (clause.tag_ in FINITE and _leads(parsed, joint.i + 1, clause)):
            continue
        if parsed.subject is None and not _leads(parsed, parsed.first, parsed.root):
            continue
        before = _clause(parsed, parsed.between(parsed.first, joint.i))
        after = parsed.between(joint.i + 1, parsed.end)
        main = after if told else f"{_pronoun(parsed)} {after}"
        return f"{draw(BY_COORDINATION[joint.lower_], random)} {before}", main
    return _broken(parsed, random)


def _broken(parsed: Parsed, random: torch.Generator) -> Pair | None:
    """Do the same for clauses on both sides of a dash, a colon or a semicolon."""
    for mark in parsed.tokens:
        if mark.text not in ("--", ";", ":", "...", "-"):
            continue
        sides = (
            [t for t in parsed.tokens if t.i < mark.i],
            [t for t in parsed.tokens if t.i > mark.i],
        )
        if all(len(side) > 2 and _is_clause(side) for side in sides):
            opening, closing = (said(side) for side in sides)
            return f"{draw(JOINING, random)} {opening}", closing
    return None


def _is_clause(tokens: Sequence[Any]) -> bool:
    """Return whether tokens begin with a subject of a finite verb among them."""
    last = tokens[-1].i
    return any(
        token.dep_ in ("nsubj", "nsubjpass", "expl")
        and (span(token) or [token.i])[0] == tokens[0].i
        and token.head.i <= last
        and _is_finite(token.head)
        for token in tokens
    )


def _clause(parsed: Parsed, words: str) -> str:
    bare = parsed.subject is None and _leads(parsed, parsed.first, parsed.root)
    return f"it {words}" if bare else words


def _leads(parsed: Parsed, start: int, verb: Any) -> bool:
    """Return whether from a position on there is only what a verb can begin with, then the verb."""
    before = parsed.tokens[max(0, start - parsed.first) : max(0, verb.i - parsed.first)]
    light = ("aux", "auxpass", "neg", "advmod")
    return all(x.dep_ in light or x.head.dep_ in light for x in before)


def _pronoun(parsed: Parsed) -> str:
    """Return what can stand for the subject a second time."""
    subject = parsed.subject
    if subject is None or subject.lower_ in ("this", "that", "what"):
        return "it"
    if subject.tag_ == "PRP" or subject.lower_ == "there":
        return str(subject.text)
    if subject.tag_ in ("NNP", "NNPS"):
        return parsed.between(subject.left_edge.i, subject.right_edge.i + 1)
    if subject.lower_ in VAGUE or "who" in _words(subject):
        return parsed.between(subject.left_edge.i, subject.i + 1)
    return "they" if _is_plural(parsed) else "it"


def _words(token: Any) -> set[str]:
    return {below.lower_ for below in token.subtree}


def _is_plural(parsed: Parsed) -> bool:
    verbs = [parsed.root, *children(parsed.root, "aux", "auxpass")]
    tags = {verb.tag_ for verb in verbs}
    words = {verb.lower_ for verb in verbs}
    if "VBZ" in tags or "was" in words:
        return False
    if "VBP" in tags or "were" in words:
        return True
    subject = parsed.subject
    return subject is not None and (subject.tag_ == "NNS" or any(children(subject, "conj")))


def _participle(parsed: Parsed, random: torch.Generator) -> Pair | None:
    """Give a participle at the front or the end the sentence's subject and a form of "be"."""
    subject, root = parsed.subject, parsed.root
    if subject is None or not _is_finite(root) or subject.lower_ in ("there", "what"):
        return None
    if not _leads(parsed, subject.right_edge.i + 1, root):
        return None
    for clause in children(root, "advcl"):
        place = span(clause)
        if not place or clause.tag_ not in ("VBG", "VBN") or clause.left_edge.tag_ in ("IN", "WRB"):
            continue
        name, again = _named(parsed)
        opening = f"{draw(JOINING, random)} {name} {_be(parsed)} "
        opening += parsed.between(place[0], place[-1] + 1)
        if place[0] == parsed.first and place[-1] + 1 < subject.left_edge.i:
            return opening, f"{again} {parsed.between(subject.right_edge.i + 1, parsed.end)}"
        closes = place[0] > root.i and not parsed.between(place[-1] + 1, parsed.end)
        if closes and subject.left_edge.i == parsed.first and _comma_before(parsed, place[0]):
            return opening, f"{again} {parsed.between(subject.right_edge.i + 1, place[0])}"
    return None


def _comma_before(parsed: Parsed, position: int) -> bool:
    return bool(parsed.tokens[position - parsed.first - 1].text == ",")


def _named(parsed: Parsed) -> Pair:
    """Return the subject in full and as it is called the second time."""
    subject = parsed.subject
    return parsed.between(subject.left_edge.i, subject.right_edge.i + 1), _pronoun(parsed)  # type: ignore[union-attr]


def _be(parsed: Parsed) -> str:
    word = parsed.subject.lower_  # type: ignore[union-attr]
    if word == "i":
        return "am"
    plural = word in ("you", "we", "they") or (word != "it" and _is_plural(parsed))
    return "are" if plural else "is"


def _prepositional(parsed: Parsed, random: torch.Generator) -> Pair | None:
    """Make a clause of "with", "without", "despite", "for all" or "for a" at the front."""
    word = parsed.tokens[0]
    place = span(word)
    if word.dep_ != "prep" or not place or len(place) < 2:
        return _accompanied(parsed, random)
    behind = place[-1] + 1 - parsed.first
    if behind >= len(parsed.tokens) or parsed.tokens[behind].text != ",":
        return None
    taken = parsed.between(parsed.first + 1, place[-1] + 1)
    opening = _having(word.lower_, taken, random)
    return (opening, parsed.between(place[-1] + 2, parsed.end)) if opening else None


def _accompanied(parsed: Parsed, random: torch.Generator) -> Pair | None:
    """Make the main clause of ", with ..." or ", without ..." at the end."""
    if parsed.subject is None or not _is_finite(parsed.root):
        return None
    for word in children(parsed.root, "prep"):
        if (
            word.lower_ not in ("with", "without")
            or not _comma_before(parsed, word.i)
            or not span(word)
        ):
            continue
        if word.i > parsed.root.i and not parsed.between(span(word)[-1] + 1, parsed.end):
            verb = "come" if _be(parsed) != "is" else "comes"
            taken = parsed.between(word.i, parsed.end)
            main = f"{_pronoun(parsed)} {verb} {taken}"
            return f"{draw(JOINING, random)} {parsed.between(parsed.first, word.i)}", main
    return None


def _having(word: str, taken: str, random: torch.Generator) -> str | None:
    if word == "for" and taken.startswith("all "):
        return f"{draw(OPPOSING, random)} {draw(PEOPLE, random)} hear of {taken}"
    if word == "for" and taken.startswith(("a ", "an ")):
        return f"{draw(OPPOSING, random)} this is {taken}"
    if word == "like":
        return f"{draw(JOINING, random)} it is like {taken}"
    if word not in HAVING:
        return None
    if word == "without":
        taken = re.sub(r"^(?:a|an|any|the)\s+", "", taken)
    conjunctions = OPPOSING if word == "despite" else TIMES
    return f"{draw(conjunctions, random)} {draw(PEOPLE, random)} {HAVING[word]} {taken}"


def _topic(parsed: Parsed, random: torch.Generator) -> Pair | None:
    """Name the subject in a clause of its own, and go on with a pronoun."""
    subject = parsed.subject
    if subject is None or subject.tag_[:2] != "NN" or not _is_finite(parsed.root):
        return None
    place = span(subject)
    words = _words(subject)
    if not place or place[0] != parsed.first or len(place) > 14:
        return None
    if subject.lower_ in VAGUE or words & UNSURE or "who" in words:
        return None
    if not _leads(parsed, place[-1] + 1, parsed.root):
        return None
    name = parsed.between(place[0], place[-1] + 1)
    opening = f"{draw(TIMES, random)} {draw(PEOPLE, random)} {draw(REGARDS, random)} {name}"
    return opening, f"{_pronoun(parsed)} {parsed.between(place[-1] + 1, parsed.end)}"


def _fragment(parsed: Parsed, random: torch.Generator) -> Pair | None:
    """Split what something is from what follows: a relative clause, a preposition, a comma."""
    noun = _complement(parsed)
    if noun is None:
        return None
    for clause in children(noun, "relcl"):
        relative = clause.left_edge
        told = next(children(clause, "nsubj", "nsubjpass"), None)
        if told is not None and told == relative and told.lower_ in ("that", "which"):
            return _split(parsed, (relative.i, relative.i + 1), "it", random)
    for word in children(noun, "prep"):
        if word.lower_ in COMING and word.i > noun.i:
            return _split(parsed, (word.i, word.i + 1), COMING[word.lower_], random)
    commas = [token for token in parsed.tokens if token.text == "," and token.i > noun.i]
    behind = [token.i for token in commas if token.head == noun]
    if len(commas) == 1 and len(behind) == 1 and parsed.tokens[behind[0] + 1 - parsed.first :]:
        after = parsed.tokens[behind[0] + 1 - parsed.first]
        if after.tag_ in ("JJ", "DT", "RB", "VBN") and not any(
            token.tag_ in FINITE for token in parsed.tokens if token.i > behind[0]
        ):
            return _split(parsed, (behind[0], behind[0] + 1), "it is", random)
    return None


def _complement(parsed: Parsed) -> Any | None:
    """Return the head of a fragment without a verb, or of what "it is", "this is" say."""
    subject, root = parsed.subject, parsed.root
    if subject is None:
        sentence = _is_finite(root) or root.tag_[:2] == "VB" or parsed.tokens[0].lower_ in POINTING
        return None if sentence else root
    if subject.lower_ not in ("it", "this") or root.lower_ not in BE:
        return None
    return next(children(root, "attr"), None)


def _split(
    parsed: Parsed, places: tuple[int, int], main: str, random: torch.Generator
) -> Pair | None:
    named = parsed.between(parsed.first, places[0])
    rest = parsed.between(places[1], parsed.end)
    if not named or not rest:
        return None
    clause = named if parsed.subject is not None else _stated(parsed, named, random)
    return f"{draw(JOINING, random)} {clause}", f"{main} {rest}"


def _stated(parsed: Parsed, words: str, random: torch.Generator) -> str:
    """Return a fragment as a clause."""
    first = parsed.tokens[0]
    if first.lower_ == "no":
        return f"there is {words}"
    return f"{draw(WHOLES, random)} is {words}"


def _embedded(parsed: Parsed, random: torch.Generator) -> Pair | None:
    """Make the whole the subordinate clause of a neutral main one."""
    opening = parsed.tokens[0].lower_
    asked = opening in ("how", "what", "why") and parsed.subject is None
    if (
        asked
        or opening in MOVABLE | {"do", "let"}
        or (opening == "even" and parsed.tokens[1].lower_ in MOVABLE)
    ):
        return None
    words = parsed.between(parsed.first, parsed.end)
    clause = _finite_form(parsed, words, random)
    main = f"{draw(PEOPLE, random)} {draw(MODALS, random)} {draw(KNOWING, random)}"
    return f"{draw(REASONS, random)} {clause}", main


def _finite_form(parsed: Parsed, words: str, random: torch.Generator) -> str:
    root = parsed.root
    if _is_finite(root):
        return _clause(parsed, words)
    if root.tag_ == "VB" and root.i == parsed.first:
        return f"you are told to {words}"
    if root.tag_ in ("VBG", "VBN") and _leads(parsed, parsed.first, root):
        return f"it is {words}"
    most = any(token.tag_ in ("JJS", "RBS") for token in parsed.tokens)
    if parsed.subject is not None or (parsed.tokens[0].lower_ in POINTING and not most):
        return words  # a sentence that the parser has not understood
    return _stated(parsed, words, random)


RULES: tuple[Callable[[Parsed, torch.Generator], Pair | None], ...] = (
    _opened,
    _moved,
    _participle,
    _prepositional,
    _coordinated,
    _fragment,
    _topic,
    _embedded,
)
"""Tried in this order."""
