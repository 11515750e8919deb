"""A server of workers in this process, on a socket of its own."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from marked import until

from harness.launch.server import Server

LONG = 600.0


@contextmanager
def private_folder() -> Iterator[Path]:
    """Make a folder of this user's own; its path is short, as that of a socket must be."""
    folder = tempfile.mkdtemp(prefix="hs-")  # of mode 0700
    yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def serving(idle: float = LONG) -> Iterator[Server]:
    """Run a server in a thread until the end of the block."""
    with private_folder() as folder:
        server = Server(folder / "serve.sock", idle)
        thread = threading.Thread(target=server.serve, daemon=True)
        thread.start()
        assert until(server.path.exists, 10)
        yield server
        server.stop()
        thread.join(30)
        assert not thread.is_alive()
        assert not server.path.exists()
