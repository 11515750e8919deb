"""The overhead of determinism: two modes of a case in turn, a ratio per turn, and the table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import builders
import pytest

from harness.errors import FileError, NotRecordedError
from harness.report.study_report import OVERHEAD_HEADINGS
from harness.scenario.model import Case
from harness.study.overhead import (
    OVERHEADS_FILE,
    PAIRS,
    Overhead,
    measure_overheads,
    read_overheads,
    write_overheads,
)

PAIR = "full / default, 1 thread"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
FOUND = Overhead("digits[cpu-float32]", PAIR, 2.0, 1.0, 2.0, 1.5, 2.5, same_bits=True)


@dataclass(frozen=True)
class Ran:
    """Under which settings a case ran, and on which worker."""

    determinism: str
    profile: str
    settings: dict[str, str | None]
    rounds: int | None
    slot: object


class Played:
    """A session whose cases take the seconds that it is given, and notes how they ran."""

    def __init__(self, out: Path, seconds: Sequence[float], digests: str = "") -> None:
        self.out = out
        self.ran: list[Ran] = []
        self._seconds = iter(seconds)
        self._digests = iter(digests)

    def record(self, case: Case, slot: object, _: Path) -> Any:
        scenario = case.scenario
        rounds = scenario.cost.rounds
        settings = dict(case.settings)
        self.ran.append(Ran(scenario.determinism, scenario.profile, settings, rounds, slot))
        if scenario.name == "broken":
            raise NotRecordedError("no such file")
        return SimpleNamespace(
            cost=SimpleNamespace(seconds=next(self._seconds)),
            output_digests={"image": next(self._digests, "d")},
        )


def measured(session: Any, *names: str, pair: str = PAIR) -> Any:
    """Return the overheads and the misses of scenarios of these names, over three turns."""
    cases = [builders.case(name=name) for name in names]
    return measure_overheads(
        session, cases, [pair], turns=3, rounds=2, on_step=lambda case, pair: None
    )


def test_a_ratio_is_taken_per_turn_and_the_first_turn_is_not_counted(tmp_path: Path):
    """A machine that is ten times as slow in one turn changes the seconds and not the ratio."""
    session = Played(tmp_path, [99.0, 1.0, 2.0, 1.0, 30.0, 10.0, 2.0, 2.0])
    (found,), missed = measured(session, "digits")
    assert found == Overhead("digits[cpu-float32]", PAIR, 2.0, 2.0, 2.0, 1.0, 3.0, same_bits=True)
    assert missed == {}


def test_both_settings_run_in_turn_on_a_worker_of_their_own(tmp_path: Path):
    """One round more than asked for, because a worker's first counts apart."""
    session = Played(tmp_path, [1.0] * 8)
    measured(session, "digits")
    slots = [session.ran[0].slot, session.ran[1].slot]
    assert slots[0] is not slots[1]
    one = Ran("full", "native", {}, 3, slots[0])
    other = Ran("default", "native", ONE_THREAD, 3, slots[1])
    assert session.ran == [one, other] * 4


@pytest.mark.parametrize(("digests", "same_bits"), [("dddddddd", True), ("dddddddx", False)])
def test_other_bits_are_told(tmp_path: Path, digests: str, same_bits: bool):
    """Whether an overhead buys the same outputs, in any turn."""
    (found,), _ = measured(Played(tmp_path, [1.0] * 8, digests), "digits")
    assert found.same_bits is same_bits


def test_a_case_that_cannot_run_is_named_and_the_others_are_measured(tmp_path: Path):
    """Its reason stands where its figures would."""
    found, missed = measured(Played(tmp_path, [1.0] * 8), "broken", "digits")
    assert [overhead.case for overhead in found] == ["digits[cpu-float32]"]
    assert missed == {"broken[cpu-float32]": "no such file"}


def test_the_profiles_are_compared_with_the_same_code(tmp_path: Path):
    """Both deterministic; only the CPU instructions differ."""
    session = Played(tmp_path, [1.0] * 8)
    measured(session, "digits", pair="portable / native")
    modes = [(ran.determinism, ran.profile, ran.settings) for ran in session.ran[:2]]
    assert modes == [("full", "portable", {}), ("full", "native", {})]


def test_what_is_written_into_a_run_is_read_back(tmp_path: Path):
    """A run into which nothing was measured has none."""
    assert read_overheads(tmp_path) == []
    path = write_overheads(tmp_path / "new", [FOUND], {"x[cpu-float32]": "no such file"})
    assert read_overheads(path.parent) == [FOUND]
    assert json.loads(path.read_text(encoding="utf-8"))["missed"] == {
        "x[cpu-float32]": "no such file"
    }


@pytest.mark.parametrize("text", ["", "[]", '{"prices": [], "missed": {}}'])
def test_a_damaged_file_of_overheads_is_refused(tmp_path: Path, text: str):
    """The error names the file, for whoever asked for the report of the run."""
    (tmp_path / OVERHEADS_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(FileError, match=OVERHEADS_FILE):
        read_overheads(tmp_path)


def measured_by_command(shop: Any, path: Path) -> dict[str, Any]:
    """Run `harness cost` for one pair, and return the figures that it keeps."""
    options = ("--pair", PAIR, "--turns", "1", "--rounds", "1", "--out", "out")
    done = shop.harness("cost", str(path), *options)
    assert done.code == 0, done.err
    kept = json.loads((shop.root / "out" / OVERHEADS_FILE).read_text(encoding="utf-8"))
    (figures,) = kept["overheads"]
    assert done.out.splitlines()[0].split() == list(OVERHEAD_HEADINGS)
    assert f"x{figures['ratio']:.2f}" in done.out
    return figures


def test_the_command_prints_a_table_and_keeps_its_figures(shop):
    """Real workers under both settings."""
    figures = measured_by_command(shop, shop.scenario("x", cases="{device: [cpu]}"))
    assert figures["ratio"] == pytest.approx(figures["seconds"] / figures["against"])


def test_the_report_of_a_run_shows_the_overheads_measured_beside_it(shop):
    """On the terminal and as Markdown; a run without overheads says nothing of them."""
    path = shop.recorded()
    assert shop.harness("run", str(path), "--out", "out").code == 0
    assert "full / default" not in shop.harness("report", "out").out
    figures = measured_by_command(shop, path)
    assert f"x{figures['ratio']:.2f}" in shop.harness("report", "out").out
    told = shop.harness("report", "out", "--markdown").out
    assert f"| {' | '.join(OVERHEAD_HEADINGS)} |" in told
    assert f" | {PAIR} | " in told


@pytest.mark.parametrize("turns", ["0", "-1"])
def test_no_turns_are_refused(shop, turns: str):
    """There would be no ratio."""
    done = shop.harness("cost", "scenarios", f"--turns={turns}")
    assert done.code == 2
    assert "expected a whole number >= 1, found" in done.err


def test_an_unknown_pair_is_refused_with_those_that_there_are(shop):
    """Nothing runs."""
    shop.scenario("x")
    done = shop.harness("cost", "scenarios", "--pair", "fast / slow")
    assert done.code == 2
    assert "found `fast / slow`" in done.err
    assert all(f"`{pair}`" in done.err for pair in PAIRS)
