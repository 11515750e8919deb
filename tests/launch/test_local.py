"""Workers of this machine: which slots there are, and which GPU each one's workers see."""

from __future__ import annotations

from pathlib import Path

import builders
import pytest

from harness.launch import availability, local
from harness.launch.availability import visible_gpus
from harness.launch.events import Described
from harness.launch.launcher import Jobs, WorkerSpec
from harness.launch.local import LocalLauncher

ASKED = {"framework": "torch", "device": "cuda", "dtype": "float32", "mode": "full"}


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pretend that the driver lists three GPUs."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(availability, "DRIVER_GPUS", tmp_path / "gpus")
    for name in ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0"):
        (tmp_path / "gpus" / name).mkdir(parents=True)
    return tmp_path / "gpus"


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (None, ["0", "1", "2"]),
        ("", []),
        ("-1", []),
        ("2, 0", ["2", "0"]),
        ("1,-1,2", ["1"]),
        ("MIG-7a,GPU-8b", ["MIG-7a", "GPU-8b"]),
    ],
)
def test_the_gpus_are_those_that_cuda_would_show(
    driver: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None, expected: list[str]
):
    """A variable that hides some of them hides them from workers too."""
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert visible_gpus() == expected


def test_auto_places_one_worker_on_each_gpu(driver: Path, pretender: Path, tmp_path: Path):
    """Each worker sees a GPU of its own, and cases on the CPU go to other slots."""
    cases = [builders.case("cuda", name=f"g{i}") for i in range(5)]
    slots = LocalLauncher().slots([*cases, builders.case()], Jobs.AUTO, lambda i: tmp_path / str(i))
    on_gpus = [slot for slot in slots if slot.accepts(cases[0])]
    seen = []
    for slot in on_gpus:
        event = slot.ask({"describe": ASKED}, WorkerSpec(), 30.0, lambda _doing: None)
        assert isinstance(event, Described)
        seen.append(event.environment.variables["CUDA_VISIBLE_DEVICES"])
        slot.end()
    assert seen == ["0", "1", "2"]
    (on_cpu,) = (slot for slot in slots if slot not in on_gpus)
    assert on_cpu.accepts(builders.case())
    assert not on_cpu.accepts(cases[0])


def test_auto_makes_no_more_slots_than_there_are_cases(
    driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Neither for GPUs nor for processors; without a GPU one slot says why cases cannot run."""
    monkeypatch.setattr(local, "usable_processors", lambda: 4)
    launcher, on_gpu, on_cpu = LocalLauncher(), builders.case("cuda"), builders.case()

    def count(*cases: object) -> int:
        return len(launcher.slots(cases, Jobs.AUTO, lambda index: tmp_path / str(index)))

    assert (count(on_gpu), count(on_gpu, on_gpu), count(on_cpu)) == (1, 2, 1)
    assert count(*[on_cpu] * 9, *[on_gpu] * 9) == 4 + 3
    for folder in driver.iterdir():
        folder.rmdir()
    assert (count(on_gpu, on_gpu), count(on_cpu)) == (1, 1)


def test_a_number_of_jobs_is_that_number_of_slots(tmp_path: Path):
    """Each accepts every case."""
    slots = LocalLauncher().slots([builders.case()], 3, lambda index: tmp_path / str(index))
    assert len(slots) == 3
    assert all(slot.accepts(case) for slot in slots for case in (builders.case("cuda"),))
