"""Measures power and false alarms: the faults that bounds catch, and the seeds that they refuse.

Two measurements per scenario, each kept as it is made, so that a call goes on where the last one
was interrupted:

- `faults`: `harness challenge` with every fault of the catalogue, on `portable` as the other class;
- `alarms`: seeds and platforms that calibration never saw, teacher-forced, against the same seed on
  this machine. With the first `--free` seeds it runs freely too, for `torch.testing.assert_close`.

`table` prints what was kept. Alarms are judged by the bounds that stand in the scenario when it is
called; where those bound free drift, only seeds that ran freely count. A challenge is made again
after another calibration.

    python benchmarks/power.py faults --out runs/power
    python benchmarks/power.py alarms --out runs/power
    python benchmarks/power.py table  --out runs/power

The platform is the outer loop, so that each of the 13 starts one worker, and loads each checkpoint
once. On one free core a comparison takes 0.1 s (`ddim-digits`) to 1.2 s (`unclip-synthetic`), and
both measurements about half an hour.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from common import first_case, teacher_forced

from harness.errors import NotRecordedError
from harness.judge import drift
from harness.judge.checks import check_local, check_output
from harness.launch.process import PORTABLE
from harness.records import Check, Drift, Stage, StageDrift
from harness.scenario.model import Case
from harness.session import Session
from harness.store.baselines import Store
from harness.store.recording import Recording
from harness.store.typed_json import encode
from harness.study.challenge import challenge
from harness.study.other_methods import close_everywhere
from harness.study.platforms import (
    ATEN_AVX2,
    ATEN_DEFAULT,
    MKL_AVX2,
    MKL_COMPATIBLE,
    ONEDNN_AVX2,
    ONEDNN_AVX512,
    ONEDNN_SSE41,
    TWO_THREADS,
    Platform,
    platforms_of,
)
from harness.worker.files import digest_json
from harness.worker.protocol import DetailRequest

# Small scenarios of different families, and how many new seeds of each are affordable. About
# 5,000 comparisons in all.
SUBJECTS = {
    "ddim-digits": 100,
    "ddim-digits-eta": 60,
    "sd-digits": 22,
    "sd-digits-dpmsolver": 40,
    "sd-digits-img2img": 30,
    "sd-digits-inpaint": 15,
    "flux-digits": 60,
    "ddim-cifar10-synthetic": 15,
    "unclip-synthetic": 10,
    "ltx-synthetic": 40,
}
ELSEWHERE = "portable"
# Platforms of which no calibration knows: kernels, threads and layouts in other combinations.
UNSEEN = {
    "aten-default-onednn-avx512": Platform({**ATEN_DEFAULT, **ONEDNN_AVX512}),
    "aten-default-onednn-avx2": Platform({**ATEN_DEFAULT, **ONEDNN_AVX2}),
    "aten-default-mkl-compatible": Platform({**ATEN_DEFAULT, **MKL_COMPATIBLE}),
    "aten-avx2-onednn-sse41": Platform({**ATEN_AVX2, **ONEDNN_SSE41}),
    "aten-avx2-mkl-avx2": Platform({**ATEN_AVX2, **MKL_AVX2}),
    "onednn-avx512-mkl-compatible": Platform({**ONEDNN_AVX512, **MKL_COMPATIBLE}),
    "onednn-avx2-mkl-avx2": Platform({**ONEDNN_AVX2, **MKL_AVX2}),
    "onednn-sse41-mkl-compatible": Platform({**ONEDNN_SSE41, **MKL_COMPATIBLE}),
    "threads-2-portable": Platform({**TWO_THREADS, **PORTABLE}),
    "threads-2-all-avx2": Platform({**TWO_THREADS, **ATEN_AVX2, **ONEDNN_AVX2, **MKL_AVX2}),
    "threads-2-oldest": Platform({**TWO_THREADS, **ATEN_DEFAULT, **ONEDNN_SSE41, **MKL_COMPATIBLE}),
    "channels-last-aten-avx2": Platform(ATEN_AVX2, enable=("channels_last",)),
    "channels-last-threads-2": Platform(TWO_THREADS, enable=("channels_last",)),
}
LEAST_SEEDS = 10  # of a scenario that is not among them
FIRST_SEED = 700_000  # far from those that calibration uses
SEED_STRIDE = 1000
NO_STAGE: DetailRequest = {"stage": "", "to_end": True}  # one run, whose modules nobody looks into
ASSERT_CLOSE = "torch.testing.assert_close"


def reseeded(case: Case, index: int) -> Case:
    """Return a case with seeds that no calibration uses."""
    seeds = tuple(seed + FIRST_SEED + SEED_STRIDE * index for seed in case.scenario.seeds)
    return replace(case, scenario=replace(case.scenario, seeds=seeds), detail=NO_STAGE)


# Faults.


def measure_faults(names: Sequence[str], out: Path) -> None:
    """Challenge each scenario that was not challenged with the bounds that it has now."""
    for name in names:
        case = first_case(name)
        path = out / "faults" / f"{name}.json"
        digest = _digest_of_bounds(case)
        if path.is_file() and json.loads(path.read_text("utf-8"))["bounds"] == digest:
            print(f"{name}: kept", flush=True)
            continue
        began = time.monotonic()
        with Session(Store(out / "store"), out / "run" / name) as session:
            other_class = ELSEWHERE, platforms_of(case)[ELSEWHERE]
            found = challenge(session, case, other_class, on_step=_ignore)
        seconds = time.monotonic() - began
        _write(path, {"bounds": digest, "seconds": seconds, "challenge": found.as_json()})
        print(f"{name}: {len(found.trials)} faults in {seconds:.0f} s", flush=True)


def _digest_of_bounds(case: Case) -> str:
    return digest_json({"bounds": json.dumps(encode(case.scenario.tolerances), sort_keys=True)})


def _ignore(_name: str, _total: int) -> None:
    pass


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


# False alarms.


@dataclass(frozen=True)
class Comparison:
    """One seed on one platform against the same seed on this machine.

    Attributes:
        key: What it was measured from: the request to the worker with its seed, the platform, the
            releases, and the figures that a drift has.
        platform: The name of the platform.
        seed: Which of the new seeds.
        local: The local drift of every tensor; empty where the platform does not fit the pipeline.
        outputs: The free drift of every output, as its L-inf and relative L2; empty without a free
            run.
        close: Whether `torch.testing.assert_close` passes every output; None without a free run.
        seconds: How long it took.
    """

    key: str
    platform: str
    seed: int
    local: tuple[StageDrift, ...] = ()
    outputs: dict[str, tuple[float, float]] = field(default_factory=dict)
    close: bool | None = None
    seconds: float = 0.0

    def can_be_judged(self, case: Case) -> bool:
        """Whether all was measured that the scenario bounds now."""
        return bool(self.local) and bool(self.outputs or not _bounds_free_drift(case))

    def checks(self, case: Case) -> list[Check]:
        """Hold the drifts against the bounds that the scenario has now."""
        tolerance = case.scenario.tolerances.cross_class
        if tolerance is None:
            raise SystemExit(f"{case.id} sets no `tolerance.cross-class`")
        found = [each.check for each in check_local(self.local, tolerance)]
        for name, (l_inf, rel_l2) in self.outputs.items():
            moved = Drift(l_inf, rel_l2, 0.0, 0.0, 0, 0, (), 0.0, 0.0)
            found += check_output(name, moved, tolerance)
        return found


class Kept:
    """The comparisons of one scenario, one a line, in the order in which they were made."""

    def __init__(self, out: Path, name: str) -> None:
        self._path = out / "alarms" / f"{name}.jsonl"
        self.comparisons = list(self._read())
        self.keys = {each.key for each in self.comparisons}

    def add(self, comparison: Comparison) -> None:
        """Keep one more, on the disk too."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(comparison)) + "\n")
        self.comparisons.append(comparison)
        self.keys.add(comparison.key)

    def _read(self) -> Iterator[Comparison]:
        if not self._path.is_file():
            return
        for line in self._path.read_text("utf-8").splitlines():
            try:
                found = json.loads(line)
            except ValueError:  # the last line of an interrupted call
                continue
            local = tuple(_drift_from(each) for each in found.pop("local"))
            outputs = {name: (pair[0], pair[1]) for name, pair in found.pop("outputs").items()}
            yield Comparison(local=local, outputs=outputs, **found)


