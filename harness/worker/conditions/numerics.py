"""The numerics class: a hash of the bits that a fixed set of operators returns on fixed inputs.

Two machines of one class owe each other the same bits. The name of a processor or a GPU cannot say
this: dispatch, library versions, thread counts and settings decide, and machines of one name may be
of two classes.

The operators are a sample. Equal classes do not prove that every operator has equal bits at every
shape: a machine whose class is equal, but whose output has other bits, is reported as drifted.
"""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, Mapping, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

from ..observe.digest import combine
from ..observe.tensors import digest_tensor
from ..protocol import NumericsClassRecord
from .portable import uniform

OPERATOR_DIGITS = 12  # hexadecimal digits that are kept of the digest of an operator's result
HASH_DIGITS = 8  # hexadecimal digits of the class's hash, at the end of its name
MESSAGE_LENGTH = 60  # characters that are kept of the message of an operator that cannot run

Operators = Mapping[str, Callable[[], torch.Tensor]]


class Probes(NamedTuple):
    """The fixed inputs of the operators, as tensors of one framework.

    Their values are uniform in [-1, 1), from `portable.uniform`. They are large enough for the
    operators to be blocked and split among threads. `make_probes` has the shapes.
    """

    image: Any  # (images, channels, height, width)
    kernel: Any  # (output channels, input channels, height, width)
    point: Any  # a kernel of 1 x 1
    rows: Any  # (rows, input features)
    matrix: Any  # (output features, input features)
    bias: Any  # (output features,)
    left: Any  # (batch, m, k), the left factor of a batched matrix product
    right: Any  # (batch, k, n), the right factor
    query: Any  # (batch, heads, tokens, features of a head)
    key: Any
    value: Any
    line: Any  # one dimension, for element-wise operators and for a sum
    deep_image: Any  # many channels: how oneDNN blocks this convolution depends on cache sizes
    deep_kernel: Any


def make_probes(convert: Callable[[np.ndarray], Any]) -> Probes:
    """Return the probes; `convert` turns a float32 array into a tensor of the framework."""

    def probe(name: str, *shape: int) -> Any:
        return convert(uniform(name, shape))

    return Probes(
        image=probe("image", 2, 64, 32, 32),
        kernel=probe("kernel", 64, 64, 3, 3),
        point=probe("point", 96, 64, 1, 1),
        rows=probe("rows", 256, 320),
        matrix=probe("matrix", 512, 320),
        bias=probe("bias", 512),
        left=probe("left", 8, 64, 80),
        right=probe("right", 8, 80, 96),
        query=probe("query", 2, 8, 77, 40),
        key=probe("key", 2, 8, 77, 40),
        value=probe("value", 2, 8, 77, 40),
        line=probe("line", 70_000),
        deep_image=probe("deep-image", 1, 512, 16, 16),
        deep_kernel=probe("deep-kernel", 256, 512, 3, 3),
    )


