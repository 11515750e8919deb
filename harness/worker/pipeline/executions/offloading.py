"""Offloading: components, groups of modules or single layers leave the device while they wait."""

from __future__ import annotations

import inspect
import shutil
import tempfile
from contextlib import ExitStack
from typing import Any, Dict, Mapping, Optional

import torch

from ...protocol import CannotRunHere, CaseError
from .base import (
    HOOKS,
    NOT_COUNTED,
    Count,
    Execution,
    Seen,
    check_arguments,
    component_of,
    counted,
    hooks_in,
)

GROUP_HOOK = "group_offloading"  # the name that diffusers gives its hooks
OWN_ARGUMENTS = ("self", "onload_device", "offload_to_disk_path")  # which the harness sets
DISK = "disk"


class GroupOffload(Execution):
    """The group offloading of one component, to the CPU or to a temporary folder."""

    def __init__(
        self, pipeline: Any, component: str, arguments: Mapping[str, Any], device: torch.device
    ) -> None:
        self.asked = f"group-offload: {component}"
        self._component: Any = component_of(pipeline, component, "group-offload")
        self._arguments = dict(arguments)
        self._device = device
        self._folder: Optional[str] = None
        self._moves = Count()

    def apply(self) -> None:
        """Offload the component; `offload_device: disk` means a folder that `undo` removes."""
        enable = getattr(self._component, "enable_group_offload", None)
        if enable is None:
            name = type(self._component).__name__
            raise CaseError(f"`{self.asked}`: {name} has no group offloading")
        known = [each for each in inspect.signature(enable).parameters if each not in OWN_ARGUMENTS]
        check_arguments(self.asked, self._arguments, known)
        try:
            enable(onload_device=self._device, **self._where())
        except (ValueError, TypeError) as error:
            raise CaseError(f"`{self.asked}`: {error}") from error

    def watch(self, undo: ExitStack) -> None:
        """Count how often a group of modules was brought to the device."""
        self._moves = Count()
        if self.beside_compiled:
            return
        for hook in hooks_in(self._component, GROUP_HOOK):
            self._moves.of_method(hook.fn_ref, "pre_forward", undo)

    def seen(self) -> Seen:
        """Return how many modules have hooks, and how often these ran."""
        hooks, moves = len(list(hooks_in(self._component, GROUP_HOOK))), self._moves.calls
        ran = NOT_COUNTED if self.beside_compiled else f"they ran {counted(moves, 'time')}"
        words = f"{counted(hooks, 'module')} with offload hooks; {ran}"
        return Seen(words, took_effect=hooks > 0 and (self.beside_compiled or moves > 0))

    def undo(self) -> None:
        """Bring everything back, and take the hooks off."""
        registry = getattr(self._component, HOOKS, None)
        for hook in hooks_in(self._component, GROUP_HOOK):
            hook.group.onload_()
        if registry is not None:
            for name in (GROUP_HOOK, "layer_execution_tracker", "lazy_prefetch_group_offloading"):
                registry.remove_hook(name, recurse=True)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _where(self) -> Dict[str, Any]:
        arguments = dict(self._arguments)
        target = arguments.pop("offload_device", "cpu")
        if target == DISK:
            self._folder = tempfile.mkdtemp(prefix="harness-offload-")
            arguments["offload_to_disk_path"] = self._folder
        elif self._device.type == "cpu":
            raise CannotRunHere(
                f"`{self.asked}` moves modules between the CPU and another device; this case has "
                "none, and `offload_device: disk` is not asked for"
            )
        return {**arguments, "offload_device": torch.device("cpu")}


class PipelineOffload(Execution):
    """`model_cpu_offload` or `sequential_cpu_offload`, which `enable.place` switches on."""

    def __init__(self, pipeline: Any, word: str) -> None:
        self.asked = f"enable: {word}"
        self._pipeline = pipeline
        self._moves = Count()

    def watch(self, undo: ExitStack) -> None:
        """Count the calls of the hooks of accelerate."""
        self._moves = Count()
        for hook in self._hooks():
            self._moves.of_method(hook, "pre_forward", undo)

    def seen(self) -> Seen:
        """Return how many modules have hooks, and how often these ran."""
        hooks, moves = len(self._hooks()), self._moves.calls
        words = f"{counted(hooks, 'module')} with offload hooks, which ran {counted(moves, 'time')}"
        return Seen(words, took_effect=moves > 0)

    def _hooks(self) -> Any:
        modules = [
            module
            for component in self._pipeline.components.values()
            if isinstance(component, torch.nn.Module)
            for module in component.modules()
        ]
        return [module._hf_hook for module in modules if hasattr(module, "_hf_hook")]
