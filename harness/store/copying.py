"""Copying runs and stores of baselines between folders and URLs, as they are and by their seals.

So a store moves into a bucket and out of it, and what an interruption left goes on.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from harness.errors import FileError, UsageError, writing
from harness.store.baselines import Store
from harness.store.ledger import LEDGER, SEALED
from harness.store.run_folder import RESULTS_FILE
from harness.store.shared_baselines import open_store
from harness.store.shared_files import SharedFiles
from harness.store.shared_folder import is_url
from harness.store.shared_runs import RECORD, fetch_run, send_run


class Kind(StrEnum):
    """What can be copied."""

    RUN = "run"
    BASELINES = "baselines"


@dataclass
class Copied:
    """What was copied: the files, those that were the same already, and those that differ.

    `differing` are left as they are in the target unless they were to be replaced.
    """

    kind: Kind
    written: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)


def copy(source: str, target: str, *, replace: bool = False, again: bool = False) -> Copied:
    """Copy a run or a store of baselines to another path or URL.

    Args:
        source: A path or URL.
        target: A path or URL.
        replace: Whether other baselines of the same cases are replaced in the target.
        again: Whether what is there is sent again, because it may be damaged.

    Raises:
        UsageError: The source holds neither, or the target is a folder that holds something else.
        FileError: Something is damaged or cannot be written; what was copied before stays.
    """
    if _kind_of(source) is Kind.RUN:
        return _copy_run(source, target, again=again)
    return _copy_baselines(open_store(source), open_store(target), replace=replace, again=again)


def _kind_of(place: str) -> Kind:
    """Return what a place holds.

    Raises:
        UsageError: It holds nothing that can be copied.
    """
    if is_url(place):
        names = SharedFiles(place).names()
        is_run, holds_something = RECORD in names, bool(names)
    else:
        is_run = (Path(place) / RESULTS_FILE).is_file()
        holds_something = is_run or bool(Store(Path(place)).every_file())
    if not holds_something:
        raise UsageError(f"{place} holds neither a run nor baselines")
    return Kind.RUN if is_run else Kind.BASELINES


def _copy_run(source: str, target: str, *, again: bool) -> Copied:
    folder = fetch_run(source, recordings=True)
    if is_url(target):
        send_run(folder, target, again=again)
        return Copied(Kind.RUN, [target])
    if Path(target).exists():
        raise UsageError(f"{target} is there already; name a folder that is not")
    with writing(Path(target)):
        shutil.copytree(folder, target, ignore=shutil.ignore_patterns(".*"))
    return Copied(Kind.RUN, [target])


def _copy_baselines(source: Store, target: Store, *, replace: bool, again: bool) -> Copied:
    found = Copied(Kind.BASELINES)
    for path in source.every_file():
        baseline = source.read(path)
        there = _digest_in(target, baseline.scenario, baseline.key, path.name)
        name = "/".join(path.parts[-3:])
        if there == baseline.digest and not again:
            found.same.append(name)
        elif there not in ("", baseline.digest) and not replace:
            found.differing.append(name)
        else:
            target.adopt(baseline, again=again)
            found.written.append(name)
    _copy_ledgers(source, target, found)
    return found


def _digest_in(store: Store, scenario: str, key: str, name: str) -> str:
    """Return the seal of a baseline in a store; empty where there is none, or a damaged one."""
    path = store.folder(scenario, key) / name
    try:
        return store.read(path).digest if path in store.files(scenario, key) else ""
    except FileError:
        return ""


def _copy_ledgers(source: Store, target: Store, found: Copied) -> None:
    """Copy the entries of all ledgers, and the first outputs that they name."""
    source.fetch_ledger()
    target.fetch_ledger()
    for path in sorted(source.root.glob(f"*/*/{LEDGER}/*.json")):
        name = path.relative_to(source.root)
        copied = target.root / name
        if copied.exists():
            found.same.append(name.as_posix())
            continue
        first = SEALED.read(path).first
        with writing(copied):
            copied.parent.mkdir(parents=True, exist_ok=True)
            for each in filter(None, (first, path.name)):
                if Path(each).name == each and (path.parent / each).is_file():
                    shutil.copyfile(path.parent / each, copied.parent / each)
        target.send_ledger(copied, first)
        found.written.append(name.as_posix())
