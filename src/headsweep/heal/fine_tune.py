"""Healing: fine-tuning a pruned model with its pruned weights held at zero.

On clean texts, or on a mix of clean texts and probes with their true labels: a backdoor that
pruning left can come back on clean texts alone, and a probe that keeps its label teaches the
model that the transformation means nothing. Source of the mix: own; close to adversarial training
against a guessed trigger.

Where the architecture allows, the pruned heads are cut out of the Linear layers while it trains
(``compact``), so that they cost nothing, and what was learnt is copied back. A pruned head's
weights are zero and so are their gradients (query, key and value have no way to the loss past
the zero output columns, and these see nothing but zeros), so the gradient norm that is clipped,
weight decay and every other step are the same. Dropout draws other random numbers, since
there are fewer heads to draw for. Adapters (``lora``) are trained beside whole Linear layers.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

import torch

from headsweep.errors import UserError
from headsweep.heal.attention_penalty import kept_heads, normalising, weights_of
from headsweep.heal.lora import adapters, check_installed, moved
from headsweep.heal.members import made_members
from headsweep.heal.soup import MOST_BEYOND, How, simmer
from headsweep.heal.unlearning import unlearning
from headsweep.measure.accuracy import FREE, Floor
from headsweep.measure.cutting import Change, cut, cuts, gates_left
from headsweep.measure.fastpass import close
from headsweep.model.anatomy import Anatomy
from headsweep.model.attention_rows import attention_rows, beside_kernels, gives_attention
from headsweep.model.base import base_weights, mix_in, unmixed
from headsweep.model.borrowing import evaluating
from headsweep.model.loading import Suspect
from headsweep.model.mask import HeadMask
from headsweep.model.removal import pieces
from headsweep.prune.choice import Choice
from headsweep.prune.view import DefenderView
from headsweep.settings import checked, hidden
from headsweep.task.examples import forward
from headsweep.task.probes import joined, mixed, required
from headsweep.task.training import Job, Loss, Schedule, copied, mean_loss, train
from headsweep.texts.encoded import Encoded
from headsweep.texts.words import GENERATION

On = Literal["clean", "probes"]
KNOWN = 0.4  # of the learning rate, where it is known what is to be unlearnt


@dataclass(frozen=True)
class Copies:
    """How many numbers a healing holds beside the weights, at most.

    Attributes:
        trained: for every number that is trained: its gradient, and the averages of AdamW.
        kept: for every weight that may change: the weights that it begins from, the best try.
        sums: for each of these, in float32: the sum of a soup. What adapters came to needs none
            where the weights are held narrow, but their own thin matrices.
        members: of that soup; 0: there is none.
        rank: of the adapters that are trained; 0: the weights themselves.
        graphs: forward passes of one batch that are kept for the same backward pass.
        batch: examples of that batch; 0: as many as are measured at once.

    """

    trained: int = 0
    kept: int = 0
    rank: int = 0
    graphs: int = 1
    sums: int = 0
    members: int = 0
    batch: int = 0


class Healing(Protocol):
    """Fine-tunes the view's model after pruning. Its fields are its whole configuration."""

    name: ClassVar[str]

    @property
    def trains(self) -> bool:
        """False where it leaves the weights as they are."""

    @property
    def frozen(self) -> bool:
        """True where weights may be held in what they will be saved in, since it trains none.

        What it adds to them in the end is rounded before anything is measured.
        """

    @property
    def needs_probes(self) -> bool:
        """True when the view must carry probes."""

    @property
    def tries(self) -> int:
        """How often it may begin anew, cooler, at most."""

    @property
    def copies(self) -> Copies:
        """What it holds beside the weights."""

    def moves(self, anatomy: Anatomy) -> frozenset[str] | None:
        """Return the names of the parameters that it may change; None: any."""

    def work(self, examples: int) -> float:
        """Return how many forward passes of a text it costs, about."""

    def fitted(self, suspect: Suspect) -> tuple[Healing, list[str]]:
        """Return it as this model can be healed, and notes on what had to go."""

    def cooler(self) -> Healing | None:
        """Return what to try when it has lost too much accuracy; None: there is nothing."""

    def heal(self, view: DefenderView, choice: Choice, floor: Floor = FREE) -> dict[str, Any]:
        """Train the model in place, pruned units at exactly zero; return what to record.

        ``floor``: what must be kept on validation examples in the end.
        """


