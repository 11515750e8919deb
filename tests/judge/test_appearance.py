"""How a change looks, on arrays whose figures can be reckoned by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import builders
import numpy as np
import pytest

from harness.judge import perception
from harness.judge.appearance import as_8_bit, of_output, of_outputs, pixel_change
from harness.judge.output_layout import layout_of
from harness.judge.verdict import judge
from harness.records import Appearance, Outcome, OutputKind, PixelChange, Verdict
from harness.store.recording import Recording
from harness.store.typed_json import decode, encode

SIDE = 32


def appearances(name, expected, actual, output_type="np"):
    layout = layout_of(name, expected.shape, output_type)
    return list(of_output(name, layout, actual, expected))


def grey(side: int = SIDE) -> np.ndarray:
    return np.full((2, side, side, 3), 100 / 255, np.float32)


def test_changed_pixels_are_counted_as_a_file_of_8_bits_shows_them():
    """One channel of one pixel by one level, another pixel by 9 levels, the other image not."""
    expected, actual = grey(), grey()
    actual[1, 3, 4, 0] += 1 / 255
    actual[1, 5, 6] -= 9 / 255
    (found,) = appearances("image", expected, actual)
    assert (found.output, found.index, found.kind) == ("image", 1, OutputKind.IMAGE)
    mean_square = (1 + 3 * 81) / (SIDE * SIDE * 3)
    assert found.pixels == PixelChange(
        pixels=SIDE * SIDE,
        changed=2,
        over_1=1,
        over_2=1,
        over_8=1,
        largest=9,
        psnr=pytest.approx(10 * math.log10(255**2 / mean_square)),
    )
    assert found.pixels.changed_percent == pytest.approx(100 * 2 / 1024)


def test_a_change_below_one_level_changes_no_pixel_and_its_psnr_is_infinite():
    """The bits differ, and a saved image would not."""
    expected = grey(28)
    actual = np.nextafter(expected, np.float32(1))
    found = appearances("image", expected, actual)
    assert [each.pixels.changed for each in found] == [0, 0]
    assert found[0].pixels.psnr is None
    assert found[0].pixels.largest == 0


def test_images_of_8_bits_are_taken_as_they_are_and_do_not_wrap():
    """0 against 255 is 255 levels, not 1."""
    expected = np.zeros((1, 8, 8), np.uint8)
    actual = expected.copy()
    actual[0, 0, 0] = 255
    assert pixel_change(actual[..., None], expected[..., None]).largest == 255
    (found,) = appearances("image", expected, actual, "pil")
    assert found.pixels.changed == 1


def test_values_are_rounded_and_cut_as_diffusers_does():
    """0.5 is level 127.5, which rounds to even; what lies outside of [0, 1] is cut."""
    values = np.array([-1.0, 0.0, 0.5, 0.7, 1.0, 2.0, np.nan, np.inf])
    assert as_8_bit(values).tolist() == [0, 0, 128, 178, 255, 255, 0, 255]


def test_of_a_video_the_frame_that_changed_most_is_named():
    """Pixels are counted over all frames."""
    expected = np.full((1, 4, SIDE, SIDE, 3), 0.25, np.float32)
    actual = expected.copy()
    actual[0, 1, 0, 0] += 2 / 255
    actual[0, 3, 0, 0] += 20 / 255
    (found,) = appearances("frame", expected, actual)
    assert (found.kind, found.frame) == (OutputKind.VIDEO, 3)
    assert (found.pixels.pixels, found.pixels.changed) == (4 * SIDE * SIDE, 2)
    assert found.pixels.largest == 20


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [
        ("image", (1, 4, 8, 8), OutputKind.LATENTS),
        ("audio", (1, 100), OutputKind.AUDIO),
        ("embedding", (3, 7), OutputKind.OTHER),
    ],
)
def test_latents_audio_and_other_arrays_have_a_ratio_of_signal_to_noise(name, shape, kind):
    """A tenth of the signal is 20 dB below it."""
    expected = np.ones(shape, np.float32)
    (found,) = appearances(name, expected, expected * np.float32(1.1), "latent")
    assert found.kind is kind
    assert found.signal_to_noise == pytest.approx(20, abs=1e-4)
    assert (found.pixels, found.ssim, found.flip) == (None, None, None)


def test_the_ratio_has_no_value_where_there_was_no_signal():
    """Rather than a division by zero."""
    expected = np.zeros((1, 4, 8, 8), np.float32)
    (found,) = appearances("image", expected, expected + 1, "latent")
    assert found.signal_to_noise is None


def test_a_visible_hole_is_found_by_the_worst_window_and_the_largest_change():
    """A mean hides it: an 8 x 8 black square in an image of 128 x 128 pixels."""
    pytest.importorskip("skimage")
    pytest.importorskip("flip_evaluator")
    rows = np.linspace(0.3, 0.7, 128, dtype=np.float32)
    expected = np.repeat((rows[:, None] * rows)[None, :, :, None], 3, axis=-1)
    hole, noise = expected.copy(), expected.copy()
    hole[0, 60:68, 20:28] = 0
    noise += np.random.default_rng(0).choice([-1, 1], expected.shape).astype(np.float32) / 255
    (holed,), (noisy,) = (appearances("image", expected, each) for each in (hole, noise))
    assert holed.flip.mean < noisy.flip.mean
    assert holed.ssim.mean > 0.9
    assert holed.ssim.worst < 0.5 < noisy.ssim.worst
    row, column = holed.ssim.worst_at
    assert 56 <= row < 72
    assert 16 <= column < 32
    assert holed.flip.largest > 4 * noisy.flip.largest
    assert holed.flip.mean <= holed.flip.p99 <= holed.flip.largest


def test_an_image_smaller_than_a_window_has_no_ssim():
    """scikit-image would raise."""
    pytest.importorskip("skimage")
    small = np.zeros((6, 20, 3), np.uint8)
    assert perception.structural_similarity(small, small + 1) is None


def test_without_the_extra_there_is_no_ssim_and_no_flip(monkeypatch: pytest.MonkeyPatch):
    """Pixels, levels and PSNR are always there."""
    monkeypatch.setattr(perception, "is_installed", lambda: False)
    (first, _) = appearances("image", grey(), grey() + np.float32(0.1))
    assert (first.ssim, first.flip) == (None, None)
    assert first.pixels.changed == SIDE * SIDE


def recorded(folder: Path, image: np.ndarray) -> Recording:
    folder.mkdir()
    return builders.recording(folder, outputs={"image": image})


def test_an_outcome_has_the_appearance_of_outputs_that_differ_only(tmp_path: Path):
    """No array is read for equal digests; a run that drifted says how its image looks."""
    moved, same = recorded(tmp_path / "a", builders.MOVED), recorded(tmp_path / "b", builders.IMAGE)
    assert of_outputs(same, replace(same, tensors_path=tmp_path / "gone"), "np") == ()
    case = builders.case()
    outcome = judge(case, moved, builders.match(same), [])
    assert outcome.verdict is Verdict.DRIFTED
    assert [(each.output, each.index) for each in outcome.appearance] == [("image", 0)]
    assert decode(Outcome, encode(outcome)).appearance == outcome.appearance


def test_results_of_earlier_runs_are_read():
    """They say nothing of appearance."""
    content = encode(builders.outcome("drifted"))
    assert isinstance(content, dict)
    del content["appearance"]
    assert decode(Outcome, content).appearance == ()
    assert Appearance("image", 0, OutputKind.IMAGE).pixels is None
