"""What the harness says of one case, with everything that a report shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from harness.records.accuracies import StageAccuracy
from harness.records.appearances import Appearance
from harness.records.batches import BatchCertificate, Counterexample
from harness.records.cases import Target, case_key
from harness.records.costs import Cost
from harness.records.differences import Change, Difference, EnvironmentChange
from harness.records.drifts import Check, Drift, StageDrift
from harness.records.verdicts import Comparison, Reason, Verdict


@dataclass(frozen=True)
class Effect:
    """Whether an execution that a case asked for took effect.

    `asked` is the key of the scenario, the component and what was asked for; `seen` is what the
    worker observed, in words.
    """

    asked: str
    seen: str
    took_effect: bool


@dataclass(frozen=True)
class DetectionRate:
    """How many known faults a scenario's bounds catch: what `harness challenge --write` measured.

    `above_noise` counts the faults that move a local figure of some stage farther than the noise of
    the same figure; `cross_class_caught` how many of those the bounds catch on another platform.
    `measured` is when, in UTC; empty in what an older harness measured.
    """

    faults: int
    same_class_caught: int
    above_noise: int
    cross_class_caught: int
    missed: tuple[str, ...]
    platform: str
    measured: str = ""


@dataclass(frozen=True)
class JudgedBy:
    """The baseline that judged a case.

    `reference` names the case whose reference it is, empty for a baseline of the same class.
    `digest` is the baseline's seal, and `file` its path below the store. `run` names the other run
    where `harness diff` judged by a run's recording in the place of a baseline.
    """

    numerics_class: str
    comparison: Comparison
    reference: str = ""
    digest: str = ""
    file: str = ""
    detection_rate: DetectionRate | None = None
    run: str = ""


class ContractKind(StrEnum):
    """What a variant owes the case that it is held against."""

    IDENTICAL = "identical"
    TOLERANCE = "tolerance"
    NO_WORSE = "no-worse"


class ContractState(StrEnum):
    """Whether a contract holds; `unverified` where it could not be told."""

    HOLDS = "holds"
    BROKEN = "broken"
    UNVERIFIED = "unverified"


@dataclass(frozen=True)
class ContractOutcome:
    """How a variant compares with the case that its contract names, both of the same run.

    Attributes:
        kind: What is owed.
        terms: What is owed, in one line: `identical`, or the bounds.
        against: The id of the other case: the base, or another variant.
        state: Whether the contract holds.
        message: Why, in a sentence.
        same_bits: Whether every output has the same bits; None where that was not compared.
        outputs: How far each output lies from the other case's.
        checks: What was held against the contract's bounds.
        first_difference: Where the two recordings first differ.
        free: The drift of the kept tensors of stages in the run that went its own way.
        local: Their drift in the run that got the other case's tensors for every stage.
        accuracy: How far both sides of each stage that moved lie from float64; empty where that was
            not evaluated.
        cost: This case's cost against the other's: `ratio` is its seconds over the other's, and
            `baseline_seconds` are the other's. It is `unknown` where the two cannot be compared.
        peak_bytes_expected: The most memory that the other case held; 0 where it is not known.
    """

    kind: ContractKind
    terms: str
    against: str
    state: ContractState
    message: str
    same_bits: bool | None = None
    outputs: dict[str, Drift] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    first_difference: Difference | None = None
    free: tuple[StageDrift, ...] = ()
    local: tuple[StageDrift, ...] = ()
    accuracy: tuple[StageAccuracy, ...] = ()
    cost: Cost | None = None
    peak_bytes_expected: int = 0

    @property
    def failed_checks(self) -> list[Check]:
        """The checks whose bound was exceeded, in the order in which they were made."""
        return [check for check in self.checks if not check.passed]


@dataclass(frozen=True)
class Outcome:
    """What the harness says of one case: the verdict, and everything that a report shows.

    `message` is the reason in words. `path` is the scenario's file and `store` the folder of the
    baselines, both for the command that comes next; `fingerprint` is the scenario's. `recording` is
    the folder of its recording, below the run's folder. `device_kind` and `recording` are empty
    where the case left no recording, `accuracy` where no stage was evaluated in float64;
    `judge.accuracy.deciding` gives the verdict on all of it. `appearance` is how the outputs that
    differ look: one entry for each image of a batch; it decides nothing. `numerics_class` is the
    one that the case ran in, empty where it left no recording.

    `origins` are the differences that no other difference explains; where there are several,
    several things moved by themselves. `edits` are the keys of the scenario that were edited since
    a `stale` baseline.

    `variant` is empty for a scenario as it stands, and `contract` says how a variant compares with
    the case that it is held against.

    `output_digests` has the digest of each output of this run. `terms` and `evidence` are digests
    of what the scenario held its outputs to, and of the evidence for its bounds, see
    `Scenario.terms`. A gate compares all three with what lies in the repository.

    `test` is the id of the pytest test that holds the pipeline or array; empty for the case of a
    scenario's file. `batch` is what came of the search for a composition of the batch that changes
    an image; None where the scenario does not expect `batch-invariant`.
    """

    case: str
    scenario: str
    target: Target
    verdict: Verdict
    reason: Reason
    message: str
    tags: tuple[str, ...] = ()
    device_kind: str = ""
    baseline: JudgedBy | None = None
    outputs: dict[str, Drift] = field(default_factory=dict)
    appearance: tuple[Appearance, ...] = ()
    checks: tuple[Check, ...] = ()
    first_difference: Difference | None = None
    free: tuple[StageDrift, ...] = ()
    local: tuple[StageDrift, ...] = ()
    accuracy: tuple[StageAccuracy, ...] = ()
    cost: Cost | None = None
    repeat_l_inf: float | None = None
    environment_changes: tuple[EnvironmentChange, ...] = ()
    effects: tuple[Effect, ...] = ()
    log: str = ""
    recording: str = ""
    path: str = ""
    store: str = ""
    fingerprint: str = ""
    origins: tuple[Difference, ...] = ()
    edits: tuple[Change, ...] = ()
    variant: str = ""
    contract: ContractOutcome | None = None
    numerics_class: str = ""
    output_digests: dict[str, str] = field(default_factory=dict)
    terms: str = ""
    evidence: str = ""
    test: str = ""
    batch: BatchCertificate | None = None

    @property
    def key(self) -> str:
        """What tells the case from the others of its scenario: the target, then the variant."""
        return case_key(self.target, self.variant)

    @property
    def passes(self) -> bool:
        """Whether the verdict counts as a pass."""
        return self.verdict.passes

    @property
    def fails(self) -> bool:
        """Whether the verdict counts as a failure; `unverified` is neither."""
        return self.verdict.fails

    @property
    def failed_checks(self) -> list[Check]:
        """The checks whose bound was exceeded, in the order in which they were made."""
        return [check for check in self.checks if not check.passed]

    @property
    def changed_by(self) -> Counterexample | None:
        """The batch that decided the verdict by changing an image; None where none did."""
        if self.reason is not Reason.EXPECTATION_BROKEN or self.batch is None:
            return None
        return self.batch.counterexample
