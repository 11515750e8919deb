"""Runs behind URLs: all of a run or nothing, the same digests, and contents sent once."""

from __future__ import annotations

import shutil
from pathlib import Path

import builders
import pytest

from harness.errors import FileError, UsageError
from harness.records import Verdict
from harness.session import Session
from harness.store.baselines import Store
from harness.store.copying import Kind, copy
from harness.store.recording import Recording
from harness.store.run_folder import read_results
from harness.store.shared_baselines import open_store
from harness.store.shared_files import SharedFiles, mirror_of
from harness.store.shared_runs import begin_run, fetch_run, name_of_new_run, record_of, send_run


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Give each test a cache of its own."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def run(tmp_path) -> Path:
    """Return the folder of a run of one case, made by hand, with what is no part of it."""
    session = Session(Store(tmp_path / "baselines"), tmp_path / "run")
    case = builders.case()
    builders.recording(session.folder(case), case=case.request())
    session.outcomes.append(builders.outcome(Verdict.MISSING))
    session.write_results()
    (session.out / ".owner.lock").touch()
    (session.out / "results-gw0.json").write_text("{}", encoding="utf-8")
    return session.out


@pytest.fixture(params=["file", "s3"])
def place(request, tmp_path, monkeypatch):
    """Return the URL of an empty folder for runs."""
    if request.param == "file":
        return f"file://{tmp_path}/there"
    server = request.getfixturevalue("s3")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.stops_after = None
    return f"s3://{server.new_bucket()}"


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_run_comes_back_as_it_was(place, run, cache):
    """Byte for byte, without locks and parts, on a machine that has fetched nothing."""
    expected = files_of(run)
    del expected[".owner.lock"], expected["results-gw0.json"]
    sent = send_run(run, f"{place}/night-1")
    assert (sent.files, sent.new_blobs) == (len(expected), len(expected))
    shutil.rmtree(cache)
    found = fetch_run(f"{place}/night-1", recordings=True)
    assert found.name == "night-1"
    assert files_of(found) == expected
    assert read_results(found).digest == read_results(run).digest
    Recording.read(found / "recordings" / "digits" / "cpu-float32").verify_tensors()


def test_recordings_are_fetched_only_where_they_are_needed(place, run, cache):
    """A report needs the results alone."""
    send_run(run, f"{place}/night-1")
    shutil.rmtree(cache)
    found = fetch_run(f"{place}/night-1", recordings=False)
    assert list(files_of(found)) == ["results.json"]


def test_the_second_night_sends_only_what_is_new(place, run):
    """Its recordings have the same bits, and so the same names."""
    send_run(run, f"{place}/night-1")
    session = Session(Store(run.parent / "baselines"), run)
    session.outcomes.append(builders.outcome(Verdict.IDENTICAL))
    session.write_results()
    sent = send_run(run, f"{place}/night-2")
    assert sent.new_blobs == 1
    assert read_results(fetch_run(f"{place}/night-1", recordings=True)).digest != (
        read_results(fetch_run(f"{place}/night-2", recordings=True)).digest
    )


def test_a_run_shares_its_contents_with_the_baselines_beside_it(tmp_path, run):
    """The tensors of a case that gave its baseline's bits are not sent at all."""
    place = f"file://{tmp_path}/there"
    recording = Recording.read(run / "recordings" / "digits" / "cpu-float32")
    open_store(f"{place}/baselines").write(builders.case(), recording, "first")
    sent = send_run(run, f"{place}/night-1")
    assert sent.new_blobs == sent.files - 1


def test_a_run_that_is_sent_again_replaces_the_one_of_its_name(place, run):
    """What the other one left in the folder of this machine is gone, too."""
    (run / "old.txt").write_text("old", encoding="utf-8")
    send_run(run, f"{place}/night")
    assert "old.txt" in files_of(fetch_run(f"{place}/night", recordings=True))
    (run / "old.txt").unlink()
    send_run(run, f"{place}/night")
    assert "old.txt" not in files_of(fetch_run(f"{place}/night", recordings=True))


