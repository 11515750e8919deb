"""A run's folder by its time, and its `results.json`: written whole, and read back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, UsageError
from harness.records import Outcome
from harness.worker.protocol import dumps

RESULTS_FORMAT = "harness-results/1"
RESULTS_FILE = "results.json"
PART_FILES = "results-*.json"  # of processes that share a run's folder


def write_results(
    out: Path, outcomes: Iterable[Outcome], environment: dict[str, Any], part: str = ""
) -> Path:
    """Write the outcomes of a run in the order of their ids, or of the `part` of it that one process ran; returns the file."""
    out.mkdir(parents=True, exist_ok=True)
    told = [outcome.as_json() for outcome in sorted(outcomes, key=lambda outcome: outcome.case)]
    path = out / (f"results-{part}.json" if part else RESULTS_FILE)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(
        dumps({"format": RESULTS_FORMAT, "environment": environment, "outcomes": told}),
        encoding="utf-8",
    )
    os.replace(temporary, path)
    return path


def new_run(root: Path = Path("runs")) -> Path:
    """Return the path of a new run's folder, named by the time."""
    return root / datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S")


def read_results(run: Path) -> tuple[list[Outcome], dict[str, Any]]:
    """Return the outcomes and the environment of a run: its folder, or its `results.json`.

    Raises:
        UsageError: There is no such run.
        HarnessError: The file is of another format.
    """
    path = run / RESULTS_FILE if run.is_dir() else run
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: no results of a run here ({error})") from error
    if content.get("format") != RESULTS_FORMAT:
        raise HarnessError(
            f"{path}: has format {content.get('format')!r}; this harness reads {RESULTS_FORMAT!r}"
        )
    return [Outcome.from_json(data) for data in content["outcomes"]], content["environment"]
