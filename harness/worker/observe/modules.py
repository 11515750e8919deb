"""Looking inside a stage: digests of every module's inputs and outputs, and of every operator of one module.

Modules are seen by hooks on the instances, operators by torch's dispatch; both are taken off again, and neither changes a
bit: the caller checks that by the stage's own digest.
"""

from __future__ import annotations

import re
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import (
    Any,
    Callable,
    ContextManager,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..pipeline.components import call_of, parts_of
from ..protocol import OWN_CODE
from .digest import combine
from .tensors import Later, digest_later, digest_tensor, dtype_name, tensors_in

Tensors = Dict[str, torch.Tensor]
NO_STAGE = ""  # of a detail: none is looked into
FIRST = "#0"  # of every stage, the first call is looked into unless a detail asks for another
UNREAD = re.compile(
    rf"{re.escape(str(Path(__file__).parents[1]))}|.*-packages/(torch|mindspore)/"
)  # never the line a reader wants


class Enough(BaseException):
    """The stage that was asked for is over, and nothing after it is needed; no `except Exception` of a pipeline stops it."""


class Detail(NamedTuple):
    """What a case asks to see of the inside of a run.

    Attributes:
        stage: Only it is looked into; None: the first call of every stage; `NO_STAGE`: none.
        to_end: Whether the run goes on after that stage.
        operators: Path of the module whose own operators are noted, with its call, as `conv_in#0`; `#0` is the stage's
            own code outside its modules; None: none.
        keep: Modules whose results are kept, in all stages of a kind, as `unet/conv_in`; a whole stage's is `unet/`.
        feed: Modules whose results are replaced by those that the case's `anchors` hold.
    """

    stage: Optional[str] = None
    to_end: bool = False
    operators: Optional[str] = None
    keep: Tuple[str, ...] = ()
    feed: Tuple[str, ...] = ()


class Tracer:
    """Notes the modules and operators inside stages; puts fed tensors in place of modules' results.

    Args:
        detail: What to see.
        anchors: The tensors to feed.
        watch: How a framework shows its operators to `operator`.

    Attributes:
        operators: One entry per operator of the module that `detail` names, in order.
        kept: Tensors of modules and operators.
    """

    def __init__(
        self, detail: Detail, anchors: Tensors, watch: Callable[["Tracer"], ContextManager[Any]]
    ) -> None:
        self.detail, self._anchors, self._watch = detail, anchors, watch
        self._modules: Dict[str, List[Tuple[str, str, Later, Later]]] = {}
        self.operators: List[Dict[str, Any]] = []
        self.kept: Tensors = {}
        self._active: List[str] = []

    @contextmanager
    def around(self, stage: str, owner: Any) -> Iterator[None]:
        """Watch one stage: `owner` is its component, or None where it has no modules, such as `noise#0`."""
        wanted = stage.endswith(FIRST) if self.detail.stage is None else stage == self.detail.stage
        kind = stage.split("#", maxsplit=1)[0]
        named = any(
            module.startswith(f"{kind}/") for module in (*self.detail.keep, *self.detail.feed)
        )
        counts: Dict[str, int] = {}
        outer, self._active = self._active, [OWN_CODE] if wanted else []
        with ExitStack() as stack:
            stack.callback(setattr, self, "_active", outer)
            if call_of(owner) and (wanted or named):
                for name, module in parts_of(owner):
                    self._hook(stack, stage, name, module, counts, wanted)
            if wanted and self.detail.operators:
                stack.enter_context(self._watch(self))
            yield

    def modules(self) -> Dict[str, List[Dict[str, str]]]:
        """Return, by stage, one entry per call of a module, in the order in which the calls ended."""
        return {
            stage: [
                {"module": label, "type": kind, "inputs": taken(), "outputs": given()}
                for label, kind, taken, given in calls
            ]
            for stage, calls in self._modules.items()
        }

    def inside(self) -> bool:
        """Whether what runs now is the own code of the module whose operators are wanted."""
        return bool(self._active) and self._active[-1] == self.detail.operators

    def operator(
        self, name: str, call: Callable[..., Any], args: Sequence[Any], kwargs: Dict[str, Any]
    ) -> Any:
        """Make one call of an operator and note it; inputs are digested before, for those that write in place."""
        taken = tensors_in([*args, kwargs])
        inputs = {key: digest_tensor(tensor) for key, tensor in taken.items()}
        result = call(*args, **kwargs)
        given = tensors_in(result)
        for key, tensor in given.items():
            if not tensor.is_complex():  # numpy's side of the door has no file type for it
                self.kept[f"operator/{len(self.operators)}/{key}"] = tensor.detach().to(
                    "cpu", copy=True
                )
        self.operators.append(
            {
                "operator": name,
                "inputs": inputs,
                "outputs": {key: digest_tensor(tensor) for key, tensor in given.items()},
                "shapes": [
                    f"{dtype_name(tensor.dtype)} {list(tensor.shape)}"
                    for tensor in taken.values()
                    if tensor.dim()
                ],
                "source": _source(),
            }
        )
        return result

    def end(self, stage: str, result: Any) -> Any:
        """Keep or replace what a whole stage gave, and return it."""
        self._hand_on(stage, OWN_CODE, tensors_in(result))
        return result

    def _hand_on(self, stage: str, label: str, found: Tensors) -> None:
        module = f"{stage.split('#', maxsplit=1)[0]}/{label.rsplit('#', 1)[0]}"
        for key, tensor in found.items():
            name = f"module/{stage}/{label}/{key}"
            if module in self.detail.keep:
                self.kept[name] = tensor.detach().to("cpu", copy=True)
            fed = self._anchors.get(name) if module in self.detail.feed else None
            if fed is not None and fed.shape == tensor.shape:
                tensor.copy_(fed)

    @contextmanager
    def _unseen(self) -> Iterator[None]:
        """What the tracer itself computes belongs to no module."""
        outer, self._active = self._active, []
        try:
            yield
        finally:
            self._active = outer

    def _hook(
        self,
        stack: ExitStack,
        stage: str,
        name: str,
        module: Any,
        counts: Dict[str, int],
        wanted: bool,
    ) -> None:
        inputs: List[Later] = []

        def before(_module: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> None:
            call = counts[name] = counts.get(name, -1) + 1
            if wanted:
                with self._unseen():
                    inputs.append(_combined(tensors_in([*args, kwargs])))
            self._active.append(f"{name}#{call}")

        def after(
            _module: Any, _args: Tuple[Any, ...], _kwargs: Dict[str, Any], result: Any
        ) -> None:
            label, found = self._active.pop(), tensors_in(result)
            with self._unseen():
                self._hand_on(stage, label, found)
                if wanted:
                    self._modules.setdefault(stage, []).append(
                        (label, type(module).__name__, inputs.pop(), _combined(found))
                    )

        stack.callback(
            module.register_forward_pre_hook(before, prepend=True, with_kwargs=True).remove
        )
        stack.callback(module.register_forward_hook(after, with_kwargs=True).remove)


class Operators(TorchDispatchMode):
    """Shows a tracer the operators of torch; they are named as `aten.exp.default` is: whose, which, and in what form."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self._tracer.inside() or _only_views(func):
            return func(*args, **kwargs)
        return self._tracer.operator(str(func), func, args, kwargs)


def _only_views(func: Any) -> bool:
    """Whether an operator computes nothing: it allocates, detaches or makes a view."""
    name = str(func).split(".")[1] if "." in str(func) else str(func)
    views = any(
        r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns
    )
    return views or name.startswith(("empty", "detach", "lift_fresh"))


def _combined(tensors: Tensors) -> Later:
    started = [_digest_once(tensor) for tensor in tensors.values()]

    def finish() -> str:
        digests = [later() for later in started]  # by place: a name may come with another release
        return (
            digests[0]
            if len(digests) == 1
            else combine({str(place): digest for place, digest in enumerate(digests)})
        )[:16]

    return finish


def _digest_once(tensor: torch.Tensor) -> Later:
    """Return a tensor's digest; what one module gave and the next one takes is read once, unless it was written to since."""
    if tensor.is_inference():  # such tensors do not count who wrote to them
        return digest_later(tensor)
    version, known = tensor._version, getattr(tensor, "_digested", None)
    if known is None or known[0] != version:
        known = (version, digest_later(tensor))
        tensor._digested = known  # type: ignore[attr-defined]
    later: Later = known[1]
    return later


def _source() -> str:
    """Return the line that called the operator: the innermost one outside the frameworks and the worker."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if not UNREAD.match(path):
            return f"{'/'.join(Path(path).parts[-3:])}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
