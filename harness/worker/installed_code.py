"""Which loaded files of installed packages are not as their packages installed them.

A package's `RECORD` has the SHA-256 of each of its files. Code that was edited in place, or that a
folder earlier on the path stands in for, has another one.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from importlib import metadata
from pathlib import Path
from typing import Dict, List

from .observe.frames import LIBRARIES, file_name

# What is looked at besides the libraries that pipelines are made of.
PACKAGES = (*LIBRARIES, "torch", "accelerate", "tokenizers", "safetensors", "huggingface_hub")
MOST_NAMED = 20


def edited_files() -> List[str]:
    """Return the loaded files whose digest is not that of their package's record; at most some.

    They are named from the package on, such as `diffusers/models/resnet.py`. A file that no record
    names, as in an editable installation, is left out.
    """
    recorded = _recorded_digests()
    found = []
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if name.partition(".")[0] not in PACKAGES or not isinstance(path, str):
            continue
        named = file_name(path, name)
        if named in recorded and recorded[named] != _digest(Path(path)):
            found.append(named)
    return sorted(found)[:MOST_NAMED]


def _recorded_digests() -> Dict[str, str]:
    """Return the SHA-256 of the files of the packages as they were installed, by name."""
    found: Dict[str, str] = {}
    for package in PACKAGES:
        try:
            files = metadata.files(package) or []
        except metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.hash is not None and file.hash.mode == "sha256" and file.suffix == ".py":
                found[file.as_posix()] = file.hash.value
    return found


def _digest(path: Path) -> str:
    """Return a file's SHA-256 as records have it; empty where it cannot be read."""
    try:
        digest = hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return ""
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
