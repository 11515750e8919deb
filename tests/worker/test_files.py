"""Writing files: the old content or the new one is there, never a part, and nothing is left."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.worker import files
from harness.worker.files import (
    HOST,
    digest_json,
    dumps,
    remove_leftovers,
    temporary_beside,
    write_file,
    write_folder,
)

OLD, NEW = b"old", b"new" * 100_000


class CrashError(Exception):
    """The machine stops here."""


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_as_a_whole_and_replaced_as_a_whole(tmp_path):
    """Bytes come back as they are, also none; no temporary file stays."""
    path = tmp_path / "file.json"
    for content in (OLD, NEW, b"", b"\r\n\0\xff"):
        write_file(path, content)
        assert path.read_bytes() == content
    assert names_in(tmp_path) == ["file.json"]


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize(
    "error", [CrashError(), OSError(errno.ENOSPC, "full")], ids=["crash", "full"]
)
@pytest.mark.parametrize("has_old", [True, False], ids=["replacing", "first"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path, monkeypatch, function, error, has_old
):
    """At whichever step it fails."""
    path = tmp_path / "file.json"
    if has_old:
        write_file(path, OLD)

    def fail(*_arguments):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(os, function, fail)
        with pytest.raises(type(error)):
            write_file(path, NEW)
    assert names_in(tmp_path) == (["file.json"] if has_old else [])
    assert not has_old or path.read_bytes() == OLD


def test_a_file_reaches_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    """A machine that loses power after the renaming must not have an empty file."""
    calls = []

    def fsync(descriptor, real=os.fsync):
        calls.append(("fsync", os.fstat(descriptor).st_size))
        real(descriptor)

    def replace(source, target, real=os.replace):
        calls.append(("replace", Path(target).name))
        real(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_file(tmp_path / "file.json", NEW)
    assert calls == [("fsync", len(NEW)), ("replace", "file.json")]


def test_a_reader_beside_writers_finds_one_content_or_the_other(tmp_path):
    """Four threads replace the file; what is read is never a part of it."""
    path = tmp_path / "file.json"
    contents = [bytes([index]) * 200_000 for index in range(4)]
    write_file(path, contents[0])
    done = threading.Event()

    def write(content: bytes) -> None:
        for _ in range(20):
            write_file(path, content)

    def read() -> None:
        while not done.is_set():
            seen.append(path.read_bytes() in contents)

    seen: list[bool] = []
    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in (reader, *writers):
        thread.start()
    for writer in writers:
        writer.join()
    done.set()
    reader.join()
    assert seen
    assert all(seen)
    assert names_in(tmp_path) == ["file.json"]


def test_no_two_temporary_files_of_one_target_share_a_name(tmp_path):
    """They lie beside it, hidden, and say which process made them."""
    path = tmp_path / "file.json"
    made = [temporary_beside(path) for _ in range(100)]
    assert len(set(made)) == 100
    for temporary in made:
        assert temporary.parent == tmp_path
        match = files.TEMPORARY.fullmatch(temporary.name)
        assert (match["target"], int(match["pid"])) == ("file.json", os.getpid())


@pytest.mark.parametrize("place", ["absent/file.json", "file/file.json"])
def test_a_file_whose_folder_is_none_cannot_be_written(tmp_path, place):
    """The caller makes folders; the error is the system's own."""
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(OSError, match=r"No such file|Not a directory"):
        write_file(tmp_path / place, NEW)
    assert names_in(tmp_path) == ["file"]


def test_a_folder_where_a_file_is_due_stays(tmp_path):
    """A file can replace a file alone."""
    path = tmp_path / "file.json"
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        write_file(path, NEW)
    assert names_in(tmp_path) == ["file.json"]


