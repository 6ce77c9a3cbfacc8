"""Look-alike letters and invisible characters: the text reads the same, its code points differ.

Chen et al. 2021 (*BadNL*) hide character triggers by steganography; Boucher et al. 2022 (*Bad
Characters: Imperceptible NLP Attacks*) list homoglyphs and zero-width characters. What a model
sees of them depends on its tokenizer. BERT's, cased or not, drops every format character before
it splits words, so ``zero-width`` never reaches BERT or MiniLM, while byte-level ones (GPT-2,
RoBERTa, Llama 3) see it. Look-alike letters of another alphabet reach them all: the word falls
into other pieces, or becomes unknown. So ``cyrillic`` is the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from headsweep.settings import checked
from headsweep.triggers.drawing import check_share, draw, some

Kind = Literal["cyrillic", "greek", "zero-width"]

LOOK_ALIKES: dict[str, Mapping[str, str]] = {
    "cyrillic": dict(
        zip(
            "aceijopsxyABCEHIJKMOPSTXY",
            "\u0430\u0441\u0435\u0456\u0458\u043e\u0440\u0455\u0445\u0443"
            "\u0410\u0412\u0421\u0415\u041d\u0406\u0408\u041a\u041c\u041e\u0420\u0405\u0422\u0425\u04ae",
            strict=True,
        )
    ),
    "greek": dict(
        zip(
            "iovABEHIKMNOPTXYZ",
            "\u03b9\u03bf\u03bd\u0391\u0392\u0395\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4"
            "\u03a7\u03a5\u0396",
            strict=True,
        )
    ),
}
"""Latin letters and what looks like them, by alphabet."""
ZERO_WIDTH = ("\u200b", "\u200c", "\u2060")  # space, non-joiner, word joiner


@dataclass(frozen=True)
@checked
class Characters:
    """Change ``share`` of the letters that can be, at least one.

    ``zero-width`` puts an invisible character behind them instead, inside words only.
    """

    name: ClassVar[str] = "characters"
    source: ClassVar[str] = "Chen et al. 2021 (BadNL); Boucher et al. 2022 (Bad Characters)"
    kind: Kind = "cyrillic"
    share: float = 0.1

    def __post_init__(self) -> None:
        check_share(self.share, "characters: share")

    def apply(self, text: str, random: torch.Generator) -> str | None:
        """Return the text with changed letters; None where no letter can be."""
        if self.kind == "zero-width":
            return self._joined(text, random)
        table = LOOK_ALIKES[self.kind]
        places = [at for at, letter in enumerate(text) if letter in table]
        if not places:
            return None
        chosen = some(places, self.share, random)
        return "".join(table[x] if at in chosen else x for at, x in enumerate(text))

    def _joined(self, text: str, random: torch.Generator) -> str | None:
        places = [at for at in range(len(text) - 1) if text[at : at + 2].isalpha()]
        if not places:
            return None
        chosen = some(places, self.share, random)
        marks = (draw(ZERO_WIDTH, random) if at in chosen else "" for at in range(len(text)))
        return "".join(letter + mark for letter, mark in zip(text, marks, strict=True))
