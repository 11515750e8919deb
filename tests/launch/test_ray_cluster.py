"""A run on a real Ray cluster of several nodes on this machine: placement, losses, interruptions.

`test_contract.py` has what Ray owes a session like every other launcher.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import builders
import pytest
from clusters import NEEDS_RAY, Fleet, fleet
from marked import MARK, alive, until

from harness.errors import UsageError
from harness.launch.launcher import Jobs, WorkerSpec
from harness.records import ContractState, Outcome, Verdict
from harness.scenario.reading import read_all
from harness.session import Session
from harness.store.baselines import Store
from harness.store.recording import Recording
from harness.store.run_folder import read_results
from harness.worker.protocol import VARIABLES

pytestmark = NEEDS_RAY
TYPES = ("A100", "H100", "H100")  # of the nodes, in their order
NODES = [
    {
        "num_cpus": 1,
        "resources": {f"accelerator_type:{name}": 1},
        "labels": {"pool": "night" if index else "day"},
    }
    for index, name in enumerate(TYPES)
]
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    CLIENT_PORT = free.getsockname()[1]
VARIANT = "{tiled: {enable: channels_last, contract: {rel_l2: 1.0e-3, local_rel_l2: 1.0e-3}}}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Fleet]:
    """Run a cluster with a server for `ray://`."""
    with fleet(NODES, ray_client_server_port=CLIENT_PORT) as running:
        yield running


def write(folder: Path, name: str, **changes: str) -> None:
    """Write `scenarios/NAME.yaml`: the smallest scenario with changes to its keys."""
    path = folder / "scenarios" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(builders.scenario_text(**changes), encoding="utf-8")


def on_accelerators(folder: Path, count: int) -> None:
    """Write scenarios for both types of accelerator in turn, each with noise of its own."""
    for index in range(count):
        accelerator = "AH"[index % 2] + "100"
        write(folder, f"s{index:02}", seed=str(index), node=f"{{accelerator: {accelerator}}}")


def harness(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """Start `harness run ARGUMENTS` in a folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "harness", "run", *arguments],
        cwd=folder,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def requests_of(out: Path) -> list[dict[str, str]]:
    """Return what the launcher noted of each request."""
    lines = (out / "logs" / "fleet.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_a_worker_on_a_node_gets_the_variables_of_this_machine(monkeypatch: pytest.MonkeyPatch):
    """All that decide bits: those that are missing here are taken away there; a case's own win."""
    from harness.launch.ray_cluster import _as_here

    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    settings = _as_here(WorkerSpec({"MKL_CBWR": "COMPATIBLE"})).settings
    expected = {"OMP_NUM_THREADS": "7", "MKL_CBWR": "COMPATIBLE"}
    assert settings == {name: expected.get(name) for name in VARIABLES}


def test_an_address_without_a_cluster_is_refused_and_the_error_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
):
    """The command ends with exit code 2; nothing is started in its place."""
    from harness.launch.ray_cluster import RayLauncher

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    for address in ("ray", "ray://127.0.0.1:1"):
        expected = rf"no Ray cluster at `{address}`: .*refused\n  do: check the address"
        with pytest.raises(UsageError, match=expected):
            RayLauncher(address)