def test_an_interrupted_run_is_not_seen_and_goes_on(run, s3, monkeypatch, cache):
    """The folder stays, and the error says how it is sent later; what arrived is not sent again."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    s3.stops_after = None
    place = f"s3://{s3.new_bucket()}/night"
    on_its_way = begin_run(place)
    shutil.copytree(run, on_its_way.folder, dirs_exist_ok=True)
    s3.stops_after = 2
    with pytest.raises(FileError, match=r"harness copy .*/night s3://.*/night` sends it"):
        on_its_way.send()
    s3.stops_after = None
    with pytest.raises(FileError, match="holds no run, or one that was not sent to its end"):
        fetch_run(place, recordings=True)
    arrived = s3.count("PUT", "/blobs/")
    assert arrived >= 2
    s3.requests.clear()
    done = copy(str(on_its_way.folder), place)
    assert done.kind is Kind.RUN
    assert s3.count("PUT", "/blobs/") == 1  # of three contents, two had arrived
    shutil.rmtree(cache)
    assert read_results(fetch_run(place, recordings=True)).outcomes


def test_a_run_on_its_way_leaves_no_folder(tmp_path, run, cache):
    """It is in the cache by its contents, if anybody asks for it again."""
    place = f"file://{tmp_path}/there/night"
    on_its_way = begin_run(place)
    assert on_its_way.folder.name == "night"
    shutil.copytree(run, on_its_way.folder, dirs_exist_ok=True)
    on_its_way.send()
    assert not [each for each in (cache / "stores" / "runs").iterdir() if each.is_dir()]
    assert files_of(fetch_run(place, recordings=True))


def test_what_explains_a_run_is_added_to_it(place, run):
    """Whatever part of the run this machine has fetched, nothing is lost."""
    send_run(run, f"{place}/night")
    found = fetch_run(f"{place}/night", recordings=False)
    (found / "explanations").mkdir()
    (found / "explanations" / "digits.txt").write_text("why", encoding="utf-8")
    before = record_of(SharedFiles(f"{place}/night"))
    send_run(found, f"{place}/night", also=before)
    after = record_of(SharedFiles(f"{place}/night"))
    assert {file.path for file in after.files} - {file.path for file in before.files} == {
        "explanations/digits.txt"
    }
    assert set(before.files) <= set(after.files)


def test_names_of_new_runs_differ_between_machines():
    """Two machines may begin in the same second."""
    names = {name_of_new_run("s3://bucket/runs/") for _ in range(20)}
    assert len(names) == 20
    assert all(name.startswith("s3://bucket/runs/2") for name in names)
    assert len({mirror_of(name) for name in names}) == 20


# Copying.


def baselines_in(tmp_path: Path, *images) -> Store:
    """Return a plain store with a baseline of each numerics class, from `a` on."""
    store = Store(tmp_path / "baselines")
    for number, image in enumerate(images):
        folder = tmp_path / f"recording-{number}"
        recording = builders.recording(folder, image, letter="abcdef"[number])
        store.write(builders.case(), recording, "first")
    return store


def test_a_store_moves_into_a_bucket_and_out_of_it(place, tmp_path, cache):
    """The files in the folder are the same, byte for byte, with the ledger."""
    store = baselines_in(tmp_path, builders.IMAGE, builders.MOVED)
    done = copy(str(store.root), f"{place}/baselines")
    assert len(done.written) == 2
    assert copy(str(store.root), f"{place}/baselines").same == done.written
    shutil.rmtree(cache)
    copy(f"{place}/baselines", str(tmp_path / "back"))
    found = files_of(tmp_path / "back")
    expected = files_of(store.root)
    assert {name: found[name] for name in found if not name.startswith(".locks")} == {
        name: expected[name] for name in expected if not name.startswith(".locks")
    }


def test_another_baseline_in_the_target_is_left_unless_it_is_to_be_replaced(tmp_path):
    """Copying an old store over a new one must not undo what was accepted."""
    place = f"file://{tmp_path}/there/baselines"
    store = baselines_in(tmp_path, builders.IMAGE)
    copy(str(store.root), place)
    newer = builders.recording(tmp_path / "newer", builders.MOVED)
    open_store(place).write(builders.case(), newer, "second")
    done = copy(str(store.root), place)
    assert (len(done.differing), done.written) == (1, [])
    (path,) = open_store(place).every_file()
    assert open_store(place).read(path).provenance.reason == "second"
    assert len(copy(str(store.root), place, replace=True).written) == 1
    assert open_store(place).read(path).provenance.reason == "first"


def test_a_damaged_content_is_mended_by_copying_again(tmp_path, cache):
    """As the error says that names it."""
    place = f"file://{tmp_path}/there/baselines"
    store = baselines_in(tmp_path, builders.IMAGE)
    copy(str(store.root), place)
    for blob in (tmp_path / "there" / "blobs").rglob("*"):
        if blob.is_file():
            blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    shutil.rmtree(cache)
    (path,) = open_store(place).every_file()
    with pytest.raises(FileError, match="harness copy --again FROM TO"):
        open_store(place).read(path)
    copy(str(store.root), place, again=True)
    assert open_store(place).read(path).provenance.reason == "first"


def test_what_is_neither_run_nor_store_is_refused(tmp_path, run):
    """Neither as source nor as target."""
    with pytest.raises(UsageError, match="holds neither a run nor baselines"):
        copy(str(tmp_path / "nowhere"), str(tmp_path / "x"))
    with pytest.raises(UsageError, match="holds neither a run nor baselines"):
        copy(f"file://{tmp_path}/nowhere", str(tmp_path / "x"))
    with pytest.raises(UsageError, match="is there already"):
        copy(str(run), str(tmp_path))
