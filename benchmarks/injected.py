"""Injects faults into random modules, and counts how often `explain` names those modules alone.

A fault changes weights by a factor of 1e-6 to 1e-3 or by one unit in the last place, or rounds
weights or results to bfloat16. One fault or a pair is injected at a time; a pair should give two
root causes. Faults that move no bit of any stage are not counted, because some modules of a
pipeline are never called.

    python benchmarks/injected.py --faults 50 --pairs 25 ddim-digits sd-digits

The faults are the same each time, for they are drawn from the scenario's name. It takes three to
six seconds a fault for small pipelines and about twice that for a pair: ten minutes a scenario.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from common import first_case, temporary_session

from harness.errors import NotRecordedError
from harness.records import Facts
from harness.scenario.model import Case
from harness.session import Session
from harness.store.recording import Recording
from harness.study.root_causes import RootCause, RootCauseSearch

COMPONENTS = {  # those that have modules, by scenario
    "ddim-digits": ["unet"],
    "ddim-cifar10-synthetic": ["unet"],
    "sd-digits": ["text_encoder", "unet", "vae"],
    "unclip-synthetic": ["prior", "decoder", "super_res_first", "super_res_last", "text_proj"],
}
MODULES = ("convolution", "linear", "norm")
CHANGES = ("one-ulp", "scale", "one", "bfloat16", "results")
MOST_CAUSES = 3  # to look for behind a pair: more than it has


class Answer(StrEnum):
    """What an explanation names of the modules into which faults were injected."""

    EXACT = "exact"  # these modules, and no other
    PART = "part"  # some of them, and no other
    WRONG = "wrong"  # another one
    SILENT = "silent"  # none: it says that it cannot tell


@dataclass(frozen=True)
class Trial:
    """One fault, or one pair: the modules that were changed, and those that were named."""

    injected: frozenset[str]
    named: frozenset[str]

    @property
    def answer(self) -> Answer:
        """How the two compare."""
        if not self.named:
            return Answer.SILENT
        if self.named == self.injected:
            return Answer.EXACT
        return Answer.PART if self.named < self.injected else Answer.WRONG


class Injection:
    """The injections into one scenario.

    Args:
        session: Runs the cases; its folder keeps the recordings.
        name: The name of the scenario, from which the faults are drawn.
    """

    def __init__(self, session: Session, name: str) -> None:
        self._session = session
        self._components = COMPONENTS[name]
        self._dice = random.Random(name)  # noqa: S311 (it chooses modules, and guards no secret)
        self._case = first_case(name)
        self._folder = session.out / "injected"
        self._base = session.record(self._case, session.slot(1), session.out / "base")

    def single_faults(self) -> Iterator[Trial | None]:
        """Yield trials of one fault each, without end; None for a fault without effect."""
        while True:
            yield self._trial(self._draw(), most_causes=1)

    def pairs(self) -> Iterator[Trial | None]:
        """Yield trials of two faults each, without end; None for a pair without effect.

        Each of the two faults has an effect by itself.
        """
        while True:
            self._draw()  # passed over, so that the pairs stay those of docs/measurements.md
            pair = {
                "kind": "several",
                "component": "",
                "faults": [self._draw_with_effect() for _ in range(2)],
            }
            yield self._trial(pair, most_causes=MOST_CAUSES)

    def _draw(self) -> Facts:
        """Draw a fault in one module of one component."""
        dice = self._dice
        place = {
            "component": dice.choice(self._components),
            "modules": dice.choice(MODULES),
            "at": dice.random(),
        }
        how = dice.choice(CHANGES)
        if how == "results":
            return {**place, "kind": "outputs", "dtype": "bfloat16"}
        factor = 1 + 10 ** dice.uniform(-6, -3)
        return {**place, "kind": "weights", "how": how, "factor": factor}

    def _draw_with_effect(self) -> Facts:
        while True:
            fault = self._draw()
            if self._record(self._carrier(fault)) is not None:
                return fault

    def _carrier(self, fault: Facts) -> Case:
        """Return the case with a fault, as it shows the modules of its first stages."""
        return replace(self._case, fault=fault, detail={})

    def _record(self, carrier: Case) -> Recording | None:
        """Return the recording of a case with a fault; None where the fault moves no bit."""
        try:
            actual = self._session.record(carrier, self._session.slot(0), self._folder / "actual")
        except NotRecordedError:  # it does not apply, or changes no weight
            return None
        return None if actual.stages == self._base.stages else actual

    def _trial(self, fault: Facts, most_causes: int) -> Trial | None:
        """Inject a fault and return its trial; None where it moves no bit."""
        carrier = self._carrier(fault)
        actual = self._record(carrier)
        if actual is None:
            return None
        search = RootCauseSearch(self._session, carrier, self._case, self._folder, _ignore_step)
        causes = search.find(actual, self._base, most_causes)
        return Trial(frozenset(_injected(actual)), frozenset(map(_module, causes)))


def _ignore_step(_doing: str) -> None:
    pass


def _injected(recording: Recording) -> Iterator[str]:
    """Yield each module into which a fault was injected, after its component.

    A fault says only how deep its module lies; the proof of its effect ends with the module's path.
    """
    fault: Facts = recording.case["fault"]  # type: ignore[assignment]
    parts: Iterable[Facts] = fault.get("faults", [fault])  # type: ignore[assignment]
    proofs = (recording.fault or "").split("; ")
    for part, proof in zip(parts, proofs, strict=True):
        yield f"{part['component']}: {proof.rpartition(' of ')[2]}"


def _module(cause: RootCause) -> str:
    """Return the module of a root cause, after its component."""
    component = cause.stage.kind.partition(".")[0]
    return f"{component}: {cause.module.rpartition('#')[0]}"


def count(label: str, trials: Iterator[Trial | None], wanted: int) -> Counter[str]:
    """Count the answers of `wanted` trials, and print every one that is not exact."""
    counts: Counter[str] = Counter()
    without_effect = 0
    while counts.total() < wanted:
        trial = next(trials)
        if trial is None:
            without_effect += 1
            continue
        counts[str(trial.answer)] += 1
        if trial.answer is not Answer.EXACT:
            injected = sorted(trial.injected)
            print(f"  {trial.answer}: injected {injected}, named {sorted(trial.named)}", flush=True)
    print(f"{label}: {dict(counts)}, {without_effect} more without effect", flush=True)
    return counts


def main() -> None:
    """Print the counts of single faults and of pairs, per scenario and in total."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="+", metavar="NAME", choices=list(COMPONENTS))
    parser.add_argument(
        "--faults", type=int, default=50, help="faults with an effect, per scenario"
    )
    parser.add_argument("--pairs", type=int, default=25, help="pairs with an effect, per scenario")
    arguments = parser.parse_args()
    totals: Counter[str] = Counter()
    for name in arguments.scenarios:
        with temporary_session() as session:
            injection = Injection(session, name)
            for kind, trials, wanted in (
                ("single", injection.single_faults(), arguments.faults),
                ("pair", injection.pairs(), arguments.pairs),
            ):
                counts = count(f"{name}, {kind}", trials, wanted)
                totals.update({f"{kind} {answer}": number for answer, number in counts.items()})
    print(dict(totals))


if __name__ == "__main__":
    main()
