"""The only training loop: attacks, healing, baselines and sparsifying all run through it.

AdamW with decoupled weight decay (Loshchilov & Hutter 2019), linear decay to zero without
warm-up, gradients clipped by norm: the optimiser of the paper's protocol. Batches hold texts of
similar length, or whatever is drawn, in an order drawn from the seed; the seed decides the result
to the last byte on one machine with a fixed number of threads.

A batch that memory does not hold is halved, and the gradients of its parts are added up: the same
step to rounding, but for what dropout draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

from headsweep.errors import UserError
from headsweep.model.narrow import NARROW, settle
from headsweep.model.runtime import Runtime
from headsweep.progress import Progress, Silent
from headsweep.seeding import derive, fence, stream
from headsweep.settings import checked
from headsweep.task.examples import forward
from headsweep.task.fitting import Fitting
from headsweep.texts.encoded import Batch, Encoded

Loss = Callable[[PreTrainedModel, Batch], Tensor]
"""Scalar loss of a model on a batch."""


class DivergedError(UserError):
    """A training run came to nothing: its loss is no number, or its answers are guesses."""


POOL = 32  # batches whose texts are sorted by length together
COOLER = "lower the learning rate, or use --compute precision=fp32"
OVERFLOWS = "the model overflows on these texts: look at its weights"


def check_finite(found: Sequence[Tensor], title: str, step: int, fix: str = OVERFLOWS) -> None:
    """Check that what a step came to are numbers; raises DivergedError."""
    if not all(bool(x.isfinite().all()) for x in found):
        raise DivergedError(f"{title}: the result is not a number at step {step}", fix)


@dataclass(frozen=True)
@checked
class Schedule:
    """How long and how fast to train; the defaults are the paper's."""

    epochs: float = 3
    lr: float = 2e-5
    weight_decay: float = 0.01
    clip: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epochs) and self.epochs >= 0 and 0 < self.lr < 1):
            raise UserError(
                f"cannot train {self.epochs} epochs at a learning rate of {self.lr}",
                "epochs are 0 or more, a learning rate lies between 0 and 1, such as 3e-5",
            )


@dataclass(frozen=True)
class Job:
    """A training run beside its model and data.

    Attributes:
        schedule: how long and how fast.
        seed: decides order and dropout.
        title: what the progress bar says.
        loss: the loss; the mean of the task's own by default.
        pinned: views of weights that are set to zero after every step.
        after_step: called after every step with its learning rate (a proximal step, say).
        regrade: called with a step's gradients in place, before they are clipped, to put others
            there; it is given the model and what computes the loss and its gradients once more.
        alike: batches hold texts of similar length, which is faster. A few short steps are better
            made of texts that are drawn: those of one length may be of one kind.

    """

    schedule: Schedule = Schedule()
    seed: int = 0
    title: str = "training"
    loss: Loss | None = None
    pinned: Sequence[Tensor] = ()
    after_step: Callable[[float], None] | None = None
    regrade: Callable[[PreTrainedModel, Callable[[], Tensor]], None] | None = None
    alike: bool = True


