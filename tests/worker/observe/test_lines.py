"""Statements are noted with the values that they make, and with nothing else."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from harness.worker.observe.frames import is_looked_at, statement_at  # noqa: E402
from harness.worker.observe.lines import LineLog  # noqa: E402

CODE = '''\
"""Own code."""

import torch

SCALE = 2.0


class Press:
    def __init__(self):
        self.count = 0

    def half(self, x):
        return (
            x / 2
        )

    def run(self, x, steps=2):
        y = self.half(x)
        for i in range(steps):
            y.mul_(SCALE)
        if steps > 1:
            y = y + 1
        self.count = steps
        a, b = y.chunk(2)
        return [b, a]
'''


@pytest.fixture
def own(tmp_path: Path) -> Any:
    """Import the code as a module of a project."""
    path = tmp_path / "press.py"
    path.write_text(CODE, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("press", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def noted(log: LineLog) -> list[tuple[int, int, str]]:
    """Return the lines of each statement and the first name of what it made."""
    return [
        (each["first"], each["last"], next(iter(each["values"])))
        for each in log.records
        if each["file"] == "press.py"
    ]


def test_every_value_is_noted_where_it_is_made(own):
    """In place, in a called function, as an attribute, as a branch, as a constant, as a result."""
    log = LineLog(lambda: True, nullcontext)
    before = sys.gettrace()
    with log.tracing():
        own.Press().run(torch.ones(2))
    assert sys.gettrace() is before
    assert noted(log) == [
        (10, 10, "self.count"),
        (5, 5, "SCALE"),
        (18, 18, "half(x)"),
        (13, 15, "return"),
        (18, 18, "y"),
        (19, 19, "i"),
        (20, 20, "y"),
        (19, 19, "i"),
        (20, 20, "y"),
        (21, 21, "branch"),
        (22, 22, "y"),
        (23, 23, "self.count"),
        (24, 24, "a"),
        (25, 25, "return.0"),
    ]
    assert "return ( x / 2 )" in [each["text"] for each in log.records]


def test_the_same_run_gives_the_same_digests_and_another_input_others(own):
    """The names of files and the identities of objects do not count."""

    def values(x: Any) -> list[dict[str, str]]:
        log = LineLog(lambda: True, nullcontext)
        with log.tracing():
            own.Press().run(x)
        return [each["values"] for each in log.records]

    assert values(torch.ones(2)) == values(torch.ones(2))
    assert values(torch.ones(2)) != values(torch.zeros(2))


def test_what_is_not_wanted_is_not_noted(own):
    """And a stage is noted with the statement that called it, its inputs and what came before."""
    log = LineLog(lambda: False, nullcontext)
    with log.tracing():
        own.Press().run(torch.ones(2))
    assert log.records == []
    log.on_stage("unet#0", {"sample": torch.ones(1)})
    log.on_stage("unet#1", {"sample": torch.ones(1)})
    first, second = log.records
    assert (first["after"], first["stage"]) == ("", "unet#0")
    assert (second["after"], second["stage"]) == ("unet#0", "unet#1")
    assert "on_stage" in first["text"]
    assert first["values"] == second["values"]


def test_what_cannot_be_read_stops_nothing():
    """Numbers beyond 64 bits, classes that raise when asked, tensors without memory."""

    class Raises(type):
        def __getattr__(cls, name: str) -> Any:
            raise ImportError(name)

    class Absent(metaclass=Raises):
        pass

    @contextmanager
    def attributed() -> Iterator[None]:
        yield

    def strange() -> int:
        big = 1 << 80
        absent = [Absent]
        meta = torch.ones(2, device="meta")
        text = "a prompt"
        return len(absent) + len(meta) + len(text) + (big > 0)

    log = LineLog(lambda: True, attributed)
    with log.tracing():
        strange()
    names = [name for each in log.records for name in each["values"]]
    assert names == ["big", "meta", "text", "return"]


def test_own_code_and_the_libraries_of_pipelines_are_looked_at():
    """Python's own files, the worker's and those of other packages are not."""
    import diffusers

    assert is_looked_at("/project/inkpress/pipelines.py")
    assert is_looked_at("/env/lib/site-packages/diffusers/schedulers/scheduling_ddim.py")
    assert not is_looked_at("/env/lib/site-packages/torch/nn/functional.py")
    assert not is_looked_at("/env/lib/site-packages/diffusers/configuration_utils.py")
    assert not is_looked_at(json_file())
    assert not is_looked_at("<string>")
    assert is_looked_at(str(Path(diffusers.__file__).parent / "image_processor.py"))


def json_file() -> str:
    import json

    return json.__file__


def test_a_file_that_cannot_be_parsed_has_lines_alone(tmp_path):
    """Each line is its own statement."""
    path = tmp_path / "no.py"
    path.write_text("not python at all (\n", encoding="utf-8")
    assert statement_at(str(path), 1) == (1, 1, "not python at all (", 0)
