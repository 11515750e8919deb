"""Workers on the nodes of a Ray cluster: the only module that knows Ray.

Each slot is an actor, which Ray places on a node by resources and labels, and which drives a worker
there through `launch.node`. Files travel through Ray's object store.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from harness.errors import (
    LaunchError,
    NotRecordedError,
    UsageError,
    WorkerLostError,
    writing,
)
from harness.launch.events import Final, Recorded
from harness.launch.launcher import Jobs, OnProgress, Request, Slot, WorkerSpec
from harness.launch.node import RECORDED_FILES, Answer, NodeFacts, NodeSlot, Refusal
from harness.launch.parcel import PACKAGE, files_for
from harness.launch.placement import (
    ACCELERATOR_LABEL,
    ACCELERATOR_RESOURCE,
    CPU,
    GPU,
    Need,
    Node,
    need_of,
)
from harness.records import Verdict
from harness.scenario.model import Case
from harness.worker.files import write_folder
from harness.worker.protocol import VARIABLES, RunRequest

LOCAL, OWN_MEANS = "ray-local", "ray"  # beside `ray://HOST:PORT`
PLACED_SECONDS = 600.0  # for Ray to start an actor where there is room for it
LOOK_SECONDS = 0.5  # how often a wait looks whether it is still wanted
NEWS_SECONDS = 2.0  # how long a node holds back an empty answer
ANSWER_SECONDS = 120.0  # for a node to answer at all: beyond that it counts as lost
TRANSFER_SECONDS = 3600.0  # for the files of one recording
REACH_SECONDS = 20.0  # for an address to answer at all
CLOSE_SECONDS = 10.0  # for a slot to end its worker and remove its files
MOST_KEPT = 64  # files that stay in the object store to be sent to other slots
PLACEMENT_LOG = "fleet.jsonl"

# An actor that Ray ends kills its children first. A worker's guardian must outlive it, because the
# guardian alone knows what the worker has started.
GUARDIANS_LIVE = "RAY_kill_child_processes_on_worker_exit"


class RayLauncher:
    """Starts workers on the nodes of a Ray cluster, to which it is connected while it lives.

    Args:
        address: `ray://HOST:PORT`; `ray` for the cluster that Ray finds by its own means; or
            `ray-local` for one on this machine that ends with the launcher.

    Raises:
        UsageError: Ray is not installed, or there is no such cluster.
    """

    is_one_machine = False

    def __init__(self, address: str) -> None:
        self._ray = _ray()
        _connect(self._ray, address)
        self._slots: list[RaySlot] = []
        self._kept: OrderedDict[tuple[str, int, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    def slot(self, log: Path) -> Slot:
        """Return a slot on any node that has a CPU."""
        return self._made(Need(), log, None)

    def slots(self, cases: Sequence[Case], jobs: int, logs: Callable[[int], Path]) -> list[Slot]:
        """Return slots for each kind of node that the cases need, as many as there is room for."""
        families: dict[Need, set[tuple[str, str]]] = {}
        for case in cases:  # all executions of a scenario on one target follow each other
            key = (case.scenario.name, str(case.target))
            families.setdefault(need_of(case), set()).add(key)
        nodes = self.nodes()
        tokens = threading.Semaphore(jobs) if jobs != Jobs.AUTO else None
        found: list[Slot] = []
        for need, wanted in sorted(families.items(), key=lambda item: str(item[0])):
            room = sum(node.room_for(need) for node in nodes)
            if not room:
                found.append(RefusingSlot(need, _nowhere(need, nodes)))
                continue
            count = min(room, len(wanted), jobs if jobs != Jobs.AUTO else room)
            found += [self._made(need, logs(len(found) + i), tokens) for i in range(count)]
        return found

    def notes(self) -> list[str]:
        """Return nothing: where each case ran is in its recording."""
        return []

    def close(self) -> None:
        """End every actor and leave the cluster; one that was started here ends too."""
        for slot in self._slots:
            slot.end()
        for slot in self._slots:
            slot.wait_until_idle(CLOSE_SECONDS)
        self._ray.shutdown()

    def nodes(self) -> list[Node]:
        """Return the live nodes of the cluster."""
        return [
            Node(
                _name(each["NodeManagerAddress"], each["NodeID"]),
                each["Resources"],
                each.get("Labels") or {},
            )
            for each in self._ray.nodes()
            if each["Alive"]
        ]

    def actor(self, need: Need) -> Any:
        """Ask Ray for an actor, which it starts where there is room; return at once."""
        made = self._ray.remote(PlacedSlot)
        return made.options(**self._options(need)).remote(str(PACKAGE))

    def reference(self, path: Path) -> tuple[tuple[str, int, int], Any]:
        """Return a file as it is now: what names its content, and where the object store has it."""
        status = path.stat()
        key = (str(path), status.st_size, status.st_mtime_ns)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = self._ray.put(path.read_bytes())
                if len(self._kept) > MOST_KEPT:
                    self._kept.popitem(last=False)
            return key, self._kept[key]

    def note(self, log: Path, facts: Mapping[str, object]) -> None:
        """Add a line to the list of what ran where, beside the workers' logs."""
        path = log.with_name(PLACEMENT_LOG)
        with self._lock, writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(facts) + "\n")

    @property
    def ray(self) -> Any:
        """Ray's own module."""
        return self._ray

    def _made(self, need: Need, log: Path, tokens: threading.Semaphore | None) -> RaySlot:
        slot = RaySlot(self, need, log, tokens)
        self._slots.append(slot)
        return slot

    def _options(self, need: Need) -> dict[str, object]:
        """Return what Ray is told of an actor."""
        amounts = dict(need.amounts)
        options: dict[str, object] = {
            "num_cpus": amounts.pop(CPU, 0.0),
            "num_gpus": amounts.pop(GPU, 0.0),
            "max_restarts": 0,  # the session runs the whole case again, wherever there is room
        }
        if "memory" in amounts:  # it is an option of its own, in bytes
            options["memory"] = amounts.pop("memory")
        labels = dict(need.labels)
        if need.accelerator:
            resource = ACCELERATOR_RESOURCE + need.accelerator
            if any(resource in node.resources for node in self.nodes()):
                options["accelerator_type"] = need.accelerator
            else:
                labels[ACCELERATOR_LABEL] = need.accelerator
        if labels:
            options["label_selector"] = labels
        if amounts:
            options["resources"] = amounts
        return options


