"""MindSpore and mindone on one device, as a `Framework`.

Its tensors are seen as torch's, so that everything else stays as it is. It runs in an environment
of its own, which has torch too. This module is imported only when a case asks for MindSpore.
"""

from __future__ import annotations

import functools
import inspect
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, ContextManager, Dict, Iterator, NamedTuple, Sequence

import mindspore
import numpy as np
import torch
from mindspore import Tensor, mint, ops

from ..conditions import numerics
from ..observe.operators import OperatorLog
from ..observe.stages import wrapped
from ..protocol import CannotRunHere, EnvironmentRecord, NumericsClassRecord
from .components import as_tensor
from .enable import CHANNELS_LAST, COMPILE, OFFLOADS, SWITCHES
from .framework import Framework

# The arithmetic of tensors, as the middle of the names of Python's methods.
ARITHMETIC = ("add", "sub", "mul", "truediv", "pow", "matmul", "neg")
# Functions that ask for facts, or serve training.
NO_OPERATORS = ("shape", "rank", "dtype", "size", "is_tensor", "get_grad")
OF_TORCH = (CHANNELS_LAST, COMPILE, *OFFLOADS, *SWITCHES)  # what `enable` does by means of torch
DEVICES = {"cpu": "CPU", "ascend": "Ascend"}  # MindSpore's names of devices


class MindSpore(Framework):
    """MindSpore and mindone.

    Args:
        device: `cpu` or `ascend`.

    Raises:
        CannotRunHere: There is no such device.
    """

    library = "mindone.diffusers"
    transformers = "mindone.transformers"
    draw_module = "mindone.diffusers.utils.mindspore_utils"
    takes_numpy_generators = True

    def __init__(self, device: str) -> None:
        if device == "ascend" and not mindspore.device_context.ascend.is_available():
            raise CannotRunHere("no Ascend device on this machine")
        if device not in DEVICES:
            raise CannotRunHere(f"MindSpore runs on no device `{device}`")
        mindspore.set_device(DEVICES[device])
        self._device_name = device
        self.device = torch.device("cpu")
        self.can_evaluate = False
        self.can_feed = device == "cpu"  # its tensors there lie in memory that torch sees

    def settle(self, mode: str) -> None:
        """Set MindSpore's deterministic setting, which it takes once; a worker has one mode."""
        if mode == "full" and mindspore.get_context("deterministic") != "ON":
            mindspore.set_deterministic(True)

    def dtype(self, name: str) -> Any:
        """Return MindSpore's type with a name such as `float32`."""
        return getattr(mindspore, name)

    def dtype_argument(self) -> str:
        """Return the name by which mindone takes a type."""
        return "mindspore_dtype"

    def prepared(self, component: Any, dtype: str) -> Any:
        """Return a component in a type, set up to infer."""
        if dtype != "float32":
            component = component.to(self.dtype(dtype))
        return component.set_train(False)

    def placed(self, pipeline: Any, enabled: Sequence[str]) -> Any:
        """Return the pipeline as it is: MindSpore has one device for all of a process.

        Raises:
            CannotRunHere: The case enables something of torch's.
        """
        of_torch = sorted({*enabled} & {*OF_TORCH})
        if of_torch:
            raise CannotRunHere(f"`{of_torch[0]}` is torch's; MindSpore has nothing of the name")
        return pipeline

    def observe_operators(self, log: OperatorLog) -> ContextManager[Any]:
        """Return what writes MindSpore's operators to `log` while it is entered."""
        return _observed_operators(log)

    def numerics_class(self, dtype: str) -> NumericsClassRecord:
        """Measure MindSpore's numerics class of this process for a type such as `float32`."""
        name = f"{self._device_name}-mindspore"
        facts = {"device": self._device_name}
        return numerics.class_of(_mindspore_operators(self.dtype(dtype)), name, facts)

    def describe(self, numerics_class: NumericsClassRecord) -> EnvironmentRecord:
        """Return the environment of this process, with the settings in effect now."""
        found = super().describe(numerics_class)
        found["framework"] = "mindspore"
        found["device_kind"] = self._device_name
        found["flags"]["mindspore.deterministic"] = mindspore.get_context("deterministic")
        return found


class _Replaced(NamedTuple):
    """A function or method of MindSpore that is an operator, and the operator's name."""

    owner: Any
    attribute: str
    operator: str


