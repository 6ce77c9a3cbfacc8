"""The command line: parse, call one function, print. One file a group of commands."""

# In the order in which `headsweep --help` lists them.
# isort: off
from headsweep.cli import purify
from headsweep.cli import defend
from headsweep.cli import evaluate
from headsweep.cli import probe
from headsweep.cli import attack
from headsweep.cli import reactivate
from headsweep.cli import detect
from headsweep.cli import bench
from headsweep.cli import report
from headsweep.cli import look
from headsweep.cli import compact
from headsweep.cli import export
from headsweep.cli import demo
from headsweep.cli.app import app, main

# isort: on

__all__ = [
    "app",
    "attack",
    "bench",
    "compact",
    "defend",
    "demo",
    "detect",
    "evaluate",
    "export",
    "look",
    "main",
    "probe",
    "purify",
    "reactivate",
    "report",
]
