"""Measures how far an array moved. It decides nothing: `judge/checks.py` holds bounds.

The arrays are read once, in chunks, so that the memory beside them does not grow with their size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.records import OUTPUT, Drift, Stage, StageDrift
from harness.worker.protocol import CLAMPED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.records import Array
    from harness.store.recording import ClampLimits, Observed, TensorFacts

    TensorName = tuple[Stage, str]  # the stage, and the tensor's key there

# Elements that are compared at a time: many enough that a call of numpy costs little, and few
# enough that the caches hold the four float64 buffers of this length (2 MiB).
CHUNK = 1 << 16
SEQUENCE_DIMENSIONS = 3  # batch, place, channel
IMAGE_DIMENSIONS = 4  # batch, channel, height, width; videos have one more
LEAST_PER_CHANNEL = 16  # elements whose mean is taken


def measure(actual: Array, expected: Array) -> Drift:
    """Measure how far `actual` moved from `expected`, over all elements.

    With a = actual and e = expected, both cast to float64 before the subtraction (which would wrap
    in uint8 and round in float16), d = a - e, N elements, and with the sums over all elements, the
    batch included:

        l_inf        = max |d|
        rel_l2       = sqrt(sum d^2 / sum e^2)
        gain         = sum d e / sum e^2
        bias         = mean d / sqrt(sum e^2 / N)
        channel_bias = (mean of d over a channel, the largest) / sqrt(sum e^2 / N)
        spatial      = rel_l2 * (sum of d d' over neighbours, the mean over directions) / sum d^2
        abs_sum      = sum |a|

    Neighbours d and d' lie beside or below each other in an image, and one place apart in a
    sequence (`Layout`).

    Rounding moves elements up and down alike. With N independent differences, gain, bias and
    spatial are about rel_l2 / sqrt(N), and the largest channel's bias is that of the elements of
    one channel. What scales or shifts a tensor, or moves whole regions of it, moves them as far as
    rel_l2 itself.

    Args:
        actual: This run's array, of any shape and real dtype.
        expected: The baseline's array, of the same shape.

    Returns:
        The drift. `l_inf` and the sums are in the array's own unit, the others have none; these
        are infinite where `expected` is zero and `actual` is not. `gain`, `bias`, `channel_bias`
        and `spatial` have a sign. Where either side holds NaN or infinity, `finite` is false and
        all but the sums are NaN, which no bound admits. `differing` counts the elements that
        compare unequal: 0.0 and -0.0 are equal.

    Raises:
        ValueError: The shapes differ.

    The squares are not scaled. They overflow float64 where an element is larger than about 1e154,
    and vanish where all are smaller than about 1e-162. No float32 value comes near either limit.
    """
    if actual.shape != expected.shape:
        raise ValueError(f"shapes differ: {actual.shape} and {expected.shape}")
    flat_actual = np.asarray(actual).reshape(-1)  # a view, which slices faster than a memory map
    flat_expected = np.asarray(expected).reshape(-1)
    layout = Layout.of(actual.shape)
    sums = _Sums(min(CHUNK, flat_actual.size), layout)
    # Infinity minus infinity is invalid, and squares may overflow or underflow; none is an error.
    with np.errstate(all="ignore"):
        for start, end in layout.chunks(flat_actual.size):
            sums.add(flat_actual[start:end], flat_expected[start:end], start)
    return _drift(sums, flat_actual, flat_expected, actual.shape)


@dataclass(frozen=True)
class Layout:
    """Where the channels of an array, and its neighbours, lie in its flat order.

    Attributes:
        channels: How many channels there are; 1 where the array is taken as a whole.
        together: How many elements of one channel lie side by side before the next channel begins.
        row: How many elements lie from one element to the one below it in an image, or to the next
            place in a sequence; 0 where the array is taken as a whole, and has no neighbours.
    """

    channels: int
    together: int
    row: int = 0

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> Layout:
        """Return the layout of an array of this shape.

        Channels are on the second axis of images and videos (four axes or more: batch, channel,
        then places), and on the last one of sequences (batch, place, channel). An array with fewer
        than `LEAST_PER_CHANNEL` elements a channel is taken as a whole: so few average nothing out.
        """
        size = math.prod(shape)
        whole = cls(1, max(size, 1))
        if len(shape) < SEQUENCE_DIMENSIONS or not size:
            return whole
        is_image = len(shape) >= IMAGE_DIMENSIONS
        axis = 1 if is_image else len(shape) - 1
        row = shape[-1]  # of an image its width; of a sequence the channels of one place
        found = cls(shape[axis], math.prod(shape[axis + 1 :]), row)
        few = size < LEAST_PER_CHANNEL * found.channels
        return whole if few or max(found.channels, row) > CHUNK else found

    def chunks(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield the chunks of a flat array, as start and end.

        Each holds whole channels that lie side by side, or whole rows of one channel.
        """
        if self.together == 1:
            run = step = CHUNK // self.channels * self.channels
        elif self.together <= CHUNK:
            run = step = CHUNK // self.together * self.together
        else:
            run, step = self.together, CHUNK // max(self.row, 1) * max(self.row, 1)
        for run_start in range(0, size, run):
            run_end = min(run_start + run, size)
            for start in range(run_start, run_end, step):
                yield start, min(start + step, run_end)

    def add(self, values: Array, start: int, sums: Array) -> None:
        """Add the values of the chunk that begins at the flat index `start` to the channels' sums.

        Args:
            values: One of `chunks`, of shape `(elements,)`.
            start: Its flat index.
            sums: One per channel, of shape `(channels,)`; changed in place.
        """
        if self.together == 1:
            np.add(sums, values.reshape(-1, self.channels).sum(axis=0), out=sums)
            return
        first = start // self.together
        runs = values.reshape(-1, min(self.together, values.size)).sum(axis=1)
        np.add.at(sums, (first + np.arange(runs.size)) % self.channels, runs)

    def product_of_neighbours(self, values: NDArray[np.float64]) -> float:
        """Return the sum of the products of neighbours in a chunk, the mean over directions.

        Pairs of two chunks are left out: of a channel that has several, one row in each. Frames of
        a video follow each other as rows do, and so do the sequences of a batch.

        Args:
            values: One of `chunks`, of shape `(elements,)`.
        """
        if not self.row:
            return 0.0
        if self.together == 1:
            return float(np.einsum("i,i", values[self.row :], values[: -self.row]))
        rows = min(self.together, values.size) // self.row
        images = values.reshape(-1, rows, self.row)
        below = np.einsum("nhw,nhw", images[:, 1:], images[:, :-1])
        beside = np.einsum("nhw,nhw", images[:, :, 1:], images[:, :, :-1])
        return float(below + beside) / 2


class _Sums:
    """What one pass over two arrays accumulates, in float64.

    `worst` is the largest absolute difference so far, and `worst_at` its index in the flat array.
    The products, squares and absolute values are sums over all elements so far, `neighbours` is the
    sum of the products of neighbouring differences, and `channels` has the sums of the differences
    of each channel. Products are summed by `einsum`: `dot` starts the threads of BLAS, which wait
    for each other on a busy machine (measured: 25 times slower).

    Args:
        room: The number of elements of the largest chunk.
        layout: Of the arrays.
    """

    def __init__(self, room: int, layout: Layout) -> None:
        self.worst = 0.0
        self.worst_at = 0
        self.differing = 0
        self.square_difference = 0.0
        self.square_expected = 0.0
        self.product = 0.0
        self.neighbours = 0.0
        self.abs_actual = 0.0
        self.abs_expected = 0.0
        self.channels = np.zeros(layout.channels)
        self._layout = layout
        self._buffers = np.empty((3, room))
        self._unequal = np.empty(room, bool)

    def add(self, actual: Array, expected: Array, start: int) -> None:
        """Add one chunk, whose first element has the index `start` in the flat array."""
        wide_actual, wide_expected, gap = self._buffers[:, : actual.size]
        unequal = self._unequal[: actual.size]
        np.copyto(wide_expected, expected)
        self.square_expected += float(np.einsum("i,i", wide_expected, wide_expected))
        differing = int(np.count_nonzero(np.not_equal(actual, expected, out=unequal)))
        if differing:
            np.copyto(wide_actual, actual)
            np.subtract(wide_actual, wide_expected, out=gap)
            self.differing += differing
            self.square_difference += float(np.einsum("i,i", gap, gap))
            self.product += float(np.einsum("i,i", gap, wide_expected))
            self.neighbours += self._layout.product_of_neighbours(gap)
            self._layout.add(gap, start, self.channels)
            if max(gap.max(), -gap.min()) > self.worst:
                at = int(np.abs(gap, out=gap).argmax())
                self.worst = float(gap[at])
                self.worst_at = start + at
        abs_expected = float(np.abs(wide_expected, out=wide_expected).sum())
        self.abs_expected += abs_expected
        if differing:
            self.abs_actual += float(np.abs(wide_actual, out=wide_actual).sum())
        else:
            self.abs_actual += abs_expected


def _drift(sums: _Sums, flat_actual: Array, flat_expected: Array, shape: tuple[int, ...]) -> Drift:
    finite = math.isfinite(sums.abs_actual) and math.isfinite(sums.abs_expected)
    at, size = sums.worst_at, int(flat_actual.size)
    index = tuple(int(i) for i in np.unravel_index(at, shape)) if size else ()
    norm = math.sqrt(sums.square_expected)
    # The sum over one channel, times the channels, over the size is the mean of that channel.
    farthest = max(sums.channels, key=abs, default=0.0) * sums.channels.size
    root_size = math.sqrt(size)
    moved = math.sqrt(sums.square_difference)
    alike = _ratio(sums.neighbours, moved * norm, sums) if moved else 0.0  # squares may vanish
    return Drift(
        l_inf=sums.worst if finite else math.nan,
        rel_l2=_ratio(moved, norm, sums) if finite else math.nan,
        abs_sum=sums.abs_actual,
        abs_sum_expected=sums.abs_expected,
        differing=sums.differing,
        size=size,
        worst_index=index,
        worst_actual=float(flat_actual[at]) if size else 0.0,
        worst_expected=float(flat_expected[at]) if size else 0.0,
        finite=finite,
        gain=_ratio(sums.product, sums.square_expected, sums) if finite else math.nan,
        bias=_ratio(float(sums.channels.sum()), norm * root_size, sums) if finite else math.nan,
        channel_bias=_ratio(float(farthest), norm * root_size, sums) if finite else math.nan,
        spatial=alike if finite else math.nan,
    )


def _ratio(moved: float, expected: float, sums: _Sums) -> float:
    """Return one figure of a drift relative to the expected array; infinite where that is zero.

    It is NaN where the squares leave the range of float64, which values beyond 1e154 do: their
    ratio would be zero, and pass every bound.
    """
    if not sums.worst:
        return 0.0
    if not math.isfinite(sums.square_expected + sums.square_difference):
        return math.nan
    if not sums.square_expected:
        return math.inf
    return moved / expected


def of_outputs(actual: Observed, expected: Observed) -> dict[str, Drift]:
    """Return the drift of every output of `expected`; both must have the same structure."""
    actual_tensors, expected_tensors = actual.output_tensors, expected.output_tensors
    return {
        name: measure(actual_tensors[name], expected_tensors[name]) for name in expected.outputs
    }


def of_shared_outputs(actual: Observed, expected: Observed) -> dict[str, Drift]:
    """Return the drift of every output that both sides have in the same shape."""
    actual_tensors, expected_tensors = actual.output_tensors, expected.output_tensors
    return {
        name: measure(actual_tensors[name], tensor)
        for name, tensor in expected_tensors.items()
        if name in actual_tensors and actual_tensors[name].shape == tensor.shape
    }


def none_of(output: TensorFacts) -> Drift:
    """Return the drift of an output with the same bits on both sides."""
    abs_sum = output.abs_sum or 0.0
    return Drift(
        l_inf=0.0,
        rel_l2=0.0,
        abs_sum=abs_sum,
        abs_sum_expected=abs_sum,
        differing=0,
        size=output.size,
        worst_index=(),
        worst_actual=0.0,
        worst_expected=0.0,
        gain=0.0,
        bias=0.0,
        channel_bias=0.0,
        spatial=0.0,
    )


@dataclass(frozen=True)
class _NoValue:
    """Stands for the drift of a tensor that this run lacks; it is NaN, which no bound admits."""

    l_inf: float = math.nan
    rel_l2: float = math.nan
    gain: float = math.nan
    bias: float = math.nan
    channel_bias: float = math.nan
    spatial: float = math.nan


def of_teacher_forced(actual: Observed, expected: Observed) -> tuple[StageDrift, ...]:
    """Return the local drift of every stage, and of the code after the last one.

    The run `actual` got every tensor that `expected` kept. So its outputs are made of the
    baseline's own last stage, and their drift, under the stage `OUTPUT`, is of this code alone.

    Where both sides kept what went into a clamp that decides most of a scheduler's step, that
    tensor has a drift of its own, under the key `CLAMPED`. The drift of the step's result then
    leaves out the elements that are not at the same limit on both sides: these follow from what
    went in, and show its rounding magnified.
    """
    outputs = tuple(
        _stage_drift(OUTPUT, name, moved) for name, moved in of_outputs(actual, expected).items()
    )
    own, its = actual.stage_tensors, expected.stage_tensors
    # Without what went into a clamp on both sides, nothing is left out, and nothing compared.
    its = {name: its[name] for name in its if name[1] != CLAMPED or name in own}
    return _of_tensors(own | _decided_by_clamps(own, its, expected.clamps), its) + outputs


def _decided_by_clamps(
    actual: Mapping[TensorName, Array],
    expected: Mapping[TensorName, Array],
    limits: Mapping[str, ClampLimits],
) -> dict[TensorName, Array]:
    """Return the results of steps that clamps decide; what they do not decide is the baseline's."""
    found = {}
    for (stage, key), result in expected.items():
        its, own = expected.get((stage, CLAMPED)), actual.get((stage, CLAMPED))
        tensor, clamp = actual.get((stage, key)), limits.get(str(stage))
        if key == CLAMPED or its is None or own is None or tensor is None or clamp is None:
            continue
        if its.shape == own.shape == tensor.shape == result.shape:
            at_low = np.maximum(own, its) <= clamp.low
            at_high = np.minimum(own, its) >= clamp.high
            found[stage, key] = np.where(at_low | at_high, tensor, result)
    return found


def of_stages(
    actual: Observed, expected: Observed, *, only_kept: bool = False
) -> tuple[StageDrift, ...]:
    """Return the drift of every stage's tensor that `expected` kept, in the order of the run.

    Noise comes first. A drift is NaN where `actual` has no such tensor of that shape. Whether it is
    free or local drift depends on `actual`: local if that run was teacher-forced by `expected`.

    Args:
        actual: This run.
        expected: The baseline.
        only_kept: Leaves out what `actual` did not keep. A free run keeps only what it reads, and
            baselines of older releases hold more; a teacher-forced run keeps all that they hold.
    """
    own, its = actual.stage_tensors, expected.stage_tensors
    return _of_tensors(own, {name: its[name] for name in its if name in own or not only_kept})


def _of_tensors(
    actual: Mapping[TensorName, Array], expected: Mapping[TensorName, Array]
) -> tuple[StageDrift, ...]:
    found = []
    directions = _Directions()
    for (stage, key), expected_tensor in expected.items():
        tensor = actual.get((stage, key))
        if tensor is not None and tensor.shape == expected_tensor.shape:
            moved = measure(tensor, expected_tensor)
            share = 0.0
            if moved.differing:
                share = directions.add(stage.kind, key, tensor, expected_tensor)
            found.append(_stage_drift(stage, key, moved, share * moved.rel_l2))
        else:
            found.append(_stage_drift(stage, key, _NoValue(), math.nan))
    return tuple(found)


class _Directions:
    """Says how far the differences of a stage's tensor point the same way from call to call.

    It holds one array in float64 for each kind of stage, in the shape of its tensor.
    """

    def __init__(self) -> None:
        self._earlier: dict[tuple[str, str, tuple[int, ...]], tuple[int, NDArray[np.float64]]] = {}

    def add(self, kind: str, key: str, actual: Array, expected: Array) -> float:
        """Take the next tensor of a kind of stages that moved, and return how much of it repeats.

        With u the difference over its norm, and v those of the k tensors before it, it is
        sum(u v) / sqrt(k). Of independent differences of N elements that is about 1 / sqrt(N), and
        of equal ones sqrt(k).

        Returns:
            The figure, with its sign; 0.0 for the first tensor, and NaN for one whose difference is
            not finite.
        """
        with np.errstate(all="ignore"):  # as in `measure`
            gap: NDArray[np.float64] = np.subtract(actual, expected, dtype=np.float64).reshape(-1)
            norm = math.sqrt(float(np.einsum("i,i", gap, gap)))
        if not norm or not math.isfinite(norm):
            return 0.0 if norm == 0 else math.nan
        gap /= norm
        alike = kind, key, actual.shape
        if alike not in self._earlier:
            self._earlier[alike] = 1, gap
            return 0.0
        count, total = self._earlier[alike]
        share = float(np.einsum("i,i", gap, total)) / math.sqrt(count)
        total += gap
        self._earlier[alike] = count + 1, total
        return share


def _stage_drift(
    stage: Stage, key: str, moved: Drift | _NoValue, persistence: float = 0.0
) -> StageDrift:
    return StageDrift(
        stage,
        key,
        moved.l_inf,
        moved.rel_l2,
        gain=moved.gain,
        bias=moved.bias,
        channel_bias=moved.channel_bias,
        spatial=moved.spatial,
        persistence=persistence,
    )
