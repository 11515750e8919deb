"""Holds loaders to account: a weight that a file does not hold is refused, and never made up.

diffusers and transformers fill a weight that they do not find with random numbers, and at most log
a warning. Both can say what they did not find, and are asked for it here.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

from ..protocol import CaseError

# The classes of each library through which weights are loaded.
LOADERS: Dict[str, Sequence[Tuple[str, str]]] = {
    "diffusers": (
        ("diffusers.models.modeling_utils", "ModelMixin"),
        ("transformers.modeling_utils", "PreTrainedModel"),
    ),
}
# Other bases of components, which have no weights.
OTHER_BASES: Dict[str, Sequence[Tuple[str, str]]] = {
    "diffusers": (("diffusers", "SchedulerMixin"),),
}
SHOWN = 3  # names of weights in a message; the rest is counted
ADAPTER_FILE = "adapter_config.json"  # of a component of transformers that was saved with adapters
ADAPTER_MARKS = (".base_layer.", ".lora_A.", ".lora_B.", "lora_magnitude_vector")


@contextlib.contextmanager
def offered_bases(modules: Sequence[str], library: str) -> Iterator[None]:
    """Let modules offer the base classes of the libraries meanwhile.

    diffusers looks for the base of a component's class in the module that its index names, and in
    no other place: without this, a project would have to import names there that it does not use.
    """
    given: List[Tuple[Any, str]] = []
    homes = {name.partition(".")[0] for name, _ in LOADERS.get(library, ())}
    for module in (sys.modules[name] for name in modules if name not in homes):
        for home, base in (*LOADERS.get(library, ()), *OTHER_BASES.get(library, ())):
            if not hasattr(module, base):
                setattr(module, base, getattr(importlib.import_module(home), base))
                given.append((module, base))
    try:
        yield
    finally:
        for module, base in given:
            delattr(module, base)


def accounts(library: str) -> bool:
    """Return whether the loaders of a library of pipelines say which weights they did not find."""
    return library in LOADERS


@contextlib.contextmanager
def complete_weights(library: str) -> Iterator[List[Any]]:
    """Refuse every component that is loaded meanwhile with weights that its files do not hold.

    Args:
        library: The library of pipelines; of any but diffusers nothing is known.

    Yields:
        The components that were loaded whole so far.

    Raises:
        CaseError: Inside: weights of a component are missing, or have another shape.
    """
    whole: List[Any] = []
    with contextlib.ExitStack() as stack:
        for module, name in LOADERS.get(library, ()):
            base = getattr(importlib.import_module(module), name)
            stack.enter_context(_accounting(base, whole))
        yield whole


@contextlib.contextmanager
def _accounting(base: Any, whole: List[Any]) -> Iterator[None]:
    """Have `base.from_pretrained` say what it did not find."""
    original = vars(base)["from_pretrained"]
    base.from_pretrained = classmethod(_asked(original.__func__, whole))
    try:
        yield
    finally:
        base.from_pretrained = original


def _asked(load: Callable[..., Any], whole: List[Any]) -> Callable[..., Any]:
    @functools.wraps(load)
    def loaded(cls: Any, source: Any, *args: Any, **options: Any) -> Any:
        wants_findings = options.pop("output_loading_info", False)
        _check_no_adapter(cls, Path(str(source), options.get("subfolder") or ""))
        component, findings = load(cls, source, *args, output_loading_info=True, **options)
        _check_findings(cls, source, findings)
        whole.append(component)
        return (component, findings) if wants_findings else component

    return loaded


def _check_no_adapter(component_class: Any, folder: Path) -> None:
    """Refuse a folder of an adapter: transformers would fetch the weights that it was made for."""
    if (folder / ADAPTER_FILE).is_file():
        raise CaseError(
            f"{folder} holds an adapter of {component_class.__name__} and no weights of its own "
            f"({ADAPTER_FILE}): it was saved with the adapter active; "
            f"{_WITHOUT_ADAPTER}"
        )


def _check_findings(component_class: Any, source: Any, findings: Dict[str, Any]) -> None:
    missing = sorted(map(str, findings.get("missing_keys") or ()))
    other_shape = sorted(_name_of(entry) for entry in findings.get("mismatched_keys") or ())
    if not missing and not other_shape:
        return
    problems = []
    if missing:
        problems.append(f"does not hold {counted(missing, 'weight')}")
    if other_shape:
        problems.append(f"holds {counted(other_shape, 'weight')} of another shape")
    unexpected = sorted(map(str, findings.get("unexpected_keys") or ()))
    raise CaseError(
        f"{source} {' and '.join(problems)} of {component_class.__name__}: this release of "
        f"{component_class.__module__.partition('.')[0]} would make up random numbers for them"
        f"{_cause(unexpected)}"
    )


def _name_of(entry: Any) -> str:
    """Return the name in a library's record of a mismatch, which may hold both shapes too."""
    return str(entry if isinstance(entry, str) else entry[0])


def _cause(unexpected: Sequence[str]) -> str:
    """Return why weights are missing, as far as the other names in the files tell it."""
    if not unexpected:
        return ""
    if any(mark in name for name in unexpected for mark in ADAPTER_MARKS):
        return f"; it was saved with adapters active: {_WITHOUT_ADAPTER}"
    return f"; it holds {counted(unexpected, 'name')} that this release does not know"


_WITHOUT_ADAPTER = (
    "save it without (`unload_lora_weights`) and name the adapter as `lora`, "
    "or save it after `fuse_lora` and `unload_lora_weights`"
)


def counted(names: Sequence[str], what: str) -> str:
    """Return how many names there are and the first of them: `2 weights (a, b)`."""
    shown = ", ".join(names[:SHOWN])
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} {what}{'s' if len(names) != 1 else ''} ({shown}{more})"
