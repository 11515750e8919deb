"""Pictures of outputs: decoded again, with the largest difference where it is."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest

from harness.judge.output_layout import layout_of
from harness.report.html import pictures
from harness.report.html.pictures import ACTUAL, DIFFERENCE, EXPECTED, Picture, sets_of, thumbnail


def decoded(picture: Picture) -> np.ndarray:
    image_module = pytest.importorskip("PIL.Image")
    content = base64.b64decode(picture.uri.partition(",")[2])
    with image_module.open(io.BytesIO(content)) as found:
        found.load()
        assert found.size == (picture.width, picture.height)
        return np.asarray(found)


def sets(name, actual, expected, output_type="np"):
    layout = layout_of(name, actual.shape, output_type)
    return list(sets_of(name, layout, actual, expected, with_flip=False))


IMAGES = np.full((2, 20, 30, 3), 0.5, np.float32)


def test_an_image_that_moved_stands_beside_its_baseline_and_the_amplified_difference():
    """The brightest place of the difference is the largest one, and the mark is there."""
    moved = IMAGES.copy()
    moved[1, 4, 6, 2] += 0.001
    (found,) = sets("image", moved, IMAGES)
    assert found.title == "image[1]"
    assert [each.label for each in found.pictures] == [EXPECTED, ACTUAL, DIFFERENCE]
    assert found.has_slider
    expected, actual, difference = map(decoded, found.pictures)
    assert expected.shape == actual.shape == difference.shape == (20, 30, 3)
    assert (expected == 128).all()
    brightness = difference.sum(axis=-1)
    assert np.unravel_index(brightness.argmax(), brightness.shape) == (4, 6)
    assert (np.delete(brightness.ravel(), 4 * 30 + 6) == sum(pictures.RAMP[0])).all()
    assert found.pictures[0].mark == pytest.approx((100 * 6.5 / 30, 100 * 4.5 / 20))
    assert "amplified 1e+03 times" in found.note


def test_a_large_image_is_reduced_and_a_small_hole_stays_visible():
    """By the maximum of each block, which a mean would dilute."""
    expected = np.full((1, 1500, 1030, 3), 0.5, np.float32)
    actual = expected.copy()
    actual[0, 1499, 1029] = 0
    (found,) = sets("image", actual, expected)
    assert found.note.startswith("reduced to 1/3")
    difference = decoded(found.pictures[2])
    assert difference.shape == (500, 344, 3)
    assert tuple(difference[-1, -1]) == pictures.RAMP[-1]


def test_latents_are_shown_as_their_channels():
    """Beside each other, each from its smallest to its largest value."""
    expected = np.arange(4 * 6 * 5, dtype=np.float32).reshape(1, 4, 6, 5)
    actual = expected.copy()
    actual[0, 2, 1, 3] += 1
    (found,) = sets("image", actual, expected, "latent")
    width = 4 * 5 + 3 * pictures.GAP
    assert [(each.width, each.height) for each in found.pictures] == [(width, 6)] * 3
    column = 2 * (5 + pictures.GAP) + 3
    assert found.pictures[0].mark == pytest.approx((100 * (column + 0.5) / width, 25))
    shown = decoded(found.pictures[0])
    assert (shown.min(), shown.max()) == (0, 255)


def test_packed_latents_and_those_of_a_video_are_pictures_too():
    """Tokens by channels; and the channels of the frame that differs most."""
    tokens = np.zeros((1, 12, 8), np.float32)
    (packed,) = sets("image", tokens + 1, tokens, "latent")
    assert (packed.pictures[0].width, packed.pictures[0].height) == (8, 12)
    frames = np.zeros((1, 4, 3, 6, 5), np.float32)
    moved = frames.copy()
    moved[0, 1, 2, 0, 0] = 1
    (video,) = sets("frame", moved, frames, "latent")
    assert "number 2" in video.title


def test_a_video_has_its_worst_frame_and_a_film_strip():
    """With every frame where there are few, and the worst one always."""
    expected = np.full((1, 30, 12, 16, 3), 0.5, np.float32)
    actual = expected.copy()
    actual[0, 17, 2, 2] = 1
    worst, strip = sets("frame", actual, expected)
    assert "number 17" in worst.title
    assert decoded(worst.pictures[1])[2, 2].tolist() == [255] * 3
    assert ", 17, " in strip.note
    count = strip.note.count(",") + 1
    assert strip.pictures[0].width == count * 16 + (count - 1) * pictures.GAP


def test_audio_has_a_waveform_and_spectrograms():
    """A tone of 2 kHz is a bright row; what was added stands in the difference."""
    time = np.arange(16000) / 16000
    expected = np.sin(2 * np.pi * 2000 * time).astype(np.float32)[None]
    actual = expected + (0.5 * np.sin(2 * np.pi * 4000 * time)).astype(np.float32)
    (found,) = sets("audio", actual, expected)
    assert [each.label for each in found.pictures] == [EXPECTED, ACTUAL, DIFFERENCE]
    rows = decoded(found.pictures[0]).astype(int).sum(axis=(1, 2))
    bins = pictures.WINDOW // 2 + 1
    assert rows.argmax() == bins - 1 - 2000 * pictures.WINDOW // 16000
    difference = decoded(found.pictures[2]).astype(int).sum(axis=(1, 2))
    assert abs(int(difference.argmax()) - (bins - 1 - 4000 * pictures.WINDOW // 16000)) <= 2
    assert len(found.charts) == 1


def test_without_a_baseline_this_run_stands_alone():
    """There is nothing to slide over it."""
    first, second = sets("image", IMAGES, None)
    assert [each.label for each in first.pictures] == [ACTUAL]
    assert not second.has_slider


def test_values_that_are_no_numbers_are_shown_all_the_same():
    """An output that is not finite is looked at first of all."""
    broken = IMAGES.copy()
    broken[0, 0, 0] = np.nan
    broken[0, 1, 1] = np.inf
    (found,) = sets("image", broken, IMAGES)
    assert all(decoded(each).size for each in found.pictures)


def test_a_thumbnail_is_small_and_other_arrays_have_none():
    """One of each passing case."""
    layout = layout_of("image", (1, 640, 480, 3), "np")
    small = thumbnail(layout, np.zeros((1, 640, 480, 3), np.float32))
    assert small is not None
    assert max(small.width, small.height) <= pictures.THUMBNAIL_SIDE
    assert decoded(small).max() == 0
    other = layout_of("embedding", (1, 7), "np")
    assert thumbnail(other, np.zeros((1, 7), np.float32)) is None
    assert list(sets_of("embedding", other, np.zeros((1, 7)), None, with_flip=False)) == []
