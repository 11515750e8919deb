"""The synthetic platforms of one machine, on which it computes as other machines or layouts do.

A platform is a set of environment variables, of the pipeline's own switches, or another device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from harness.launch.process import PORTABLE
from harness.records import Device
from harness.scenario.fields import Framework, Generator
from harness.scenario.model import Case
from harness.worker.protocol import EmulationRequest

ATEN_AVX2 = {"ATEN_CPU_CAPABILITY": "avx2"}
ATEN_DEFAULT = {"ATEN_CPU_CAPABILITY": "default"}
ONEDNN_AVX512 = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
ONEDNN_AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
ONEDNN_SSE41 = {"ONEDNN_MAX_CPU_ISA": "SSE41"}
MKL_AVX2 = {"MKL_CBWR": "AVX2"}
MKL_COMPATIBLE = {"MKL_CBWR": "COMPATIBLE"}
TWO_THREADS = {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}


@dataclass(frozen=True)
class Platform:
    """How a case differs when it runs as on another platform.

    Attributes:
        variables: Environment variables that the worker starts with.
        enable: What the pipeline enables beside what the scenario says.
        attention: The attention backend; None leaves the scenario's own.
        device: The device; None leaves the case's own.
        emulation: An emulation of a GPU's arithmetic; None for this machine's own.
    """

    variables: Mapping[str, str] = field(default_factory=dict)
    enable: tuple[str, ...] = ()
    attention: str | None = None
    device: Device | None = None
    emulation: EmulationRequest | None = None

    @property
    def may_not_apply(self) -> bool:
        """Whether it changes the pipeline, which may lack what is to be changed.

        An attention backend may lack a kernel for a GPU or a dtype, a memory format may not be one
        of a pipeline's weights, and an emulation may find no operator. None of it is a defect.
        """
        return self.attention is not None or bool(self.enable) or self.emulation is not None

    def carry(self, case: Case) -> Case:
        """Return `case` as it runs on this platform."""
        settings = {**dict(case.settings), **self.variables}
        scenario = replace(
            case.scenario,
            enable=tuple(dict.fromkeys((*case.scenario.enable, *self.enable))),
            attention=self.attention or case.scenario.attention,
        )
        return replace(
            case,
            scenario=scenario,
            settings=tuple(sorted(settings.items())),
            target=replace(case.target, device=self.device or case.target.device),
            emulation=self.emulation,
        )


PLATFORMS = {
    "aten-avx2": Platform(ATEN_AVX2),
    "aten-default": Platform(ATEN_DEFAULT),
    "onednn-avx512": Platform(ONEDNN_AVX512),
    "onednn-avx2": Platform(ONEDNN_AVX2),
    "onednn-sse41": Platform(ONEDNN_SSE41),
    "mkl-avx2": Platform(MKL_AVX2),
    "mkl-compatible": Platform(MKL_COMPATIBLE),
    "threads-2": Platform(TWO_THREADS),
    "channels-last": Platform(enable=("channels_last",)),
    "aten-onednn-avx2": Platform({**ATEN_AVX2, **ONEDNN_AVX2}),
    "all-avx2": Platform({**ATEN_AVX2, **ONEDNN_AVX2, **MKL_AVX2}),
    "portable": Platform(PORTABLE),
    "oldest": Platform({**ATEN_DEFAULT, **ONEDNN_SSE41, **MKL_COMPATIBLE}),
}
# Other kernels of one GPU stand in for other GPUs. They name the device, for cases of the CPU.
CUDA = {
    "cuda": Platform(device=Device.CUDA),
    "cuda-cublaslt": Platform({"TORCH_BLAS_PREFER_CUBLASLT": "1"}, device=Device.CUDA),
    "cuda-workspace": Platform({"CUBLAS_WORKSPACE_CONFIG": ":16:8"}, device=Device.CUDA),
    "cuda-cudnn-v7": Platform({"TORCH_CUDNN_V8_API_DISABLED": "1"}, device=Device.CUDA),
    "cuda-channels-last": Platform(enable=("channels_last",), device=Device.CUDA),
    "cuda-mem-efficient": Platform(attention="mem_efficient", device=Device.CUDA),
}
MINDSPORE = {
    "mindspore": Platform(),
    "mindspore-onednn-avx512": PLATFORMS["onednn-avx512"],
    "mindspore-onednn-sse41": PLATFORMS["onednn-sse41"],
}


def held_together(case: Case) -> tuple[Device, ...]:
    """Return the devices whose cases of this dtype are held against one another.

    Those are the devices that the scenario's own `reference` joins, where they start from the same
    noise; else the case's own device alone.
    """
    scenario, own = case.scenario, case.target
    reference = scenario.reference
    if reference is None or reference.scenario or scenario.generator is Generator.DEVICE:
        return (own.device,)
    named = reference.target
    if named.device not in scenario.devices or named.dtype != own.dtype:
        return (own.device,)
    return scenario.devices if named == own else (own.device, named.device)


def platforms_of(case: Case) -> dict[str, Platform]:
    """Return the platforms that can move a case's bits, over which its tolerances are measured.

    Another device is one of them where it is held against the case's own. The case itself is what
    all of them are held against, and is none.
    """
    if case.scenario.framework is Framework.MINDSPORE:
        return dict(MINDSPORE)
    devices = held_together(case)
    found = dict(PLATFORMS) if case.target.device is Device.CPU else {}
    if Device.CPU in devices:
        found["cpu"] = Platform(device=Device.CPU)
    if Device.CUDA in devices:
        found |= CUDA
    found.pop(str(case.target.device), None)
    return found
