"""Classes of a library, found by their names alone, and schedulers made of them.

No dotted path and no module of a scenario is ever imported. What a library does not have is refused
with the nearest right spelling, where the library itself would ignore it.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from typing import Any, Iterable

from ..protocol import CaseError

DIFFUSERS = "diffusers"
AUTOMATIC = "AutoPipelineFor"  # how the names of classes begin that choose a pipeline class


def pipeline_class(name: str, library: str = DIFFUSERS) -> Any:
    """Return a pipeline class of a library.

    Raises:
        CaseError: This release of the library has no such pipeline.
    """
    return _find("pipeline", name, "DiffusionPipeline", library)


def is_code(name: str) -> bool:
    """Return whether a name means code of the project: `package.module:Class`."""
    return ":" in name


def is_automatic(name: str) -> bool:
    """Return whether a name is that of an `AutoPipelineFor...`, which chooses a class by itself."""
    return name.startswith(AUTOMATIC)


def automatic_class(name: str, stored: str, library: str = DIFFUSERS) -> Any:
    """Return the pipeline class that an `AutoPipelineFor...` chooses for a checkpoint.

    Args:
        name: The automatic class, such as `AutoPipelineForImage2Image`.
        stored: The pipeline class that the checkpoint's index names.
        library: The library of pipelines.

    Raises:
        CaseError: There is no such automatic class, or it has no pipeline for the checkpoint.
    """
    home = importlib.import_module(f"{library}.pipelines.auto_pipeline")
    task = name[len(AUTOMATIC) :].upper()
    tables = [getattr(home, f"AUTO_{word}_PIPELINES_MAPPING", None) for word in (task, task[:-3])]
    table = next((table for table in tables if table is not None), None)
    if table is None or getattr(home, name, None) is None:
        raise CaseError(f"{library} has no automatic pipeline `{name}`{nearest(name, dir(home))}")
    models = [
        model
        for known in home.SUPPORTED_TASKS_MAPPINGS
        for model, found in known.items()
        if found.__name__ == stored
    ]
    for model in models:
        if model in table:
            return table[model]
    raise CaseError(
        f"`{name}` knows no pipeline for a checkpoint of {stored}; name the class itself as "
        "`pipeline`"
    )


def scheduler_class(name: str, library: str = DIFFUSERS) -> Any:
    """Return a scheduler class of a library.

    Raises:
        CaseError: This release of the library has no such scheduler.
    """
    return _find("scheduler", name, "SchedulerMixin", library)


def _find(what: str, name: str, base: str, library: str) -> Any:
    home = importlib.import_module(library)
    found = getattr(home, name, None) if name.isidentifier() else None
    if inspect.isclass(found) and issubclass(found, getattr(home, base)):
        return found
    hint = nearest(name, dir(home))
    if found is not None:  # a class of another kind, or one that stands for a missing package
        hint = ": it needs a package that is not here" if name in dir(home) else ""
    raise CaseError(f"{library} {home.__version__} has no {what} `{name}`{hint}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message that offers the nearest right spelling, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean `{near[0]}`?" if near else ""