def mean_loss(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Return the mean loss of a batch: cross-entropy where it is classification."""
    return batch.task.losses(forward(model, batch), batch.labels).mean()


def train(
    model: PreTrainedModel,
    encoded: Encoded,
    job: Job,
    runtime: Runtime = Runtime(),
    progress: Progress | None = None,
) -> list[float]:
    """Train a model in place; return the mean loss of each tenth of the run.

    Raises:
        DivergedError: the loss or its gradient is no longer a finite number.

    """
    plan = _orders(encoded, runtime.batch_size, job)
    if not plan:
        return []
    schedule = job.schedule
    parameters = [p for p in model.parameters() if p.requires_grad]
    assert all(p.dtype not in NARROW for p in parameters), "narrow weights are not trained"
    decay = schedule.weight_decay
    optimizer = torch.optim.AdamW(parameters, lr=schedule.lr, weight_decay=decay, fused=True)
    rates = get_linear_schedule_with_warmup(optimizer, 0, len(plan))
    loss_of, device = job.loss or mean_loss, model.device
    losses: list[float] = []
    fitting = Fitting()
    clear = partial(optimizer.zero_grad, set_to_none=True)
    training = model.training
    cast = casting(model, encoded.batch(plan[0][:2]), runtime)  # of more, memory decides
    model.train()
    try:
        with (
            fence(derive(job.seed, "train")),
            (progress or Silent()).task(job.title, len(plan)) as tick,
        ):
            for step, rows in enumerate(plan):
                batch = encoded.batch(rows).to(device)

                def of_part(part: Batch) -> Tensor:
                    with cast:
                        loss = loss_of(model, part) * part.share
                    loss.backward()
                    return loss.detach()

                def backward(batch: Batch = batch) -> Tensor:
                    parts = fitting.parts(batch, of_part, clear)
                    return torch.stack([loss for _, loss in parts]).sum()

                clear()
                loss = backward()
                if job.regrade:
                    job.regrade(model, backward)
                norm = nn.utils.clip_grad_norm_(parameters, schedule.clip)
                check_finite([loss, norm], job.title, step + 1, COOLER)
                rate = rates.get_last_lr()[0]
                optimizer.step()
                rates.step()
                _after(job, float(rate))
                losses.append(float(loss))
                tick(1, f"loss {_recent(losses):.3f}")
    finally:
        model.train(training)
        model.zero_grad(set_to_none=True)
    parts = min(10, len(losses))
    ends = [round(i * len(losses) / parts) for i in range(parts + 1)] if parts else []
    return [sum(losses[a:b]) / (b - a) for a, b in pairwise(ends)]


def casting(model: PreTrainedModel, batch: Batch, runtime: Runtime) -> torch.autocast:
    """Return what casts to bf16 inside, where the device computes in it and the model bears it."""
    device = model.device
    narrow = runtime.trains_in_bf16() and _bears_bf16(model, batch.to(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=narrow)


def _bears_bf16(model: PreTrainedModel, batch: Batch) -> bool:
    """Tell whether a model can be run in bf16: DeBERTa v1 and X-MOD mix it with float32.

    Nothing is drawn for it, so that a seed gives what it gives anyway.
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16):
            forward(model, batch)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return False
    finally:
        model.train(training)
    return True


def _after(job: Job, rate: float) -> None:
    with torch.no_grad():
        if job.after_step:
            job.after_step(rate)
        for piece in job.pinned:
            piece.zero_()


def _recent(losses: Sequence[float]) -> float:
    last = losses[-20:]
    return sum(last) / len(last)


def _orders(encoded: Encoded, size: int, job: Job) -> list[list[int]]:
    """Return the rows of every step: shuffled, then bucketed by length in pools of batches."""
    pool_size = (POOL if job.alike else 1) * size
    steps: list[list[int]] = []
    per_epoch = -(-len(encoded) // size)
    total = round(job.schedule.epochs * per_epoch)
    total = max(total, int(job.schedule.epochs > 0))  # a little is a step, not none
    epoch = 0
    while len(steps) < total:
        generator = stream(job.seed, "order", epoch)
        order = torch.randperm(len(encoded), generator=generator).tolist()
        batches: list[list[int]] = []
        for start in range(0, len(order), pool_size):
            pool = sorted(order[start : start + pool_size], key=lambda i: len(encoded.ids[i]))
            batches += [pool[i : i + size] for i in range(0, len(pool), size)]
        places = torch.randperm(len(batches), generator=generator).tolist()
        steps += [batches[i] for i in places]
        epoch += 1
    return steps[:total]


def copied(model: PreTrainedModel, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """Return a copy of a model's weights in the processor's memory; ``names``: of these alone."""
    own = model.state_dict()
    names = own if names is None else sorted(names)
    return {name: own[name].to("cpu", copy=True) for name in names}


def put_back(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
    """Give a model weights that ``copied`` returned; it keeps the others, with nothing beside."""
    settle(model, keep=False)
    own = model.state_dict()
    with torch.no_grad():
        for name, tensor in weights.items():
            own[name].copy_(tensor)


def round_weights(model: PreTrainedModel, precision: torch.dtype) -> None:
    """Round weights to the precision they will be saved in, so that figures hold for the file."""
    settle(model)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.to(precision))
