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


def shape_of(text: str) -> list[str]:
    """Return the lines of a text in which what differs from machine to machine is alike.

    Those are figures, paths, spacing, the word for cost, and which operators have other bits. Notes
    are left out, and what a busy machine has to say of the cost.
    """
    text = re.sub(r"^cost:\n(  .*\n)+\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"cpu-\w+-\w+-t\d+-[0-9a-f]{8}", "CLASS", text)
    text = re.sub(r"(?:/\S*/|runs/)\S+", "RUN", text)
    words = r"\b(ok|slower|faster|unknown)( x[\d.]+)?(: [a-zA-Z ]+?)?(?=\s+\d+ MiB)"
    text = re.sub(words, "COST", text)
    text = re.sub(r"(?<=operators with other bits: ).*", "OPERATORS", text)
    text = re.sub(r"[-+]?\d[\d.]*(e[-+]\d+)?", "#", text)
    lines = [" ".join(line.split()) for line in text.strip().splitlines()]
    # The tests of adapters need accelerate, which a plain install has not.
    left_out = ("note:", "accelerate unset")
    return [line for line in lines if not line.startswith(left_out)]
