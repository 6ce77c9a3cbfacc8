"""Look up what is installed in PyPI's advisories (pip-audit): part of ``make check``.

Ends with 1 where an advisory is known that is not among those given as arguments. Without a
network, or with an index that has no advisories, it says that nothing was audited, and ends with 0.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection
from typing import Any

SECONDS = 180
SKIPPED = "headsweep: dependencies NOT audited"


def verdict(report: dict[str, Any], known: Collection[str] = ()) -> tuple[int, str]:
    """Return the exit code, and what is to be said of pip-audit's report."""
    looked_up = [one for one in report["dependencies"] if "vulns" in one]
    left = len(report["dependencies"]) - len(looked_up)
    if not looked_up:
        return 0, f"{SKIPPED}: the index has no advisories on any of {left} packages"
    found = [
        f"{one['name']} {one['version']}: {each['id']}, mended in "
        f"{', '.join(each['fix_versions']) or 'no version yet'}"
        for one in looked_up
        for each in one["vulns"]
        if not {each["id"], *each.get("aliases", ())} & set(known)
    ]
    told = f"headsweep: {len(looked_up)} packages audited, {left} not; {len(found)} advisories"
    return bool(found), "\n".join([told, *found])


def main(known: Collection[str]) -> int:
    """Run pip-audit on this environment; print the verdict; return the exit code."""
    words = ["--local", "--skip-editable", "--progress-spinner", "off", "--timeout", "10"]
    command = [sys.executable, "-m", "pip_audit", *words, "--format", "json"]
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        code, told = verdict(json.loads(ended.stdout), known)
    except subprocess.TimeoutExpired:
        code, told = 0, f"{SKIPPED}: no answer in {SECONDS} seconds"
    except ValueError:
        last = (ended.stderr.strip().splitlines() or ["nothing was said"])[-1]
        code, told = 0, f"{SKIPPED}: {last[:200]}"
    print(told)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
