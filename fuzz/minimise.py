"""Adds to the committed corpus the few inputs found by fuzzing that reach code which it does not.

`python fuzz/minimise.py --work fuzz-work` runs every input under Python's own tracing. The smallest
inputs come first, and each is kept only if it takes a step from line to line of the harness that
none before it took. It needs no fuzzer.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from targets import TARGETS, FuzzTarget  # noqa: E402 (found by the path that was set before)

MOST_FILES = 30  # of one target
MOST_BYTES = 4096  # of one input
HARNESS = str(HERE.parent / "harness")

Step = tuple[str, int, int]  # the file, and the two lines


def main() -> None:
    """Add what was found to the corpus of each target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("fuzz-work"))
    parser.add_argument("targets", nargs="*", default=list(TARGETS))
    chosen = parser.parse_args()
    for name in chosen.targets:
        found = sorted((chosen.work / name / "found").glob("*"), key=_size)
        added = _add(HERE / "corpus" / name, TARGETS[name], found)
        print(f"{name}: {added} of {len(found)} inputs added")


def _add(corpus: Path, target: FuzzTarget, found: list[Path]) -> int:
    reached: set[Step] = set()
    kept = sorted(corpus.iterdir())
    for path in kept:
        reached |= _steps(target, path.read_bytes())
    added = 0
    for path in found:
        if len(kept) + added >= MOST_FILES or _size(path) > MOST_BYTES:
            break
        data = path.read_bytes()
        new = _steps(target, data) - reached
        if new:
            reached |= new
            added += 1
            (corpus / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)
    return added


def _steps(target: FuzzTarget, data: bytes) -> set[Step]:
    """Return the steps from line to line of the harness that a target takes with an input."""
    steps: set[Step] = set()
    last: dict[int, int] = {}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(HARNESS):
            return None
        if event == "line":
            before = last.get(id(frame), 0)
            steps.add((frame.f_code.co_filename, before, frame.f_lineno))
            last[id(frame)] = frame.f_lineno
        return trace

    with tempfile.TemporaryDirectory(prefix="harness-fuzz-") as folder:
        sys.settrace(trace)
        try:
            target(data, Path(folder))
        finally:
            sys.settrace(None)
    return steps


def _size(path: Path) -> int:
    return path.stat().st_size


if __name__ == "__main__":
    main()
