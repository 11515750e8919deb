"""The price of determinism: two settings of one case in turn, ratios per turn, and the table that `harness cost` prints."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import builders
import pytest

from harness.errors import NotRecordedError
from harness.report import wording as rows
from harness.scenario.model import Case
from harness.study.overhead import PAIRS, prices

PAIR = "full / default, 1 thread"


class Played:
    """A session whose cases take the seconds that it is given, and note under which settings they ran."""

    def __init__(self, out: Path, seconds: list[float], digests: str = "") -> None:
        self.out, self._seconds, self._digests = out, iter(seconds), iter(digests)
        self.ran: list[tuple[Any, ...]] = []

    def record(self, case: Case, slot: object, _: Path) -> Any:
        scenario = case.scenario
        self.ran.append(
            (
                scenario.determinism,
                scenario.profile,
                dict(case.knobs),
                scenario.cost["rounds"],
                slot,
            )
        )
        if scenario.name == "broken":
            raise NotRecordedError("no such file", "error", "")
        outputs = {"image": {"digest": next(self._digests, "d")}}
        return SimpleNamespace(content={"cost": {"seconds": next(self._seconds)}}, outputs=outputs)


def measured(session: Any, *names: str, pair: str = PAIR, turns: int = 3) -> Any:
    """Return the prices and the misses of scenarios of these names."""
    cases = [Case(builders.scenario(name=name), "cpu", "float32") for name in names]
    return prices(session, cases, [pair], turns=turns, rounds=2, on_step=lambda case, pair: None)


def test_a_ratio_is_taken_per_turn_and_the_first_turn_is_not_counted(tmp_path: Path):
    """A machine that is ten times as slow in one turn changes the seconds and not the ratio."""
    session = Played(tmp_path, [99.0, 1.0, 2.0, 1.0, 30.0, 10.0, 2.0, 2.0])
    (found,), missed = measured(session, "digits")
    assert (found.seconds, found.against, found.ratio, found.least, found.most) == (
        2.0,
        2.0,
        2.0,
        1.0,
        3.0,
    )
    assert (found.case, found.pair, found.same_bits, missed) == (
        "digits[cpu-float32]",
        PAIR,
        True,
        {},
    )


def test_both_settings_run_in_turn_on_a_worker_of_their_own(tmp_path: Path):
    """One round more than asked for, because a worker's first counts apart."""
    session = Played(tmp_path, [1.0] * 8)
    measured(session, "digits")
    one, other = (
        ("full", "native", {}, 3),
        ("default", "native", {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}, 3),
    )
    assert [ran[:4] for ran in session.ran] == [one, other] * 4
    assert len({id(ran[4]) for ran in session.ran}) == 2


def test_other_bits_are_told(tmp_path: Path):
    """Whether a price buys the same outputs."""
    assert not measured(Played(tmp_path, [1.0] * 8, "dddddddx"), "digits")[0][0].same_bits


def test_a_case_that_cannot_run_is_named_and_the_others_are_measured(tmp_path: Path):
    """Its reason stands where its figures would."""
    found, missed = measured(Played(tmp_path, [1.0] * 8), "broken", "digits")
    assert ([each.case for each in found], missed) == (
        ["digits[cpu-float32]"],
        {"broken[cpu-float32]": "no such file"},
    )


def test_the_profiles_are_compared_with_the_same_code(tmp_path: Path):
    """Both deterministic; only the CPU instructions differ."""
    session = Played(tmp_path, [1.0] * 8)
    measured(session, "digits", pair="portable / native")
    assert {ran[:3] for ran in [(r[0], r[1], str(r[2])) for r in session.ran]} == {
        ("full", "portable", "{}"),
        ("full", "native", "{}"),
    }


def test_the_command_prints_a_table_and_keeps_its_figures(shop):
    """Real workers under both settings; what cannot run here is named below the table."""
    path = shop.scenario("x", cases="{device: [cpu]}")
    done = shop.harness(
        "cost", str(path), "--pair", PAIR, "--turns", "1", "--rounds", "1", "--out", "out"
    )
    assert done.code == 0, done.err
    (figures,) = json.loads((shop.root / "out" / "cost.json").read_text(encoding="utf-8"))["prices"]
    assert done.out.splitlines()[0].split() == [
        "case",
        "settings",
        "seconds",
        "against",
        "ratio",
        "spread",
        "bits",
    ]
    assert f"x{figures['ratio']:.2f}" in done.out
    assert figures["ratio"] == pytest.approx(figures["seconds"] / figures["against"])


def test_the_report_of_a_run_shows_the_prices_measured_beside_it(shop):
    """On the terminal and as Markdown; a run without prices says nothing of them."""
    path = shop.recorded()
    assert shop.harness("run", str(path), "--out", "out").code == 0
    assert "full / default" not in shop.harness("report", "out").out
    shop.harness("cost", str(path), "--pair", PAIR, "--turns", "1", "--rounds", "1", "--out", "out")
    (figures,) = json.loads((shop.root / "out" / "cost.json").read_text(encoding="utf-8"))["prices"]
    assert f"x{figures['ratio']:.2f}" in shop.harness("report", "out").out
    told = shop.harness("report", "out", "--markdown").out
    assert f"## The price of determinism\n\n| {' | '.join(rows.PRICE_HEADINGS)} |" in told
    assert f"| digits[cpu-float32] | {PAIR} |" in told


@pytest.mark.parametrize("turns", ["0", "-1"])
def test_no_turns_are_refused(shop, turns: str):
    """There would be no ratio."""
    done = shop.harness("cost", "scenarios", f"--turns={turns}")
    assert done.code == 2
    assert f"expected a whole number >= 1, found {turns}" in done.err


def test_an_unknown_pair_is_refused_with_those_that_there_are(shop):
    """Nothing runs."""
    shop.scenario("x")
    done = shop.harness("cost", "scenarios", "--pair", "fast / slow")
    assert (done.code, done.err.count("`")) == (2, 2 * len(PAIRS) + 2)
