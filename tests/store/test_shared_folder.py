"""Each kind of place does the same; a URL that cannot be used is refused, and tells no secret."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.errors import FileError, UsageError
from harness.store.shared_folder import LocalFolder, RemoteFolder, open_folder, redacted

SECRET = "hunter2"  # noqa: S105 (a password that nothing has)
AWAY = "http://127.0.0.1:9"  # where nobody listens


@pytest.fixture(params=["path", "file", "memory", "s3", "other"])
def folder(request, tmp_path, monkeypatch):
    """Return an empty folder of each kind."""
    if request.param == "path":
        return open_folder(str(tmp_path / "shared"))
    if request.param == "file":
        return open_folder(f"file://{tmp_path}/shared")
    if request.param == "memory":
        return open_folder(f"memory://{tmp_path.name}-{uuid.uuid4().hex}/shared")
    if request.param == "other":  # a file system that shows a file while it is being written
        from fsspec.implementations.local import LocalFileSystem

        return RemoteFolder("sftp://host/shared", LocalFileSystem(), f"{tmp_path}/shared")
    server = request.getfixturevalue("s3")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return open_folder(f"s3://{server.new_bucket()}/shared")


def test_what_is_written_is_read_back(folder):
    """Names come sorted, what is absent is None, and a file is replaced as a whole."""
    folder.write("a/2.json", b"two")
    folder.write("a/1.json", b"one")
    folder.write("a/1.json", b"uno")
    folder.write("a/b/3.json", b"three")
    assert folder.names("a") == ["a/1.json", "a/2.json"]
    assert folder.names("nowhere") == []
    assert folder.names_below("nowhere") == []
    assert folder.names_below("a") == ["a/1.json", "a/2.json", "a/b/3.json"]
    assert folder.names_below("") == ["a/1.json", "a/2.json", "a/b/3.json"]
    assert dict(folder.read(["a/1.json", "a/9.json"])) == {"a/1.json": b"uno", "a/9.json": None}


def test_a_name_that_is_free_is_taken_once(folder):
    """The second writer is told, and what the first one wrote stays."""
    assert folder.write_new("a/1.json", b"first")
    assert not folder.write_new("a/1.json", b"second")
    assert folder.read(["a/1.json"])["a/1.json"] == b"first"
    assert folder.names_below("") == ["a/1.json"]  # and no temporary file


def test_of_many_who_want_a_name_at_once_one_gets_it(folder):
    """Eight threads, ten names."""
    if folder.place.startswith(("memory", "sftp")):
        return  # documented: where fsspec has no such request, it looks first and then writes
    for number in range(10):
        with ThreadPoolExecutor(8) as pool:
            got = list(
                pool.map(
                    lambda i, n=number: folder.write_new(f"{n}.json", str(i).encode()), range(8)
                )
            )
        assert sum(got) == 1
        assert folder.read([f"{number}.json"])[f"{number}.json"] == str(got.index(True)).encode()


def test_a_file_is_sent_and_fetched(folder, tmp_path):
    """Byte for byte, with its size; an absent one says where it should be."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(bytes(range(256)) * 1000)
    assert folder.size("x/blob") is None
    folder.send("x/blob", source)
    assert folder.size("x/blob") == 256_000
    folder.fetch("x/blob", target)
    assert target.read_bytes() == source.read_bytes()
    with pytest.raises(FileError, match="x/nothing: cannot be read"):
        folder.fetch("x/nothing", target)


def test_a_url_of_files_is_a_folder_of_this_machine():
    """It needs no fsspec; the path is absolute, and the URL stays its name."""
    folder = open_folder("file:///srv/harness/history")
    assert isinstance(folder, LocalFolder)
    assert folder.place == "file:///srv/harness/history"


@pytest.mark.parametrize(
    "place",
    [
        f"s3://key:{SECRET}@bucket/history",
        f"ftp://user:{SECRET}@host/history",
        f"s3://{SECRET}@bucket/history",
        f"https://host/history?signature={SECRET}",
        f"file://user:{SECRET}@/srv/history",
    ],
)
def test_a_url_with_credentials_is_refused_and_not_repeated(place):
    """They would end in logs, results and histories of shells."""
    with pytest.raises(UsageError, match="credentials come from the environment") as caught:
        open_folder(place)
    assert SECRET not in str(caught.value)


def test_a_password_in_the_message_of_a_library_is_taken_out():
    """Messages of other packages may repeat the address that they asked."""
    text = f"cannot connect to https://me:{SECRET}@host:9000/bucket"
    assert redacted(text) == "cannot connect to https://***@host:9000/bucket"


def test_a_scheme_without_its_package_says_what_to_install(monkeypatch):
    """The extra of that scheme."""
    monkeypatch.setitem(sys.modules, "s3fs", None)
    import fsspec

    fsspec.get_filesystem_class.__globals__["_registry"].pop("s3", None)
    with pytest.raises(UsageError, match=r"pip install 'diffusion-harness\[s3\]'"):
        open_folder("s3://bucket/history")
    with pytest.raises(UsageError, match="no-such-scheme"):
        open_folder("no-such-scheme://bucket/history")


def test_a_bucket_that_does_not_exist_is_no_empty_folder(s3, monkeypatch):
    """A misspelt name would else look like a store without baselines."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    folder = open_folder("s3://no-such-bucket/history")
    for ask in (folder.names, folder.names_below):
        with pytest.raises(FileError, match="names a bucket that does not exist"):
            ask("runs")
    with pytest.raises(FileError, match="cannot be written: it is not there"):
        folder.write("runs/a.json", b"")


def in_a_process_of_its_own(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code with other credentials or endpoints: fsspec keeps its clients."""
    return subprocess.run(
        [sys.executable, "-c", f"from harness.store.shared_folder import open_folder\n{code}"],
        env={**os.environ, "AWS_MAX_ATTEMPTS": "1", **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_no_network_and_no_credentials_say_what_to_do(s3):
    """Two failures, two remedies; the secrets are in neither."""
    code = "open_folder('s3://bucket/history').names('runs')"
    away = in_a_process_of_its_own(code, **{**s3.environment, "AWS_ENDPOINT_URL": AWAY})
    assert "s3://bucket/history/runs: cannot be read: it is not reached" in away.stderr
    assert "check the network and the endpoint" in away.stderr
    without = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "")
    code = "open_folder('s3://bucket/history').write('a.json', b'')"
    nobody = {**s3.environment, **without, "AWS_EC2_METADATA_DISABLED": "true"}
    refused = in_a_process_of_its_own(code, **nobody)
    assert "access is refused" in refused.stderr
    assert "give this user's credentials the right" in refused.stderr
    assert "secret-of-a-test" not in away.stderr + refused.stderr


def test_a_refusal_of_the_server_is_one_of_rights(monkeypatch):
    """S3's 403 comes as a PermissionError."""
    folder = open_folder("memory://refused/history")

    def refuse(*_arguments, **_options):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(folder._files, "find", refuse)
    with pytest.raises(FileError, match="access is refused"):
        folder.names_below("")