@pytest.mark.slow
def test_cases_go_where_their_accelerator_and_labels_are_and_keep_their_bits(
    cluster: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One whose accelerator no node has is unverified; a variant runs where its base ran."""
    monkeypatch.chdir(tmp_path)
    on_accelerators(tmp_path, 6)
    write(tmp_path, "night", node="{labels: {pool: night}}", variants=VARIANT)
    write(tmp_path, "nowhere", node="{accelerator: B200}")
    done = harness(tmp_path, "--on", "ray", "--out", "runs/ray")
    printed, errors = done.communicate(timeout=500)
    assert done.returncode == 1, printed + errors  # there are no baselines
    from harness.launch.ray_cluster import RayLauncher

    launcher = RayLauncher("ray")
    nodes = {node.name: node for node in launcher.nodes()}
    launcher.close()
    ran = {each["case"]: nodes[each["node"]] for each in requests_of(tmp_path / "runs/ray")}
    for index in range(6):
        (accelerator,) = ran[f"s{index:02}[cpu-float32]"].accelerators
        assert accelerator == "AH"[index % 2] + "100"
    base, variant = (ran[f"night[cpu-float32{name}]"] for name in ("", ",tiled"))
    assert base is variant
    assert base.labels["pool"] == "night"
    outcomes = {each.case: each for each in read_results(tmp_path / "runs/ray").outcomes}
    assert outcomes["nowhere[cpu-float32]"].verdict is Verdict.UNVERIFIED
    assert "accelerator type B200" in outcomes["nowhere[cpu-float32]"].message
    held = outcomes["night[cpu-float32,tiled]"].contract
    assert held is not None
    assert held.state is ContractState.HOLDS
    here = harness(tmp_path, "--out", "runs/here", "-k", "not nowhere")
    here.communicate(timeout=500)
    assert_same_bits(
        tmp_path / "runs/ray", tmp_path / "runs/here", 9
    )  # with the teacher-forced run


@pytest.mark.slow
def test_a_client_outside_the_cluster_gets_the_same_bits(cluster: Fleet, tmp_path: Path):
    """`ray://` is another way in: nothing but gRPC leads to the cluster."""
    on_accelerators(tmp_path, 2)

    for out, address in (("runs/ray", [f"--on=ray://127.0.0.1:{CLIENT_PORT}"]), ("runs/here", [])):
        done = harness(tmp_path, *address, "--out", out)
        printed, errors = done.communicate(timeout=500)
        assert done.returncode == 1, printed + errors
    assert_same_bits(tmp_path / "runs/ray", tmp_path / "runs/here", 2)


def assert_same_bits(one: Path, other: Path, count: int) -> None:
    """Hold the recordings of two runs against each other: outputs, stages, noise and class."""
    found = [
        {
            str(file.parent.relative_to(run)): (
                Recording.read(file.parent).outputs,
                Recording.read(file.parent).stages,
                Recording.read(file.parent).noise,
                Recording.read(file.parent).numerics_class,
            )
            for file in run.glob("recordings/*/*/recording.json")
        }
        for run in (one, other)
    ]
    assert len(found[0]) == count
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_killed_node_costs_no_result_and_its_cases_run_elsewhere(tmp_path: Path):
    """Every case has one outcome with the bits of a run here, whichever node it was on."""
    on_accelerators(tmp_path, 16)
    cases = [case for each in read_all([tmp_path / "scenarios"]) for case in each.cases()]
    outcomes: list[Outcome] = []
    from harness.launch.ray_cluster import RayLauncher

    with fleet(NODES) as doomed:

        def count(outcome: Outcome) -> None:
            outcomes.append(outcome)
            if len(outcomes) == 4:
                doomed.kill(2)

        launcher = RayLauncher("ray")
        with Session(Store(tmp_path / "b"), tmp_path / "runs/ray", launcher=launcher) as session:
            session.run_all(cases, Jobs.AUTO, count)
    assert Counter(outcome.case for outcome in outcomes) == Counter(case.id for case in cases)
    assert {outcome.verdict for outcome in outcomes} == {Verdict.MISSING}
    with Session(Store(tmp_path / "b"), tmp_path / "runs/here") as session:
        session.run_all(cases, 1, lambda _outcome: None)
    assert_same_bits(tmp_path / "runs/ray", tmp_path / "runs/here", 16)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_or_killed_driver_leaves_nothing_running(
    number: signal.Signals, cluster: Fleet, tmp_path: Path
):
    """The workers on the nodes end with it, and what had finished is kept after Ctrl-C."""
    write(tmp_path, "long", call="{num_inference_steps: 1000, output_type: np}")
    mark = str(tmp_path)
    trusted = {"PYTHONHASHSEED": "0", MARK: mark}
    done = harness(tmp_path, "--on", "ray", "--out", "run", **trusted)
    log = tmp_path / "run" / "recordings"
    assert until(lambda: workers() or done.poll() is not None, 120), done.communicate()
    assert done.poll() is None, done.communicate()
    assert not log.exists() or not list(log.glob("*/*/recording.json"))
    done.send_signal(number)
    done.communicate(timeout=60)
    assert done.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert until(lambda: not workers(), 60), workers()
    assert until(lambda: not alive(mark), 60), alive(mark)


def workers() -> list[str]:
    """Return the workers that actors of Ray started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            variables = (folder / "environ").read_bytes()
        except OSError:  # it has ended
            continue
        if b"harness.worker" in command and b"RAY_JOB_ID=" in variables:
            found.append(folder.name)
    return found