def _torch_operators(device: torch.device, dtype: torch.dtype) -> Operators:
    """Return the operators of torch that are run, by the names that reports show."""

    def convert(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(device=device, dtype=dtype)

    def generator(kind: str) -> torch.Generator:
        return torch.Generator(kind).manual_seed(0)

    own = device.type
    p = make_probes(convert)
    return {
        "conv3x3": lambda: F.conv2d(p.image, p.kernel, padding=1),
        "conv3x3-stride2": lambda: F.conv2d(p.image, p.kernel, stride=2, padding=1),
        "conv3x3-deep": lambda: F.conv2d(p.deep_image, p.deep_kernel, padding=1),
        "conv1x1": lambda: F.conv2d(p.image, p.point),
        "conv-transpose": lambda: F.conv_transpose2d(p.image, p.kernel, stride=2),
        "linear": lambda: F.linear(p.rows, p.matrix, p.bias),
        "linear-row": lambda: F.linear(p.rows[:1], p.matrix, p.bias),
        "bmm": lambda: torch.bmm(p.left, p.right),
        "sdpa": lambda: F.scaled_dot_product_attention(p.query, p.key, p.value),
        "softmax": lambda: torch.softmax(p.rows * 8, dim=-1),
        "group-norm": lambda: F.group_norm(p.image, 8),
        "layer-norm": lambda: F.layer_norm(p.rows, (320,)),
        "silu": lambda: F.silu(p.line),
        "gelu": lambda: F.gelu(p.line),
        "gelu-tanh": lambda: F.gelu(p.line, approximate="tanh"),
        "sigmoid": lambda: torch.sigmoid(p.line),
        "tanh": lambda: torch.tanh(p.line),
        "exp": lambda: torch.exp(p.line),
        "log": lambda: torch.log(p.line.abs() + 1),
        "sin": lambda: torch.sin(p.line * 100),
        "sqrt": lambda: torch.sqrt(p.line.abs()),
        "divide": lambda: p.line / (p.line.abs() + 1),
        "sum": p.line.sum,
        "mean-rows": lambda: p.rows.mean(dim=0),
        "cumprod": lambda: torch.cumprod(1 - p.rows.abs() / 50, dim=1),
        "bilinear": lambda: F.interpolate(p.image, scale_factor=2.0, mode="bilinear"),
        "nearest": lambda: F.interpolate(p.image, scale_factor=2.0, mode="nearest"),
        "randn-cpu": lambda: torch.randn(1000, generator=generator("cpu"), dtype=dtype),
        "randn-device": lambda: torch.randn(
            100_000, generator=generator(own), dtype=dtype, device=device
        ),
        "rand-device": lambda: torch.rand(
            1000, generator=generator(own), dtype=dtype, device=device
        ),
    }


def numerics_class(device: torch.device, dtype: torch.dtype) -> NumericsClassRecord:
    """Measure torch's numerics class in this process, for one device and dtype.

    On CUDA, the hash also takes in the compute capability, the number of multiprocessors and the
    CUDA release, because kernels at shapes that are not probed depend on them.
    """
    facts: Dict[str, str] = {}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        capability = f"{properties.major}.{properties.minor}"
        multiprocessors = properties.multi_processor_count
        facts["device"] = f"{capability} {multiprocessors} {torch.version.cuda}"
    return class_of(_torch_operators(device, dtype), _readable_name(device), facts)


def class_of(operators: Operators, name: str, facts: Mapping[str, str]) -> NumericsClassRecord:
    """Run operators and return the class that follows from the bits of their results.

    Args:
        operators: The operators by name.
        name: What the class's name begins with.
        facts: What else goes into the hash, because the results of operators at shapes that are not
            probed depend on it.
    """
    with torch.no_grad():
        digests = {key: _digest_result(operator) for key, operator in operators.items()}
    hashed = combine({**digests, **facts})
    return {"name": f"{name}-{hashed[:HASH_DIGITS]}", "hash": hashed, "operators": digests}


def combine_classes(classes: Mapping[str, NumericsClassRecord]) -> NumericsClassRecord:
    """Return the class of a case that computes in several dtypes.

    Args:
        classes: The class of each dtype, by the dtype's name. The combined name begins as that of
            the first class.
    """
    first = next(iter(classes.values()))
    if len(classes) == 1:
        return first
    operators = {
        f"{dtype} {name}": digest
        for dtype, one in classes.items()
        for name, digest in one["operators"].items()
    }
    hashed = combine({dtype: one["hash"] for dtype, one in classes.items()})
    readable = first["name"].rsplit("-", 1)[0]
    return {"name": f"{readable}-{hashed[:HASH_DIGITS]}", "hash": hashed, "operators": operators}


def _digest_result(operator: Callable[[], torch.Tensor]) -> str:
    """Return the digest of an operator's result, or `none:` and the error that it raised.

    That error is part of the class: a device or dtype that lacks an operator differs from one that
    has it.
    """
    try:
        return digest_tensor(operator())[:OPERATOR_DIGITS]
    except (RuntimeError, NotImplementedError) as error:
        return f"none: {str(error).splitlines()[0][:MESSAGE_LENGTH]}"


def _readable_name(device: torch.device) -> str:
    """Return the readable part of a class's name, such as `cpu-avx512-mkl-t1`.

    On a CPU these are the instructions that ATen uses, the BLAS library and the number of threads.
    On a GPU they are its model and compute capability.
    """
    if device.type != "cpu":
        properties = torch.cuda.get_device_properties(device)
        model = properties.name.lower().replace("nvidia", "")
        slug = re.sub(r"[^a-z0-9]+", "-", model).strip("-")
        return f"{device.type}-{slug}-sm{properties.major}{properties.minor}"
    capability = "unknown"
    if hasattr(torch.backends, "cpu"):  # an older torch does not tell
        capability = torch.backends.cpu.get_cpu_capability().lower().replace(" ", "-")
    blas = "mkl" if torch.backends.mkl.is_available() else "blas"
    return f"cpu-{capability}-{blas}-t{torch.get_num_threads()}"