def _drift_from(found: dict[str, object]) -> StageDrift:
    stage = Stage(**found.pop("stage"))  # type: ignore[arg-type]
    return StageDrift(stage=stage, **found)  # type: ignore[arg-type]


def measure_alarms(seeds: dict[str, int], out: Path, free: int) -> None:
    """Measure what is not kept yet; a seed's base is recorded where one of its platforms is due."""
    cases = {name: first_case(name) for name in seeds}
    kept = {name: Kept(out, name) for name in seeds}
    with Session(Store(out / "store"), out / "run") as session:
        bases = _Bases(session, cases)
        due = {
            (name, index): missing
            for name, count in seeds.items()
            for index in range(count)
            if (missing := _missing(cases[name], kept[name], index))
        }
        for name, index in due:  # all on this machine's own settings: one worker
            bases.record(name, index)
        for elsewhere in UNSEEN:
            for (name, index), missing in due.items():
                if elsewhere in missing:
                    kept[name].add(bases.compare(name, index, elsewhere, index < free))
            print(f"{elsewhere}: {_progress(kept)}", flush=True)


def _missing(case: Case, kept: Kept, index: int) -> set[str]:
    return {name for name in UNSEEN if _key(case, index, name) not in kept.keys}


def _key(case: Case, index: int, name: str) -> str:
    """Return the digest of what a comparison on the platform called `name` is measured from."""
    carried = UNSEEN[name].carry(reseeded(case, index))
    variables = json.dumps(dict(UNSEEN[name].variables), sort_keys=True)
    figures = ",".join(each.name for each in fields(StageDrift))
    return digest_json({"of": _facts(carried, variables), "figures": figures})


