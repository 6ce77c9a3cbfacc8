"""Detectors of triggered texts at inference time: what pruning is compared with.

A detector scores texts; a text above a threshold is rejected, or, where the detector can, freed
of what looks like a trigger. They change no model. No strategy and no defense imports them.
"""

from __future__ import annotations

from typing import Any

from headsweep.judge.detectors.onion import Onion
from headsweep.judge.detectors.rap import Rap
from headsweep.judge.detectors.strip import Strip
from headsweep.judge.detectors.watch import Cleaner, Detector, Scorer, Watch

DETECTORS: dict[str, Any] = {detector.name: detector for detector in (Onion, Strip, Rap)}
"""Detector classes by name."""

__all__ = ["DETECTORS", "Cleaner", "Detector", "Scorer", "Watch"]