class RaySlot:
    """An actor on a node with what a need asks for, while the slot is open.

    Args:
        launcher: The cluster.
        need: What its workers need of a node.
        log: The file that receives what its workers' libraries print.
        tokens: Bounds how many slots are open at once; None for no bound.
    """

    def __init__(
        self, launcher: RayLauncher, need: Need, log: Path, tokens: threading.Semaphore | None
    ) -> None:
        self._launcher = launcher
        self._ray = launcher.ray
        self._need = need
        self._log = log
        self._tokens = tokens
        self._has_token = False
        self._actor: Any = None
        self._facts: Any = None  # the answer to come of an actor that starts
        self._node = ""
        self._sent: set[tuple[str, int, int]] = set()
        self._lock = threading.Lock()
        self._in_use = threading.Lock()
        self._ended = False

    def accepts(self, case: Case) -> bool:
        """Whether a case needs just what this slot's node has."""
        return need_of(case) == self._need

    def open(self, is_wanted: Callable[[], bool]) -> bool:
        """Wait until Ray has started an actor; see `Slot`."""
        while not self._may_start():
            if not is_wanted():
                return False
        with self._in_use:
            self._start()
            while is_wanted():
                if self._has_started(LOOK_SECONDS):
                    return True
        return False

    def ask(
        self, request: Request, spec: WorkerSpec, timeout: float, on_progress: OnProgress
    ) -> Final:
        """Send a request to a worker on the node, and return its final event; see `Slot`."""
        started, ending = time.time(), "not placed"
        with self._in_use:
            try:
                self._wait_until_placed(on_progress)
                started, ending = time.time(), "lost"
                answer = self._answer(request, _as_here(spec), timeout, on_progress)
                ending = "refused" if answer.final is None else answer.final.event
                self._keep_log(answer.log)
                return self._final(answer, request)
            except self._ray.exceptions.RayTaskError as error:  # its disk is full, for example
                raise LaunchError(f"{self._node} failed: {_last_line(error)}") from error
            except (self._ray.exceptions.RayError, ConnectionError, TimeoutError) as error:
                raise self._lost(error) from error
            finally:
                self._launcher.note(self._log, self._noted(request, started, ending))

    def give_back(self) -> None:
        """End the actor, so that Ray can place others on its node."""
        actor = self._actor
        if actor is not None and not self._ended and self._node:
            with contextlib.suppress(self._ray.exceptions.RayError, ConnectionError, TimeoutError):
                self._ray.get(actor.close.remote(), timeout=CLOSE_SECONDS)
        self._drop()
        if self._tokens is not None and self._has_token:
            self._has_token = False
            self._tokens.release()

    def end(self) -> None:
        """Kill the actor: its worker's guardian then ends all that the worker started."""
        with self._lock:
            self._ended = True
        self._drop()

    def wait_until_idle(self, seconds: float) -> None:
        """Wait until no thread talks to the node any longer, but no longer than this."""
        if self._in_use.acquire(timeout=seconds):
            self._in_use.release()

    # The actor.

    def _may_start(self) -> bool:
        """Wait for leave to hold an actor, for a short time."""
        if self._tokens is None or self._has_token:
            return True
        self._has_token = self._tokens.acquire(timeout=LOOK_SECONDS)
        return self._has_token

    def _start(self) -> None:
        with self._lock:
            if self._ended:
                raise LaunchError("the run is over")
            if self._actor is None:
                self._actor = self._launcher.actor(self._need)
                self._facts = self._actor.facts.remote()
                self._sent, self._node = set(), ""

    def _has_started(self, seconds: float) -> bool:
        """Whether the actor runs, or failed to start, which `ask` then says."""
        ready, _ = self._ray.wait([self._facts], timeout=seconds)
        return bool(ready)

    def _wait_until_placed(self, on_progress: OnProgress) -> None:
        """Start an actor where there is none, and wait until it runs.

        An actor that is lost before it has answered took no case with it: another one is started.

        Raises:
            NotRecordedError: No live node has what it needs, or none had room for long.
            LaunchError: The harness does not start on a node.
        """
        deadline = time.monotonic() + PLACED_SECONDS
        self._start()
        while not self._node:
            if self._has_started(LOOK_SECONDS):
                self._node = self._started_on()
                if not self._node:  # Ray may place some on a dead node before it notices
                    time.sleep(LOOK_SECONDS)
                    self._start()
                continue
            on_progress(f"waits for a node with {self._need}")
            self._refuse_without_nodes()
            if time.monotonic() > deadline:
                self._drop()
                reason = f"no node with {self._need} had room for {PLACED_SECONDS:g} s"
                raise NotRecordedError(reason, Verdict.UNVERIFIED)

    def _refuse_without_nodes(self) -> None:
        nodes = self._launcher.nodes()
        if not any(node.room_for(self._need) for node in nodes):
            self._drop()
            raise NotRecordedError(_nowhere(self._need, nodes), Verdict.UNVERIFIED)

    def _started_on(self) -> str:
        """Return the node on which the actor has started; empty where it was lost with its node.

        Raises:
            LaunchError: The harness cannot start there.
        """
        errors = self._ray.exceptions
        try:
            facts = cast("NodeFacts", self._ray.get(self._facts, timeout=ANSWER_SECONDS))
        except (errors.RayTaskError, errors.RuntimeEnvSetupError) as error:
            self._drop()
            reason = f"the harness does not start on a node: {_last_line(error)}"
            raise LaunchError(reason) from error
        except errors.RayActorError as error:
            self._drop()
            if error.actor_init_failed:
                reason = f"the harness does not start on a node: {_last_line(error)}"
                raise LaunchError(reason) from error
            return ""
        return facts.host

    def _drop(self) -> None:
        """Kill the actor, if there is one; the next request starts another one."""
        with self._lock:
            actor, self._actor = self._actor, None
            self._node = ""
        if actor is not None:
            with contextlib.suppress(Exception):  # it, its node or the cluster may be gone
                self._ray.kill(actor)

    # The conversation.

    def _answer(
        self, request: Request, spec: WorkerSpec, timeout: float, on_progress: OnProgress
    ) -> Answer:
        actor = self._actor
        if actor is None:
            raise LaunchError("the run is over")
        if "case" in request:
            self._send_files(actor, cast("RunRequest", request))
        self._ray.get(actor.begin.remote(request, spec, timeout), timeout=ANSWER_SECONDS)
        while True:
            reference = actor.news.remote(NEWS_SECONDS)
            for news in self._ray.get(reference, timeout=NEWS_SECONDS + ANSWER_SECONDS):
                if isinstance(news, Answer):
                    return news
                on_progress(f"{news} (on {self._node})")

    def _send_files(self, actor: Any, request: RunRequest) -> None:
        for path in files_for(request):
            key, reference = self._launcher.reference(path)
            if key not in self._sent:
                self._ray.get(actor.receive.remote(key[0], reference), timeout=TRANSFER_SECONDS)
                self._sent.add(key)

    def _final(self, answer: Answer, request: Request) -> Final:
        """Return the final event, with the recording in its folder; or raise what happened."""
        if answer.refusal is not None:
            raise _error_of(answer.refusal)
        assert answer.final is not None  # noqa: S101 (one of the two is there)
        if isinstance(answer.final, Recorded):
            files = self._ray.get(self._actor.files.remote(), timeout=TRANSFER_SECONDS)
            folder = Path(cast("RunRequest", request)["out"])
            with writing(folder):
                write_folder(folder, {name: files[name] for name in RECORDED_FILES})
        return answer.final

    def _lost(self, error: Exception) -> Exception:
        """Return the error for a lost node, and forget the actor there."""
        node = self._node or "a node"
        self._drop()
        if self._ended:
            return LaunchError("the run is over")
        return WorkerLostError(f"{node} was lost ({type(error).__name__}: {_last_line(error)})")

    def _keep_log(self, content: bytes) -> None:
        if content:
            with writing(self._log):
                self._log.parent.mkdir(parents=True, exist_ok=True)
                with self._log.open("ab") as log:
                    log.write(content)

    def _noted(self, request: Request, started: float, ending: str) -> dict[str, object]:
        return {
            "case": cast("RunRequest", request)["case"]["id"] if "case" in request else "",
            "node": self._node,
            "accelerator": self._need.accelerator,
            "started": round(started, 3),
            "seconds": round(time.time() - started, 3),
            "ending": ending,
        }


