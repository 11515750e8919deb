"""A server on loopback that speaks S3, and an environment in which fsspec asks it and no other."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.request import Request, urlopen

import pytest

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "access-of-a-test",
    "AWS_SECRET_ACCESS_KEY": "secret-of-a-test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": "/nowhere",
    "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
}
HOW = "it is not installed: pip install -e '.[dev]'"


@dataclass
class S3Server:
    """A running server.

    Attributes:
        endpoint: Its address.
        requests: The method and the path of each request, in order.
        stops_after: The number of files that it still takes; None for any number.
    """

    endpoint: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    stops_after: int | None = None
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables under which fsspec's s3 asks this server."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.endpoint}

    def new_bucket(self) -> str:
        """Make an empty bucket, and return its name."""
        name = f"bucket-{next(self._numbers)}"
        with urlopen(Request(f"{self.endpoint}/{name}", method="PUT")) as answer:  # noqa: S310
            assert answer.status == 200
        return name

    def count(self, method: str, part: str = "") -> int:
        """Return how many requests of a method had `part` in their path."""
        return sum(each == method and part in path for each, path in self.requests)

    def takes(self, method: str) -> bool:
        """Whether the server does what a request asks for."""
        if method != "PUT" or self.stops_after is None:
            return True
        self.stops_after -= 1
        return self.stops_after >= 0


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run moto's server until the end of the block; skip the test where it is not installed."""
    for package in ("s3fs", "moto", "flask", "flask_cors"):
        pytest.importorskip(package, reason=f"{package}: {HOW}")
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    found = S3Server()
    application = DomainDispatcherApplication(create_backend_app)

    def watched(environ, start_response):  # the interface of WSGI
        method = environ["REQUEST_METHOD"]
        found.requests.append((method, environ["PATH_INFO"]))
        if not found.takes(method):
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [b"<Error><Code>AccessDenied</Code><Message>no more</Message></Error>"]
        return application(environ, start_response)

    server = make_server("127.0.0.1", 0, watched, threaded=True)
    found.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A server for all tests of this process: fsspec keeps its clients, too."""
    with s3_server() as server:
        yield server