def _functions() -> Iterator[_Replaced]:
    """Yield MindSpore's functions, and the arithmetic of its tensors.

    They are named as torch names its own: `mindspore.exp.ops` stands beside `aten.exp.default`.
    """
    for home in (ops, ops.function, mint, mint.nn.functional):
        module = home.__name__.rsplit(".", 1)[-1]
        for name, function in list(vars(home).items()):
            is_public = not name.startswith("_") and name not in NO_OPERATORS
            if is_public and inspect.isfunction(function):
                yield _Replaced(home, name, f"mindspore.{name}.{module}")
    for name in ARITHMETIC:
        operator = f"mindspore.{name.replace('truediv', 'div')}.Tensor"
        for method in (f"__{name}__", f"__r{name}__"):
            if hasattr(Tensor, method):
                yield _Replaced(Tensor, method, operator)


@contextmanager
def _observed_operators(log: OperatorLog) -> Iterator[None]:
    """Write MindSpore's functions, the arithmetic of its tensors and its primitives to a log."""
    observer = _OperatorObserver(log)
    with ExitStack() as stack:
        for owner, attribute, operator in _functions():
            wrapper = functools.partial(observer.wrap_function, operator)
            stack.enter_context(wrapped(owner, attribute, wrapper))
        stack.enter_context(wrapped(ops.Primitive, "__call__", observer.wrap_primitive))
        yield


class _OperatorObserver:
    """Makes the wrappers, which know of each other whether an operator is running.

    An operator that another one calls belongs to the outer one.
    """

    def __init__(self, log: OperatorLog) -> None:
        self._log = log
        self._is_inside_operator = False

    def wrap_function(self, operator: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._is_unwanted():
                return original(*args, **kwargs)
            if args and isinstance(args[0], ops.Primitive):
                return self._call_primitive(original, args[0], args[1:], kwargs)
            return self._call(operator, original, args, kwargs)

        return call

    def wrap_primitive(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(primitive: Any, *args: Any, **kwargs: Any) -> Any:
            if self._is_unwanted():
                return original(primitive, *args, **kwargs)
            return self._call_primitive(original, primitive, args, kwargs)

        return call

    def _is_unwanted(self) -> bool:
        return self._is_inside_operator or not self._log.is_wanted()

    def _call_primitive(
        self, original: Callable[..., Any], primitive: Any, args: Sequence[Any], kwargs: Any
    ) -> Any:
        operator = f"mindspore.{primitive.name.lower()}.Primitive"
        return self._call(operator, functools.partial(original, primitive), args, kwargs)

    def _call(
        self, operator: str, function: Callable[..., Any], args: Sequence[Any], kwargs: Any
    ) -> Any:
        self._is_inside_operator = True
        try:
            return self._log.call(operator, function, args, kwargs)
        finally:
            self._is_inside_operator = False


def _mindspore_operators(dtype: Any) -> numerics.Operators:
    """Return MindSpore's operators by torch's names; its CPU lacks some."""

    def convert(array: np.ndarray) -> Any:
        return mindspore.Tensor(array).astype(dtype)

    p = numerics.make_probes(convert)
    operators: Dict[str, Callable[[], Any]] = {
        "conv3x3": lambda: ops.conv2d(p.image, p.kernel, pad_mode="pad", padding=1),
        "conv3x3-stride2": lambda: ops.conv2d(
            p.image, p.kernel, stride=2, pad_mode="pad", padding=1
        ),
        "conv1x1": lambda: ops.conv2d(p.image, p.point),
        "linear": lambda: ops.dense(p.rows, p.matrix, p.bias),
        "linear-row": lambda: ops.dense(p.rows[:1], p.matrix, p.bias),
        "bmm": lambda: ops.bmm(p.left, p.right),
        "softmax": lambda: ops.softmax(p.rows * 8, axis=-1),
        "group-norm": lambda: ops.group_norm(p.image, 8),
        "silu": lambda: ops.silu(p.line),
        "gelu": lambda: ops.gelu(p.line, approximate="none"),
        "gelu-tanh": lambda: ops.gelu(p.line, approximate="tanh"),
        "sigmoid": lambda: ops.sigmoid(p.line),
        "tanh": lambda: ops.tanh(p.line),
        "exp": lambda: ops.exp(p.line),
        "log": lambda: ops.log(ops.abs(p.line) + 1),
        "sin": lambda: ops.sin(p.line * 100),
        "sqrt": lambda: ops.sqrt(ops.abs(p.line)),
        "divide": lambda: p.line / (ops.abs(p.line) + 1),
        "sum": p.line.sum,
        "mean-rows": lambda: p.rows.mean(axis=0),
        "cumprod": lambda: ops.cumprod(1 - ops.abs(p.rows) / 50, 1),
    }
    return {name: functools.partial(_as_torch, operator) for name, operator in operators.items()}


def _as_torch(operator: Callable[[], Any]) -> torch.Tensor:
    return as_tensor(operator())
