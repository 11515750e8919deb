"""A served engine: what is asked of it, what is refused, and how its images are judged."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from image_server import Body, ImageServer
from PIL import Image

from harness.commands.main import main
from harness.records import Verdict
from harness.scenario.weights import DATA
from harness.store.run_folder import RESULTS_FILE, read_results
from harness.worker.pipeline.endpoint import EndpointPipeline, Server
from harness.worker.protocol import CannotRunHere, CaseError

VARIABLE = "ENGINE_URL"
GREY = Image.new("L", (4, 4), 128)
PAIR = """\
description: A digit by the pipeline itself, in eight bits per pixel.
pipeline: StableDiffusionPipeline
checkpoint: {bundled: digits-sd}
call: {prompt: a handwritten seven, num_inference_steps: 2, guidance_scale: 4.0, output_type: pil}
"""
SERVED = """\
description: The same digit by a server that runs the same weights.
backend: http
pipeline: images/generations
checkpoint: {endpoint: ENGINE_URL, model: digits}
call: {prompt: a handwritten seven, num_inference_steps: 2, guidance_scale: 4.0}
cases: {device: endpoint}
"""
AGAINST_THE_PAIR = """\
reference: {scenario: digits, device: cpu, dtype: float32}
tolerance: {cross-class: {l_inf: 1.0}}
"""


def grey(_body: Body) -> Image.Image:
    """Return the same image for every request."""
    return GREY


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageServer]:
    """A server of grey images, whose address is in the environment."""
    with ImageServer(grey) as found:
        monkeypatch.setenv(VARIABLE, found.url)
        yield found


def pipeline(model: str = "") -> EndpointPipeline:
    """Return the pipeline of the server that the environment names."""
    return EndpointPipeline(Server(VARIABLE), model)


def test_a_call_becomes_one_request_for_each_seed(server: ImageServer) -> None:
    """With the arguments that are set, and what else the server takes."""
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    found = pipeline("digits")("a", size="4x4", extra_body={"cache": 1}, generator=generators)
    assert [image.tobytes() for image in found["images"]] == [GREY.tobytes()] * 2
    common = {"model": "digits", "prompt": "a", "size": "4x4", "cache": 1}
    common |= {"response_format": "b64_json"}
    assert server.bodies == [common | {"seed": 3}, common | {"seed": 4}]
    assert server.tokens == [None, None]


def test_without_a_generator_no_seed_is_sent(server: ImageServer) -> None:
    """The server draws as it likes."""
    pipeline()("a")
    assert "seed" not in server.bodies[0]


def test_a_token_goes_along(server: ImageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the variable beside that of the address."""
    monkeypatch.setenv(f"{VARIABLE}_TOKEN", "secret")
    pipeline()("a")
    assert server.tokens == ["Bearer secret"]


def test_what_a_server_says_of_its_models_holds_no_time(server: ImageServer) -> None:
    """A server that was started again is the same server."""
    assert Server(VARIABLE).models() == [{"id": "digits", "object": "model"}]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((500, b"out of memory"), "status 500: out of memory"),
        ((302, b""), "status 302"),
        ((200, b"<html>"), "the answer is no JSON"),
        ((200, b"[]"), "expected an object, found []"),
        ((200, b'{"data": []}'), "expected images in `data`, found none"),
        ((200, b'{"data": [{"url": "http://x"}]}'), "`b64_json`, which was asked for, found url"),
        ((200, b'{"data": [{"b64_json": "?"}]}'), "an image cannot be decoded"),
        (
            (200, json.dumps({"data": [{"b64_json": base64.b64encode(b"x").decode()}]}).encode()),
            "an image cannot be decoded",
        ),
    ],
)
def test_an_answer_without_images_is_an_error(
    server: ImageServer, answer: tuple[int, bytes], words: str
) -> None:
    """The error repeats what the server said."""
    server.answer = answer
    with pytest.raises(CaseError) as raised:
        pipeline()("a")
    assert words in str(raised.value)


def test_nobody_at_the_address_cannot_run_here(server: ImageServer) -> None:
    """Nothing failed: there is nothing to judge."""
    made = pipeline()
    server.__exit__()
    with pytest.raises(CannotRunHere, match="nobody answers at"):
        made("a")
    server.__init__(grey)  # type: ignore[misc]
    server.__enter__()


def test_an_address_must_be_set_and_be_one_of_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """The messages name the variable."""
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(CannotRunHere, match=f"variable {VARIABLE} names no server"):
        Server(VARIABLE)
    monkeypatch.setenv(VARIABLE, "file:///etc/passwd")
    with pytest.raises(CaseError, match=f"{VARIABLE}: expected an address of HTTP"):
        Server(VARIABLE)


def paint_digits(loaded: list[Any], body: Body) -> Image.Image:
    """Return what `digits-sd` makes of a request."""
    from diffusers import StableDiffusionPipeline

    if not loaded:
        loaded.append(
            StableDiffusionPipeline.from_pretrained(
                DATA / "bundled" / "digits-sd", use_safetensors=True
            )
        )
        loaded[0].set_progress_bar_config(disable=True)
    found: Image.Image = loaded[0](
        body["prompt"],
        num_inference_steps=body["num_inference_steps"],
        guidance_scale=body["guidance_scale"],
        generator=torch.Generator().manual_seed(body["seed"]),
    ).images[0]
    return found


def verdicts(folder: Path) -> dict[str, str]:
    """Return the verdict of every case of a run."""
    return {one.case: one.verdict for one in read_results(folder / RESULTS_FILE).outcomes}


@pytest.mark.slow
def test_a_server_is_held_against_itself_and_against_the_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It repeats its baseline; its pair lies within a level; a change of its model is seen."""
    monkeypatch.chdir(tmp_path)
    Path("scenarios").mkdir()
    Path("scenarios/digits.yaml").write_text(PAIR, encoding="utf-8")
    Path("scenarios/served.yaml").write_text(SERVED, encoding="utf-8")
    Path("scenarios/paired.yaml").write_text(SERVED + AGAINST_THE_PAIR, encoding="utf-8")
    loaded: list[Any] = []
    with ImageServer(lambda body: paint_digits(loaded, body)) as server:
        monkeypatch.setenv(VARIABLE, server.url)
        assert main(["record", "scenarios", "-k", "digits or served"]) == 0
        assert main(["run", "scenarios", "--out", "first"]) == 0
        first = verdicts(Path("first"))
        # The server runs in other settings than the pipeline: its bits may differ.
        assert first.pop("paired[endpoint-float32]") in (Verdict.IDENTICAL, Verdict.WITHIN)
        assert set(first.values()) == {Verdict.IDENTICAL}
        server.painter = lambda body: paint_digits(loaded, body | {"guidance_scale": 3.0})
        assert main(["run", "scenarios", "-k", "endpoint", "--out", "moved"]) == 1
        assert set(verdicts(Path("moved")).values()) == {Verdict.DRIFTED}
