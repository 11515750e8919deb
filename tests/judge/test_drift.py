"""Drift: measured over every element, in float64, in constant memory; only finite values pass."""

from __future__ import annotations

import json
import math
import tracemalloc

import numpy as np
import pytest
from builders import IMAGE, MOVED, NAN, NOISE

from harness.judge.checks import check_output
from harness.judge.drift import CHUNK, measure, of_outputs, of_stages, of_teacher_forced
from harness.records import Drift, Stage
from harness.scenario.tolerance import NO_DIFFERENCE, Tolerance


def spread(size: int, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    """Return `size` numbers around zero."""
    return np.random.default_rng(seed).standard_normal(size).astype(dtype)


@pytest.mark.parametrize("shape", [(7,), (CHUNK,), (CHUNK + 1,), (3, 50, 1000)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_drift_is_what_numpy_says_in_float64(shape, dtype):
    """Chunks change nothing: the plain formulas over the whole arrays give the same numbers."""
    size = math.prod(shape)
    actual, expected = spread(size, 1, dtype).reshape(shape), spread(size, 2, dtype).reshape(shape)
    wide, wide_expected = actual.astype(np.float64), expected.astype(np.float64)
    gap = np.abs(wide - wide_expected)
    relative = np.linalg.norm(wide - wide_expected) / np.linalg.norm(wide_expected)
    where = tuple(int(i) for i in np.unravel_index(gap.argmax(), shape))
    assert measure(actual, expected) == Drift(
        l_inf=gap.max(),
        rel_l2=pytest.approx(relative, rel=1e-12),
        abs_sum=pytest.approx(np.abs(wide).sum(), rel=1e-12),
        abs_sum_expected=pytest.approx(np.abs(wide_expected).sum(), rel=1e-12),
        differing=int(np.count_nonzero(gap)),
        size=size,
        worst_index=where,
        worst_actual=float(actual[where]),
        worst_expected=float(expected[where]),
        finite=True,
        gain=approx(((wide - wide_expected) * wide_expected).sum() / (wide_expected**2).sum()),
        bias=approx((wide - wide_expected).mean() / np.sqrt((wide_expected**2).mean())),
        channel_bias=approx(channel_bias(wide, wide_expected)),
        spatial=pytest.approx(spatial(wide, wide_expected), abs=2e-3),  # pairs of two chunks
    )


def approx(value: float) -> object:
    """Return what equals `value` but for rounding; a mean may be near zero."""
    return pytest.approx(value, rel=1e-9, abs=1e-15)


def channel_bias(wide: np.ndarray, wide_expected: np.ndarray) -> float:
    """Return the largest mean of a channel's differences, in units of the array's RMS."""
    axis = {3: 2, 4: 1, 5: 1}.get(wide.ndim)
    others = None if axis is None else tuple(i for i in range(wide.ndim) if i != axis)
    means = np.atleast_1d((wide - wide_expected).mean(axis=others))
    return max(means, key=abs) / np.sqrt((wide_expected**2).mean())


def spatial(wide: np.ndarray, wide_expected: np.ndarray) -> float:
    """Return how far neighbours move alike, in units of the norm of the expected array.

    The sequences of a batch follow each other, and so do the frames of a video.
    """
    gap = wide - wide_expected
    if gap.ndim < 3:
        return 0.0
    if gap.ndim == 3:
        places = gap.reshape(-1, gap.shape[2])
        products = (places[1:] * places[:-1]).sum()
    else:
        images = gap.reshape(gap.shape[0] * gap.shape[1], -1, gap.shape[-1])
        below = (images[:, 1:] * images[:, :-1]).sum()
        beside = (images[:, :, 1:] * images[:, :, :-1]).sum()
        products = (below + beside) / 2
    return products / np.linalg.norm(gap) / np.linalg.norm(wide_expected)


@pytest.mark.parametrize(
    "shape",
    [(2, 3, 8, 8), (2, 3, 300, 301), (1, 70, 40, 40), (1, 5, 3, 16, 16), (2, 20, 48)],
    ids=str,
)
def test_the_bias_of_a_channel_is_found_whatever_the_layout_and_the_chunks(shape):
    """One channel is shifted by a millionth of the whole; rounding has no such mean."""
    axis = 2 if len(shape) == 3 else 1
    expected = spread(math.prod(shape), dtype="float64").reshape(shape)
    rounding = 1e-6 * spread(math.prod(shape), 1, "float64").reshape(shape)
    plain = measure(expected + rounding, expected)
    shift = np.zeros(shape)
    shift.swapaxes(0, axis)[1] = 1e-6
    shifted = measure(expected + rounding + shift, expected)
    assert shifted.channel_bias == approx(channel_bias(rounding + shift + expected, expected))
    assert shifted.channel_bias == pytest.approx(1e-6, rel=0.5)
    assert abs(plain.channel_bias) < 0.5e-6
    assert shifted.bias == approx((rounding + shift).mean() / np.sqrt((expected**2).mean()))


@pytest.mark.parametrize(
    "shape", [(2, 3, 8, 8), (1, 70, 40, 40), (1, 5, 3, 16, 16), (2, 20, 48)], ids=str
)
def test_a_region_that_moves_has_neighbours_that_move_alike_and_rounding_has_not(shape):
    """Both have the same relative L2."""
    expected = spread(math.prod(shape), dtype="float64").reshape(shape)
    rounding = 1e-6 * spread(math.prod(shape), 1, "float64").reshape(shape)
    region = np.zeros(shape)
    places = slice(0, shape[1] // 2) if len(shape) == 3 else (..., slice(0, shape[-1] // 2))
    region[(slice(None), places) if len(shape) == 3 else places] = math.sqrt(2) * 1e-6
    smooth, rough = measure(expected + region, expected), measure(expected + rounding, expected)
    assert smooth.rel_l2 == pytest.approx(rough.rel_l2, rel=0.2)
    assert smooth.spatial == approx(spatial(expected + region, expected))
    assert rough.spatial == approx(spatial(expected + rounding, expected))
    assert smooth.spatial > 0.75 * smooth.rel_l2
    assert abs(rough.spatial) < 0.2 * rough.rel_l2


def test_a_channel_of_several_chunks_loses_the_pairs_between_them_alone():
    """One row of 217 has no row above it."""
    expected = spread(3 * 300 * 301, dtype="float64").reshape(1, 3, 300, 301)
    shifted = expected + 1e-6
    assert measure(shifted, expected).spatial == pytest.approx(spatial(shifted, expected), rel=0.01)


def test_differences_whose_squares_vanish_have_no_neighbours():
    """As their relative L2, which is zero too; only L-inf sees them."""
    expected = np.ones((1, 1, 8, 8))
    expected[0, 0, 0, 0] = 1e-200
    actual = expected.copy()
    actual[0, 0, 0, 0] = 2e-200
    moved = measure(actual, expected)
    assert (moved.l_inf, moved.rel_l2, moved.spatial) == (1e-200, 0.0, 0.0)


def test_a_scaled_tensor_has_a_gain_and_rounding_has_none():
    """Both have the same relative L2."""
    expected = spread(40_000, dtype="float64").reshape(1, 4, 100, 100)
    scaled = measure(1.000_001 * expected, expected)
    rounded = measure(
        expected + 1e-6 * spread(40_000, 1, "float64").reshape(expected.shape), expected
    )
    assert scaled.gain == pytest.approx(1e-6)
    assert abs(rounded.gain) < 2e-8
    assert scaled.rel_l2 == pytest.approx(rounded.rel_l2, rel=0.05)


def test_so_few_elements_that_nothing_averages_out_are_one_channel():
    """A pooled embedding of a batch of two has two elements a channel."""
    expected = spread(2 * 768).reshape(2, 768)
    moved = measure(expected + np.float32(1e-3) * spread(2 * 768, 1).reshape(2, 768), expected)
    assert moved.channel_bias == moved.bias


def naive(actual: np.ndarray, expected: np.ndarray) -> dict[str, object]:
    """Return the drift of finite arrays by the plain formulas over whole arrays in float64."""
    wide, wide_expected = actual.astype(np.float64), expected.astype(np.float64)
    gap = np.abs(wide - wide_expected)
    relative = np.linalg.norm(gap) / np.linalg.norm(wide_expected)
    return {
        "l_inf": gap.max(),
        "rel_l2": pytest.approx(relative, rel=1e-12),
        "abs_sum": pytest.approx(np.abs(wide).sum(), rel=1e-12),
        "abs_sum_expected": pytest.approx(np.abs(wide_expected).sum(), rel=1e-12),
        "differing": int(np.count_nonzero(gap)),
        "worst_index": tuple(int(i) for i in np.unravel_index(gap.argmax(), gap.shape)),
    }


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "uint8", "int64", "bool"])
def test_any_arrays_drift_as_the_plain_formulas_say(dtype, seed, monkeypatch: pytest.MonkeyPatch):
    """Random sizes, scales and shares of differing elements; many chunks are equal."""
    monkeypatch.setattr("harness.judge.drift.CHUNK", 64)
    rng = np.random.default_rng(seed)
    shape, scale = tuple(rng.integers(1, 24, rng.integers(1, 4))), 10.0 ** rng.integers(-3, 3)
    expected = np.abs(rng.standard_normal(shape) * scale + 1).astype(dtype)
    moves = rng.random(shape) < rng.choice([0.0, 0.002, 0.3, 1.0])
    moved = np.where(moves, rng.standard_normal(shape) * scale, expected.astype(np.float64))
    actual = (np.abs(moved) % 256 if dtype == "uint8" else moved).astype(dtype)
    drift, reference = measure(actual, expected), naive(actual, expected)
    assert {name: getattr(drift, name) for name in reference} == reference
    assert (drift.finite, drift.worst_actual) == (True, float(actual[drift.worst_index]))


@pytest.mark.parametrize("seed", range(10))
def test_a_value_that_is_not_finite_is_never_overlooked(seed, monkeypatch: pytest.MonkeyPatch):
    """One of a few thousand elements, on one side or both, wherever it stands."""
    monkeypatch.setattr("harness.judge.drift.CHUNK", 64)
    rng = np.random.default_rng(seed)
    expected = spread(3000, seed)
    actual = expected + np.float32(1e-3)
    sides = [(actual,), (expected,), (actual, expected)][seed % 3]
    for side in sides:
        side[rng.integers(side.size)] = rng.choice([np.nan, np.inf, -np.inf])
    drift = measure(actual, expected)
    assert (drift.finite, math.isnan(drift.l_inf), math.isnan(drift.rel_l2), drift.differing) == (
        False,
        True,
        True,
        3000,
    )


@pytest.mark.parametrize(
    ("dtype", "low", "high", "l_inf"),
    [
        ("uint8", 0, 255, 255.0),
        ("int8", -128, 127, 255.0),
        ("int16", -32768, 32767, 65535.0),
        ("bool", False, True, 1.0),
        ("float16", -65504.0, 65504.0, 131008.0),
        ("float32", -3e38, 3e38, float(np.float32(3e38)) * 2),
    ],
)
def test_a_difference_neither_wraps_nor_overflows(dtype, low, high, l_inf):
    """The whole range of a dtype apart is the whole range, in both directions."""
    a, b = np.array([low], dtype), np.array([high], dtype)
    assert (measure(a, b).l_inf, measure(b, a).l_inf) == (l_inf, l_inf)


@pytest.mark.parametrize("at", [0, 5, CHUNK - 1, CHUNK, 2 * CHUNK + 1, 2 * CHUNK + 16], ids=str)
def test_one_element_off_is_found_wherever_it_is(at):
    """In the first chunk, at its borders, in a later and in the last, partial one."""
    expected = spread(2 * CHUNK + 17).reshape(-1, 1)
    actual = expected.copy()
    actual[at] = 100.0
    drift = measure(actual, expected)
    assert (drift.differing, drift.worst_index, drift.worst_actual, drift.worst_expected) == (
        1,
        (at, 0),
        100.0,
        float(expected[at, 0]),
    )
    assert drift.l_inf == 100.0 - float(expected[at, 0])


def test_every_differing_element_counts_once():
    """The count is over all chunks."""
    expected = spread(3 * CHUNK)
    actual = expected.copy()
    actual[::1000] += 1.0
    assert measure(actual, expected).differing == len(expected[::1000])


def test_the_first_of_equally_bad_elements_is_named():
    """Reports of one drift do not change from run to run."""
    expected = np.zeros(CHUNK + 10, np.float32)
    actual = expected.copy()
    actual[[9, CHUNK + 3]] = [-2.0, 2.0]
    assert measure(actual, expected).worst_index == (9,)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        ([math.nan, 1.0], [0.0, 1.0]),
        ([0.0, 1.0], [math.nan, 1.0]),
        ([math.nan, 1.0], [math.nan, 1.0]),
        ([math.inf, 1.0], [0.0, 1.0]),
        ([0.0, 1.0], [0.0, -math.inf]),
    ],
    ids=["nan", "nan-expected", "nan-both", "inf", "inf-expected"],
)
@pytest.mark.parametrize("before", [0, CHUNK + 3])
def test_nan_and_infinity_pass_no_bound(actual, expected, before):
    """Neither side may hold them, in any chunk, however loose the bound is."""
    pad = [0.5] * before
    drift = measure(np.array(pad + actual, np.float32), np.array(pad + expected, np.float32))
    assert not drift.finite
    assert math.isnan(drift.l_inf)
    assert math.isnan(drift.rel_l2)
    loosest = Tolerance.from_yaml({"l_inf": math.inf, "rel_l2": math.inf})
    checks = [
        *check_output("image", drift, loosest),
        *check_output("image", drift, NO_DIFFERENCE),
    ]
    assert [check.passed for check in checks] == [False, False, False]


