"""headsweep: take a backdoor out of a language model by pruning attention heads.

What ``__all__`` names is imported when it is first used: torch and transformers cost seconds,
and ``headsweep --help`` needs neither. A new public name is one line in the block below, one in
``HOMES`` and one in ``__all__``.

Importing a submodule sets its name on this package, so no folder or module may bear a public
name: the folder of the pipeline is ``purification`` because ``purify`` is the function.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0.dev0"
__all__ = [
    "DEFENSES",
    "STRATEGIES",
    "Adapter",
    "Bound",
    "BoundMissed",
    "Columns",
    "FineTune",
    "Given",
    "Gradient",
    "HeadMask",
    "Method",
    "NothingPruned",
    "Plan",
    "PrunedHeadsCallback",
    "Purified",
    "RuleProber",
    "Runtime",
    "Sources",
    "Split",
    "UserError",
    "__version__",
    "attack",
    "compact",
    "evaluate",
    "export_onnx",
    "inspect",
    "load",
    "probe",
    "purify",
    "purify_from_encoder",
    "report",
    "verify",
]

if TYPE_CHECKING:
    from headsweep.errors import BoundMissed, NothingPruned, UserError
    from headsweep.heal.fine_tune import FineTune
    from headsweep.model.families import Adapter
    from headsweep.model.mask import HeadMask
    from headsweep.model.runtime import Runtime
    from headsweep.prune.strategies import STRATEGIES
    from headsweep.prune.strategies.gradient import Gradient
    from headsweep.purification.baselines import DEFENSES
    from headsweep.purification.bound import Bound
    from headsweep.purification.from_encoder import purify_from_encoder
    from headsweep.purification.going_on import PrunedHeadsCallback
    from headsweep.purification.interrupted import Given
    from headsweep.purification.material import Sources
    from headsweep.purification.method import Method
    from headsweep.purification.plan import Plan
    from headsweep.texts.reading import Columns
    from headsweep.texts.split import Split
    from headsweep.triggers.probe_families import RuleProber
    from headsweep.verbs.attacking import attack
    from headsweep.verbs.compacting import compact, load
    from headsweep.verbs.exporting import export_onnx
    from headsweep.verbs.judging import evaluate, probe
    from headsweep.verbs.looking import inspect, verify
    from headsweep.verbs.purified import Purified
    from headsweep.verbs.purifying import purify
    from headsweep.verbs.reporting import report
else:  # type checkers would take any name for one that `__getattr__` gives
    HOMES = {
        "BoundMissed": "errors",
        "NothingPruned": "errors",
        "UserError": "errors",
        "FineTune": "heal.fine_tune",
        "Adapter": "model.families",
        "HeadMask": "model.mask",
        "Runtime": "model.runtime",
        "STRATEGIES": "prune.strategies",
        "Gradient": "prune.strategies.gradient",
        "DEFENSES": "purification.baselines",
        "Bound": "purification.bound",
        "purify_from_encoder": "purification.from_encoder",
        "PrunedHeadsCallback": "purification.going_on",
        "Given": "purification.interrupted",
        "Sources": "purification.material",
        "Method": "purification.method",
        "Plan": "purification.plan",
        "Columns": "texts.reading",
        "Split": "texts.split",
        "RuleProber": "triggers.probe_families",
        "attack": "verbs.attacking",
        "compact": "verbs.compacting",
        "load": "verbs.compacting",
        "export_onnx": "verbs.exporting",
        "evaluate": "verbs.judging",
        "probe": "verbs.judging",
        "inspect": "verbs.looking",
        "verify": "verbs.looking",
        "Purified": "verbs.purified",
        "purify": "verbs.purifying",
        "report": "verbs.reporting",
    }

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used (PEP 562)."""
        if name not in HOMES:
            raise AttributeError(f"module 'headsweep' has no attribute '{name}'", name=name)
        globals()[name] = getattr(import_module(f"headsweep.{HOMES[name]}"), name)
        return globals()[name]


def __dir__() -> list[str]:
    """List what was not used yet, too."""
    return sorted({*globals(), *__all__})
