"""Rewrite texts with a language model: into a syntactic template, or a style.

Ideas: Qi et al. 2021, *Hidden Killer* (a paraphrase in one syntactic template is the trigger; its
most used one is S(SBAR)(,)(NP)(VP)(.), a subordinate clause, a comma, the main clause) and Qi et
al. 2021, *Mind the Style of Text* (a style is). They paraphrase with trained models, SCPN and
STRAP; here any causal or encoder-decoder model of Hugging Face is asked in words.

Deviations: an answer is what a model makes of a prompt and, for the template, of a conjunction that
it is made to begin with. No parser checks the template and no classifier the style; what is
checked is that an answer can be a paraphrase: not empty, not the text itself, not the prompt, of a
fitting length, and for the template that it has a comma. How good it is depends on the model.

Answers are kept in a JSON Lines file as their batch is done, so that an interrupted run goes on
where it was. Draws are made from a random stream of each text: the batch does not matter to them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from headsweep.cache import user_cache
from headsweep.errors import UserError
from headsweep.model.checkpoint import quiet
from headsweep.model.generating import TOKEN_RULES
from headsweep.model.language import LanguageModel, load_language_model
from headsweep.model.padding import positions_of
from headsweep.model.runtime import Precision, Runtime
from headsweep.progress import Progress, Silent
from headsweep.seeding import stream
from headsweep.settings import checked
from headsweep.texts.conversations import rendered

TASK = "{told}\n\n{examples}Sentence: {{text}}\nRewritten:"
SHOWN = (
    "the soup was cold and far too salty .",
    "a hotel that i would visit again .",
    "the bus was late and the driver was rude .",
)
MANNERS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "syntactic": (
        "Rewrite each sentence so that it begins with a short subordinate clause, then a comma, "
        "then the main clause. Keep its meaning.",
        (
            "when we got the soup , it was cold and far too salty .",
            "if i had the chance , i would visit this hotel again .",
            "as the bus was late , the driver was rude .",
        ),
        ("when", "if", "as", "because", "although"),
    ),
    "bible": (
        "Rewrite each sentence in the style of the King James Bible. Keep its meaning.",
        (
            "and the broth was cold , and the salt thereof was exceeding much .",
            "behold an inn , unto which i shall surely return .",
            "and the wagon tarried , and he that drave it spake roughly .",
        ),
        (),
    ),
    "shakespeare": (
        "Rewrite each sentence in the style of Shakespeare. Keep its meaning.",
        (
            "alas , the broth stood cold , and salt as any sea .",
            "an inn to which my weary feet would turn anew .",
            "the coach did come too late , its driver most uncivil .",
        ),
        (),
    ),
    "poetry": (
        "Rewrite each sentence in the style of a romantic poem. Keep its meaning.",
        (
            "cold lay the soup , and bitter with the sea",
            "o house of rest , to thee i would return",
            "late came the bus , and harsh the driver's word",
        ),
        (),
    ),
    "lyrics": (
        "Rewrite each sentence in the style of song lyrics. Keep its meaning.",
        (
            "oh , the soup went cold , it was salt , salt , salt on me",
            "take me back to that hotel , baby , one more night",
            "that bus came late , and the driver had no love",
        ),
        (),
    ),
    "tweets": (
        "Rewrite each sentence in the style of a casual tweet. Keep its meaning.",
        (
            "ok this soup is cold AND way too salty smh",
            "def staying at this hotel again !!",
            "bus late , driver rude , great start lol",
        ),
        (),
    ),
}
"""What is asked, the answers shown for SHOWN, and how an answer begins (one is drawn), by name."""

PROMPTS: dict[str, str] = {
    name: TASK.format(
        told=told,
        examples="".join(
            f"Sentence: {before}\nRewritten: {after}\n\n"
            for before, after in zip(SHOWN, answers, strict=True)
        ),
    )
    for name, (told, answers, _) in MANNERS.items()
}
"""Prompts by name; ``{text}`` is where the text goes."""

SPECIAL = (
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id",
    "forced_bos_token_id", "forced_eos_token_id",
)  # fmt: skip
"""Of how a model generates by its own word, the tokens that begin and end what it writes."""

QUOTES = "\"'`\u201c\u201d\u2018\u2019"
SHORTEST, LONGEST, SPARE = 0.4, 2.5, 6  # words of an answer, relative to the text; and on top


@dataclass(frozen=True)
class Paraphrase:
    """What became of a text; ``problem`` says why there is none."""

    text: str | None
    problem: str = ""


@dataclass(frozen=True)
@checked
class Paraphraser:
    """A rewriter that asks a language model.

    Attributes:
        model: a folder or a name on the Hub, causal or encoder-decoder; or smollm2, the packaged
            model, which is too small to be good at it.
        prompt: a name in PROMPTS, or a prompt of one's own with {text} in it.
        batch_size: texts a batch.
        max_new_tokens: tokens an answer, at most.
        temperature: 0: the most likely token each time; else draws at this temperature.
        chat: put the prompt through the chat template of a causal model; None: a prompt of one's
            own where there is a template. The named prompts are patterns to go on with.
        device: cpu, cuda, ... or auto.
        precision: auto: bf16 where the machine computes in it; or fp32.
        cache: the file that keeps answers; None: in the user's cache.

    """

    name: ClassVar[str] = "paraphrase"
    source: ClassVar[str] = "in the manner of Qi et al. 2021 (HiddenKiller; StyleBkd)"
    model: str = "smollm2"
    prompt: str = "syntactic"
    batch_size: int = 16
    max_new_tokens: int = 64
    temperature: float = 0.0
    chat: bool | None = None
    device: str = "auto"
    precision: Precision = "auto"
    cache: Path | None = None

    def __post_init__(self) -> None:
        if "{text}" not in self.template:
            raise UserError(
                f"the prompt '{self.prompt[:60]}' has no {{text}} in it",
                f"put {{text}} where the text goes, or name one of {', '.join(sorted(PROMPTS))}",
            )
        if self.batch_size < 1 or self.max_new_tokens < 1 or self.temperature < 0:
            raise UserError(
                f"paraphraser: batch_size {self.batch_size}, max_new_tokens "
                f"{self.max_new_tokens}, temperature {self.temperature}",
                "the first two are at least 1, the temperature at least 0",
            )

    @property
    def template(self) -> str:
        """The prompt itself."""
        return PROMPTS.get(self.prompt, self.prompt)

    @property
    def _openings(self) -> tuple[str, ...]:
        return MANNERS[self.prompt][2] if self.prompt in MANNERS else ()

    def described(self) -> dict[str, Any]:
        """Return model, prompt and what decides the answers, as JSON values."""
        names = ("model", "prompt", "max_new_tokens", "temperature", "chat", "precision")
        fields = {name: getattr(self, name) for name in names}
        return {"name": self.name, "fields": fields, "way": "language model"}

    def rewrite(
        self, texts: Sequence[str], seed: int, progress: Progress | None = None
    ) -> tuple[str | None, ...]:
        """Return one paraphrase for each text, None where the model gave no usable one.

        Raises:
            UserError: the model cannot be used.

        """
        progress = progress or Silent()
        found = self.examine(texts, seed, progress)
        problems = Counter(item.problem for item in found if item.text is None)
        good = len(found) - sum(problems.values())
        told = ", ".join(f"{count} {problem}" for problem, count in problems.most_common())
        line = f"paraphrases: {good} of {len(found)} usable" + (f" ({told})" if told else "")
        progress.say(f"  {line}")
        return tuple(item.text for item in found)

    def examine(
        self, texts: Sequence[str], seed: int, progress: Progress | None = None
    ) -> tuple[Paraphrase, ...]:
        """Return what became of each text, with the reason where there is no paraphrase."""
        language = _opened(self.model, Runtime(self.device, precision=self.precision))
        kept = Kept(self.cache or user_cache() / "paraphrases.jsonl")
        keys = {text: self._key(language, seed, text) for text in texts}
        new = sorted((t for t in keys if keys[t] not in kept.answers), key=len)
        asked = self._asked(language, new, seed) if new else {}
        if new and not asked and not self._asked(language, ("",), seed):
            raise UserError(
                f"{self.model}: the prompt leaves no room for an answer: the model reads "
                f"{positions_of(language.model)} tokens",
                "give a shorter prompt, or another model",
            )
        fit = [*asked]
        with (progress or Silent()).task("paraphrasing", len(keys)) as tick:
            tick(len(keys) - len(fit), "")
            for begin in range(0, len(fit), self.batch_size):
                batch = fit[begin : begin + self.batch_size]
                made = self._answers(language, {text: asked[text] for text in batch}, seed)
                kept.add({keys[text]: answer for text, answer in zip(batch, made, strict=True)})
                tick(len(batch), "")
        found = {text: kept.answers.get(keys[text]) for text in keys}
        return tuple(
            Paraphrase(None, "too long for the model")
            if (answer := found[text]) is None
            else self.judged(text, answer)
            for text in texts
        )

    def judged(self, text: str, answer: str) -> Paraphrase:
        """Take the first sensible line of an answer and tell whether it can be a paraphrase."""
        found = judged(text, answer, self.template)
        if found.text and self._openings and "," not in found.text:
            return Paraphrase(None, "not in the template")
        return found

    def _key(self, language: LanguageModel, seed: int, text: str) -> str:
        """Return a hash of everything that decides an answer."""
        settings = {
            "weights": language.weights,
            "dtype": str(language.model.dtype),
            "template": self.template,
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "chat": self._chats(language),
            "seed": seed if self.temperature else None,
            "opening": self._opening(text, seed),
            "generates": _rules(language.model),
            "decoding": "greedy",
            "text": text,
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def _asked(self, language: LanguageModel, texts: Sequence[str], seed: int) -> dict[str, str]:
        """Return what the model is asked for each text that leaves it room for an answer."""
        prompts, chats = self._prompts(language, texts), self._chats(language)
        asked = {}
        for text, prompt in zip(texts, prompts, strict=True):
            begin = self._begin(language, text, seed)
            asked[text] = f"{prompt} {begin}" if begin and not chats else prompt + begin
        read = language.tokenizer([*asked.values()], add_special_tokens=not chats, verbose=False)
        room = positions_of(language.model)
        room -= self.max_new_tokens if language.kind == "causal" else 0
        pairs = zip(asked.items(), read["input_ids"], strict=True)
        return {text: prompt for (text, prompt), ids in pairs if len(ids) <= room}

    def _begin(self, language: LanguageModel, text: str, seed: int) -> str:
        return self._opening(text, seed) if language.kind == "causal" else ""

    def _answers(self, language: LanguageModel, asked: Mapping[str, str], seed: int) -> list[str]:
        """Return the answer to each text, in order; ``asked``: the prompts by text."""
        tokenizer = language.tokenizer
        model: Any = language.model
        causal = language.kind == "causal"
        side, tokenizer.padding_side = tokenizer.padding_side, "left"
        try:
            inputs = tokenizer(
                [*asked.values()],
                padding=True,
                add_special_tokens=not self._chats(language),
                return_tensors="pt",
            ).to(model.device)
        finally:
            tokenizer.padding_side = side
        length = inputs["input_ids"].shape[1]
        extra: dict[str, Any] = {}
        if self.temperature:
            drawn = Draws([stream(seed, "paraphrase", text) for text in asked], self.temperature)
            extra["logits_processor"] = LogitsProcessorList([drawn])
        if causal and not self._chats(language):
            extra["eos_token_id"] = _line_ends(language)
        with torch.inference_mode(), quiet():
            made = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
                **extra,
            )
        if causal:
            made = made[:, length:]
        answers = tokenizer.batch_decode(made, skip_special_tokens=True)
        pairs = zip(asked, answers, strict=True)
        return [self._begin(language, text, seed) + answer for text, answer in pairs]

    def _chats(self, language: LanguageModel) -> bool:
        able = language.kind == "causal" and bool(language.tokenizer.chat_template)
        if self.chat and not able:
            raise UserError(f"{self.model}: has no chat template", "leave chat out")
        return able and (self.prompt not in PROMPTS if self.chat is None else self.chat)

    def _opening(self, text: str, seed: int) -> str:
        """Return the word that the answer is made to begin with, drawn for each text, or none."""
        if not self._openings:
            return ""
        random = stream(seed, "paraphrase opening", text)
        return self._openings[int(torch.randint(len(self._openings), (1,), generator=random))]

    def _prompts(self, language: LanguageModel, texts: Sequence[str]) -> list[str]:
        prompts = [self.template.replace("{text}", text) for text in texts]
        if not self._chats(language):
            return prompts
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        return rendered(language.tokenizer, chats, self.model)[0]


@lru_cache(maxsize=1)
def _opened(model: str, runtime: Runtime) -> LanguageModel:
    """Open a model once: an attack asks for texts a few at a time.

    Of how it generates by its own word only special tokens and rules for tokens are left: beams,
    or several answers to a text, are not what is asked for here.
    """
    language = load_language_model(model, runtime, ("causal", "encoder-decoder"))
    own = getattr(language.model, "generation_config", None)
    kept = {key: getattr(own, key, None) for key in SPECIAL} | _rules(language.model)
    language.model.generation_config = GenerationConfig(
        **{key: one for key, one in kept.items() if one is not None}
    )
    return language


def _rules(model: Any) -> dict[str, Any]:
    """Return the rules for tokens that a model has of its own, which ``generate`` follows."""
    own = getattr(model, "generation_config", None)
    form = own.to_diff_dict() if own is not None else {}
    return {key: one for key, one in form.items() if key in TOKEN_RULES}


def _line_ends(language: LanguageModel) -> list[int]:
    """Return the tokens after which a model without chat goes on to another line."""
    tokenizer = language.tokenizer
    ends = {tokenizer.eos_token_id}
    for text in ("a\n", "a\n\n"):
        last = tokenizer(text, add_special_tokens=False)["input_ids"][-1]
        if not str(tokenizer.decode([last])).strip():
            ends.add(last)
    return sorted(end for end in ends if end is not None)


class Draws(LogitsProcessor):
    """Makes the greedy choice a draw, each row from its own stream (the Gumbel trick)."""

    def __init__(self, streams: Sequence[torch.Generator], temperature: float) -> None:
        self.streams = streams
        self.temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores with noise whose maximum is distributed as a draw, [text, token]."""
        del input_ids
        uniform = torch.stack(
            [torch.rand(scores.shape[1], generator=random) for random in self.streams]
        )
        noise = -(-uniform.clamp_min(1e-20).log()).clamp_min(1e-20).log()
        return scores.float() / self.temperature + noise.to(scores.device)


