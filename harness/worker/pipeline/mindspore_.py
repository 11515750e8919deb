"""MindSpore and mindone: the framework beside torch. Its tensors are seen as torch's, so that all else stays as it is.

Runs in an environment of its own, in which torch is there too. Imported only when a case asks for it.
"""

from __future__ import annotations

import functools
import inspect
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, ContextManager, Dict, Iterator, Sequence

import mindspore
import torch
from mindspore import Tensor, mint, ops

from ..conditions import numerics
from ..conditions.portable import uniform
from ..observe.modules import Tracer
from ..observe.stages import wrapped
from ..protocol import CannotRunHere
from .components import as_tensor
from .enable import OFFLOADS, SWITCHES
from .torch_ import Torch

ARITHMETIC = ("add", "sub", "mul", "truediv", "pow", "matmul", "neg")
NO_OPERATORS = (
    "shape",
    "rank",
    "dtype",
    "size",
    "is_tensor",
    "get_grad",
)  # ask for facts, or serve training
OF_TORCH = ("channels_last", "compile", *OFFLOADS, *SWITCHES)  # what `enable` does by torch
PLACES = {"cpu": "CPU", "ascend": "Ascend"}  # MindSpore's names of devices


class MindSpore(Torch):
    """MindSpore and mindone on one device, as `Torch` says it of torch and diffusers."""

    library = "mindone.diffusers"
    transformers = "mindone.transformers"
    door = "mindone.diffusers.utils.mindspore_utils"
    numpy_generators = True

    def __init__(self, device: str) -> None:
        if device == "ascend" and not mindspore.device_context.ascend.is_available():
            raise CannotRunHere("no Ascend device on this machine")
        if device not in PLACES:
            raise CannotRunHere(f"MindSpore runs on no device `{device}`")
        mindspore.set_device(PLACES[device])
        self._place, self.device = device, torch.device("cpu")
        self.feeds = device == "cpu"  # its tensors there lie in memory that torch sees

    def settle(self, mode: str) -> None:
        """Set MindSpore's deterministic setting, which it takes once per process; a worker lives for one mode."""
        if mode == "full" and mindspore.get_context("deterministic") != "ON":
            mindspore.set_deterministic(True)

    def dtype(self, name: str) -> Any:
        return getattr(mindspore, name)

    def dtype_argument(self) -> str:
        return "mindspore_dtype"

    def prepared(self, part: Any, dtype: str) -> Any:
        return (part if dtype == "float32" else part.to(self.dtype(dtype))).set_train(False)

    def operators(self, tracer: Tracer) -> ContextManager[Any]:
        return _shown(tracer)

    def placed(self, pipeline: Any, enabled: Sequence[str]) -> Any:
        of_torch = sorted({*enabled} & {*OF_TORCH})
        if of_torch:
            raise CannotRunHere(f"`{of_torch[0]}` is torch's; MindSpore has nothing of the name")
        return pipeline

    def describe(self) -> Dict[str, Any]:
        found = super().describe()
        flags = {"mindspore.deterministic": mindspore.get_context("deterministic")}
        return {
            **found,
            "framework": "mindspore",
            "device_kind": self._place,
            "flags": {**found["flags"], **flags},
        }

    def numerics_class(self, dtype: str) -> Dict[str, Any]:
        return numerics.class_of(
            _operators(self.dtype(dtype)), f"{self._place}-mindspore", {"device": self._place}
        )


@contextmanager
def _shown(tracer: Tracer) -> Iterator[None]:
    """Show a tracer MindSpore's functions, the arithmetic of its tensors, and its primitives; nested calls belong to the outer one.

    They are named as torch names its own: `mindspore.exp.ops` stands beside `aten.exp.default`.
    """
    depth = 0

    def seen(original: Callable[..., Any], name: str) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            if depth or not tracer.inside():
                return original(*args, **kwargs)
            depth += 1
            try:
                if isinstance(args[0] if args else None, ops.Primitive):
                    primitive = f"mindspore.{args[0].name.lower()}.Primitive"
                    return tracer.operator(
                        primitive, functools.partial(original, args[0]), args[1:], kwargs
                    )
                return tracer.operator(name, original, args, kwargs)
            finally:
                depth -= 1

        return call

    with ExitStack() as stack:
        for home in (ops, ops.function, mint, mint.nn.functional):
            named = home.__name__.rsplit(".", 1)[-1]
            for name, function in list(vars(home).items()):
                if (
                    inspect.isfunction(function)
                    and not name.startswith("_")
                    and name not in NO_OPERATORS
                ):
                    stack.enter_context(
                        wrapped(
                            home, name, functools.partial(seen, name=f"mindspore.{name}.{named}")
                        )
                    )
        for name in ARITHMETIC:
            plain = name.replace("truediv", "div")
            for method in (f"__{name}__", f"__r{name}__"):
                if hasattr(Tensor, method):
                    stack.enter_context(
                        wrapped(
                            Tensor,
                            method,
                            functools.partial(seen, name=f"mindspore.{plain}.Tensor"),
                        )
                    )
        stack.enter_context(wrapped(ops.Primitive, "__call__", functools.partial(seen, name="")))
        yield


def _operators(dtype: Any) -> Dict[str, Callable[[], torch.Tensor]]:
    """Return MindSpore's operators by torch's names, with the inputs of `numerics`; its CPU lacks some."""

    def fixed(name: str, *shape: int) -> Any:
        return mindspore.Tensor(uniform(name, shape)).astype(dtype)

    image, kernel, point = (
        fixed("image", 2, 64, 32, 32),
        fixed("kernel", 64, 64, 3, 3),
        fixed("point", 96, 64, 1, 1),
    )
    rows, matrix, bias = fixed("rows", 256, 320), fixed("matrix", 512, 320), fixed("bias", 512)
    left, right, line = fixed("left", 8, 64, 80), fixed("right", 8, 80, 96), fixed("line", 70_000)
    made: Dict[str, Callable[[], Any]] = {
        "conv3x3": lambda: ops.conv2d(image, kernel, pad_mode="pad", padding=1),
        "conv3x3-stride2": lambda: ops.conv2d(image, kernel, stride=2, pad_mode="pad", padding=1),
        "conv1x1": lambda: ops.conv2d(image, point),
        "linear": lambda: ops.dense(rows, matrix, bias),
        "linear-row": lambda: ops.dense(rows[:1], matrix, bias),
        "bmm": lambda: ops.bmm(left, right),
        "softmax": lambda: ops.softmax(rows * 8, axis=-1),
        "group-norm": lambda: ops.group_norm(image, 8),
        "silu": lambda: ops.silu(line),
        "gelu": lambda: ops.gelu(line, approximate="none"),
        "gelu-tanh": lambda: ops.gelu(line, approximate="tanh"),
        "sigmoid": lambda: ops.sigmoid(line),
        "tanh": lambda: ops.tanh(line),
        "exp": lambda: ops.exp(line),
        "log": lambda: ops.log(ops.abs(line) + 1),
        "sin": lambda: ops.sin(line * 100),
        "sqrt": lambda: ops.sqrt(ops.abs(line)),
        "divide": lambda: line / (ops.abs(line) + 1),
        "sum": line.sum,
        "mean-rows": lambda: rows.mean(axis=0),
        "cumprod": lambda: ops.cumprod(1 - ops.abs(rows) / 50, 1),
    }
    return {name: _viewed(operator) for name, operator in made.items()}


def _viewed(operator: Callable[[], Any]) -> Callable[[], torch.Tensor]:
    return lambda: as_tensor(operator())
