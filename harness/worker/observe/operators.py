"""Observing the operators of one module: what each took and gave, and which line called it.

torch shows its operators through its dispatch, MindSpore through replaced functions; both write to
an `OperatorLog`. Observing them changes no bit: the caller checks that by the stage's own digest.
"""

from __future__ import annotations

import sys
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..protocol import ARGUMENT, OPERATOR, Json, OperatorRecord
from .arguments import NotExpressibleError, arguments_as_json
from .frames import file_of, looked_at_from
from .slot import Whole
from .tensors import Tensors, dtype_name, tensors_in

# Operators of torch that give memory or a view of it, and compute nothing.
ALLOCATING = ("empty", "detach", "lift_fresh")


class OperatorLog:
    """The operators of one module, in the order of their calls.

    Args:
        is_wanted: Returns whether what runs now is that module's own code.
        arguments_of: The index of the operator whose arguments are kept; None for no one.
        counts: What counts of each tensor; None for the whole.

    Attributes:
        records: One entry per operator.
        tensors: What the operators gave, by the names that a recording uses.
    """

    def __init__(
        self,
        is_wanted: Callable[[], bool],
        arguments_of: Optional[int] = None,
        counts: Optional[Whole] = None,
    ) -> None:
        self.is_wanted = is_wanted
        self._arguments_of = arguments_of
        self._counts = counts or Whole()
        self.records: List[OperatorRecord] = []
        self.tensors: Tensors = {}

    def call(
        self,
        name: str,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """Call one operator, note it, and return its result."""
        taken = tensors_in([*args, kwargs])
        # The digests come before the call, for operators that write into their inputs.
        inputs = {key: self._counts.digest(tensor) for key, tensor in taken.items()}
        arguments = self._arguments(args, kwargs)
        result = function(*args, **kwargs)
        given = tensors_in(result)
        self._keep(given)
        record: OperatorRecord = {
            "operator": name,
            "inputs": inputs,
            "outputs": {key: self._counts.digest(tensor) for key, tensor in given.items()},
            "shapes": [_shape(tensor) for tensor in taken.values() if tensor.dim()],
            "source": _calling_line(),
        }
        if arguments is not None:
            record["arguments"] = arguments
        self.records.append(record)
        return result

    def _arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Json:
        """Return the arguments of the operator that was asked for, whose tensors are kept.

        None for another operator, and for arguments that JSON cannot express.
        """
        if len(self.records) != self._arguments_of:
            return None
        found: Tensors = {}
        prefix = f"{OPERATOR}{len(self.records)}/{ARGUMENT}"
        try:
            arguments = arguments_as_json(args, kwargs, prefix, found)
        except NotExpressibleError:
            return None
        self.tensors.update(found)
        return arguments

    def _keep(self, given: Tensors) -> None:
        for key, tensor in given.items():
            if tensor.is_complex():  # the reader of tensor files has no type for it
                continue
            name = f"{OPERATOR}{len(self.records)}/{key}"
            self.tensors[name] = self._counts.part(tensor).detach().to("cpu", copy=True)


class TorchOperators(TorchDispatchMode):
    """Writes the operators of torch to a log while it is entered.

    They have torch's own names, such as `aten.exp.default`: namespace, operator and overload.
    """

    def __init__(self, log: OperatorLog) -> None:
        super().__init__()
        self._log = log

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named: Dict[str, Any] = kwargs or {}
        if not self._log.is_wanted() or _computes_nothing(func):
            return func(*args, **named)
        return self._log.call(str(func), func, args, named)


def _computes_nothing(operator: Any) -> bool:
    """Return whether an operator of torch allocates memory, detaches, or makes a view."""
    for returned in operator._schema.returns:
        if returned.alias_info is not None and not returned.alias_info.is_write:
            return True
    _, _, name = operator._schema.name.rpartition("::")
    return name.startswith(ALLOCATING)


def _shape(tensor: torch.Tensor) -> str:
    return f"{dtype_name(tensor.dtype)} {list(tensor.shape)}"


def _calling_line() -> str:
    """Return the file, from its package on, and the line that called the operator."""
    frame = looked_at_from(sys._getframe(1))
    return "" if frame is None else f"{file_of(frame)}:{frame.f_lineno}"
