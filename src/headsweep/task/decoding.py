"""Greedy decoding: what a generator writes when it always takes the most likely token.

Not transformers' ``generate``: that follows a configuration of whoever made the model (beams,
penalties, forced tokens). Prompts of similar length go through together, and nothing is padded: all
begin with as many tokens as the shortest has, and where a prompt is longer its own next token is
taken in the place of the one foretold. Keys and values are kept from one token to the next.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from transformers import PreTrainedModel

from headsweep.model.loading import Suspect
from headsweep.task.fitting import Fitting, Rows
from headsweep.texts.generation import ending
from headsweep.texts.task import taken


@torch.inference_mode()
def greedy(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    most: int,
    ends: Collection[int] = (),
    size: int = 32,
    cached: bool = True,
) -> list[list[int]]:
    """Return the tokens that a model writes to each prompt, without the one that ends them.

    Args:
        model: a causal language model, in eval mode.
        prompts: token numbers of each; none is empty.
        most: how many tokens are written at most: a model may never end.
        ends: the tokens that end a text.
        size: prompts at once; half as many where memory does not hold them.
        cached: keep keys and values; else every token costs a whole pass.

    """
    found: list[list[int]] = [[] for _ in prompts]
    fitting = Fitting()

    def write(rows: Rows) -> list[list[int]]:
        return _written(model, [prompts[i] for i in rows], most, ends, cached)

    for together in _together([len(prompt) for prompt in prompts], most, size):
        for rows, told in fitting.parts(Rows(together), write):
            for row, one in zip(rows, told, strict=True):
                found[row] = one
    return found


def _together(lengths: Sequence[int], most: int, size: int) -> list[list[int]]:
    """Return which prompts go together: at most ``size``, and ``most`` tokens apart in length.

    More apart, the steps through the longest prompt cost more than another batch.
    """
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        fits = batches and len(batches[-1]) < size
        if fits and lengths[row] - lengths[batches[-1][0]] <= most:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def _written(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    most: int,
    ends: Collection[int],
    cached: bool,
) -> list[list[int]]:
    """Return what is written to prompts, the first of which is the shortest, [prompt, token]."""
    told: list[list[int]] = [[] for _ in prompts]
    done = [most < 1] * len(prompts)
    read = len(prompts[0])  # tokens of every row so far
    now = ids = torch.tensor([list(prompt[:read]) for prompt in prompts], device=model.device)
    past = None
    while not all(done):
        more = taken(model, logits_to_keep=1)
        said = model(input_ids=now, past_key_values=past, use_cache=cached, **more)
        new = said.logits[:, -1].argmax(-1).tolist()
        for row, prompt in enumerate(prompts):
            if read < len(prompt):
                new[row] = prompt[read]
            elif not done[row]:
                done[row] = new[row] in ends
                told[row] += [] if done[row] else [new[row]]
                done[row] = done[row] or len(told[row]) == most
        read += 1
        past = getattr(said, "past_key_values", None) if cached else None
        ids = torch.cat([ids, torch.tensor(new, device=ids.device)[:, None]], dim=1)
        now = ids if past is None else ids[:, -1:]
    return told


def ends_of(suspect: Suspect, end: str | None = None) -> frozenset[int]:
    """Return the tokens that end an answer: the tokenizer's, those of the model's own, a chat's.

    ``end``: what ends an answer, as a split has it.
    """
    own = getattr(getattr(suspect.model, "generation_config", None), "eos_token_id", None)
    own = own if isinstance(own, list) else [own]
    last = ending(suspect.tokenizer, end)[-1:]  # the special token of it
    told = (*ending(suspect.tokenizer), *last, *own)
    return frozenset(one for one in told if isinstance(one, int))
