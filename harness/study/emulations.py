"""The emulations of a GPU's arithmetic: what each does, for which types, and when a GPU does it.

The kernels are in `worker/conditions/emulation/`. An emulation computes on the CPU and is no GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.records import Dtype
from harness.scenario.fields import Determinism
from harness.scenario.model import Case

HALVES = (Dtype.FLOAT16, Dtype.BFLOAT16)
EVERY_TYPE = (Dtype.FLOAT32, *HALVES)


@dataclass(frozen=True)
class Emulation:
    """One emulation.

    Attributes:
        name: Its name, as the worker knows it.
        does: What it does, in words.
        dtypes: The types whose operators it emulates.
        switched_off: What of deterministic mode keeps a GPU from doing this; empty where a GPU
            does it in every mode.
    """

    name: str
    does: str
    dtypes: Sequence[Dtype] = EVERY_TYPE
    switched_off: str = ""

    def is_expected(self, case: Case) -> bool:
        """Whether a GPU may do this to a case, by the mode that the case runs in."""
        return not self.switched_off or case.scenario.determinism is Determinism.DEFAULT


_ALL = (
    Emulation(
        "fma",
        "matrix products and convolutions add over k one after the other, each product exact and "
        "each sum rounded once (fused multiply-add)",
    ),
    Emulation("split-k", "as fma, but in 4 slices of k, whose sums are added afterwards"),
    Emulation("tile-order", "as fma, but in tiles of 16 of k, whose sums are added in order"),
    Emulation(
        "tree-sums",
        "sums, means, norms and softmax add halves upon each other, as the lanes of a GPU do",
    ),
    Emulation(
        "ulp",
        "exp, rsqrt, tanh, erf, sin, cos, log, and what consists of them, are moved by up to as "
        "many units in the last place as CUDA documents",
    ),
    Emulation("together", "split-k, tree-sums and ulp at once"),
    Emulation(
        "tf32",
        "operands of matrix products and convolutions are rounded to TF32, ties away from zero, "
        "and their products added one after the other in float32",
        (Dtype.FLOAT32,),
        "TF32",
    ),
    Emulation(
        "online-softmax",
        "attention by blocks of 64 keys with a running maximum, as flash kernels compute it",
        EVERY_TYPE,
        "fused kernels of attention",
    ),
    Emulation(
        "tensor-core",
        "8 exact products at once are aligned to the largest exponent, cut off one bit below "
        "float32 and added, rounded towards zero, as the tensor cores of an A100 do",
        HALVES,
    ),
    Emulation(
        "half-reduction",
        "4 slices of k, whose sums are rounded to the type of the operands and added in it",
        HALVES,
        "reduced-precision reductions",
    ),
    Emulation(
        "float16-accumulate",
        "every sum over k is rounded to float16",
        (Dtype.FLOAT16,),
        "accumulation in float16",
    ),
)
EMULATIONS = {each.name: each for each in _ALL}


def emulations_for(case: Case) -> dict[str, Emulation]:
    """Return the emulations of a case's type, by name."""
    return {name: each for name, each in EMULATIONS.items() if case.target.dtype in each.dtypes}
