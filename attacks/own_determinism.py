# ruff: noqa: INP001, S101
"""The same inputs give the same bytes in everything that the harness itself writes or prints.

    python attacks/own_determinism.py --tries 60 --seed 0

`--tries` is the number of environments: hash seed, locale, time zone, umask, the order in which the
system lists files, and the number of jobs are drawn for each. `--real` of them run the real worker
too, which needs torch. See attacks/README.md for what is compared.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from common import ANSWER, ANSWERS, ROOT, Tally, Workshop, builders, dice, finish, workshop

TRIES = 60
REAL = 2
LOCALES = ("C", "C.UTF-8", "POSIX", "en_US.ISO-8859-1", "tr_TR.UTF-8", "")
ZONES = ("UTC", "Asia/Kathmandu", "Pacific/Kiritimati", "America/St_Johns", "nonsense")
MASKS = (0o000, 0o022, 0o077, 0o007)
JOBS = (1, 2, 3, 5)
COMMANDS = """\
record scenarios --out first --jobs {jobs}
run scenarios --out same --jobs {jobs}
run scenarios --out moved --jobs {jobs}
report moved
report moved --markdown
report same first --markdown
accept moved --reason attacked
run scenarios --out elsewhere --jobs {jobs}
calibrate scenarios/a.yaml --write --seeds 1 --perturbations 1 --out study
challenge scenarios/a.yaml --write --out study
gate same moved elsewhere --policy policy.yaml
list
"""
ANSWER_OF = {"moved": "moved", "elsewhere": "elsewhere"}  # by the run's folder; else `base`
POLICY = "require: {scenarios: [a, Ä-b, B], on: cpu}\n"
NAMES = ("a", "B", "Ä-b", "z_1", "10", "9")

# Runs in a fresh Python, because the hash seed cannot be changed later.
START = """\
import os, random, shlex, sys
from pathlib import Path
worker, seed, mask, text = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
if worker:
    sys.executable = worker
os.umask(mask)
stream = random.Random(seed)
listdir, scandir = os.listdir, os.scandir

class Shuffled(list):
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def close(self): pass

def shuffled(found):
    found = list(found)
    stream.shuffle(found)
    return found

os.listdir = lambda *a: shuffled(listdir(*a))
os.scandir = lambda *a: Shuffled(shuffled(scandir(*a)))
import pathlib
if hasattr(pathlib, "_NormalAccessor"):
    pathlib._NormalAccessor.listdir = staticmethod(os.listdir)
    pathlib._NormalAccessor.scandir = staticmethod(os.scandir)
from harness.commands.main import main
from harness.study import challenge, fault_catalogue
few = fault_catalogue.catalogue("unet")[::9]  # enough to see an order, and soon over
challenge.catalogue = lambda _denoiser: few
for line in text.splitlines():
    words = shlex.split(line)
    out = words[words.index("--out") + 1] if "--out" in words else ""
    os.environ["ATTACK_ANSWER"] = dict(moved="moved", elsewhere="elsewhere").get(out, "base")
    print("$", line.partition(" --jobs")[0], flush=True)
    print("exit code", main(words), flush=True)
"""

# What differs for good reasons: when something was written, and digests over that.
TIMES = (
    (re.compile(r'"(date|written)": "[^"]*"'), r'"\1": TIME'),
    (re.compile(r'"(digest|replaced)": "[0-9a-f]{32}"'), r'"\1": DIGEST'),
)
KEPT = ("*.json", "*.yaml", "*.md", "*.safetensors")


@dataclass(frozen=True)
class Surroundings:
    """What must not matter."""

    hash_seed: int
    locale: str
    zone: str
    mask: int
    order: int
    jobs: int

    @classmethod
    def drawn(cls, stream: random.Random) -> Surroundings:
        """Return surroundings that are drawn by a stream of random numbers."""
        return cls(
            hash_seed=stream.randrange(1, 2**32),
            locale=stream.choice(LOCALES),
            zone=stream.choice(ZONES),
            mask=stream.choice(MASKS),
            order=stream.randrange(2**32),
            jobs=stream.choice(JOBS),
        )


PLAIN = Surroundings(hash_seed=0, locale="C.UTF-8", zone="UTC", mask=0o022, order=0, jobs=1)


def run(shop: Workshop, commands: str, around: Surroundings, *, real: bool) -> dict[str, bytes]:
    """Run commands in a new folder, and return the bytes of all that they wrote and printed."""
    folder = shop.root / "here"  # always the same one: paths stand in what is written
    shutil.rmtree(folder, ignore_errors=True)
    write_inputs(folder, reverse=bool(around.order % 2))
    worker = "" if real else str(shop.worker)
    settings = [worker, str(around.order), str(around.mask), commands.format(jobs=around.jobs)]
    done = subprocess.run(
        [sys.executable, "-c", START, *settings],
        cwd=folder,
        env=environment(shop, around),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    found = {"what is printed": done.stdout, "what is complained": done.stderr}
    for pattern in KEPT:
        for path in folder.rglob(pattern):
            found[str(path.relative_to(folder))] = without_times(path)
    return found


def environment(shop: Workshop, around: Surroundings) -> dict[str, str]:
    """Return the variables of a process in some surroundings."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG"))
    }
    return {
        **kept,
        ANSWERS: str(shop.root / "answers"),
        ANSWER: "base",
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": str(around.hash_seed),
        "PYTHONIOENCODING": "utf-8",  # what is printed in another encoding has other bytes
        "LC_ALL": around.locale,
        "TZ": around.zone,
    }