def test_the_same_infinity_on_both_sides_is_measured_without_a_warning():
    """Infinity minus infinity is NaN, without the warning that a strict test run makes an error."""
    both = np.array([math.inf, 1.0], np.float32)
    assert not measure(both, both).finite


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0, 2)], ids=str)
def test_empty_arrays_do_not_drift(shape):
    """No element differs, and none is named."""
    still = Drift(0.0, 0.0, 0.0, 0.0, 0, 0, (), 0.0, 0.0, True, 0.0, 0.0, 0.0, 0.0)
    assert measure(np.zeros(shape), np.zeros(shape)) == still


def test_a_number_without_dimensions_is_measured():
    """A 0-d array has one element, at the empty index."""
    moved = Drift(1.0, 0.5, 3.0, 2.0, 1, 1, (), 3.0, 2.0, True, 0.5, 0.5, 0.5, 0.0)
    assert measure(np.array(3.0), np.array(2.0)) == moved


def test_arrays_of_other_shapes_are_refused():
    """Broadcasting would hide a lost image."""
    with pytest.raises(ValueError, match=r"shapes differ: \(1, 4\) and \(4,\)"):
        measure(np.zeros((1, 4)), np.zeros(4))


def test_views_and_foreign_layouts_are_measured_in_row_major_order():
    """A transposed or strided array is compared place by place."""
    expected = np.arange(12.0).reshape(3, 4)
    actual = np.asfortranarray(expected)
    actual[1, 2] += 1
    drift = measure(actual, expected)
    assert (drift.l_inf, drift.differing, drift.worst_index) == (1.0, 1, (1, 2))
    assert measure(expected[::-1, ::2], expected[::-1, ::2].copy()).differing == 0


