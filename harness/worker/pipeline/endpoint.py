"""A served engine as a pipeline: an endpoint that makes images as OpenAI's API describes them.

SGLang-Diffusion and vLLM-Omni serve this interface, with arguments of diffusers beside those of the
interface. Nothing but the finished images can be seen, so that a recording has outputs and no
stages. The address comes from an environment variable, because it differs from machine to machine.

Source: https://platform.openai.com/docs/api-reference/images/create
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import os
import urllib.error
import urllib.request
from contextlib import nullcontext
from typing import Any, ContextManager, Dict, List, Optional, Sequence, Union
from urllib.parse import urlsplit

import torch
from PIL import Image

from ..conditions import noise, numerics
from ..observe.operators import OperatorLog
from ..protocol import CannotRunHere, CaseError, EnvironmentRecord, NumericsClassRecord
from .framework import Framework

MOST_BYTES = 512 * 1024 * 1024  # of one answer
MOST_WORDS = 300  # characters of an answer that are repeated in an error
SECONDS = 3600.0  # how long one image may take; the case's own time-out ends it earlier

Images = Dict[str, List[Image.Image]]


class Http(Framework):
    """A served engine, which computes elsewhere.

    Its numerics class is what the server says of its models: hardware and versions are not told.

    Args:
        server: The server.
    """

    library = "diffusers"
    transformers = "transformers"
    draw_module = noise.DRAW_MODULE
    takes_numpy_generators = False
    can_feed = False
    can_evaluate = False

    def __init__(self, server: Server) -> None:
        self.device = torch.device("cpu")
        self._server = server

    def settle(self, mode: str) -> None:
        """Do nothing: the server's settings are its own."""

    def dtype(self, name: str) -> Any:
        """Return torch's type; the server computes in a type of its own."""
        return getattr(torch, name)

    def dtype_argument(self) -> str:
        """Return nothing: no weights are loaded here."""
        return ""

    def prepared(self, component: Any, dtype: str) -> Any:  # noqa: ARG002 (an abstract method)
        """Return the component as it is."""
        return component

    def placed(self, pipeline: Any, enabled: Sequence[str]) -> Any:  # noqa: ARG002 (an abstract method)
        """Return the pipeline as it is."""
        return pipeline

    def observe_operators(self, log: OperatorLog) -> ContextManager[Any]:  # noqa: ARG002 (an abstract method)
        """Observe nothing: no operator runs here."""
        return nullcontext()

    def numerics_class(self, dtype: str) -> NumericsClassRecord:  # noqa: ARG002 (an abstract method)
        """Return the class that stands for what the server says of its models."""
        return numerics.class_of({}, "endpoint", {"models": json.dumps(self._server.models())})

    def describe(self, numerics_class: NumericsClassRecord) -> EnvironmentRecord:
        """Return the environment, of which a client sees next to nothing."""
        found = super().describe(numerics_class)
        found["framework"] = "http"
        found["device_kind"] = "endpoint"
        found["versions"] = {"python": found["versions"]["python"]}
        found["flags"] = {}
        found["unobserved"] = ["noise", "inside"]
        return found


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses to follow: the token would go along to another host."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class Server:
    """The server that an environment variable names.

    Args:
        variable: Holds the address, such as `http://127.0.0.1:30000/v1`. A token, where the server
            wants one, is in the variable of the same name with `_TOKEN` at its end.

    Raises:
        CannotRunHere: The variable is not set, or nobody answers at the address.
        CaseError: It holds no address of HTTP.
    """

    def __init__(self, variable: str) -> None:
        address = os.environ.get(variable, "").rstrip("/")
        if not address:
            raise CannotRunHere(
                f"the environment variable {variable} names no server; "
                f"set it to an address such as http://127.0.0.1:30000/v1"
            )
        if urlsplit(address).scheme not in ("http", "https"):
            raise CaseError(f"{variable}: expected an address of HTTP, found `{address[:80]}`")
        self._address = address
        self._token = os.environ.get(f"{variable}_TOKEN", "")
        # Without a proxy: a request for this machine must not leave it.
        proxies = urllib.request.ProxyHandler() if _is_far(address) else None
        handlers = [proxies or urllib.request.ProxyHandler({}), _NoRedirect()]
        self._opener = urllib.request.build_opener(*handlers)

    def models(self) -> List[Dict[str, Any]]:
        """Return what the server says of its models, without the times at which they were loaded.

        The list is empty where the server does not tell.
        """
        try:
            listed = self._answer("models", None)
        except CaseError:
            return []
        found = [entry for entry in listed.get("data", []) if isinstance(entry, dict)]
        told = [{key: entry[key] for key in entry if key != "created"} for entry in found]
        return sorted(told, key=lambda entry: json.dumps(entry, sort_keys=True))

    def images(self, body: Dict[str, Any]) -> List[Image.Image]:
        """Return the images that the server makes of a request.

        Raises:
            CaseError: The server refuses the request, or its answer holds no images.
            CannotRunHere: Nobody answers.
        """
        answer = self._answer("images/generations", {**body, "response_format": "b64_json"})
        entries = answer.get("data")
        if not isinstance(entries, list) or not entries:
            raise CaseError(f"{self._address}: expected images in `data`, found none")
        return [self._image(entry) for entry in entries]

    def _image(self, entry: Any) -> Image.Image:
        """Return the image of one entry of an answer."""
        text = entry.get("b64_json") if isinstance(entry, dict) else None
        if not isinstance(text, str):
            raise CaseError(
                f"{self._address}: expected images as `b64_json`, which was asked for, found "
                f"{', '.join(entry) if isinstance(entry, dict) else type(entry).__name__}"
            )
        try:
            image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
            image.load()
        except (binascii.Error, OSError, ValueError, Image.DecompressionBombError) as error:
            raise CaseError(f"{self._address}: an image cannot be decoded: {error}") from error
        return image

    def _answer(self, path: str, body: Optional[Dict[str, Any]]) -> Dict[str, Any]:
        """Return the JSON of an answer; without a body, the request is a GET."""
        headers = {"Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        request = urllib.request.Request(f"{self._address}/{path}", data, headers)  # noqa: S310
        text = self._read(request)
        try:
            found = json.loads(text)
        except ValueError as error:
            raise CaseError(f"{self._address}/{path}: the answer is no JSON: {error}") from error
        if not isinstance(found, dict):
            raise CaseError(f"{self._address}/{path}: expected an object, found {found!r:.80}")
        return found

    def _read(self, request: urllib.request.Request) -> bytes:
        """Return the body of the answer to a request."""
        try:
            with self._opener.open(request, timeout=SECONDS) as answer:
                content: bytes = answer.read(MOST_BYTES + 1)
        except urllib.error.HTTPError as error:
            words = error.read(MOST_WORDS).decode("utf-8", "replace")
            raise CaseError(f"{request.full_url}: status {error.code}: {words}") from error
        except OSError as error:
            reason = getattr(error, "reason", None) or error
            raise CannotRunHere(f"nobody answers at {self._address}: {reason}") from error
        if len(content) > MOST_BYTES:
            raise CaseError(f"{request.full_url}: the answer has more than {MOST_BYTES} bytes")
        return content


class EndpointPipeline:
    """An endpoint that is called as a pipeline is.

    The parameters of a call are those of OpenAI's interface, and those of diffusers that the
    engines take beside them. What a server takes further is in `extra_body`.

    Args:
        server: Who makes the images.
        model: The name of the model; empty for a server that has one.
    """

    def __init__(self, server: Server, model: str) -> None:
        self.components: Dict[str, Any] = {}
        self._server = server
        self._model = model

    def __call__(  # noqa: PLR0913 (the interface prescribes them)
        self,
        prompt: str,
        *,
        size: Optional[str] = None,
        n: Optional[int] = None,
        quality: Optional[str] = None,
        style: Optional[str] = None,
        background: Optional[str] = None,
        negative_prompt: Optional[str] = None,
        height: Optional[int] = None,
        width: Optional[int] = None,
        num_inference_steps: Optional[int] = None,
        guidance_scale: Optional[float] = None,
        true_cfg_scale: Optional[float] = None,
        extra_body: Optional[Dict[str, Any]] = None,
        generator: Any = None,
    ) -> Images:
        """Return the images of a prompt: one request for each generator, with its seed."""
        named = {
            "model": self._model or None,
            "prompt": prompt,
            "size": size,
            "n": n,
            "quality": quality,
            "style": style,
            "background": background,
            "negative_prompt": negative_prompt,
            "height": height,
            "width": width,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "true_cfg_scale": true_cfg_scale,
        }
        body = {key: value for key, value in named.items() if value is not None}
        body |= extra_body or {}
        images: List[Image.Image] = []
        for seed in _seeds_of(generator):
            asked = body if seed is None else {**body, "seed": seed}
            images += self._server.images(asked)
        return {"images": images}

    def set_progress_bar_config(self, **_: Any) -> None:
        """Do nothing: there is no bar."""


def _seeds_of(generator: Any) -> Sequence[Optional[int]]:
    """Return the seed of each generator; None for a request without a seed."""
    if generator is None:
        return [None]
    generators: Union[Sequence[Any], Any] = generator
    if not isinstance(generators, (list, tuple)):
        generators = [generators]
    return [each.initial_seed() for each in generators]


def _is_far(address: str) -> bool:
    """Return whether an address is on another machine."""
    return urlsplit(address).hostname not in ("127.0.0.1", "localhost", "::1")
