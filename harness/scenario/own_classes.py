"""Where a project defines a class: found by the text of its files; nothing is imported."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from harness.scenario.project import PACKAGE

SKIPPED = ("build", "dist", "node_modules", "runs", "baselines", "tests", "site-packages")
MOST_FILES = 5_000  # that are looked at
MOST_BYTES = 1 << 20  # of one file


def code_of_class(root: Path, name: str) -> list[str]:
    """Return every class of this name in packages below a folder, as `package.module:Class`.

    Args:
        root: The project's root.
        name: The class, such as `InkPipeline`.
    """
    if not name.isidentifier():
        return []
    defined = re.compile(rb"^class " + name.encode() + rb"\b", re.MULTILINE)
    found = []
    for file in _sources(root):
        if file.stat().st_size <= MOST_BYTES and defined.search(file.read_bytes()):
            parts = file.relative_to(root).with_suffix("").parts
            module = parts[:-1] if parts[-1] == "__init__" else parts
            if module and all(map(PACKAGE.fullmatch, module)):
                found.append(f"{'.'.join(module)}:{name}")
    return sorted(found)


def _sources(root: Path) -> Iterator[Path]:
    """Yield the source files below a folder, but those of environments and hidden folders."""
    seen = 0
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(
            each
            for each in folders
            if each not in SKIPPED
            and not each.startswith(".")
            and not (Path(folder) / each / "pyvenv.cfg").exists()
        )
        for name in sorted(files):
            if name.endswith(".py") and seen < MOST_FILES:
                seen += 1
                yield Path(folder) / name
