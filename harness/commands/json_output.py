"""Owns the JSON that commands print in place of a table: one shape for each command.

A shape is a type, or what a study or a file of results holds already, and the encoder of files
writes it. docs/command-line.md lists them.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.commands.output import say
from harness.errors import ScenarioError

if TYPE_CHECKING:
    from harness.records import EnvironmentChange, Verdict
    from harness.report.study_report import BoundRow
    from harness.store.recording import Environment
    from harness.study.explain import Explanation
    from harness.study.forecast import Forecast
    from harness.study.overhead import Overhead


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option by which a command prints JSON."""
    parser.add_argument(
        "--json", action="store_true", help="print JSON, and nothing else, to standard output"
    )


def print_json(content: object) -> None:
    """Print typed values as JSON to standard output."""
    from harness.store.typed_json import to_text

    say(to_text(content).rstrip("\n"))


@dataclass(frozen=True)
class Mistake:
    """A mistake in a scenario's file; `hint` is empty where `expected` says what to do."""

    file: str
    line: int
    field: str
    expected: str
    found: str
    hint: str

    @classmethod
    def of(cls, error: ScenarioError) -> Mistake:
        """Return a mistake as JSON has it."""
        return cls(
            str(error.path), error.line, error.field, error.expected, error.found, error.hint
        )


@dataclass(frozen=True)
class ListedCase:
    """A case as `list` tells of it.

    `runs_here` is whether it can run on this machine, None where only trying tells; `why` is the
    reason where that is not simply yes. `baselines` are the numerics classes that it has some of.
    """

    case: str
    scenario: str
    device: str
    dtype: str
    variant: str
    weights: str
    runs_here: bool | None
    why: str
    needs_baseline: bool
    baselines: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Listing:
    """What `list` prints: the cases, and the mistakes of the files that cannot be read."""

    cases: tuple[ListedCase, ...]
    mistakes: tuple[Mistake, ...]


@dataclass(frozen=True)
class EnvironmentShown:
    """What `env` prints: for which target and mode, and what a worker found."""

    device: str
    dtype: str
    determinism: str
    environment: Environment


@dataclass(frozen=True)
class FailedCause:
    """A cause as `accept --list` tells of it."""

    id: str
    verdict: Verdict
    headline: str
    cases: tuple[str, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Reproduced:
    """What `explain --reproducer` wrote, and whether it shows the difference by itself."""

    folder: str
    shows: bool
    printed: str


@dataclass(frozen=True)
class ExplainedCase:
    """Why one case moved, and what changed in the environment since its baseline."""

    explanation: Explanation
    environment_changes: tuple[EnvironmentChange, ...]
    reproducer: Reproduced | None = None


@dataclass(frozen=True)
class Explained:
    """What `explain` prints: the run, and its cases."""

    run: str
    cases: tuple[ExplainedCase, ...]


@dataclass(frozen=True)
class Calibrated:
    """What `calibrate` prints.

    `bounds` are the rows of its table; `left_out` says of each platform whether the bounds that
    the others give admit it, `missed` of each that could not be measured why, `kept` how many
    measurements are of an earlier calibration, `wrote` which files were written.
    """

    case: str
    on: str
    seeds: int
    perturbations: int
    bounds: tuple[BoundRow, ...]
    left_out: dict[str, bool]
    missed: dict[str, str]
    kept: int
    wrote: tuple[str, ...]


@dataclass(frozen=True)
class Costs:
    """What `cost` prints: the overheads, and why a case or pair of settings has none."""

    overheads: tuple[Overhead, ...]
    missed: dict[str, str]


@dataclass(frozen=True)
class Pruned:
    """What `prune` prints: folders of baselines that belong to no case of a scenario.

    `of_tests` are those of objects that tests hold, which stay.
    """

    unused: tuple[str, ...]
    removed: bool
    total: int
    of_tests: tuple[str, ...]


@dataclass(frozen=True)
class Cleaned:
    """What `clean` prints: the old runs, whether they were removed, and how many there were."""

    old: tuple[str, ...]
    removed: bool
    total: int


@dataclass(frozen=True)
class Forecasts:
    """What `forecast` prints: what it rests on, the forecasts, and why other cases have none."""

    stated: str
    forecasts: tuple[Forecast, ...]
    missed: dict[str, str]
