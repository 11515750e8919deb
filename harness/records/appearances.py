"""How the change of an output looks to people; no verdict depends on it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class OutputKind(StrEnum):
    """What an output is; `judge/output_layout.py` decides it."""

    IMAGE = "image"
    LATENTS = "latents"
    VIDEO = "video"
    AUDIO = "audio"
    OTHER = "other"


@dataclass(frozen=True)
class PixelChange:
    """How many pixels look different, on both sides rounded to 8 bits as in a saved file.

    A pixel has changed where any of its channels has. `over_1`, `over_2` and `over_8` count the
    pixels that changed by more than so many of the 255 levels, `largest` is the largest change in
    levels. `psnr` is in dB, over all channels and with a peak of 255; None where no pixel changed,
    for which it is infinite.
    """

    pixels: int
    changed: int
    over_1: int
    over_2: int
    over_8: int
    largest: int
    psnr: float | None

    @property
    def changed_percent(self) -> float:
        """The share of changed pixels in percent."""
        return 100 * self.changed / self.pixels if self.pixels else 0.0


@dataclass(frozen=True)
class StructuralSimilarity:
    """SSIM of two images: its mean, its worst window, and the row and column of its centre.

    1 is equal. A mean over the image can hide a small hole, which the worst window shows.
    """

    mean: float
    worst: float
    worst_at: tuple[int, ...]


@dataclass(frozen=True)
class Flip:
    """FLIP of two images: what flips when one looks at them in turn; 0 is equal, 1 the most.

    `p99` is the value that 99 % of the pixels do not exceed.
    """

    mean: float
    p99: float
    largest: float


@dataclass(frozen=True)
class Appearance:
    """How the change of one output looks. It is shown to people; no verdict depends on it.

    Attributes:
        output: The name of the output.
        index: Which image, video or sample of the batch.
        kind: What the output is.
        pixels: For images, and for all frames of a video.
        frame: Of a video, the frame with the largest change; `ssim` and `flip` are of that one.
        ssim: Where the extra `images` is installed, and the image is large enough for a window.
        flip: Where the extra `images` is installed.
        signal_to_noise: For latents, audio and other arrays: 10 log10(sum e^2 / sum (a - e)^2) in
            dB, for the actual array a and the expected one e; None where it has no value.
    """

    output: str
    index: int
    kind: OutputKind
    pixels: PixelChange | None = None
    frame: int | None = None
    ssim: StructuralSimilarity | None = None
    flip: Flip | None = None
    signal_to_noise: float | None = None
