"""What takes part in compiled code beside torch's own kernels: compilers, their target, options.

Two machines of one numerics class owe each other the bits of operators, not those of code that
different compilers made. So a compiled case has a class of its own, which takes these facts in.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
from functools import lru_cache
from importlib import metadata
from typing import Any, Dict, Sequence

import torch

from ..observe.digest import combine, digest_bytes
from ..protocol import EnvironmentRecord, NumericsClassRecord

HASH_DIGITS = 8  # hexadecimal digits of a class's hash, at the end of its name
SECONDS = 30  # after which a compiler that does not answer counts as missing
INDUCTOR = "torch._inductor.config."


def missing(device: torch.device) -> str:
    """Return what compiling for a device lacks on this machine; empty where nothing does."""
    if device.type != "cpu":
        return "" if importlib.util.find_spec("triton") else "the package triton"
    return "" if _cpp_compiler() else "a C++ compiler such as g++"


def facts(device: torch.device) -> Dict[str, str]:
    """Return what takes part in compiled code for a device, by name."""
    found = {"torch": f"{torch.__version__} {torch.version.git_version}"}
    if importlib.util.find_spec("triton"):
        found["triton"] = metadata.version("triton")
    if device.type == "cpu":
        found.update(_cpp_facts(_cpp_compiler()))
    return {**found, **_options()}


def with_compiler(environment: EnvironmentRecord, device: torch.device) -> EnvironmentRecord:
    """Return the environment of a compiled case: with these facts, and a class that they make."""
    found = facts(device)
    options = {key: value for key, value in found.items() if key.startswith("inductor.")}
    versions = {key: value for key, value in found.items() if key not in {"torch", *options}}
    return {
        **environment,
        "numerics_class": _class_with(environment["numerics_class"], found),
        "versions": {**environment["versions"], **versions},
        "flags": {**environment["flags"], **options},
    }


def with_runtime(environment: EnvironmentRecord, found: Dict[str, str]) -> EnvironmentRecord:
    """Return the environment of a case part of which runs in ONNX Runtime.

    Args:
        environment: Of the case without it.
        found: What takes part in the arithmetic of ONNX Runtime, by name.
    """
    versions = {key: value for key, value in found.items() if key != "torch"}
    return {
        **environment,
        "numerics_class": _class_with(environment["numerics_class"], found, "onnx"),
        "versions": {**environment["versions"], **versions},
    }


def versions_of(packages: Sequence[str]) -> Dict[str, str]:
    """Return the versions of installed packages, by name."""
    return {name: metadata.version(name) for name in packages}


def _class_with(
    own: NumericsClassRecord, found: Dict[str, str], word: str = "compiled"
) -> NumericsClassRecord:
    hashed = combine({"operators": own["hash"], **{f"compiler {k}": v for k, v in found.items()}})
    readable = own["name"].rsplit("-", 1)[0]
    return {
        "name": f"{readable}-{word}-{hashed[:HASH_DIGITS]}",
        "hash": hashed,
        "operators": own["operators"],
    }


@lru_cache(maxsize=None)
def _cpp_compiler() -> str:
    """Return the C++ compiler that inductor would call; empty where there is none."""
    builder: Any = importlib.import_module("torch._inductor.cpp_builder")
    try:
        return shutil.which(builder.get_cpp_compiler()) or ""
    except Exception:  # inductor's own error for a missing compiler, whose class moved
        return ""


@lru_cache(maxsize=None)
def _cpp_facts(path: str) -> Dict[str, str]:
    """Return the version of the C++ compiler at `path`, and the processor that it compiles for.

    Without a compiler there is nothing to tell, and no case is compiled.

    Inductor asks for `-march=native`, so that the processor decides; the macros that the compiler
    then predefines say which one it takes it for.
    """
    import numpy as np

    if not path:
        return {}
    version = _said(path, "--version").partition("\n")[0]
    macros = _said(path, "-march=native", "-dM", "-E", "-x", "c++", os.devnull)
    isa: Any = importlib.import_module("torch._inductor.cpu_vec_isa")
    return {
        "c++": version,
        "c++ target": digest_bytes(np.frombuffer(macros.encode(), dtype=np.uint8)),
        "vector instructions": str(isa.pick_vec_isa()),
    }


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    return done.stdout


def _options() -> Dict[str, str]:
    """Return inductor's options that differ from their defaults, by name."""
    config: Any = importlib.import_module("torch._inductor.config")
    lines = [line for line in config.codegen_config().splitlines() if line.startswith(INDUCTOR)]
    pairs = (line[len(INDUCTOR) :].partition(" = ") for line in lines)
    return {f"inductor.{name}": value for name, _, value in pairs}
