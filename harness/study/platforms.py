"""The synthetic platforms of one x86-64 machine: settings under which it computes as other machines or layouts do."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from harness.launch.local import PORTABLE
from harness.scenarios import Case

ATEN_AVX2, ATEN_DEFAULT = {"ATEN_CPU_CAPABILITY": "avx2"}, {"ATEN_CPU_CAPABILITY": "default"}
ONEDNN_AVX2, ONEDNN_SSE41 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}, {"ONEDNN_MAX_CPU_ISA": "SSE41"}
MKL_AVX2, MKL_COMPATIBLE = {"MKL_CBWR": "AVX2"}, {"MKL_CBWR": "COMPATIBLE"}


@dataclass(frozen=True)
class Platform:
    """Environment variables that a worker starts with, and what the pipeline enables."""

    variables: dict[str, str] = field(default_factory=dict)
    enable: tuple[str, ...] = ()

    def carry(self, case: Case) -> Case:
        """Return `case` as it runs on this platform."""
        knobs = tuple(sorted({**dict(case.knobs), **self.variables}.items()))
        scenario = replace(case.scenario, enable=tuple(dict.fromkeys((*case.scenario.enable, *self.enable))))
        return replace(case, scenario=scenario, knobs=knobs)


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
MINDSPORE = {
    "mindspore": Platform(),
    "mindspore-onednn-avx512": PLATFORMS["onednn-avx512"],
    "mindspore-onednn-sse41": PLATFORMS["onednn-sse41"],
}


def platforms_of(case: Case) -> dict[str, Platform]:
    """Return the platforms over which the tolerances of a case are measured: those that can move its bits."""
    if case.scenario.framework == "mindspore":
        return MINDSPORE
    return PLATFORMS if case.device == "cpu" else {"channels-last": PLATFORMS["channels-last"]}
