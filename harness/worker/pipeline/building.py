"""Pipelines that a function of the project builds, in place of a checkpoint."""

from __future__ import annotations

import hashlib
import importlib
import json
from typing import Any, Dict, Mapping

from ..observe.digest import combine
from ..protocol import CaseError
from .components import call_of
from .framework import Framework
from .own_code import OwnCode

DEFAULT = "default"  # stands for every component whose type is not named


def build(name: str, code: OwnCode, dtypes: Mapping[str, str], framework: Framework) -> Any:
    """Return the pipeline that a function of the project returns, in the types of the case.

    Args:
        name: The function, such as `package.module:function`; it takes no argument.
        code: The code of the project.
        dtypes: The floating-point type of each component; `default` is that of those unnamed.
        framework: Whose pipeline it is.

    Raises:
        CaseError: There is no such function, it raises an error, or it returns no pipeline.
    """
    function = code.load(name)
    if not callable(function):
        raise CaseError(f"`build`: `{name}` is no function")
    try:
        pipeline = function()
    except CaseError:
        raise
    except Exception as error:  # the project's own code may raise anything
        text = " ".join(str(error).split()) or "no message"
        raise CaseError(f"`build`: `{name}` raised {type(error).__name__}: {text}") from error
    base = importlib.import_module(framework.library).DiffusionPipeline
    if not isinstance(pipeline, base):
        raise CaseError(
            f"`build`: `{name}` returned {type(pipeline).__name__}; expected a pipeline, which "
            f"inherits from {framework.library}'s DiffusionPipeline"
        )
    for part_name, part in pipeline.components.items():
        if call_of(part) is not None:
            framework.prepared(part, dtypes.get(part_name, dtypes[DEFAULT]))
    return pipeline


def digest_configuration(pipeline: Any) -> str:
    """Return one digest of the classes and settings of a pipeline's components."""
    found: Dict[str, str] = {}
    for name, part in pipeline.components.items():
        text = json.dumps(
            [type(part).__name__, _settings_of(part)], sort_keys=True, default=_kind_of
        )
        found[name] = hashlib.sha256(text.encode()).hexdigest()
    return combine(found)


def _settings_of(part: Any) -> Dict[str, Any]:
    settings: Any = getattr(part, "config", None)
    if hasattr(settings, "to_dict"):
        settings = settings.to_dict()
    if not isinstance(settings, Mapping):
        return {}
    return {
        str(key): value
        for key, value in settings.items()
        if not str(key).startswith("_") and key != "transformers_version"
    }


def _kind_of(value: Any) -> str:
    """Stand for a setting that JSON does not have; its text could hold an address in memory."""
    return type(value).__name__
