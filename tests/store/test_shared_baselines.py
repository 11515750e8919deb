"""Baselines behind a URL: written whole, read whole; damage is found, and nobody is overwritten."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import builders
import fsspec
import numpy as np
import pytest

from harness.errors import BaselineError, FileError, UsageError
from harness.judge.drift import measure
from harness.records import Comparison, DetectionRate
from harness.store.baselines import Store
from harness.store.blobs import blob_of
from harness.store.ledger import Ledger, distance, entry_of, walks, with_distances
from harness.store.shared_baselines import SharedStore, open_store
from harness.store.shared_files import SharedFiles, mirror_of
from harness.worker.files import digest_json, dumps

CASE = builders.case()
FOLDER = "digits/cpu-float32"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Give each test a cache of its own; git knows an author, and the folder is no repository."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Ada L")
    monkeypatch.setenv("GIT_AUTHOR_EMAIL", "ada@example.org")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", "/")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def bucket(s3, monkeypatch):
    """Return the URL of an empty bucket."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    s3.stops_after = None
    return f"s3://{s3.new_bucket()}"


@pytest.fixture
def shared(tmp_path):
    """Return a store behind a URL whose files the tests can see, and the folder that it is."""
    return open_store(f"file://{tmp_path}/there/baselines"), tmp_path / "there"


@pytest.fixture
def recorded(tmp_path):
    """Return a function that writes a recording to a folder of its own."""

    def record(name: str = "recording", *arguments, **changes):
        return builders.recording(tmp_path / name, *arguments, **changes)

    return record


def other_machine(cache: Path, place: str) -> Store:
    """Return the store as a machine sees it that has fetched nothing yet."""
    shutil.rmtree(cache, ignore_errors=True)
    return open_store(place)


def only(folder: Path, pattern: str) -> Path:
    found = list(folder.rglob(pattern))
    assert len(found) == 1, found
    return found[0]


def blobs_in(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "blobs").rglob("*") if path.is_file())


# Writing and reading.


@pytest.mark.parametrize("place", ["file", "memory", "s3"])
def test_a_baseline_is_the_same_behind_a_url_as_in_a_folder(
    place, tmp_path, cache, recorded, request
):
    """The same digests, tensors and provenance, read by a machine that has fetched nothing."""
    url = f"{place}://{tmp_path}/there/baselines"
    if place == "memory":
        url = f"memory://{tmp_path.name}/baselines"
    if place == "s3":
        url = f"{request.getfixturevalue('bucket')}/baselines"
    recording = recorded()
    plain = Store(tmp_path / "plain")
    expected = plain.read(plain.write(CASE, recording, "why"))
    open_store(url).write(CASE, recording, "why")
    store = other_machine(cache, url)
    (path,) = store.files("digits", "cpu-float32")
    found = store.read(path)
    differing = {"path": path, "tensors_path": found.tensors_path, "digest": found.digest}
    differing["provenance"] = replace(expected.provenance, date=found.provenance.date)
    assert found == replace(expected, **differing)
    assert found.tensors_path.read_bytes() == expected.tensors_path.read_bytes()
    match = store.match(CASE, recording.numerics_class)
    assert match is not None
    assert match.comparison is Comparison.SAME_CLASS
    assert match.judged_by().file == f"{FOLDER}/{path.name}"
    assert store.known(CASE) == plain.known(CASE)
    assert store.shown(path) == f"{url}/{FOLDER}/{path.name}"


def test_a_path_stays_a_plain_store(tmp_path):
    """No blobs, no cache, no URL."""
    store = open_store(str(tmp_path / "baselines"))
    assert type(store) is Store
    assert store.url == ""


def test_an_empty_place_holds_nothing(shared, recorded):
    """It is made by the first that writes."""
    store, there = shared
    assert store.files("digits", "cpu-float32") == []
    assert store.match(CASE, recorded().numerics_class) is None
    assert store.classes("digits", "cpu-float32") == []
    assert not there.exists()


def test_a_replacement_is_a_new_record_and_the_old_one_stays(shared, recorded):
    """The newest counts; the seal of what it replaced and the reference come from the old one."""
    store, there = shared
    first = store.read(store.write(CASE, recorded("one"), "first"))
    path = store.write(CASE, recorded("two", builders.MOVED), "second")
    second = store.read(path)
    assert second.provenance.replaced == first.digest
    assert second.reference
    name = f"baselines/{FOLDER}/{path.stem}"
    assert sorted(p.name for p in (there / name).iterdir()) == ["00000001.json", "00000002.json"]
    assert np.array_equal(second.output_tensors["image"], builders.MOVED)


def test_evidence_and_detection_rate_are_kept(shared, recorded, cache):
    """They change the JSON file alone: the tensors are not sent again."""
    store, there = shared
    path = store.write(CASE, recorded(), "first")
    before = len(blobs_in(there))
    rate = DetectionRate(4, 3, 4, 2, ("x",), "portable")
    store.annotate(path, detection_rate=rate)
    assert len(blobs_in(there)) == before + 1
    again = other_machine(cache, store.url)
    assert again.read(path).detection_rate == rate


