"""Runs a target under atheris, a coverage-guided fuzzer: `python fuzz/run.py --target scenario`.

atheris is no dependency of the project: install it beside the harness in an environment of its own
(see README.md). A finding ends the run, and its input is kept as `crash-*`, `timeout-*` or `oom-*`
in the working folder.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
INSTRUMENTED = ["harness", "yaml", "json", "targets"]
SECONDS_OF_ONE_INPUT = 10
MEBIBYTES = 2048
BYTES = 8192  # of one input


def main() -> None:
    """Fuzz one target for some seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--work", type=Path, default=Path("fuzz-work"), help="where inputs go")
    chosen = parser.parse_args()
    with atheris.instrument_imports(include=INSTRUMENTED):
        sys.path[:0] = [str(HERE), str(HERE.parent)]
        from targets import TARGETS
    from mutate import mutate, mutate_safetensors

    target = TARGETS[chosen.target]
    work = chosen.work / chosen.target
    found = work / "found"
    found.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="harness-fuzz-", dir=_memory()))

    def one(data: bytes) -> None:
        target(data, folder)

    def change(data: bytes, most: int, seed: int) -> bytes:
        by_structure = mutate_safetensors if chosen.target == "tensors" else mutate
        changed = by_structure(data, most, seed) if seed % 2 else None
        return atheris.Mutate(data, most) if changed is None else changed

    options = [
        f"-timeout={SECONDS_OF_ONE_INPUT}",
        f"-rss_limit_mb={MEBIBYTES}",
        f"-max_len={BYTES}",
        f"-artifact_prefix={work}/",
        f"-max_total_time={chosen.seconds}",
        "-print_final_stats=1",
        str(found),
        str(CORPUS / chosen.target),
    ]
    atheris.Setup([sys.argv[0], *options], one, custom_mutator=change)
    atheris.Fuzz()


def _memory() -> str | None:
    """Return a folder that is kept in memory, where there is one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 (a folder is made inside)


if __name__ == "__main__":
    main()
