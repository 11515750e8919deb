"""Small Ray clusters for tests: several nodes on this machine, each with the resources it is given.

Importing this module does not import Ray.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

STORE_BYTES = 80 << 20  # of each node's object store: the smallest that Ray accepts is 75 MiB
NEEDS_RAY = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed (extra `ray`)"
)


@dataclass(frozen=True)
class Fleet:
    """A running cluster: its address for `ray`, and its nodes in the order they were given."""

    address: str
    cluster: Any
    nodes: list[Any]

    def kill(self, index: int) -> None:
        """Kill a node with everything that runs on it, without a word to anyone."""
        self.cluster.remove_node(self.nodes[index], allow_graceful=False)


@contextmanager
def fleet(nodes: Sequence[Mapping[str, Any]], **head: Any) -> Iterator[Fleet]:
    """Start a head that runs nothing itself, and nodes; end them all afterwards.

    Args:
        nodes: What Ray's `Cluster.add_node` takes: `num_cpus`, `resources`, `labels`.
        head: More arguments of the head.
    """
    before = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ray.cluster_utils import Cluster

        basics = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args={**basics, **head})
    try:
        added = [
            cluster.add_node(object_store_memory=STORE_BYTES, **each, wait=False) for each in nodes
        ]
        cluster.wait_for_nodes(timeout=120)
        os.environ["RAY_ADDRESS"] = cluster.address
        yield Fleet(cluster.address, cluster, added)
    finally:
        cluster.shutdown()
        if before is None:
            os.environ.pop("RAY_ADDRESS", None)
        else:
            os.environ["RAY_ADDRESS"] = before
