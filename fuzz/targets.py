"""One target per reader of foreign files: what a fuzzer feeds, and which errors may escape.

A target takes bytes, hands them to a reader as its file or text, uses what the reader returns as
the harness would, and lets through only what it does not expect: any error but the documented ones
is a finding. The tests replay the committed corpus through the same functions.
"""

from __future__ import annotations

import io
import json
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from unittest.mock import patch
from xml.etree import ElementTree as ET

import numpy as np
from rich.console import Console

from harness.errors import FileError, ScenarioError, UsageError
from harness.gate.decision import decide
from harness.gate.evidence import Release, gather
from harness.gate.policy import Policy
from harness.gate.policy_file import read_policy
from harness.judge.exit_codes import exit_code, git_code
from harness.judge.verdict import judge, wants_teacher_forcing
from harness.launch import package_index
from harness.launch.events import Failed, Unverified, parse_event
from harness.records import Device, Dtype, Outcome, Reason, Target, Verdict
from harness.report.annotations import annotation_lines
from harness.report.gate_report import lines
from harness.report.junit import junit
from harness.report.markdown import markdown
from harness.report.run_report import print_runs
from harness.report.runs import Run
from harness.scenario.model import Case, Reference, Scenario
from harness.scenario.reading import read
from harness.scenario.select import compile_expression
from harness.scenario.tolerance import Tolerances
from harness.scenario.weights import Checkpoint, CheckpointKind
from harness.store.baselines import FORMAT as BASELINE_FORMAT
from harness.store.baselines import Match, Store
from harness.store.recording import Environment, Observed, Recording
from harness.store.run_folder import (
    RESULTS_FILE,
    RESULTS_FORMAT,
    Results,
    read_results,
    write_results,
)
from harness.store.safetensors import open_tensors, read_header
from harness.store.typed_json import MalformedError
from harness.study.overhead import OVERHEADS_FILE, read_overheads
from harness.worker.files import digest_json
from harness.worker.observe.digest import digest_bytes
from harness.worker.protocol import RECORDING_FILE, RECORDING_FORMAT, TENSORS_FILE

FuzzTarget = Callable[[bytes, Path], None]

WORDS = ("tiny[cpu-float32]", "slow", "ddim")  # of a case: what `-k` searches
CASE_TARGET = Target(Device.CPU, Dtype.FLOAT32)
CASE = Case(
    Scenario(
        path=Path("scenarios/tiny.yaml"),
        name="tiny",
        description="A digit.",
        pipeline="DDIMPipeline",
        checkpoint=Checkpoint(CheckpointKind.BUNDLED, "digits-ddpm", "/digits-ddpm"),
        call={"num_inference_steps": 1},
        tolerances=Tolerances.from_yaml({"cross-class": {"l_inf": 1e-3, "local_rel_l2": 1e-3}}),
    ),
    CASE_TARGET,
)
POLICY_TEXT = """\
require:
  - {scenarios: ["*"], on: cpu, dtype: [float32], cost: ok, detection-rate: 0.9}
"""
FILE_NAME = re.compile(r"[\w-][\w. -]{0,90}", re.ASCII)
# What foreign text must not bring to a terminal, a report or the log of a CI system.
UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
    r"|^\s*::(set-output|add-mask|stop-commands|error)\b",
    re.MULTILINE,
)
IMAGE = np.array([0.25, 0.5, 0.75, 1.0], np.float32)
TENSORS = {
    "output/image": IMAGE.reshape(1, 2, 2, 1),
    "noise/0": IMAGE.reshape(1, 1, 2, 2),
    "stage/unet#0/sample": IMAGE.reshape(1, 1, 2, 2),
}


def scenario(data: bytes, folder: Path) -> None:
    """A scenario's YAML, and the requests of its cases."""
    with suppress(ScenarioError):
        found = read(_written(folder / "tiny.yaml", data))
        for case in found.cases():
            case.request()


def policy(data: bytes, folder: Path) -> None:
    """A release policy's YAML, held against one outcome."""
    with suppress(ScenarioError):
        found = read_policy(_written(folder / "policy.yaml", data), [CASE])
        _gate(found, Results(RESULTS_FORMAT, (_outcome("it failed"),)), folder)


def results(data: bytes, folder: Path) -> None:
    """A run's `results.json`, as it is and sealed anew; then the reports and the gate of it."""
    for content in (data, sealed(data, RESULTS_FORMAT)):
        with suppress(FileError):
            found = read_results(_written(folder / RESULTS_FILE, content))
            _report(found.outcomes, found.environment, folder)
            required = _written(folder / "required.yaml", POLICY_TEXT.encode())
            _gate(read_policy(required, [CASE]), found, folder)
            exit_code(found.outcomes, strict=True)
            git_code(found.outcomes)


