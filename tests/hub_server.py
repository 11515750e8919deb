"""A Hugging Face Hub of one repository on 127.0.0.1, for plain (not Xet) downloads over HTTP."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import unquote, urlsplit

LARGE_SUFFIXES = (
    ".safetensors",
    ".bin",
)  # kept in LFS: addressed by sha256, and served by another host than the Hub


class ServedFile(NamedTuple):
    """A file of a revision: its bytes, its entity tag, and whether it is kept in LFS."""

    content: bytes
    etag: str
    large: bool


class HubServer:
    """Serves `repository` (`ORG/NAME`) inside a `with` block.

    `stop` and `start` take it off the net and back.

    Args:
        repository: The one repository that exists.
        revisions: A folder for each branch; the branch's commit is a digest of its content.

    Attributes:
        requests: `METHOD PATH STATUS` of every answer.
        faults: What befalls the next downloads of large files, one fault each: `cut` closes the
            connection after three quarters of the bytes, `refuse` answers with status 500.
    """

    def __init__(self, repository: str, revisions: dict[str, Path]) -> None:
        self.repository = repository
        self.requests: list[str] = []
        self.faults: deque[Literal["cut", "refuse"]] = deque()
        self.commits: dict[str, str] = {}
        self.files: dict[str, dict[str, ServedFile]] = {}
        for revision, folder in revisions.items():
            files = {
                path.relative_to(folder).as_posix(): _read(path)
                for path in folder.rglob("*")
                if path.is_file()
            }
            listing = "".join(f"{name} {file.etag}\n" for name, file in sorted(files.items()))
            commit = hashlib.sha1(listing.encode(), usedforsecurity=False).hexdigest()
            self.commits[revision] = self.commits[commit] = commit
            self.files[commit] = files
        self.port = 0
        self._http: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """What `HF_ENDPOINT` is to be; the same after every start."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen: the first time on a free port, later on the same one."""
        self._http = ThreadingHTTPServer(
            ("127.0.0.1", self.port), type("Handler", (_Handler,), {"hub": self})
        )
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _read(path: Path) -> ServedFile:
    content = path.read_bytes()
    if path.name.endswith(LARGE_SUFFIXES):
        return ServedFile(content, hashlib.sha256(content).hexdigest(), True)
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    return ServedFile(content, blob.hexdigest(), False)


class _Handler(BaseHTTPRequestHandler):
    """Answers one request per connection (HTTP/1.0), so that no connection outlives the server."""

    hub: HubServer
    timeout = 20

    def do_GET(self) -> None:
        path, repository = unquote(urlsplit(self.path).path), re.escape(self.hub.repository)
        if found := re.fullmatch(rf"/api/models/{repository}(?:/(revision|tree)/(.+))?", path):
            kind, revision, name = found[1], found[2] or "main", None
        elif found := re.fullmatch(rf"/(?:(lfs)/)?{repository}/resolve/([^/]+)/(.+)", path):
            kind, revision, name = found.groups()
        else:
            return self._answer(404, {"X-Error-Code": "RepoNotFound"})
        commit = self.hub.commits.get(revision)
        if commit is None:
            return self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        files, headers = self.hub.files[commit], {"X-Repo-Commit": commit}
        if name is None:
            info = {
                "id": self.hub.repository,
                "sha": commit,
                "siblings": [{"rfilename": file} for file in files],
            }
            return self._answer(
                200, headers, json.dumps(_tree(files) if kind == "tree" else info).encode()
            )
        if name not in files:
            return self._answer(404, {**headers, "X-Error-Code": "EntryNotFound"})
        file = files[name]
        if not file.large or kind == "lfs":
            return self._download(file, {**headers, "ETag": f'"{file.etag}"'})
        headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.content))}
        headers["Location"] = (
            f"http://localhost:{self.hub.port}/lfs/{self.hub.repository}/resolve/{commit}/{name}"
        )
        return self._answer(302, headers)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _download(self, file: ServedFile, headers: dict[str, str]) -> None:
        fault = (
            self.hub.faults.popleft()
            if self.hub.faults and file.large and self.command == "GET"
            else None
        )
        if fault == "refuse":
            return self._answer(500, {})
        status, content = 200, file.content
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            status, content = 206, content[int(wanted[1]) :]
            headers["Content-Range"] = (
                f"bytes {wanted[1]}-{len(file.content) - 1}/{len(file.content)}"
            )
        return self._answer(
            status, headers, content, len(content) * 3 // 4 if fault == "cut" else None
        )

    def _answer(
        self, status: int, headers: dict[str, str], content: bytes = b"", cut: int | None = None
    ) -> None:
        self.hub.requests.append(f"{self.command} {urlsplit(self.path).path} {status}")
        self.send_response_only(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[:cut])
        if cut is not None:
            self.connection.shutdown(socket.SHUT_RDWR)


def _tree(files: dict[str, ServedFile]) -> list[dict[str, Any]]:
    tree: list[dict[str, Any]] = []
    for name, file in files.items():
        entry = {"type": "file", "path": name, "size": len(file.content), "oid": file.etag[:40]}
        lfs = (
            {"lfs": {"oid": file.etag, "size": entry["size"], "pointerSize": 130}}
            if file.large
            else {}
        )
        tree.append(entry | lfs)
    return tree
