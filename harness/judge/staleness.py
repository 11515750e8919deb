"""Decides whether a baseline is stale: of another version of the scenario, or of other weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.judge import environment_diff, first_difference, reasons
from harness.records import Change, Reason
from harness.scenario.model import Scenario
from harness.store.baselines import Baseline
from harness.store.recording import Observed

# The keys of a request that do not influence the output.
NOT_DECIDING = ("rounds", "reuse", "inputs_folder")
# Of the identity of a checkpoint: its kind, and what stands beside that in YAML.
CHECKPOINT_KEYS = ("kind", "repository", "name")


@dataclass(frozen=True)
class Staleness:
    """Why a baseline is not of this version of the scenario, or not of these weights.

    `edits` are the keys of the scenario, or else the settings of the checkpoint's schedulers, that
    were edited since; there are none for a baseline that does not hold their values.
    """

    reason: Reason
    message: str
    edits: tuple[Change, ...] = ()


def staleness_of(scenario: Scenario, baseline: Baseline, actual: Observed) -> Staleness | None:
    """Return why the baseline does not fit this run; None where it fits."""
    is_pair = first_difference.hides_inside(actual) != first_difference.hides_inside(baseline)
    if baseline.fingerprint != scenario.fingerprint:
        edits = _edits(scenario.decides, baseline.decides)
        if is_pair:
            edits = _edits(*_shared(scenario.decides, baseline.decides))
            if not edits:
                return None
        message = reasons.scenario_edited(baseline.provenance.date, list(map(str, edits)))
        return Staleness(Reason.SCENARIO_EDITED, message, tuple(edits))
    other = first_difference.other_weights(actual, baseline)
    if not other:
        return None
    edits = []
    if first_difference.CONFIGURATION in other:
        edits = first_difference.edited_schedulers(actual, baseline)
    return Staleness(Reason.OTHER_WEIGHTS, reasons.other_weights(other, edits), tuple(edits))


def is_of_request(recorded: Mapping[str, object], request: Mapping[str, object]) -> bool:
    """Whether a recording was made by a request, as far as the request influences the output."""
    return _what_decides(recorded) == _what_decides(request)


def _what_decides(request: Mapping[str, object]) -> dict[str, object]:
    """Return the part of a request that influences the output: not, say, the weights' folder."""
    found = {key: value for key, value in request.items() if key not in NOT_DECIDING}
    checkpoint = request.get("checkpoint")
    if isinstance(checkpoint, Mapping):
        found["checkpoint"] = {key: checkpoint[key] for key in checkpoint if key != "folder"}
    return found


def _edits(actual: Mapping[str, object], expected: Mapping[str, object]) -> list[Change]:
    """Return the keys of the scenario that were edited since the baseline, with both values.

    The list is empty for a baseline that does not hold the values of its scenario.
    """
    if not expected:
        return []
    return environment_diff.changes_of(_flat(_as_written(actual)), _flat(_as_written(expected)))


def _as_written(decides: Mapping[str, object]) -> dict[str, object]:
    """Return what decides the numbers with its checkpoint as YAML has it: `{path: FOLDER}`."""
    checkpoint = decides.get("checkpoint")
    if not isinstance(checkpoint, Mapping) or "kind" not in checkpoint:
        return dict(decides)
    left = {key: value for key, value in checkpoint.items() if key not in CHECKPOINT_KEYS}
    named = next((checkpoint[key] for key in CHECKPOINT_KEYS[1:] if key in checkpoint), None)
    return {**decides, "checkpoint": {str(checkpoint["kind"]): named, **left}}


def _shared(
    actual: Mapping[str, object], expected: Mapping[str, object]
) -> tuple[dict[str, object], dict[str, object]]:
    """Return the seeds and the arguments of the call that both of a live pair name.

    A served engine and the pipeline that it is held against are called by different interfaces.
    """
    mine, others = _flat(actual), _flat(expected)
    names = {name for name in {*mine} & {*others} if name == "seed" or name.startswith("call.")}
    return {name: mine[name] for name in names}, {name: others[name] for name in names}


def _flat(settings: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return nested settings by dotted keys, such as `scheduler.class`; None counts as unset."""
    found: dict[str, object] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            found[prefix + name] = value
    return found
