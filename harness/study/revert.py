"""Which settings differ between a run and its baseline, and the case with one of them reverted.

It also says how far two recordings lie apart, and which share of that a reverted setting removes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from harness.judge import drift
from harness.judge.structure import same_bits, structure
from harness.launch.sandbox import named
from harness.scenario.fields import Framework
from harness.scenario.model import Case
from harness.store.baselines import Baseline
from harness.store.recording import Environment, Observed, Recording
from harness.store.typed_json import decode

# Packages whose versions can be reverted without another torch.
PACKAGES = ("diffusers", "transformers")

Variables = Mapping[str, str]


@dataclass(frozen=True)
class Setting:
    """A setting that differs between a run and its baseline.

    It is a variable of the environment or a package's version; a side that does not set it has
    None. `share` is the part of the drift that is gone where it alone is reverted to `expected`:
    1.0 where no bit differs any more.
    """

    name: str
    actual: str | None
    expected: str | None
    share: float = 0.0


@dataclass(frozen=True)
class Reverted:
    """A case as it runs now, but with one setting at the baseline's value."""

    setting: Setting
    case: Case


@dataclass(frozen=True)
class Candidates:
    """A case as it runs now, as its baseline ran, and with each differing setting reverted."""

    actual: Case
    expected: Case
    reverted: tuple[Reverted, ...]


def candidates(
    case: Case, actual: Recording, expected: Baseline, *, packages: bool = False
) -> Candidates:
    """Return how a case runs on either side, and with each setting that differs reverted.

    Args:
        case: The case, without settings of its own.
        actual: What a run left.
        expected: The baseline that judged it; its side runs on its device, in its framework.
        packages: Whether versions of diffusers and transformers are reverted too, in environments
            of their own.
    """
    before = expected.environment
    env = decode(tuple[str, ...], actual.case.get("env", []))
    as_actual = replace(case, env=env)
    as_expected = replace(
        case,
        target=replace(case.target, device=expected.target.device),
        scenario=replace(case.scenario, framework=Framework(before.framework)),
        env=env,
    )
    mine, others = actual.environment.variables, before.variables
    names = sorted({*mine, *others})
    as_actual = _with_variables(as_actual, names, mine)
    as_expected = _with_variables(as_expected, names, others)
    found = [
        Reverted(
            Setting(name, mine.get(name), others.get(name)),
            _with_variable(as_actual, name, others.get(name)),
        )
        for name in names
        if mine.get(name) != others.get(name)
    ]
    for setting in _differing_packages(actual.environment, before) if packages else ():
        requirement = named(f"{setting.name}=={setting.expected}")
        found.append(Reverted(setting, _with_requirement(as_actual, requirement)))
        as_expected = _with_requirement(as_expected, requirement)
    return Candidates(as_actual, as_expected, tuple(found))


def _with_variables(case: Case, names: list[str], variables: Variables) -> Case:
    """Return `case` with every variable in `names` as a recording had it: set, or taken away."""
    return replace(case, settings=tuple((name, variables.get(name)) for name in names))


def _with_variable(case: Case, name: str, value: str | None) -> Case:
    settings = {**dict(case.settings), name: value}
    return replace(case, settings=tuple(sorted(settings.items())))


def _differing_packages(actual: Environment, expected: Environment) -> list[Setting]:
    """Return the packages that both sides have, in other versions."""
    found = []
    for name in PACKAGES:
        mine, other = actual.versions.get(name), expected.versions.get(name)
        if mine is not None and other is not None and mine != other:
            found.append(Setting(name, mine, other))
    return found


def _with_requirement(case: Case, requirement: Requirement) -> Case:
    """Return `case` in an environment that has one package in another version."""
    name = canonicalize_name(requirement.name)
    others = [text for text in case.env if canonicalize_name(named(text).name) != name]
    return replace(case, env=(str(requirement), *others))


def distance(actual: Observed, expected: Observed) -> float:
    """Return the largest relative L2 drift of any output.

    It is 0.0 where no bit differs, and infinite where there is no number for it: another structure,
    or values that are not finite.
    """
    if structure(actual, expected):
        return math.inf
    if same_bits(actual, expected):
        return 0.0
    sizes = [moved.rel_l2 for moved in drift.of_outputs(actual, expected).values()]
    if any(map(math.isnan, sizes)):
        return math.inf
    smallest = sys.float_info.min  # minus zero is equal to zero in other bits
    return max([*sizes, smallest])


def share_of(near: float, far: float) -> float:
    """Return the share of a drift that is gone where it was `far` and is `near`."""
    if not far:
        return 0.0
    if near == 0:
        return 1.0
    if not (math.isfinite(near) and math.isfinite(far)):
        return 0.0
    return max(0.0, 1 - near / far)
