"""What a scenario file may hold, key by key: read by the harness, printed as a JSON Schema.

Print the schema with `python -m harness.scenario.fields > harness/data/scenario.schema.json`.
"""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import replace
from enum import StrEnum
from functools import cache
from pathlib import Path

from harness.records import Device, Dtype
from harness.scenario import executions, weights
from harness.scenario.inputs import Call
from harness.scenario.located_yaml import Anything, Either, Number, OneOrMore, Record, Table, Text
from harness.scenario.overlay import AxisValue, Overlay
from harness.scenario.tolerance import EXACT, NO_WORSE


class Framework(StrEnum):
    """Whose pipelines run: diffusers on torch, mindone on MindSpore, or a served engine by HTTP."""

    TORCH = "torch"
    MINDSPORE = "mindspore"
    HTTP = "http"


class Generator(StrEnum):
    """Where a run's noise comes from; docs/scenarios.md explains each."""

    CPU = "cpu"
    DEVICE = "device"
    NUMPY = "numpy"
    NONE = "none"
    REUSED = "reused"
    SHARED = "shared"

    @property
    def must_vary(self) -> bool:
        """Whether runs that draw from it must differ, so that no baseline can hold them."""
        return self in (Generator.NONE, Generator.REUSED)


class Expectation(StrEnum):
    """What must hold of a case's runs, apart from any baseline."""

    REPEATABLE = "repeatable"
    VARIES = "varies"
    BATCH_EQUALS_SINGLE = "batch-equals-single"
    IDENTICAL_IMAGES = "identical-images"
    DISTINCT_IMAGES = "distinct-images"
    IDENTICAL_NOISE = "identical-noise"
    STATELESS = "stateless"
    BATCH_INVARIANT = "batch-invariant"


class Determinism(StrEnum):
    """Whether a worker sets every deterministic switch, or leaves the libraries as they are."""

    FULL = "full"
    DEFAULT = "default"


class Profile(StrEnum):
    """Which CPU instructions the libraries may use; see `launch.process`."""

    NATIVE = "native"
    PORTABLE = "portable"


DEVICES_OF = {
    Framework.TORCH: (Device.CPU, Device.CUDA),
    Framework.MINDSPORE: (Device.CPU, Device.ASCEND),
    Framework.HTTP: (Device.ENDPOINT,),
}
SAVERS = (  # the pipelines' own memory savers
    "attention_slicing",
    "vae_slicing",
    "vae_tiling",
    "model_cpu_offload",
    "sequential_cpu_offload",
)
ENABLES = (*SAVERS, "channels_last", "compile", "tf32")  # each of them moves bits


@cache
def diffusers_names(what: str) -> frozenset[str]:
    """Return the public names of the installed diffusers that contain `what`, without importing it.

    The set is empty where diffusers is not installed.
    """
    spec = importlib.util.find_spec("diffusers")
    if spec is None or spec.origin is None:
        return frozenset()
    text = Path(spec.origin).read_text(encoding="utf-8", errors="replace")
    return frozenset(name for name in re.findall(r'"([A-Z]\w+)"', text) if what in name)


_DEVICE = Text(tuple(Device))
_DTYPE = Text(tuple(Dtype))
_AT_LEAST_ZERO = Number(least=0)
_POSITIVE_WHOLE = Number(least=1, whole=True)
_WHOLE = Number(least=0, whole=True)

_FREE = {"l_inf": _AT_LEAST_ZERO, "rel_l2": _AT_LEAST_ZERO}
_LOCAL = Either(_AT_LEAST_ZERO, Table(_AT_LEAST_ZERO))  # one bound, or one for each kind of stage
_BOUNDS = Record(
    {
        **_FREE,
        "local_l_inf": _LOCAL,
        "local_rel_l2": _LOCAL,
        "local_gain": _LOCAL,
        "local_bias": _LOCAL,
        "local_channel_bias": _LOCAL,
        "local_spatial": _LOCAL,
        "local_persistence": _LOCAL,
    },
    help={
        "l_inf": "largest difference of any element, in the output's unit",
        "rel_l2": "L2 norm of the difference over the L2 norm of the baseline",
        "local_l_inf": "l_inf of each stage, teacher-forced: one bound, or one per kind",
        "local_rel_l2": "rel_l2 of each stage, teacher-forced: one bound, or one per kind",
        "local_gain": "how far a stage's tensor is scaled as a whole: a ratio",
        "local_bias": "mean difference of a stage's tensor, over the RMS of the baseline's",
        "local_channel_bias": "the same of the channel that is shifted farthest",
        "local_spatial": "how far neighbouring elements of a stage's tensor move alike: a ratio",
        "local_persistence": "how far a stage's tensor moves alike from call to call: a ratio",
    },
)
_CROSS_CLASS = Either(Text((EXACT,)), replace(_BOUNDS, filled=True))
_BATCH = Either(Text((EXACT,)), Record(_FREE, filled=True))
_EVIDENCE = Record(
    {
        "bounds": _BOUNDS,
        "batch": Record(_FREE),
        "noise": _BOUNDS,
        "worst": _BOUNDS,
        "platforms": Number(least=0, whole=True),
        "machines": Number(least=0, whole=True),
        "skipped": OneOrMore(Text(), distinct=True),
        "seeds": _POSITIVE_WHOLE,
        "device": _DEVICE,
        "on": Text(),
        "date": Text(),
        "fingerprint": Text(),
    },
    required=("bounds",),
)
_PUBLISHED = Record(
    {
        "abs_sum": _AT_LEAST_ZERO,
        "within": _AT_LEAST_ZERO,
        "on": Text((Device.CPU, Device.CUDA)),
        "source": Text(),
    },
    required=("abs_sum", "within", "source"),
)

