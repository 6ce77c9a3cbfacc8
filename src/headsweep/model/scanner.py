"""ModelAudit (MIT), a scanner of models' files, asked where it is installed.

It looks into pickles, archives and formats that are never opened here. It runs as a command in a
process of its own, with a limit on time, without its cache and without sending anything.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from headsweep.errors import shortened
from headsweep.foreign import one_line

NAME = "modelaudit"
SECONDS = 300
LEVELS = {"critical": "error", "error": "error", "warning": "warning", "info": "note"}
SILENT = {"PROMPTFOO_DISABLE_TELEMETRY": "1", "NO_ANALYTICS": "1", "HF_HUB_OFFLINE": "1"}


def scanned(home: Path) -> tuple[str, list[tuple[str, str, str]]]:
    """Return name and version of the scanner, and level, file and message of what it found.

    The name is empty where it is not installed; that it did not finish is a finding, too.
    """
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    command = shutil.which(NAME, path=beside)
    if command is None:
        return "", []
    named = _ran(command, "--version").stdout.strip().replace(", version", "")
    name = one_line(shortened(named)) or NAME
    try:
        ended = _ran(command, "scan", "--format", "json", "--no-cache", "--", str(home))
        form = json.loads(ended.stdout)
        return name, [_read(home, one) for one in form["issues"] if one["severity"] in LEVELS]
    except subprocess.TimeoutExpired:
        why = f"took more than {SECONDS} seconds"
    except (ValueError, KeyError, TypeError, AttributeError):
        why = shortened(ended.stderr) or f"ended with {ended.returncode} and said nothing"
    return name, [("warning", ".", one_line(f"{NAME} did not finish: {why}"))]


def _ran(command: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [command, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS,
        check=False,
        env=os.environ | SILENT,
    )


def _read(home: Path, issue: dict[str, Any]) -> tuple[str, str, str]:
    place = str(issue.get("location") or home).partition(" (")[0]
    inside = Path(place).is_relative_to(home) if place else False
    file = Path(place).relative_to(home).as_posix() if inside else "."
    code = f"{issue['rule_code']}: " if issue.get("rule_code") else ""
    message = one_line(f"{NAME}: {code}{shortened(str(issue['message']), 300)}")
    return LEVELS[issue["severity"]], one_line(file), message