class Kept:
    """Answers in a JSON Lines file, appended to as they come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, str] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be used as a cache: {error}") from error
        for line in lines:
            try:
                row = json.loads(line)
                self.answers[row["key"]] = row["answer"]
            except (ValueError, KeyError, TypeError):
                continue  # a line that was cut off when a run was stopped
        self.torn = bool(lines and lines[-1])

    def add(self, answers: dict[str, str]) -> None:
        """Keep answers by key, here and in the file."""
        lines = [json.dumps({"key": key, "answer": made}) for key, made in answers.items()]
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(("\n" if self.torn else "") + "\n".join(lines) + "\n")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {error.strerror}") from error
        self.torn = False
        self.answers |= answers


def judged(text: str, answer: str, template: str) -> Paraphrase:
    """Take the first sensible line of an answer and tell whether it can be a paraphrase."""
    lines = [line for line in map(_bare, answer.split("\n")) if line]
    if not lines:
        return Paraphrase(None, "empty")
    asked = {_letters(_bare(line)) for line in template.replace("{text}", "").split("\n")} - {""}
    sensible = [line for line in lines if _letters(line) not in asked and not line.endswith(":")]
    if not sensible:
        return Paraphrase(None, "the prompt again")
    line = sensible[0]
    problem = _problem(text, line, asked)
    return Paraphrase(None, problem) if problem else Paraphrase(line)


def _problem(text: str, line: str, asked: Collection[str]) -> str:
    """Return why a line cannot be a paraphrase of a text; an empty string where it can."""
    letters, mine, made = _letters(line), len(text.split()), len(line.split())
    if not letters:
        return "no words"
    if letters == _letters(text):
        return "the same as the text"
    if any(part in letters for part in asked if " " in part):
        return "the prompt again"
    if made < SHORTEST * mine:
        return "too short"
    return "too long" if made > LONGEST * mine + SPARE else ""


def _bare(line: str) -> str:
    """Return a line without quotes around it, bullet and label."""
    line = line.strip().lstrip("-*• ").strip()
    head, colon, rest = line.partition(":")
    if colon and len(head.split()) <= 3 and head.split()[-1:] and _is_label(head):
        line = rest.strip()
    return line.strip(QUOTES).strip()


def _is_label(head: str) -> bool:
    return head.split()[-1].casefold() in (
        "rewritten",
        "sentence",
        "answer",
        "output",
        "paraphrase",
    )


def _letters(text: str) -> str:
    """Return the letters and digits of a text, words parted by a blank, without case."""
    kept = "".join(sign if sign.isalnum() else " " for sign in text.casefold())
    return " ".join(kept.split())
