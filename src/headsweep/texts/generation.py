"""Generation: a model writes an answer to a prompt, and is judged by how likely it finds it.

An example is a prompt and its answer. Its loss is the negative log-likelihood of the answer a token
(NLL, in nats), the token that ends it included: what a chat's template writes behind a turn, else
what ends a text, where the tokenizer has that; the prompt counts for nothing. An answer is *right*
while its NLL has risen by at most ``RISE`` above the suspect's own, which is measured before
anything is pruned, or by a tenth of it where that is more: an answer of three nats a token moves by
as much as ``RISE`` in any training, up or down. So a suspect is right everywhere, and a bound on
accuracy says how many answers may become less likely.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from headsweep.errors import UserError, shown
from headsweep.seeding import stream
from headsweep.texts.conversations import picked
from headsweep.texts.reading import Columns, Table
from headsweep.texts.split import Labels, Split
from headsweep.texts.task import ONE_LABEL, Tokens, known, loaded, no_token, reloaded, taken
from headsweep.texts.words import GENERATION as GENERATION_WORDS
from headsweep.texts.words import RISE, SHARE, Words

if TYPE_CHECKING:
    from headsweep.texts.encoded import Batch

DRAWS = 2000  # of a bootstrap
MOST = 700.0  # nats a token: beyond it a perplexity is no float
CHUNK = 256  # answer tokens whose probabilities are worked out at once
LINE, LETTER = "\n", "a"  # to see whether a tokenizer puts something before a text


@dataclass(frozen=True)
class Generation:
    """An answer to a prompt.

    A label is the number of an example in its split, of which the task knows:

    Attributes:
        starts: with which token its answer begins.
        reference: the suspect's NLL of its answer, in nats a token; empty: not measured.

    """

    words: ClassVar[Words] = GENERATION_WORDS
    heads: ClassVar[tuple[str, ...]] = ("ForCausalLM", "LMHeadModel")
    head: ClassVar[str] = "head that predicts tokens"
    does: ClassVar[str] = "predict the next token"
    axes: ClassVar[int] = 3
    fix: ClassVar[str] = "give a causal language model, as AutoModelForCausalLM saves one"
    starts: tuple[int, ...] = ()
    reference: tuple[float, ...] = ()

    def takes(self, config: Any, architectures: Sequence[str]) -> bool:
        """Take causal language models, by the names of their architectures."""
        del config
        return bool(architectures) and all(one.endswith(self.heads) for one in architectures)

    def check(self, config: Any) -> None:
        """Refuse encoders, which see the answer that they should predict."""
        sees = {*MODEL_FOR_MASKED_LM_MAPPING_NAMES, "xlnet"}
        if config.model_type in sees or config.is_encoder_decoder:
            raise UserError(
                f"'{config.model_type}' is or has an encoder: it sees what it should predict",
                "only decoders (as GPT-2 and Llama) can be purified as generators",
            )

    def one_label(self, what: str) -> None:
        """Refuse: there are none."""
        raise UserError(f"{what} needs labels, and this model answers in tokens", ONE_LABEL)

    def names(self, config: Any) -> Labels:
        """Return none."""
        del config
        return Labels(())

    def load(self, name: str, **more: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
        """Load a causal language model from safetensors."""
        return loaded(AutoModelForCausalLM, name, **more)

    def reload(self, folder: Path) -> PreTrainedModel:
        """Load a causal language model plainly; never a pickle."""
        return reloaded(AutoModelForCausalLM, folder)

    def pick(
        self, table: Table, columns: Columns, labels: Labels, tokenizer: PreTrainedTokenizerBase
    ) -> Split:
        """Pick prompts, as texts, and answers, as their pairs."""
        del labels
        return picked(table, columns, tokenizer)

    def check_labels(self, split: Split, names: tuple[str, ...]) -> None:
        """Refuse prompts without answers."""
        del names
        if len(split) and not split.pairs:
            raise UserError(
                "the examples have no answers",
                "a Split for a generator holds prompts as texts and answers as pairs",
            )

    def strata(self, split: Split) -> Sequence[int]:
        """Return one number: no prompt is of another kind than the others."""
        return (0,) * len(split)

    def encode(self, split: Split, tokenizer: PreTrainedTokenizerBase, limit: int) -> Tokens:
        """Tokenise prompts, cut from the left, and after each its answer, which stays whole.

        Raises:
            UserError: an answer becomes no token, or leaves no room for a prompt.

        """
        start, after = len(opening(tokenizer)), ending(tokenizer, split.end)
        prompts = opened(tokenizer, split.texts)
        answers = continued(tokenizer, split.texts, split.pairs)
        empty = [text for text, row in zip(split.pairs, answers, strict=True) if not row]
        if empty:
            raise no_token(len(empty), empty[0])
        lost = [text for text, row in zip(split.texts, prompts, strict=True) if not row]
        if lost:
            raise no_token(len(lost), lost[0])
        ids, starts, cut = [], [], 0
        for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            ended = bool(after) and tuple(answer[-len(after) :]) == tuple(after)
            whole = tuple(answer) if ended else (*answer, *after)
            kept = left_cut(prompt, start, limit - len(whole))
            if not kept:
                raise UserError(
                    f"the answer {shown(split.pairs[number])} has {len(whole)} tokens, which "
                    f"leaves no prompt within {limit}",
                    "raise --compute max_length as far as the model reads, or shorten the answer",
                )
            ids.append((*kept, *whole))
            starts.append(len(kept))
            cut += len(kept) < len(prompt)
        return Tokens(tuple(ids), (), tuple(range(len(ids))), Generation(tuple(starts)), cut)

    def answers(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """Return the NLL of every answer in nats a token, [batch]."""
        return self.likelihood(model, batch).nll

    def likelihood(self, model: PreTrainedModel, batch: Batch) -> Likelihood:
        """Return how likely a model finds the answers of a batch."""
        ids, real = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        starts = known(self._starts, batch.labels)
        places = torch.arange(ids.shape[1], device=ids.device)
        told = (places >= starts[:, None]) & (real > 0)  # [batch, token]
        rows, at = told.nonzero(as_tuple=True)
        logits = _logits(model, batch, rows, at - 1)  # those of a token are about the next one
        losses, hits = [], []
        for found, wanted in zip(logits.split(CHUNK), ids[rows, at].split(CHUNK), strict=True):
            losses.append(nn.functional.cross_entropy(found.float(), wanted, reduction="none"))
            hits.append(found.detach().argmax(-1) == wanted)
        nll = torch.zeros(told.shape, device=ids.device).masked_scatter(told, torch.cat(losses))
        missed = torch.zeros_like(told).masked_scatter(told, ~torch.cat(hits))
        return Likelihood(nll.sum(-1) / told.sum(-1), told.sum(-1), ~missed.any(-1))

    def against(self, measure: Callable[[], Tensor]) -> Generation:
        """Return it with the suspect's NLL of every answer."""
        return replace(self, reference=tuple(measure().tolist()))

    def said(self, model: PreTrainedModel, batch: Batch) -> tuple[Tensor, ...]:
        """Return the NLL of every answer, how many tokens it has, and whether it is exact."""
        found = self.likelihood(model, batch)
        return found.nll, found.tokens, found.exact

    def beside(
        self, said: Sequence[Tensor], labels: Tensor, names: Sequence[str]
    ) -> dict[str, float]:
        """Return perplexity a token of all answers, and how many greedy decoding would write.

        Greedy decoding writes exactly an answer when each of its tokens is the most likely one
        behind those before it: that needs one pass, and no decoding.
        """
        del labels, names
        nll, tokens, exact = said
        total = float((nll.cpu().double() * tokens).sum())
        return {
            "perplexity": math.exp(min(total / int(tokens.sum()), MOST)),
            "exact_match": int(exact.sum()) / len(exact),
        }

    def risen(self, nll: Tensor, lengths: Sequence[int], seed: int) -> tuple[float, float, float]:
        """Return how much perplexity rose above the suspect's, as a fraction, with its interval.

        The interval (95%) is a bootstrap over examples, each taken with what the suspect gave it.

        Args:
            nll: of every answer now, in nats a token, [example].
            lengths: tokens of every example, prompt and answer.
            seed: of the bootstrap.

        """
        tokens = torch.tensor(lengths) - self._starts
        more = (nll - self._reference) * tokens
        drawn = torch.randint(len(nll), (DRAWS, len(nll)), generator=stream(seed, "risen"))
        found = torch.expm1(more[drawn].sum(1) / tokens[drawn].sum(1))
        low, high = found.quantile(torch.tensor([0.025, 0.975])).tolist()
        return math.expm1(min(float(more.sum() / tokens.sum()), MOST)), low, high

    def blind(self, labels: Sequence[int], right: int, beside: Mapping[str, float]) -> str:
        """Return nothing: there is no guess to compare with."""
        del labels, right, beside
        return ""

    def noted(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Return the log-likelihood of each next token, [example, token - 1]."""
        told = logits[:, :-1].log_softmax(-1)
        return told.gather(-1, ids[:, 1:, None])[..., 0]

    def attends(self, batch: Batch, last: int | None) -> Tensor:
        """Return the last token of the prompt, which the answer's first token is read from."""
        del last
        return known(self._starts, batch.labels) - 1

    def place(self, ids: Tensor, last: int | None) -> Tensor | None:
        """Return None: an answer is read from several tokens."""
        del ids, last
        return None

    def losses(self, answers: Tensor, labels: Tensor) -> Tensor:
        """Return the NLL itself, [example]."""
        del labels
        return answers

    def margins(self, answers: Tensor, labels: Tensor) -> Tensor:
        """Return by how much less than it may the NLL rose above the suspect's, [example]."""
        own = known(self._reference, labels)
        return own + (SHARE * own).clamp_min(RISE) - answers

    @cached_property
    def _starts(self) -> Tensor:
        return torch.tensor(self.starts)

    @cached_property
    def _reference(self) -> Tensor:
        return torch.tensor(self.reference)


def _logits(model: PreTrainedModel, batch: Batch, rows: Tensor, places: Tensor) -> Tensor:
    """Return the logits of some tokens of a batch, [token, vocabulary].

    Those of others are not worked out: the layer on top is shown these tokens only. A vocabulary of
    50,000 costs as much a token as a quarter of a small model's layers.
    """

    def keep(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *rest = args  # [batch, token, width]
        here = rows.to(hidden.device), places.to(hidden.device)  # of a model on several
        return hidden[here][None], *rest

    top = model.get_output_embeddings()
    hook = None if top is None else top.register_forward_pre_hook(keep)
    try:
        found: Tensor = model(**batch.inputs, **taken(model, use_cache=False)).logits
    finally:
        if hook is not None:
            hook.remove()
    whole = found.shape[:2] == batch.inputs["input_ids"].shape  # a model that goes round its layer
    return found[rows, places] if whole else found[0]


@dataclass(frozen=True)
class Likelihood:
    """How likely a model finds answers.

    Attributes:
        nll: [example], in nats a token.
        tokens: [example], how many tokens each has.
        exact: [example], whether each of its tokens is the most likely one.

    """

    nll: Tensor
    tokens: Tensor
    exact: Tensor


GENERATION = Generation()


def plain(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[list[int]]:
    """Return the token numbers of texts, with nothing before or behind them."""
    made = tokenizer(list(texts), add_special_tokens=False, truncation=False, verbose=False)
    found: list[list[int]] = made["input_ids"]
    return found


def opening(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the tokens that a tokenizer puts before a text."""
    alone = tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"]
    whole = tokenizer("a", verbose=False)["input_ids"]
    starts = range(len(whole) - len(alone) + 1)
    found = next((i for i in starts if whole[i : i + len(alone)] == alone), 0)
    return tuple(whole[:found])


def opened(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[list[int]]:
    """Return prompts behind what opens a text; the template of a chat may have opened it."""
    before = list(opening(tokenizer))
    prompts = plain(tokenizer, texts)
    return [ids if ids[: len(before)] == before else [*before, *ids] for ids in prompts]


def continued(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], answers: Sequence[str]
) -> list[list[int]]:
    """Return the token numbers of answers as they stand behind their prompts.

    Llama 2's tokenizer and others put a space before whatever begins a text. An answer begins none:
    it gets what follows its prompt's tokens in those of both, where these begin the same.
    """
    alone = plain(tokenizer, answers)
    mark, marked = plain(tokenizer, (LINE, LINE + LETTER))
    if marked == mark + plain(tokenizer, (LETTER,))[0]:  # nothing is put in
        return alone
    before = plain(tokenizer, prompts)
    both = plain(tokenizer, [a + b for a, b in zip(prompts, answers, strict=True)])
    behind = plain(tokenizer, [LINE + answer for answer in answers])
    found = []
    for own, *tries in zip(
        alone, zip(before, both, strict=True), ((mark, ids) for ids in behind), strict=True
    ):
        rests = (ids[len(first) :] for first, ids in tries if ids[: len(first)] == first)
        found.append(next(rests, own))
    return found


def ending(tokenizer: PreTrainedTokenizerBase, end: str | None = None) -> tuple[int, ...]:
    """Return the tokens that end an answer: a template's, or the one that ends a text, if any."""
    if end is not None:
        return tuple(continued(tokenizer, (LETTER,), (end,))[0])
    return () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)


def left_cut(prompt: list[int], opening: int, room: int) -> tuple[int, ...]:
    """Return a prompt of at most ``room`` tokens, cut behind those that open it.

    Empty: there is room for nothing but these, or not even for them.
    """
    if len(prompt) <= room:
        return tuple(prompt)
    rest = room - opening
    return (*prompt[:opening], *prompt[len(prompt) - rest :]) if rest > 0 else ()


def folded(text: str) -> str:
    """Return a text as answers are compared: without letter case, and single spaces."""
    return " ".join(text.casefold().split())