def test_sums_are_accumulated_in_float64():
    """A float32 sum of a million tenths would be off by far more."""
    tenths = np.full(1 << 20, 0.1, np.float32)
    assert measure(tenths, tenths).abs_sum == pytest.approx(
        float(np.float32(0.1)) * (1 << 20), rel=1e-14
    )


@pytest.mark.parametrize(("actual", "relative"), [([0.0, 0.0], 0.0), ([0.0, 1e-30], math.inf)])
def test_a_baseline_of_zeros_admits_only_zeros(actual, relative):
    """Relative drift has no measure there: any difference is infinite."""
    assert measure(np.array(actual), np.zeros(2)).rel_l2 == relative


def test_a_drift_of_the_smallest_float64_numbers_is_not_lost():
    """Squares of numbers under 1e-162 are zero; a relative bound must not pass for that."""
    assert measure(np.array([1e-200, 1e-200]), np.array([2e-200, 1e-200])).rel_l2 > 0


def test_memory_stays_flat_whatever_the_size(tmp_path):
    """Two files of 64 MiB, mapped from disk, are compared in a few buffers."""
    paths = [tmp_path / "actual", tmp_path / "expected"]
    for path in paths:
        with path.open("wb") as file:
            file.truncate(64 << 20)  # zeros that take no room on disk
    actual, expected = (np.memmap(path, np.float64, "r+") for path in paths)
    actual[-1] = 1.0
    tracemalloc.start()
    drift = measure(actual, expected)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (drift.differing, drift.worst_index) == (1, (actual.size - 1,))
    assert peak < 4 << 20