def recording(data: bytes, folder: Path) -> None:
    """A run's `recording.json`, as it is and sealed anew; then everything that is read of it."""
    (folder / TENSORS_FILE).write_bytes(packed_tensors())
    for content in (data, sealed(data, RECORDING_FORMAT, tensors_file())):
        _written(folder / RECORDING_FILE, content)
        with suppress(FileError):
            _use(Recording.read(folder))


def baseline(data: bytes, folder: Path) -> None:
    """A baseline's JSON, as it is and sealed anew, where it says that it belongs; then judge."""
    facts = tensors_file()
    for content in (data, sealed(data, BASELINE_FORMAT, facts)):
        path = folder / "baselines" / _stated_path(content)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(facts["file"]).write_bytes(packed_tensors())
        _written(path, content)
        with suppress(FileError):
            found = Store(folder / "baselines").read(path)
            _use(found)
            _judge(Match(found), folder)
            _judge(Match(found, Reference(CASE_TARGET)), folder)


def tensors(data: bytes, folder: Path) -> None:
    """A safetensors file, alone and beside a recording whose JSON states its digest."""
    path = _written(folder / TENSORS_FILE, data)
    with suppress(FileError):
        read_header(path)
    with suppress(FileError):
        open_tensors(path)
    facts = {"file": TENSORS_FILE, "digest": digest_bytes(np.frombuffer(data, np.uint8))}
    content = json.dumps(recording_content(tensors_file=facts)).encode()
    _written(folder / RECORDING_FILE, sealed(content, RECORDING_FORMAT))
    with suppress(FileError):
        _use(Recording.read(folder))


def events(data: bytes, folder: Path) -> None:
    """A line of a worker; a reason that it gives ends in `results.json` and in the reports."""
    with suppress(MalformedError):
        event = parse_event(data.decode("utf-8", "replace"))
        if isinstance(event, Failed | Unverified):
            outcome = _outcome(event.reason)
            write_results(folder, [outcome], None)
            _report(read_results(folder).outcomes, None, folder)


def overheads(data: bytes, folder: Path) -> None:
    """The `cost.json` of a run, and the report that shows it."""
    _written(folder / OVERHEADS_FILE, data)
    with suppress(FileError):
        _check_text(markdown([Run(folder, (), None, tuple(read_overheads(folder)))]))


def expression(data: bytes, folder: Path) -> None:
    """What `-k` was given, and whether it fits a case."""
    with suppress(UsageError):
        compile_expression(data.decode("utf-8", "replace"))(WORDS)


def index(data: bytes, folder: Path) -> None:
    """What a package index says of a package's releases; no answer of it may end the command."""
    try:
        page = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(page, dict):
        with patch.object(package_index, "_json", return_value=page):
            package_index._uploads("wobble", "https://index.example/simple")
        with patch.object(package_index, "_json", side_effect=[None, page]):
            package_index._uploads("wobble", "https://index.example/simple")


TARGETS: Mapping[str, FuzzTarget] = {
    target.__name__: target
    for target in (
        scenario,
        policy,
        results,
        recording,
        baseline,
        tensors,
        events,
        overheads,
        expression,
        index,
    )
}


# What targets share.


