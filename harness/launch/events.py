"""A worker's events, read from its lines: anything else is that worker's error."""

from __future__ import annotations

from dataclasses import dataclass

from harness.scenario.saved_pipeline import SavedPipeline
from harness.store.recording import Environment
from harness.store.typed_json import MalformedError, decode, parse_json
from harness.worker import protocol


@dataclass(frozen=True)
class Ready:
    """The worker has started and waits for requests."""

    event: str


@dataclass(frozen=True)
class Progress:
    """The worker says what it is doing."""

    event: str
    case: str
    doing: str


@dataclass(frozen=True)
class Recorded:
    """The recording's folder is complete."""

    event: str


@dataclass(frozen=True)
class Described:
    """The environment and the numerics class of the worker's process."""

    event: str
    environment: Environment


@dataclass(frozen=True)
class Outlined:
    """What a saved pipeline consists of, and what its call takes."""

    event: str
    outline: SavedPipeline


@dataclass(frozen=True)
class Checked:
    """Files of the code that the worker has loaded, and that are others now."""

    event: str
    changed: tuple[str, ...]


@dataclass(frozen=True)
class Unverified:
    """The case cannot run here."""

    event: str
    reason: str


@dataclass(frozen=True)
class Failed:
    """The case failed; `traceback` is empty where the reason says it all."""

    event: str
    reason: str
    traceback: str = ""


Event = Ready | Progress | Recorded | Described | Outlined | Checked | Unverified | Failed
Final = Recorded | Described | Outlined | Checked | Unverified | Failed

_KINDS: dict[str, type[Event]] = {
    protocol.READY: Ready,
    protocol.PROGRESS: Progress,
    protocol.RECORDED: Recorded,
    protocol.DESCRIBED: Described,
    protocol.OUTLINED: Outlined,
    protocol.CHECKED: Checked,
    protocol.UNVERIFIED: Unverified,
    protocol.FAILED: Failed,
}


def parse_event(line: str) -> Event:
    """Return the event that a worker wrote as one line.

    Raises:
        MalformedError: The line is no event of the protocol.
    """
    value = parse_json(line)
    name = value.get("event") if isinstance(value, dict) else None
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise MalformedError(f"expected an event of the protocol, found {line.strip()[:80]}")
    event: Event = decode(kind, value)
    return event
