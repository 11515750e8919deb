"""Owns the command `history`: adds runs to a history, and shows what changed over many nights."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.output import complain, say, write_text
from harness.commands.parser import Command, at_least_one, run_of, store_of
from harness.errors import UsageError
from harness.scenario.project import FILE

if TYPE_CHECKING:
    from harness.judge.trends import Series, Silent, Trend
    from harness.store.history import History
    from harness.store.ledger import Walk

SILENT_DAYS = 7


def add_to_history(place: str, runs: Sequence[Path], tell: Callable[[str], None] = say) -> None:
    """Add runs to the history at a path or URL, and `tell` what was written.

    Raises:
        UsageError: The URL needs a package that is not installed, or a run holds no outcome.
        FileError: A run cannot be read, or the history cannot be written to.
    """
    from harness.store.history import add_run_folder

    for run in runs:
        tell(f"added to the history: {add_run_folder(place, run)}")


def history(arguments: argparse.Namespace) -> int:
    """Show the drift, margin, accuracy and cost of every case over many nights.

    Creep and steps of the drift are named with their nights and with what changed then, although
    they stay inside the tolerance. Cases without recent results are listed, and so is how far each
    replaced baseline lies from the first one.
    """
    if not arguments.folder:
        raise UsageError(
            "which history? name a folder or a URL, or set `history` under [tool.harness] in "
            f"{arguments.project.root / FILE}"
        )
    if arguments.add:
        add_to_history(arguments.folder, [run_of(run) for run in arguments.add])
        return 0
    found = _search(arguments)
    for problem in found.problems:
        complain(f"left out: {problem}")
    if arguments.html:
        _write_html(Path(arguments.html), found)
    if arguments.json:
        _print_json(found)
    else:
        _print(found)
    grew = any(trend.grew for trend in found.trends)
    return 1 if arguments.strict and grew else 0


@dataclass(frozen=True)
class Found:
    """All that the command shows.

    `trends` are those of `series`, in the same order; `problems` says of each file that was left
    out why.
    """

    history: History
    series: tuple[Series, ...]
    trends: tuple[Trend, ...]
    silent: tuple[Silent, ...]
    walks: tuple[Walk, ...]
    problems: tuple[str, ...]


def _search(arguments: argparse.Namespace) -> Found:
    """Read a history, and search it.

    Raises:
        UsageError: It is empty, or no case fits.
    """
    from harness.judge.trends import series_of, silent_cases, trends_of
    from harness.scenario.select import compile_expression
    from harness.store.history import read_history
    from harness.store.ledger import walks
    from harness.store.shared_folder import open_folder

    admits = compile_expression(arguments.k)
    now = datetime.now(UTC)
    since = None if arguments.days is None else now - timedelta(days=arguments.days)
    read = read_history(open_folder(arguments.folder), since)
    series = series_of(read, admits)
    if not series:
        _refuse_empty(arguments, read)
    store = store_of(arguments)
    store.fetch_ledger()
    ledgers, damaged = walks(store.root)
    return Found(
        history=read,
        series=tuple(series),
        trends=tuple(trend for each in series for trend in trends_of(read, each)),
        silent=tuple(silent_cases(read, admits, now, arguments.silent)),
        walks=tuple(walk for walk in ledgers if admits((walk.case,))),
        problems=tuple(str(problem) for problem in (*read.problems, *damaged)),
    )


def _refuse_empty(arguments: argparse.Namespace, read: History) -> None:
    if read.problems:
        raise read.problems[0]
    if read.files:
        raise UsageError(f"no case in {arguments.folder} that ran fits -k {arguments.k!r}")
    which = "" if arguments.days is None else f" of the last {arguments.days} days"
    raise UsageError(
        f"{arguments.folder} holds no run{which}; `harness run --history {arguments.folder}` adds "
        "itself, and `--add RUN` adds what ran before"
    )


def _print(found: Found) -> None:
    from harness.report.history_report import HEADINGS, VERDICT_COLUMN, found_text, row
    from harness.report.terminal import console, table

    by_series = _by_series(found.trends)
    rows = [
        row(found.history, each, by_series.get((each.case, each.numerics_class), ()))
        for each in found.series
    ]
    console().print(table(HEADINGS, rows, verdict_column=VERDICT_COLUMN))
    text = found_text(found.trends, found.silent, found.walks)
    if text:
        say(f"\n{text}")
    files = found.history.files
    say(
        f"\n{len(files)} runs from {files[0].time[:10]} to {files[-1].time[:10]}, "
        f"{len(found.series)} series, {len(found.trends)} changes"
    )


def _by_series(trends: Sequence[Trend]) -> dict[tuple[str, str], list[Trend]]:
    found: dict[tuple[str, str], list[Trend]] = {}
    for trend in trends:
        found.setdefault((trend.case, trend.numerics_class), []).append(trend)
    return found


def _print_json(found: Found) -> None:
    from harness.report.history_report import as_json

    print(as_json(found.history, found.series, found.trends, found.silent, found.walks))


def _write_html(path: Path, found: Found) -> None:
    from harness.report.html.history import history_page

    shown = (found.history, found.series, found.trends, found.silent, found.walks)
    write_text(path, history_page(*shown))
    complain(f"wrote {path}")


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        nargs="?",
        metavar="DIR",
        help="the history: a folder, or an fsspec URL (default: `history` of [tool.harness])",
    )
    parser.add_argument(
        "--add", nargs="+", metavar="RUN", help="only add these runs to it, by their folders"
    )
    parser.add_argument(
        "-k", default="", metavar="EXPR", help="only cases whose id or tags fit, as in `run`"
    )
    parser.add_argument(
        "--days", type=at_least_one, metavar="N", help="only the last N days (default: all)"
    )
    parser.add_argument(
        "--silent",
        type=at_least_one,
        default=SILENT_DAYS,
        metavar="N",
        help="list cases without a result for more than N days (default: %(default)s)",
    )
    parser.add_argument("--html", metavar="FILE", help="write a page with charts, too")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the tables")
    parser.add_argument(
        "--strict", action="store_true", help="exit 1 if the drift of a case crept or stepped up"
    )


COMMANDS = (
    Command(
        "history",
        "show drift, margin and cost of every case over many nights",
        "/shared/history --days 90 --html history.html",
        history,
        _options,
    ),
)
