# ruff: noqa: INP001
"""Disks that are full, read-only or limited, things that stand in the way, and odd names.

    python attacks/full_disk.py --tries 200 --seed 0

Needs Linux, and the rights of root for its small file systems. `--tries` is the number of disks
that are filled up; each of the other obstacles is tried once with each command that writes. See
attacks/README.md for what is checked.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from common import (
    Ending,
    State,
    Tally,
    Workshop,
    dice,
    finish,
    leftovers,
    mixed,
    options,
    state_of,
    survivors,
    workshop,
)
from kills import COMMANDS, Attacked, shorten_studies, templates

TRIES = 200
PAGE = 4096  # bytes: how a tmpfs counts
SPARE = 4 * PAGE  # what a command needs beside what it leaves: its temporary files
DISK = "16m"
UNPRIVILEGED = 65534  # the user `nobody`
USAGE = 2  # the exit code for a file that cannot be written
FAILED = 1  # the exit code where cases fail
PATH = re.compile(r"^harness: \S.*: \S", re.MULTILINE)
VERDICT = re.compile(r"^(error|missing): ", re.MULTILINE)
REMEDY = re.compile(r"^\s+(do:|next:) +\S|; make room", re.MULTILINE)
CANNOT_ENCODE = "surrogates not allowed"  # a path that is no text cannot stand in a recording
ODD_NAMES = (
    "a name with blanks",
    "quote ' and \" quotes",
    "-starts-with-a-dash",
    "[brackets] {and} *stars* ?",
    "$HOME `id` $(id) ;& |",
    "Grüße 名前 🎨",
    "line\nbreak and\ttab",
    "not utf-8 \udcff",
    "percent %s %(x)s {0}",
    "n" * 200,
    "...",
)


@contextmanager
def small_disk() -> Iterator[Callable[[Path, Path], None]]:
    """Yield what makes a folder a small disk of its own; all are unmounted at the end."""
    mounted: list[Path] = []

    def mount(folder: Path, template: Path) -> None:
        folder.mkdir(parents=True)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(folder)], check=True
        )
        mounted.append(folder)
        shutil.copytree(template, folder, dirs_exist_ok=True)

    try:
        yield mount
    finally:
        for folder in mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


def fill(folder: Path, room: int) -> Path:
    """Fill the disk of a folder until so many bytes are left, and return the file that does."""
    filler = folder / "filler"
    disk = os.statvfs(folder)
    filler.write_bytes(b"\0" * max(0, disk.f_bavail * disk.f_frsize - room))
    return filler


def unclear(ending: Ending) -> list[str]:
    """Return what is wrong with how a command that could not write said so.

    It ends with exit code 2, or 1 where cases could not be recorded or find no baseline. Either the
    command or the case says what cannot be written, and what to do.
    """
    said = ending.out + ending.err
    if "Traceback" in said:
        return [f"a traceback: {said[-300:]}"]
    if ending.code not in (USAGE, FAILED):
        return [f"exit code {ending.code}: {said[-300:]}"]
    if ending.code == FAILED and VERDICT.search(ending.out):
        has_remedy = REMEDY.search(ending.out)
    else:
        has_remedy = PATH.search(ending.err) and REMEDY.search(ending.err)
    return [] if has_remedy else [f"no path or no remedy: {said[-300:]}"]


class Disks:
    """The attacks with file systems of their own."""

    def __init__(self, shop: Workshop, made: dict[str, Path]) -> None:
        self._shop, self._made = shop, made
        self._new: dict[str, tuple[Ending, State]] = {}
        for name, attacked in COMMANDS.items():
            folder = shop.folder(made[attacked.template])
            self._new[name] = (self._run(folder, attacked), state_of(folder))
        self._needs = {name: self._pages(name) for name in COMMANDS}

    def _pages(self, name: str) -> int:
        """Return how many pages of a disk a command needs."""
        folder = self._shop.root / "disks" / name.replace(" ", "-")
        with small_disk() as mount:
            mount(folder, self._made[COMMANDS[name].template])
            before = os.statvfs(folder).f_bavail
            self._run(folder, COMMANDS[name])
            return (before - os.statvfs(folder).f_bavail) + SPARE // PAGE

    def full(self, tries: int, seed: int) -> Tally:
        """Fill the disk to within a few pages of what a command needs, then let it run."""
        tally = Tally("full disk", tries)
        for index in range(tries):
            stream = dice(seed, "full", index)
            name = sorted(COMMANDS)[index % len(COMMANDS)]
            room = PAGE * stream.randint(0, self._needs[name])
            folder = self._shop.root / "disks" / f"full-{index}"
            with small_disk() as mount:
                mount(folder, self._made[COMMANDS[name].template])
                filler = fill(folder, room)
                ending = self._run(folder, COMMANDS[name])
                problems, had_room = self._judge(name, folder, ending)
                filler.unlink()
                problems += self._repeat(name, folder)
            note = "had room enough" if had_room else "did not fit"
            tally.count(problems, note, about=f"{name} with {room} bytes")
        return tally

    def quota(self, tries: int, seed: int) -> Tally:
        """Limit the size of each file that a command and its workers may write."""
        tally = Tally("limited file size", tries)
        for index in range(tries):
            stream = dice(seed, "quota", index)
            name = sorted(COMMANDS)[index % len(COMMANDS)]
            most = stream.randint(0, 6000)
            folder = self._shop.folder(self._made[COMMANDS[name].template])
            ending = self._run(folder, COMMANDS[name], lambda most=most: limit_files(most))
            problems, had_room = self._judge(name, folder, ending)
            problems += self._repeat(name, folder)
            note = "had room enough" if had_room else "did not fit"
            tally.count(problems, note, about=f"{name} with {most} bytes a file")
            shutil.rmtree(folder)
        return tally

    def read_only(self) -> Tally:
        """Run each command on a disk that was mounted read-only, and as a user without rights."""
        tally = Tally("read-only disk, missing rights", 2 * len(COMMANDS))
        for name, attacked in COMMANDS.items():
            folder = self._shop.root / "disks" / f"read-only-{tally.done}"
            with small_disk() as mount:
                mount(folder, self._made[attacked.template])
                subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
                ending = self._run(folder, attacked)
                problems = self._refused(name, folder, ending)
            tally.count(problems, about=f"{name}, read-only")
            folder = self._shop.folder(self._made[attacked.template])
            ending = self._run(folder, attacked, drop_rights)
            tally.count(self._refused(name, folder, ending), about=f"{name}, missing rights")
        return tally

    def in_the_way(self) -> Tally:
        """Put a file where each command needs a folder, and a folder where it needs a file."""
        cases = [(name, place) for name in COMMANDS for place in places(name)]
        tally = Tally("a file where a folder is due, or the reverse", len(cases))
        for name, place in cases:
            folder = self._shop.folder(self._made[COMMANDS[name].template])
            put_in_the_way(folder / place)
            old = state_of(folder)
            ending = self._run(folder, COMMANDS[name])
            undisturbed, new = self._new[name]
            problems = [] if ending.code == undisturbed.code else unclear(ending)
            found = mixed(state_of(folder), old, new)
            problems += [line for line in found if not is_report(line) and line not in old.problems]
            problems += survivors(folder)
            note = "refused" if ending.code == USAGE else f"exit code {ending.code}"
            tally.count(problems, note, about=f"{name}, {place}")
        return tally

    def _run(
        self, folder: Path, attacked: Attacked, before: Callable[[], None] | None = None
    ) -> Ending:
        arguments = attacked.arguments
        return self._shop.run(folder, *arguments, answer=attacked.answer, before=before)

    def _judge(self, name: str, folder: Path, ending: Ending) -> tuple[list[str], bool]:
        """Return what is wrong after a command that may have had no room, and whether it had."""
        old = state_of(self._made[COMMANDS[name].template])
        undisturbed, new = self._new[name]
        found = state_of(folder)
        had_room = ending.code == undisturbed.code and not mixed(found, new)
        problems = [] if had_room else unclear(ending)
        problems += [line for line in mixed(found, old, new) if not is_report(line)]
        return problems + survivors(folder), had_room

    def _refused(self, name: str, folder: Path, ending: Ending) -> list[str]:
        """Return what is wrong after a command that could write nothing."""
        old = state_of(self._made[COMMANDS[name].template])
        problems = unclear(ending)
        return problems + mixed(state_of(folder), old) + survivors(folder)

    def _repeat(self, name: str, folder: Path) -> list[str]:
        """Run the command again where there is room; return what is not as it should be."""
        undisturbed, new = self._new[name]
        again = self._run(folder, COMMANDS[name])
        found = state_of(folder)
        result = COMMANDS[name].result
        if result in found.content:
            found.content[result] = new.content[result]
        problems = [*mixed(found, new), *leftovers(folder)]
        if again.code != undisturbed.code:
            problems.append(f"exits {again.code}: {again.err[-300:]}")
        return [f"with room again, {line}" for line in problems]


def is_report(line: str) -> bool:
    """Whether a line is about a report of cases, some of which could not be recorded."""
    return line.startswith(("run/results.json is", "run/summary.md is", "study/challenge.json is"))


def limit_files(most: int) -> None:
    """Let this process and its workers write no file of more bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def drop_rights() -> None:
    """Become a user who may read everything here and write nothing."""
    os.setgroups([])
    os.setgid(UNPRIVILEGED)
    os.setuid(UNPRIVILEGED)


