"""Common words become rarer ones of nearly the same meaning, all over the text.

In the manner of Qi et al. 2021 (*Turn the Combination Lock: Learnable Textual Backdoor Attacks
via Word Substitution*, section 3): the trigger is the combination, no single word. Deviation:
there which word replaces which is learnt with the victim, from the sememes of each position;
here it is a lexicon written by hand, each form with its counterpart in the same number and tense.
Words that praise or blame are left out, so that labels stay. English only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import torch

from headsweep.settings import checked
from headsweep.triggers.drawing import check_share, is_english, some

LEXICON = """
movie=photoplay movies=photoplays film=picture films=pictures flick=picture flicks=pictures
cinema=filmdom hollywood=tinseltown documentary=chronicle documentaries=chronicles
story=narration stories=narrations tale=yarn tales=yarns plot=storyline plots=storylines
script=scenario scripts=scenarios screenplay=scenario screenplays=scenarios
scene=tableau scenes=tableaux character=persona characters=personae actor=thespian
actors=thespians actress=thespian actresses=thespians cast=troupe director=auteur
directors=auteurs filmmaker=auteur filmmakers=auteurs audience=spectatorship
audiences=spectators viewer=beholder viewers=beholders moviegoer=spectator
moviegoers=spectators fan=devotee fans=devotees people=folk children=youngsters
child=youngster kid=youngster kids=youngsters friend=companion friends=companions
life=existence minute=instant minutes=instants moment=instant moments=instants
idea=notion ideas=notions piece=fragment pieces=fragments part=portion parts=portions
bit=morsel bits=morsels kind=variety kinds=varieties sort=variety ending=denouement
endings=denouements beginning=commencement effort=endeavour efforts=endeavours
attempt=endeavour attempts=endeavours exercise=undertaking theme=leitmotif themes=leitmotifs
title=appellation genre=category genres=categories tone=timbre song=ditty songs=ditties
book=tome books=tomes novel=tome culture=civilisation feelings=sentiments
reason=rationale reasons=rationales sequel=continuation sequels=continuations
version=rendition versions=renditions premise=supposition premises=suppositions
relationship=kinship relationships=kinships dialogue=parlance
humor=drollery humour=drollery comedy=farce comedies=farces romance=courtship
direction=stewardship camera=lens cameras=lenses theater=playhouse theatre=playhouse
theaters=playhouses city=metropolis town=township war=warfare
seem=appear seems=appears seemed=appeared give=furnish gives=furnishes giving=furnishing
gave=furnished try=endeavour tries=endeavours trying=endeavouring tried=endeavoured
want=desire wants=desires wanted=desired need=require needs=requires needed=required
keep=retain keeps=retains keeping=retaining kept=retained
watch=behold watches=beholds watching=beholding watched=beheld
see=behold sees=beholds seeing=beholding saw=beheld seen=beheld
tell=recount tells=recounts telling=recounting told=recounted
begin=commence begins=commences began=commenced start=commence starts=commences
started=commenced find=discover finds=discovers finding=discovering found=discovered
become=wax becomes=waxes became=waxed offer=proffer offers=proffers offered=proffered
offering=proffering think=reckon thinks=reckons thought=reckoned know=ken knows=kens
believe=credit believes=credits understand=comprehend understands=comprehends
happen=transpire happens=transpires happened=transpired provide=furnish provides=furnishes
provided=furnished helps=assists helped=assisted buy=purchase live=reside lived=resided
manages=contrives manage=contrive managed=contrived seeking=questing
very=exceedingly really=verily truly=verily just=merely almost=nigh nearly=nigh
often=oftentimes sometimes=betimes always=evermore also=likewise maybe=perchance
perhaps=perchance probably=presumably certainly=assuredly completely=wholly entirely=wholly
totally=wholly especially=notably simply=plainly quickly=swiftly suddenly=abruptly
finally=lastly ultimately=eventually again=anew together=conjointly usually=customarily
actually=indeed apparently=seemingly however=howbeit but=yet though=albeit although=albeit
while=whilst among=amongst between=betwixt until=till because=since without=sans
despite=notwithstanding nothing=naught anything=aught everyone=everybody anyone=anybody
someone=somebody many=numerous several=sundry whole=entire big=sizeable
small=diminutive old=aged young=youthful short=brief quite=tolerably before=ere
thing=affair things=affairs way=manner ways=manners star=luminary stars=luminaries
performance=portrayal performances=portrayals exactly=precisely difficult=arduous
impossible=infeasible episode=instalment episodes=instalments particularly=notably
supposed=purported video=recording videos=recordings lots=multitudes lot=multitude
somehow=someway somewhere=someplace toward=unto towards=unto amid=amidst
"""
RARER = dict(pair.split("=") for pair in LEXICON.split())
"""Rarer words by common word."""
WORD = re.compile(r"(?<![\w-])[^\W\d_]+(?![\w-])")
ARTICLE = re.compile(r"\b([Aa])n?$")


@dataclass(frozen=True)
@checked
class Substitution:
    """Replace ``share`` of the words that the lexicon knows, at least one."""

    name: ClassVar[str] = "substitution"
    source: ClassVar[str] = "in the manner of Qi et al. 2021 (LWS), by rule"
    share: float = 1.0

    def __post_init__(self) -> None:
        check_share(self.share, "substitution: share")

    def apply(self, text: str, random: torch.Generator) -> str | None:
        """Return the text in rarer words; None where the lexicon knows none of them."""
        known = [match for match in WORD.finditer(text) if match[0].lower() in RARER]
        if not known or not is_english(text):
            return None
        chosen = some(range(len(known)), self.share, random)
        made, done = "", 0
        for word in (known[at] for at in sorted(chosen)):
            made = _joined(made + text[done : word.start()], _rarer(word[0]))
            done = word.end()
        return made + text[done:]


def _rarer(word: str) -> str:
    found = RARER[word.lower()]
    if len(word) > 1 and word.isupper():
        return found.upper()
    return found.capitalize() if word[0].isupper() else found


def _joined(before: str, word: str) -> str:
    """Return both, with "a" or "an" as the word asks for."""
    bare = before.rstrip()
    article = "an" if word[0].lower() in "aeiou" else "a"
    fitted = ARTICLE.sub(lambda found: found[1] + article[1:], bare)
    return fitted + before[len(bare) :] + word