def _facts(case: Case, where: str) -> str:
    """Return what decides a recording: the request, the releases, and where it is made."""
    request = dict(case.request())
    request["inputs_folder"] = ""  # which checkout it is says nothing
    versions = {name: metadata.version(name) for name in ("torch", "diffusers", "transformers")}
    facts = {"request": encode(request), "versions": versions, "where": where}
    return json.dumps(facts, sort_keys=True)


def _bounds_free_drift(case: Case) -> bool:
    tolerance = case.scenario.tolerances.cross_class
    return tolerance is not None and bool(tolerance.free)


def _progress(kept: dict[str, Kept]) -> str:
    every = [each for one in kept.values() for each in one.comparisons]
    seconds = sum(each.seconds for each in every) / max(1, len(every))
    return f"{len(every)} comparisons kept, {seconds:.2f} s each"


class _Bases:
    """The recordings on this machine's own settings, with which platforms are compared."""

    def __init__(self, session: Session, cases: dict[str, Case]) -> None:
        self._session = session
        self._cases = cases
        self._recordings: dict[tuple[str, int], Recording] = {}
        self._inapplicable: set[tuple[str, str]] = set()

    def record(self, name: str, index: int) -> None:
        """Record one seed of one scenario here, or read what an earlier call recorded."""
        folder = self._session.out / "bases" / name / str(index)
        key_file = folder.with_suffix(".key")
        case = reseeded(self._cases[name], index)
        key = digest_json({"of": _facts(case, platform.node())})
        if key_file.is_file() and key_file.read_text("utf-8") == key:
            self._recordings[name, index] = Recording.read(folder)
            return
        key_file.unlink(missing_ok=True)
        self._recordings[name, index] = self._session.record(case, folder=folder)
        key_file.write_text(key, encoding="utf-8")

    def compare(self, name: str, index: int, elsewhere: str, runs_free: bool) -> Comparison:
        """Compare one seed on one platform."""
        found = Comparison(_key(self._cases[name], index, elsewhere), elsewhere, index)
        if (name, elsewhere) in self._inapplicable:
            return found
        base = self._recordings[name, index]
        case = UNSEEN[elsewhere].carry(reseeded(self._cases[name], index))
        began = time.monotonic()
        try:
            measured = self._compare(case, base, runs_free)
        except NotRecordedError:
            if not UNSEEN[elsewhere].may_not_apply:
                raise
            self._inapplicable.add((name, elsewhere))
            return found
        return replace(found, **measured, seconds=time.monotonic() - began)

    def _compare(self, case: Case, base: Recording, runs_free: bool) -> dict[str, Any]:
        folder = self._session.out / "elsewhere"
        forced = self._session.record(teacher_forced(case, base), folder=folder / "forced")
        local = drift.of_teacher_forced(forced, base)
        if not runs_free:
            return {"local": local}
        free = self._session.record(case, folder=folder / "free")
        moved = drift.of_outputs(free, base)
        close = all(
            close_everywhere(free.output_tensors[name], base.output_tensors[name])
            for name in base.outputs
        )
        outputs = {name: (each.l_inf, each.rel_l2) for name, each in moved.items()}
        return {"local": local, "outputs": outputs, "close": close}


