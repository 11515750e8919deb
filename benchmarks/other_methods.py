"""Judges faults and unchanged scenarios by what users have today, beside the harness itself.

The faults are those of `harness challenge`, whose run folders are named. Each method is as its
package ships it; pytest-regressions runs in a pytest of its own.

    pip install pytest-regressions
    harness challenge scenarios/sd-digits.yaml --out runs/challenge
    python benchmarks/other_methods.py runs/challenge [MORE]

The false alarms are counted over runs of unchanged scenarios on other platforms, against a first
run:

    harness run scenarios --out runs/native
    ATEN_CPU_CAPABILITY=avx2 harness run scenarios --out runs/avx2
    python benchmarks/other_methods.py --alarms runs/native runs/avx2 [MORE]

Both take a few seconds a folder.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.store.recording import Recording
from harness.store.typed_json import decode, read_json
from harness.study.other_methods import METHODS

if TYPE_CHECKING:
    from harness.records import Array

IMAGE = "image"
REGRESSIONS = "pytest-regressions"
SAME_CLASS, OTHER_CLASS = "harness, same class", "harness, other class"
TEST = """
import numpy, pytest
from pathlib import Path
FILES = sorted(Path({folder!r}).glob("image-*.npy"))

@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_image(path, ndarrays_regression):
    ndarrays_regression.check({{"image": numpy.load(path)}}, basename="expected")
"""


@dataclass(frozen=True)
class Fault:
    """One fault of a challenge: its recording's folder, and whether the bounds catch it elsewhere.

    `above_noise` says whether its effect exceeds that of one unit in the last place.
    """

    folder: Path
    caught: bool
    above_noise: bool


@dataclass(frozen=True)
class Challenge:
    """A challenge as its run's folder keeps it; `base` is the recording without a fault."""

    case: str
    base: Path
    faults: tuple[Fault, ...]


@dataclass
class Catches:
    """How many faults one method catches, of all and of those above the noise."""

    of_all: list[bool] = field(default_factory=list)
    of_those_above: list[bool] = field(default_factory=list)

    def add(self, caught: Sequence[bool], faults: Sequence[Fault]) -> None:
        """Add the faults of one challenge."""
        self.of_all += caught
        self.of_those_above += [
            is_caught for is_caught, fault in zip(caught, faults, strict=True) if fault.above_noise
        ]


def read_challenge(folder: Path) -> Challenge:
    """Return what `harness challenge` left in a folder."""
    content = decode(dict[str, object], read_json(folder / "challenge.json"))
    noise = decode(float, content["noise"])
    (base,) = folder.glob("recordings/*/*/base")
    faults = []
    for trial in decode(list[dict[str, object]], content["trials"]):
        effect = decode(float, trial["effect"])  # NaN where it was infinite
        faults.append(
            Fault(
                folder=base.with_name(decode(str, trial["folder"])),
                caught=decode(bool, trial["caught"]),
                above_noise=not effect <= noise,
            )
        )
    return Challenge(decode(str, content["case"]), base, tuple(faults))


def image_of(folder: Path) -> Array | None:
    """Return the image of a recording; None where it has no such output."""
    return Recording.read(folder).output_tensors.get(IMAGE)


def images_of(folders: Iterable[Path]) -> list[Array]:
    """Return the images of recordings that all have one."""
    return [Recording.read(folder).output_tensors[IMAGE] for folder in folders]


def objections(expected: Array, images: Sequence[Array]) -> dict[str, list[bool]]:
    """Return for each method which images it calls different from the expected one."""
    found = {
        name: [image.shape != expected.shape or not passes(image, expected) for image in images]
        for name, passes in METHODS.items()
    }
    passed = pass_regressions(expected, images)
    found[REGRESSIONS] = [not is_passed for is_passed in passed]
    return found


def pass_regressions(expected: Array, images: Sequence[Array]) -> list[bool]:
    """Return for each image whether pytest-regressions passes it by its defaults.

    Raises:
        SystemExit: pytest-regressions is not installed.
    """
    if importlib.util.find_spec("pytest_regressions") is None:
        raise SystemExit("pytest-regressions is not here: pip install pytest-regressions")
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        stored = folder / "test_regressions"
        stored.mkdir()
        np.savez(stored / "expected.npz", image=expected)
        names = [f"image-{index:03d}" for index in range(len(images))]
        for name, image in zip(names, images, strict=True):
            np.save(folder / f"{name}.npy", image)
        test = folder / "test_regressions.py"
        test.write_text(TEST.format(folder=text), encoding="utf-8")
        passed = _passed_tests(test)
    return [name in passed for name in names]


def _passed_tests(test: Path) -> set[str]:
    """Run a file of tests in a pytest without the harness, and return the parameters that pass."""
    options = ["-q", "-rA", "-p", "no:harness", "-c", "/dev/null"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(test)],
        cwd=test.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("PASSED") and "[" in line]
    return {line.split("[")[1].split("]")[0] for line in lines}


def print_catches(folders: Iterable[Path]) -> None:
    """Print one table: of the faults that changed the output, how many each method catches."""
    catches: dict[str, Catches] = {}
    for folder in folders:
        challenge = read_challenge(folder)
        faults = challenge.faults
        (expected,) = images_of([challenge.base])
        found = objections(expected, images_of(fault.folder for fault in faults))
        found[SAME_CLASS] = [True] * len(faults)
        found[OTHER_CLASS] = [fault.caught for fault in faults]
        for name, caught in found.items():
            catches.setdefault(name, Catches()).add(caught, faults)
        above = sum(fault.above_noise for fault in faults)
        print(f"{challenge.case}: {len(faults)} faults, {above} above the noise")
    print("\n| method | caught, of all that changed a bit | caught, of those above the noise |")
    print("|---|---|---|")
    for name, each in catches.items():
        print(f"| {name} | {_share(each.of_all)} | {_share(each.of_those_above)} |")


def _share(caught: Sequence[bool]) -> str:
    percent = 100 * sum(caught) / len(caught) if caught else 0.0
    return f"{sum(caught)} of {len(caught)} ({percent:.0f} %)"


def print_alarms(base: Path, others: Sequence[Path]) -> None:
    """Print how many unchanged scenarios each method calls different on another platform."""
    alarms = dict.fromkeys([*METHODS, REGRESSIONS], 0)
    total = 0
    for folder in sorted(base.glob("recordings/*/cpu-float32")):
        expected = image_of(folder)
        if expected is None or expected.dtype != np.float32:
            continue
        images = images_of(other / folder.relative_to(base) for other in others)
        total += len(images)
        for name, raised in objections(expected, images).items():
            alarms[name] += sum(raised)
    print(f"| method | false alarms of {total} |\n|---|---|")
    for name, count in alarms.items():
        print(f"| {name} | {count} |")


def main() -> None:
    """Print the table of faults, or that of false alarms."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument(
        "--alarms", action="store_true", help="count false alarms against the first run"
    )
    arguments = parser.parse_args()
    if arguments.alarms:
        print_alarms(arguments.runs[0], arguments.runs[1:])
    else:
        print_catches(arguments.runs)


if __name__ == "__main__":
    main()