def test_a_link_is_replaced_and_what_it_led_to_stays(tmp_path):
    """Nothing is written through a link."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(OLD)
    path = tmp_path / "file.json"
    path.symlink_to(elsewhere)
    write_file(path, NEW)
    assert not path.is_symlink()
    assert (path.read_bytes(), elsewhere.read_bytes()) == (NEW, OLD)


def test_a_folder_is_written_and_replaced_as_a_whole(tmp_path):
    """What the new one does not have is gone; parents are made."""
    folder = tmp_path / "runs" / "recording"
    write_folder(folder, {"a": OLD, "b": OLD})
    assert names_in(folder) == ["a", "b"]
    write_folder(folder, {"b": NEW, "c": b""})
    assert {name: (folder / name).read_bytes() for name in names_in(folder)} == {"b": NEW, "c": b""}
    assert names_in(folder.parent) == ["recording"]


def test_a_folder_whose_writing_fails_is_not_there_and_nothing_else_is(tmp_path, monkeypatch):
    """The first file was written, the second did not fit."""
    folder = tmp_path / "recording"

    def write_one(path, data, real=Path.write_bytes):
        if path.name == "b":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", write_one)
        with pytest.raises(OSError, match="No space left"):
            write_folder(folder, {"a": OLD, "b": NEW})
        assert names_in(tmp_path) == []
    write_folder(folder, {"a": OLD})
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", write_one)
        with pytest.raises(OSError, match="No space left"):
            write_folder(folder, {"a": NEW, "b": NEW})
    assert (folder / "a").read_bytes() == OLD
    assert names_in(tmp_path) == ["recording"]


def test_a_new_folder_gets_its_name_when_all_its_files_are_written(tmp_path, monkeypatch):
    """A reader finds all of them or no folder at all."""
    folder = tmp_path / "recording"
    seen = []

    def write_bytes(path, data, real=Path.write_bytes):
        seen.append(folder.exists())
        return real(path, data)

    def replace(source, target, real=os.replace):
        seen.append(names_in(Path(source)))
        real(source, target)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    monkeypatch.setattr(os, "replace", replace)
    write_folder(folder, {"a": OLD, "b": NEW})
    assert seen == [False, False, ["a", "b"]]


def test_an_old_folder_is_moved_away_before_it_is_taken_apart(tmp_path, monkeypatch):
    """A reader must not find the half of it that is left."""
    folder = tmp_path / "recording"
    write_folder(folder, {"a": OLD, "b": OLD})
    removed = []

    def rmtree(path, *arguments, real=shutil.rmtree, **options):
        removed.append(Path(path))
        real(path, *arguments, **options)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    write_folder(folder, {"a": NEW, "b": NEW})
    assert (folder / "a").read_bytes() == NEW
    assert folder not in removed


@pytest.fixture(scope="module")
def dead() -> int:
    """Return the number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_dead_processes_left_is_removed_and_all_else_stays(tmp_path, dead):
    """Files and folders of writers that ended; those of living ones, and files of other names."""
    removed = [
        f".file.json.{HOST}-{dead}-0.tmp",
        f".a.b.{HOST}-{dead}-17.tmp",
        f".folder.{HOST}-{dead}-1.tmp",
    ]
    kept = [
        f".file.json.{HOST}-{os.getpid()}-0.tmp",
        f".file.json.{HOST}-{os.getppid()}-3.tmp",
        f".file.json.{HOST}-1-0.tmp",
        f".file.json.00000000-{dead}-0.tmp",  # of another machine
        f"file.json.{HOST}-{dead}-0.tmp",
        f".file.json.{dead}.tmp",
        f".file.json.{HOST}-{dead}-0.tmp.json",
        f".file.json.{HOST}-x-0.tmp",
        f".{dead}-0.tmp",
        "file.json",
    ]
    for name in removed[:-1] + kept:
        (tmp_path / name).write_bytes(OLD)
    (tmp_path / removed[-1]).mkdir()
    (tmp_path / removed[-1] / "inner").write_bytes(OLD)
    remove_leftovers(tmp_path)
    assert names_in(tmp_path) == sorted(kept)