# The table.


def print_table(names: Sequence[str], out: Path) -> None:
    """Print power and false alarms per scenario, what was missed, and what the figures add."""
    print(
        "| scenario | faults | same class | above the noise: another class | by norms alone "
        "| by `assert_close` | false alarms | `assert_close` |"
    )
    print("|---|---|---|---|---|---|---|---|")
    total: Counter[str] = Counter()
    missed = []
    for name in names:
        counts, lines = _counts(name, out)
        total.update(counts)
        missed += lines
        print(_row(name, counts))
    print(_row("together", total))
    print("\nMissed in another class though above the noise of the same figure:\n")
    print("\n".join(missed) or "none")


def _counts(name: str, out: Path) -> tuple[Counter[str], list[str]]:
    counts: Counter[str] = Counter()
    missed = []
    path = out / "faults" / f"{name}.json"
    if path.is_file():
        content = json.loads(path.read_text("utf-8"))["challenge"]
        for trial in content["trials"]:
            seen = ASSERT_CLOSE not in trial["unseen_by"]
            counts["faults"] += 1
            counts["close"] += seen
            if not trial["above_noise"]:
                continue
            counts["above"] += 1
            counts["caught"] += trial["caught"]
            counts["norms"] += trial["caught_by_norms"]
            counts["close above"] += seen
            if not trial["caught"]:
                missed.append(_missed(name, trial))
    case = first_case(name)
    for comparison in Kept(out, name).comparisons:
        is_current = comparison.key == _key(case, comparison.seed, comparison.platform)
        if not is_current or not comparison.can_be_judged(case):
            continue
        counts["judged"] += 1
        counts["alarms"] += any(not check.passed for check in comparison.checks(case))
        counts["free"] += comparison.close is not None
        counts["close alarms"] += comparison.close is False
    return counts, missed


def _row(name: str, counts: Counter[str]) -> str:
    of = counts["above"]
    cells = (
        name,
        counts["faults"],
        counts["faults"],
        f"{counts['caught']} of {of}{_percent(counts['caught'], of)}",
        f"{counts['norms']} of {of}",
        f"{counts['close above']} of {of}",
        f"{counts['alarms']} of {counts['judged']}",
        f"{counts['close alarms']} of {counts['free']}",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def _percent(part: int, whole: int) -> str:
    return f" ({100 * part / whole:.1f} %)" if whole else ""


def _missed(name: str, trial: dict[str, object]) -> str:
    """Return a line on a missed fault: its figure over the noise, and how near it came."""
    shift = trial["shift"]
    said = "the output has no noise of its own"
    if isinstance(shift, dict):
        value, noise = shift["value"], shift["noise"]
        ratio = value / noise if value is not None and noise else float("inf")
        said = f"{shift['metric']} of {shift['subject']} is x{ratio:.2f} of its noise {noise:.1e}"
    return f"- `{name}`: {trial['fault']}: {said}; x{trial['ratio']:.2f} of the nearest bound"


def main() -> None:
    """Measure, or print what was kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("faults", "alarms", "table"))
    parser.add_argument(
        "scenarios", nargs="*", metavar="NAME", help=f"default: {', '.join(SUBJECTS)}"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/power"), help="what is kept")
    parser.add_argument("--seeds", type=int, help="new seeds per scenario, in place of its own")
    parser.add_argument("--free", type=int, default=3, help="of them, those that run freely too")
    arguments = parser.parse_args()
    names = arguments.scenarios or list(SUBJECTS)
    out = arguments.out.resolve()
    if arguments.what == "faults":
        measure_faults(names, out)
    elif arguments.what == "alarms":
        seeds = {name: arguments.seeds or SUBJECTS.get(name, LEAST_SEEDS) for name in names}
        measure_alarms(seeds, out, arguments.free)
    else:
        print_table(names, out)


if __name__ == "__main__":
    main()
