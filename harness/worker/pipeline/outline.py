"""What a saved pipeline is, for whoever writes a scenario of it: components and parameters.

No weights are read, and nothing runs; of code, only the class of the pipeline is imported.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
from pathlib import Path
from typing import Any, Dict, List

from ..protocol import CaseError, Json, OutlineArguments, OutlineRecord, ParameterRecord
from . import hub
from .checkpoints import check_classes
from .framework import Framework
from .library import is_code, pipeline_class
from .own_code import OwnCode
from .synthetic import INDEX_FILE, components_in, read_index

# The files that configure a component, of which it has one.
CONFIGURATIONS = ("config.json", "scheduler_config.json")
PATTERNS = (INDEX_FILE, *(f"*/{name}" for name in CONFIGURATIONS))
MOST_BYTES = 1 << 20  # of one configuration; a larger one is left out


def outline(arguments: OutlineArguments, framework: Framework) -> OutlineRecord:
    """Return what a saved pipeline consists of, and what its call takes.

    Args:
        arguments: Where it lies, its class where the index does not name it, and the code that it
            may have.
        framework: Whose pipeline it is.

    Raises:
        CaseError: It is no saved pipeline, or its class is not in this environment.
        CannotRunHere: The Hub did not give its configuration.
    """
    trust = arguments["trust"]
    code = OwnCode(trust["root"], trust["packages"]) if trust else OwnCode()
    code.prepare()
    source = arguments["source"]
    if source["kind"] == "hub":
        folder = hub.fetch_configurations(source["repository"], source["revision"], PATTERNS)
    else:
        folder = Path(source["folder"])
    index = _index_of(folder)
    check_classes(folder, framework, code)
    name = arguments["pipeline"] or str(index.get("_class_name", ""))
    if is_code(name):
        base = importlib.import_module(framework.library).DiffusionPipeline
        found = code.class_of(name, base, "pipeline")
    else:
        found = pipeline_class(name, framework.library)
    return {
        "pipeline": name,
        "commit": folder.name if source["kind"] == "hub" else "",
        "components": {
            name: _configuration(folder / name)
            for name, entry in components_in(index).items()
            if entry[0] is not None
        },
        "parameters": _parameters(found),
    }


def _index_of(folder: Path) -> Dict[str, Any]:
    try:
        return read_index(folder)
    except (OSError, ValueError) as error:
        raise CaseError(
            f"{folder} is no saved pipeline: its {INDEX_FILE} cannot be read ({error}); "
            "`pipeline.save_pretrained(FOLDER)` writes one"
        ) from error


def _configuration(folder: Path) -> Dict[str, Json]:
    """Return what configures a component; nothing where no file of a component does."""
    for name in CONFIGURATIONS:
        path = folder / name
        if path.is_file() and path.stat().st_size <= MOST_BYTES:
            text = path.read_text(encoding="utf-8")
            found = json.loads(text, parse_constant=lambda _: None)
            return found if isinstance(found, dict) else {}
    return {}


def _parameters(pipeline: Any) -> List[ParameterRecord]:
    """Return the named parameters of a pipeline's call, in their order."""
    found: List[ParameterRecord] = []
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    for parameter in list(inspect.signature(pipeline.__call__).parameters.values())[1:]:
        if parameter.kind in named:
            required = parameter.default is parameter.empty
            default = None if required else _as_json(parameter.default)
            found.append({"name": parameter.name, "required": required, "default": default})
    return found


def _as_json(value: Any) -> Json:
    """Return a default value, or null where JSON cannot hold it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (bool, int, float, str)) else None
