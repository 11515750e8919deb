"""The price of determinism: what a case costs under two settings, asked in turn of two live workers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

from harness.errors import NotRecordedError
from harness.scenario.model import Case
from harness.session import Session, Slot, timed
from harness.worker.protocol import dumps

PRICES_FILE = "cost.json"


class Settings(NamedTuple):
    """What a case runs under; the rest of its scenario stays."""

    determinism: str = "full"
    profile: str = "native"
    threads: str = ""

    def of(self, case: Case, rounds: int) -> Case:
        """Return `case` under these settings, timed `rounds` times."""
        scenario = replace(case.scenario, determinism=self.determinism, profile=self.profile)
        knobs = {
            name: self.threads for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if self.threads
        }
        return timed(
            replace(
                case, scenario=scenario, knobs=tuple(sorted({**dict(case.knobs), **knobs}.items()))
            ),
            rounds,
        )


# What each price is of, and against what. `full` has one thread, so the second tells the switches' part from the threads'.
PAIRS = {
    "full / default": (Settings(), Settings("default")),
    "full / default, 1 thread": (Settings(), Settings("default", threads="1")),
    "portable / native": (Settings(profile="portable"), Settings()),
}


@dataclass(frozen=True)
class Price:
    """What one pair of settings costs a case.

    `seconds` and `against` are medians of steady runs; `ratio` is the median over turns of one over the other, `least` and
    `most` its spread; `same_bits` whether every run of both gave the same outputs.
    """

    case: str
    pair: str
    seconds: float
    against: float
    ratio: float
    least: float
    most: float
    same_bits: bool


def prices(
    session: Session,
    cases: list[Case],
    pairs: list[str],
    *,
    turns: int,
    rounds: int,
    on_step: Callable[[str, str], None],
) -> tuple[list[Price], dict[str, str]]:
    """Ask two workers in turn for each case under both settings of each of `pairs`, keys of `PAIRS`.

    A machine that slows down for a while slows both sides of a turn: a turn's ratio holds where its seconds do not.

    Args:
        session: Runs the cases; its folder keeps the recordings.
        cases: Under any settings.
        pairs: What to measure.
        turns: How many ratios are taken; one more turn comes first, to warm up, and is not counted.
        rounds: Steady runs of each side per turn.
        on_step: Called with a case's id and what runs.

    Returns:
        The prices, and the reason by the case's id where a case could not run.
    """
    found, missed = [], {}
    for pair in pairs:
        slots = [Slot(session.out / "logs" / f"price-{side}.log") for side in (0, 1)]
        try:
            for case in cases:
                on_step(case.id, pair)
                try:
                    found.append(_price(session, slots, case, pair, turns, rounds))
                except NotRecordedError as error:
                    missed[case.id] = error.reason
        finally:
            for slot in slots:
                slot.end()
    return found, missed


def _price(
    session: Session, slots: list[Slot], case: Case, pair: str, turns: int, rounds: int
) -> Price:
    folder = session.out / "recordings" / case.scenario.name / case.place
    seconds: list[list[float]] = []
    bits = set()
    for _ in range(turns + 1):
        seconds.append([])
        for side, settings in enumerate(PAIRS[pair]):
            recording = session.record(
                settings.of(case, rounds + 1), slots[side], folder / str(side)
            )
            seconds[-1].append(recording.content["cost"]["seconds"])
            bits.add(tuple(sorted(output["digest"] for output in recording.outputs.values())))
    ratios = [one / other for one, other in seconds[1:]]
    mine, theirs = (median(turn[side] for turn in seconds[1:]) for side in (0, 1))
    return Price(
        case.id, pair, mine, theirs, median(ratios), min(ratios), max(ratios), len(bits) == 1
    )


def write_prices(out: Path, found: list[Price], missed: dict[str, str]) -> Path:
    """Keep prices in the folder of a run, whose report then shows them; returns the file."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / PRICES_FILE
    path.write_text(
        dumps({"prices": [asdict(each) for each in found], "missed": missed}), encoding="utf-8"
    )
    return path


def read_prices(run: Path) -> list[Price]:
    """Return the prices that were measured into the folder of a run, or none."""
    path = run / PRICES_FILE
    return (
        [Price(**each) for each in json.loads(path.read_text(encoding="utf-8"))["prices"]]
        if path.exists()
        else []
    )
