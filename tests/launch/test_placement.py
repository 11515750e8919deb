"""Which nodes a case may run on, and how many workers fit them."""

from __future__ import annotations

import builders
import pytest

from harness.launch.placement import Need, Node, need_of
from harness.scenario.model import Case, NodeNeeds

PLAIN = Node("a", {"CPU": 4.0, "memory": 1e9}, {"pool": "night"})
GPUS = Node("b", {"CPU": 8.0, "GPU": 2.0, "accelerator_type:H100": 1.0}, {})
LABELLED = Node("c", {"CPU": 8.0, "GPU": 1.0}, {"ray.io/accelerator-type": "A100"})


def case(device: str = "cpu", **needs: object) -> Case:
    return builders.case(device, node=NodeNeeds(**needs))


@pytest.mark.parametrize(
    ("asked", "room"),
    [
        (case(), (4, 8, 8)),
        (case("cuda"), (0, 2, 1)),
        (case("ascend"), (0, 0, 0)),
        (case(accelerator="H100"), (0, 8, 0)),
        (case("cuda", accelerator="A100"), (0, 0, 1)),
        (case(labels=(("pool", "night"),)), (4, 0, 0)),
        (case(labels=(("pool", "day"),)), (0, 0, 0)),
        (case("cuda", resources=(("GPU", 2.0), ("CPU", 4.0))), (0, 1, 0)),
        (case(resources=(("memory", 5e8),)), (2, 0, 0)),
        (case("endpoint"), (4, 8, 8)),
    ],
    ids=lambda value: str(need_of(value)) if isinstance(value, Case) else None,
)
def test_a_case_has_room_where_its_device_accelerator_labels_and_resources_are(
    asked: Case, room: tuple[int, ...]
):
    """One CPU for each worker, one GPU for one on CUDA; the scenario's own amounts win."""
    assert tuple(node.room_for(need_of(asked)) for node in (PLAIN, GPUS, LABELLED)) == room


def test_a_need_says_what_it_is():
    """It is what a person reads when no node has it."""
    need = need_of(case("cuda", accelerator="H100", labels=(("pool", "night"),)))
    assert str(need) == "CPU 1, GPU 1, accelerator type H100, label pool=night"
    assert str(Need()) == "CPU 1"