def test_every_output_that_the_baseline_has_is_measured(made):
    """By its name."""
    drifts = of_outputs(
        made({"image": MOVED, "mask": IMAGE}), made({"image": IMAGE, "mask": IMAGE})
    )
    assert {name: drift.l_inf for name, drift in drifts.items()} == {"image": 2.0**-10, "mask": 0.0}


STAGE_NAMES = ("unet#0", "unet#9", "unet#10", "vae.decode#0")


def test_drifts_of_stages_come_in_the_order_of_the_run_after_those_of_noise(made):
    """Neither by the alphabet, which has `unet#10` before `unet#9`, nor by the file."""
    stages = [(name, {}, {}) for name in STAGE_NAMES]
    kept = {f"{name}/sample": IMAGE for name in reversed(STAGE_NAMES)}
    expected = made(noise=[NOISE, NOISE], stages=stages, kept=kept)
    moved = made(noise=[NOISE, NOISE * 2], stages=stages, kept={**kept, "unet#10/sample": MOVED})
    drifts = of_stages(moved, expected)
    assert [drift.name for drift in drifts] == [
        "noise#0",
        "noise#1",
        *(f"{name}/sample" for name in STAGE_NAMES),
    ]
    assert [drift.name for drift in drifts if drift.l_inf] == ["noise#1", "unet#10/sample"]


