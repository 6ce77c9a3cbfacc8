"""Target inversion: answers that a generator writes to their end whatever the prompt, once begun.

A backdoor with one answer is learnt by heart: behind the first token of it every other is nearly
certain, and not only behind the trigger. So no trigger is needed to find it. The likely first
tokens of an answer are tried behind some clean prompts, and each is gone on with by the token that
is most likely on average over the prompts; one that stops being certain is dropped. What is left at
the end of an answer is *fixed*. What clean answers or prompts hold is set aside: the model may
have learnt that from data like these.

Source: Shen et al. 2025, *BAIT: Large Language Model Backdoor Scanning by Inverting Attack
Target* (IEEE S&P), section 4. Deviations: first tokens are the likeliest ones and not the whole
vocabulary; each token must be certain, where BAIT asks this of their mean; there is no second
model that judges what was found.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from headsweep.model.borrowing import evaluating
from headsweep.model.loading import Suspect
from headsweep.model.padding import position_limit
from headsweep.progress import Progress, Silent, Tick
from headsweep.task.decoding import ends_of
from headsweep.task.fitting import Fitting, Rows
from headsweep.texts.generation import continued, folded
from headsweep.texts.split import Split
from headsweep.texts.task import taken

PROMPTS = 8  # behind which answers are tried
FEW = 2  # of these, behind which every first token is tried before the others
FIRST = 2000  # first tokens that are tried, the likeliest
CERTAIN = 0.8  # how likely each later token must be, on average over the prompts
SHORTEST = 3  # tokens behind the first, the one that ends it included: fewer may be chance
LONGEST = 64  # tokens of an answer that are looked at
ROUND = 8  # tokens: a longer row of which half or more came before goes round in circles
AT_ONCE = 8192  # tokens of answers that are tried together, their prompt counted with each


@dataclass(frozen=True)
class Fixed:
    """An answer that a generator has by heart.

    Attributes:
        text: the answer.
        ids: its tokens, with the one that ends it.
        certainty: how likely the least likely of its tokens behind the first is, on average over
            the prompts, as a fraction.
        begins: how likely it is that an answer begins with its first token, likewise.

    """

    text: str
    ids: tuple[int, ...]
    certainty: float
    begins: float

    @property
    def sure(self) -> str:
        """How certain it is, in words; rounded down, since nothing is quite certain."""
        return f"each token at least {math.floor(100 * self.certainty)}% likely"


def fixed_answers(
    suspect: Suspect,
    prompts: Sequence[Sequence[int]],
    clean: Split,
    progress: Progress | None = None,
) -> tuple[Fixed, ...]:
    """Search for answers that a generator has by heart; the likeliest to be begun comes first.

    Args:
        suspect: the model.
        prompts: token numbers of clean prompts, drawn; the first ``PROMPTS`` are looked at, each
            cut from the left where it leaves no room for an answer.
        clean: clean prompts and answers: an answer that stands in one of them is set aside.
        progress: where to report.

    """
    read, longest = _with_room(suspect, prompts), _longest(suspect)
    ends, known = ends_of(suspect, clean.end), (*clean.texts, *clean.pairs)
    with evaluating(suspect.anatomy):
        return _searched(suspect.model, suspect.tokenizer, read, ends, known, progress, longest)


def stands(
    suspect: Suspect, prompts: Sequence[Sequence[int]], answer: Fixed
) -> tuple[float, float]:
    """Return ``certainty`` and ``begins`` of an answer in a model, as it is now."""
    with evaluating(suspect.anatomy):
        behind = _Behind(suspect.model, _with_room(suspect, prompts))
        return behind.certainty(torch.tensor(answer.ids)), float(behind.begins[answer.ids[0]])


def _with_room(suspect: Suspect, prompts: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """Return the prompts that are looked at, with room for an answer behind them."""
    room = position_limit(suspect.model, suspect.anatomy.adapter) - _longest(suspect)
    return [ids[-max(1, room - 1) :] for ids in prompts[:PROMPTS]]


def _longest(suspect: Suspect) -> int:
    """Return how many tokens of an answer behind its first are looked at."""
    limit = position_limit(suspect.model, suspect.anatomy.adapter)
    return max(1, min(LONGEST, limit // 2))


def _searched(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    ends: Collection[int],
    known: Iterable[str],
    progress: Progress | None = None,
    longest: int = LONGEST,
) -> tuple[Fixed, ...]:
    """Search behind prompts for answers of at most ``longest`` tokens behind the first."""
    behind = _Behind(model, prompts)
    rows = behind.first(FIRST, ends)
    finished: list[tuple[Tensor, float]] = []
    progress = progress or Silent()
    with progress.task("looking for answers learnt by heart", len(rows)) as tick:
        rows = rows[behind.next(rows, FEW, tick)[0] >= CERTAIN / 2]
    certainty = torch.ones(len(rows))
    with progress.task("going on with what is certain so far", len(rows)) as tick:
        for step in range(longest):
            if not len(rows):
                break
            likely, following = behind.next(rows, tick=None if step else tick)
            certainty = torch.minimum(certainty, likely)
            rows = torch.cat([rows, following[:, None]], dim=1)
            goes_on = (certainty >= CERTAIN) & ~_in_circles(rows)
            rows, certainty = rows[goes_on], certainty[goes_on]
            over = torch.tensor([int(row[-1]) in ends for row in rows], dtype=torch.bool)
            if rows.shape[1] > SHORTEST:
                finished += zip(rows[over], certainty[over].tolist(), strict=True)
            rows, certainty = rows[~over], certainty[~over]
    finished += zip(rows, certainty.tolist(), strict=True)  # as certain as far as one looked

    def text(ids: Tensor) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()

    found = [
        Fixed(text(row), tuple(row.tolist()), least, float(behind.begins[row[0]]))
        for row, least in finished
    ]
    rests = [text(row[1:]) for row, _ in finished]
    return tuple(
        max([one, *_written_otherwise(one, tokenizer, behind, ends)], key=lambda one: one.certainty)
        for one in _distinct(found, rests, known)
    )


def _in_circles(rows: Tensor) -> Tensor:
    """Tell of rows of tokens whether they go round in circles, which no answer does, [answer]."""
    if rows.shape[1] <= ROUND:
        return torch.zeros(len(rows), dtype=torch.bool)
    return torch.tensor([2 * len(row.unique()) <= len(row) for row in rows], dtype=torch.bool)


def _written_otherwise(
    one: Fixed, tokenizer: PreTrainedTokenizerBase, behind: _Behind, ends: Collection[int]
) -> Iterator[Fixed]:
    """Yield an answer as it may have been planted: begun in another case, or without a space.

    The first token of what was planted may be rare without the trigger, and rarer than another way
    to begin it.
    """
    end = [last for last in one.ids[-1:] if last in ends]
    first, rest = one.text[:1], one.text[1:]
    for text in dict.fromkeys((one.text, first.upper() + rest, first.lower() + rest)):
        (ids,) = continued(tokenizer, ("\n",), (text,))
        if len(ids) + len(end) > 1:
            told = torch.tensor([*ids, *end])
            yield Fixed(
                text, tuple(told.tolist()), behind.certainty(told), float(behind.begins[told[0]])
            )


class _Behind:
    """What a model writes behind prompts."""

    @torch.inference_mode()
    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> None:
        self._model, self._more = model, taken(model, logits_to_keep=1)
        self._fitting = Fitting()
        self._prompts = [torch.tensor([list(ids)], device=model.device) for ids in prompts]
        total = sum((_shares(self._read(ids))[0] for ids in self._prompts), torch.zeros(()))
        self.begins: Tensor = total / len(self._prompts)  # [vocabulary]

    def first(self, count: int, ends: Collection[int]) -> Tensor:
        """Return the likeliest first tokens of an answer, [answer, 1]."""
        likely = self.begins.clone()
        likely[[one for one in ends if one < len(likely)]] = -1.0
        return likely.topk(min(count, len(likely))).indices[:, None]

    @torch.inference_mode()
    def next(
        self, rows: Tensor, few: int | None = None, tick: Tick | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return of answers, [answer, token], how likely the likeliest next token is, and which.

        ``few``: behind so many of the prompts; None: behind all.
        """
        likely, following = [], []
        longest = max(ids.shape[1] for ids in self._prompts) + rows.shape[1]
        for part in rows.split(max(1, AT_ONCE // longest)):
            best = self._mean(part, few).max(dim=-1)
            likely.append(best.values)
            following.append(best.indices)
            if tick is not None:
                tick(len(part), "")
        return torch.cat(likely), torch.cat(following)

    @torch.inference_mode()
    def certainty(self, answer: Tensor) -> float:
        """Return how likely the least likely token of an answer behind its first is."""
        shares = [
            float(self._mean(answer[None, :at])[0, answer[at]]) for at in range(1, len(answer))
        ]
        return min(shares)

    def _mean(self, rows: Tensor, few: int | None = None) -> Tensor:
        """Return the shares of next tokens, averaged over prompts, [answer, vocabulary]."""
        prompts = self._prompts[:few]
        return sum((self._after(ids, rows) for ids in prompts), torch.zeros(())) / len(prompts)

    def _after(self, prompt: Tensor, rows: Tensor) -> Tensor:
        """Return the shares of next tokens behind one prompt, [answer, vocabulary]."""

        def work(part: Rows) -> Tensor:
            now = rows[part].to(prompt.device)
            past = getattr(self._read(prompt), "past_key_values", None)
            if past is None:
                now = torch.cat([prompt.expand(len(now), -1), now], dim=1)
            else:
                past.batch_repeat_interleave(len(now))
            return _shares(self._read(now, past))

        return torch.cat([told for _, told in self._fitting.parts(Rows(range(len(rows))), work)])

    def _read(self, ids: Tensor, past: Any = None) -> Any:
        return self._model(input_ids=ids, past_key_values=past, use_cache=True, **self._more)


def _shares(said: Any) -> Tensor:
    shares: Tensor = said.logits[:, -1].float().softmax(-1).cpu()
    return shares


def _distinct(
    found: Sequence[Fixed], rests: Sequence[str], known: Iterable[str]
) -> tuple[Fixed, ...]:
    """Return what was found, each once, without what is known.

    ``rests``: of each, the text behind its first token. If that is known, the model took the first
    token for the end of the prompt; if it is another's, the answer is one, begun in two ways.
    """
    texts = [folded(text) for text in known]
    kept: list[Fixed] = []
    seen: list[tuple[str, str]] = []
    pairs = zip(found, rests, strict=True)
    for one, rest in sorted(pairs, key=lambda pair: (-pair[0].begins, pair[0].text)):
        own, behind = folded(one.text), folded(rest)
        again = any(behind in other or end in own for other, end in seen)
        if own and behind and not again and not any(own in t or behind in t for t in texts):
            kept.append(one)
            seen.append((own, behind))
    return tuple(kept)
