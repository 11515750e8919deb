"""Calls saved pipelines with diffusers alone, and prints the digests of what they return.

`pipelines.py` starts it, and compares the digests with those of what the harness recorded. It loads
a folder with `from_pretrained` and calls the pipeline as a user would. Of the harness it uses only
the switches of deterministic mode, because other switches give other bits.

    python benchmarks/bare.py FOLDER NAME...

The pipelines run one after another in this process, which imports the libraries once. One line of
JSON per pipeline is printed: its `name`, and `outputs` or `error`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

CALL_FILE = "call.json"
SEED = 0


def main(folder: Path, names: list[str]) -> None:
    warnings.simplefilter("ignore")
    for name in names:
        _print_result(folder / name)


def _print_result(folder: Path) -> None:
    try:
        found: dict[str, object] = {"outputs": outputs_of(folder)}
    except Exception as error:  # of any library
        found = {"error": f"{type(error).__name__}: {error}"[:500]}
    print(json.dumps({"name": folder.name, **found}), flush=True)


def outputs_of(folder: Path) -> list[str]:
    """Load a saved pipeline, call it, and return the sorted digests of what it returned."""
    import diffusers
    import torch

    from harness.worker.conditions import determinism

    asked = json.loads((folder / CALL_FILE).read_text(encoding="utf-8"))
    with determinism.settings("full"):
        found = getattr(diffusers, asked["pipeline"])
        pipeline = found.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        pipeline.set_progress_bar_config(disable=True)
        for saver in asked.get("enable", ()):
            component, _, what = saver.partition("_")
            getattr(getattr(pipeline, component), f"enable_{what}")()
        call = arguments_of(folder, asked["call"])
        determinism.seed_global_streams(SEED)
        for method, arguments in asked.get("before", {}).items():
            generator = torch.Generator("cpu").manual_seed(SEED)
            getattr(pipeline, method)(**arguments_of(folder, arguments), generator=generator)
        result = pipeline(**call, generator=torch.Generator("cpu").manual_seed(SEED))
    fields = result.values() if hasattr(result, "values") else result
    return sorted(digest(array) for field in fields for array in arrays_in(field))


def arguments_of(folder: Path, call: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call, with the files that they name read."""
    return {name: value_of(folder, value) for name, value in call.items()}


def value_of(folder: Path, value: Any) -> Any:
    """Return an argument of the call, with the files that it names read."""
    if isinstance(value, list):
        return [value_of(folder, item) for item in value]
    if not isinstance(value, Mapping):
        return value
    kind = next(iter(value), "")
    if kind in ("image", "mask"):
        from PIL import Image

        mode = "L" if kind == "mask" else value.get("mode", "RGB")
        with Image.open(folder / value[kind]) as image:
            return image.convert(mode)
    if kind == "array":
        return _array(folder / value["array"], value.get("as"))
    if kind == "object":
        fields = {key: value_of(folder, item) for key, item in value.items() if key != kind}
        return _condition(value["object"])(**fields)
    return {key: value_of(folder, item) for key, item in value.items()}


def _array(path: Path, library: str | None) -> Any:
    import torch
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        (tensor,) = load_file(path).values()
        return tensor
    array = np.load(path, allow_pickle=False)
    return array if library == "numpy" else torch.from_numpy(array)


def _condition(name: str) -> Any:
    """Return a dataclass of conditions, wherever a pipeline of diffusers defines it."""
    import diffusers

    root = Path(str(diffusers.__file__)).parent
    for file in sorted((root / "pipelines").rglob("*.py")):
        if f"class {name}" in file.read_text(encoding="utf-8"):
            parts = file.relative_to(root).with_suffix("").parts
            found = getattr(importlib.import_module(".".join(("diffusers", *parts))), name)
            assert dataclasses.is_dataclass(found)
            return found
    raise LookupError(name)


def arrays_in(value: Any) -> Iterator[np.ndarray]:
    """Yield the arrays of an output; images that lie in lists count as one array."""
    images = _stacked_images(value)
    if images is not None:
        yield images
    elif hasattr(value, "detach"):
        yield _numpy(value)
    elif isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield np.asarray(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from arrays_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from arrays_in(item)


def _numpy(tensor: Any) -> np.ndarray:
    """Return a tensor as an array; bfloat16, which numpy lacks, comes as float32."""
    import torch

    wide = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    array: np.ndarray = wide.detach().numpy()
    return array


def _stacked_images(value: Any) -> np.ndarray | None:
    """Return images of PIL, alone or in lists, as one array; None for anything else."""
    if hasattr(value, "convert"):
        return np.asarray(value)
    if not isinstance(value, (list, tuple)) or not value:
        return None
    stacked = [_stacked_images(item) for item in value]
    return None if any(each is None for each in stacked) else np.stack(stacked)  # type: ignore[arg-type]


def digest(array: np.ndarray) -> str:
    """Return a digest of an array's dtype, shape and bytes."""
    head = f"{array.dtype.str} {array.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()[:32]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
