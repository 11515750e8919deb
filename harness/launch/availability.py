"""Says whether a case can run on this machine, as far as can be told without a framework."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.records import Device
from harness.scenario.fields import Framework
from harness.scenario.model import Case, Scenario
from harness.scenario.weights import Checkpoint, CheckpointKind


@dataclass(frozen=True)
class Availability:
    """Whether a case can run here: `certain` is false where only a run can tell."""

    can_run: bool
    reason: str = ""
    certain: bool = True

    def __str__(self) -> str:
        if not self.can_run:
            return f"no: {self.reason}"
        return "yes" if self.certain else self.reason


DRIVER_GPUS = Path("/proc/driver/nvidia/gpus")  # one folder per GPU of the machine

YES = Availability(can_run=True)


def availability(case: Case) -> Availability:
    """Return whether a case can run on this machine."""
    framework = case.scenario.framework
    missing = missing_environment(framework)
    if missing:
        return _no(missing)
    return _worst([_of_device(case.target.device), *_of_weights(case.scenario)])


def _of_device(device: Device) -> Availability:
    """Return whether a device is here: on Windows, the driver's library says no more than `may`."""
    if device is Device.ASCEND and not any(Path("/dev").glob("davinci*")):
        return _no("no Ascend device")
    if device is Device.CUDA and not Path("/dev/nvidiactl").exists():
        if sys.platform == "win32" and _driver_of_windows().exists():
            return Availability(can_run=True, reason="if torch finds a GPU", certain=False)
        return _no("no CUDA device")
    return YES


def _driver_of_windows() -> Path:
    return Path(os.environ.get("SYSTEMROOT", "C:\\Windows")) / "System32" / "nvcuda.dll"


def visible_gpus() -> list[str]:
    """Return the GPUs that a worker could see, as `CUDA_VISIBLE_DEVICES` names them.

    They are those that this variable names already, or else all that Linux's driver lists.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        found = [name.strip() for name in named.split(",") if name.strip()]
        return found[: found.index("-1")] if "-1" in found else found  # as CUDA reads it
    return [str(index) for index, _ in enumerate(DRIVER_GPUS.glob("*"))]


def usable_processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def missing_environment(framework: Framework) -> str:
    """Return why a framework with an environment of its own cannot run: nobody has made it here.

    The reason is empty where it is there. It is large, and so is never made unasked.
    """
    if framework is not Framework.MINDSPORE:
        return ""
    from harness.launch import sandbox  # it is heavy, and few scenarios need it

    if sandbox.is_made(sandbox.PINS[framework]):
        return ""
    return f"no environment with {framework} here; make it with: harness env --make {framework}"


def _of_weights(scenario: Scenario) -> Iterator[Availability]:
    """Yield what holds for the checkpoint, each component and each adapter."""
    yield _of_checkpoint(scenario.checkpoint)
    for parts in scenario.components.values():
        yield from (_of_checkpoint(part.source) for part in parts)
    yield from (_of_adapter(adapter.source) for adapter in scenario.adapters)


def _worst(found: Sequence[Availability]) -> Availability:
    missing = (one for one in found if not one.can_run)
    uncertain = (one for one in found if not one.certain)
    return next(missing, None) or next(uncertain, YES)


def _of_adapter(source: Checkpoint) -> Availability:
    if source.kind is CheckpointKind.PATH and not Path(source.folder).exists():
        return _no(f"no file {source.folder}")
    return YES if source.kind is CheckpointKind.PATH else _of_checkpoint(source)


def _of_checkpoint(checkpoint: Checkpoint) -> Availability:
    if checkpoint.kind is CheckpointKind.ENDPOINT and not os.environ.get(checkpoint.name):
        return _no(f"the environment variable {checkpoint.name} names no server")
    if checkpoint.kind is CheckpointKind.PATH and not Path(checkpoint.folder).is_dir():
        return _no(f"no folder {checkpoint.folder}")
    if checkpoint.kind is CheckpointKind.HUB and not _is_cached(checkpoint.repository):
        return Availability(can_run=True, reason="if the Hub gives its weights", certain=False)
    return YES


def _is_cached(repository: str) -> bool:
    """Whether the Hub's client has a snapshot of a repository in its cache."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    return (cache / f"models--{repository.replace('/', '--')}" / "snapshots").is_dir()


def _no(reason: str) -> Availability:
    return Availability(can_run=False, reason=reason)
