"""The formats of the files that other programs may read, each with its JSON Schema in the package.

Write the schemas anew with `python -m harness.store.schemas`, after a type has changed.
"""

from __future__ import annotations

import json
from pathlib import Path

from harness.store import baselines, history, ledger, recording, run_folder, shared_files
from harness.store.json_schema import Schema, schema_of
from harness.worker.files import write_file
from harness.worker.protocol import RECORDING_FORMAT

DATA = Path(__file__).resolve().parents[1] / "data"

# The dataclass and the format of each file, by the name of its schema.
FORMATS: dict[str, tuple[type[object], str]] = {
    "results": (run_folder.Results, run_folder.RESULTS_FORMAT),
    "baseline": (baselines.Baseline, baselines.FORMAT),
    "recording": (recording.Recording, RECORDING_FORMAT),
    "history": (history.HistoryFile, history.HISTORY_FORMAT),
    "environment": (history.EnvironmentFile, history.ENVIRONMENT_FORMAT),
    "ledger": (ledger.Entry, ledger.LEDGER_FORMAT),
    "files": (shared_files.FileSet, shared_files.FORMAT),
}


def schema(name: str) -> Schema:
    """Return the JSON Schema of one of `FORMATS`."""
    kind, format_name = FORMATS[name]
    return schema_of(kind, name=format_name)


def path_of(name: str) -> Path:
    """Return the file of a schema in the package."""
    return DATA / f"{name}.schema.json"


def text_of(name: str) -> str:
    """Return a schema as the text of its file."""
    return json.dumps(schema(name), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for each in FORMATS:
        write_file(path_of(each), text_of(each).encode())
