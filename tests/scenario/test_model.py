"""Scenarios as values: what a verdict depends on beside the numbers, as a digest."""

from __future__ import annotations

from dataclasses import replace

import builders
import pytest

from harness.records import ContractKind
from harness.scenario.fields import Expectation
from harness.scenario.model import Contract

TOLERANCE = {"cross-class": {"l_inf": 1e-5}}


@pytest.mark.parametrize(
    "changes",
    [
        {"tolerance": TOLERANCE},
        {"tolerance": {"batch": {"l_inf": 1e-5}}},
        {"expect": (Expectation.VARIES,)},
        {"published": {"image": {"abs_sum": 2.5, "within": 1e-3, "source": "a guide"}}},
        {"cost": {"slower": 1.5}},
        {"contract": Contract(ContractKind.IDENTICAL, builders.scenario())},
    ],
)
def test_what_outputs_are_held_to_changes_the_terms_and_not_the_fingerprint(changes):
    """No baseline becomes stale by it, but a gate must notice."""
    plain, other = builders.scenario(), builders.scenario(**changes)
    assert plain.terms != other.terms
    assert plain.fingerprint == other.fingerprint


def test_a_bound_that_moves_changes_the_terms():
    """Twice as large is another promise."""
    first = builders.scenario(tolerance=TOLERANCE)
    second = builders.scenario(tolerance={"cross-class": {"l_inf": 2e-5}})
    assert first.terms != second.terms
    assert first.terms == builders.scenario(tolerance=TOLERANCE).terms


def test_the_evidence_has_a_digest_of_its_own():
    """Other evidence for the same bounds changes no verdict; without evidence there is none."""
    evidence = {"bounds": {"l_inf": 1e-5}, "platforms": 2, "seeds": 1, "date": "2026-01-02"}
    plain = builders.scenario(tolerance=TOLERANCE)
    measured = builders.scenario(tolerance={**TOLERANCE, "evidence": evidence})
    later = builders.scenario(
        tolerance={**TOLERANCE, "evidence": {**evidence, "date": "2026-02-03"}}
    )
    assert plain.evidence_digest == ""
    assert measured.terms == plain.terms
    assert len({each.evidence_digest for each in (plain, measured, later)}) == 3
    renamed = replace(measured, name="other")
    assert renamed.evidence_digest == measured.evidence_digest
