"""Every command takes URLs: the same verdicts and digests as in folders, and clear refusals."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import builders
import pytest

from harness.store.blobs import blob_of
from harness.store.history import add_run, read_history
from harness.store.run_folder import Results, read_results
from harness.store.shared_baselines import open_store
from harness.store.shared_folder import open_folder
from harness.store.shared_runs import fetch_run
from harness.worker.protocol import RECORDING_FILE, TENSORS_FILE

CASE = "digits[cpu-float32]"


@pytest.fixture
def bucket(s3, monkeypatch, tmp_path) -> str:
    """Return the URL of an empty bucket, with a cache of this test alone."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    s3.stops_after = None
    return f"s3://{s3.new_bucket()}"


def facts(results: Results) -> dict[str, object]:
    """Return what must not depend on where files are kept."""
    (outcome,) = results.outcomes
    return {
        "verdict": outcome.verdict,
        "reason": outcome.reason,
        "checks": outcome.checks,
        "outputs": outcome.outputs,
        "local": outcome.local,
        "first": outcome.first_difference,
        "fingerprint": outcome.fingerprint,
        "numerics": outcome.numerics_class,
        "file": outcome.baseline.file if outcome.baseline else "",
    }


def digests(run: Path) -> dict[str, object]:
    """Return the digests of a run's recording."""
    found = json.loads(
        (run / "recordings/digits/cpu-float32" / RECORDING_FILE).read_text(encoding="utf-8")
    )
    return {
        "outputs": {name: output["digest"] for name, output in found["outputs"].items()},
        "stages": [(stage["name"], stage["outputs"]) for stage in found["stages"]],
        "tensors": found["tensors_file"],
    }


def test_a_store_in_a_bucket_gives_the_verdicts_and_digests_of_a_folder(shop, bucket, tmp_path):
    """Recorded, run, moved, explained, accepted and run again; each time by an empty cache."""
    places = {"folder": str(tmp_path), "bucket": f"{bucket}/harness"}
    seen: dict[str, list[object]] = {name: [] for name in places}
    for name, place in places.items():
        shop.scenario()
        in_store = ("--baselines", f"{place}/baselines")

        def run(out: str, place=place, in_store=in_store, name=name) -> int:
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)
            done = shop.harness("run", "--out", f"{place}/{out}", *in_store)
            assert f"results and recordings: {place}/{out}" in done.out
            folder = fetch_run(f"{place}/{out}", recordings=True)
            seen[name] += [done.code, facts(read_results(folder)), digests(folder)]
            return done.code

        recorded = shop.harness("record", "--out", f"{place}/first", *in_store)
        assert f"wrote {place}/baselines/digits/cpu-float32/" in recorded.out
        assert run("same") == 0
        edited = shop.scenario(call="{num_inference_steps: 1, output_type: np, eta: 1.0}")
        assert run("stale") == 1
        why = shop.harness("explain", f"{place}/stale", *in_store)
        seen[name] += [why.code, why.out]
        accepted = shop.harness("accept", f"{place}/stale", "--reason", "eta is 1 now", *in_store)
        assert accepted.code == 0, seen[name][-4:]
        assert run("after") == 0
        (path,) = open_store(f"{place}/baselines").files("digits", "cpu-float32")
        baseline = open_store(f"{place}/baselines").read(path)
        seen[name] += [baseline.output_digests, baseline.fingerprint, baseline.provenance.reason]
        listed = shop.harness("list", *in_store)
        assert baseline.numerics_class.name in listed.out
        report = shop.harness("report", f"{place}/after", "--html", f"{name}.html")
        assert report.code == 0
        edited.unlink()
    assert seen["bucket"] == seen["folder"]


def test_a_case_that_moved_is_explained_from_a_bucket(shop, bucket, tmp_path, monkeypatch):
    """The run is fetched, the case runs again, and what was found becomes part of the run."""
    shop.scenario(tolerance="{cross-class: {rel_l2: 1.0}}")
    in_store = ("--baselines", f"{bucket}/baselines")
    assert shop.harness("record", *in_store).code == 0
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert shop.harness("run", "--out", f"{bucket}/moved", *in_store).code == 0
    monkeypatch.delenv("ATEN_CPU_CAPABILITY")
    shutil.rmtree(tmp_path / "cache")
    done = shop.harness("explain", f"{bucket}/moved", CASE, "--root-causes", "1", *in_store)
    assert done.code == 0
    assert "operator: aten.randn.generator" in done.out
    shutil.rmtree(tmp_path / "cache")
    run = fetch_run(f"{bucket}/moved", recordings=False)
    assert [path.name for path in (run / "explanations").iterdir()] == [f"{CASE}.txt"]


