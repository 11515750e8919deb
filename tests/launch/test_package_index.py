"""What an index says of a package's releases: by pip, and by the index's own JSON in both forms."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from wheels import only_from, write_wheel

from harness.errors import UsageError
from harness.launch import package_index as index

FILES = {
    "1.0": ("2023-01-05", False),
    "1.1": ("2023-03-01", True),
    "1.2rc1": ("2023-04-01", False),
    "2.0": ("2023-05-01", False),
}


@pytest.fixture(params=["standard", "older"])
def offered(request, tmp_path, monkeypatch):
    """An index on disk with `wobble`, whose days stand in the one or the other JSON."""
    only_from(monkeypatch, tmp_path, tmp_path / "cache")
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    root = tmp_path / "simple"
    monkeypatch.setenv("PIP_INDEX_URL", root.as_uri())
    wheels = {version: write_wheel(root / "wobble", "wobble", version) for version in FILES}
    (root / "wobble" / "index.html").write_text(
        "".join(f'<a href="{w.name}">{w.name}</a>' for w in wheels.values())
    )
    times = {version: (f"{day}T10:00:00Z", yanked) for version, (day, yanked) in FILES.items()}
    standard = {
        "files": [
            {"filename": wheels[v].name, "upload-time": t, "yanked": y}
            for v, (t, y) in times.items()
        ]
    }
    older = {"releases": {v: [{"upload_time": t, "yanked": y}] for v, (t, y) in times.items()}}
    pages = (
        {"simple/wobble/": standard} if request.param == "standard" else {"pypi/wobble/json": older}
    )
    address = tmp_path.as_uri()
    monkeypatch.setattr(
        index,
        "_json",
        lambda asked: json.loads(json.dumps(pages.get(asked.removeprefix(f"{address}/")))),
    )
    index.releases.cache_clear()
    yield root
    index.releases.cache_clear()


def test_releases_come_with_their_days_oldest_first(offered):
    """pip names them; the index's JSON dates them."""
    assert {str(r.version): (r.day, r.yanked) for r in index.releases("wobble")} == FILES
    assert [str(r.version) for r in index.releases("wobble")] == list(FILES)


def test_yanked_and_pre_releases_are_left_out_unless_asked_for(offered):
    """An end that was named is asked for."""
    assert index.between("wobble", "1.0", "2.0") == ["1.0", "2.0"]
    assert index.between("wobble", "1.0", "2.0", withdrawn=True) == ["1.0", "1.1", "1.2rc1", "2.0"]
    assert index.between("wobble", "1.1", "2.0") == ["1.1", "2.0"]


def test_the_newest_release_of_a_day_is_the_last_one_by_then(offered):
    """The day itself counts."""
    assert str(index.newest("wobble", "2023-04-30").version) == "1.0"
    assert str(index.newest("wobble", "2023-05-01").version) == "2.0"
    assert index.newest("wobble", "2022-12-31") is None


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ("1.5", "2.0", "wobble 1.5 is no release that installs here; there are: 1.0, 1.1, 1.2rc1"),
        ("2.0", "1.0", "--good 2.0 must be older than --bad 1.0"),
        ("latest", "2.0", "expected versions of wobble, found .*latest"),
    ],
)
def test_ends_that_make_no_sense_are_refused(offered, good, bad, message):
    """With what there is instead."""
    with pytest.raises(UsageError, match=message):
        index.between("wobble", good, bad)


def test_an_index_without_days_still_names_releases(tmp_path, monkeypatch):
    """A folder of wheels has none."""
    only_from(monkeypatch, tmp_path, tmp_path / "cache")
    write_wheel(tmp_path, "wobble", "1.0")
    index.releases.cache_clear()
    assert [(str(r.version), r.day) for r in index.releases("wobble")] == [("1.0", "")]
    assert index.newest("wobble", "2030-01-01") is None
    with pytest.raises(UsageError, match="no releases of `wabble` in the package index"):
        index.releases("wabble")
    index.releases.cache_clear()


