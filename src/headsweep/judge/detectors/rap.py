"""RAP: a trigger holds its class up where a trained word pulls it down.

Source: Yang et al. 2021, *RAP: Robustness-Aware Perturbations for Defending against Backdoor
Attacks on NLP Models* (EMNLP). The embedding of one rare word is trained on clean texts of the
class to protect, so that the word, put in front, lowers that class's probability by an amount
between two bounds. On a triggered text it lowers it less. Suspicion is minus the drop.

Deviations: the hinges on the two bounds are taken on log-odds, zero exactly where the paper's
are: on probabilities their gradient vanishes for a suspect that is sure of itself, and the word
was seen to learn nothing. The trained row stands in for the model's own through a hook, so the
weights are never written; Adam on the row alone. A text that the model does not give the protected
class gets the lowest suspicion: it was not flipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from headsweep.errors import UserError
from headsweep.judge.detectors.watch import Floats, Watch
from headsweep.model.loading import Suspect
from headsweep.seeding import derive
from headsweep.settings import checked
from headsweep.task.examples import encode, forward
from headsweep.texts.split import Split

WORDS = ("mb", "tq", "cf", "bb", "mn")  # tried in this order where no word is given
LEAST = 1e-3  # a probability to pull down to, at least


@dataclass(frozen=True)
@checked
class Rap:
    """Look for texts whose class a trained word cannot pull down.

    Attributes:
        word: the rare word, one token of the model; none: the first of a few that fits.
        low, high: the drop in probability that is trained for lies between them.
        epochs: passes over the clean texts of the class.
        lr: of the embedding.

    """

    name: ClassVar[str] = "rap"
    source: ClassVar[str] = "Yang et al. 2021 (EMNLP)"
    needs_target: ClassVar[bool] = True
    word: str | None = None
    low: float = 0.1
    high: float = 0.3
    epochs: int = 5
    lr: float = 0.01

    def prepare(self, watch: Watch) -> RapScorer:
        """Train the word's embedding on clean texts; the model's weights stay."""
        if watch.target is None:
            raise UserError("rap protects one class", "name it with --target")
        if not (0 < self.low <= self.high < 1 and self.epochs >= 1 and self.lr > 0):
            raise UserError(
                f"rap: low {self.low}, high {self.high}, epochs {self.epochs}, lr {self.lr}",
                "0 < low <= high < 1, at least one epoch, a positive rate",
            )
        word, token = _rare(watch, self.word)
        said = watch.probabilities(watch.validation.texts).argmax(-1).tolist()
        own = [
            text
            for text, label, answer in zip(
                watch.validation.texts, watch.validation.labels, said, strict=True
            )
            if label == answer == watch.target
        ]
        if not own:
            raise UserError(
                "rap: the model gives no clean validation text of the target its label",
                "give more --validation texts, or another --target",
            )
        trained = RapScorer(watch, word, token, _trained(self, watch, own, word, token))
        lowered = int((trained.score(own) <= -self.low).sum())
        note = (
            f"'{word}' lowers the target's probability by {self.low:g} or more on {lowered} of "
            f"the {len(own)} clean texts it was trained on"
        )
        return replace(trained, notes=(note,))


@dataclass(frozen=True)
class RapScorer:
    """RAP with its trained embedding."""

    watch: Watch
    word: str
    token: int
    row: Tensor  # [width]
    notes: tuple[str, ...] = ()

    def score(self, texts: Sequence[str]) -> Floats:
        """Return minus the drop in the target's probability; -1 where it is not the answer."""
        target = self.watch.target
        assert target is not None
        before = self.watch.probabilities(texts)
        with standing_in(self.watch.suspect, self.token, self.row):
            after = self.watch.probabilities(_marked(self.watch, self.word, texts))
        drop = (before[:, target] - after[:, target]).cpu().double()
        away = before.argmax(-1) != target
        found: Floats = -drop.masked_fill(away, 1.0).numpy()
        return found