def test_a_second_night_without_drift_fetches_and_sends_no_tensors(shop, bucket, s3, tmp_path):
    """A machine that has fetched nothing needs the digests alone; the gate does, too."""
    shop.scenario()
    place = f"{bucket}/harness"
    in_store = ("--baselines", f"{place}/baselines")
    assert shop.harness("record", *in_store).code == 0
    assert shop.harness("run", "--out", f"{place}/night-1", *in_store).code == 0
    (path,) = open_store(f"{place}/baselines").files("digits", "cpu-float32")
    first = fetch_run(f"{place}/night-1", recordings=True) / "recordings/digits/cpu-float32"
    baseline = blob_of(open_store(f"{place}/baselines").read(path).tensors_path).name
    recording = blob_of(first / TENSORS_FILE).name
    shutil.rmtree(tmp_path / "cache")
    s3.requests.clear()
    assert shop.harness("run", "--out", f"{place}/night-2", *in_store).code == 0
    (shop.root / "policy.yaml").write_text(
        "commit: any\nworking-tree: any\nrequire: [{scenarios: [digits], on: [cpu]}]\n",
        encoding="utf-8",
    )
    gate = ("gate", place, "--policy", "policy.yaml", *in_store)
    opened = shop.harness(*gate)
    assert (opened.code, opened.out[:4]) == (0, "open")
    methods = [method for method, path in s3.requests if recording in path or baseline in path]
    assert methods == ["HEAD"]  # the recording's are there already
    assert shop.harness(*gate, "--recordings").code == 0


def test_a_project_names_its_places(shop, bucket):
    """The command line may leave them out, and still decides where it names them."""
    (shop.root / "pyproject.toml").write_text(
        f'[tool.harness]\nbaselines = "{bucket}/baselines"\nhistory = "{bucket}/history"\n'
        f'runs = "{bucket}/runs"\n',
        encoding="utf-8",
    )
    shop.scenario()
    assert shop.harness("record").code == 0
    assert not (shop.root / "baselines").exists()
    done = shop.harness("run")
    assert done.code == 0
    assert f"results and recordings: {bucket}/runs/2" in done.out
    assert f"sent to {bucket}/runs/2" in done.err
    history = read_history(open_folder(f"{bucket}/history"))
    assert [file.points for file in history.files] == [1]
    assert history.files[0].run in done.out
    assert shop.harness("history", f"{bucket}/history").code == 0
    assert shop.harness("run", "--baselines", "baselines", "--out", "here").code == 1
    assert (shop.root / "here" / "results.json").is_file()


@pytest.mark.parametrize("value", ['"s3://key:hunter2@bucket/b"', "1", '["a"]'])
def test_a_place_of_a_project_that_cannot_be_used_is_refused_on_its_line(shop, value):
    """No secret is repeated."""
    text = f"[tool.harness]\ntrust = []\nbaselines = {value}\n"
    (shop.root / "pyproject.toml").write_text(text, encoding="utf-8")
    shop.scenario()
    done = shop.harness("list")
    assert done.code == 2
    assert "pyproject.toml:3: `tool.harness.baselines`" in done.err
    assert "hunter2" not in done.err


def test_a_store_that_is_not_reached_ends_the_command_before_anything_runs(shop, bucket):
    """A bucket that does not exist, a URL with a password, a scheme that nobody knows."""
    shop.scenario()
    for option in ("--baselines", "--out"):
        done = shop.harness("run", option, "s3://no-such-bucket/x")
        assert done.code == 2
        assert "names a bucket that does not exist" in done.err
    done = shop.harness("run", "--baselines", "s3://key:hunter2@bucket/x")
    assert done.code == 2
    assert "hunter2" not in done.err
    assert shop.harness("run", "--baselines", "no-such-scheme://x/y").code == 2
    assert shop.harness("report", f"{bucket}/nothing").code == 2
    assert not (shop.root / "runs").exists()


def test_a_damaged_baseline_in_a_bucket_is_an_error_of_its_case_alone(shop, tmp_path, monkeypatch):
    """The other case goes on."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    place = f"file://{tmp_path}/there/baselines"
    shop.scenario()
    shop.scenario("other", seed="1")
    assert shop.harness("record", "--baselines", place).code == 0
    for record in (tmp_path / "there" / "baselines" / "digits").rglob("*.json"):
        record.write_bytes(b"")
    done = shop.harness("run", "--baselines", place, "--out", "run")
    assert done.code == 1
    found = {each.case: each.verdict for each in read_results(shop.root / "run").outcomes}
    assert found == {CASE: "error", "other[cpu-float32]": "identical"}


def test_a_night_of_many_writers_is_whole_in_a_bucket(bucket):
    """Twelve machines add their runs at once; none is lost, and one that comes twice is one."""

    def add(number: int) -> None:
        results = Results(
            format="harness-results/2",
            outcomes=(builders.outcome("identical"),),
            environment=builders.environment(),
            written="2026-11-21T02:00:00+00:00",
            digest=f"{number:032x}"[::-1],
        )
        add_run(open_folder(f"{bucket}/history"), results, f"machine-{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, [*range(12), 0, 1, 2]))
    history = read_history(open_folder(f"{bucket}/history"))
    assert sorted(file.run for file in history.files) == sorted(
        f"machine-{number}" for number in range(12)
    )
    assert history.problems == ()


def test_a_copy_says_what_it_did(recorded, bucket):
    """From a folder into a bucket, and again."""
    place = f"{bucket}/baselines"
    done = recorded.harness("copy", "baselines", place)
    assert (done.code, done.out) == (
        0,
        f"baselines: 1 copied to {place}, 0 were there already, 0 differ\n",
    )
    assert "1 were there already" in recorded.harness("copy", "baselines", place).out
    assert recorded.harness("run", "--baselines", place).code == 0
