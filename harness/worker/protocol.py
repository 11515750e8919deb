"""The door between the two halves: names of files, formats and events. Owns no behaviour beyond reading and writing them.

A request is one line of JSON on the worker's standard input: ``{"case": {...}, "out": FOLDER}``, with ``"known"``, the
digests of outputs by numerics class and name; or ``{"describe": {...}}``.
The worker answers with one line of JSON per event; the last event of a request is one of `FINAL_EVENTS`.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, TextIO

RECORDING_FORMAT = "harness-recording/1"
RECORDING_FILE = "recording.json"
TENSORS_FILE = "tensors.safetensors"

OWN_CODE = "#0"  # in place of a module's path and call: what a stage does outside its modules
READY = "ready"  # the worker has started and waits
PROGRESS = "progress"  # {"doing": TEXT}
RECORDED = "recorded"  # {"seconds": FLOAT}: the recording's folder is complete
DESCRIBED = "described"  # {"environment": {...}}
UNVERIFIED = "unverified"  # {"reason": TEXT}: the case cannot run here
FAILED = "failed"  # {"reason": TEXT, "traceback": TEXT}
FINAL_EVENTS = (RECORDED, DESCRIBED, UNVERIFIED, FAILED)


class CannotRunHere(Exception):
    """The case asks for something that this machine does not have; the verdict is `unverified`."""


class CaseError(Exception):
    """The case asks for something that does not exist in this environment's libraries; the verdict is `error`."""


class Events:
    """Writes events to the pipe that the launcher reads."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def send(self, event: str, **fields: Any) -> None:
        self._stream.write(json.dumps({"event": event, **fields}) + "\n")
        self._stream.flush()


def dumps(value: Any) -> str:
    """Return `value` as sorted, indented JSON with full float precision and a trailing newline."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=True) + "\n"


def write_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Write `files` into `folder` so that a reader sees all of them or none; replaces what was there."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