def test_a_link_of_a_dead_process_is_removed_and_what_it_led_to_stays(tmp_path, dead):
    """No folder elsewhere is emptied through it."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "inner").write_bytes(OLD)
    (tmp_path / f".file.{HOST}-{dead}-0.tmp").symlink_to(elsewhere, target_is_directory=True)
    remove_leftovers(tmp_path)
    assert names_in(elsewhere) == ["inner"]


def test_a_number_that_no_process_can_have_is_that_of_a_dead_one(tmp_path):
    """A file of that name must not stop every later write into the folder."""
    (tmp_path / f".file.json.{HOST}-{10**30}-0.tmp").write_bytes(OLD)
    remove_leftovers(tmp_path)
    assert names_in(tmp_path) == []


def test_a_folder_without_leftovers_or_that_is_not_there_is_no_error(tmp_path):
    """The first write of a store finds neither."""
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "absent")
    assert names_in(tmp_path) == []


def test_json_is_sorted_indented_and_ends_in_a_newline():
    """For reviewers and for git; floats keep every digit, and text its letters."""
    value = {"b": [1 / 3, 5e-324], "a": {"ü": None}}
    assert dumps(value) == (
        '{\n "a": {\n  "ü": null\n },\n "b": [\n  0.3333333333333333,\n  5e-324\n ]\n}\n'
    )


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_json_has_no_word_for_what_is_not_finite(number):
    """A file with it could be read by nobody else."""
    with pytest.raises(ValueError, match="Out of range float values"):
        dumps([number])


def test_a_digest_of_json_is_that_of_its_content_without_the_digest_itself():
    """The order of keys does not matter; everything else does."""
    content = {"a": 1, "b": [1.5, "x"], "c": None}
    digest = digest_json(content)
    assert len(digest) == 32
    assert digest_json({"c": None, "digest": digest, "b": [1.5, "x"], "a": 1}) == digest
    others = [{**content, "a": 2}, {**content, "a": 1.0}, {**content, "d": 0}, {**content, "c": ""}]
    assert len({digest, *map(digest_json, others)}) == 5


def test_a_digest_of_json_is_the_same_in_every_version():
    """Otherwise every stored baseline would read as damaged."""
    content = {"a": [1, 0.1, "ü", None, True], "digest": "itself"}
    assert digest_json(content) == "ebf9607b8dff7cc21071c33b4143e732"


class Busy:
    """A rename that is refused so many times, as Windows refuses it while somebody reads a file."""

    def __init__(self, times: int) -> None:
        self.left = times
        self._replace = os.replace

    def __call__(self, source: Path, target: Path) -> None:
        self.left -= 1
        if self.left >= 0:
            raise PermissionError(errno.EACCES, "Access is denied", str(target))
        self._replace(source, target)


def test_on_windows_a_file_that_is_read_meanwhile_is_replaced_when_its_reader_is_done(
    tmp_path, monkeypatch
):
    """The reader is done in milliseconds, or a scanner for viruses is."""
    path = tmp_path / "file.json"
    write_file(path, OLD)
    busy = Busy(3)
    monkeypatch.setattr(files, "WINDOWS", True)
    monkeypatch.setattr(files.os, "replace", busy)
    write_file(path, NEW)
    assert (path.read_bytes(), busy.left) == (NEW, -1)
    assert names_in(tmp_path) == ["file.json"]


@pytest.mark.parametrize(("windows", "seconds"), [(True, 0.05), (False, 3.0)])
def test_a_file_that_nobody_may_replace_is_an_error_and_stays(
    windows, seconds, tmp_path, monkeypatch
):
    """Windows is asked for a while; elsewhere the first answer is the last."""
    path = tmp_path / "file.json"
    write_file(path, OLD)
    busy = Busy(1000)
    monkeypatch.setattr(files, "WINDOWS", windows)
    monkeypatch.setattr(files, "REPLACE_SECONDS", seconds)
    monkeypatch.setattr(files.os, "replace", busy)
    with pytest.raises(PermissionError):
        write_file(path, NEW)
    assert path.read_bytes() == OLD
    assert names_in(tmp_path) == ["file.json"]
    assert (busy.left < 999) == windows


def test_on_windows_the_leftovers_of_processes_that_psutil_does_not_find_are_removed(
    tmp_path, monkeypatch
):
    """There a signal 0 would end the process; without psutil a leftover stays."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    leftover = tmp_path / f".x.{HOST}-{ended.pid}-0.tmp"
    mine = tmp_path / f".x.{HOST}-{os.getpid()}-0.tmp"
    monkeypatch.setattr(files, "WINDOWS", True)
    for path in (leftover, mine):
        path.touch()
    with monkeypatch.context() as without:
        without.delattr(files.os, "kill")
        without.setitem(sys.modules, "psutil", None)
        remove_leftovers(tmp_path)
        assert names_in(tmp_path) == sorted([leftover.name, mine.name])
    remove_leftovers(tmp_path)
    assert names_in(tmp_path) == [mine.name]
