"""Turns outputs into pictures: baseline, this run and their difference, side by side.

Images are shown as they are, latents as their channels, a video as its worst frame and a film
strip, audio as a waveform and spectrograms. The place of the largest difference is marked. A
picture of more than `MOST_SIDE` pixels is reduced: images by the mean of each block, differences by
its maximum, so that a small hole stays visible.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from harness.judge import perception
from harness.judge.appearance import as_8_bit
from harness.judge.output_layout import Axis, Layout
from harness.records import OutputKind
from harness.report.html.charts import Chart, Series, draw
from harness.report.html.png import data_uri

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.records import Array

    Floats = NDArray[np.float64]

MOST_SIDE = 512  # pixels of a picture in the report
FRAME_SIDE = 96  # of one frame in a film strip
THUMBNAIL_SIDE = 32
USUAL_SIDE = 240  # a smaller picture is enlarged to about this size
USUAL_WIDTH = 330  # one that is wider than high, as channels beside each other are
MOST_FRAMES = 8
MOST_CHANNELS = 16
MOST_SAMPLES = 4  # of a batch
GAP = 2  # pixels between tiles
WAVE_POINTS = 400
WINDOW, HOP = 512, 256  # of a spectrogram, in samples of audio
DECIBELS = 80.0  # between the darkest and the brightest place of a spectrogram
# The ramp of differences, from none to the largest: brighter is always more, also without colour.
RAMP = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))

EXPECTED, ACTUAL, DIFFERENCE = "baseline", "this run", "difference"


@dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes:
        label: What stands under it.
        alt: What a screen reader says.
        uri: The PNG file as a data URI.
        width: In pixels.
        height: In pixels.
        mark: Where the largest difference is, in percent of width and height; None without one.
    """

    label: str
    alt: str
    uri: str
    width: int
    height: int
    mark: tuple[float, float] | None = None


