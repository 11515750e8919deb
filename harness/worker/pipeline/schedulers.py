"""Fresh schedulers for every run: the checkpoint's own, or what a case asks for in its place."""

from __future__ import annotations

import importlib
import inspect
from typing import Any, List, Mapping, Optional

from ..protocol import CaseError
from .library import DIFFUSERS, is_code, nearest, scheduler_class
from .own_code import OwnCode


def make_scheduler(
    stored: Any,
    replacement: Optional[Mapping[str, Any]],
    library: str = DIFFUSERS,
    code: OwnCode = OwnCode(),  # noqa: B008 (it cannot change)
) -> Any:
    """Return a fresh scheduler.

    Args:
        stored: The scheduler of the checkpoint, whose configuration it starts from.
        replacement: The settings that a case changes, and `class` if it changes that; None for a
            scheduler as it is stored.
        library: The package of schedulers.
        code: The code of the project, which may have the class.

    Raises:
        CaseError: The class or one of the settings does not exist.
    """
    if replacement is None:
        return type(stored).from_config(stored.config)
    found = type(stored)
    if "class" in replacement:
        found = _class_of(str(replacement["class"]), library, code)
    settings = {key: value for key, value in replacement.items() if key != "class"}
    known = _settings_of(found)
    for key in settings:
        if key not in known:
            raise CaseError(f"`{found.__name__}` has no setting `{key}`{nearest(key, known)}")
    return found.from_config(stored.config, **settings)


def _class_of(name: str, library: str, code: OwnCode) -> Any:
    if not is_code(name):
        return scheduler_class(name, library)
    base = importlib.import_module(library).SchedulerMixin
    return code.class_of(name, base, "scheduler")


def _settings_of(scheduler: Any) -> List[str]:
    parameters = list(inspect.signature(scheduler.__init__).parameters)
    return parameters[1:]  # the first is `self`
