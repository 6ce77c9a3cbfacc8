"""headsweep: take a backdoor out of a language model by pruning attention heads."""

from __future__ import annotations

from headsweep.errors import NothingPruned, UserError
from headsweep.heal.fine_tune import FineTune
from headsweep.model.families import Adapter
from headsweep.model.mask import HeadMask
from headsweep.model.runtime import Runtime
from headsweep.prune.strategies import STRATEGIES
from headsweep.prune.strategies.gradient import Gradient
from headsweep.purification.defenses import DEFENSES
from headsweep.purification.material import Sources
from headsweep.purification.pipeline import Purified, purify
from headsweep.purification.plan import Plan
from headsweep.texts.reading import Columns
from headsweep.texts.split import Split
from headsweep.triggers.probe_families import RuleProber

__version__ = "0.1.0.dev0"
__all__ = [
    "DEFENSES",
    "STRATEGIES",
    "Adapter",
    "Columns",
    "FineTune",
    "Gradient",
    "HeadMask",
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
]
