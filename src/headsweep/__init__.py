"""headsweep: take a backdoor out of a language model by pruning attention heads."""

from __future__ import annotations

from headsweep.errors import NothingPruned, UserError
from headsweep.heal.fine_tune import FineTune
from headsweep.model.families import Adapter
from headsweep.model.mask import HeadMask
from headsweep.model.runtime import Runtime
from headsweep.prune.strategies import STRATEGIES
from headsweep.prune.strategies.gradient import Gradient
from headsweep.purification.baselines import DEFENSES
from headsweep.purification.bound import Bound
from headsweep.purification.from_encoder import purify_from_encoder
from headsweep.purification.interrupted import Given
from headsweep.purification.material import Sources
from headsweep.purification.method import Method
from headsweep.purification.pipeline import purify
from headsweep.purification.plan import Plan
from headsweep.purification.purified import Purified
from headsweep.texts.reading import Columns
from headsweep.texts.split import Split
from headsweep.triggers.probe_families import RuleProber

__version__ = "0.1.0.dev0"
__all__ = [
    "DEFENSES",
    "STRATEGIES",
    "Adapter",
    "Bound",
    "Columns",
    "FineTune",
    "Given",
    "Gradient",
    "HeadMask",
    "Method",
    "NothingPruned",
    "Plan",
    "Purified",
    "RuleProber",
    "Runtime",
    "Sources",
    "Split",
    "UserError",
    "__version__",
    "purify",
    "purify_from_encoder",
]
