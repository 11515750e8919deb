"""A server on 127.0.0.1 that makes images as OpenAI's API describes them."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from PIL import Image

Body = dict[str, Any]
Painter = Callable[[Body], Image.Image]


class ImageServer:
    """Serves inside a `with` block.

    Args:
        painter: Makes the image of a request.
        models: What the server says of its models.

    Attributes:
        bodies: The body of every request for images.
        tokens: The `Authorization` of every request.
        answer: Where it is not None, its status and bytes answer every request for images.
    """

    def __init__(self, painter: Painter, models: tuple[str, ...] = ("digits",)) -> None:
        self.painter = painter
        self.models = models
        self.bodies: list[Body] = []
        self.tokens: list[str | None] = []
        self.answer: tuple[int, bytes] | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """The address, as an environment variable holds it."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def images(self, body: Body) -> bytes:
        """Return the answer to a request for images, as PNG in base64."""
        buffer = io.BytesIO()
        self.painter(body).save(buffer, "png")
        entry = {"b64_json": base64.b64encode(buffer.getvalue()).decode()}
        return json.dumps({"created": len(self.bodies), "data": [entry]}).encode()


def _handler(server: ImageServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            entries = [{"id": name, "object": "model", "created": 1} for name in server.models]
            self._send(200, json.dumps({"object": "list", "data": entries}).encode())

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            server.bodies.append(json.loads(self.rfile.read(length)))
            server.tokens.append(self.headers["Authorization"])
            self._send(*(server.answer or (200, server.images(server.bodies[-1]))))

        def _send(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
