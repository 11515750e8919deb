"""What a case needs of a node in a fleet, and how many workers the nodes have room for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.records import Device
from harness.scenario.model import Case

CPU, GPU, NPU = "CPU", "GPU", "NPU"  # Ray's names of what every node counts
ACCELERATOR_LABEL = "ray.io/accelerator-type"
ACCELERATOR_RESOURCE = "accelerator_type:"  # followed by the type
DEVICE_OF = {Device.CUDA: GPU, Device.ASCEND: NPU}
# What a worker takes of the resource that stands for a type of accelerator: a node has one of it.
SHARE = 0.001


@dataclass(frozen=True)
class Need:
    """What a worker needs of a node.

    Attributes:
        amounts: How much it takes of each resource, by name.
        accelerator: The type of accelerator; empty for any.
        labels: Labels that the node must have.
    """

    amounts: tuple[tuple[str, float], ...] = ((CPU, 1.0),)
    accelerator: str = ""
    labels: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        words = [f"{name} {amount:g}" for name, amount in self.amounts]
        words += [f"accelerator type {self.accelerator}"] if self.accelerator else []
        words += [f"label {name}={value}" for name, value in self.labels]
        return ", ".join(words)


@dataclass(frozen=True)
class Node:
    """A live node of a fleet: its name, the whole of its resources, and its labels."""

    name: str
    resources: Mapping[str, float]
    labels: Mapping[str, str]

    @property
    def accelerators(self) -> frozenset[str]:
        """The types of accelerators that it has, by its resources or its label."""
        found = {
            name.removeprefix(ACCELERATOR_RESOURCE)
            for name in self.resources
            if name.startswith(ACCELERATOR_RESOURCE)
        }
        return frozenset(found | {self.labels.get(ACCELERATOR_LABEL, "")} - {""})

    def room_for(self, need: Need) -> int:
        """Return how many workers with this need fit the node while it does nothing else."""
        if need.accelerator and need.accelerator not in self.accelerators:
            return 0
        if any(self.labels.get(name) != value for name, value in need.labels):
            return 0
        return int(
            min(
                (self.resources.get(name, 0.0) / amount for name, amount in need.amounts),
                default=0.0,
            )
        )


def need_of(case: Case) -> Need:
    """Return what a case's worker needs: one CPU, one of its device, and what its scenario asks."""
    asked = case.scenario.node
    amounts = {CPU: 1.0}
    if case.target.device in DEVICE_OF:
        amounts[DEVICE_OF[case.target.device]] = 1.0
    amounts |= dict(asked.resources)
    return Need(tuple(sorted(amounts.items())), asked.accelerator, asked.labels)
