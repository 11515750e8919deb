"""Decides whether two recordings can be compared: finite values, same outputs, shapes, dtypes."""

from __future__ import annotations

from harness.store.recording import Observed


def outputs_not_finite(recording: Observed) -> list[str]:
    """Return the outputs that hold NaN or infinity, which no baseline may and no bound admits."""
    return [name for name, output in recording.outputs.items() if not output.finite]


def structure(actual: Observed, expected: Observed) -> str:
    """Return what makes the outputs of two recordings incomparable; empty where nothing does.

    That is an output that only one side has, or that has another shape or dtype.
    """
    for name in sorted({*actual.outputs, *expected.outputs}):
        if name not in expected.outputs:
            return f"output `{name}` is only in this run"
        if name not in actual.outputs:
            return f"output `{name}` is only in the baseline"
        after, before = actual.outputs[name], expected.outputs[name]
        if after.shape != before.shape:
            shapes = f"{list(before.shape)} -> {list(after.shape)}"
            return f"output `{name}` has another shape: {shapes}"
        if after.dtype != before.dtype:
            return f"output `{name}` has another dtype: {before.dtype} -> {after.dtype}"
    return ""


def same_bits(actual: Observed, expected: Observed) -> bool:
    """Return whether every output of `expected` has the same bits in `actual`."""
    digests = actual.output_digests
    return all(digests[name] == digest for name, digest in expected.output_digests.items())