def sealed(data: bytes, wanted: str, tensors: Mapping[str, str] | None = None) -> bytes:
    """Return a JSON object with the right format and digest, which a fuzzer would never find.

    What is no object, or cannot be sealed, is returned as it is. `tensors` stands in for a
    `tensors_file` that the object does not have.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return data
    if not isinstance(content, dict):
        return data
    content["format"] = wanted
    if tensors is not None:
        content.setdefault("tensors_file", tensors)
    try:
        return json.dumps({**content, "digest": digest_json(content)}).encode()
    except (ValueError, RecursionError):
        return data


def recording_content(**changes: object) -> dict[str, object]:
    """Return what a small recording says, with `changes` to its members."""
    facts = {
        "dtype": "float32",
        "digest": "0" * 32,
        "finite": True,
        "abs_sum": 2.5,
        "l2": 1.4,
        "min": 0.25,
        "max": 1.0,
    }
    numerics_class = {"name": "cpu-a", "hash": "a" * 32, "operators": {"bmm": "a"}}
    content: dict[str, object] = {
        "case": {},
        "fault": None,
        "environment": {
            "numerics_class": numerics_class,
            "framework": "torch",
            "device_kind": "cpu",
            "versions": {"torch": "2.13.0"},
            "hardware": {"cpu": "Xeon", "cores": 2},
            "flags": {"cudnn.benchmark": False},
            "variables": {"OMP_NUM_THREADS": "1"},
            "unobserved": [],
        },
        "inputs": {
            "weights": {"configuration": "c", "unet": "w"},
            "commit": None,
            "schedulers": {"scheduler": {"class": "DDIMScheduler"}},
        },
        "noise": [{**facts, "shape": [1, 1, 2, 2]}],
        "outputs": {"image": {**facts, "shape": [1, 2, 2, 1]}},
        "stages": [{"name": "unet#0", "inputs": {"sample": "n"}, "outputs": {"sample": "u"}}],
        "operators": [],
        "repeat": {"runs": 3, "distinct": 1, "l_inf": 0.0, "instrumented_equals_plain": True},
        "cost": {"load_seconds": 1.0, "seconds": 2.0, "rounds_seconds": [2.0]},
    }
    return content | changes


@cache
def packed_tensors() -> bytes:
    """Return the safetensors file of the small recording."""
    header: dict[str, object] = {
        "__metadata__": {
            "modules": json.dumps(
                {"unet#0": [{"module": "a", "type": "Conv2d", "inputs": "i", "outputs": "o"}]}
            ),
            "weights": json.dumps({"unet": {"a.weight": "0123abcd"}}),
        }
    }
    data = b""
    for name, array in TENSORS.items():
        end = len(data) + array.nbytes
        header[name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [len(data), end],
        }
        data += array.tobytes()
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@cache
def tensors_file() -> dict[str, str]:
    """Return what a recording says of `packed_tensors`."""
    digest = digest_bytes(np.frombuffer(packed_tensors(), np.uint8))
    return {"file": TENSORS_FILE, "digest": digest}


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _report(outcomes: Sequence[Outcome], environment: Environment | None, folder: Path) -> None:
    """Show a run in every form, and check that what is shown is text."""
    runs = [Run(folder, tuple(outcomes), environment)]
    _check_text(markdown(runs))
    printed = io.StringIO()
    print_runs(Console(file=printed, width=80), runs)
    _check_text(printed.getvalue())
    ET.fromstring(junit(runs))  # noqa: S314 (written by the line itself)
    for line in annotation_lines(runs):
        _check_text(line.removeprefix("::error"))


def _check_text(text: str) -> None:
    found = UNSAFE.search(text)
    assert found is None, f"unsafe text in a report: {found}"


def _gate(policy: Policy, results: Results, folder: Path) -> None:
    """Let a gate decide on one run, and tell what it decided."""
    store = Store(folder / "baselines")
    evidence = gather({str(folder): results}, [CASE], store, with_recordings=True)
    release = Release({CASE.id: CASE}, "", None, "0.1.0", datetime.now(UTC))
    decision = decide(policy, release, evidence)
    for line in lines(decision):
        _check_text(line)


def _outcome(message: str) -> Outcome:
    return Outcome(CASE.id, "tiny", CASE_TARGET, Verdict.ERROR, Reason.NOT_RECORDED, message)


def _stated_path(content: bytes) -> Path:
    """Return where a baseline says that it belongs; a default where that is no path inside."""
    with suppress(ValueError, RecursionError, KeyError, TypeError):
        found = json.loads(content)
        target = found["target"]
        name = found["environment"]["numerics_class"]["name"]
        parts = (found["scenario"], f"{target['device']}-{target['dtype']}", f"{name}.json")
        if all(isinstance(part, str) and FILE_NAME.fullmatch(part) for part in parts):
            return Path(*parts)
    return Path("tiny", "cpu-float32", "cpu-a.json")


def _use(found: Observed) -> None:
    """Read everything that the harness reads of a recording or a baseline."""
    assert isinstance(found.environment.machine_type, str)
    for observed in found.stages:
        found.modules_inside(observed.stage)
        found.has_modules_inside(observed.stage)
    for component in found.weights:
        found.weight_digests(component)
    assert len(found.noise_tensors) <= len(found.tensors)
    assert len(found.output_tensors) <= len(found.tensors)
    assert len(found.stage_tensors) <= len(found.tensors)


def _judge(match: Match, folder: Path) -> None:
    """Judge the small recording by a baseline of the same scenario and weights."""
    same_version = replace(match.baseline, fingerprint=CASE.scenario.fingerprint)
    fitting = Match(same_version, match.reference)
    actual = _actual(folder / "actual")
    outcome = judge(CASE, actual, fitting, [])
    if wants_teacher_forcing(CASE.scenario, actual, fitting):
        outcome = judge(CASE, actual, fitting, [], actual)
    _report([outcome], match.baseline.environment, folder)


def _actual(folder: Path) -> Recording:
    """Return the small recording, written on the first call."""
    if not (folder / RECORDING_FILE).exists():
        folder.mkdir()
        (folder / TENSORS_FILE).write_bytes(packed_tensors())
        content = json.dumps(recording_content()).encode()
        _written(folder / RECORDING_FILE, sealed(content, RECORDING_FORMAT, tensors_file()))
    return Recording.read(folder)
