"""The values that cross the harness: verdicts, targets, stages, drifts, checks, costs, outcomes.

Every type here is frozen and knows nothing of files, processes or wording.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from harness.records.accuracies import AccuracyReason, AccuracyVerdict, StageAccuracy, StageError
from harness.records.appearances import (
    Appearance,
    Flip,
    OutputKind,
    PixelChange,
    StructuralSimilarity,
)
from harness.records.batches import BatchCertificate, Counterexample
from harness.records.cases import OUTPUT, Device, Dtype, Stage, Target, case_key
from harness.records.costs import Conditions, Cost, CostFigures, CostReason, CostVerdict
from harness.records.differences import (
    Change,
    ChangeKind,
    Difference,
    DifferenceKind,
    EnvironmentChange,
)
from harness.records.drifts import (
    Against,
    Check,
    Drift,
    Metric,
    StageDrift,
    bounded_stage,
    worst_first,
)
from harness.records.outcomes import (
    ContractKind,
    ContractOutcome,
    ContractState,
    DetectionRate,
    Effect,
    JudgedBy,
    Outcome,
)
from harness.records.verdicts import Comparison, Reason, Verdict

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]

# A mapping of JSON values, such as the arguments of a pipeline's call.
Facts = Mapping[str, object]

__all__ = [
    "OUTPUT",
    "AccuracyReason",
    "AccuracyVerdict",
    "Against",
    "Appearance",
    "Array",
    "BatchCertificate",
    "Change",
    "ChangeKind",
    "Check",
    "Comparison",
    "Conditions",
    "ContractKind",
    "ContractOutcome",
    "ContractState",
    "Cost",
    "CostFigures",
    "CostReason",
    "CostVerdict",
    "Counterexample",
    "DetectionRate",
    "Device",
    "Difference",
    "DifferenceKind",
    "Drift",
    "Dtype",
    "Effect",
    "EnvironmentChange",
    "Facts",
    "Flip",
    "JudgedBy",
    "Metric",
    "Outcome",
    "OutputKind",
    "PixelChange",
    "Reason",
    "Stage",
    "StageAccuracy",
    "StageDrift",
    "StageError",
    "StructuralSimilarity",
    "Target",
    "Verdict",
    "bounded_stage",
    "case_key",
    "worst_first",
]
