"""Decides what an output is, an image, latents, a video or audio, and what each axis of it means.

Metrics of appearance and the pictures of a report both go by it. The rules are one table, which
covers what the pipelines of diffusers return under each `output_type`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from harness.records import OutputKind

if TYPE_CHECKING:
    from harness.records import Array

CHANNELS_OF_IMAGES = (1, 3, 4)  # grey, colour, colour with opacity
LATENT = "latent"  # the `output_type` of every pipeline that returns latents


class Axis(StrEnum):
    """What one axis of an array counts."""

    BATCH = "B"
    FRAME = "F"
    HEIGHT = "H"
    WIDTH = "W"
    CHANNEL = "C"
    TIME = "T"
    TOKEN = "N"  # noqa: S105 (a token of a transformer, no secret)


# The order of the axes of a sample; those of images and videos end with the channel.
ORDER = (Axis.BATCH, Axis.TOKEN, Axis.CHANNEL, Axis.FRAME, Axis.HEIGHT, Axis.WIDTH, Axis.TIME)
# The axes that a sample always has; one that the array lacks is added with an extent of one.
_ADDED = {
    OutputKind.IMAGE: (Axis.CHANNEL,),
    OutputKind.VIDEO: (Axis.CHANNEL,),
    OutputKind.AUDIO: (Axis.CHANNEL,),
    OutputKind.LATENTS: (),
    OutputKind.OTHER: (),
}


@dataclass(frozen=True)
class Layout:
    """What an output is, and its axes in order; there are none where nothing is known of them."""

    kind: OutputKind
    axes: tuple[Axis, ...] = ()

    def samples(self, array: Array) -> list[Array]:
        """Return each sample of a batch as a view, with its axes in one order for each kind.

        An image has the axes height, width and channel; a video frame, height, width and channel;
        latents channel, then frame if there are some, height and width, or token and channel; audio
        channel and time. An output of which nothing is known is one sample, as it is.

        Args:
            array: The output, with the axes of this layout.
        """
        if not self.axes:
            return [array]
        axes = "".join(self.axes)
        for missing in _ADDED[self.kind]:
            if missing not in axes:
                array, axes = array[..., None], axes + missing
        if Axis.BATCH not in axes:
            array, axes = array[None], Axis.BATCH + axes
        order = [axes.index(letter) for letter in ORDER if letter in axes]
        if self.kind in (OutputKind.IMAGE, OutputKind.VIDEO):  # pictures have their channels last
            order.append(order.pop(order.index(axes.index(Axis.CHANNEL))))
        return list(array.transpose(order))


@dataclass(frozen=True)
class _Rule:
    """One row of the table: outputs of these names and types, with these axes, are of this kind.

    An empty `output_types` admits every one. Where the rule is for images or frames, the channels
    must be as many as those of an image.
    """

    kind: OutputKind
    axes: str
    names: tuple[str, ...] = ()
    output_types: tuple[str, ...] = ()


_IMAGES = ("image",)
_VIDEOS = ("frame", "video")
_AUDIO = ("audio",)
# The first rule that fits decides, so that what a call says of itself comes before the shapes.
RULES = (
    _Rule(OutputKind.AUDIO, "BT", _AUDIO),
    _Rule(OutputKind.AUDIO, "BCT", _AUDIO),
    _Rule(OutputKind.AUDIO, "T", _AUDIO),
    _Rule(OutputKind.LATENTS, "BCHW", output_types=(LATENT,)),
    _Rule(OutputKind.LATENTS, "BCFHW", output_types=(LATENT,)),
    _Rule(OutputKind.LATENTS, "BNC", output_types=(LATENT,)),
    _Rule(OutputKind.IMAGE, "BCHW", _IMAGES, ("pt",)),
    _Rule(OutputKind.VIDEO, "BFCHW", _VIDEOS, ("pt",)),
    _Rule(OutputKind.IMAGE, "BHWC", _IMAGES),
    _Rule(OutputKind.IMAGE, "BCHW", _IMAGES),
    _Rule(OutputKind.IMAGE, "HWC", _IMAGES),
    _Rule(OutputKind.IMAGE, "BHW", _IMAGES),
    _Rule(OutputKind.VIDEO, "BFHWC", _VIDEOS),
    _Rule(OutputKind.VIDEO, "BFCHW", _VIDEOS),
    _Rule(OutputKind.VIDEO, "FHWC", _VIDEOS),
    _Rule(OutputKind.VIDEO, "BFHW", _VIDEOS),
)


def layout_of(name: str, shape: Sequence[int], output_type: object) -> Layout:
    """Return what an output is.

    Args:
        name: Its name in a recording, such as `image`; in tuples of arrays, the part before `.`.
        shape: Its extents.
        output_type: What the call asks for, such as `np` or `latent`; None where it does not say.
    """
    for rule in RULES:
        if _fits(rule, name.split(".", maxsplit=1)[0], shape, output_type):
            return Layout(rule.kind, tuple(map(Axis, rule.axes)))
    return Layout(OutputKind.OTHER)


def _fits(rule: _Rule, name: str, shape: Sequence[int], output_type: object) -> bool:
    if len(rule.axes) != len(shape) or not all(shape):
        return False
    if rule.names and name not in rule.names:
        return False
    if rule.output_types and output_type not in rule.output_types:
        return False
    is_seen = rule.kind in (OutputKind.IMAGE, OutputKind.VIDEO) and Axis.CHANNEL in rule.axes
    return not is_seen or shape[rule.axes.index(Axis.CHANNEL)] in CHANNELS_OF_IMAGES
