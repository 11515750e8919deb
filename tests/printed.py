"""Reading back what the command line printed and what a run left."""

from __future__ import annotations

import re
from pathlib import Path

from harness.store.run_folder import read_results


def verdicts(run: Path) -> dict[str, str]:
    """Return the verdicts of a run by case."""
    return {outcome.case: str(outcome.verdict) for outcome in read_results(run).outcomes}


def paragraph(text: str, case: str = "digits[cpu-float32]") -> dict[str, str]:
    """Return the fields of the paragraph on a case: `why`, `first`, `changed`, `next` and so on."""
    (found,) = re.findall(rf"^\w+: {re.escape(case)}\n((?:  .*\n)+)", text, re.MULTILINE)
    return dict(re.findall(r"^  (\w+): +(.*)$", found, re.MULTILINE))
