"""From many outcomes to one word: an exit code for a run, and a release's verdict under a policy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from harness.records import Outcome
from harness.scenario.located_yaml import Number, OneOrMore, Record, Text, load

POLICY = Record(
    {
        "description": Text(),
        "require": OneOrMore(
            Record(
                {
                    "scenarios": OneOrMore(Text()),
                    "on": OneOrMore(Text()),
                    "dtype": OneOrMore(Text()),
                    "cost": Text(("ok",)),
                    "certificate": Number(above=0),
                },
                required=("scenarios", "on"),
            )
        ),
    },
    required=("require",),
)


def exit_code(outcomes: Iterable[Outcome], *, strict: bool) -> int:
    """Return 0 if something was verified and nothing fails, 1 if something fails, 3 if nothing fails and too little was seen.

    Args:
        outcomes: Of a run.
        strict: Whether anything `unverified` is too little.
    """
    outcomes = list(outcomes)
    if any(outcome.fails for outcome in outcomes):
        return 1
    seen = [outcome for outcome in outcomes if outcome.passes]
    return 3 if not seen or (strict and len(seen) < len(outcomes)) else 0


def git_code(outcomes: Iterable[Outcome]) -> int:
    """Return what `git bisect run` reads: 1 (bad) if an output moved, 0 (good) if all are verified, 125 if it cannot be told."""
    outcomes = list(outcomes)
    if any(outcome.verdict in ("drifted", "unrepeatable", "incomparable") for outcome in outcomes):
        return 1
    return 0 if all(outcome.passes for outcome in outcomes) else 125


@dataclass(frozen=True)
class Requirement:
    """One line of a release's verdict: what was required where, and how it stands."""

    scenario: str
    on: str
    state: str  # passes, fails, or unverified
    reason: str


def hold(policy: Path, outcomes: list[Outcome]) -> list[Requirement]:
    """Return how every scenario that `policy` requires stands on every device kind that it requires.

    A required pattern that fits no scenario of the runs is `unverified`: a release gate must not pass what it never saw.

    Raises:
        ScenarioError: The policy file has a mistake.
    """
    content, _ = load(policy, POLICY)
    held = []
    for requirement in content["require"]:
        for pattern in requirement["scenarios"]:
            names = sorted({o.scenario for o in outcomes if fnmatchcase(o.scenario, pattern)})
            for on in requirement["on"]:
                for name in names or [pattern]:
                    held.append(
                        _one(name, on, requirement, [o for o in outcomes if o.scenario == name])
                    )
    return held


def _one(name: str, on: str, requirement: dict[str, Any], outcomes: list[Outcome]) -> Requirement:
    dtypes = requirement.get("dtype")
    fitting = [
        o
        for o in outcomes
        if _runs_on(o, on) and (dtypes is None or o.place.split("-", 1)[1] in dtypes)
    ]
    failing = [o for o in fitting if o.fails]
    slower = [o for o in fitting if "cost" in requirement and o.cost.get("verdict") == "slower"]
    if failing:
        return Requirement(
            name, on, "fails", f"{failing[0].case}: {failing[0].verdict}: {failing[0].reason}"
        )
    if slower:
        return Requirement(
            name,
            on,
            "fails",
            f"{slower[0].case}: slower, {slower[0].cost['ratio']:.2f} times the baseline",
        )
    unknown = [
        o
        for o in fitting
        if "cost" in requirement and o.passes and o.cost.get("verdict") == "unknown"
    ]
    if unknown:
        return Requirement(
            name,
            on,
            "unverified",
            f"{unknown[0].case}: its cost was not compared: {unknown[0].cost['why']}",
        )
    for case in sorted({o.case for o in fitting}):
        mine = [o for o in fitting if o.case == case]
        if not any(o.passes for o in mine):
            return Requirement(name, on, "unverified", f"{case}: {mine[0].reason}")
    unseen = [
        dtype
        for dtype in dtypes or []
        if not any(o.place.split("-", 1)[1] == dtype for o in fitting)
    ]
    if not fitting or unseen:
        missed = f" in {', '.join(unseen)}" if fitting else ""
        return Requirement(name, on, "unverified", f"no run of it{missed} among the results")
    weak = _weak_certificate(fitting, requirement.get("certificate", 0.0))
    if weak:
        return Requirement(name, on, "unverified", weak)
    return Requirement(
        name, on, "passes", ", ".join(sorted({o.verdict for o in fitting if o.passes}))
    )


def _weak_certificate(outcomes: list[Outcome], least: float) -> str:
    """Return why the tolerances of a baseline are not proven to catch the share `least` of known faults; else nothing."""
    for outcome in outcomes:
        if not least or outcome.baseline is None:
            continue
        certificate = outcome.baseline.get("certificate")
        if certificate is None:
            return f"{outcome.case}: its baseline has no certificate; `harness challenge --write` makes one"
        caught, faults = certificate["cross_class_caught"], certificate["above_noise"]
        if caught < least * faults:
            return f"{outcome.case}: its tolerances catch {caught} of {faults} known faults; {least:.0%} are required"
    return ""


def _runs_on(outcome: Outcome, on: str) -> bool:
    """Whether an outcome is of the device kind `on`: `cpu`, `cuda` for any GPU, or a model such as `nvidia-h200`.

    A case that left no recording does not know its GPU's model; it counts for every model, so that an error blocks.
    """
    device = outcome.place.split("-", 1)[0]
    return on in (outcome.device_kind, device) or (
        device == "cuda" and not outcome.device_kind and on != "cpu"
    )


def gate_code(requirements: Iterable[Requirement]) -> int:
    """Return 1 if a requirement fails, 3 if one was not verified (or nothing was required), else 0."""
    states = {requirement.state for requirement in requirements}
    return 1 if "fails" in states else 0 if states == {"passes"} else 3
