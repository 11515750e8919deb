# ruff: noqa: INP001, S101
"""SIGKILL at a random moment of each command that writes: nothing is lost, nothing stays behind.

    python attacks/kills.py --tries 300 --seed 0

`--tries` is the number of kills for each command. See attacks/README.md for what is checked.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from common import (
    Moment,
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

TRIES = 300
MOST_DRAWS = 4  # of moments for each kill; a command may end before its moment
MOST_WORKER_CHANGES = 12  # of which a recording needs five
FEW_FAULTS, FEW_PLATFORMS = 5, ("aten-default", "portable")


@dataclass(frozen=True)
class Attacked:
    """A command that writes.

    Attributes:
        arguments: What follows the name `harness`.
        template: The folder that it starts from: `empty`, `recorded` or `moved`.
        answer: The prepared recording that cases get.
        result: A file of a run that says what that run found, and so differs when the command is
            repeated after it had written a part; empty where there is none.
    """

    arguments: tuple[str, ...]
    template: str
    answer: str = "base"
    result: str = ""


FEW = ("--seeds", "1", "--perturbations", "1")
COMMANDS = {
    "record": Attacked(("record", "scenarios", "--out", "run"), "empty", result="run/results.json"),
    "accept": Attacked(("accept", "run", "--reason", "attacked"), "moved"),
    "calibrate --write": Attacked(
        ("calibrate", "scenarios/digits.yaml", "--write", *FEW, "--out", "study"), "recorded"
    ),
    "challenge --write": Attacked(
        ("challenge", "scenarios/digits.yaml", "--write", "--out", "study"), "recorded"
    ),
    "run": Attacked(("run", "scenarios", "--jobs", "2", "--out", "run"), "moved"),
}


def templates(shop: Workshop) -> dict[str, Path]:
    """Return folders before anything was recorded, after it was, and after the output moved."""
    empty = shop.folder()
    recorded = shop.folder(empty)
    assert shop.run(recorded, "record", "scenarios", "--out", "first").code == 0
    moved = shop.folder(recorded)
    assert shop.run(moved, "run", "scenarios", "--out", "run", answer="moved").code == 1
    return {"empty": empty, "recorded": recorded, "moved": moved}


def shorten_studies() -> None:
    """Leave few platforms and faults, so that more of the kills meet a write."""
    from harness.study import challenge, fault_catalogue, platforms

    for name in [name for name in platforms.PLATFORMS if name not in FEW_PLATFORMS]:
        del platforms.PLATFORMS[name]
    few = fault_catalogue.catalogue("unet")[:FEW_FAULTS]
    challenge.catalogue = lambda _denoiser: few


def moment_of(stream: random.Random, changes: int, seconds: float, *, has_workers: bool) -> Moment:
    """Choose when to kill: before a change of a file, of the harness or a worker, or by the clock.

    Every change of the harness is as likely as any other, and so is every hundredth of a second.
    """
    ways = ["file", "file", "clock", "worker"] if has_workers else ["file", "file", "clock"]
    way = stream.choice(ways)
    if way == "clock":
        return Moment(way, stream.uniform(0, seconds))
    most = changes if way == "file" else MOST_WORKER_CHANGES
    return Moment(way, stream.randint(1, most))


def attack(shop: Workshop, name: str, template: Path, tries: int, seed: int) -> Tally:
    """Kill one command many times."""
    attacked = COMMANDS[name]
    old = state_of(template)
    undisturbed = shop.folder(template)
    ending = shop.run(undisturbed, *attacked.arguments, answer=attacked.answer)
    assert ending.code is not None, ending
    assert ending.code in (0, 1), ending.err
    new = state_of(undisturbed)
    assert new.content != old.content, f"{name} wrote nothing"
    tally = Tally(f"SIGKILL in {name}", tries)
    stream = dice(seed, name)
    while tally.done < tries and sum(tally.notes.values()) < MOST_DRAWS * tries:
        moment = moment_of(stream, ending.changes, ending.seconds, has_workers=name != "accept")
        folder = shop.folder(template)
        killed = shop.run(folder, *attacked.arguments, answer=attacked.answer, moment=moment)
        problems = [*survivors(folder), *mixed(state_of(folder), old, new)]
        left = leftovers(folder)
        problems += after_next_call(shop, folder, attacked, ending.code, new)
        shutil.rmtree(folder)
        if left:
            tally.note("left temporary files")
        if killed.code is None or problems:
            tally.count(problems, f"killed by {moment.by}", about=moment)
        else:
            tally.note("more ended before their moment")
    return tally


def after_next_call(
    shop: Workshop, folder: Path, attacked: Attacked, code: int, new: State
) -> list[str]:
    """Repeat the command undisturbed; return what is not as if it had never been killed."""
    again = shop.run(folder, *attacked.arguments, answer=attacked.answer)
    problems = [f"after the next call, {line}" for line in leftovers(folder)]
    if again.code != code:
        problems.append(f"the next call exits {again.code}: {again.err[-300:]}")
    found = state_of(folder)
    if attacked.result in found.content:
        found.content[attacked.result] = new.content[attacked.result]
    return problems + [f"after the next call, {line}" for line in mixed(found, new)]


def main() -> None:
    """Attack every command."""
    chosen = options(__doc__, TRIES, COMMANDS)
    with workshop() as shop:
        shorten_studies()
        made = templates(shop)
        tallies = []
        for name, attacked in COMMANDS.items():
            if chosen.only not in (None, name):
                continue
            tally = attack(shop, name, made[attacked.template], chosen.tries, chosen.seed)
            tally.report()
            tallies.append(tally)
    finish(tallies)


if __name__ == "__main__":
    main()
