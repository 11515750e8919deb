"""Owns the order in which cases run: which follow each other on one worker, which come first."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict

from harness.launch.launcher import Settings, WorkerSpec
from harness.launch.process import variables
from harness.scenario.model import Case

Accepts = Callable[[Case], bool]
Unit = Sequence[Case]  # cases that one slot runs one after the other


class CaseQueue:
    """Cases in groups, each for one worker's settings and checkpoint; several threads take them.

    Args:
        cases: What to run.
        keep_together: Whether all executions of a scenario on one target run on one slot, the one
            that variants are held against before them.
    """

    def __init__(self, cases: Iterable[Case], *, keep_together: bool = False) -> None:
        groups: dict[str, deque[Unit]] = {}
        for unit in _units(cases, keep_together=keep_together):
            groups.setdefault(_shared_by(unit[0]), deque()).append(unit)
        order = sorted((_rank(group[0][0]), key) for key, group in groups.items())
        self._groups = [groups[key] for _, key in order]
        self._untouched = list(self._groups)
        self._lock = threading.Lock()

    def has(self, accepts: Accepts) -> bool:
        """Whether a case waits that a slot accepts."""
        with self._lock:
            return any(group and accepts(group[0][0]) for group in self._groups)

    def take_until(self, stopping: Callable[[], bool], accepts: Accepts) -> Iterator[Case]:
        """Yield cases that a slot accepts, for one thread, until none is left or the run stops."""
        own: deque[Unit] = deque()
        while not stopping():
            with self._lock:
                own = own or self._next_group(accepts)
                if not own:
                    return
                unit = own.popleft()
            for case in unit:
                if not stopping():
                    yield case

    def _next_group(self, accepts: Accepts) -> deque[Unit]:
        """Return a group that no thread has taken, or else the one with the most cases left."""
        fitting = [group for group in self._groups if group and accepts(group[0][0])]
        for group in self._untouched:
            if any(group is each for each in fitting):
                self._untouched = [each for each in self._untouched if each is not group]
                return group
        return max(fitting, key=len, default=deque())


def spec_of(case: Case) -> WorkerSpec:
    """Return what a case's worker must be started with."""
    return WorkerSpec(settings_of(case), case.scenario.framework, case.env)


def settings_of(case: Case) -> Settings:
    """Return the environment variables that a case's worker gets on top of the caller's own."""
    scenario = case.scenario
    return variables(
        scenario.determinism, dict(case.settings), scenario.profile, scenario.framework
    )


def _units(cases: Iterable[Case], *, keep_together: bool) -> list[Unit]:
    if not keep_together:
        return [[case] for case in cases]
    families: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        families.setdefault((case.scenario.name, str(case.target)), []).append(case)
    return [
        sorted(family, key=lambda case: (case.against is not None, _shared_by(case)))
        for family in families.values()
    ]


def _rank(case: Case) -> tuple[str, bool]:
    """Return what orders groups: variants come after the executions that they are held against."""
    return _checkpoint_of(case), case.against is not None


def _checkpoint_of(case: Case) -> str:
    """Return what decides which worker a case runs on, and which checkpoint is loaded there.

    A slot accepts all cases of which this is the same, or none: it has all that slots look at.
    """
    scenario = case.scenario
    facts: Sequence[object] = (
        settings_of(case),
        scenario.framework,
        case.env,
        scenario.checkpoint.request(),
        scenario.pipeline,
        case.target.dtype,
        case.target.device,
        asdict(scenario.node),
    )
    return json.dumps(facts, sort_keys=True)


def _shared_by(case: Case) -> str:
    """Return what cases must share for one worker to run them without a restart or a reload."""
    scenario = case.scenario
    facts = (
        _checkpoint_of(case),
        dict(scenario.component_dtypes),
        scenario.enable,
        dict(scenario.executions),
        {name: [part.request() for part in parts] for name, parts in scenario.components.items()},
        [adapter.request() for adapter in scenario.adapters],
    )
    return json.dumps(facts, sort_keys=True)
