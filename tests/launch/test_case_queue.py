"""The order of cases: groups for warm workers, what stays together, what a slot accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import builders

from harness.launch.case_queue import CaseQueue
from harness.records import ContractKind
from harness.scenario.model import Case, Contract, NodeNeeds


def everything(_case: Case) -> bool:
    return True


def taken(queue: CaseQueue, accepts: Callable[[Case], bool] = everything) -> list[str]:
    return [case.id for case in queue.take_until(lambda: False, accepts)]


def family(name: str, **changes: object) -> list[Case]:
    """Return a variant with other executions, and then the base that it is held against."""
    base = builders.scenario(name=name, **changes)
    owed = Contract(ContractKind.IDENTICAL, base)
    variant = replace(base, variant="tiled", enable=("vae_tiling",), contract=owed)
    return [each.cases()[0] for each in (variant, base)]


def interleaved(families: Iterable[list[Case]]) -> list[Case]:
    return [case for pair in zip(*families, strict=True) for case in pair]


def test_executions_of_a_scenario_stay_together_with_the_base_first():
    """Two takers get whole families, although variants and bases differ in what they share."""
    queue = CaseQueue(interleaved([family("a"), family("b")]), keep_together=True)
    first, second = (queue.take_until(lambda: False, everything) for _ in range(2))
    one, other = next(first), next(second)
    assert [one.id, next(first).id] == ["a[cpu-float32]", "a[cpu-float32,tiled]"]
    assert [other.id, next(second).id] == ["b[cpu-float32]", "b[cpu-float32,tiled]"]


def test_on_one_machine_executions_are_grouped_by_what_a_worker_shares():
    """All bases come first: the checkpoint stays as it is loaded."""
    ids = taken(CaseQueue(interleaved([family("a"), family("b")])))
    assert [name.endswith("tiled]") for name in ids] == [False, False, True, True]


def test_a_slot_takes_only_what_it_accepts():
    """Cases for two kinds of nodes share everything else; no slot gets one of the other kind."""
    cases = [
        builders.case(name=f"{kind}{index}", node=NodeNeeds(kind))
        for index in range(3)
        for kind in ("A100", "H100")
    ]
    queue = CaseQueue(cases, keep_together=True)

    def on_h100(case: Case) -> bool:
        return case.scenario.node.accelerator == "H100"

    assert queue.has(on_h100)
    assert taken(queue, on_h100) == [f"H100{i}[cpu-float32]" for i in range(3)]
    assert not queue.has(on_h100)
    assert taken(queue) == [f"A100{i}[cpu-float32]" for i in range(3)]
    assert not queue.has(everything)