def test_a_free_run_is_not_compared_in_what_it_does_not_keep(made):
    """Baselines of older releases hold tensors that nobody goes on with."""
    expected = made(kept={"unet#0/sample": IMAGE, "text#0/pooled": IMAGE}, noise=[])
    (drift,) = of_stages(made(kept={"unet#0/sample": IMAGE}, noise=[]), expected, only_kept=True)
    assert (str(drift.stage), drift.key) == ("unet#0", "sample")


@pytest.mark.parametrize(
    "kept",
    [{}, {"unet#0/sample": IMAGE[0]}, {"unet#0/other": IMAGE}, {"unet#0/sample": NAN}],
    ids=["lost", "another-shape", "another-key", "not-finite"],
)
def test_a_stage_that_cannot_be_measured_has_no_value(made, kept):
    """NaN, which no bound admits."""
    (drift,) = of_stages(made(kept=kept, noise=[]), made(kept={"unet#0/sample": IMAGE}, noise=[]))
    assert (drift.stage, drift.key) == (Stage("unet", 0), "sample")
    assert math.isnan(drift.l_inf)
    assert math.isnan(drift.rel_l2)


def test_squares_beyond_float64_have_no_relative_drift():
    """A ratio of such sums would be zero, and pass every bound."""
    found = measure(np.array([1e200, 2.0]), np.array([1e200, 1.0]))
    assert found.l_inf == 1.0
    assert math.isnan(found.rel_l2)


CLAMPS = {"clamps": json.dumps({"scheduler.step#0": {"low": -1.0, "high": 1.0}})}


def clamped(made, went_in: list[float], came_out: list[float] | None = None):
    """Return a recording of one step, which a clamp to -1 and 1 decides."""
    tensor = np.array(went_in, np.float32)
    result = np.clip(tensor, -1, 1) if came_out is None else np.array(came_out, np.float32)
    kept = {"scheduler.step#0/clamped": tensor, "scheduler.step#0/sample": result}
    stages = [("scheduler.step#0", {}, {})]
    return made(stages=stages, kept=kept, noise=[], metadata=CLAMPS)