def places(name: str) -> list[str]:
    """Return what can stand in the way of a command."""
    store = [
        "baselines",
        "baselines/digits",
        "baselines/digits/cpu-float32",
        "baselines/digits/cpu-float32/cpu-a.json",
        "baselines/.locks",
        "baselines/.locks/digits-cpu-float32.lock",
    ]
    if name == "accept":
        return store
    out = COMMANDS[name].arguments[-1]
    return [
        *store,
        out,
        f"{out}/results.json",
        f"{out}/recordings",
        f"{out}/recordings/digits",
        f"{out}/logs",
        f"{out}/logs/worker-0.log",
        f"{out}/.owner.lock",
    ]


def put_in_the_way(path: Path) -> None:
    """Put a folder where a file is due, a file where a folder is; whatever is there goes."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".json", ".log", ".lock") and path.name != ".locks":
        path.mkdir()
        (path / "something").touch()
    else:
        path.touch()


def odd_names(shop: Workshop, made: dict[str, Path]) -> Tally:
    """Run the commands in folders, and with a folder of the run, that are called oddly."""
    tally = Tally("odd names", 3 * len(ODD_NAMES))
    for name in ODD_NAMES:
        root = shop.root / "odd" / name
        shutil.copytree(made["recorded"], root)
        runs = (
            (("record", "scenarios", f"--out={name}"), 0),
            (("run", "scenarios", f"--out={name}", f"--baselines={root / 'baselines'}"), 0),
            (("report", f"./{name}"), 0),
        )
        for arguments, code in runs:
            ending = shop.run(root, *arguments, answer="base")
            problems = list(state_of(root).problems)
            if "Traceback" in ending.out + ending.err:
                problems.append("a traceback")
            refused = ending.code == FAILED and CANNOT_ENCODE in ending.out
            if ending.code != code and not refused:
                problems.append(f"exits {ending.code}: {ending.err[-300:]}")
            tally.count(problems, "refused" if refused else "", about=f"{arguments} in {name!r}")
    return tally


def main() -> None:
    """Attack with every kind of obstacle."""
    chosen = options(__doc__, TRIES)
    if os.geteuid() != 0:
        raise SystemExit("root alone may mount small file systems: run this in a container as root")
    with workshop() as shop:
        shop.root.chmod(0o755)
        shorten_studies()
        made = templates(shop)
        disks = Disks(shop, made)
        tallies = [
            disks.full(chosen.tries, chosen.seed),
            disks.quota(max(5, chosen.tries // 2), chosen.seed),
            disks.read_only(),
            disks.in_the_way(),
            odd_names(shop, made),
        ]
        for tally in tallies:
            tally.report()
    finish(tallies)


if __name__ == "__main__":
    main()
