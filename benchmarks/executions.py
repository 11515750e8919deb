"""Records the bundled Flux in every execution that this machine can run, and says what was seen.

    python benchmarks/executions.py [NAME…]

Each line has the execution, what was seen of it, how far the latents moved from the plain run of
deterministic mode, and the seconds of the whole recording, of which compiling is most where it is
asked for. It takes some minutes, nearly all of it for the compiled case.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from harness.scenario.weights import DATA
from harness.store.recording import Recording
from harness.worker.protocol import CannotRunHere, CaseError
from harness.worker.recorder import Recorder

STEPS = 6
PAB = {"spatial_attention_block_skip_range": 2, "spatial_attention_timestep_skip_range": [-1, 1001]}
DISK = {"offload_type": "leaf_level", "offload_device": "disk"}
FLUX = {
    "kind": "bundled",
    "name": "digits-flux",
    "folder": str(DATA / "bundled" / "digits-flux"),
}
CALL = {
    "prompt": "a handwritten seven",
    "height": 16,
    "width": 16,
    "num_inference_steps": STEPS,
    "guidance_scale": 1.0,
    "output_type": "latent",
}


def of_transformer(key: str, value: Any) -> dict[str, Any]:
    """Return an execution of the denoiser alone."""
    return {key: {"transformer": value}}


EXECUTIONS: dict[str, dict[str, Any]] = {
    "attention: native": of_transformer("attention", {"backend": "native"}),
    "attention: _native_math": of_transformer("attention", {"backend": "_native_math"}),
    "attention: flex": of_transformer("attention", {"backend": "flex"}),
    "attention: _native_flash": of_transformer("attention", {"backend": "_native_flash"}),
    "attention: sage": of_transformer("attention", {"backend": "sage"}),
    "attention: flash_hub": of_transformer("attention", {"backend": "flash_hub"}),
    "cache: first_block, 0": {"cache": {"first_block": {"threshold": 0.0}}},
    "cache: first_block, 1e-9": {"cache": {"first_block": {"threshold": 1.0e-9}}},
    "cache: first_block, 10": {"cache": {"first_block": {"threshold": 10.0}}},
    "cache: taylorseer": {
        "cache": {"taylorseer": {"disable_cache_before_step": 2, "cache_interval": 2}}
    },
    "cache: mag": {"cache": {"mag": {"num_inference_steps": STEPS, "mag_ratios": [1.0] * STEPS}}},
    "cache: pyramid_attention_broadcast": {"cache": {"pyramid_attention_broadcast": PAB}},
    "fuse-qkv": {"fuse_qkv": ["transformer"]},
    "layerwise-casting: float8_e4m3fn": of_transformer("layerwise_casting", "float8_e4m3fn"),
    "group-offload to disk": of_transformer("group_offload", DISK),
    "quantize: quanto int8": of_transformer(
        "quantize", {"backend": "quanto", "weights_dtype": "int8"}
    ),
    "quantize: torchao int8": of_transformer(
        "quantize", {"backend": "torchao", "quant_type": "Int8WeightOnlyConfig"}
    ),
    "quantize: bitsandbytes": of_transformer(
        "quantize", {"backend": "bitsandbytes", "load_in_4bit": True}
    ),
    "compile": {"compile": {}},
    "compile again": {"compile": {}},
    "compile, fuse-qkv": {"compile": {}, "fuse_qkv": ["transformer"]},
}


def request(executions: dict[str, Any]) -> Any:
    """Return a case as the worker reads it."""
    return {
        "id": "flux[cpu-float32]",
        "framework": "torch",
        "pipeline": "FluxPipeline",
        "checkpoint": FLUX,
        "scheduler": None,
        "call": CALL,
        "inputs_folder": FLUX["folder"],
        "seeds": [0],
        "generator": "cpu",
        "component_dtypes": {},
        "attention": None,
        "enable": [],
        "device": "cpu",
        "dtype": "float32",
        "determinism": "full",
        "rounds": 1,
        "reuse": False,
        "keep_every": 1,
        "teacher_tensors": None,
        "perturbation": None,
        "fault": None,
        "detail": None,
        **({"executions": executions} if executions else {}),
    }


def main() -> None:
    """Print one line of a Markdown table for each execution."""
    warnings.simplefilter("ignore")
    chosen = sys.argv[1:] or list(EXECUTIONS)
    recorder = Recorder(lambda *_, **__: None)
    with tempfile.TemporaryDirectory(prefix="harness-executions-") as folder:
        root = Path(folder)
        recorder.record(request({}), root / "plain")
        plain = next(iter(Recording.read(root / "plain").output_tensors.values()))
        print("| execution | seen | effect | rel L2 to plain | seconds |")
        print("|---|---|---|---|---|")
        for name in chosen:
            started = time.perf_counter()
            try:
                recorder.record(request(EXECUTIONS[name]), root / "other")
            except (CannotRunHere, CaseError) as error:
                word = "unverified" if isinstance(error, CannotRunHere) else "error"
                print(f"| {name} | {str(error).splitlines()[0]} | {word} | | |", flush=True)
                continue
            seconds = time.perf_counter() - started
            found = Recording.read(root / "other")
            other = next(iter(found.output_tensors.values()))
            seen = "; ".join(each.seen for each in found.effects)
            took_effect = all(each.took_effect for each in found.effects)
            wide = np.asarray(other, np.float64) - np.asarray(plain, np.float64)
            moved = float(np.linalg.norm(wide) / np.linalg.norm(np.asarray(plain, np.float64)))
            drift = "same bits" if np.array_equal(other, plain) else f"{moved:.1e}"
            effect = "yes" if took_effect else "no: error"
            print(f"| {name} | {seen} | {effect} | {drift} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