def test_what_was_removed_there_is_gone_here(shared, recorded):
    """The folder of this machine follows the store."""
    store, there = shared
    path = store.write(CASE, recorded(), "first")
    shutil.rmtree(there / "baselines" / FOLDER)
    assert store.files("digits", "cpu-float32") == []
    assert not path.exists()


# The cache.


def test_what_is_in_the_cache_is_not_fetched_again(bucket, s3, recorded):
    """Not even where the server has lost it."""
    store = open_store(f"{bucket}/baselines")
    path = store.write(CASE, recorded(), "first")
    digest = store.read(path).digest
    s3.requests.clear()
    assert open_store(store.url).read(path).digest == digest
    assert s3.count("GET", "/blobs/") == 0
    assert s3.count("HEAD", "/blobs/") == 0


@pytest.mark.parametrize("damage", ["cut short", "changed", "gone"])
def test_a_damaged_cache_is_fetched_again(shared, recorded, cache, damage):
    """Both the copy in the cache and the one in the folder of this machine."""
    store, _ = shared
    path = store.write(CASE, recorded(), "first")
    expected = store.read(path)
    content = expected.tensors_path.read_bytes()
    for copy in [*cache.rglob("*.safetensors"), *(cache / "stores" / "blobs").rglob("*")]:
        if copy.is_file() and copy.read_bytes() == content:
            copy.unlink()
            if damage != "gone":
                copy.write_bytes(content[:-1] + (b"" if damage == "cut short" else b"\0"))
    again = open_store(store.url).read(path)
    assert again.tensors_path.read_bytes() == content
    assert again == expected


# Damage there.


def test_a_damaged_blob_is_refused_and_named(shared, recorded, cache):
    """By its URL; nothing of it reaches the cache."""
    store, there = shared
    path = store.write(CASE, recorded(), "first")
    tensors = store.read(path).tensors_path.read_bytes()
    (blob,) = [each for each in blobs_in(there) if each.read_bytes() == tensors]
    blob.write_bytes(tensors[:-1] + b"\0")
    again = other_machine(cache, store.url)
    with pytest.raises(BaselineError, match=r"blobs/sha256/.*: is damaged") as caught:
        again.read(path)
    assert str(caught.value).startswith("file://")
    assert "harness copy" in str(caught.value)
    blob.write_bytes(tensors[:100])
    with pytest.raises(BaselineError, match=f"is cut short: it holds 100 of {len(tensors)} bytes"):
        again.read(path)
    blob.unlink()
    with pytest.raises(BaselineError, match="cannot be read"):
        again.read(path)
    assert not any(each.read_bytes() == tensors for each in cache.rglob("*") if each.is_file())


def test_a_damaged_baseline_is_replaced_by_accepting_and_harms_no_other_class(
    shared, recorded, cache
):
    """The next number counts, whatever is wrong with the last one."""
    store, there = shared
    path = store.write(CASE, recorded(), "first")
    record = there / "baselines" / FOLDER / path.stem / "00000001.json"
    record.write_text("{}", encoding="utf-8")
    again = other_machine(cache, store.url)
    assert again.files("digits", "cpu-float32") == [path]
    with pytest.raises(BaselineError, match=r"00000001\.json: has format None"):
        again.read(path)
    other = recorded("other", letter="b")
    again.read(again.write(CASE, other, "of another class"))
    assert again.current(CASE, recorded("two")) is None
    assert again.read(again.write(CASE, recorded("three"), "again")).provenance.reason == "again"
    assert (record.parent / "00000002.json").is_file()


@pytest.mark.parametrize(
    "path",
    ["../../outside.json", "/etc/passwd", "a/../b", ".hidden", "a//b", "c:\\x", "", "a/./b"],
)
def test_a_record_of_a_stranger_leads_out_of_no_folder(shared, recorded, path):
    """Although its seal fits."""
    store, there = shared
    baseline = store.write(CASE, recorded(), "first")
    record = there / "baselines" / FOLDER / baseline.stem / "00000001.json"
    content = json.loads(record.read_text(encoding="utf-8"))
    content["files"][1]["path"] = path
    record.write_text(dumps({**content, "digest": digest_json(content)}), encoding="utf-8")
    with pytest.raises(BaselineError, match="is not a record of files"):
        open_store(store.url).read(baseline)


def test_a_record_that_names_the_files_of_another_baseline_is_refused(shared, recorded):
    """It would put them into a folder that nobody asked for."""
    store, there = shared
    baseline = store.write(CASE, recorded(), "first")
    record = there / "baselines" / FOLDER / baseline.stem / "00000001.json"
    content = json.loads(record.read_text(encoding="utf-8"))
    for file in content["files"]:
        file["path"] = file["path"].replace("digits", "others")
    record.write_text(dumps({**content, "digest": digest_json(content)}), encoding="utf-8")
    with pytest.raises(BaselineError, match="does not name the files of"):
        open_store(store.url).read(baseline)


# Interruptions and other writers.


