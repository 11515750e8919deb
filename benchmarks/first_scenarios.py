"""Counts the saved pipelines of which `harness new` makes a scenario that lists, records, repeats.

    python benchmarks/first_scenarios.py FOLDER [--records N] [--out FILE]

FOLDER holds one saved pipeline in each folder. Of pipelines whose class has the same module of
diffusers, one stands for the family where --families is given. The N smallest are recorded, and run
once more, which must give the verdict `identical`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.errors import HarnessError
from harness.scenario.first_scenario import first_scenario
from harness.scenario.reading import read
from harness.scenario.weights import Checkpoint, CheckpointKind
from harness.session import Session
from harness.store.baselines import Store

SECONDS = 600


@dataclass
class Result:
    name: str
    bytes: int
    lists: bool = False
    missing: tuple[str, ...] = ()
    records: bool | None = None
    verdict: str = ""
    said: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--records", type=int, default=20)
    parser.add_argument("--families", action="store_true")
    parser.add_argument("--most-mib", type=float, default=64)
    parser.add_argument("--out", type=Path, default=Path("first_scenarios.json"))
    arguments = parser.parse_args()
    folders = sorted(each.parent for each in arguments.folder.glob("*/model_index.json"))
    if arguments.families:
        folders = one_of_each_family(folders)
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        (root / "scenarios").mkdir()
        (root / "pyproject.toml").write_text("[tool.harness]\n", "utf-8")
        results = written(folders, root)
        small = sorted((one for one in results if one.lists), key=lambda one: one.bytes)
        for result in small[: arguments.records]:
            recorded(result, root)
            print(asdict(result), flush=True)
    arguments.out.write_text(json.dumps([asdict(one) for one in results], indent=1), "utf-8")
    tried = [one for one in results if one.records is not None]
    print(f"{sum(one.lists for one in results)} of {len(results)} scenarios list")
    print(f"{sum(not one.missing for one in results if one.lists)} of them lack no argument")
    print(f"{sum(one.records is True for one in tried)} of {len(tried)} record")
    print(f"{sum(one.verdict == 'identical' for one in tried)} of {len(tried)} repeat identically")


def one_of_each_family(folders: list[Path]) -> list[Path]:
    """Return the smallest folder of each family: the first words of a class, in camel case."""
    found: dict[str, Path] = {}
    for folder in sorted(folders, key=size_of):
        name = json.loads((folder / "model_index.json").read_text("utf-8"))["_class_name"]
        found.setdefault(family_of(name), folder)
    return sorted(found.values())


def family_of(name: str) -> str:
    """Return the name without what tells the tasks of one family apart."""
    tasks = "Pipeline|Img2Img|Inpaint(ing)?|ControlNet|PAG|Control(?!Net)|Combined|Prior|Decoder"
    tasks += "|(Image|Video)(To|2)Video|TextToImage|SuperResolution|Wrapper|Adapter|XL"
    return re.sub(tasks, "", name)


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def written(folders: list[Path], root: Path) -> list[Result]:
    """Write the scenario of every folder, as `harness new` does, and read it back."""
    results = []
    with Session(Store(root / "baselines"), root / "looks") as session:
        for folder in folders:
            result = Result(folder.name, size_of(folder))
            results.append(result)
            source = Checkpoint(CheckpointKind.PATH, str(folder), str(folder.resolve()))
            path = root / "scenarios" / f"{folder.name}.yaml"
            try:
                saved = session.outline({"source": source.request(), "pipeline": "", "trust": None})
                made = first_scenario(path, saved, source)
                path.write_text(made.text, "utf-8")
                result.missing = made.missing
                read(path)
                result.lists = True
            except HarnessError as error:
                result.said = str(error)[:300]
            print(result.name, result.lists, result.missing, result.said, flush=True)
    return results


def recorded(result: Result, root: Path) -> None:
    """Record a baseline and run the scenario again, by commands in processes of their own."""
    path = f"scenarios/{result.name}.yaml"
    record = harness(root, "record", path)
    result.records = record.returncode == 0
    if not result.records:
        result.said = (record.stdout + record.stderr)[-600:]
        return
    harness(root, "run", path, "--out", f"runs/{result.name}")
    found = json.loads((root / "runs" / result.name / "results.json").read_text("utf-8"))
    result.verdict = found["outcomes"][0]["verdict"]


def harness(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness", *arguments],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )


if __name__ == "__main__":
    main()