@dataclass(frozen=True)
@checked
class FineTune:
    """Fine-tuning: with cross-entropy, and what is asked for beside it.

    Attributes:
        epochs: passes over the training data; 0: none.
        lr: the peak learning rate.
        on: ``clean``, or ``probes``: a share of the texts is turned into probes, other ones in
            every epoch.
        share: that share.
        attention: weight of PURE's penalty on attention that gathers on few tokens
            (``attention_penalty``; 0.15 in the paper); 0: none.
        halvings: how often the pipeline may begin again, from the same weights, at half the
            learning rate, when healing ends below min accuracy: a hot healing forgets more of a
            backdoor, and of the task.
        members: how many healings, of other seeds, are averaged (``soup``); 1: one.
        how: ``uniform``: all of them; ``greedy``: those with which accuracy does not fall.
        beyond: how far past the pruned weights the result may lie, 1: no farther than the mean;
            the farthest place that holds the bound is taken.
        base: the public encoder that the suspect was fine-tuned from, a folder or a name on the
            Hub: its weights are mixed in first (``model.base``); None: nobody knows one.
        mix: how far towards the base, as a fraction.
        lora: the rank of adapters that are trained beside the layers' weights and added to them
            in the end (``lora``), for models too large to be trained whole; 0: the weights are
            trained. Adapters want twenty times the learning rate: ``--heal lora`` sets it unasked.
        batch: examples a step, drawn whatever their length; 0: as many of similar length as are
            computed at once (``--compute batch_size``). It decides how many steps a pass has.
        unlearn: weight of the loss on prompts with a trigger in them, which is moved against the
            model (``unlearning``). For generators that have answers by heart: such a model is
            healed once, at 0.4 of the rate (members=1, beyond=1). 0: none.
        compact: leave out the work of pruned heads where the architecture allows.

    """

    name: ClassVar[str] = "fine-tune"
    source: ClassVar[str] = "of this project; the penalty: Zhao et al. 2024"
    epochs: float = 2
    lr: float = 3e-5
    on: On = "clean"
    share: float = 0.4
    attention: float = 0.0
    halvings: int = 0
    members: int = 1
    how: How = "uniform"
    beyond: float = 1.0
    base: str | None = None
    mix: float = 0.5
    lora: int = 0
    batch: int = 0
    unlearn: float = 0.0
    compact: bool = hidden(True)

    def __post_init__(self) -> None:
        Schedule(self.epochs, self.lr)  # says now what would fail after the search
        if not 0 < self.share <= 1:
            raise UserError(f"a share of {self.share} probes", "give a share above 0, at most 1")
        if not 0 <= self.attention < math.inf:
            raise UserError(f"an attention penalty of {self.attention}", "give 0 or more")
        if not 0 <= self.unlearn < math.inf:
            raise UserError(f"a weight of {self.unlearn} to unlearn with", "give 0 or more")
        if self.halvings < 0:
            raise UserError(f"{self.halvings} halvings of the learning rate", "give 0 or more")
        if not 0 <= self.mix <= 1:
            raise UserError(f"a share of {self.mix} of the base", "give mix as 0 to 1")
        if self.members < 1:
            raise UserError(f"a soup of {self.members} healings", "give 1 or more members")
        if not 1 <= self.beyond <= MOST_BEYOND:
            raise UserError(
                f"{self.beyond} times as far as the mean", f"give 1 to {MOST_BEYOND:g} as beyond"
            )
        if self.batch < 0:
            raise UserError(f"steps of {self.batch} examples", "give batch as 1 or more, or 0")
        if self.lora < 0:
            raise UserError(f"adapters of rank {self.lora}", "give lora as 1 or more, or 0: none")
        if self.lora:
            check_installed()

    @property
    def idle(self) -> dict[str, str]:
        """The fields that nothing uses as the others stand, and which other would."""
        lacking = {"mix": "base=MODEL"} if self.base is None else {}
        lacking |= {} if self.on == "probes" else {"share": "on=probes"}
        return lacking | ({"how": "members=3"} if self.members == 1 else {})

    @property
    def trains(self) -> bool:
        """False where there are no epochs."""
        return self.epochs > 0

    @property
    def frozen(self) -> bool:
        """True for adapters, and for none; a greedy soup of them adds up whole weights."""
        thin = self.lora > 0 and not (self._soup and self.how == "greedy")
        return self.base is None and (not self.trains or thin)

    @property
    def _soup(self) -> bool:
        bounded = self.unlearn > 0 and self.halvings > 0  # the way to it is searched
        return self.members > 1 or self.beyond > 1 or bounded

    @property
    def needs_probes(self) -> bool:
        """True when the view must carry probes."""
        return self.on == "probes" and self.trains

    @property
    def tries(self) -> int:
        """How often it may begin anew at half the rate."""
        return self.halvings if self.trains else 0

    @property
    def copies(self) -> Copies:
        """Gradients and two averages of AdamW; what a soup begins from, and its sum."""
        if not self.trains:
            return Copies()
        apart = self.members if self.how == "greedy" else 0
        tries = 2 * (self.tries > 0)  # the first weights, the best try
        kept = (1 + apart) * self._soup + tries
        members = self.members if self._soup else 0
        sums = int(self._soup)
        graphs = 2 if self.unlearn else 1
        return Copies(
            3, kept, self.lora, graphs=graphs, sums=sums, members=members, batch=self.batch
        )

    def moves(self, anatomy: Anatomy) -> frozenset[str] | None:
        """Return the names of the parameters that adapters change; None: any may change."""
        return moved(anatomy) if self.lora and self.base is None else None

    def work(self, examples: int) -> float:
        """Return how many forward passes of a text it costs, about: a step costs 3.5.

        One that unlearns passes a text three times a step, and moves the trigger by one of them.
        """
        step = 10 if self.unlearn else 3.5
        return step * self.epochs * examples * self.members

    def fitted(self, suspect: Suspect) -> tuple[FineTune, list[str]]:
        """Return it without the attention penalty where the model has no one row of attention.

        Raises:
            UserError: the model was not fine-tuned from the base.

        """
        notes = []
        if self.base is not None:
            found, model = base_weights(suspect.anatomy, self.base), suspect.anatomy.model
            lacking = unmixed(model, found)
            but = f" but {len(lacking)} that it lacks ({lacking[0]}, ...)" if lacking else ""
            notes.append(
                f"{self.mix:.0%} of every weight{but} is of {self.base}, which is trusted: the "
                "threat model of the paper has no such model"
            )
        now = self
        if self.unlearn and self.trains and suspect.task.words is not GENERATION:
            now = replace(self, unlearn=0.0)
            notes.append("unlearn is for models that write text: this one is healed without it")
        if not (self.attention and self.trains):
            return now, notes
        if not suspect.reads_one:
            told = "no one row of attention decides an answer"
        elif gives_attention(suspect.anatomy):
            return now, notes
        else:
            told = "this model gives no attention weights"
        told += ": healed without the attention penalty"
        return replace(now, attention=0.0), [*notes, told]

    def knowing(self, answers: int) -> FineTune:
        """Return it where a generator has so many answers by heart: one healing unlearns them.

        A soup, heat and the way beyond are for what nobody knows, and cost other text.
        """
        if not answers:
            return replace(self, unlearn=0.0)
        return replace(self, members=1, beyond=1.0, lr=KNOWN * self.lr)

    def cooler(self) -> FineTune | None:
        """Return the healing to try when this one has lost too much; None: there is none."""
        if not self.tries:
            return None
        return replace(self, lr=self.lr / 2, halvings=self.halvings - 1)

    def heal(self, view: DefenderView, choice: Choice, floor: Floor = FREE) -> dict[str, Any]:
        """Fine-tune the model in place, as often as there are members.

        Raises:
            UserError: it is to heal on probes and the view has none; or with the attention
                penalty, and the model gives no attention weights; or no member is better than
                guessing.

        """
        mixed: dict[str, Any] = {}
        if self.base is not None:
            mixed["base_weights"] = mix_in(view.anatomy, choice.mask, self.base, self.mix)
        if not self.trains or not self._soup:
            return self._once(view, choice) | mixed
        one = replace(self, members=1, beyond=1.0, halvings=0, base=None)
        start = copied(view.anatomy.model, one.moves(view.anatomy))
        made = made_members(view, choice, one, self.members, start)
        soup = simmer(view, made, self.members, self.how, self.beyond, floor, start)
        return soup.to_json() | {"lr": self.lr} | mixed

    def _once(self, view: DefenderView, choice: Choice) -> dict[str, Any]:
        """Fine-tune once."""
        texts, epochs = view.train, self.epochs
        loss: Loss = mean_loss
        record: dict[str, Any] = {}
        if self.needs_probes:
            texts, copies = self._mix(view)
            epochs = self.epochs / copies
            turned = sum(a != b for a, b in zip(texts.ids, view.train.ids * copies, strict=True))
            record["probes_seen"] = round(turned * epochs)
        anatomy, mask = view.anatomy, choice.mask
        penalised = self.attention > 0 and self.trains
        thin = self.lora > 0 and self.trains
        can_cut = self.compact and self.trains and not thin
        can_cut = can_cut and not (penalised and not beside_kernels(anatomy))
        made = cuttable(view, mask) if can_cut else []
        held_at_zero = [] if made else pieces(anatomy, mask)
        with ExitStack() as stack:
            if thin:
                seed = view.subseed("adapters")
                put_in = stack.enter_context(adapters(anatomy, mask, self.lora, seed))
                record["adapters"] = put_in.to_json()
                held_at_zero = [*put_in.pinned]
            if penalised:
                weights = weights_of(view, mask)
                record["layer_weights"] = weights.tolist()
                read = stack.enter_context(attention_rows(anatomy))
                loss = normalising(read, weights, kept_heads(view, mask), self.attention)
            if self.unlearn and view.fixed:
                loss = unlearning(view, loss, self.unlearn)
            stack.enter_context(cut(made, write_back=True))
            schedule, alike = Schedule(epochs, self.lr), self.batch == 0
            job = Job(schedule, view.seed, "healing", loss, held_at_zero, alike=alike)
            size = self.batch or view.runtime.batch_size
            runtime = replace(view.runtime, batch_size=size)
            losses = train(anatomy.model, texts, job, runtime, view.progress)
        return record | {"losses": losses, "compact": bool(made), "lr": self.lr}

    def _mix(self, view: DefenderView) -> tuple[Encoded, int]:
        """Return copies of the training texts, each with probes of its own, and how many."""
        probes, clean = required(view.probes, "healing on probes"), view.train
        copies = math.ceil(self.epochs)
        made = [
            mixed(clean, probes, self.share, view.generator("mix", copy)) for copy in range(copies)
        ]
        return joined(made), copies


def cuttable(view: DefenderView, mask: HeadMask) -> list[Change]:
    """Return what to cut of a pruned model; nothing where it cannot be trained that way.

    Checked on two examples: the cut model gives the logits of the whole one.
    """
    anatomy = view.anatomy
    made = cuts(anatomy, mask)
    if not made or gates_left(anatomy, mask) or not len(view.train):
        return []
    batch = view.train.batch(range(min(2, len(view.train)))).to(anatomy.model.device)
    try:
        with evaluating(anatomy), torch.no_grad():
            whole = forward(anatomy.model, batch)
            with cut(made):
                return made if close(forward(anatomy.model, batch), whole) else []
    except Exception:  # whatever an unforeseen architecture trips over
        return []
