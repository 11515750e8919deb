"""The store of baselines: finds the one that judges a case, checks that it is whole, and writes new ones atomically."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import BaselineError
from harness.records import Baseline, Match, Recording
from harness.scenario.model import Case
from harness.worker.observe.digest import digest_bytes
from harness.worker.protocol import dumps

FORMAT = "harness-baseline/1"
KEPT = (
    "environment",
    "inputs",
    "noise",
    "outputs",
    "stages",
    "cost",
)  # of a recording; the rest belongs to the run


class Store:
    """Baselines in a folder: `SCENARIO/DEVICE-DTYPE/CLASS.json`, with the tensors in `CLASS.DIGEST.safetensors` beside it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def files(self, scenario: str, place: str) -> list[Path]:
        """Return the JSON files of a scenario on one device and dtype, one per numerics class."""
        return sorted((self.root / scenario / place).glob("*.json"))

    def match(self, case: Case, numerics_class: dict[str, Any]) -> Match | None:
        """Return the baseline that judges `case` on a machine of `numerics_class`.

        The same class if there is one; else the case's reference; else the reference of the scenario's `reference`
        place; else None. There is no nearest match.

        Raises:
            BaselineError: A baseline is damaged or of another format.
        """
        own = self.root / case.scenario.name / case.place / f"{numerics_class['name']}.json"
        if own.exists():
            baseline = self.read(own)
            if baseline.recording.numerics_class["hash"] == numerics_class["hash"]:
                return Match(baseline, True, f"the same class {numerics_class['name']}")
        for reference in dict.fromkeys([case.place, case.scenario.reference or case.place]):
            *other, place = reference.split("/")
            for path in self.files(other[0] if other else case.scenario.name, place):
                baseline = self.read(path)
                if baseline.reference:
                    return Match(
                        baseline,
                        False,
                        f"class {baseline.recording.numerics_class['name']}, the reference of {reference}",
                    )
        return None

    def known(self, case: Case) -> dict[str, dict[str, str]]:
        """Return the digests of the outputs of every baseline of `case` in its place, by class and name.

        Read without a check: nothing is judged by them. Of another version of the scenario none is known.
        """
        found: dict[str, dict[str, str]] = {}
        for path in self.files(case.scenario.name, case.place):
            with contextlib.suppress(OSError, ValueError, KeyError, AttributeError, TypeError):
                content = json.loads(path.read_text(encoding="utf-8"))
                if content["fingerprint"] == case.scenario.fingerprint:
                    found[path.stem] = {
                        name: output["digest"] for name, output in content["outputs"].items()
                    }
        return found

    def of_other_classes(
        self, case: Case, numerics_class: dict[str, Any], devices: Sequence[str]
    ) -> list[Baseline]:
        """Return the baselines of this version of `case` that machines of other classes left on any of `devices`."""
        places = [f"{device}-{case.dtype}" for device in devices]
        found = [
            self.read(path) for place in places for path in self.files(case.scenario.name, place)
        ]
        others = [b for b in found if b.recording.numerics_class["hash"] != numerics_class["hash"]]
        return [
            baseline for baseline in others if baseline.fingerprint == case.scenario.fingerprint
        ]

    def read(self, path: Path) -> Baseline:
        """Read one baseline and check that neither file was changed after it was written.

        Raises:
            BaselineError: It is damaged, or of another format.
        """
        remedy = "restore both files from version control, or delete them and record the case again"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BaselineError(path, f"cannot be read: {error}", remedy) from error
        found = content.get("format") if isinstance(content, dict) else None
        if found != FORMAT:
            raise BaselineError(
                path,
                f"has format {found!r}; this harness reads {FORMAT!r}",
                "use the harness that wrote it, or record again",
            )
        digest = content.pop("digest", None)
        if digest != _digest_json(content):
            raise BaselineError(
                path, "was changed by hand or cut short: its digest does not fit", remedy
            )
        tensors = path.parent / content["tensors"]["file"]
        if not tensors.is_file() or _digest_file(tensors) != content["tensors"]["digest"]:
            raise BaselineError(tensors, "is missing or damaged: its digest does not fit", remedy)
        recording = Recording({key: content[key] for key in KEPT}, tensors)
        provenance = {**content["provenance"], "digest": digest}
        notes = {
            name: content[name]
            for name in ("decides", "evidence", "certificate")
            if name in content
        }
        return Baseline(
            path, content["fingerprint"], content["reference"], provenance, recording, notes
        )

    def write(self, case: Case, recording: Recording, reason: str) -> Path:
        """Make `recording` the baseline of `case` for its numerics class, and return the path of its JSON file.

        The first baseline of a device and dtype becomes the reference there, and stays it. A reader finds the old
        baseline or the new one, never a mixture: the tensors' file carries their digest in its name, and the JSON file,
        which names it, is replaced last.
        """
        folder = self.root / case.scenario.name / case.place
        path = folder / f"{recording.numerics_class['name']}.json"
        replaced = self.read(path) if path.exists() else None
        packed = recording.tensors_path.read_bytes()
        digest = digest_bytes(np.frombuffer(packed, dtype=np.uint8))
        tensors = path.with_name(f"{path.stem}.{digest[:8]}.safetensors")
        content: dict[str, Any] = {
            "format": FORMAT,
            "scenario": case.scenario.name,
            "place": case.place,
            "fingerprint": case.scenario.fingerprint,
            "reference": replaced.reference
            if replaced
            else not self.files(case.scenario.name, case.place),
            "tensors": {"file": tensors.name, "digest": digest},
            "provenance": _provenance(reason, replaced),
            "decides": case.scenario.decides,
            **{key: recording.content[key] for key in KEPT},
            **(
                {"evidence": case.scenario.tolerance["evidence"]}
                if "evidence" in case.scenario.tolerance
                else {}
            ),
        }
        content["digest"] = _digest_json(content)
        folder.mkdir(parents=True, exist_ok=True)
        _write_whole(tensors, packed)
        _write_whole(path, dumps(content).encode())
        if replaced and replaced.recording.tensors_path != tensors:
            replaced.recording.tensors_path.unlink(missing_ok=True)
        return path


def annotate(path: Path, name: str, facts: dict[str, Any]) -> None:
    """Keep facts about the scenario's tolerances in the baseline at `path`; its recording stays as it is.

    `name` is `evidence`, what the bounds were derived from, or `certificate`, which faults they catch.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    content.pop("digest")
    content[name] = facts
    _write_whole(path, dumps({**content, "digest": _digest_json(content)}).encode())


def _provenance(reason: str, replaced: Baseline | None) -> dict[str, Any]:
    return {
        "author": (_git("var", "GIT_AUTHOR_IDENT") or getpass.getuser()).split(" <")[0],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "reason": reason,
        "commit": _git("rev-parse", "HEAD"),
        "replaced": replaced.provenance["digest"] if replaced else None,
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _digest_json(content: dict[str, Any]) -> str:
    return hashlib.sha256(dumps(content).encode()).hexdigest()[:32]


def _digest_file(path: Path) -> str:
    return digest_bytes(
        np.memmap(path, dtype=np.uint8, mode="r") if path.stat().st_size else np.zeros(0, np.uint8)
    )


def _write_whole(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