def write_inputs(folder: Path, *, reverse: bool) -> None:
    """Write scenarios and a policy, in one order or the other."""
    (folder / "scenarios").mkdir(parents=True)
    for name in sorted(NAMES, reverse=reverse):
        text = builders.scenario_text(
            tolerance="{cross-class: {rel_l2: 1.0e-3}}", tags="[z, a, m]", description="Ziffer ß."
        )
        (folder / "scenarios" / f"{name}.yaml").write_text(text, encoding="utf-8")
    (folder / "policy.yaml").write_text(POLICY, encoding="utf-8")


def without_times(path: Path) -> bytes:
    """Return the bytes of a file, with a word in place of each time and of digests over times."""
    if path.suffix != ".json":
        return path.read_bytes()
    text = path.read_bytes().decode("utf-8")
    for pattern, word in TIMES:
        text = pattern.sub(word, text)
    return text.encode()


def differences(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    """Return the names of what is not the same, with the first bytes that differ."""
    wrong = []
    for name in sorted({*found, *expected}):
        mine, other = found.get(name), expected.get(name)
        if mine is None or other is None:
            wrong.append(f"{name} is there in one environment alone")
        elif mine != other:
            pairs = enumerate(zip(mine, other, strict=False))
            at = next((index for index, (a, b) in pairs if a != b), min(len(mine), len(other)))
            span = slice(max(0, at - 40), at + 60)
            wrong.append(f"{name} differs: {mine[span]!r} and {other[span]!r}")
    return wrong


def attack(shop: Workshop, tries: int, seed: int) -> Tally:
    """Compare environments with a pretended worker."""
    tally = Tally("the harness's own bytes", tries)
    expected = run(shop, COMMANDS, PLAIN, real=False)
    for index in range(tries):
        around = Surroundings.drawn(dice(seed, index))
        found = run(shop, COMMANDS, around, real=False)
        tally.count(differences(found, expected), about=around)
    tally.notes = {"files and streams compared in each": len(expected)}
    return tally


def attack_real(shop: Workshop, tries: int, seed: int) -> Tally:
    """Compare the tensor files of recordings that the real worker makes."""
    tally = Tally("bytes of real recordings' tensors", tries)
    commands = "run scenarios/a.yaml --out real --jobs {jobs}\n"
    expected = tensors_alone(run(shop, commands, PLAIN, real=True))
    assert expected, "the real worker recorded nothing"
    for index in range(tries):
        around = Surroundings.drawn(dice(seed, "real", index))
        found = tensors_alone(run(shop, commands, around, real=True))
        tally.count(differences(found, expected), about=around)
    return tally


def tensors_alone(found: dict[str, bytes]) -> dict[str, bytes]:
    """Return the tensor files; a recording's other file holds how long each run took."""
    return {name: data for name, data in found.items() if name.endswith(".safetensors")}


def main() -> None:
    """Compare all environments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tries", type=int, default=TRIES, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--real", type=int, default=REAL, help="(default: %(default)s)")
    chosen = parser.parse_args()
    with workshop() as shop:
        tallies = [attack(shop, chosen.tries, chosen.seed)]
        if chosen.real:
            tallies.append(attack_real(shop, chosen.real, chosen.seed))
        for tally in tallies:
            tally.report()
    finish(tallies)


if __name__ == "__main__":
    main()
