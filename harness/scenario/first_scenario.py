"""The text of a first scenario: what is known of a saved pipeline, with comments that teach."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from harness.scenario.first_call import Argument, first_call
from harness.scenario.saved_pipeline import SavedPipeline
from harness.scenario.weights import Checkpoint, CheckpointKind

SCHEMA = "scenario.schema.json"  # beside the scenarios: for editors, and what marks a scenario
PLAIN = re.compile(r"[A-Za-z./][\w ./:-]*")  # a text that may need no quotes


@dataclass(frozen=True)
class FirstScenario:
    """The text of a scenario, and the arguments that it needs and has no value for."""

    text: str
    missing: tuple[str, ...]


def first_scenario(path: Path, saved: SavedPipeline, checkpoint: Checkpoint) -> FirstScenario:
    """Return the scenario of a saved pipeline.

    Args:
        path: The file that it is for, to which the checkpoint's folder is told relative.
        saved: The pipeline.
        checkpoint: Where it was saved.
    """
    call = first_call(saved)
    lines = [
        f"# yaml-language-server: $schema={SCHEMA}",
        "# Every key is explained in docs/scenarios.md of the package diffusion-harness.",
        f"description: {_scalar('The saved pipeline ' + path.stem)}",
        f"pipeline: {_scalar(saved.pipeline)}",
        f"checkpoint: {_flow(_source(path, saved, checkpoint))}",
        *_call_lines(call.arguments),
        *(f"  # {name}: the pipeline asks for this too; give it a value" for name in call.missing),
        "seed: 0  # a list makes a batch, with one seed for each image",
        "# cases: {device: [cpu, cuda], dtype: [float32, bfloat16]}  # without it: cpu, float32",
        "# There is no `tolerance` yet, so a machine of another kind must give the same bits.",
        f"# `harness calibrate {os.path.relpath(path)} --write` measures bounds for it.",
    ]
    return FirstScenario("\n".join(lines) + "\n", call.missing)


def _source(path: Path, saved: SavedPipeline, checkpoint: Checkpoint) -> dict[str, object]:
    """Return where the weights come from, as a scenario names it."""
    if checkpoint.kind is CheckpointKind.HUB:
        revision = saved.commit or checkpoint.revision
        return {"hub": checkpoint.repository, "revision": revision}
    if checkpoint.kind is CheckpointKind.PATH:
        relative = os.path.relpath(checkpoint.folder, path.resolve().parent)
        return {"path": Path(relative).as_posix()}
    return {str(checkpoint.kind): checkpoint.name}


def _call_lines(arguments: tuple[Argument, ...]) -> list[str]:
    if not arguments:
        return ["call: {}"]
    return ["call:", *(_argument_line(argument) for argument in arguments)]


def _argument_line(argument: Argument) -> str:
    comment = f"  # {argument.comment}" if argument.comment else ""
    return f"  {argument.name}: {_flow(argument.value)}{comment}"


def _flow(value: object) -> str:
    """Return a value in YAML's flow style."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value) if isinstance(value, str) else json.dumps(value)


def _scalar(text: str) -> str:
    """Return a text for YAML: plain where that means the same text, else in quotes."""
    if PLAIN.fullmatch(text) and _is_plain(text):
        return text
    return json.dumps(text, ensure_ascii=False)


def _is_plain(text: str) -> bool:
    try:
        return bool(yaml.safe_load(f"{{key: {text}}}") == {"key": text})
    except (yaml.YAMLError, ValueError):  # ValueError: it looks like a date, and is none
        return False