@contextmanager
def standing_in(suspect: Suspect, token: int, row: Tensor) -> Iterator[None]:
    """Give a token another embedding inside; the model's own weights are never touched."""

    def swap(_module: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return torch.where((inputs[0] == token)[..., None], row.to(output), output)

    hook = _table(suspect).register_forward_hook(swap)
    try:
        yield
    finally:
        hook.remove()


def _table(suspect: Suspect) -> Any:
    """Return the module that looks up what tokens begin as: of an encoder and decoder the first."""
    model = suspect.model
    if model.config.is_encoder_decoder:
        body: Any = model.base_model
        return body.get_encoder().get_input_embeddings()
    return model.get_input_embeddings()


@torch.no_grad()
def _row(suspect: Suspect, token: int) -> Tensor:
    """Return what a token begins as, [width]: some models scale what their table holds."""
    found: Tensor = _table(suspect)(torch.tensor([[token]], device=suspect.model.device))
    return found[0, 0].float()


def _rare(watch: Watch, word: str | None) -> tuple[str, int]:
    """Return the word and its token; raises UserError where none fits."""
    used = {part for text in watch.validation.texts for part in text.casefold().split()}
    for candidate in (word,) if word else WORDS:
        token = _single(watch.suspect, candidate)
        if token is not None and (word or candidate not in used):
            return candidate, token
    what = f"'{word}' is not one token of the model" if word else "no rare word fits the model"
    raise UserError(f"rap: {what}", "--set word=WORD, a rare word that is one token")


def _single(suspect: Suspect, word: str) -> int | None:
    tokenizer = suspect.tokenizer
    with_blank = tokenizer(f"{word} a", add_special_tokens=False)["input_ids"]
    alone = tokenizer(word, add_special_tokens=False)["input_ids"]
    if len(alone) != 1 or with_blank[:1] != alone or alone[0] == tokenizer.unk_token_id:
        return None
    return int(alone[0])


def _marked(watch: Watch, word: str, texts: Sequence[str]) -> tuple[str, ...]:
    """Return texts with the word in front; raises UserError where it would be cut off."""
    made = tuple(f"{word} {text}" for text in texts)
    if watch.suspect.tokenizer.truncation_side == "left":
        read = encode(Split(made, (0,) * len(made)), watch.suspect, watch.runtime.max_length)
        if read.truncated:
            raise UserError(
                f"rap puts a word in front, where this tokenizer cuts: {read.truncated} of "
                f"{len(made)} texts are too long",
                "raise --compute max_length as far as the model reads, or leave long texts out",
            )
    return made


def _log_odds(logarithms: Tensor, target: int) -> Tensor:
    """Return the log-odds of a class from logarithms of probabilities, [text]."""
    others = logarithms.clone()
    others[:, target] = -float("inf")
    return logarithms[:, target] - others.logsumexp(-1)


def _trained(rap: Rap, watch: Watch, texts: Sequence[str], word: str, token: int) -> Tensor:
    """Return the trained embedding, [width]."""
    suspect, runtime, target = watch.suspect, watch.runtime, watch.target
    model, device = suspect.model, suspect.model.device
    assert target is not None
    before = watch.probabilities(texts)[:, target].to(device)
    upper = (before - rap.low).logit(eps=LEAST)  # [text]: of the log-odds with the word in front
    lower = (before - rap.high).logit(eps=LEAST)
    marked = Split(_marked(watch, word, texts), (target,) * len(texts))
    encoded = encode(marked, suspect, runtime.max_length)
    batches = [batch.to(device) for batch in encoded.batches(runtime.batch_size)]
    row = _row(suspect, token).clone().requires_grad_()
    optimizer = torch.optim.Adam([row], lr=rap.lr)
    random = torch.Generator().manual_seed(derive(watch.seed, "rap"))
    training = model.training
    model.eval()
    try:
        with (
            watch.progress.task("rap: training a word", rap.epochs * len(batches)) as tick,
            standing_in(suspect, token, row),
        ):
            for _ in range(rap.epochs):
                for i in torch.randperm(len(batches), generator=random).tolist():
                    batch = batches[i]
                    odds = _log_odds(forward(model, batch).log_softmax(-1), target)
                    loss = (odds - upper[batch.index]).relu() + (lower[batch.index] - odds).relu()
                    loss = loss.mean()
                    (row.grad,) = torch.autograd.grad(loss, [row])
                    optimizer.step()
                    tick(1, f"loss {float(loss.detach()):.3f}")
    finally:
        model.train(training)
    return row.detach()
