"""Reinforcement learning: a policy over heads, trained by REINFORCE.

Source: Chapagain et al. 2025, reinforcement-learning-guided pruning; the gradient estimator is
Williams 1992. The state is a few features of every head (gate importance, size of its output,
depth, a free bias a head); the policy is a Bernoulli gate a head whose logit is linear in the
features. Each update draws ``samples`` masks and measures all on the same random validation
examples (common random numbers), so that their rewards differ by the masks alone:

    reward = accuracy - penalty * max(0, min accuracy - accuracy) + bonus * share pruned

The baseline of a sample is the mean reward of the others; an entropy bonus keeps the policy
from settling early. In the end heads go in the order of the learnt keep probability, those under
one half, and come back, most wanted first, until min accuracy holds.

The paper gives neither features, policy, reward weights nor schedule; these are ours. The
reward is taken on validation examples (the paper says so), which the final check uses too.
Cost: one forward-backward pass over ``examples``, then updates * samples * batch examples, then
one validation pass and one a head restored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor

from headsweep.errors import UserError
from headsweep.model.borrowing import evaluating
from headsweep.model.gates import gates
from headsweep.prune.choice import Choice, Needs
from headsweep.prune.importance import dormancy, gate_importance, normalised
from headsweep.prune.search import held
from headsweep.prune.view import DefenderView
from headsweep.settings import checked
from headsweep.task.examples import forward
from headsweep.task.fitting import Fitting
from headsweep.texts.encoded import Batch


@dataclass(frozen=True)
@checked
class Reinforce:
    """Learn by policy gradient which heads can go.

    Attributes:
        updates: policy updates.
        samples: masks drawn per update.
        batch: validation examples per update, the same for all its masks.
        lr: step size of the policy.
        bonus: reward for pruning everything.
        penalty: reward lost per point of accuracy under the bound, on top of the point itself.
        entropy: weight of the entropy bonus.
        examples: training examples for the importance feature at most.

    """

    name: ClassVar[str] = "reinforce"
    source: ClassVar[str] = "Chapagain et al. 2025; Williams 1992"
    needs: ClassVar[Needs] = Needs()
    updates: int = 60
    samples: int = 6
    batch: int = 48
    lr: float = 0.15
    bonus: float = 0.3
    penalty: float = 4.0
    entropy: float = 0.002
    examples: PositiveInt | None = 1000

    def __post_init__(self) -> None:
        if self.updates < 1 or self.samples < 2 or self.batch < 1:
            raise UserError("reinforce: at least 1 update, 2 samples and a batch of 1")
        weights = (self.bonus, self.penalty, self.entropy)
        if not (0 < self.lr < math.inf and all(0 <= w < math.inf for w in weights)):
            raise UserError("reinforce: lr is positive; bonus, penalty and entropy not negative")

    def choose(self, view: DefenderView) -> Choice:
        """Return the learnt mask, held to min accuracy."""
        state = features(view, self.examples)
        weights = torch.zeros(state.shape[1], requires_grad=True)
        with torch.no_grad():
            weights[0] = 2.0  # begin by keeping most heads
        optimizer = torch.optim.Adam([weights], lr=self.lr)
        generator, curve = view.generator("reinforce"), []
        with (
            evaluating(view.anatomy),
            view.progress.task("learning a policy", self.updates) as tick,
        ):
            for _ in range(self.updates):
                keep = torch.sigmoid(state @ weights)
                drawn = torch.rand(self.samples, len(keep), generator=generator) < keep
                drawn = _spare(drawn, keep, view)
                accuracy = self._accuracies(view, drawn, generator)
                reward = self._rewards(accuracy, drawn, view)
                baseline = (reward.sum() - reward) / (self.samples - 1)
                log_prob = torch.where(
                    drawn, keep.clamp_min(1e-6).log(), (1 - keep).clamp_min(1e-6).log()
                )
                gain = ((reward - baseline) * log_prob.sum(-1)).mean()
                entropy = torch.distributions.Bernoulli(keep).entropy().sum()
                optimizer.zero_grad()
                (-(gain + self.entropy * entropy)).backward()
                optimizer.step()
                curve.append(
                    {
                        "reward": float(reward.mean()),
                        "accuracy": float(accuracy.mean()),
                        "pruned": float((~drawn).float().sum(-1).mean()),
                    }
                )
                tick(1, f"reward {curve[-1]['reward']:.3f}")
        keep = torch.sigmoid(state @ weights).detach()
        order = [unit for unit in torch.argsort(keep, stable=True).tolist() if keep[unit] < 0.5]
        order = [unit for unit in order if unit not in _best(keep, view)]
        gone, steps = held(view, order)
        record: dict[str, Any] = {"learning_curve": curve, "policy": weights.tolist()}
        return Choice(view.layout.mask(gone), keep, tuple(steps), record)

    @torch.no_grad()
    def _accuracies(self, view: DefenderView, drawn: Tensor, generator: torch.Generator) -> Tensor:
        """Return the accuracy of every drawn mask on the same examples, [sample]."""
        size = min(self.batch, len(view.validation))
        rows = torch.randperm(len(view.validation), generator=generator)[:size].tolist()
        device = view.anatomy.model.device
        batches = [b.to(device) for b in view.validation.take(rows).batches(16)]
        found, fitting = [], Fitting()

        def answers(b: Batch) -> int:
            return int((b.task.margins(forward(view.anatomy.model, b), b.labels) > 0).sum())

        for mask in drawn:
            with gates(view.anatomy, mask.float().to(device)):
                right = sum(n for b in batches for _, n in fitting.parts(b, answers))
            found.append(torch.tensor(right / size))
        return torch.stack(found)

    def _rewards(self, accuracy: Tensor, drawn: Tensor, view: DefenderView) -> Tensor:
        short = (view.min_accuracy - accuracy).clamp_min(0)
        pruned = (~drawn).float().mean(-1)
        return accuracy - self.penalty * short + self.bonus * pruned


def features(view: DefenderView, examples: int | None) -> Tensor:
    """Return the state, [unit, feature]: constant, importance, output size, depth, identity."""
    layout = view.layout
    importance = gate_importance(view, examples)
    size = normalised(dormancy(view, examples), layout)
    layers = torch.tensor([layout.rows[i].layer for i in layout.row_of], dtype=torch.float32)
    depth = layers / layers.max().clamp_min(1) - 0.5
    columns = [torch.ones_like(size), _standard(importance), _standard(size), depth]
    return torch.cat([torch.stack(columns, dim=1), torch.eye(layout.units)], dim=1)


def _standard(x: Tensor) -> Tensor:
    spread = x.std() if len(x) > 1 else x.new_ones(())  # of one unit there is none
    return (x - x.mean()) / spread.clamp_min(1e-6)


def _best(keep: Tensor, view: DefenderView) -> set[int]:
    """Return the most wanted unit of each row, of those that do something."""
    keep = keep.clone()
    keep[sorted(view.gone)] = keep.min() - 1
    return {part.start + int(keep[part].argmax()) for part in view.layout.slices}


def _spare(drawn: Tensor, keep: Tensor, view: DefenderView) -> Tensor:
    """Keep the most wanted unit of every row in every draw, so that no layer is emptied."""
    drawn = drawn.clone()
    drawn[:, sorted(_best(keep, view))] = True
    return drawn
