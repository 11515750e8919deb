"""What is run: devices, dtypes, targets, and the stages of a run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Device(StrEnum):
    """Where a case computes."""

    CPU = "cpu"
    CUDA = "cuda"
    ASCEND = "ascend"
    ENDPOINT = "endpoint"  # a served engine, on hardware of its own


class Dtype(StrEnum):
    """The floating-point type that a case computes in."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT64 = "float64"


@dataclass(frozen=True, order=True)
class Target:
    """The device and the dtype of a case; `str()` gives the name used in ids and folders."""

    device: Device
    dtype: Dtype

    def __str__(self) -> str:
        return f"{self.device}-{self.dtype}"


def case_key(target: Target, variant: str) -> str:
    """Return what tells a case from the others of its scenario, such as `cpu-float32,compiled`.

    It stands in brackets in the case's id, and names its folders.
    """
    return f"{target},{variant}" if variant else str(target)


_STAGE_NAME = re.compile(r"(?P<kind>[^#/]+)#(?P<index>\d+)")


@dataclass(frozen=True, order=True)
class Stage:
    """One observed call in a run: `Stage("unet", 7)` is the eighth call of the U-Net.

    The draws of noise are stages too, of the kind `noise`.
    """

    kind: str
    index: int

    @classmethod
    def parse(cls, name: str) -> Stage:
        """Return the stage that a recording names `unet#7`.

        Raises:
            ValueError: The name is no stage's.
        """
        match = _STAGE_NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"expected a stage such as `unet#7`, found `{name}`")
        return cls(match["kind"], int(match["index"]))

    def __str__(self) -> str:
        return f"{self.kind}#{self.index}"

    @property
    def is_noise(self) -> bool:
        """Whether it is a draw of noise."""
        return self.kind == "noise"

    @property
    def is_scheduler_step(self) -> bool:
        """Whether it is a step of a scheduler; each step feeds the next one."""
        return self.kind.endswith(".step")

    @property
    def has_modules(self) -> bool:
        """Whether it is the call of a component, which has modules inside."""
        return not self.is_noise and not self.is_scheduler_step and self != OUTPUT


# Stands for the code after the last stage in a teacher-forced run: the pipeline's own, which makes
# the outputs of what the last stage returned.
OUTPUT = Stage("output", 0)
