"""Owns the Python API: what scripts and notebooks call in the place of the command line.

    import harness

    results = harness.run("scenarios", device="cpu")
    assert all(outcome.passes for outcome in results)
    outcome = harness.check(pipeline, {"prompt": "a lighthouse"}, baseline="lighthouse")

Nothing is printed. A mistake raises `harness.errors.UsageError`; a drift is an outcome, not an
error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Protocol, cast

from harness.errors import NotRecordedError, UsageError
from harness.launch.in_process import InProcessSlot
from harness.records import Device, Drift, Outcome, Reason
from harness.report.advice import ACCEPTABLE
from harness.scenario.given import Bounds, GivenSpec, of_array, of_pipeline
from harness.scenario.model import Case, Scenario
from harness.scenario.project import BASELINES, RUNS, project_at, seen_from
from harness.scenario.reading import read_all
from harness.scenario.select import select
from harness.session import Session, WhenEvaluated, to_record
from harness.store.baselines import Store
from harness.store.recording import Recording
from harness.store.run_folder import new_run
from harness.store.shared_baselines import open_store
from harness.store.shared_folder import is_url
from harness.study.accepting import FIRST_RECORDING, lacks_baseline, put_in_store
from harness.study.quick_calibration import FOLDER, Recorded, add_bounds, without_bounds

if TYPE_CHECKING:
    from harness.records import Array

PathOrText = str | Path


class _Tensor(Protocol):
    """What is used of a tensor of torch."""

    dtype: object

    def detach(self) -> _Tensor: ...

    def cpu(self) -> _Tensor: ...

    def float(self) -> _Tensor: ...


Chosen = PathOrText | Scenario | Case | Iterable[PathOrText | Scenario | Case]


def load(path: PathOrText) -> list[Scenario]:
    """Return the scenarios of a YAML file, or of all YAML files below a folder.

    Raises:
        ScenarioError: A file has a mistake.
        UsageError: The path does not exist, or holds no scenario.
    """
    return read_all([Path(path)])


def run(
    chosen: Chosen | None = None,
    *,
    keyword: str = "",
    device: str | None = None,
    baselines: PathOrText | None = None,
    out: PathOrText | None = None,
    jobs: int = 1,
) -> list[Outcome]:
    """Run cases and judge them, as `harness run` does.

    Args:
        chosen: Paths, scenarios or cases, or one of them; by default all of the project.
        keyword: Only cases that this expression admits, as for `-k`.
        device: Only cases on this device, such as `cpu`.
        baselines: The store; by default that of the project.
        out: The run's folder; by default a new one below the project's `runs/`.
        jobs: How many workers run at once.

    Returns:
        The outcomes in the order of the cases.

    Raises:
        ScenarioError: A file has a mistake.
        UsageError: Nothing is chosen, or another run is writing into `out`.
    """
    cases = _cases(chosen, keyword, device)
    return _run(cases, _store(baselines), out, jobs).outcomes


def record(  # noqa: PLR0913 (keywords, each with a default)
    chosen: Chosen | None = None,
    *,
    keyword: str = "",
    device: str | None = None,
    baselines: PathOrText | None = None,
    out: PathOrText | None = None,
    reason: str = FIRST_RECORDING,
    calibrate: bool = True,
) -> list[Path]:
    """Run cases and write the baselines that this machine's class lacks, as `harness record` does.

    Args:
        chosen: Paths, scenarios or cases, or one of them; by default all of the project.
        keyword: Only cases that this expression admits, as for `-k`.
        device: Only cases on this device.
        baselines: The store; by default that of the project.
        out: The run's folder; by default a new one below the project's `runs/`.
        reason: Kept in each baseline.
        calibrate: Whether a quick calibration measures bounds for machines of other classes, where
            a scenario sets none. A case of which it cannot measure any gets none.

    Returns:
        The JSON file of each baseline that was written. A case that fails, or has a baseline
        already, gets none.

    Raises:
        ScenarioError: A file has a mistake.
        UsageError: Nothing is chosen, or another run is writing into `out`.
        FileError: A baseline cannot be written.
    """
    cases = [case for case in _cases(chosen, keyword, device) if case.scenario.needs_baseline]
    asked = [to_record(case) for case in cases]
    session = _run(asked, _store(baselines), out, 1, WhenEvaluated.NEVER)
    outcomes = {outcome.case: outcome for outcome in session.outcomes}
    written = []
    for case in cases:
        if lacks_baseline(outcomes[case.id]):
            recording = Recording.read(session.folder(case))
            baseline = put_in_store(session.store, case, recording, reason)
            written.append(Recorded(case, recording, baseline))
    if calibrate:
        _add_bounds(session, written)
    return [each.baseline for each in written]


def _add_bounds(session: Session, written: Sequence[Recorded]) -> None:
    """Measure bounds for the new baselines that lack them, by workers of their own."""
    asked = without_bounds(session.store, written)
    if not asked:
        return
    with Session(session.store, session.out / FOLDER) as quick:
        for each in asked:
            with suppress(NotRecordedError, UsageError):
                add_bounds(quick, each, lambda _: None)


def compare(actual: object, expected: object) -> Drift:
    """Return how far one array moved from another one; nothing is judged.

    Args:
        actual: A numpy array, a tensor on any device, or an image of Pillow.
        expected: The same of the other side, of the same shape.

    Raises:
        ValueError: The shapes differ.
    """
    from harness.judge.drift import measure

    return measure(_array(actual), _array(expected))


def check(  # noqa: PLR0913 (keywords, each with a default)
    value: object,
    call: Mapping[str, object] | None = None,
    *,
    baseline: str,
    tolerance: Bounds | None = None,
    seed: int | Sequence[int] = 0,
    baselines: PathOrText | None = None,
    update: bool = False,
    accept: str = "",
) -> Outcome:
    """Hold a pipeline's run, or an array, of this process against a stored baseline.

    Args:
        value: A pipeline of diffusers on its device, or an array, a tensor or an image.
        call: The arguments of the pipeline's call; None for an array.
        baseline: The name of the baseline.
        tolerance: Cross-class bounds: `rel_l2`, `l_inf`, and of a pipeline `local_rel_l2` and
            `local_l_inf`. On a machine of the baseline's class the same bits are owed.
        seed: Of the generator, or of one for each image of a batch, where `call` has none.
        baselines: The store; by default that of the project.
        update: Write the baseline where there is none.
        accept: Why the baseline is replaced where this run drifted; empty to replace none.

    Returns:
        The outcome. Its verdict stays what it was where a baseline was written.

    Raises:
        UsageError: The name, an argument or a bound cannot be used.
        FileError: The baseline cannot be written.
    """
    spec = GivenSpec(baseline, Path(), tolerance or {})
    if call is None:
        given = of_array(value, spec)
    else:
        given = of_pipeline(value, call, spec, seed=seed)
    with (
        TemporaryDirectory(prefix="harness-") as folder,
        Session(_store(baselines), Path(folder)) as session,
    ):
        outcome = session.run(given.case, InProcessSlot(given.objects))
        reason = accept if outcome.reason in ACCEPTABLE else ""
        if outcome.reason is Reason.NO_BASELINE and (update or accept):
            reason = accept or FIRST_RECORDING
        if reason:
            recording = Recording.read(session.folder(given.case))
            put_in_store(session.store, given.case, recording, reason)
    return outcome


def _run(
    cases: Sequence[Case],
    store: Store,
    out: PathOrText | None,
    jobs: int,
    evaluated: WhenEvaluated = WhenEvaluated.CHEAP,
) -> Session:
    """Run cases, and return the closed session with the outcomes in the order of the cases."""
    folder = _new_run() if out is None else Path(out)
    with Session(store, folder, evaluated=evaluated) as session:
        session.run_all(cases, jobs, lambda _: None)
    order = {case.id: index for index, case in enumerate(cases)}
    session.outcomes.sort(key=lambda outcome: order[outcome.case])
    return session


def _store(named: PathOrText | None) -> Store:
    """Return the store that was named, or else that of the project of the working directory."""
    if named is not None:
        return open_store(str(named))
    here = Path.cwd()
    project = project_at(here)
    return open_store(seen_from(here, project.root, project.places.baselines or BASELINES))


def _new_run() -> Path:
    """Make the folder of a new run: below that of the project, where it is no URL."""
    here = Path.cwd()
    project = project_at(here)
    runs = project.places.runs
    return new_run(Path(seen_from(here, project.root, RUNS if is_url(runs) else runs or RUNS)))


def _all_scenarios() -> list[Path]:
    """Return the folders of the project's scenarios."""
    here = Path.cwd()
    project = project_at(here)
    return [Path(seen_from(here, project.root, folder)) for folder in project.scenarios]


def _cases(chosen: Chosen | None, keyword: str, device: str | None) -> list[Case]:
    chosen = _all_scenarios() if chosen is None else chosen
    one = isinstance(chosen, str | Path | Scenario | Case)
    given = [chosen] if one else list(chosen)  # type: ignore[arg-type]
    if all(isinstance(each, Case) for each in given):
        return [each for each in given if isinstance(each, Case)]
    paths = [Path(each) for each in given if isinstance(each, str | Path)]
    scenarios = [each for each in given if isinstance(each, Scenario)]
    if len(paths) + len(scenarios) != len(given):
        raise UsageError("expected paths, scenarios or cases, and cases apart from the others")
    scenarios += read_all(paths) if paths else []
    return select(scenarios, keyword, None if device is None else Device(device))


def _array(value: object) -> Array:
    import numpy as np

    if not hasattr(value, "detach"):
        return np.asarray(value)
    tensor = cast("_Tensor", value).detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":  # which numpy does not have
        tensor = tensor.float()
    return np.asarray(tensor)