@pytest.mark.parametrize(
    ("variables", "for_pip"),
    [
        ({}, False),
        ({"PIP_INDEX_URL": "https://here/simple"}, True),
        (
            {"PIP_INDEX_URL": "https://here/simple", "UV_DEFAULT_INDEX": "https://here/simple"},
            False,
        ),
    ],
)
def test_an_index_that_only_pip_knows_is_noticed(monkeypatch, variables, for_pip):
    """uv reads no settings of pip's."""
    for name in (
        "PIP_INDEX_URL",
        "PIP_EXTRA_INDEX_URL",
        "PIP_FIND_LINKS",
        "PIP_NO_INDEX",
        "UV_DEFAULT_INDEX",
        "UV_INDEX_URL",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(index, "_pip_settings", dict)
    assert index.set_for_pip() is for_pip


# An index that asks for a user and a password.

USER_INFO = "some%40body:sec%3Aret"
BASIC = "Basic " + base64.b64encode(b"some@body:sec:ret").decode()
PAGE = {"files": [{"filename": "wobble-1.0-py3-none-any.whl", "upload-time": "2023-01-05T10:00"}]}


@contextmanager
def serving(handle: Any) -> Iterator[str]:
    """Serve pages by `handle(request)` on this machine, and yield the host with its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            handle(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_an_index_gets_the_user_and_the_password_of_its_address():
    """As pip sends them; what is escaped in the address is not escaped in the header."""
    asked: list[Any] = []

    def answer(request: Any) -> None:
        asked.append((request.path, request.headers["Authorization"]))
        request.send_response(200)
        request.end_headers()
        request.wfile.write(json.dumps(PAGE).encode())

    with serving(answer) as host:
        uploads = index._uploads("wobble", f"http://{USER_INFO}@{host}/simple")
    assert asked == [("/simple/wobble/", BASIC)]
    assert [(str(version), each.day) for version, each in uploads.items()] == [
        ("1.0", "2023-01-05")
    ]


def test_a_redirect_to_another_host_does_not_get_the_password():
    """The index's own credentials are for the index alone."""
    sent: list[Any] = []

    def answer(request: Any) -> None:
        sent.append(request.headers["Authorization"])
        request.send_response(200)
        request.end_headers()
        request.wfile.write(b"{}")

    with serving(answer) as other:

        def redirect(request: Any) -> None:
            request.send_response(302)
            request.send_header("Location", f"http://{other}/page")
            request.end_headers()

        with serving(redirect) as host:
            assert index._json(f"http://{USER_INFO}@{host}/simple/wobble/") == {}
    assert sent == [None]


def test_an_address_with_a_password_and_no_port_is_asked_without_a_traceback(monkeypatch):
    """`urllib` would take the password for a port, and print it."""
    asked: list[Any] = []

    def refuse(request: Any, **_: object) -> None:
        asked.append(request)
        raise OSError("no network in tests")

    monkeypatch.setattr(index.urllib.request, "urlopen", refuse)
    assert index._json("https://somebody:secret@index.example/simple/wobble/") is None
    (request,) = asked
    assert request.host == "index.example"
    assert request.full_url == "https://index.example/simple/wobble/"


@pytest.mark.parametrize(
    "address", ["https://[::1/simple/wobble/", "https://index.example:port/simple/wobble/"]
)
def test_an_address_that_makes_no_sense_tells_no_days(address):
    """pip has named the releases, or has said what is wrong with the address."""
    assert index._json(address) is None


def test_no_error_shows_the_password_of_the_index(monkeypatch):
    """It names the index, and repeats what pip said last."""
    address = "https://somebody:secret@index.example/simple"
    failed = SimpleNamespace(stdout="", stderr=f"ERROR: no answer from {address}", returncode=1)
    monkeypatch.setenv("PIP_INDEX_URL", address)
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    monkeypatch.setattr(index, "_ran", lambda command: failed)
    index.releases.cache_clear()
    with pytest.raises(UsageError) as caught:
        index.releases("wobble")
    hidden = "https://****@index.example/simple"
    expected = (
        f"no releases of `wobble` in the package index {hidden}: ERROR: no answer from {hidden}"
    )
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see https://a:b@c.example/d@e", "see https://****@c.example/d@e"),
        ("https://token@c.example", "https://****@c.example"),
        ("https://a:p@ss@c.example/d", "https://****@c.example/d"),
        ("https://c.example/d?mail=a@b", "https://c.example/d?mail=a@b"),
        ("nobody@example", "nobody@example"),
    ],
)
def test_only_the_user_and_the_password_of_an_address_are_hidden(text: str, shown: str):
    """The rest says which index it was."""
    assert index.redacted(text) == shown