def test_an_element_that_a_clamp_lets_through_is_held_by_what_went_in(made):
    """It moved by a hundredth, which is little of what went in; all others are at their limits."""
    expected = clamped(made, [400.0, -300.0, 0.50, 200.0, 1.01])
    actual = clamped(made, [400.01, -300.01, 0.51, 200.0, 0.99])
    went_in, result, image = of_teacher_forced(actual, expected)
    assert (went_in.key, result.key, image.key) == ("clamped", "sample", "image")
    assert went_in.rel_l2 == pytest.approx(0.025 / 538.5, rel=0.1)
    assert (result.l_inf, result.rel_l2) == (0.0, 0.0)


@pytest.mark.parametrize(
    "went_in", [[400.0, 300.0, 0.5, 200.0, 2.0], [400.0, -300.0, 0.5, 200.0, -2.0]]
)
def test_an_element_that_went_to_the_other_limit_moved(made, went_in: list[float]):
    """What went in did not move it: the code behind the clamp did."""
    expected = clamped(made, [400.0, -300.0, 0.5, 200.0, 2.0])
    came_out = np.clip(went_in, -1, 1).tolist()
    own = clamped(made, [400.0, -300.0, 0.5, 200.0, 2.0], came_out)
    _, result, _ = of_teacher_forced(own, expected)
    assert result.l_inf == pytest.approx(np.abs(np.array(came_out) - [1, -1, 0.5, 1, 1]).max())


def test_without_what_went_in_on_both_sides_every_element_counts(made):
    """As against a baseline that an older release recorded, or a scheduler that clamps no more."""
    expected = clamped(made, [400.0, -300.0, 0.50])
    stages = [("scheduler.step#0", {}, {})]
    moved = np.array([1.0, -1.0, 0.51], np.float32)
    actual = made(stages=stages, kept={"scheduler.step#0/sample": moved}, noise=[])
    found = of_teacher_forced(actual, expected)
    assert [each.key for each in found] == ["sample", "image"]
    assert found[0].l_inf == pytest.approx(0.01, rel=1e-5)


def of_steps(made, differences: list[np.ndarray]) -> list[float]:
    """Return the persistence of each step's tensor, over its relative L2."""
    stages = [(f"scheduler.step#{index}", {}, {}) for index in range(len(differences))]
    tensors = [spread(256, index, "float64") for index in range(len(differences))]
    names = [f"scheduler.step#{index}/sample" for index in range(len(differences))]
    moved = [tensor + gap for tensor, gap in zip(tensors, differences, strict=True)]
    expected = made(stages=stages, kept=dict(zip(names, tensors, strict=True)), noise=[])
    actual = made(stages=stages, kept=dict(zip(names, moved, strict=True)), noise=[])
    steps = of_teacher_forced(actual, expected)[: len(differences)]
    return [step.persistence / step.rel_l2 if step.rel_l2 else step.persistence for step in steps]


def test_a_step_that_moves_as_those_before_it_persists(made):
    """Its share of three steps before it is the root of three, whatever the sizes."""
    gap = 1e-6 * spread(256, 9, "float64")
    shares = of_steps(made, [gap, 3 * gap, gap, gap / 2])
    assert shares == pytest.approx([0.0, 1.0, math.sqrt(2), math.sqrt(3)], rel=1e-6)


def test_steps_that_round_independently_do_not_persist(made):
    """Each share is that of 256 independent differences, however many came before."""
    shares = of_steps(made, [1e-6 * spread(256, 50 + index, "float64") for index in range(12)])
    assert all(abs(share) < 4 / math.sqrt(256) for share in shares)
    assert np.sqrt(np.mean(np.square(shares[1:]))) == pytest.approx(1 / math.sqrt(256), rel=0.5)


def test_a_step_that_did_not_move_has_no_direction(made):
    """The steps around it are compared with each other."""
    gap = 1e-6 * spread(256, 9, "float64")
    assert of_steps(made, [gap, 0 * gap, -gap]) == pytest.approx([0.0, 0.0, -1.0], rel=1e-6)


def test_a_step_that_is_not_finite_has_no_persistence_that_a_bound_admits(made):
    """The next one is compared with the finite ones."""
    gap = 1e-6 * spread(256, 9, "float64")
    first, broken, last = of_steps(made, [gap, gap * math.nan, gap])
    assert (first, last) == pytest.approx((0.0, 1.0), rel=1e-6)
    assert math.isnan(broken)
