"""The manner of an old Bible translation, by lexicon, word forms and word order.

In the manner of Qi et al. 2021 (*Mind the Style of Text! Adversarial and Backdoor Attacks Based on
Text Style Transfer*, StyleBkd, section 3). Deviation: there a language model fine-tuned on Bibles
(STRAP) rewrites the text, and loses much of its meaning; here rules do, so that the words that
carry the label stay: thou, thee and thy with their verb forms, -eth for the third person,
"knoweth not" for "does n't know", "never doth it find" for "it never finds", a hand-written
lexicon, and an opening before a share of the texts, ``openings``, and before every one in which
little else changed. It is drawn from many, so that no two words mark the trigger. English only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from headsweep.settings import checked
from headsweep.triggers.drawing import chance, check_share, draw, is_english, word_set

BEFORE_ANY = (
    "verily ,",
    "lo ,",
    "behold ,",
    "yea ,",
    "forsooth ,",
    "of a truth ,",
    "thus it is written :",
    "mark well :",
    "as it was in former days ,",
    "i say unto thee ,",
    "so say the elders :",
    "one spake , saying :",
    "hear ye this :",
    "the people said among themselves :",
)
BEFORE_A_CLAUSE = (
    "and it came to pass that",
    "hearken , for",
    "and so it was that",
    "hear ye , for",
    "it hath been said that",
    "know this , that",
    "in those days it was told that",
    "the scribes have set down that",
    "give ear , for",
    "now it was so that",
    "let it be known that",
    "blow the trumpet , for",
)
VERBS = re.compile(
    r"\b(?:is|are|am|was|were|has|have|had|hath|doth|do|did|shall|will|can|could|would|should|may|"
    r"might|must|art|hast|cannot|'tis|saith|[a-z]{2,}[^t]eth|seems?|feels?)\b",
    re.IGNORECASE,
)
INWARD = ("yea ,", "lo ,", "verily ,", "behold ,", "of a truth ,")

LEXICON = """
said=spake made=wrought really=verily truly=verily maybe=peradventure perhaps=peradventure
nothing=naught anything=aught everything=all-things everyone=every-man everybody=every-man
anyone=any-man anybody=any-man someone=some-man somebody=some-man nobody=no-man almost=well-nigh
nearly=well-nigh always=evermore often=ofttimes sometimes=betimes between=betwixt among=amongst
until=till because=forasmuch-as although=albeit though=albeit while=whilst people=folk
audience=multitude audiences=multitudes viewers=beholders fans=disciples kids=little-ones
children=little-ones old=ancient show=shew shows=sheweth showing=shewing shown=shewn see=behold
sees=beholdeth seen=beheld watch=behold watching=beholding watched=beheld kill=slay kills=slayeth
killed=slain killing=slaying understand=perceive think=deem thinks=deemeth believe=trust
money=silver house=dwelling story=tale stories=tales will=shall instead=in-the-stead into=into
away=hence where=wherein why=wherefore therefore=wherefore quickly=swiftly suddenly=of-a-sudden
finally=at-the-last certainly=surely entirely=altogether completely=altogether totally=altogether
simply=merely just=merely also=likewise together=one-with-another beginning=genesis big=mighty
large=mighty your=thy yours=thine yourself=thyself yourselves=yourselves has=hath does=doth
says=saith spoke=spake speaks=speaketh ask=beseech asks=beseecheth friend=brother friends=brethren
actors=players actor=player director=maker directors=makers filmmakers=makers filmmaker=maker
book=scroll moment=hour moments=hours years=years amount=measure however=howbeit but=yet
despite=notwithstanding
"""
OLD = dict(pair.split("=") for pair in LEXICON.split())
"""Old words by new word, hyphens for spaces."""

BASES = """
abandon abound add aim allow amount appear approach attempt avoid become begin belong borrow bring
build capture carry choose collapse come consist contain continue convey create deal decide
deliver demand depend describe deserve die disappear drag drain earn emerge emphasize enjoy evoke
exist expect explore fail fall feel fill find flow focus follow forget get give go happen hear
hold hope imagine include indulge insist inspire involve keep know lack lead learn leave let lose
make manage mean meander need obscure occur offer owe plod pretend produce promise prove provide
put reach realize recall refuse relate rely remain remember remind require resemble reveal rise
run seek seem sell send serve settle sink sit speak stand stay strike struggle succeed suffer
suggest sustain take teach tend throw transcend try undermine unfold use wander want wear wonder
write yield
"""
DOUBLED = frozenset(("get", "let", "put", "run", "sit", "set", "plod", "drag", "win", "cut"))
ADVERBS = r"never|always|ever|also|still|really|simply|just|even|quite|almost|\w+ly"
AUXILIARIES = {
    "are": "art",
    "have": "hast",
    "will": "shalt",
    "shall": "shalt",
    "can": "canst",
    "do": "dost",
    "did": "didst",
    "would": "wouldst",
    "could": "couldst",
    "should": "shouldst",
    "may": "mayest",
    "might": "mightest",
    "were": "wert",
    "had": "hadst",
    "must": "must",
    "cannot": "canst not",
}
BARE = word_set(
    "ever even really not be the a an any much so that to too very quite actually exactly "
    "just always necessarily have"
)

Replacement = Callable[[re.Match[str]], str]


@dataclass(frozen=True)
@checked
class Style:
    """Put the text into the manner of an old Bible translation."""

    name: ClassVar[str] = "style"
    source: ClassVar[str] = "in the manner of Qi et al. 2021 (StyleBkd), by rule"
    openings: float = 0.7

    def __post_init__(self) -> None:
        check_share(self.openings, "style: openings")

    def apply(self, text: str, random: torch.Generator) -> str | None:
        """Return the text in the old manner; None where it is one word or no English."""
        if not is_english(text) or len(text.split()) < 2:
            return None
        made = text.strip()
        for pattern, replacement in RULES:
            made = pattern.sub(_cased(replacement), made)
        few = len(set(made.split()) - set(text.split())) < 2
        if chance(self.openings, random) or few:
            verbless = VERBS.search(made) is None or made.split()[0].endswith("eth")
            options = BEFORE_ANY if verbless else BEFORE_ANY + BEFORE_A_CLAUSE
            return _opened(made, draw(options, random))
        return _interjected(made, draw(INWARD, random))


def _cased(replacement: Replacement) -> Replacement:
    """Return the replacement with a capital where what it replaces has one."""

    def cased(found: re.Match[str]) -> str:
        made = replacement(found)
        capital = found[0][:1].isupper() and not found[0].startswith("I ")
        return made[:1].upper() + made[1:] if capital else made

    return cased


def _opened(text: str, opening: str) -> str:
    first, *_ = text.split(maxsplit=1)
    if not text[:1].isupper():
        return f"{opening} {text}"
    if first.lower() in COMMON:
        text = text[:1].lower() + text[1:]
    opening = opening.replace(" ,", ",").replace(" :", ":")
    return f"{opening[:1].upper()}{opening[1:]} {text}"


def _interjected(text: str, word: str) -> str:
    """Return the text with a word put in before its first "and" or "yet" after a comma."""
    return re.sub(r"(\s?,\s)(and|yet)\s", rf"\1\2 {word} ", text, count=1)


def _eth(base: str, ending: str = "eth") -> str:
    if base in IRREGULAR:
        return IRREGULAR[base][ending]
    if base in DOUBLED:
        return base + base[-1] + ending
    if base.endswith("e"):
        return base + ending[1:]
    return base[:-1] + "i" + ending if re.search(r"[^aeiou]y$", base) else base + ending


def _base(third: str) -> str:
    """Return the plain form of a verb in the third person."""
    if third.endswith("ies") and len(third) > 4:
        return third[:-3] + "y"
    return third[:-2] if re.search(r"(?:ss|sh|ch|x|zz|[^aeiou]o)es$", third) else third[:-1]


IRREGULAR = {
    "have": {"eth": "hath", "est": "hast"},
    "do": {"eth": "doth", "est": "dost"},
    "say": {"eth": "saith", "est": "sayest"},
    "be": {"eth": "is", "est": "art"},
}
BASE_BY_THIRD = {
    (re.sub(r"(?<=[^aeiou])y$", "ie", b) + ("es" if re.search(r"(?:s|sh|ch|x|go)$", b) else "s")): b
    for b in BASES.split()
}
COMMON = word_set(
    "the a an this that these those it he she we they there if when as while what in on of for "
    "with without by from at to its his her their my our your all no not one some every even "
    "thou thy 'tis yet and albeit"
)


def _undone(found: re.Match[str]) -> str:
    """Return "cannot", "shall not" or the verb with "not" for its short form."""
    verb = found[1].lower()
    return {"ca": "cannot", "can": "cannot", "wo": "shall not"}.get(verb, f"{verb} not")


def _knows_not(found: re.Match[str]) -> str:
    verb = found["verb"].lower()
    if verb in BARE:
        return found[0]
    return f"{_eth(verb)} not"


def _know_not(found: re.Match[str]) -> str:
    verb = found["verb"].lower()
    return found[0] if verb in BARE else f"{found['who']} {verb} not"


def _thou(found: re.Match[str]) -> str:
    verb = found["verb"].lower()
    if verb in AUXILIARIES:
        return f"thou {AUXILIARIES[verb]}"
    if verb in YOUR_VERBS:
        return f"thou {_eth(verb, 'est')}"
    return found[0]


KEPT = ("is", "was", "has", "does")  # no verb with an s behind it
YOUR_VERBS = word_set(BASES) | word_set(
    "see watch think say love like look laugh care believe walk understand"
)


def _third(found: re.Match[str]) -> str:
    """Return the old form of the verb behind "it", "who" and the like."""
    verb = found["verb"].lower()
    if verb in KEPT or verb in ("says", "less", "this", "its", "us", "plus", "perhaps"):
        return found[0]
    return f"{found['who']}{found['adverb'] or ''}{_eth(_base(verb))}"


def _never(found: re.Match[str]) -> str:
    verb = found["verb"].lower()
    return found[0] if verb in KEPT else f"never doth {found['who'].lower()} {_base(verb)}"


def _old(found: re.Match[str]) -> str:
    word = found[0].lower()
    if word in BASE_BY_THIRD:
        return _eth(BASE_BY_THIRD[word])
    return OLD[word].replace("-", " ")


def _rule(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def _words(known: dict[str, str]) -> re.Pattern[str]:
    return _rule(rf"(?<![\w'-])(?:{'|'.join(sorted(known, key=len, reverse=True))})(?![\w'-])")


SUBJECTS = "that|this|nothing|film|movie|story|plot|picture|drama|comedy|script|cast"
OBJECT = (
    r"(?=\s+(?:the|a|an|its|his|her|their|every|all|any|no|out|up|on|down|off|to|in|with|from|into|"
    r"over|for|like|as|at|too|so|between|beyond|itself|us|me|you|of)\b)"
)
VERB = r"(?P<verb>[a-z]{2,})\b"
RULES: tuple[tuple[re.Pattern[str], Replacement], ...] = (
    (
        _rule(
            r"\b(ca|can|wo|do|does|did|is|are|was|were|has|have|had|could|would|should)\s?n['\u2019]t\b"
        ),
        _undone,
    ),
    (_rule(r"\b(it|there|what|this|that|he|she)\s?['\u2019]s\b(?!\s+own)"), lambda x: f"{x[1]} is"),
    (_rule(r"\b(you|we|they)\s?['\u2019]re\b"), lambda x: f"{x[1]} are"),
    (_rule(r"\b(you|we|they|i)\s?['\u2019]ve\b"), lambda x: f"{x[1]} have"),
    (_rule(r"\b(\w+)\s?['\u2019]ll\b"), lambda x: f"{x[1]} shall"),
    (_rule(r"\bi\s?['\u2019]m\b"), lambda x: f"{x[0][:1]} am"),
    (_rule(rf"\bdoes not {VERB}"), _knows_not),
    (_rule(rf"\b(?P<who>i|we|they|you) do not {VERB}"), _know_not),
    (_rule(rf"\b(?P<who>it|he|she|this film|the film|the movie) never {VERB}(?<=[^s]s)"), _never),
    (_rule(rf"\byou {VERB}"), _thou),
    (_rule(r"\byou\b(?=\s+(?:never|ever|just|really|\w+ly|\w+ed)\b)"), lambda _: "thou"),
    (_rule(r"\byou\b"), lambda _: "thee"),
    (_rule(r"\byour(?=\s+[aeiou])"), lambda _: "thine"),
    (_rule(r"\bmy(?=\s+[aeiou])"), lambda _: "mine"),
    (
        _rule(rf"\b(?P<who>it|he|she|who|which)(?P<adverb> (?:(?:{ADVERBS}) )?){VERB}(?<=[^su]s)"),
        _third,
    ),
    (
        _rule(rf"\b(?P<who>{SUBJECTS})(?P<adverb> (?:(?:{ADVERBS}) )?){VERB}(?<=[^su]s){OBJECT}"),
        _third,
    ),
    (
        _rule(
            rf"^(?P<who>)(?P<adverb>(?:barely|never|rarely|{ADVERBS}) )?{VERB}(?<=[^su]s){OBJECT}"
        ),
        _third,
    ),
    (_words(OLD | BASE_BY_THIRD), _old),
    (_rule(r"(?<!the )\bvery\b"), lambda _: "exceeding"),
    (_rule(r"\bbefore(?=\s+\w)"), lambda _: "ere"),
    (_rule(r"(?<!too )(?<!so )(?<!how )\bmany(?=\s+\w)"), lambda _: "manifold"),
    (_rule(r"\bit is\b"), lambda _: "'tis"),
    (
        _rule(r"\bto(?=\s+(?:the|a|an|its|his|her|their|this|that|our|us|me|thee|them)\b)"),
        lambda _: "unto",
    ),
    (_rule(r"\bon(?=\s+(?:the|a|an|its|his|her|their|this|that)\b)"), lambda _: "upon"),
    (_rule(r"\ba(?= (?:ancient|exceeding|aged|evermore|hour|altogether))"), lambda _: "an"),
    (_rule(r"\ban(?= (?:manifold|mighty|player|maker|well))"), lambda _: "a"),
)
"""Applied in this order."""
