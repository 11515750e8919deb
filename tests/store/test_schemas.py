"""JSON Schemas: they follow from the types, are current, and real files fit them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import builders
import jsonschema
import pytest
from examples import OUTCOMES

from harness.errors import FileError
from harness.store.baselines import Provenance, Store
from harness.store.history import (
    ENVIRONMENT_FORMAT,
    HISTORY_FORMAT,
    EnvironmentFile,
    HistoryFile,
)
from harness.store.ledger import LEDGER_FORMAT, Entry
from harness.store.recording import Recording
from harness.store.run_folder import read_results, write_results
from harness.store.schemas import FORMATS, path_of, schema, text_of
from harness.store.typed_json import encode
from harness.worker.protocol import RECORDING_FILE

ROOT = Path(__file__).resolve().parents[2]
BASELINES = sorted((ROOT / "baselines").rglob("*.json"))


def content_of(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def problems(name: str, content: object) -> list[str]:
    """Return what a schema finds wrong with a file's content."""
    errors = jsonschema.Draft202012Validator(schema(name)).iter_errors(content)
    return [f"{error.json_path}: {error.message}" for error in errors]


@pytest.mark.parametrize("name", FORMATS)
def test_the_schema_in_the_package_is_current(name: str):
    """`python -m harness.store.schemas` writes it anew."""
    assert path_of(name).read_text(encoding="utf-8") == text_of(name)
    jsonschema.Draft202012Validator.check_schema(schema(name))


def test_every_committed_baseline_fits():
    """What was written months ago, too."""
    assert len(BASELINES) > 10
    for path in BASELINES:
        assert problems("baseline", content_of(path)) == []


def test_the_results_of_a_run_fit(tmp_path: Path):
    """Every kind of outcome, and a line of text where an older file holds one."""
    path = write_results(tmp_path, OUTCOMES, builders.environment())
    content = content_of(path)
    assert problems("results", content) == []
    drifted = next(each for each in content["outcomes"] if each["verdict"] == "drifted")
    changes = drifted["environment_changes"]
    assert len(changes) > 1
    changes[0] = "torch 2.12 -> 2.13"
    assert problems("results", content) == []


def test_a_recording_fits(tmp_path: Path):
    """As a worker writes it."""
    builders.recording(tmp_path)
    assert problems("recording", content_of(tmp_path / RECORDING_FILE)) == []


@pytest.mark.slow
def test_the_recording_of_a_real_run_fits(take: Callable[..., Recording]):
    """Of the smallest scenario."""
    assert problems("recording", content_of(take().tensors_path.parent / RECORDING_FILE)) == []


def test_the_files_of_a_history_and_of_its_ledger_fit():
    """As they are sealed: by their types."""
    history = HistoryFile(
        HISTORY_FORMAT, "run", "2026-01-02", "", 1, {"case": "a"}, {"l_inf": "0"}, {}
    )
    environment = EnvironmentFile(ENVIRONMENT_FORMAT, builders.environment())
    provenance = Provenance("A", "2026-01-02", "R")
    entry = Entry(
        LEDGER_FORMAT, "digits", builders.CPU, "cpu-a", provenance, "b", {"image": "d"}, {}, True
    )
    contents = {"history": history, "environment": environment, "ledger": entry}
    for name, content in contents.items():
        assert problems(name, encode(content)) == []
        assert problems(name, {**encode(content), "format": "another"}) != []


# What the reader refuses, the schema refuses too.
WRONG: dict[str, Callable[[Any], object]] = {
    "a key that is missing": lambda content: content.pop("outcomes"),
    "an unknown key": lambda content: content.update(more=1),
    "another format": lambda content: content.update(format="harness-results/1"),
    "an unknown word": lambda content: content["outcomes"][0].update(verdict="fine"),
    "another type": lambda content: content["outcomes"][0].update(case=7),
    "an unknown key inside": lambda content: content["outcomes"][0]["target"].update(x=1),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_the_reader_refuses_does_not_fit(what: str, tmp_path: Path):
    """A program that trusts the schema sees the same files as the harness."""
    path = write_results(tmp_path, OUTCOMES, None)
    content = content_of(path)
    WRONG[what](content)
    assert problems("results", content) != []
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(FileError):
        read_results(path)


def test_a_baseline_that_is_written_now_fits(tmp_path: Path):
    """Accepted from a recording."""
    recording = builders.recording(tmp_path / "run")
    path = Store(tmp_path / "baselines").write(builders.case(), recording, "R")
    assert problems("baseline", content_of(path)) == []
