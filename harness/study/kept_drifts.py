"""The drifts that a calibration measured, kept as they come, so that none is measured twice.

A drift is used again only where everything that it was measured from is the same: the request to
the worker with its seeds and perturbation, the worker's settings, the numerics class, releases,
weights, noise, stages and outputs of what it was measured against, and the code that measures.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import FileError, writing
from harness.launch.case_queue import spec_of
from harness.launch.code_digest import digest_of_harness
from harness.records import Metric
from harness.scenario.model import Case
from harness.scenario.tolerance import BoundKey, Kind
from harness.store.recording import Observed
from harness.store.sealed import SealedFormat, write_sealed
from harness.store.typed_json import encode
from harness.worker.files import digest_json

FILE = "calibration.json"
FORMAT = "harness-calibration/1"
MEASURING = ("worker", "judge")  # the folders of the harness whose code makes a drift


@dataclass(frozen=True)
class KeptDrift:
    """One drift: the kind of bound that it is for, its metric, and the stage where it is local."""

    kind: Kind
    metric: Metric
    stage: str
    value: float


@dataclass(frozen=True)
class KeptDrifts:
    """The drifts of one case from another.

    Attributes:
        numerics_class: The hash of the class in which the case ran.
        date: The day on which they were measured.
        drifts: One for each output's metric and each stage.
    """

    numerics_class: str
    date: str
    drifts: tuple[KeptDrift, ...]

    @classmethod
    def of(cls, numerics_class: str, figures: dict[BoundKey, float]) -> KeptDrifts:
        """Return drifts that were measured today, from figures by the keys of their bounds."""
        today = datetime.now(UTC).date().isoformat()
        drifts = (
            KeptDrift(key.kind, key.metric, key.pattern, value) for key, value in figures.items()
        )
        return cls(numerics_class, today, tuple(drifts))

    @property
    def figures(self) -> dict[BoundKey, float]:
        """The drifts by the keys of their bounds."""
        return {BoundKey(each.kind, each.metric, each.stage): each.value for each in self.drifts}


@dataclass(frozen=True)
class _Content:
    """What the file holds: drifts by the digest of what they were measured from."""

    format: str
    measured: dict[str, KeptDrifts]
    digest: str


_FORMAT = SealedFormat(FORMAT, _Content, "what a calibration measured", "remove it")


class DriftKeeper:
    """Keeps drifts in a run's folder.

    Args:
        folder: The run's folder. What an earlier calibration left there is used again; a file that
            is damaged or of another format is not, and is replaced.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._measured: dict[str, KeptDrifts] = {}
        self._harness = digest_of_harness(MEASURING)
        if self._path.is_file():
            try:
                self._measured = dict(_FORMAT.read(self._path).measured)
            except FileError:
                self._measured = {}

    def key(self, case: Case, base: Observed) -> str:
        """Return the digest of all that the drifts of a case from `base` follow from."""
        spec = spec_of(case)
        facts = {
            "harness": self._harness,
            "request": case.request(),
            "settings": dict(spec.settings),
            "env": spec.env,
            "batch": case.scenario.tolerances.batch is not None,
            "expect": case.scenario.expect,
            "class": base.numerics_class.hash,
            "versions": base.environment.versions,
            "own-code": base.environment.own_code,
            "weights": base.weights,
            "noise": base.noise,
            "outputs": base.output_digests,
            "stages": base.stages,
        }
        return digest_json({"from": json.dumps(encode(facts), sort_keys=True)})

    def get(self, key: str) -> KeptDrifts | None:
        """Return the drifts that were measured from the same; None where there are none."""
        return self._measured.get(key)

    def keep(self, key: str, drifts: KeptDrifts) -> None:
        """Keep drifts, on the disk too, so that they outlive an interruption.

        Those of which one is infinite or NaN are not kept: no bound follows from them.

        Raises:
            FileError: The file cannot be written.
        """
        if not all(math.isfinite(each.value) for each in drifts.drifts):
            return
        self._measured[key] = drifts
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_sealed(self._path, _Content(FORMAT, self._measured, ""))
