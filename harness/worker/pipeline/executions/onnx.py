"""Components in ONNX Runtime: their call, exported by torch, runs outside of torch.

A component is exported when it is called for the first time with inputs of a form: the weights are
those of the checkpoint, and arguments that are no tensors become constants. Everything around the
component stays torch's, so that its stages are observed and compared like any other.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple

import torch
from torch.utils import _pytree as tree

from ...conditions.compiler import versions_of
from ...observe.stages import wrapped
from ...protocol import CannotRunHere, CaseError
from .base import Execution, Seen, component_of, counted

PACKAGES = ("onnxruntime", "onnx", "onnxscript")
PROVIDER = "CPUExecutionProvider"
MOST_SHOWN = 300  # characters of the reason why a component cannot be exported
Form = Tuple[Any, ...]  # what tells inputs apart that need another graph


def facts() -> Dict[str, str]:
    """Return what takes part in the arithmetic of ONNX Runtime, by name.

    Raises:
        CannotRunHere: A package is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise CannotRunHere(
            f"`onnx` needs the packages {', '.join(missing)}: pip install 'diffusion-harness[onnx]'"
        )
    return {**versions_of(PACKAGES), "torch": str(torch.__version__)}


def exports_of(pipeline: Any, names: Sequence[str], device: torch.device) -> List[Execution]:
    """Return one execution for each component that is named.

    Raises:
        CannotRunHere: The case does not run on the CPU.
        CaseError: A component does not exist.
    """
    if names and device.type != "cpu":
        raise CannotRunHere("`onnx` runs components on the CPU; this case runs on a GPU")
    return [Exported(pipeline, name) for name in names]


class _Graph(NamedTuple):
    """An exported call.

    Attributes:
        session: Runs it.
        is_tensor: Which leaves of the call's result the graph gives.
        leaves: The leaves of a result; those that are no tensors stay as they are.
        structure: What is made of the leaves.
    """

    session: Any
    is_tensor: Sequence[bool]
    leaves: Sequence[Any]
    structure: Any

    def run(self, tensors: Sequence[torch.Tensor]) -> Any:
        """Return what the call returns for these inputs."""
        names = [each.name for each in self.session.get_inputs()]
        fed = {name: tensor.numpy() for name, tensor in zip(names, tensors)}
        given = iter(self.session.run(None, fed))
        leaves = [
            torch.from_numpy(next(given)) if is_tensor else leaf
            for is_tensor, leaf in zip(self.is_tensor, self.leaves)
        ]
        return tree.tree_unflatten(leaves, self.structure)


class Exported(Execution):
    """One component whose call runs in ONNX Runtime."""

    def __init__(self, pipeline: Any, name: str) -> None:
        self.asked = f"onnx: {name}"
        self._component: Any = component_of(pipeline, name, "onnx")
        self._graphs: Dict[Form, _Graph] = {}
        self._calls = 0
        self._undo = ExitStack()

    def apply(self) -> None:
        """Put the exported call in the place of the component's own."""
        self._undo.enter_context(wrapped(self._component, "forward", self._replace))

    def watch(self, undo: ExitStack) -> None:  # noqa: ARG002 (every call counts itself)
        """Count the calls of the run that follows."""
        self._calls = 0

    def seen(self) -> Seen:
        """Return how many graphs were exported, and how often they ran."""
        graphs = counted(len(self._graphs), "graph")
        words = f"{graphs} exported, run {counted(self._calls, 'time')} by {PROVIDER}"
        return Seen(words, took_effect=self._calls > 0)

    def undo(self) -> None:
        """Give the component its own call back."""
        self._undo.close()

    def _replace(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            leaves, structure = tree.tree_flatten((args, kwargs))
            form = (str(structure), *map(_form_of, leaves))
            if form not in self._graphs:
                self._graphs[form] = self._export(original, leaves, structure)
            self._calls += 1
            return self._graphs[form].run([leaf.detach() for leaf in leaves if _is_tensor(leaf)])

        return forward

    def _export(self, original: Callable[..., Any], leaves: List[Any], structure: Any) -> _Graph:
        """Export one call, and load it into ONNX Runtime."""
        module = _Call(self._component, original, leaves, structure).eval()
        tensors = tuple(leaf.detach() for leaf in leaves if _is_tensor(leaf))
        with torch.no_grad(), tempfile.TemporaryDirectory(prefix="harness-onnx-") as folder:
            path = str(Path(folder) / "graph.onnx")
            found, made = tree.tree_flatten(module.whole(*tensors))
            try:
                with _one_precision():
                    torch.onnx.export(module, tensors, path, dynamo=True, verbose=False)
                session = _session(path)
            except Exception as error:  # of the exporter, or of the runtime
                text = " ".join(str(error).split())[:MOST_SHOWN]
                raise CaseError(
                    f"`{self.asked}` cannot be exported: {type(error).__name__}: {text}"
                ) from error
        return _Graph(session, [_is_tensor(leaf) for leaf in found], found, made)


class _Call(torch.nn.Module):
    """A call of a component whose inputs and results are tensors alone."""

    def __init__(
        self,
        component: torch.nn.Module,
        original: Callable[..., Any],
        leaves: Sequence[Any],
        structure: Any,
    ) -> None:
        super().__init__()
        self.component = component  # so that its weights are found
        self._original = original
        self._constants = [None if _is_tensor(leaf) else leaf for leaf in leaves]
        self._is_tensor = [_is_tensor(leaf) for leaf in leaves]
        self._structure = structure

    def whole(self, *tensors: torch.Tensor) -> Any:
        """Return what the component returns."""
        given = iter(tensors)
        leaves = [
            next(given) if is_tensor else constant
            for is_tensor, constant in zip(self._is_tensor, self._constants)
        ]
        args, kwargs = tree.tree_unflatten(leaves, self._structure)
        return self._original(*args, **kwargs)

    def forward(self, *tensors: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        """Return the tensors of what the component returns."""
        leaves, _ = tree.tree_flatten(self.whole(*tensors))
        return tuple(leaf for leaf in leaves if _is_tensor(leaf))


@contextmanager
def _one_precision() -> Iterator[None]:
    """Let the older interface to TF32 say what the newer one says, while a component is exported.

    The exporter asks the older one, and torch refuses to answer where the two differ.
    """
    cudnn: Any = torch.backends.cudnn
    convolutions, recurrent = cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision
    cudnn.allow_tf32 = convolutions == "tf32"
    try:
        yield
    finally:
        cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = convolutions, recurrent


def _session(path: str) -> Any:
    """Return a session with as many threads as torch has, deterministic where torch is."""
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.use_deterministic_compute = torch.are_deterministic_algorithms_enabled()
    return runtime.InferenceSession(path, options, providers=[PROVIDER])


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor)


def _form_of(leaf: Any) -> Any:
    return (tuple(leaf.shape), str(leaf.dtype)) if _is_tensor(leaf) else repr(leaf)
