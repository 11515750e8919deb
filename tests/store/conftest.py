"""Places behind URLs: memory, a folder, and a bucket of a real server that speaks S3."""

from __future__ import annotations

import pytest
from s3_server import s3_server


@pytest.fixture(scope="session")
def s3():
    """A server on loopback, for all tests of this process: clients of fsspec are kept, too."""
    with s3_server() as server:
        yield server