@dataclass(frozen=True)
class PictureSet:
    """The pictures of one sample.

    Attributes:
        title: The output and the sample, such as `image[1]`.
        pictures: Side by side.
        note: How they were made: amplification, reduction, what was left out.
        has_slider: Whether the first is the baseline and the second this run.
        is_wide: Whether they are film strips or spectrograms.
        charts: Drawings beneath them.
    """

    title: str
    pictures: tuple[Picture, ...]
    note: str = ""
    has_slider: bool = False
    is_wide: bool = False
    charts: tuple[Markup, ...] = ()

    @property
    def scale(self) -> int:
        """How many pixels of the page one pixel of a small picture takes."""
        if self.is_wide or not self.pictures:
            return 1
        first = self.pictures[0]
        usual = USUAL_WIDTH if first.width > 2 * first.height else USUAL_SIDE
        return max(1, usual // max(first.width, first.height))

    @property
    def has_mark(self) -> bool:
        """Whether a place is marked."""
        return any(each.mark is not None for each in self.pictures)


def sets_of(
    name: str, layout: Layout, actual: Array, expected: Array | None, *, with_flip: bool
) -> Iterator[PictureSet]:
    """Yield the pictures of each sample that differs, or of each one where there is no baseline.

    Args:
        name: The name of the output.
        layout: What it is.
        actual: This run's array.
        expected: The baseline's, of the same shape; None where there is none.
        with_flip: Whether a map of FLIP is added, where the extra `images` is installed.
    """
    if layout.kind is OutputKind.OTHER:
        return
    mine = layout.samples(actual)
    others = layout.samples(expected) if expected is not None else [None] * len(mine)
    shown = 0
    for index, (own, its) in enumerate(zip(mine, others, strict=True)):
        if its is not None and np.array_equal(own, its):
            continue
        shown += 1
        if shown > MOST_SAMPLES:
            return
        title = f"{name}[{index}]" if len(mine) > 1 else name
        yield from _of_sample(title, layout, own, its, with_flip=with_flip)


def thumbnail(layout: Layout, array: Array) -> Picture | None:
    """Return a small picture of the first sample; None where the output is no picture."""
    if layout.kind not in (OutputKind.IMAGE, OutputKind.VIDEO, OutputKind.LATENTS):
        return None
    sample = layout.samples(array)[0]
    image = _shown(layout, sample, None, 0)
    return _picture("", "", _reduced(image, THUMBNAIL_SIDE), None)


def _of_sample(
    title: str, layout: Layout, actual: Array, expected: Array | None, *, with_flip: bool
) -> Iterator[PictureSet]:
    if layout.kind is OutputKind.AUDIO:
        yield _audio(title, actual, expected)
        return
    frame = _worst_frame(layout, actual, expected)
    suffix = "" if frame is None else f": number {frame}, which differs most"
    yield _side_by_side(f"{title}{suffix}", layout, actual, expected, frame or 0, with_flip)
    if layout.kind is OutputKind.VIDEO:
        yield _film_strip(title, actual, expected, frame or 0)


# Images and latents: baseline, this run, difference.


def _side_by_side(
    title: str, layout: Layout, actual: Array, expected: Array | None, frame: int, with_flip: bool
) -> PictureSet:
    own = _shown(layout, actual, expected, frame)
    step = _step(own, MOST_SIDE)
    reduced = f"reduced to 1/{step} in width and height; " if step > 1 else ""
    if expected is None:
        alone = _picture(ACTUAL, f"{title} of this run", _reduced(own, MOST_SIDE), None)
        return PictureSet(title, (alone,), _about(layout, reduced, ""))
    other = _shown(layout, expected, expected, frame)
    gap = _gap(layout, actual, expected, frame)
    mark = _largest_at(gap)
    largest = float(gap.max(initial=0.0))
    pictures = [
        _picture(EXPECTED, f"{title} of the baseline", _reduced(other, MOST_SIDE), mark),
        _picture(ACTUAL, f"{title} of this run", _reduced(own, MOST_SIDE), mark),
        _picture(
            DIFFERENCE,
            f"where {title} differs; brighter is more",
            _coloured(_largest_of_blocks(gap, step), largest),
            mark,
        ),
    ]
    if with_flip and layout.kind in (OutputKind.IMAGE, OutputKind.VIDEO):
        pictures += _flip_pictures(title, own, other, step)
    amplified = _amplification(layout, largest)
    return PictureSet(title, tuple(pictures), _about(layout, reduced, amplified), has_slider=True)


def _flip_pictures(title: str, own: Array, other: Array, step: int) -> list[Picture]:
    flip = perception.flip_map(own, other)
    if flip is None:
        return []
    coloured = _coloured(_largest_of_blocks(flip, step), float(flip.max()))
    label = f"FLIP, at most {flip.max():.3g}"
    return [_picture(label, f"FLIP map of {title}; brighter is more", coloured, None)]


def _amplification(layout: Layout, largest: float) -> str:
    if not largest:
        return "no difference"
    if layout.kind is OutputKind.LATENTS:
        return f"brightest place of the difference: {largest:.3g}"
    return (
        f"brightest place of the difference: {largest:.3g} "
        f"({255 * largest:.3g} of 255 levels), amplified {1 / largest:.3g} times"
    )


def _about(layout: Layout, reduced: str, amplified: str) -> str:
    words = reduced + amplified
    if layout.kind is OutputKind.LATENTS:
        scaled = "channels beside each other, each from its smallest to its largest value"
        words = f"{scaled}; {words}" if words else scaled
    return words.removesuffix("; ")


def _shown(layout: Layout, sample: Array, reference: Array | None, frame: int) -> Array:
    """Return one side of a sample as an image of 8 bits; latents by the range of `reference`."""
    if layout.kind is not OutputKind.LATENTS:
        image = sample[frame] if layout.kind is OutputKind.VIDEO else sample
        return _as_picture(as_8_bit(image))
    planes = _planes(layout, sample, frame)
    scale = planes if reference is None else _planes(layout, reference, frame)
    levels = [as_8_bit(_scaled(plane, by)) for plane, by in zip(planes, scale, strict=True)]
    return _tiled(levels)[..., None]


def _as_picture(image: Array) -> Array:
    """Return an image with a number of channels that PNG has."""
    return image if image.shape[-1] in (1, 3, 4) else image[..., :1]


def _planes(layout: Layout, sample: Array, frame: int) -> list[Floats]:
    """Return the channels of latents as planes of float64; those of one frame, or all tokens."""
    wide = np.nan_to_num(sample.astype(np.float64), posinf=0.0, neginf=0.0)
    if Axis.TOKEN in layout.axes:
        return [wide]
    if Axis.FRAME in layout.axes:
        wide = wide[:, frame]
    return list(wide[:MOST_CHANNELS])


def _scaled(plane: Floats, by: Floats) -> Floats:
    low, high = float(by.min()), float(by.max())
    scaled: Floats = (plane - low) / ((high - low) or 1.0)
    return scaled


def _tiled(planes: Sequence[Array]) -> Array:
    """Return planes beside each other, four in a row, with a gap between them."""
    columns = min(4, len(planes))
    rows = math.ceil(len(planes) / columns)
    height, width = planes[0].shape
    shape = rows * (height + GAP) - GAP, columns * (width + GAP) - GAP
    tiled = np.zeros(shape, planes[0].dtype)
    for index, plane in enumerate(planes):
        top, left = (index // columns) * (height + GAP), (index % columns) * (width + GAP)
        tiled[top : top + height, left : left + width] = plane
    return tiled


def _gap(layout: Layout, actual: Array, expected: Array, frame: int) -> Floats:
    """Return the absolute difference at every place of a picture.

    Of latents it is in their own unit, of images in [0, 1], also where those are of 8 bits.
    """
    if layout.kind is OutputKind.LATENTS:
        pairs = zip(_planes(layout, actual, frame), _planes(layout, expected, frame), strict=True)
        return _tiled([np.abs(own - its) for own, its in pairs]).astype(np.float64)
    if layout.kind is OutputKind.VIDEO:
        actual, expected = actual[frame], expected[frame]
    return _image_gap(actual, expected)


def _image_gap(actual: Array, expected: Array) -> Floats:
    """Return the largest difference of the channels of each pixel; the last axis is the channel."""
    unit = 255.0 if actual.dtype == np.uint8 else 1.0
    gap = np.abs(actual.astype(np.float64) - expected.astype(np.float64)) / unit
    largest: Floats = np.nan_to_num(gap).max(axis=-1)
    return largest


def _worst_frame(layout: Layout, actual: Array, expected: Array | None) -> int | None:
    """Return the frame with the largest difference; None where there are no frames."""
    if Axis.FRAME not in layout.axes:
        return None
    if expected is None:
        return 0
    axis = 0 if layout.kind is OutputKind.VIDEO else 1
    gap = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
    by_frame = np.moveaxis(gap, axis, 0).reshape(actual.shape[axis], -1).max(axis=1)
    return int(np.nan_to_num(by_frame).argmax())


def _largest_at(gap: Floats) -> tuple[float, float] | None:
    """Return where the largest difference is, in percent of the width and the height."""
    if not gap.size or not gap.max():
        return None
    row, column = np.unravel_index(int(gap.argmax()), gap.shape)
    return 100 * (float(column) + 0.5) / gap.shape[1], 100 * (float(row) + 0.5) / gap.shape[0]


# A video as a film strip.


def _film_strip(title: str, actual: Array, expected: Array | None, worst: int) -> PictureSet:
    frames = _chosen_frames(len(actual), worst)
    sides = [(EXPECTED, expected)] if expected is not None else []
    sides.append((ACTUAL, actual))
    pictures = [
        _picture(label, f"frames {_words(frames)} of {title}, {label}", _strip(side, frames), None)
        for label, side in sides
    ]
    if expected is not None:
        gaps = [_image_gap(actual[frame], expected[frame]) for frame in frames]
        largest = max(float(gap.max(initial=0.0)) for gap in gaps)
        step = _step(gaps[0], FRAME_SIDE)
        tiles = [_coloured(_largest_of_blocks(gap, step), largest) for gap in gaps]
        alt = f"where frames {_words(frames)} of {title} differ; brighter is more"
        pictures.append(_picture(DIFFERENCE, alt, _beside(tiles), None))
    note = f"frames {_words(frames)} of {len(actual)}"
    return PictureSet(f"{title}, film strip", tuple(pictures), note, is_wide=True)


def _chosen_frames(count: int, worst: int) -> list[int]:
    """Return some frames at equal distances, and the worst one."""
    even = np.linspace(0, count - 1, min(count, MOST_FRAMES)).round().astype(int)
    return sorted({*even.tolist(), worst})


def _words(frames: list[int]) -> str:
    return ", ".join(map(str, frames))


def _strip(video: Array, frames: list[int]) -> Array:
    return _beside([_reduced(_as_picture(as_8_bit(video[frame])), FRAME_SIDE) for frame in frames])


def _beside(tiles: list[Array]) -> Array:
    height, _, channels = tiles[0].shape
    space = np.full((height, GAP, channels), 255, np.uint8)
    parts = [part for tile in tiles for part in (tile, space)]
    return np.concatenate(parts[:-1], axis=1)


# Audio: a waveform, and spectrograms.


def _audio(title: str, actual: Array, expected: Array | None) -> PictureSet:
    own = _spectrogram(actual)
    sides = [(EXPECTED, expected)] if expected is not None else []
    sides.append((ACTUAL, actual))
    top = max(float(_spectrogram(side).max()) for _, side in sides)
    pictures = []
    for label, side in sides:
        scaled = np.clip((_spectrogram(side) - top) / DECIBELS + 1, 0, 1)
        alt = f"spectrogram of {title}, {label}"
        pictures.append(_picture(label, alt, _reduced(_ramped(scaled), MOST_SIDE), None))
    note = f"spectrograms over {DECIBELS:.0f} dB; time to the right, frequency upwards"
    if expected is not None:
        gap = np.abs(own - _spectrogram(expected))
        largest = float(gap.max(initial=0.0))
        coloured = _coloured(_largest_of_blocks(gap, _step(gap, MOST_SIDE)), largest)
        alt = f"where the spectrograms of {title} differ; brighter is more"
        pictures.append(_picture(DIFFERENCE, alt, coloured, _largest_at(gap)))
        note += f"; brightest place of the difference: {largest:.3g} dB"
    return PictureSet(title, tuple(pictures), note, charts=(_waveform(title, actual, expected),))


def _spectrogram(audio: Array) -> Floats:
    """Return the power of the first channel in dB; frequency upwards, time to the right."""
    signal = np.nan_to_num(audio[0].astype(np.float64))
    padded = np.pad(signal, (0, max(0, WINDOW - signal.size)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    power: Floats = np.square(np.abs(np.fft.rfft(windows * np.hanning(WINDOW), axis=1)))
    decibels: Floats = 10 * np.log10(power + 1e-12)
    return decibels.T[::-1]


def _waveform(title: str, actual: Array, expected: Array | None) -> Markup:
    """Return the largest absolute value of each of some hundred parts, and of the difference."""
    x = list(range(min(WAVE_POINTS, actual.shape[1])))
    own = np.nan_to_num(actual[0].astype(np.float64))
    series = [Series(ACTUAL, x, _peaks(own))]
    if expected is not None:
        its = np.nan_to_num(expected[0].astype(np.float64))
        series.append(Series(EXPECTED, x, _peaks(its)))
        series.append(Series(DIFFERENCE, x, _peaks(own - its)))
    chart = Chart(
        f"Waveform of {title}: the largest absolute value of each part",
        series,
        f"parts of {actual.shape[1] / max(1, len(x)):.4g} samples",
        "absolute value",
    )
    return draw(chart)


def _peaks(signal: Floats) -> list[float]:
    parts = np.array_split(np.abs(signal), min(WAVE_POINTS, signal.size))
    return [float(part.max()) for part in parts]


# From arrays to pictures.


def _picture(label: str, alt: str, image: Array, mark: tuple[float, float] | None) -> Picture:
    height, width = image.shape[:2]
    return Picture(label, alt, data_uri(image), width, height, mark)


def _step(image: Array, most: int) -> int:
    """Return by what an image must be divided so that no side exceeds `most` pixels."""
    return math.ceil(max(image.shape[:2]) / most)


def _blocks(image: Array, step: int) -> Array:
    """Return an image as blocks: rows, rows of a block, columns, columns of a block, channels."""
    height, width, channels = image.shape
    padding = ((0, -height % step), (0, -width % step), (0, 0))
    padded = np.pad(image, padding, mode="edge")
    rows, columns = padded.shape[0] // step, padded.shape[1] // step
    return padded.reshape(rows, step, columns, step, channels)


def _reduced(image: Array, most: int) -> Array:
    """Return an image of 8 bits with sides of at most so many pixels, by the mean of each block."""
    step = _step(image, most)
    if step == 1:
        return image
    means: Array = _blocks(image, step).mean(axis=(1, 3)).round().astype(np.uint8)
    return means


def _largest_of_blocks(gap: Floats, step: int) -> Floats:
    if step == 1:
        return gap
    largest: Floats = _blocks(gap[..., None], step).max(axis=(1, 3))[..., 0]
    return largest


def _coloured(gap: Floats, largest: float) -> Array:
    return _ramped(gap / (largest or 1.0))


def _ramped(values: Floats) -> Array:
    """Return values in [0, 1] as colours of the ramp."""
    places = np.linspace(0, 1, len(RAMP))
    channels = [np.interp(values, places, colours) for colours in zip(*RAMP, strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)
