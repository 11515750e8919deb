"""Judges one run by another: the recording of the other run stands where a baseline would.

Nothing runs. So what needs a run of its own, or a statement about one run alone, is left out: the
expectations on single images, published values, and the bounds on local drift.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

from harness.judge import first_difference, reasons
from harness.judge.environment_diff import changes_of
from harness.judge.verdict import judge
from harness.records import Outcome, Reason, Verdict
from harness.scenario.fields import Expectation
from harness.scenario.model import Case, Reference
from harness.store.baselines import FORMAT, Baseline, Match, Provenance
from harness.store.recording import Observed, Recording

# What a request holds beside the settings that decide an output; `env` is what runs differ by.
NOT_SETTINGS = ("id", "rounds", "reuse", "inputs_folder", "keep_every", "env", "folder")
# Expectations that hold a run against others of its own: images alone, and other batches.
OF_OTHER_BATCHES = (Expectation.BATCH_EQUALS_SINGLE, Expectation.BATCH_INVARIANT)
NOTHING: tuple[object, ...] = (None, "", [], {}, False)  # how requests say that a key is not set


def compare(case: Case, actual: Recording, expected: Recording, run: str) -> Outcome:
    """Return the outcome of one recording, judged by that of another run.

    Args:
        case: The case of both; its scenario says which differences other classes may show.
        actual: What the one run left.
        expected: What the other run left.
        run: The name of the other run.

    Raises:
        FileError: Tensors are missing or damaged.
    """
    edits = changes_of(_settings(actual.case), _settings(expected.case))
    match = _as_match(case, actual, expected, edited=bool(edits))
    outcome = judge(_comparable(case), actual, replace(match, run=run), [])
    if outcome.reason is Reason.SCENARIO_EDITED:
        message = reasons.other_settings(edits)
        return replace(outcome, edits=tuple(edits), message=message)
    if outcome.reason is Reason.OTHER_WEIGHTS:
        components = first_difference.other_weights(actual, expected)
        return replace(outcome, message=reasons.runs_of_other_weights(components))
    if _lacks_local_drift(case, outcome):
        message = reasons.local_bounds_not_held(run)
        return replace(
            outcome, verdict=Verdict.UNVERIFIED, reason=Reason.NOT_RECORDED, message=message
        )
    return outcome


def only_in_one(case: Case, run: str) -> Outcome:
    """Return the outcome of a case that only one run recorded; `run` is the one without it."""
    return Outcome(
        case=case.id,
        scenario=case.scenario.name,
        target=case.target,
        verdict=Verdict.UNVERIFIED,
        reason=Reason.NOT_RECORDED,
        message=reasons.not_in_run(run),
        tags=case.scenario.tags,
        fingerprint=case.scenario.fingerprint,
    )


def _settings(request: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return what in a request decides the output, by dotted keys; what is not set is left out."""
    found: dict[str, object] = {}
    for key, value in request.items():
        if key in NOT_SETTINGS or value in NOTHING:
            continue
        if isinstance(value, Mapping):
            found |= _settings(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def _as_match(case: Case, actual: Recording, expected: Recording, *, edited: bool) -> Match:
    """Return the other run's recording in the place of a baseline.

    It is of the scenario's present version, unless both runs had other settings.
    """
    kept = {each.name: getattr(expected, each.name) for each in fields(Observed)}
    baseline = Baseline(
        **{**kept, "format": FORMAT},
        scenario=case.scenario.name,
        target=case.target,
        variant=case.scenario.variant,
        fingerprint="" if edited else case.scenario.fingerprint,
        reference=True,
        provenance=Provenance("", "", ""),
        decides={},
    )
    if actual.numerics_class.hash == expected.numerics_class.hash:
        return Match(baseline)
    return Match(baseline, Reference(case.target, variant=case.scenario.variant))


def _comparable(case: Case) -> Case:
    """Return the case with what two recordings can tell by themselves."""
    scenario = case.scenario
    tolerances = scenario.tolerances
    if tolerances.cross_class is not None:
        free = replace(tolerances.cross_class, local={})
        tolerances = replace(tolerances, cross_class=free)
    expect = tuple(each for each in scenario.expect if each not in OF_OTHER_BATCHES)
    plain = replace(scenario, tolerances=tolerances, expect=expect, published={})
    return replace(case, scenario=plain)


def _lacks_local_drift(case: Case, outcome: Outcome) -> bool:
    """Whether an outcome passes only because the bounds on local drift were not held."""
    tolerance = case.scenario.tolerances.cross_class
    bounds_local_drift = tolerance is not None and bool(tolerance.local)
    return bounds_local_drift and outcome.reason is Reason.INSIDE_TOLERANCE
