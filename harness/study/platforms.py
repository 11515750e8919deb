"""The synthetic platforms of one machine: settings and devices under which it computes as other machines or layouts do."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from harness.launch.process import PORTABLE
from harness.scenario.model import Case

ATEN_AVX2, ATEN_DEFAULT = {"ATEN_CPU_CAPABILITY": "avx2"}, {"ATEN_CPU_CAPABILITY": "default"}
ONEDNN_AVX2, ONEDNN_SSE41 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}, {"ONEDNN_MAX_CPU_ISA": "SSE41"}
MKL_AVX2, MKL_COMPATIBLE = {"MKL_CBWR": "AVX2"}, {"MKL_CBWR": "COMPATIBLE"}


@dataclass(frozen=True)
class Platform:
    """Environment variables that a worker starts with, what the pipeline enables, and where another device or attention is."""

    variables: dict[str, str] = field(default_factory=dict)
    enable: tuple[str, ...] = ()
    attention: str = ""
    device: str = ""

    def carry(self, case: Case) -> Case:
        """Return `case` as it runs on this platform."""
        knobs = tuple(sorted({**dict(case.knobs), **self.variables}.items()))
        enable = tuple(dict.fromkeys((*case.scenario.enable, *self.enable)))
        scenario = replace(
            case.scenario, enable=enable, attention=self.attention or case.scenario.attention
        )
        return replace(case, scenario=scenario, knobs=knobs, device=self.device or case.device)


PLATFORMS = {
    "aten-avx2": Platform(ATEN_AVX2),
    "aten-default": Platform(ATEN_DEFAULT),
    "onednn-avx512": Platform({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}),
    "onednn-avx2": Platform(ONEDNN_AVX2),
    "onednn-sse41": Platform(ONEDNN_SSE41),
    "mkl-avx2": Platform(MKL_AVX2),
    "mkl-compatible": Platform(MKL_COMPATIBLE),
    "threads-2": Platform({"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}),
    "channels-last": Platform(enable=("channels_last",)),
    "aten-onednn-avx2": Platform({**ATEN_AVX2, **ONEDNN_AVX2}),
    "all-avx2": Platform({**ATEN_AVX2, **ONEDNN_AVX2, **MKL_AVX2}),
    "portable": Platform(PORTABLE),
    "oldest": Platform({**ATEN_DEFAULT, **ONEDNN_SSE41, **MKL_COMPATIBLE}),
}
# Other kernels of one GPU, in place of other GPUs; they name the device, for cases of the CPU.
CUDA = {
    "cuda": Platform(device="cuda"),
    "cuda-cublaslt": Platform({"TORCH_BLAS_PREFER_CUBLASLT": "1"}, device="cuda"),
    "cuda-workspace": Platform({"CUBLAS_WORKSPACE_CONFIG": ":16:8"}, device="cuda"),
    "cuda-cudnn-v7": Platform({"TORCH_CUDNN_V8_API_DISABLED": "1"}, device="cuda"),
    "cuda-channels-last": Platform(enable=("channels_last",), device="cuda"),
    "cuda-mem-efficient": Platform(attention="mem_efficient", device="cuda"),
}
MINDSPORE = {
    "mindspore": Platform(),
    "mindspore-onednn-avx512": PLATFORMS["onednn-avx512"],
    "mindspore-onednn-sse41": PLATFORMS["onednn-sse41"],
}


def held_together(case: Case) -> tuple[str, ...]:
    """Return the devices whose cases of this dtype are held against one another: by the `reference`, on the same noise."""
    scenario, reference = case.scenario, (case.scenario.reference or "").partition("-")
    if (
        scenario.generator == "device"
        or reference[0] not in scenario.devices
        or reference[2] != case.dtype
    ):
        return (case.device,)
    return scenario.devices if reference[0] == case.device else (case.device, reference[0])


def platforms_of(case: Case) -> dict[str, Platform]:
    """Return the platforms over which the tolerances of a case are measured: those that can move its bits.

    Another device is one of them where it is held against this one.
    """
    if case.scenario.framework == "mindspore":
        return MINDSPORE
    devices = held_together(case)
    found = dict(PLATFORMS) if case.device == "cpu" else {}
    if "cpu" in devices:
        found["cpu"] = Platform(device="cpu")
    if "cuda" in devices:
        found.update(CUDA)
    found.pop(case.device, None)  # which is what the others are held against
    return found
