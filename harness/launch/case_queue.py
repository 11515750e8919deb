"""Owns the order in which cases run: which follow each other on one worker, which come first."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from harness.launch.process import Settings, variables
from harness.scenario.model import Case


class CaseQueue:
    """Cases in groups, each for one worker's settings and checkpoint; several threads take them."""

    def __init__(self, cases: Iterable[Case]) -> None:
        groups: dict[str, deque[Case]] = {}
        for case in cases:
            groups.setdefault(_shared_by(case), deque()).append(case)
        order = sorted((_rank(group[0]), key) for key, group in groups.items())
        self._groups = [groups[key] for _, key in order]
        self._untouched = list(self._groups)
        self._lock = threading.Lock()

    def take_until(self, stopping: Callable[[], bool]) -> Iterator[Case]:
        """Yield cases for one thread until none is left or the run is stopping."""
        own: deque[Case] = deque()
        while not stopping():
            with self._lock:
                own = own or self._next_group()
                if not own:
                    return
                case = own.popleft()
            yield case

    def _next_group(self) -> deque[Case]:
        """Return a group that no thread has taken, or else the one with the most cases left."""
        if self._untouched:
            return self._untouched.pop(0)
        return max(self._groups, key=len, default=deque())


def _rank(case: Case) -> tuple[str, bool]:
    """Return what orders groups: variants come after the executions that they are held against."""
    return _checkpoint_of(case), case.against is not None


def _checkpoint_of(case: Case) -> str:
    """Return what decides which worker a case runs on, and which checkpoint is loaded there."""
    scenario = case.scenario
    facts: Sequence[object] = (
        settings_of(case),
        scenario.framework,
        case.env,
        scenario.checkpoint.request(),
        scenario.pipeline,
        case.target.dtype,
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


def settings_of(case: Case) -> Settings:
    """Return the environment variables that a case's worker gets on top of the caller's own."""
    scenario = case.scenario
    return variables(
        scenario.determinism, dict(case.settings), scenario.profile, scenario.framework
    )