class PlacedSlot(NodeSlot):
    """A slot on a node, which knows that node's name in the cluster; Ray makes an actor of it."""

    def facts(self) -> NodeFacts:
        """Return what the node says of itself, with its name as `RayLauncher.nodes` has it."""
        ray = _ray()
        here = ray.get_runtime_context().get_node_id()
        return replace(super().facts(), host=_name(ray.util.get_node_ip_address(), here))


class RefusingSlot:
    """Stands for nodes that the cluster does not have: its cases are unverified."""

    def __init__(self, need: Need, reason: str) -> None:
        self._need = need
        self._reason = reason

    def accepts(self, case: Case) -> bool:
        """Whether a case needs what no node has."""
        return need_of(case) == self._need

    def open(self, _is_wanted: Callable[[], bool]) -> bool:
        """Return at once: there is nothing to wait for."""
        return True

    def ask(self, *_: object) -> Final:
        """Refuse the case.

        Raises:
            NotRecordedError: Always; the verdict is `unverified`.
        """
        raise NotRecordedError(self._reason, Verdict.UNVERIFIED)

    def give_back(self) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""


def _ray() -> Any:
    """Return Ray's module, which must not connect to or start anything by itself.

    Raises:
        UsageError: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--on needs Ray; install it with: pip install 'diffusion-harness[ray]'")
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    return ray


def _connect(ray: Any, address: str) -> None:
    """Connect to a cluster, or start one.

    Raises:
        UsageError: It cannot be reached, or is of another version of Ray or Python.
    """
    options: dict[str, object] = {
        "log_to_driver": False,
        "logging_level": "ERROR",
        "runtime_env": {
            "py_modules": [str(PACKAGE)],
            "excludes": ["__pycache__"],
            "env_vars": {GUARDIANS_LIVE: "false"},
        },
    }
    if address == LOCAL:
        options |= {"address": "local", "include_dashboard": False}
    elif address == OWN_MEANS:
        options["address"] = "auto"
    else:
        options["address"] = address
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        _check_reachable(address)
        ray.init(**options)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm or signal.SIG_DFL)  # Ray sets one of its own
    except Exception as error:  # Ray, its client and gRPC raise errors of many types
        raise UsageError(
            f"no Ray cluster at `{address}`: {_last_line(error)}\n"
            "  do: check the address with `ray status` on a node of the cluster; this machine must "
            "have the cluster's versions of Ray and Python"
        ) from error


def _check_reachable(address: str) -> None:
    """Try to connect once: Ray itself tries for minutes where nobody listens.

    Raises:
        OSError: Nobody listens there.
    """
    place = os.environ.get("RAY_ADDRESS", "") if address == OWN_MEANS else address
    host, colon, port = place.removeprefix("ray://").partition("?")[0].rpartition(":")
    if address != LOCAL and colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()


def _name(address: str, node: str) -> str:
    """Return what a node is called: its address and the first digits of its number in Ray."""
    return f"{address}/{node[:8]}"


def _as_here(spec: WorkerSpec) -> WorkerSpec:
    """Return the kind of worker with what decides bits as it is, or is not, on this machine.

    Ray itself sets the number of threads of whatever it starts.
    """
    carried = {name: os.environ.get(name) for name in VARIABLES}
    return WorkerSpec({**carried, **spec.settings}, spec.framework, spec.env, spec.python)


def _error_of(refusal: Refusal) -> Exception:
    if refusal.has_ended:
        return WorkerLostError(refusal.reason)
    if refusal.is_launch:
        return LaunchError(refusal.reason, refusal.verdict, refusal.log)
    return NotRecordedError(refusal.reason, refusal.verdict, refusal.log)


def _nowhere(need: Need, nodes: Sequence[Node]) -> str:
    accelerators = sorted({name for node in nodes for name in node.accelerators})
    there = f"; its accelerator types: {', '.join(accelerators)}" if accelerators else ""
    return f"no node of the Ray cluster has {need} ({len(nodes)} live nodes{there})"


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
