"""The history: what runs add is read back as columns, from files that nobody ever changes."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import builders
import numpy as np
import pytest

from harness.errors import FileError, UsageError
from harness.records import Check, Drift, Metric, Stage, StageDrift
from harness.store.history import add_run, add_run_folder, read_history
from harness.store.run_folder import RESULTS_FORMAT, Results, write_results
from harness.store.shared_folder import open_folder

NOON = "2026-01-02T12:00:00+00:00"
DRIFT = Drift(0.5, 0.25, 2.5, 2.25, 3, 4, (0,), 0.75, 0.25)
MOVED = builders.outcome(
    "within",
    numerics_class="cpu-a",
    device_kind="cpu",
    tags=("slow", "guide"),
    outputs={"image": DRIFT, "audio": replace(DRIFT, l_inf=0.125, rel_l2=0.5)},
    local=(StageDrift(Stage("unet", 0), "sample", 1e-3, 1e-4),),
    checks=(Check("image", Metric.REL_L2, 0.25, 0.5), Check("audio", Metric.REL_L2, 0.5, 1.5)),
)


def results(*outcomes, written=NOON, digest="a" * 32, letter="a"):
    environment = builders.environment(letter)
    return Results(
        RESULTS_FORMAT,
        tuple(outcomes),
        written=written,
        digest=digest,
        environments={environment.numerics_class.name: environment},
        commit="c" * 40,
    )


@pytest.fixture
def folder(tmp_path):
    return open_folder(str(tmp_path / "history"))


def test_an_outcome_becomes_a_point_with_its_worst_drifts_and_smallest_margin(folder):
    """What has no value is NaN, and an empty word stays empty."""
    add_run(folder, results(MOVED, builders.outcome("error", "other")), "nightly")
    history = read_history(folder)
    words = {name: column.of(0) for name, column in history.words.items()}
    assert words == {
        "case": "digits[cpu-float32]",
        "target": "cpu-float32",
        "variant": "",
        "tags": "slow,guide",
        "numerics_class": "cpu-a",
        "device_kind": "cpu",
        "verdict": "within",
        "reason": "inside-tolerance",
        "baseline": "",
        "accuracy": "",
    }
    first = {name: float(column[0]) for name, column in history.numbers.items()}
    known = {name: value for name, value in first.items() if not math.isnan(value)}
    assert known == {
        "free_l_inf": 0.5,
        "free_rel_l2": 0.5,
        "local_l_inf": 1e-3,
        "local_rel_l2": 1e-4,
        "margin": 2.0,
        "free_bound": 0.5,
    }
    assert all(math.isnan(column[1]) for column in history.numbers.values())
    assert history.files[0].commit == "c" * 40
    assert history.times[0] == datetime.fromisoformat(NOON).timestamp()
    environment = history.environment_of(history.files[0].environments["cpu-a"])
    assert environment == builders.environment("a")


def test_runs_are_read_in_the_order_of_time_and_since_a_moment(folder):
    """Whichever was added first; older files are not opened."""
    for day, digest in ((3, "c"), (1, "a"), (2, "b")):
        run = results(MOVED, written=f"2026-01-0{day}T12:00:00+00:00", digest=digest * 32)
        add_run(folder, run, f"run-{day}")
    assert [file.run for file in read_history(folder).files] == ["run-1", "run-2", "run-3"]
    since = datetime(2026, 1, 2, tzinfo=UTC)
    assert [file.run for file in read_history(folder, since).files] == ["run-2", "run-3"]


def test_a_run_that_is_added_twice_is_kept_once(tmp_path, folder):
    """The name of its file comes from the seal of its results."""
    out = tmp_path / "nightly"
    write_results(out, [MOVED], builders.environment())
    place = str(tmp_path / "history")
    assert add_run_folder(place, out) == add_run_folder(place, out)
    history = read_history(folder)
    assert [file.run for file in history.files] == ["nightly"]
    assert history.words["numerics_class"].of(0) == "cpu-a"


def test_many_writers_into_one_folder_lose_nothing(tmp_path):
    """There is no lock: every writer has a name of its own."""
    place = str(tmp_path / "history")

    def add(number: int) -> None:
        run = results(MOVED, digest=f"{number:032x}"[::-1], letter="abc"[number % 3])
        add_run(open_folder(place), run, f"run-{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(60)))
    history = read_history(open_folder(place))
    assert len(history.files) == 60
    assert history.problems == ()
    assert len(list((tmp_path / "history/environments").iterdir())) == 3
    assert not list((tmp_path / "history/runs").glob(".*"))


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (b'"within"', b'"drifte"', "was changed or cut short"),
        (b"harness-history/1", b"harness-history/9", "has format"),
        (b"{", b"[", "is not the JSON"),
    ],
)
def test_a_damaged_file_is_left_out_and_named(tmp_path, folder, old, new, problem):
    """One broken file does not hide a year of nights."""
    add_run(folder, results(MOVED, digest="a" * 32), "good")
    bad = tmp_path / "history" / add_run(folder, results(MOVED, digest="b" * 32), "bad")
    bad.write_bytes(bad.read_bytes().replace(old, new, 1))
    history = read_history(folder)
    assert [file.run for file in history.files] == ["good"]
    (found,) = history.problems
    assert str(bad) in str(found)
    assert problem in str(found)


def test_a_column_of_another_length_or_without_numbers_is_refused(tmp_path, folder):
    """A seal is no signature: whoever changes a file can seal it anew."""
    from harness.worker.files import digest_json

    name = add_run(folder, results(MOVED, builders.outcome("error", "other")), "run")
    path = tmp_path / "history" / name
    good = json.loads(path.read_text())
    for column, text, problem in (
        ("margin", "1 2 3", "of another length"),
        ("margin", "1 x", "that is none"),
    ):
        content = {**good, "numbers": {**good["numbers"], column: text}}
        path.write_text(json.dumps({**content, "digest": digest_json(content)}))
        (found,) = read_history(folder).problems
        assert problem in str(found)


def test_what_cannot_be_placed_in_time_or_is_empty_is_refused(folder):
    """Nothing is added then."""
    with pytest.raises(UsageError, match="holds no outcome"):
        add_run(folder, results(), "empty")
    with pytest.raises(UsageError, match="do not say when"):
        add_run(folder, results(MOVED, written="yesterday"), "undated")
    assert read_history(folder).files == ()


def test_a_url_is_read_and_written_through_fsspec(tmp_path):
    """Here a file system in memory; a second reader sees what the first one added."""
    pytest.importorskip("fsspec")
    place = f"memory://{tmp_path.name}/history"
    add_run(open_folder(place), results(MOVED, digest="a" * 32), "one")
    add_run(open_folder(place), results(MOVED, digest="b" * 32), "two")
    history = read_history(open_folder(place))
    assert sorted(file.run for file in history.files) == ["one", "two"]
    assert np.isfinite(history.numbers["margin"]).all()
    digest = history.files[0].environments["cpu-a"]
    assert history.environment_of(digest) == builders.environment("a")


def test_a_url_that_cannot_be_used_says_what_to_install(monkeypatch):
    """A local folder needs nothing."""
    import sys

    with pytest.raises(UsageError, match="diffusion-harness\\[remote\\]"):
        open_folder("no-such-scheme://bucket/history")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(UsageError, match="fsspec and its package for s3 are needed"):
        open_folder("s3://bucket/history")
    assert open_folder("history").place == "history"


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path):
    """Such as a file where the folder should be."""
    (tmp_path / "runs").write_text("")
    with pytest.raises(FileError, match="cannot be read"):
        read_history(open_folder(str(tmp_path)))
