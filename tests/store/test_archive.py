"""Archives of a stranger: what is unpacked, and what never is."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import FileError
from harness.store import archive
from harness.store.archive import unpacked

FILES = {"night/cpu/results.json": b"{}", "night/readme": b"text"}


def as_zip(path: Path, files: dict[str, bytes]) -> Path:
    """Write a zip."""
    with zipfile.ZipFile(path, "w") as made:
        for name, content in files.items():
            made.writestr(name, content)
    return path


def as_tar(path: Path, files: dict[str, bytes]) -> Path:
    """Write a tar, compressed as its name says."""
    mode = "w:gz" if path.name.endswith("gz") else "w"
    with tarfile.open(path, mode) as made:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return path


MAKERS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "a.zip": as_zip,
    "a.tar.gz": as_tar,
    "a.tgz": as_tar,
    "a.tar": as_tar,
}


def content_of(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("name", MAKERS)
def test_an_archive_is_unpacked_for_as_long_as_it_is_needed(name: str, tmp_path: Path):
    """Files and folders, and nothing is left of them afterwards."""
    with unpacked(MAKERS[name](tmp_path / name, FILES)) as folder:
        assert content_of(folder) == FILES
    assert not folder.exists()


def test_a_folder_is_itself(tmp_path: Path):
    """Nothing is copied; what is not there stays for the reader to refuse."""
    for path in (tmp_path, tmp_path / "not-there"):
        with unpacked(path) as folder:
            assert folder == path


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
@pytest.mark.parametrize(
    "entry",
    ["../out", "/etc/out", "a/../../out", "..", "a\\..\\out", "C:/out", "a\x1b[31m", "a\n/b"],
)
def test_an_entry_that_leads_elsewhere_is_refused(name: str, entry: str, tmp_path: Path):
    """Nothing is written outside, and the message shows no control character."""
    (tmp_path / "in").mkdir()
    path = MAKERS[name](tmp_path / "in" / name, {"good": b"1", entry: b"2"})
    before = content_of(tmp_path)
    with pytest.raises(FileError) as caught, unpacked(path):
        pytest.fail("it was unpacked")
    assert content_of(tmp_path) == before
    assert "\x1b" not in str(caught.value)


def tar_of(path: Path, kind: bytes) -> Path:
    with tarfile.open(path, "w:gz") as made:
        info = tarfile.TarInfo("entry")
        info.type, info.linkname = kind, "/etc/passwd"
        made.addfile(info)
    return path


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_a_link_or_a_device_in_a_tar_is_refused(kind: bytes, tmp_path: Path):
    """It would lead to what is not in the archive."""
    path = tar_of(tmp_path / "a.tar.gz", kind)
    with pytest.raises(FileError, match="is a link or a device"), unpacked(path):
        pytest.fail("it was unpacked")


def test_a_link_in_a_zip_is_refused(tmp_path: Path):
    """A zip says so in the attributes of the file."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as made:
        info = zipfile.ZipInfo("entry")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        made.writestr(info, "/etc/passwd")
    with pytest.raises(FileError, match="is a link or a device"), unpacked(path):
        pytest.fail("it was unpacked")


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_what_would_fill_the_disk_is_refused(name: str, tmp_path: Path, monkeypatch):
    """Counted as it is unpacked, whatever the archive says of itself."""
    path = MAKERS[name](tmp_path / name, {f"f{i}": bytes(1000) for i in range(20)})
    monkeypatch.setattr(archive, "MOST_BYTES", 10_000)
    with pytest.raises(FileError, match="holds more than"), unpacked(path):
        pytest.fail("it was unpacked")
    monkeypatch.setattr(archive, "MOST_BYTES", 1 << 20)
    monkeypatch.setattr(archive, "MOST_ENTRIES", 10)
    with pytest.raises(FileError, match="holds more than 10 entries"), unpacked(path):
        pytest.fail("it was unpacked")


def test_two_entries_of_one_name_are_refused(tmp_path: Path):
    """The second one would replace what was checked."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("entry", "1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            made.writestr("entry", "2")
    with pytest.raises(FileError, match="holds 'entry' twice"), unpacked(path):
        pytest.fail("it was unpacked")


@pytest.mark.parametrize("name", MAKERS)
def test_a_damaged_archive_is_refused(name: str, tmp_path: Path):
    """At every place where it may be cut, and where it is something else."""
    path = MAKERS[name](tmp_path / name, FILES)
    whole = path.read_bytes()
    for end in (0, 10, len(whole) // 3):
        path.write_bytes(whole[:end])
        if name == "a.tar" and end > 512:
            continue
        with pytest.raises(FileError), unpacked(path):
            pytest.fail(f"it was unpacked, cut at {end}")
    path.write_bytes(b"no archive at all" * 100)
    with pytest.raises(FileError, match="cannot be unpacked"), unpacked(path):
        pytest.fail("it was unpacked")
