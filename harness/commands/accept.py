"""Owns the command `accept`: it makes baselines of what runs, or a night's artefacts, recorded."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING

from harness.commands.json_output import FailedCause, add_json, print_json
from harness.commands.output import say, write_text
from harness.commands.parser import (
    Command,
    add_choice,
    add_profile,
    add_scenarios,
    add_warn_above,
    chosen_cases,
    store_of,
)
from harness.errors import BaselineError, UsageError
from harness.records import Outcome, Reason, Verdict
from harness.scenario.model import Case
from harness.store.shared_folder import is_url

if TYPE_CHECKING:
    from harness.commands.baseline_writing import NewBaseline
    from harness.report.accept_report import Replaced
    from harness.store.baselines import Store
    from harness.store.recording import Recording

CONTRACT_DECIDES = (Reason.CONTRACT_BROKEN, Reason.CONTRACT_UNVERIFIED)


@dataclass(frozen=True)
class _Seen:
    """An outcome of a run: where the run lies, and what its user called it."""

    run: Path
    name: str
    outcome: Outcome


@dataclass(frozen=True)
class _Accepted:
    """A recording that becomes a baseline, and the outcome for which it was chosen."""

    seen: _Seen
    new: NewBaseline

    @property
    def key(self) -> tuple[str, str]:
        """The case and the class: there is one baseline for each."""
        return self.new.case.id, self.new.recording.numerics_class.name


def accept(arguments: argparse.Namespace) -> int:
    """Replace baselines by what runs recorded: only what failed.

    RUN is the folder of a run, a folder of several, an archive of either (.zip, .tar.gz), such as
    the artefacts of a night, or an fsspec URL of a run or of several. All recordings are checked
    before the first baseline is written.
    """
    with ExitStack() as stack:
        places = [place for each in arguments.run for place in _folders(each, stack)]
        seen = [found for given, folder in places for found in _outcomes(given, folder)]
        if arguments.list:
            _list(seen, as_json=arguments.json)
            return 0
        if arguments.json:
            raise UsageError("--json goes with --list, which prints a table")
        if not (arguments.reason or "").strip():
            raise UsageError(
                "--reason is missing or empty; say why the new output is right, for whoever "
                "reviews the baseline"
            )
        _write(arguments, _chosen(arguments, seen))
    return 0


def _folders(given: str, stack: ExitStack) -> Iterator[tuple[str, Path]]:
    """Yield the name and the folder of what RUN means; the stack removes what was unpacked."""
    from harness.store.archive import unpacked
    from harness.store.shared_runs import fetch_run, runs_at

    if not is_url(given):
        yield given, stack.enter_context(unpacked(Path(given)))
        return
    for place in runs_at(given):
        yield place, fetch_run(place, recordings=True)


def _outcomes(given: str, folder: Path) -> Iterator[_Seen]:
    """Yield every outcome of the runs in a folder, which may be an archive that was unpacked."""
    from harness.store.run_folder import read_results, runs_below

    for run in runs_below(folder):
        name = given if run == folder else Path(given) / run.relative_to(folder)
        for outcome in read_results(run).outcomes:
            yield _Seen(run, str(name), outcome)


def _list(seen: Sequence[_Seen], *, as_json: bool) -> None:
    """Print what failed by cause."""
    from harness.judge.cause import by_cause
    from harness.report.accept_report import cause_table, classes_of
    from harness.report.causes import headline
    from harness.report.terminal import console

    failing = [each.outcome for each in seen if each.outcome.fails]
    if as_json:
        print_json(
            [
                FailedCause(
                    group.id,
                    group.verdict,
                    headline(group),
                    tuple(outcome.case for outcome in group.outcomes),
                    tuple(classes_of(group)),
                )
                for group in by_cause(failing)
            ]
        )
        return
    if not failing:
        say("nothing failed")
        return
    console().print(cause_table(failing))


def _chosen(arguments: argparse.Namespace, seen: Sequence[_Seen]) -> list[_Accepted]:
    """Return the recordings that become baselines, one for each case and class.

    Raises:
        UsageError: Nothing is chosen, or a recording cannot be a baseline of its case.
        FileError: A recording is damaged.
    """
    _check_causes(arguments.cause, seen)
    cases = {case.id: case for case in chosen_cases(arguments, arguments.scenarios)}
    found: dict[tuple[str, str], _Accepted] = {}
    for each in seen:
        case = cases.get(each.outcome.case)
        if case is None or not _is_chosen(arguments, case, each.outcome):
            continue
        accepted = _recorded(case, each)
        if accepted is not None:
            _check_same(found.setdefault(accepted.key, accepted), accepted)
    if not found:
        names = ", ".join(dict.fromkeys(each.name for each in seen)) or ", ".join(arguments.run)
        raise UsageError(
            f"{names} holds nothing to accept: no chosen case drifted, is stale or lacks a baseline"
        )
    order = list(cases)
    return sorted(found.values(), key=lambda each: (order.index(each.key[0]), each.key[1]))


def _check_causes(asked: Sequence[str], seen: Sequence[_Seen]) -> None:
    """Refuse the id of a cause that nothing has: it is a slip, and would accept nothing."""
    from harness.judge.cause import cause_id

    known = {cause_id(each.outcome) for each in seen if each.outcome.fails}
    for cause in asked:
        if cause not in known:
            words = ", ".join(sorted(known)) or "none"
            raise UsageError(f"--cause {cause}: no such cause; --list shows them: {words}")


def _is_chosen(arguments: argparse.Namespace, case: Case, outcome: Outcome) -> bool:
    """Whether an outcome may be accepted, and is of a cause and a class that were asked for."""
    from harness.judge.cause import cause_id
    from harness.report.advice import ACCEPTABLE_VERDICTS

    if outcome.reason in CONTRACT_DECIDES:  # no baseline changes what a variant owes its base
        return False
    if outcome.verdict not in ACCEPTABLE_VERDICTS or not case.scenario.needs_baseline:
        return False
    if outcome.verdict is Verdict.WITHIN and not arguments.within:
        return False
    patterns = arguments.classes or ["*"]
    if not any(fnmatchcase(outcome.numerics_class, pattern) for pattern in patterns):
        return False
    return not arguments.cause or (outcome.fails and cause_id(outcome) in arguments.cause)


def _recorded(case: Case, seen: _Seen) -> _Accepted | None:
    """Return the recording of an outcome, checked; None where there is none."""
    from harness.commands.baseline_writing import NewBaseline
    from harness.store.recording import Recording
    from harness.store.run_folder import recording_folder

    folder = recording_folder(seen.run, case)
    if not folder.is_dir():
        return None
    recording = Recording.read(folder)
    _check(case, recording, seen)
    note = f"{seen.outcome.verdict}: {seen.outcome.message}"
    return _Accepted(seen, NewBaseline(case, recording, note))


def _check(case: Case, recording: Recording, seen: _Seen) -> None:
    """Refuse a recording that cannot be a baseline of `case`.

    Raises:
        UsageError: It was made with `--env` or `--with`, is of another version of the scenario or
            of another class than its run says, or holds NaN or infinity.
        FileError: Its tensors are damaged, or its class has a name that no file can have.
    """
    from harness.judge.staleness import is_of_request
    from harness.judge.structure import outputs_not_finite
    from harness.store.baselines import file_stem

    env = recording.case.get("env")
    if env is not None:
        made_in = ", ".join(map(str, env)) if isinstance(env, list) else str(env)
        raise UsageError(
            f"{case.id}: {seen.name} ran with {made_in}; a baseline comes from a run without --env "
            "or --with"
        )
    if not is_of_request(recording.case, case.request()):
        raise UsageError(
            f"{case.id}: the scenario was edited after {seen.name}; run it again, then accept that "
            "run"
        )
    stated = seen.outcome.numerics_class
    if stated and stated != recording.numerics_class.name:
        raise UsageError(
            f"{case.id}: {seen.name} says that it ran in class {stated}, and its recording is of "
            f"{recording.numerics_class.name}; run it again"
        )
    if outputs_not_finite(recording):
        raise UsageError(f"{case.id}: holds NaN or infinity, which can never be a baseline")
    file_stem(recording)
    recording.verify_tensors()


def _check_same(first: _Accepted, other: _Accepted) -> None:
    """Refuse two recordings of one case and class that differ: they owe each other the same bits.

    Raises:
        UsageError: They differ.
    """
    if first.new.recording.output_digests != other.new.recording.output_digests:
        case, numerics_class = first.key
        raise UsageError(
            f"{case}: {first.seen.name} and {other.seen.name} are both of class {numerics_class} "
            "and differ in bits; find out why before one of them is accepted"
        )


def _write(arguments: argparse.Namespace, accepted: Sequence[_Accepted]) -> None:
    """Write the baselines, and say what each replaces and what is left to do."""
    from harness.commands.baseline_writing import write_baselines

    store = store_of(arguments)
    new = [each.new for each in accepted]
    before = [store.current(each.case, each.recording) for each in new]
    remarks = [_say_what_is_replaced(store, each) for each in new]
    paths = write_baselines(store, new, arguments.reason, arguments.warn_above)
    for remark in filter(None, remarks):
        say(remark)
    for case in {each.case.id: each.case for each in new}.values():
        for path in _outdated(store, case):
            say(
                f"still of an older version of the scenario: {path}; run the case on a machine of "
                "that class and accept that run, or delete the file"
            )
    if arguments.message:
        seals = [("" if old is None else old.digest) for old in before]
        after = [store.read(path).digest for path in paths]
        _write_message(arguments, store, _replaced(accepted, seals, after))


def _replaced(
    accepted: Sequence[_Accepted], before: Sequence[str], after: Sequence[str]
) -> list[Replaced]:
    from harness.judge.cause import cause_id
    from harness.report.accept_report import Replaced, headlines_by_id

    outcomes = [each.seen.outcome for each in accepted]
    headlines = headlines_by_id(outcomes)
    found = []
    for each, old, now in zip(accepted, before, after, strict=True):
        outcome = each.seen.outcome
        cause = cause_id(outcome) if outcome.fails else ""
        what = headlines.get(cause, f"inside the tolerance: {outcome.verdict}")
        found.append(Replaced(*each.key, old, now, cause, what))
    return found


def _write_message(
    arguments: argparse.Namespace, store: Store, replaced: Sequence[Replaced]
) -> None:
    """Write the message of the commit, and say how to make it."""
    from harness.report.accept_report import commit_message

    message = Path(arguments.message)
    write_text(message, commit_message(arguments.reason, ", ".join(arguments.run), replaced))
    say(f"wrote {message}")
    if not store.url:
        say(f"  next:     {join(['git', 'add', str(store.root)])}")
        say(f"            {join(['git', 'commit', '-F', str(message)])}")


def _say_what_is_replaced(store: Store, new: NewBaseline) -> str:
    """Print by how much a recording differs from the baseline that it replaces.

    Returns:
        What to say of the scenario's bounds; empty where they belong to what is accepted.
    """
    from harness.report.acceptance import bounds_text, replaced_text

    try:
        match = store.match(new.case, new.recording.numerics_class)
    except BaselineError as error:
        say(f"{new.case.id}: the baseline that is there cannot be compared: {error}")
        match = None
    if match is None:
        return bounds_text(new.case, None)
    say(replaced_text(new.case, new.recording, match))
    return bounds_text(new.case, match.baseline if match.same_class else None)


def _outdated(store: Store, case: Case) -> list[str]:
    """Return the baselines of a case that belong to another version of its scenario."""
    current = store.known(case)
    files = store.files(case.scenario.name, case.key)
    return [store.shown(path) for path in files if path.stem not in current]


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run",
        nargs="+",
        metavar="RUN",
        help="a run's folder, a folder of several, an archive of either (.zip, .tar.gz), "
        "or an fsspec URL",
    )
    parser.add_argument(
        "--reason", metavar="TEXT", help="why the new output is right; kept in the baseline"
    )
    parser.add_argument(
        "--list", action="store_true", help="only print what failed, by cause, with its id"
    )
    add_json(parser)
    parser.add_argument(
        "--cause",
        action="append",
        default=[],
        metavar="ID",
        help="only what failed by this cause, as --list names it; may be repeated",
    )
    parser.add_argument(
        "--class",
        dest="classes",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only what ran in numerics classes of this name, such as 'cpu-avx512-*'; may be "
        "repeated",
    )
    parser.add_argument(
        "--within",
        action="store_true",
        help="also what is inside the tolerance: it becomes the baseline of its own class",
    )
    parser.add_argument(
        "--message", metavar="FILE", help="write the message of the commit that follows"
    )
    add_scenarios(parser)
    add_warn_above(parser)
    add_choice(parser)
    add_profile(parser)


COMMANDS = (
    Command(
        "accept",
        "replace baselines by what runs recorded",
        "runs/nightly -k ddim --reason 'diffusers 0.43 fixes #123'",
        accept,
        _options,
    ),
)
