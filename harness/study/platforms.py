"""The synthetic platforms of one x86-64 machine: settings under which its libraries compute as those of other machines do."""

from __future__ import annotations

ATEN_AVX2, ATEN_DEFAULT = {"ATEN_CPU_CAPABILITY": "avx2"}, {"ATEN_CPU_CAPABILITY": "default"}
ONEDNN_AVX2, ONEDNN_SSE41 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}, {"ONEDNN_MAX_CPU_ISA": "SSE41"}
MKL_AVX2, MKL_COMPATIBLE = {"MKL_CBWR": "AVX2"}, {"MKL_CBWR": "COMPATIBLE"}

PLATFORMS: dict[str, dict[str, str]] = {
    "aten-avx2": ATEN_AVX2,
    "aten-default": ATEN_DEFAULT,
    "onednn-avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "onednn-avx2": ONEDNN_AVX2,
    "onednn-sse41": ONEDNN_SSE41,
    "mkl-avx2": MKL_AVX2,
    "mkl-compatible": MKL_COMPATIBLE,
    "threads-2": {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
    "aten-onednn-avx2": {**ATEN_AVX2, **ONEDNN_AVX2},
    "all-avx2": {**ATEN_AVX2, **ONEDNN_AVX2, **MKL_AVX2},
    "portable": {**ATEN_AVX2, **ONEDNN_AVX2, **MKL_COMPATIBLE},
    "oldest": {**ATEN_DEFAULT, **ONEDNN_SSE41, **MKL_COMPATIBLE},
}
