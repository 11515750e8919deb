"""Writes a call of a scenario's pipeline as Python, for somebody who repeats it by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.scenario.fields import Generator
from harness.scenario.model import Case

OPENED = {"image": "RGB", "mask": "L"}  # references to one picture, with the mode of each


def call_text(case: Case) -> str:
    """Return the call that a case makes, as one expression of Python.

    Its names are those of diffusers' guides: `pipeline`, `torch`, `load_image` for pictures. What
    has no short form in Python, such as an array of a file, stands there as the scenario has it.
    """
    request = case.request()
    folder = case.scenario.path.parent
    arguments = [f"{name}={_value(value, folder)}" for name, value in request["call"].items()]
    kind, seeds = case.scenario.generator, tuple(request["seeds"])
    if kind in (Generator.CPU, Generator.DEVICE):
        where = "cpu" if kind is Generator.CPU else str(case.target.device)
        made = f"torch.Generator({where!r}).manual_seed(seed) for seed in {seeds}"
        arguments.append(f"generator=[{made}]")
        return f"pipeline({', '.join(arguments)})"
    return f"pipeline({', '.join(arguments)})  # generator: {kind}, seeds {seeds}"


def _value(value: object, folder: Path) -> str:
    """Return an argument as Python has it."""
    if isinstance(value, list):
        return f"[{', '.join(_value(each, folder) for each in value)}]"
    if isinstance(value, Mapping):
        kind = next(iter(value), "")
        if kind in OPENED:
            mode = value.get("mode", OPENED[kind])
            path = (folder / str(value[kind])).as_posix()
            return f"load_image({path!r}).convert({mode!r})"
    return repr(value)
