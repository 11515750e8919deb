# ruff: noqa: INP001, S101
"""Twenty processes on one store at once: it stays whole, and no reader sees damage.

    python attacks/many_writers.py --tries 40 --seed 0

`--tries` is the number of rounds. In each one, twelve `accept`s offer different recordings of the
same two cases, and four `record`s compete for a third one. Until they are done, two readers read
every baseline again and again, and two more judge runs by them. See attacks/README.md for what is
checked.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from common import (
    SCENARIOS,
    TOLERANCE,
    Tally,
    Workshop,
    builders,
    dice,
    finish,
    leftovers,
    mixed,
    options,
    state_of,
    survivors,
    workshop,
)

from harness.errors import HarnessError
from harness.records import Verdict
from harness.scenario.reading import read_all
from harness.store.baselines import Store
from harness.store.run_folder import read_results

TRIES = 40
ACCEPTING, RECORDING, READING, JUDGING = 12, 4, 2, 2
LATE_SECONDS = 0.3  # within which all writers begin
ROUND_SECONDS = 120.0
THIRD = "third"  # the scenario without a baseline


def offers(shop: Workshop) -> Path:
    """Return a folder with a store and one run for each writer, whose outputs all differ."""
    folder = shop.folder()
    assert shop.run(folder, "record", "scenarios", "--out", "first").code == 0
    for index in range(ACCEPTING):
        output = builders.IMAGE + builders.np.float32(index + 1)
        shop.answer(f"offer-{index}", **builders.moved(outputs=output))
        run = shop.run(
            folder, "run", "scenarios", "--out", f"offer-{index}", answer=f"offer-{index}"
        )
        assert run.code == 1, run
    third = folder / "scenarios" / f"{THIRD}.yaml"
    third.write_text(builders.scenario_text(tolerance=TOLERANCE), encoding="utf-8")
    return folder


def offered_digests(shop: Workshop, folder: Path) -> dict[str, set[object]]:
    """Return what each baseline's outputs may be after a round."""
    found: dict[str, set[object]] = {}
    for index in range(ACCEPTING):
        for name in SCENARIOS:
            recording = folder / f"offer-{index}" / "recordings" / name / "cpu-float32"
            digests = builders.Recording.read(recording).output_digests
            found.setdefault(name, set()).add(tuple(digests.items()))
    base = builders.Recording.read(shop.root / "answers" / "base").output_digests
    found[THIRD] = {tuple(base.items())}
    return found


def fork(work: Callable[[], int]) -> int:
    """Start a process that does some work, and return its number."""
    process = os.fork()
    if process == 0:
        try:
            os._exit(work())
        except BaseException:
            traceback.print_exc()
            os._exit(70)
    return process


def read_until(stopped: Path, folder: Path, log: Path) -> int:
    """Read every baseline and its tensors' digest until a file appears; log what is wrong.

    Returns:
        0, or 1 where something was wrong.
    """
    os.chdir(folder)
    store = Store(Path("baselines"))
    cases = [case for scenario in read_all([Path("scenarios")]) for case in scenario.cases()]
    numerics_class = builders.numerics_class("a")
    reads, problems = 0, []
    while not stopped.exists():
        for case in cases:
            try:
                reads += store.match(case, numerics_class) is not None
            except HarnessError as error:
                problems.append(str(error))
    return keep(log, reads, problems)


def judge_until(shop: Workshop, stopped: Path, folder: Path, log: Path) -> int:
    """Run the cases and judge them until a file appears; log each verdict `error`.

    Every second run is one of another numerics class, for which stages are compared too.

    Returns:
        0, or 1 where something was wrong.
    """
    reads, problems = 0, []
    while not stopped.exists():
        out = f"{log.name}-run"
        paths = [f"scenarios/{name}.yaml" for name in SCENARIOS]
        answer = "elsewhere" if reads % (2 * len(SCENARIOS)) else "base"
        ending = shop.run(folder, "run", *paths, "--out", out, answer=answer)
        if ending.code not in (0, 1):
            problems.append(f"run exits {ending.code}: {ending.err}")
            break
        for outcome in read_results(folder / out).outcomes:
            reads += 1
            if outcome.verdict is Verdict.ERROR:
                problems.append(f"{outcome.case}: {outcome.message}")
    return keep(log, reads, problems)


def keep(log: Path, reads: int, problems: list[str]) -> int:
    """Write what a reader has to say; return 1 where something was wrong."""
    lines = [str(reads), *(problem.replace("\n", " ") for problem in problems)]
    log.write_text("\n".join(lines), encoding="utf-8")
    return 1 if problems else 0


