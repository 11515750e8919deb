"""What a scenario file may hold, key by key: read by the harness, and printed as JSON Schema for editors.

python -m harness.shape > harness/data/scenario.schema.json
"""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from harness.scenario.located_yaml import Anything, Either, Number, OneOrMore, Record, Table, Text

GENERATORS = ("cpu", "device", "numpy", "none", "reused", "shared")
EXPECTATIONS = (
    "repeatable",
    "varies",
    "batch-equals-single",
    "identical-images",
    "distinct-images",
    "identical-noise",
)
UNREPEATABLE = ("none", "reused")  # generators whose runs must differ
PROFILES = (
    "native",
    "portable",
)  # which CPU instructions the libraries may use; see harness/launch/local.py
SAVERS = (
    "attention_slicing",
    "vae_slicing",
    "vae_tiling",
    "model_cpu_offload",
    "sequential_cpu_offload",
)  # of the pipeline
ENABLES = (*SAVERS, "channels_last", "compile", "tf32")  # all move bits
ATTENTION = (
    "math",
    "flash",
    "mem_efficient",
    "cudnn",
)  # torch's backends of scaled-dot-product attention
DTYPES = ("float32", "float16", "bfloat16", "float64")
FRAMEWORKS = {"torch": ("cpu", "cuda"), "mindspore": ("cpu", "ascend")}  # with the devices of each
DEVICES = tuple(dict.fromkeys(device for devices in FRAMEWORKS.values() for device in devices))
REFERENCE = re.compile(rf"(\w[\w.-]*/)?({'|'.join(DEVICES)})-({'|'.join(DTYPES)})")
SOURCES = ("bundled", "synthetic", "path", "hub")


@cache
def diffusers_names(what: str) -> frozenset[str]:
    """Return the public names of the installed diffusers that hold `what`, without importing it; none where it is missing."""
    spec = importlib.util.find_spec("diffusers")
    if spec is None or spec.origin is None:
        return frozenset()
    text = Path(spec.origin).read_text(encoding="utf-8", errors="replace")
    return frozenset(name for name in re.findall(r'"([A-Z]\w+)"', text) if what in name)


_FREE = {name: Number(least=0) for name in ("l_inf", "rel_l2")}
_LOCAL = Either(Number(least=0), Table(Number(least=0)))  # one for all stages, or by kind of stage
_BOUNDS = Record(
    {**_FREE, "local_l_inf": _LOCAL, "local_rel_l2": _LOCAL},
    help={
        "l_inf": "largest difference of any element, in the output's unit",
        "rel_l2": "L2 norm of the difference over the L2 norm of the baseline",
        "local_l_inf": "the same as l_inf, per stage, when every stage gets the baseline's inputs: one bound, or one per kind",
        "local_rel_l2": "the same as rel_l2, per stage, when every stage gets the baseline's inputs: one bound, or one per kind",
    },
)
_CLOSE = Either(Text(("identical",)), replace(_BOUNDS, filled=True))
_BATCH = Either(Text(("identical",)), Record(_FREE, filled=True))
_EVIDENCE = Record(
    {
        "bounds": _BOUNDS,
        "batch": Record(_FREE),
        "noise": _BOUNDS,
        "worst": _BOUNDS,
        "platforms": Number(least=0, whole=True),
        "seeds": Number(least=1, whole=True),
        "on": Text(),
        "date": Text(),
    },
    required=("bounds",),
)
SHAPE = Record(
    {
        "description": Text(),
        "pipeline": Text(what="the name of a pipeline class of diffusers"),
        "framework": Text(tuple(FRAMEWORKS)),
        "checkpoint": Record({source: Text() for source in SOURCES} | {"revision": Text()}),
        "scheduler": Table(Anything()),
        "call": Table(Anything()),
        "seed": OneOrMore(Number(least=0, whole=True)),
        "generator": Text(GENERATORS),
        "cases": Record(
            {
                "device": OneOrMore(Text(DEVICES), distinct=True),
                "dtype": OneOrMore(Text(DTYPES), distinct=True),
            }
        ),
        "enable": OneOrMore(Text(ENABLES), distinct=True),
        "attention": Text(ATTENTION),
        "component-dtype": Table(Text(DTYPES)),
        "determinism": Text(("full", "default")),
        "profile": Text(PROFILES),
        "expect": OneOrMore(Text(EXPECTATIONS), distinct=True),
        "reference": Text(),
        "tolerance": Record(
            {
                "same-class": Text(("identical",)),
                "cross-class": _CLOSE,
                "batch": _BATCH,
                "evidence": _EVIDENCE,
                "reason": Text(),
            }
        ),
        "published": Table(
            Record(
                {
                    "abs_sum": Number(least=0),
                    "within": Number(least=0),
                    "on": Text(("cpu", "cuda")),
                    "source": Text(),
                },
                required=("abs_sum", "within", "source"),
            )
        ),
        "cost": Record(
            {
                "slower": Number(least=1),
                "at_least_seconds": Number(least=0),
                "rounds": Number(least=1, whole=True),
            }
        ),
        "keep-every": Number(least=1, whole=True),
        "timeout": Number(above=0),
        "tags": OneOrMore(Text(), distinct=True),
    },
    required=("description", "pipeline", "checkpoint", "call"),
    help={
        "description": "what the scenario is, in a sentence",
        "pipeline": "the name of a pipeline class of diffusers",
        "framework": "torch, or mindspore, which runs the pipeline of the same name in mindone, in an environment of its own",
        "checkpoint": "where weights come from: one of bundled, synthetic, path, hub",
        "scheduler": "replaces the checkpoint's own: class, and settings of that class",
        "call": "passed to the pipeline as it is",
        "seed": "one seed, or a list: one per image",
        "generator": "where noise comes from; made anew for every run",
        "cases": "devices and dtypes on which the scenario runs",
        "enable": "memory savers of the pipeline, memory format, compilation, TF32; they change its arithmetic",
        "attention": "the one backend of scaled-dot-product attention; math with full determinism, unless this says otherwise",
        "component-dtype": "types of single components, where they differ from the case's",
        "determinism": "full sets every deterministic switch; default leaves the libraries as they are",
        "profile": "native uses every CPU instruction; portable only those of any x86-64 machine with AVX2",
        "expect": "what must hold of the runs",
        "reference": "device and dtype whose baseline judges cases that have none; SCENARIO/DEVICE-DTYPE for another scenario's",
        "tolerance": "how close is close enough, per kind of comparison",
        "published": "values from a paper or a guide, where no array exists",
        "cost": "when a change of run time is worth a word, and how often to time; without it, one run is timed",
        "keep-every": "of the schedulers' steps, every how many a baseline keeps a tensor, for anchored runs; 1 keeps all",
        "timeout": "seconds until the case is ended as an error",
        "tags": "words that -k finds",
    },
)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a scenario."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "harness scenario",
        **SHAPE.schema(),
    }


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=1))