def test_an_interrupted_upload_is_seen_by_nobody_and_goes_on_where_it_stopped(
    bucket, s3, recorded, cache
):
    """Blobs are sent first, the record last; what has arrived is not sent again."""
    store = open_store(f"{bucket}/baselines")
    recording = recorded()
    s3.stops_after = 1
    with pytest.raises(FileError, match="cannot be written"):
        store.write(CASE, recording, "first")
    s3.stops_after = None
    files = fsspec.filesystem("s3")
    (arrived,) = files.find(f"{bucket}/blobs")
    again = other_machine(cache, store.url)
    assert again.files("digits", "cpu-float32") == []
    s3.requests.clear()
    path = again.write(CASE, recording, "first")
    assert again.read(path).provenance.reason == "first"
    assert s3.count("PUT", arrived) <= (0 if is_tensors(recording, arrived) else 1)
    assert s3.count("PUT", "/blobs/") <= 2 - is_tensors(recording, arrived)
    assert s3.count("PUT", "/baselines/") == 1


def test_of_two_who_replace_a_baseline_at_once_one_is_told(shared, recorded, monkeypatch):
    """The second one sees nothing lost: it looks again and decides again."""
    store, _ = shared
    store.write(CASE, recorded("one"), "first")
    slow = open_store(store.url)
    send = slow._send

    def send_late(*arguments):
        store.write(CASE, recorded("two", builders.MOVED), "quick")
        send(*arguments)

    monkeypatch.setattr(slow, "_send", send_late)
    with pytest.raises(BaselineError, match="was replaced by another process meanwhile"):
        slow.write(CASE, recorded("three"), "slow")
    (path,) = slow.files("digits", "cpu-float32")
    assert slow.read(path).provenance.reason == "quick"


def write_in_another_process(url: str, recording: str) -> None:
    """Replace the baseline of the case; called by the processes of the next test."""
    from harness.store.recording import Recording

    found = Recording.read(Path(recording))
    try:
        open_store(url).write(builders.case(), found, Path(recording).name)
    except BaselineError as error:
        assert "meanwhile" in str(error)  # noqa: PT017 (this runs in a process of its own)
        print("refused")
    else:
        print("written")


def test_processes_that_write_at_once_leave_whole_baselines(bucket, recorded, tmp_path):
    """Each process has its own cache, as a machine has; every one is told whether it wrote."""
    url = f"{bucket}/baselines"
    code = (
        "import sys\nfrom test_shared_baselines import write_in_another_process as write\n"
        "write(*sys.argv[1:])"
    )
    folders = []
    for number in range(4):
        recorded(f"of-{number}", builders.IMAGE * (number + 1))
        folders.append(tmp_path / f"of-{number}")
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), str(here.parents[1])])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, url, str(folder)],
            env={**os.environ, "PYTHONPATH": path, "HARNESS_CACHE": f"{folder}-cache"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for folder in folders
    ]
    said = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert set(said) <= {"written", "refused"}
    store = open_store(url)
    (file,) = store.files("digits", "cpu-float32")
    records = SharedFiles(url).names(FOLDER)
    assert len(records) == said.count("written") >= 1
    newest = store.read(file)
    number = int(newest.provenance.reason.removeprefix("of-"))
    assert np.array_equal(newest.output_tensors["image"], builders.IMAGE * (number + 1))


def is_tensors(recording, blob: str) -> bool:
    """Whether a blob holds the tensors; the JSON file of another try may have another date."""
    return blob.endswith(blob_of(recording.tensors_path).sha256)


# The ledger.


def test_the_ledger_lies_beside_the_baselines(shared, recorded, cache):
    """An entry and the first outputs reach a machine that has fetched nothing."""
    store, _ = shared
    old = store.read(store.write(CASE, recorded("one"), "first"))
    ledger = Ledger(store.folder("digits", "cpu-float32"))
    first = ledger.keep_first(old, starts_anew=False)
    moved = recorded("two", builders.MOVED)
    step = distance(moved.output_tensors, old.output_tensors, measure)
    new = store.read(store.write(CASE, moved, "second"))
    entry = entry_of(old, new, starts_anew=False)
    store.send_ledger(ledger.add(with_distances(entry, step, step, first)), first[0])
    again = other_machine(cache, store.url)
    again.fetch_ledger()
    (walk,), problems = walks(again.root)
    assert problems == []
    assert walk.from_first == step
    fresh = Ledger(again.folder("digits", "cpu-float32"))
    outputs = fresh.first_outputs(*first)
    assert outputs is not None
    assert np.array_equal(outputs["image"], builders.IMAGE)
    assert again.files("digits", "cpu-float32") == [
        again.root / FOLDER / f"{new.numerics_class.name}.json"
    ]


def test_a_bucket_without_a_folder_is_refused():
    """The blobs lie beside the folder, and beside a bucket there is nothing."""
    with pytest.raises(UsageError, match=r"name one, such as s3://bucket/baselines"):
        open_store("s3://bucket")


def test_the_folder_of_a_url_is_the_same_with_and_without_a_slash():
    """The user may write either."""
    assert mirror_of("s3://bucket/baselines/") == mirror_of("s3://bucket/baselines")
    assert isinstance(SharedStore(SharedFiles("memory://a/b/")), Store)
