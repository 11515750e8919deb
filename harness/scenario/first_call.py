"""The call of a first scenario: a value for each argument that a pipeline needs, and why that one.

The rules go by the names of arguments, which are the same in all pipelines of diffusers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from harness.scenario.saved_pipeline import (
    UNKNOWN_FRAME,
    UNKNOWN_SIZE,
    Parameter,
    SavedPipeline,
    Size,
)

PROMPT = "a lighthouse by the sea"
STEPS = 4  # of the scheduler; fewer where the pipeline's own default is fewer
FRAMES = 9  # one more than a multiple of 4 and of 8, as autoencoders of video take them
SECONDS = 1.0  # of sound
CLASS = 1  # an index, such as one of ImageNet
PILLOW = "pil"


@dataclass(frozen=True)
class Argument:
    """One argument of the call: its name, its value as YAML has it, and what a reader may ask."""

    name: str
    value: object
    comment: str = ""


@dataclass(frozen=True)
class FirstCall:
    """A call: its arguments, and the names of those that it needs and no rule gives a value."""

    arguments: tuple[Argument, ...]
    missing: tuple[str, ...]


Make = Callable[[SavedPipeline, Parameter, Size], object]


@dataclass(frozen=True)
class _Rule:
    """How an argument gets its value; where it is `optional`, only if the call demands it."""

    names: str  # a pattern for the whole name
    make: Make
    comment: str = ""
    only_required: bool = False


def _prompt(_saved: SavedPipeline, _parameter: Parameter, _size: Size) -> object:
    return PROMPT


def _pattern(_saved: SavedPipeline, _parameter: Parameter, size: Size) -> object:
    return {"pattern": {"size": [size.width, size.height]}}


def _mask(_saved: SavedPipeline, _parameter: Parameter, size: Size) -> object:
    return {"pattern": {"size": [size.width, size.height], "mode": "L"}}


def _frames(saved: SavedPipeline, parameter: Parameter, size: Size) -> object:
    return [_pattern(saved, parameter, size)] * FRAMES


def _masks(saved: SavedPipeline, parameter: Parameter, size: Size) -> object:
    return [_mask(saved, parameter, size)] * FRAMES


def _steps(_saved: SavedPipeline, parameter: Parameter, _size: Size) -> object:
    default = parameter.default
    return default if isinstance(default, int) and 1 <= default < STEPS else STEPS


def _embedding(saved: SavedPipeline, parameter: Parameter, _size: Size) -> object:
    """Return noise in place of what an image encoder gives: as wide as the denoiser takes it."""
    config = saved.components.get("unet", {})
    width = config.get("encoder_hid_dim") or config.get("cross_attention_dim")
    seed = int(parameter.name.startswith("negative"))
    return {"noise": {"shape": [1, width], "seed": seed}} if isinstance(width, int) else None


def _hint(_saved: SavedPipeline, _parameter: Parameter, size: Size) -> object:
    return {"noise": {"shape": [1, 3, size.height, size.width], "seed": 2}}


def _constant(value: object) -> Make:
    return lambda _saved, _parameter, _size: value


VIDEO = "num_frames|video_length"  # what only pipelines of videos take
OWN_IMAGE = "made by the harness; for a file beside this one: {image: NAME.png}"
RULES = (
    _Rule("prompt", _prompt),
    _Rule("(task|content)_prompt", _prompt),
    _Rule("(source|target)_prompt", _prompt, only_required=True),
    _Rule("image|control_image|pixels", _pattern, OWN_IMAGE),
    _Rule("mask_image", _mask, "white where the image is made anew"),
    _Rule("video|control_video|pose_video|face_video", _frames, OWN_IMAGE),
    _Rule("conditioning_frames|control_frames", _frames, OWN_IMAGE),
    _Rule("mask_video", _masks),
    _Rule("(negative_)?image_embeds", _embedding, "in place of an encoded image", True),
    _Rule("hint", _hint, "in place of a depth map", True),
    _Rule("class_labels", _constant([CLASS]), "one index of a class for each image", True),
    _Rule("height", lambda _saved, _parameter, size: size.height),
    _Rule("width", lambda _saved, _parameter, size: size.width),
    _Rule("use_resolution_binning", _constant(False), "the size stays what it is"),
    _Rule(VIDEO, _constant(FRAMES), "few, so that a run is short"),
    _Rule("audio_(length_in_s|duration|duration_s)", _constant(SECONDS), "seconds of sound"),
    _Rule(r"(\w+_)?num_inference_steps", _steps, "few, so that a run is short"),
)


def first_call(saved: SavedPipeline) -> FirstCall:
    """Return a call of a saved pipeline that runs, as far as its configuration tells."""
    is_video = any(re.fullmatch(VIDEO, parameter.name) for parameter in saved.parameters)
    side = UNKNOWN_FRAME if is_video else UNKNOWN_SIZE
    size = saved.size or Size(side, side)
    found: list[Argument] = []
    missing: list[str] = []
    for parameter in saved.parameters:
        argument = _output_type(parameter) or _by_rule(saved, parameter, size)
        if argument is not None:
            found.append(argument)
        elif parameter.required:
            missing.append(parameter.name)
    return FirstCall(tuple(found), tuple(missing))


def _by_rule(saved: SavedPipeline, parameter: Parameter, size: Size) -> Argument | None:
    for rule in RULES:
        applies = parameter.required or not rule.only_required
        if applies and re.fullmatch(rule.names, parameter.name):
            value = rule.make(saved, parameter, size)
            return None if value is None else Argument(parameter.name, value, rule.comment)
    return None


def _output_type(parameter: Parameter) -> Argument | None:
    """Return what has the pipeline give its exact values where it would round them to 8 bits."""
    if parameter.name != "output_type" or parameter.default != PILLOW:
        return None
    return Argument("output_type", "np", "exact values; images of 8 bits would hide small drift")
