"""Which settings differ between a run and a baseline, how a case runs with one of them put back, and what share goes with it."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace

from harness.judge import drift
from harness.judge.verdict import same_bits, structure
from harness.records import Recording
from harness.scenario.model import Case

PACKAGES = (
    "diffusers",
    "transformers",
)  # whose versions can be put back without installing torch again


@dataclass(frozen=True)
class Knob:
    """One setting put back to the baseline's value: the share of the drift that goes with it, 1.0 when no bit differs."""

    name: str
    now: str | None
    then: str | None
    share: float = 0.0


def candidates(
    case: Case, now: Recording, then: Recording, *, packages: bool
) -> tuple[Case, Case, list[tuple[Knob, Case]]]:
    """Return the case as it ran now, as it ran then, and as it runs now with one setting put back, for each that differs.

    Args:
        case: Without knobs.
        now: What a run left.
        then: The baseline's recording.
        packages: Whether versions of diffusers and transformers are put back too, in environments of their own.
    """
    mine, theirs = (side.content["environment"]["variables"] for side in (now, then))
    names = sorted({*mine, *theirs})
    env = tuple(now.content["case"].get("env", ()))
    as_now = replace(case, knobs=tuple((name, mine.get(name)) for name in names), env=env)
    there = then.content["environment"]
    device = there["class"]["name"].split("-", maxsplit=1)[0]
    twin = replace(
        case,
        device=device,
        scenario=replace(case.scenario, framework=there.get("framework", "torch")),
    )
    as_then = replace(twin, knobs=tuple((name, theirs.get(name)) for name in names), env=env)
    found = []
    for name in names:
        if mine.get(name) != theirs.get(name):
            back = {**dict(as_now.knobs), name: theirs.get(name)}
            found.append(
                (
                    Knob(name, mine.get(name), theirs.get(name)),
                    replace(as_now, knobs=tuple(sorted(back.items()))),
                )
            )
    installed, before = now.content["environment"]["versions"], there["versions"]
    for name in PACKAGES if packages else ():
        if name in installed and name in before and installed[name] != before[name]:
            wanted = f"{name}=={before[name]}"
            found.append(
                (Knob(name, installed[name], before[name]), replace(as_now, env=_with(env, wanted)))
            )
            as_then = replace(as_then, env=_with(as_then.env, wanted))
    return as_now, as_then, found


def _with(env: tuple[str, ...], wanted: str) -> tuple[str, ...]:
    """Return an environment's packages with one at another version."""
    name = wanted.split("==", maxsplit=1)[0]
    return (wanted, *(text for text in env if text.split("==", maxsplit=1)[0] != name))


def distance(now: Recording, then: Recording) -> float:
    """Return the worst relative L2 of any output; 0.0 when no bit differs, infinite where there is no number for it."""
    if structure(now, then):
        return math.inf
    if same_bits(now, then):
        return 0.0
    sizes = [moved.rel_l2 for moved in drift.of_outputs(now, then).values()]
    return (
        math.inf if any(map(math.isnan, sizes)) else max([*sizes, sys.float_info.min])
    )  # minus zero: bits, and no size


def share_of(near: float, far: float) -> float:
    """Return which share of a drift is gone."""
    if not far:
        return 0.0
    if near == 0:
        return 1.0
    return max(0.0, 1 - near / far) if math.isfinite(near) and math.isfinite(far) else 0.0