def writers(shop: Workshop, folder: Path, stream: random.Random) -> list[Callable[[], int]]:
    """Return what the writing processes do, each after a pause of its own."""
    commands = [
        ("accept", f"offer-{index}", "--reason", "attacked", "--scenarios", *order(stream))
        for index in range(ACCEPTING)
    ]
    commands += [
        ("record", f"scenarios/{THIRD}.yaml", "--out", f"third-{index}")
        for index in range(RECORDING)
    ]
    pauses = [stream.uniform(0, LATE_SECONDS) for _ in commands]

    def write(index: int) -> int:
        time.sleep(pauses[index])
        ending = shop.run(folder, *commands[index])
        if ending.code:
            print(f"{commands[index]} exits {ending.code}: {ending.err}", flush=True)
        return 1 if ending.code is None else ending.code

    return [lambda index=index: write(index) for index in range(len(commands))]


def order(stream: random.Random) -> list[str]:
    """Return the two cases in one of their orders."""
    names = [f"scenarios/{name}.yaml" for name in SCENARIOS]
    stream.shuffle(names)
    return names


def wait_for(processes: Mapping[int, str]) -> list[str]:
    """Wait for processes, and return what is wrong with how they ended."""
    problems = []
    end = time.monotonic() + ROUND_SECONDS
    for process, name in processes.items():
        while True:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended or time.monotonic() > end:
                break
            time.sleep(0.01)
        if not ended:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            problems.append(f"{name} did not end")
        elif status:
            problems.append(f"{name} ended with {os.waitstatus_to_exitcode(status)}")
    return problems


def attack(shop: Workshop, template: Path, stream: random.Random) -> tuple[list[str], int, int]:
    """Do one round; return what was lost, how many reads there were, and how many verdicts."""
    folder = shop.folder(template)
    stopped = folder / "stopped"
    reads_logs = [folder / f"reads-{index}" for index in range(READING)]
    judge_logs = [folder / f"judges-{index}" for index in range(JUDGING)]
    readers = {
        fork(lambda log=log: read_until(stopped, folder, log)): log.name for log in reads_logs
    }
    for log in judge_logs:
        judge = fork(lambda log=log: judge_until(shop, stopped, folder, log))
        readers[judge] = log.name
    work = writers(shop, folder, stream)
    running = {fork(each): f"writer {index}" for index, each in enumerate(work)}
    problems = wait_for(running)
    stopped.touch()
    problems += wait_for(readers)
    reads, more = said(reads_logs)
    judged, worse = said(judge_logs)
    problems += more + worse
    state = state_of(folder)
    problems += mixed(state, state) + leftovers(folder) + survivors(folder)
    problems += not_offered(folder, offered_digests(shop, folder))
    shutil.rmtree(folder)
    return problems, reads, judged


def said(logs: list[Path]) -> tuple[int, list[str]]:
    """Return how often readers read, and what they found wrong."""
    reads, problems = 0, []
    for log in logs:
        first, *damage = log.read_text(encoding="utf-8").splitlines() if log.exists() else ["0"]
        reads += int(first)
        problems += damage
    return reads, problems


def not_offered(folder: Path, offered: Mapping[str, set[object]]) -> list[str]:
    """Return the cases whose baseline is none of those that were offered."""
    problems = []
    for name, digests in offered.items():
        found = sorted(folder.glob(f"baselines/{name}/*/*.json"))
        if len(found) != 1:
            problems.append(f"{name} has {len(found)} baselines")
            continue
        baseline = Store(folder / "baselines").read(found[0])
        if tuple(baseline.output_digests.items()) not in digests:
            problems.append(f"{name} has a baseline that nobody offered")
        if not baseline.reference:
            problems.append(f"{name} has lost its reference")
    return problems


def main() -> None:
    """Do all rounds."""
    chosen = options(__doc__, TRIES)
    processes = ACCEPTING + RECORDING + READING + JUDGING
    with workshop() as shop:
        template = offers(shop)
        tally = Tally(f"{processes} processes on one store", chosen.tries)
        all_reads, all_judged = 0, 0
        for index in range(chosen.tries):
            problems, reads, judged = attack(shop, template, dice(chosen.seed, index))
            all_reads += reads
            all_judged += judged
            tally.count(problems, about=f"round {index}")
        tally.notes = {"reads beside the writers": all_reads, "verdicts beside them": all_judged}
        tally.report()
    finish([tally])


if __name__ == "__main__":
    main()
