"""The frozen records that cross every boundary: recordings, baselines, drifts, outcomes. Reads files; judges nothing."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.worker.protocol import RECORDING_FILE, TENSORS_FILE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

PASS = ("identical", "within")
FAIL = ("drifted", "unrepeatable", "missing", "stale", "incomparable", "error")
UNVERIFIED = "unverified"
NO_BOUNDS = "the scenario sets no `tolerance.cross-class`"  # why a case drifted, in which case there is something to calibrate

_NUMPY = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


def open_tensors(path: Path) -> dict[str, Array]:
    """Return the arrays of a safetensors file, mapped from disk and read only where they are touched.

    bfloat16, which numpy lacks, comes as float32 (exact).
    """
    import numpy as np

    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    raw = (
        np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length)
        if path.stat().st_size > 8 + length
        else np.zeros(0, np.uint8)
    )
    found: dict[str, Array] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        data = np.asarray(raw[start:end])
        if entry["dtype"] == "BF16":
            array = (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            array = data.view(_NUMPY[entry["dtype"]])
        found[name] = array.reshape(entry["shape"])
    return found


@dataclass(frozen=True)
class Recording:
    """What one run of a case left: the JSON content, and the file with its tensors."""

    content: dict[str, Any]
    tensors_path: Path

    @classmethod
    def read(cls, folder: Path) -> Recording:
        """Read the recording in `folder`."""
        return cls(
            json.loads((folder / RECORDING_FILE).read_text(encoding="utf-8")), folder / TENSORS_FILE
        )

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        """Shape, dtype, digest and statistics of every output by name."""
        return dict(self.content["outputs"])

    @property
    def stages(self) -> list[dict[str, Any]]:
        """The trajectory: every stage in order, with the digests of its inputs and outputs."""
        return list(self.content["stages"])

    @property
    def weights(self) -> dict[str, str]:
        """Digests of the checkpoint: each component's weights, and `configuration`."""
        return dict(self.content["inputs"]["weights"])

    @property
    def numerics_class(self) -> dict[str, Any]:
        """Name, hash and operators' digests of the numerics class that it was made in."""
        return dict(self.content["environment"]["class"])

    def inside(self, what: str) -> dict[str, Any]:
        """Return `modules` (per stage, each call's digests) or `weights` (each tensor's digest); empty in old recordings."""
        with self.tensors_path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            kept = json.loads(file.read(length)).get("__metadata__", {})
        return dict(json.loads(kept.get(what, "{}")))

    def tensors(self) -> dict[str, Array]:
        """Return the kept tensors: `output/NAME`, `noise/INDEX`, `stage/NAME/KEY`."""
        return open_tensors(self.tensors_path)


@dataclass(frozen=True)
class Baseline:
    """An accepted recording, with who accepted it, when and why; `notes` hold what decided it, and evidence for tolerances."""

    path: Path
    fingerprint: str
    reference: bool
    provenance: dict[str, Any]
    recording: Recording
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Match:
    """The baseline that judges a case, and why this one."""

    baseline: Baseline
    same_class: bool
    why: str


@dataclass(frozen=True)
class Drift:
    """How far an array moved, over all its elements; differences and sums in float64, in the array's own unit."""

    l_inf: float
    rel_l2: float
    abs_sum: float
    abs_sum_expected: float
    differing: int
    size: int
    worst_index: tuple[int, ...]
    worst_actual: float
    worst_expected: float
    finite: bool = True


@dataclass(frozen=True)
class Check:
    """One number held against one bound."""

    what: str
    value: float
    bound: float

    @property
    def passed(self) -> bool:
        """Whether the number is at or under the bound; a NaN never is."""
        return self.value <= self.bound


@dataclass(frozen=True)
class Outcome:
    """What the harness says of one case: the verdict, and everything that a report shows.

    `path` is the scenario's file and `store` the folder of the baselines, both for the command that comes next.
    """

    case: str
    scenario: str
    verdict: str
    reason: str
    place: str = ""
    tags: tuple[str, ...] = ()
    device_kind: str = ""
    baseline: dict[str, Any] | None = None
    outputs: dict[str, Drift] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    first_divergence: str | None = None
    free: dict[str, dict[str, float]] = field(default_factory=dict)
    local: dict[str, dict[str, float]] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    repeat_l_inf: float | None = None
    changes: tuple[str, ...] = ()
    log: str = ""
    path: str = ""
    store: str = ""

    @property
    def passes(self) -> bool:
        """Whether the verdict counts as a pass."""
        return self.verdict in PASS

    @property
    def fails(self) -> bool:
        """Whether the verdict counts as a failure; `unverified` is neither."""
        return self.verdict in FAIL

    def as_json(self) -> dict[str, Any]:
        """Return the outcome as `results.json` holds it."""
        outputs = {
            name: {
                "l_inf": d.l_inf, "rel_l2": d.rel_l2, "abs_sum": d.abs_sum, "abs_sum_expected": d.abs_sum_expected,
                "worst_index": list(d.worst_index), "worst_actual": d.worst_actual, "worst_expected": d.worst_expected,
                "differing": d.differing, "size": d.size, "finite": d.finite,
            }
            for name, d in self.outputs.items()
        }  # fmt: skip
        return {
            "case": self.case,
            "scenario": self.scenario,
            "place": self.place,
            "tags": list(self.tags),
            "device_kind": self.device_kind,
            "verdict": self.verdict,
            "reason": self.reason,
            "baseline": self.baseline,
            "outputs": outputs,
            "checks": [{"what": c.what, "value": c.value, "bound": c.bound} for c in self.checks],
            "stages": {
                "first_divergence": self.first_divergence,
                "free": self.free,
                "local": self.local,
            },
            "cost": self.cost,
            "repeat_l_inf": self.repeat_l_inf,
            "changes": list(self.changes),
            "log": self.log,
            "path": self.path,
            "store": self.store,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Outcome:
        """Read an outcome back from `results.json`."""
        outputs = {
            name: Drift(**{**d, "worst_index": tuple(d["worst_index"])})
            for name, d in data["outputs"].items()
        }
        plain = (
            "case",
            "scenario",
            "verdict",
            "reason",
            "place",
            "device_kind",
            "baseline",
            "cost",
            "repeat_l_inf",
            "log",
            "path",
            "store",
        )
        return cls(
            **{name: data[name] for name in plain},
            tags=tuple(data["tags"]),
            outputs=outputs,
            checks=tuple(Check(**check) for check in data["checks"]),
            first_divergence=data["stages"]["first_divergence"],
            free=data["stages"]["free"],
            local=data["stages"]["local"],
            changes=tuple(data["changes"]),
        )
