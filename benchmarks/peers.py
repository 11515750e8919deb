"""Judge the faults of `harness challenge` by what users have today, each method as its package ships it.

harness challenge scenarios/sd-digits.yaml --out runs/challenge
pip install pytest-regressions
python benchmarks/peers.py runs/challenge [MORE ...]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from harness.records import Recording
from harness.study.other_methods import METHODS

Array = np.ndarray[Any, np.dtype[Any]]

REGRESSIONS = """
import numpy, pytest
from pathlib import Path
FILES = sorted(Path({folder!r}).glob("fault-*.npy"))

@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_image(path, ndarrays_regression):
    ndarrays_regression.check({{"image": numpy.load(path)}}, basename="base")
"""


def regressions(base: Array, faults: list[Array]) -> list[bool]:
    """Return for each fault whether pytest-regressions' defaults pass it: the real package, in a pytest of its own."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "test_peers").mkdir()
        np.savez(folder / "test_peers" / "base.npz", image=base)
        for index, image in enumerate(faults):
            np.save(folder / f"fault-{index:03d}.npy", image)
        (folder / "test_peers.py").write_text(REGRESSIONS.format(folder=text), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-rA",
            "-p",
            "no:harness",
            "-c",
            "/dev/null",
            str(folder / "test_peers.py"),
        ]
        printed = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False
        ).stdout
    passed = {
        line.split("[")[1].split("]")[0]
        for line in printed.splitlines()
        if line.startswith("PASSED") and "[" in line
    }
    return [f"fault-{index:03d}" in passed for index in range(len(faults))]


def alarms(base: Path, others: list[Path]) -> None:
    """Print how many comparisons of unchanged scenarios across platforms each method calls a failure."""
    counts = dict.fromkeys([*METHODS, "pytest-regressions"], 0)
    total = 0
    for recording in sorted(base.glob("recordings/*/cpu-float32")):
        place = recording.relative_to(base)
        expected = Recording.read(recording).tensors().get("output/image")
        images = (
            [Recording.read(other / place).tensors()["output/image"] for other in others]
            if expected is not None
            else []
        )
        if expected is None or expected.dtype != np.float32:
            continue
        total += len(images)
        for name, unseen in METHODS.items():
            counts[name] += sum(not unseen(image, expected) for image in images)
        counts["pytest-regressions"] += sum(not passed for passed in regressions(expected, images))
    print(f"| method | false alarms of {total} |\n|---|---|")
    for name, count in counts.items():
        print(f"| {name} | {count} |")


def main() -> None:
    """Print one table: of the faults that changed the output, how many each method catches."""
    if sys.argv[1] == "--alarms":
        base, *others = map(Path, sys.argv[2:])
        alarms(base, others)
        return
    caught: dict[str, list[int]] = {}
    for folder in map(Path, sys.argv[1:]):
        found = json.loads((folder / "challenge.json").read_text(encoding="utf-8"))
        (place,) = (path.parent for path in folder.glob("recordings/*/*/base"))
        base = Recording.read(place / "base").tensors()["output/image"]
        images = [
            Recording.read(place / trial["folder"]).tensors()["output/image"]
            for trial in found["trials"]
        ]
        table = {
            name: [not (image.shape == base.shape and unseen(image, base)) for image in images]
            for name, unseen in METHODS.items()
        }
        table["pytest-regressions"] = [not passed for passed in regressions(base, images)]
        table["harness, same class"] = [True] * len(images)
        table["harness, other class"] = [trial["caught"] for trial in found["trials"]]
        above = [trial["effect"] > found["noise"] for trial in found["trials"]]
        print(f"{found['case']}: {len(images)} faults, {sum(above)} above the noise")
        for name, values in table.items():
            counts = caught.setdefault(name, [0, 0, 0, 0])
            kept = [value for value, is_above in zip(values, above, strict=True) if is_above]
            for index, number in enumerate((sum(values), len(values), sum(kept), len(kept))):
                counts[index] += number
    print(
        "\n| method | caught, of all that changed a bit | caught, of those above the noise |\n|---|---|---|"
    )
    for name, (hits, total, hits_above, total_above) in caught.items():
        every, above_noise = f"{hits} of {total}", f"{hits_above} of {total_above}"
        print(
            f"| {name} | {every} ({100 * hits / total:.0f} %) | {above_noise} ({100 * hits_above / total_above:.0f} %) |"
        )


if __name__ == "__main__":
    main()