_WITHOUT_VARIANTS = Record(
    {
        "description": Text(),
        "pipeline": Text(what="the name of a pipeline class of diffusers"),
        "backend": Text(tuple(Framework)),
        "checkpoint": weights.CHECKPOINT,
        **weights.FIELDS,
        "scheduler": Table(Anything()),
        "call": Call(),
        "before": Table(Call()),
        "seed": OneOrMore(Number(least=0, whole=True)),
        "generator": Text(tuple(Generator)),
        "cases": Record(
            {
                "device": OneOrMore(_DEVICE, distinct=True),
                "dtype": OneOrMore(_DTYPE, distinct=True),
                "call": Table(OneOrMore(AxisValue(), distinct=True)),
            }
        ),
        "enable": OneOrMore(Text(ENABLES), distinct=True),
        **executions.FIELDS,
        "component-dtype": Table(_DTYPE),
        "determinism": Text(tuple(Determinism)),
        "profile": Text(tuple(Profile)),
        "expect": OneOrMore(Text(tuple(Expectation)), distinct=True),
        "compositions": _POSITIVE_WHOLE,
        "reference": Record(
            {"scenario": Text(), "device": _DEVICE, "dtype": _DTYPE}, required=("device", "dtype")
        ),
        "tolerance": Record(
            {
                "same-class": Text((EXACT,)),
                "cross-class": _CROSS_CLASS,
                "batch": _BATCH,
                "evidence": _EVIDENCE,
                "reason": Text(),
            }
        ),
        "published": Table(_PUBLISHED),
        "cost": Record(
            {
                "slower": Number(least=1),
                "at_least_seconds": _AT_LEAST_ZERO,
                "rounds": _POSITIVE_WHOLE,
            }
        ),
        "keep-every": _POSITIVE_WHOLE,
        "timeout": Number(above=0),
        "tags": OneOrMore(Text(), distinct=True),
    },
    required=("description", "call"),  # and `pipeline` and `checkpoint`, or else `build`
    help={
        "description": "what the scenario is, in a sentence",
        "pipeline": "a pipeline class of diffusers, or of the project: package.module:Class",
        "backend": "torch; mindspore: the same pipeline in mindone; http: a served engine",
        "checkpoint": "where weights come from: one of bundled, synthetic, path, hub, endpoint",
        **weights.HELP,
        "scheduler": "replaces the checkpoint's own: class, and settings of that class",
        "call": "arguments of the pipeline's call, passed as they are",
        "before": "methods of the pipeline that are called before it, with their arguments",
        "seed": "one seed, or a list: one per image",
        "generator": "where noise comes from; made anew for every run",
        "cases": "devices, dtypes and arguments of the call with which the scenario runs",
        "enable": "memory savers, memory format, compilation, TF32; each changes the arithmetic",
        **executions.HELP,
        "component-dtype": "dtypes of single components, where they differ from the case's",
        "determinism": "full sets every deterministic switch; default leaves the libraries alone",
        "profile": "native uses every CPU instruction; portable those of any x86-64 with AVX2",
        "expect": "what must hold of the runs",
        "compositions": "for `expect: batch-invariant`: how many batches are tried at most",
        "reference": "the case whose baseline judges cases that have none of their own",
        "tolerance": "how close is close enough, per kind of comparison",
        "published": "values from a paper or a guide, where no array exists",
        "cost": "when a change of run time counts, and how often to time; without it, one run",
        "keep-every": "N: a baseline keeps the tensor of every N-th scheduler step; 1 keeps all",
        "timeout": "seconds until the case is ended as an error",
        "tags": "words that -k finds",
        "node": "what the node of a fleet must have; a run on this machine does not look at it",
        "variants": "other executions of the scenario: the keys that each changes, its contract",
    },
)
_CONTRACT = Either(
    Text((EXACT, NO_WORSE)),
    Record(
        {
            **_BOUNDS.fields,
            "identical-to": Text(what="the name of another variant, or `base`"),
            "images": OneOrMore(_WHOLE),
        },
        filled=True,
    ),
)
_VARIANT = Overlay(_WITHOUT_VARIANTS.fields, {"contract": _CONTRACT})

# Not for a variant: it runs where the execution runs that it is held against.
_NODE = Record(
    {
        "accelerator": Text(what="the name of an accelerator type in the fleet, such as `H100`"),
        "labels": Table(Text()),
        "resources": Table(Number(above=0)),
    },
    filled=True,
    help={
        "accelerator": "the type of accelerator, as the fleet names it, such as H100",
        "labels": "labels that the node must have, with their values",
        "resources": "resources of the fleet's own, with the amount that a worker takes",
    },
)

SHAPE = replace(
    _WITHOUT_VARIANTS,
    fields={**_WITHOUT_VARIANTS.fields, "node": _NODE, "variants": Table(_VARIANT)},
)


def json_schema() -> dict[str, object]:
    """Return the JSON Schema of a scenario."""
    dialect = "https://json-schema.org/draft/2020-12/schema"
    either = [{"required": ["pipeline", "checkpoint"]}, {"required": ["build"]}]
    return {"$schema": dialect, "title": "harness scenario", **SHAPE.schema(), "oneOf": either}


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=1))
